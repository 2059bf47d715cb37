"""What of JAX's trees and lists goes into a file, and how what is read takes their place: nothing can be written."""

import optax

from d2l_adam import checkpoint, contract
from d2l_adam.interrupt import deferred
from d2l_adam.jax.framework import jax, jnp
from d2l_adam.jax.tab import JAX, TAB, refuse_fixed
from d2l_adam.rule import Rule
from d2l_adam.step import Values


def save(file, params, states, hyperparams, rule):
    """Do what `JAX.save` says."""
    checkpoint.save(_Filed(), file, *_flat(params, states, hyperparams, rule))


def load(file, params, states, hyperparams, rule, axes, convert):
    """Do what `JAX.load` says."""
    tab, (flat, held, given, rule) = _Filed(), _flat(params, states, hyperparams, rule)
    if held is states:
        refuse_fixed(params=params if not isinstance(params, dict) else [], states=[] if states is None else states)
    with deferred(), jax.enable_x64(True):
        checkpoint.load(tab, file, flat, held, given, rule, axes, convert)
        if held is states:
            TAB.replace(params, states, [Values(tab, [], tab.rows)])
            return params, states
    params = jax.tree.unflatten(jax.tree.structure(params), [p for p, *_ in tab.rows])
    return params, held.holding([state for _, *state in tab.rows])


class _Filed(JAX):
    """The tab while a file is saved or loaded: it keeps what is to be filled in, for each parameter."""

    def __init__(self):
        self.rows = []

    def fill(self, arrays, values):
        self.rows.append([x.at[...].set(value) for x, value in zip(arrays, values, strict=True)])

    def carried(self, params, optimizer):
        if not isinstance(optimizer, _Held):
            made = "a state that an optimizer of d2l_adam.jax has made"
            raise TypeError(f"jax: the optimizer is {type(optimizer)}; give {made}, or a list")
        rule, number = optimizer.state.rule, len(params)
        states = list(zip(*map(jax.tree.leaves, optimizer.state[1:]), strict=True)) or [()] * number
        if len(states) != number:
            made = f"the optimizer's state is none of these, but of {len(states)}"
            raise ValueError(f"jax: {number} parameters, {made}; give those that it was made for")
        defaults = {name: x.default for name, x in rule.constants.items() if x.default is not None}
        return checkpoint.Carried(
            params=[[p] for p in params],
            states=lambda: [[state] for state in states],
            steps=[int(optimizer.state.count)] * number,
            set_steps=lambda steps: setattr(optimizer, "count", max(steps, default=0)),
            rule=rule,
            constants=defaults | optimizer.constants,
            one_clock=True,
        )


def _flat(params, states, hyperparams, rule):
    """The arguments as `checkpoint` takes them: trees as a list, or a dict with names; an optimizer's state as held."""
    if not any(map(_is_state, jax.tree.leaves(states, is_leaf=_is_state))):
        return params, states, hyperparams, rule
    held, leaves = _Held(states, hyperparams or {}), jax.tree_util.tree_leaves_with_path(params)
    if isinstance(params, list) and all(len(path) == 1 for path, _ in leaves):  # matched by position
        return params, held, None, rule
    return {jax.tree_util.keystr(path, simple=True, separator="/"): p for path, p in leaves}, held, None, rule


def _is_state(x):
    """Whether this is the state of an optimizer of a rule."""
    return isinstance(getattr(x, "rule", None), Rule)


class _Held:
    """The state of an optimizer, within that of what is around it: what of it is saved, or takes what is loaded."""

    def __init__(self, around, constants):
        self.constants = {name: contract.number(TAB, name, x) for name, x in constants.items()}
        self.leaves, self.tree = jax.tree.flatten(around, is_leaf=_is_state)
        [self.state], self.count = filter(_is_state, self.leaves), 0
        for x in jax.tree.leaves(around, is_leaf=lambda x: isinstance(x, optax.MultiStepsState)):
            if isinstance(x, optax.MultiStepsState) and x.mini_step:
                raise ValueError(f"jax: {x.mini_step} gradients are accumulated; save and load after a step")

    def holding(self, states):
        """The state of all, with other arrays."""
        columns = zip(self.state[1:], zip(*states, strict=True), strict=False)  # none of no parameters
        trees = [jax.tree.unflatten(jax.tree.structure(x), y) for x, y in columns] or self.state[1:]
        new = type(self.state)(jnp.asarray(self.count, jnp.int32), *trees)
        return self.tree.unflatten([new if _is_state(x) else x for x in self.leaves])
