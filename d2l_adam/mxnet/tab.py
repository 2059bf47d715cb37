"""What MXNet is as a tab."""

import numpy

from d2l_adam import contract
from d2l_adam.mxnet import memory
from d2l_adam.mxnet.framework import mxnet
from d2l_adam.rule import Rule
from d2l_adam.step import Step
from d2l_adam.tab import Tab

autograd = mxnet.autograd


def _maximum(x, y):
    # Its own takes a number for the second argument only.
    return mxnet.np.maximum(x, y) if isinstance(x, mxnet.np.ndarray) else mxnet.np.maximum(y, x)


class MXNet(Tab):
    """MXNet's arrays; a step reads `p.grad`."""

    name = module = "mxnet"
    parameter_type = gradient_type = mxnet.np.ndarray
    words = {word: getattr(mxnet.np, word) for word in ("sign", "sqrt", "square")} | {"maximum": _maximum}

    def kind(self, x):
        return x.shape, numpy.dtype(x.dtype).name, x.ctx

    def untracked(self):
        return autograd.pause()

    def write(self, arrays, values):
        for x, value in zip(arrays, values, strict=True):
            value.copyto(x)

    def fill(self, arrays, values):
        with autograd.pause():
            self.write(arrays, [mxnet.np.array(value, dtype=value.dtype) for value in values])

    def float32(self, x):
        return x.astype("float32")

    def asnumpy(self, x):
        return x.asnumpy()

    def zeros(self, shape, dtype=None):
        return mxnet.np.zeros(shape, dtype)

    def zeros_like(self, p):
        return mxnet.np.zeros(p.shape, contract.state_dtype(numpy.dtype(p.dtype).name), ctx=p.ctx)

    def lend(self, params, grads, states):
        return memory.lend(params, grads, states)

    def step(self, rule):
        step = Step(self, rule)

        def one_step(params, states, hyperparams):
            """Make one step in place. `params` are arrays; their `.grad` is read."""
            params = contract.listed(self, "params", params)
            step(params, [getattr(p, "grad", None) for p in params], states, hyperparams)

        return self.documented(one_step, step.rule)

    def optimizer(self, rule, initial=None):
        from d2l_adam.mxnet import native

        return native.made(Rule(rule, initial))

    def carried(self, params, optimizer):
        from d2l_adam.mxnet.native import carried

        return carried(params, optimizer)

    def parameter(self, x):
        p = mxnet.np.array(x, dtype=x.dtype)
        p.attach_grad()
        return p

    def give(self, p, g):
        p.grad[()] = mxnet.np.array(g, dtype=g.dtype)

    def regression(self, w, b):
        w, b = params = [self.parameter(x) for x in (w, b)]

        def loss(X, y):
            X, y = (mxnet.np.array(x, dtype=x.dtype) for x in (X, y))
            return ((mxnet.np.dot(X, w) + b - y) ** 2 / 2).mean()

        def gradients(X, y):
            with autograd.record():
                error = loss(X, y)
            error.backward()
            return ()  # the step reads them from p.grad

        return params, loss, gradients


TAB = MXNet()
