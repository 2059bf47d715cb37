"""What of an optimizer's state goes into a file, and how what is read takes its place: nothing can be written."""

from typing import Any

import optax

from d2l_adam import checkpoint
from d2l_adam.interrupt import deferred
from d2l_adam.jax.framework import jax, jnp
from d2l_adam.jax.tab import TAB, refuse_fixed
from d2l_adam.rule import Rule


def save(file, params, states, hyperparams, rule):
    """Do what `JAX.save` says."""
    if own := _own(states):
        params, states, hyperparams, rule = _as_of_functions(params, own, hyperparams, rule)
    checkpoint.save(TAB, file, params, states, hyperparams, rule)


def load(file, params, states, hyperparams, rule, axes, convert):
    """Do what `JAX.load` says."""
    own = _own(states)
    if not own:
        refuse_fixed(params=[] if isinstance(params, dict) else params, states=[] if states is None else states)
        with deferred():
            rows = checkpoint.load(TAB, file, params, states, hyperparams, rule, axes, convert)
            TAB.put(params, states, rows)
        return params, states
    named, arrays, numbers, rule = _as_of_functions(params, own, hyperparams, rule)
    rows = checkpoint.load(TAB, file, named, arrays, numbers, rule, axes, convert)
    params, *trees = (
        jax.tree.unflatten(jax.tree.structure(tree), [row[i] for row in rows])
        for i, tree in enumerate((params, *own[1:]))
    )
    new = type(own)(jnp.asarray(numbers["t"] - 1, jnp.int32), *trees)
    return params, jax.tree.map(lambda x: new if _is_own(x) else x, states, is_leaf=_is_own)


def _own(states):
    """The state of an optimizer of a rule within that of what is around it, or None."""
    found = [x for x in jax.tree.leaves(states, is_leaf=_is_own) if _is_own(x)]
    if len(found) > 1:
        raise ValueError(
            f"jax: these are the states of {len(found)} optimizers; save and load each with its parameters"
        )
    for x in jax.tree.leaves(states, is_leaf=lambda x: isinstance(x, optax.MultiStepsState)):
        if found and isinstance(x, optax.MultiStepsState) and x.mini_step:
            raise ValueError(f"jax: {x.mini_step} gradients are accumulated; save and load after a step")
    return found[0] if found else None


def _is_own(x):
    return isinstance(getattr(x, "rule", None), Rule)


def _as_of_functions(params, own, constants, rule):
    """The same as functions have it: parameters as a list, or a dict with names; their states; numbers; the rule."""
    constants = constants or {}
    if rule is not None or "t" in constants:
        raise TypeError("jax: give no rule and no t with an optimizer's state; it has its own")
    leaves = jax.tree_util.tree_leaves_with_path(params)
    states = list(zip(*map(jax.tree.leaves, own[1:]), strict=True)) or [()] * len(leaves)
    if len(states) != len(leaves):
        made = f"the optimizer's state is none of these, but of {len(states)}"
        raise ValueError(f"jax: {len(leaves)} parameters, {made}; give those that it was made for")
    named: Any = {jax.tree_util.keystr(path, simple=True, separator="/"): p for path, p in leaves}
    if isinstance(params, list) and all(len(path) == 1 for path, _ in leaves):  # matched by position
        named = params
    return named, states, {**constants, "t": int(own.count) + 1}, own.rule
