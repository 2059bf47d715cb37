"""The frameworks and NumPy behind one face, for tests that say the same of each tab."""

import os

import numpy as np

from d2l_adam import protocol

ALL = ("mxnet", "pytorch", "tensorflow", "jax")
#: The frameworks that ought to be here; `make test` says for which it has set up the environment.
NATIVE = tuple(tab for tab in ALL if tab in os.environ.get("D2L_ADAM_TABS", " ".join(ALL)).split())
LEFT_OUT = tuple(tab for tab in ALL if tab not in NATIVE)
TABS = (*NATIVE, "numpy")
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
        self.steps: dict = {}

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
        return protocol.load(self.tab).TAB.parameter(value)

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
        return self.module.TAB.zeros(shape, dtype)

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
        if rule not in self.steps:  # in TensorFlow and JAX, each is compiled anew
            named = getattr(self.module, rule, None) if isinstance(rule, str) else None
            self.steps[rule] = named or self.module.step(rule)
        step = self.steps[rule]
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
            tuple(np.asarray(self.module.TAB.asnumpy(x)).astype("float64") for x in (p, *state))
            for p, state in zip(self.params, self.states, strict=False)
        ]


class Native:
    """A native optimizer of one tab on parameters made from NumPy arrays, stepped by gradients that are given."""

    def __init__(
        self,
        tab,
        rule,
        params,
        dtype="float64",
        lr=0.01,
        betas=None,
        eps=None,
        graph=None,
        constants=None,
        initial=None,
        like=False,
        make=None,
        **options,
    ):
        """`constants` are those of any rule, by their names in it; then the class is what `tab.optimizer` makes.

        Or, with `like`, it is like the optimizer called `rule`; or `make` is a class, and `options` are its.
        """
        self.tab, self.module, self.graph = tab, protocol.load(tab), graph
        self.dtype = dtype_of(dtype)
        beta1, beta2 = betas or (0.9, 0.999)
        names = {
            "pytorch": {"lr": lr, "betas": (beta1, beta2), "eps": eps},
            "tensorflow": {"learning_rate": lr, "beta_1": beta1, "beta_2": beta2, "epsilon": eps},
            "mxnet": {"learning_rate": lr, "beta1": beta1, "beta2": beta2, "epsilon": eps},
            "jax": {"learning_rate": lr, "b1": beta1, "b2": beta2, "eps": eps},
        }[tab]
        if make is None:
            options |= {name: value for name, value in names.items() if value is not None}
        if make is not None:
            pass
        elif constants is None:
            make = getattr(self.module, rule.capitalize())
        else:
            make = self.module.like(rule) if like else self.module.optimizer(rule, initial=initial)
            options = {name: value for name, value in constants.items() if name not in ("lr", "t")}
            if "lr" in constants:
                options["lr" if tab == "pytorch" else "learning_rate"] = constants["lr"]
        params = [np.asarray(p).astype(self.dtype) for p in params]
        if tab == "pytorch":
            torch = self.module.torch
            dtype = getattr(torch, dtype)
            self.params = [torch.nn.Parameter(torch.tensor(p.astype("float64")).to(dtype)) for p in params]
            self.optimizer = make(self.params, **options)
        elif tab == "tensorflow":
            tf = self.module.tf
            self.params = [tf.Variable(p) for p in params]
            self.optimizer = make(**options)
            self.optimizer.build(self.params)
            apply = lambda grads: self.optimizer.apply(grads, self.params)  # noqa: E731
            self.apply = {None: apply, "function": tf.function(apply), "xla": tf.function(apply, jit_compile=True)}[
                graph
            ]
        elif tab == "jax":
            self.params = [self.module.TAB.parameter(p) for p in params]
            self.optimizer = make(**options)
            with self.module.jax.enable_x64(True):
                self.opt_state = self.optimizer.init(self.params)
            self.update = self.module.jax.jit(self.optimizer.update) if graph else self.optimizer.update
        else:
            mxnet = self.module.mxnet
            self.params = [mxnet.gluon.Parameter(f"p{i}", shape=p.shape, dtype=p.dtype) for i, p in enumerate(params)]
            for mine, p in zip(self.params, params, strict=True):
                mine.initialize("zeros")
                mine.data()[()] = mxnet.np.array(p, dtype=p.dtype)
            self.optimizer = make(**options)
            self.trainer = mxnet.gluon.Trainer(self.params, self.optimizer)

    def step(self, grads):
        grads = [np.asarray(g).astype(self.dtype) for g in grads]
        if self.tab == "pytorch":
            for p, g in zip(self.params, grads, strict=True):
                p.grad = self.module.torch.tensor(g.astype("float64")).to(p.dtype)
            self.optimizer.step()
        elif self.tab == "tensorflow":
            self.apply([self.module.tf.constant(g) for g in grads])
        elif self.tab == "jax":
            import optax

            with self.module.jax.enable_x64(True):
                updates, self.opt_state = self.update(
                    [self.module.TAB.parameter(g) for g in grads], self.opt_state, self.params
                )
                self.params = optax.apply_updates(self.params, updates)
        else:
            mxnet = self.module.mxnet
            with mxnet.autograd.record():
                losses = [
                    (p.data() * mxnet.np.array(g, dtype=g.dtype)).sum() for p, g in zip(self.params, grads, strict=True)
                ]
            mxnet.autograd.backward(losses)
            self.trainer.step(1)

    @property
    def holder(self):
        """What has the state: the second argument of `save` and `load`."""
        return {"mxnet": lambda: self.trainer, "jax": lambda: self.opt_state}.get(self.tab, lambda: self.optimizer)()

    def load(self, file, params=None, **options):
        """Load a file into this optimizer; `params` may have names for its parameters."""
        loaded = self.module.load(file, self.params if params is None else params, self.holder, **options)
        if self.tab == "jax":
            self.params, self.opt_state = self.module.jax.tree.leaves(loaded[0]), loaded[1]

    def values(self):
        """`[(p, v, s), ...]` in float64."""
        if self.tab == "pytorch":
            state = self.optimizer.state
            rows = [(p, *(state[p][name] for name in self.optimizer._names())) for p in self.params]
        elif self.tab == "tensorflow":
            averages = [[x.value for x in self.optimizer.state(p)] for p in self.params]
            rows = [(p, *pair) for p, pair in zip(self.params, averages, strict=True)]
        elif self.tab == "jax":
            rows = list(zip(self.params, *self.opt_state[1:], strict=True))
        else:
            states = self.trainer._updaters[0].states
            rows = [(p.data(), *states[i]) for i, p in enumerate(self.params)]
        return [tuple(np.asarray(self.module.TAB.asnumpy(x)).astype("float64") for x in row) for row in rows]
