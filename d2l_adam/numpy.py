"""The NumPy tab: the reference. The same spec on `numpy.ndarray`, with gradients worked out by hand."""

import ctypes
from itertools import cycle

import numpy

from d2l_adam import contract, spec
from d2l_adam.fused.memory import OTHERWISE, Memory, columns
from d2l_adam.tab import Tab


class NumPy(Tab):
    """NumPy's arrays; gradients are passed to a step."""

    name = module = "numpy"
    parameter_type = gradient_type = numpy.ndarray
    words = {word: getattr(numpy, word) for word in ("maximum", "sign", "sqrt", "square")}

    def kind(self, x):
        # A matrix multiplies otherwise, a masked array hides NaN: the name of such a type is no dtype's.
        return x.shape, x.dtype.name if type(x) in (numpy.ndarray, numpy.memmap) else type(x).__name__, "cpu"

    def writable(self, x):
        return x.flags.writeable

    def untracked(self):
        return numpy.errstate(all="ignore")  # non-finite gradients propagate silently, as in the other tabs

    def write(self, arrays, values):
        for x, value in zip(arrays, values, strict=True):
            x[...] = value

    def float32(self, x):
        return x.astype("float32")

    def asnumpy(self, x):
        return numpy.array(x)

    def zeros(self, shape, dtype=None):
        return numpy.zeros(shape, dtype)

    def zeros_like(self, p):
        return numpy.zeros(p.shape, contract.state_dtype(p.dtype.name))

    def parameter(self, x):
        return x.copy()

    def give(self, p, g):
        return g

    def lend(self, params, grads, states):
        arrays = columns(params, grads, states)
        addresses: list[int] = []
        if {*map(type, arrays)} != {numpy.ndarray}:
            return OTHERWISE
        dtype, shapes = params[0].dtype, [p.shape for p in params]
        if dtype.name not in contract.FULL or not dtype.isnative:
            return OTHERWISE
        for x, shape in zip(arrays, cycle(shapes), strict=False):
            if x.dtype != dtype or x.shape != shape:
                return OTHERWISE
            try:  # `__array_interface__` says where it is, too, in five times the time
                at = ctypes.addressof(ctypes.c_char.from_buffer(x))
            except (TypeError, ValueError):  # it may only be read, or is empty, or not contiguous
                may_be_read = len(addresses) >= len(arrays) - len(params)
                if not (x.flags.c_contiguous and (x.flags.writeable or may_be_read)):
                    return OTHERWISE
                at = x.__array_interface__["data"][0]
            if at % dtype.itemsize:
                return OTHERWISE
            addresses.append(at)
        return Memory(dtype.name, addresses, [p.size for p in params], (params, grads, states))

    def regression(self, w, b):
        params = [w, b]

        # As silent as the other tabs; BLAS also reports invalid values in lanes that it then discards.
        silent = numpy.errstate(all="ignore")

        @silent
        def loss(X, y):
            return (numpy.square(X @ w + b - y) / 2).mean()

        @silent
        def gradients(X, y):
            error = (X @ w + b - y) / len(X)
            return ([X.T @ error, error.sum(axis=0)],)

        return params, loss, gradients


TAB = NumPy()
NAME = TAB.name
step, init_states, save, load = TAB.step, TAB.init_states, TAB.save, TAB.load
init_adam_states, init_momentum_states = TAB.init_adam_states, TAB.init_momentum_states
init_adagrad_states, init_rmsprop_states = TAB.init_adagrad_states, TAB.init_rmsprop_states
init_adadelta_states = TAB.init_adadelta_states
adam = TAB.step(spec.adam)
yogi = TAB.step(spec.yogi)
sgd = TAB.step(spec.sgd)
sgd_momentum = TAB.step(spec.sgd_momentum)
adagrad = TAB.step(spec.adagrad)
rmsprop = TAB.step(spec.rmsprop)
adadelta = TAB.step(spec.adadelta)


def __getattr__(name):
    return TAB.late(name)
