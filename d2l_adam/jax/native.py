"""Rules as optax's `GradientTransformationExtraArgs`."""

import functools
import math
from collections import namedtuple
from typing import Any

import numpy
from numpy.lib.mixins import NDArrayOperatorsMixin

from d2l_adam import contract, imports, native, rule, spec
from d2l_adam.jax.framework import jax, jnp
from d2l_adam.jax.tab import TAB

with imports.framework("optax", pip="optax"):
    import optax

_TEXT = """
The learning rate may also be a schedule, a function of the number of steps made before. Numbers may be traced, as by
`optax.inject_hyperparams` (not in half precision: give it `hyperparam_dtype=jnp.float32`).

Returns an `optax.GradientTransformationExtraArgs`. `update(grads, state, params)` takes trees of arrays of any shape
in float16, bfloat16, float32 or float64; where the gradient is None, the state stays. `params` may be left out if the
rule reads the parameter in `p = p - ...` only. The state is a named tuple: `count`, and a tree for each state of the
rule, in float32 for half precision. Updates have the dtype of the parameter, and `optax.apply_updates` adds them: a
step in half precision is rounded twice, by itself and in the sum.
"""


class _Value(NDArrayOperatorsMixin):
    """A number or an array; a subclass knows some of Python's operators better."""

    value: Any

    def __array_ufunc__(self, ufunc, method, *inputs):
        """Do what an operator asks for, by NumPy's name of it, which is also JAX's."""
        return getattr(jnp, ufunc.__name__)(*map(_plain, inputs))


def _plain(x):
    return x.value if isinstance(x, _Value) else x


class _Moved(_Value):
    """A parameter `p` that was moved by `by`, which would be rounded where they are added."""

    def __init__(self, p, by):
        self.p, self.by, self.shape = p, by, by.shape

    @property
    def value(self):
        if self.p is None:
            raise ValueError("jax: this rule reads the parameter; give update(grads, state, params) the params")
        return self.p + self.by

    def __add__(self, x):
        return _Moved(self.p, self.by + _plain(x))

    def __sub__(self, x):
        return _Moved(self.p, self.by - _plain(x))


class _Time(_Value):
    """The time step, traced; `1 - beta2**t` would be 1.3e-5 off at first, as the difference of rounded numbers."""

    def __init__(self, t):
        self.value = t

    def __add__(self, x):
        return _Time(self.value + _plain(x))

    def __sub__(self, x):
        return _Time(self.value - _plain(x))

    def __rpow__(self, base):
        if isinstance(base, (int, float)) and base <= 0:
            return base**self.value
        return _Power(self.value * (math.log(base) if isinstance(base, (int, float)) else jnp.log(base)))


class _Power(_Value):
    """A power of which the logarithm is known."""

    def __init__(self, log):
        self.value, self.log = jnp.exp(log), log

    def __rsub__(self, x):
        return -jnp.expm1(self.log) if isinstance(x, (int, float)) and x == 1 else x - self.value


_WORDS = {name: lambda *args, of=word: of(*map(_plain, args)) for name, word in TAB.words.items()}


def _transformation(state_type, numbers):
    """The steps of a rule for optax; `numbers` are its constants, the learning rate perhaps a schedule."""
    of = state_type.rule
    numbers = {name: x if name == "lr" and callable(x) else _number(name, x) for name, x in numbers.items()}
    bound = of.bound(rule.of_arrays(_WORDS))

    def init(params):
        for path, p in jax.tree_util.tree_leaves_with_path(params):
            contract.parameter(TAB, jax.tree_util.keystr(path), jnp.asarray(p))
        states = [jax.tree.map(lambda p, x=x: TAB.start(jnp.asarray(p), x), params) for x in of.initial.values()]
        return state_type(jnp.zeros([], jnp.int32), *states)

    def update(updates, state, params=None, **extra_args):
        count = optax.safe_increment(state.count)
        given = {name: _number(name, x(state.count)) if callable(x) else x for name, x in numbers.items()}
        grads, tree = jax.tree.flatten(updates, is_leaf=lambda x: x is None)
        params = [None] * len(grads) if params is None else tree.flatten_up_to(params)
        trees = [tree.flatten_up_to(x) for x in state[1:]]
        rows = [row(given, count, p, g, *state) for p, g, *state in zip(params, grads, *trees, strict=True)]
        updates, *trees = map(tree.unflatten, zip(*rows, strict=True)) if rows else (updates, *state[1:])
        return updates, state_type(count, *trees)

    def row(given, count, p, g, *state):
        if g is None:
            return None, *state
        like = g if p is None else p
        for x in (p, *state):
            if x is not None and x.shape != g.shape:
                raise ValueError(
                    f"jax: a gradient has shape {g.shape}, its parameter or state {x.shape}; make them alike"
                )
        full = contract.state_dtype(like.dtype.name)
        values = {name: x if isinstance(x, float) else jnp.asarray(x, full) for name, x in given.items()}
        old = _Moved(None if p is None else p.astype(full), jnp.zeros_like(g, dtype=full)), *state
        new = bound(old[0], g.astype(full), *state, t=_Time(count.astype(full)), **values)
        moved, *after = contract.returned(TAB, of, old, new)
        by = moved.by if isinstance(moved, _Moved) else moved - old[0].value
        return by.astype(like.dtype), *(_plain(x).astype(full) for x in after)

    return optax.GradientTransformationExtraArgs(init, update)


def _number(name, x):
    """A constant, in its range if it is a number; an array, or what is traced, as it is."""
    if not isinstance(x, (jax.Array, numpy.ndarray)):
        return contract.number(TAB, name, x)
    if x.dtype.name in contract.HALF:
        raise TypeError(f"jax: {name} is {x.dtype}, too coarse; give inject_hyperparams hyperparam_dtype=jnp.float32")
    return x


def _state_type(name, of, fields):
    """A named tuple for the state of a rule, by which it is known in a file."""
    return type(name, (namedtuple(name, ("count", *fields)),), {"__slots__": (), "rule": of, "__module__": __name__})


@functools.cache
def _made_state_type(of):
    """Likewise, of an optimizer that is made; it is pickled by the rule, which has to be importable."""
    state_type = _state_type(f"{native.named(TAB, of)}State", of, of.state)
    state_type.__reduce__ = lambda state: (_restored, (of, *state))
    return state_type


def _restored(of, *state):
    return _made_state_type(of)(*state)


AdamState = _state_type("AdamState", rule.Rule(spec.adam), ("mu", "nu"))
YogiState = _state_type("YogiState", rule.Rule(spec.yogi), ("mu", "nu"))


def Adam(learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-6):  # noqa: N802  as in the other tabs
    """Adam of the chapter for optax.

    >>> import optax, jax.numpy as jnp
    >>> from d2l_adam.jax import Adam
    >>> params, optimizer = jnp.array([1.0, 2.0]), Adam(learning_rate=0.1)
    >>> updates, state = optimizer.update(2 * params, optimizer.init(params))
    >>> [round(float(x), 3) for x in optax.apply_updates(params, updates)]
    [0.9, 1.9]
    """
    return _transformation(AdamState, {"lr": learning_rate, "beta1": b1, "beta2": b2, "eps": eps})


def Yogi(learning_rate=1e-2, b1=0.9, b2=0.999, eps=1e-3):  # noqa: N802
    """Yogi of the chapter for optax.

    >>> import optax
    >>> from d2l_adam.jax import Yogi
    >>> optimizer = optax.chain(optax.clip_by_global_norm(1.0), Yogi(learning_rate=0.01))
    """
    return _transformation(YogiState, {"lr": learning_rate, "beta1": b1, "beta2": b2, "eps": eps})


@functools.cache
def made(of: rule.Rule) -> Any:
    """Return a function that makes optimizers of a rule; its constants are called as the rule calls them."""
    name, signature = native.named(TAB, of), native.signature(of, "learning_rate", (), {})
    state_type = _made_state_type(of)

    def factory(*args, **kwargs):
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        return _transformation(state_type, {"lr": given.arguments.pop("learning_rate"), **given.arguments})

    factory.__name__ = factory.__qualname__ = name
    factory.__module__, factory.__signature__ = f"d2l_adam.{TAB.module}", signature  # type: ignore[attr-defined]
    factory.__doc__ = f"`{of.dialect or of.name}` as an optimizer for optax."
    return _described(factory, of, {})


def _described(factory: Any, of, names):
    factory.rule, factory.names = of, names
    native.describe(factory, "learning_rate", _TEXT)
    return factory


for _factory, _type in ((Adam, AdamState), (Yogi, YogiState)):
    _described(_factory, _type.rule, {"beta1": "b1", "beta2": "b2"})
