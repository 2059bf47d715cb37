"""The NumPy tab: the reference. The same spec on `numpy.ndarray`, with gradients worked out by hand."""

import functools
import sys

import numpy
from numpy import sign, sqrt, square  # noqa: F401  the words of the spec

from d2l_adam import binding, contract, fused

NAME = "numpy"
PARAMETER = GRADIENT = numpy.ndarray


def kind(x):
    # A matrix multiplies otherwise, a masked array hides NaN: the name of such a type is no dtype's.
    return x.shape, x.dtype.name if type(x) in (numpy.ndarray, numpy.memmap) else type(x).__name__, "cpu"


def writable(x):
    return x.flags.writeable


# Non-finite gradients propagate silently, as in the other tabs.
untracked = functools.partial(numpy.errstate, all="ignore")


def write(arrays, values):
    for x, value in zip(arrays, values, strict=True):
        x[...] = value


fill = write


def float32(x):
    return x.astype("float32")


def asnumpy(x):
    return numpy.array(x)


def zeros(shape, dtype=None):
    return numpy.zeros(shape, dtype)


def parameter(x):
    return x.copy()


def give(p, g):
    return g


def lend(params, grads, states, adds):
    places: list[int] = []
    dtype = params[0].dtype
    if dtype.name not in contract.FULL or not dtype.isnative:
        return None
    for p, g, (v, s) in zip(params, grads, states, strict=True):
        here = []
        for x in (p, v, s, g):
            if not (type(x) is numpy.ndarray and x.dtype == dtype and x.shape == p.shape):
                return None
            if not (x.flags.c_contiguous and x.flags.aligned and (x.flags.writeable or x is g)):
                return None
            here.append(x.__array_interface__["data"][0])
        if p.size:
            places += *here[:3], *here, p.size
    return fused.Memory(dtype.name, places, (params, grads, states))


def step(rule):
    """Return `rule` as one step on NumPy arrays, in d2l's convention."""
    bound = binding.bind(sys.modules[__name__], rule)

    def one_step(params, grads, states, hyperparams):
        """Make one step in place. `params` and `grads` are lists of arrays of equal shape and dtype."""
        bound(params, grads, states, hyperparams)

    return one_step


def regression(w, b):
    """Linear regression from weights `w` and bias `b`: its parameters, `loss(X, y)` and `gradients(X, y)`."""
    params = [w, b]

    # As silent as the other tabs; BLAS also reports invalid values in lanes that it then discards.
    silent = numpy.errstate(all="ignore")

    @silent
    def loss(X, y):
        return (square(X @ w + b - y) / 2).mean()

    @silent
    def gradients(X, y):
        error = (X @ w + b - y) / len(X)
        return ([X.T @ error, error.sum(axis=0)],)

    return params, loss, gradients


binding.publish(sys.modules[__name__])
