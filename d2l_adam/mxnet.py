"""The MXNet tab: the spec on `mxnet.np.ndarray`, in the calling convention of `d2l.mxnet`.

Importing it turns on MXNet's NumPy semantics (`npx.set_np()`), as the chapter's first cell does.
"""

import sys

import numpy

from d2l_adam import binding, checks, imports

with (
    imports.framework(
        "mxnet",
        pip="--no-deps mxnet==1.9.1 && pip install 'graphviz<0.9' requests setuptools",
        apt="it needs two system libraries; on Debian and Ubuntu: apt-get install libgomp1 libquadmath0",
    ),
    imports.numpy_for_mxnet(),
):
    import mxnet
    from mxnet import autograd, npx
    from mxnet.numpy import sign, sqrt, square  # noqa: F401  the words of the spec

npx.set_np()

NAME = "mxnet"
PARAMETER = GRADIENT = mxnet.np.ndarray


def kind(x):
    return x.shape, numpy.dtype(x.dtype).name, x.ctx


def writable(x):
    return True


def write(arrays, values):
    for x, value in zip(arrays, values, strict=True):
        value.copyto(x)


def float32(x):
    return x.astype("float32")


def asnumpy(x):
    return x.asnumpy()


def zeros(shape, dtype=None):
    return mxnet.np.zeros(shape, dtype)


def step(rule):
    """Return `rule` as one step on MXNet arrays, in the convention of `d2l.mxnet`."""
    bound = binding.bind(sys.modules[__name__], rule)

    def one_step(params, states, hyperparams):
        """Make one step in place. `params` are arrays; their `.grad` is read."""
        params = checks.listed(sys.modules[__name__], "params", params)
        with autograd.pause():
            bound(params, [getattr(p, "grad", None) for p in params], states, hyperparams)

    return one_step


def regression(w, b):
    """Linear regression from weights `w` and bias `b`: its parameters, `loss(X, y)` and `gradients(X, y)`."""
    w, b = params = [mxnet.np.array(x, dtype=x.dtype) for x in (w, b)]
    for p in params:
        p.attach_grad()

    def loss(X, y):
        X, y = (mxnet.np.array(x, dtype=x.dtype) for x in (X, y))
        return ((mxnet.np.dot(X, w) + b - y) ** 2 / 2).mean()

    def gradients(X, y):
        with autograd.record():
            error = loss(X, y)
        error.backward()
        return ()  # the step reads them from p.grad

    return params, loss, gradients


binding.publish(sys.modules[__name__])
