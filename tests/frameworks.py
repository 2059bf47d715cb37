"""The three frameworks and NumPy behind one face, for tests that say the same of each tab."""

import numpy as np

from d2l_adam import protocol

TABS = ("mxnet", "pytorch", "tensorflow", "numpy")
RULES = ("adam", "yogi")
# MXNet 1.9.1 has bfloat16 as a target of AMP's casts, not as a dtype of its mx.np arrays.
HALVES = [(tab, half) for tab in TABS for half in ("float16", "bfloat16") if (tab, half) != ("mxnet", "bfloat16")]


def dtype_of(name):
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


class Problem:
    """Parameters of one tab with their gradients and states, made from NumPy arrays.

    `params`, `grads` and `states` may be replaced by something wrong before `step` is called.
    """

    def __init__(self, tab, params, dtype="float64", lr=0.01):
        self.tab, self.module, self.dtype = tab, protocol.load(tab), dtype
        full = "float32" if dtype in ("float16", "bfloat16") else dtype
        self.params = [self.parameter(p) for p in params]
        self.states = [(self.state(np.shape(p), full), self.state(np.shape(p), full)) for p in params]
        self.grads = None
        self.hyperparams = {"lr": lr, "t": 1}

    def array(self, value, dtype=None):
        """`value` as what this tab takes for a gradient."""
        value = np.asarray(value, dtype_of(dtype or self.dtype))
        if self.tab == "pytorch":
            import torch

            dtype = getattr(torch, value.dtype.name)
            return torch.tensor(value.astype("float64")).to(dtype) if value.dtype.itemsize < 4 else torch.tensor(value)
        if self.tab == "tensorflow":
            import tensorflow as tf

            return tf.constant(value)
        if self.tab == "mxnet":
            from mxnet import np as mx

            return mx.array(value, dtype=value.dtype)
        return value.copy()

    def parameter(self, value, dtype=None):
        array = self.array(value, dtype)
        if self.tab == "pytorch":
            return array.requires_grad_()
        if self.tab == "tensorflow":
            import tensorflow as tf

            return tf.Variable(array)
        if self.tab == "mxnet":
            array.attach_grad()
        return array

    def state(self, shape, dtype):
        return self.module.zeros(shape, dtype)

    def set_grads(self, grads, dtype=None):
        self.grads = [self.array(g, dtype) for g in grads]
        if self.tab == "pytorch":
            for p, g in zip(self.params, self.grads, strict=False):
                p.grad = g
        if self.tab == "mxnet":
            for p, g in zip(self.params, self.grads, strict=False):
                g.copyto(p.grad)

    def step(self, rule):
        """Call the tab's `adam` or `yogi` (or a rule of the test's own) in the convention of its d2l."""
        step = getattr(self.module, rule) if isinstance(rule, str) else self.module.step(rule)
        grads = () if self.tab in ("mxnet", "pytorch") else (self.grads,)
        return step(self.params, *grads, self.states, self.hyperparams)

    def run(self, rule, steps, dtype=None):
        """Step through lists of gradients; return p, v and s after each, as one list a parameter."""
        out = []
        for grads in steps:
            self.set_grads(grads, dtype)
            self.step(rule)
            out.append(self.values())
        return out

    def values(self):
        """Every number that a step may change, in float64: `[(p, v, s), ...]`."""
        return [
            tuple(np.asarray(self.module.asnumpy(x)).astype("float64") for x in (p, *state))
            for p, state in zip(self.params, self.states, strict=False)
        ]
