"""What a step refuses, before anything is written: each error names the cause and the cure."""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, NamedTuple

from d2l_adam.rule import Rule, constant

HALF = ("float16", "bfloat16")
FULL = ("float32", "float64")


def state_dtype(dtype: str) -> str:
    """The dtype of the state of a parameter, in which its step is computed."""
    return "float32" if dtype in HALF else dtype


def feature_dim(tab, feature_dim, dtype):
    """Refuse what `init_adam_states` and such cannot make."""
    if not isinstance(feature_dim, Integral) or feature_dim < 1:
        raise ValueError(f"{tab.name}: feature_dim is {feature_dim!r}; give a whole number from 1 on")
    if dtype in HALF:
        raise ValueError(f"{tab.name}: a state in {dtype} is too coarse to average in; use dtype='float32'")
    if dtype is not None and not (isinstance(dtype, str) and dtype in FULL):
        raise ValueError(f"{tab.name}: unknown dtype {dtype!r}; known: 'float32', 'float64'")


# A schedule that ends at 0 may end below it, by its rounding: by 1e-18 in torch's LinearLR, by 1e-10 where the rate
# is kept in float32. Where 0 is the least that a constant may be, that is 0. The bound is a number, not a part of the
# first rate, which a step does not know; no rate so small is meant: a parameter moves by about the rate in a step, and
# in float32 one of 0.02 does not move by 1e-9.
_ROUNDING = 1e-9
_NUMBER: Any = (float, int, Real)  # the common ones first: Real is slow to ask


def numbers(tab, rule: Rule, hyperparams) -> dict[str, Any]:
    """The time step, 1 where it is not given and not read, and the constants that are given, as Python numbers."""
    if not isinstance(hyperparams, dict):
        raise TypeError(
            f"{tab.name}: hyperparams is {_type(hyperparams)}; give a dict such as {{'lr': 0.01, 't': 1}}, "
            "in which the step can advance t"
        )
    numbers, known = {}, rule.numbers
    for name, value in hyperparams.items():
        if name not in known:
            raise KeyError(f"{tab.name}: unknown hyperparameter {name!r}; known: {', '.join(known)}")
        # The usual cases, decided quickly, as this runs in every step.
        if (type(value) is float and name != "t" and known[name][1](value)) or (
            name == "t" and type(value) is int and 0 < value < 2**53
        ):
            numbers[name] = value
        else:
            x = number(tab, name, value)
            numbers[name] = int(value) if name == "t" else x
    if len(numbers) < len(known):
        for name, (default, *_) in known.items():
            if name not in numbers and default is None and (name != "t" or rule.reads_t):
                raise KeyError(f"{tab.name}: hyperparams lacks {name!r}; give for example {{'lr': 0.01, 't': 1}}")
        numbers.setdefault("t", 1)
    return numbers


def number(tab, name, value):
    """A hyperparameter as a float, in the range that its name has."""
    if not isinstance(value, _NUMBER):
        raise TypeError(f"{tab.name}: hyperparameter {name!r} is {_type(value)}; give a Python number")
    try:
        x = float(value)
    except OverflowError:
        x = math.inf
    if not math.isfinite(x):
        raise ValueError(f"{tab.name}: hyperparameter {name!r} is {value}; give a finite number")
    _, holds, cure = constant(name)
    if not holds(x):
        if -_ROUNDING < x < 0 and holds(0.0):
            return 0.0
        raise ValueError(f"{tab.name}: hyperparameter {name!r} is {value}; {cure}")
    return x


class Row(NamedTuple):
    """A parameter, its gradient and its state arrays; `half` if the step is to be computed in float32."""

    p: Any
    g: Any
    state: tuple
    half: bool


_NO_GRADIENT: Any = object()


def rows(tab, names: tuple[str, ...], params, grads, states, name: Callable[[int], str] = str) -> list[Row]:
    """A row for each parameter, all of it checked.

    `names` are those of the state arrays, `states` the tuples of them. `grads` is None where gradients have no part;
    `name(i)` is what an error calls parameter `i`.
    """
    grads = [_NO_GRADIENT] * len(params) if grads is None else grads
    if not len(params) == len(grads) == len(states):
        state = f" and one state, {shape(names)}," if names else ""
        raise ValueError(
            f"{tab.name}: {len(params)} parameters, {len(grads)} gradients, {len(states)} states; "
            f"give one gradient{state} for each parameter"
        )
    rows = []
    for i, (p, g, state) in enumerate(zip(params, grads, states, strict=True)):
        if len(state) != len(names):
            found = _type(state[0]) if len(state) == 1 else f"{len(state)} arrays"
            raise ValueError(f"{tab.name}: state of parameter {name(i)} is {found}, not {shape(names)}")
        rows.append(Row(p, g, state, _checked(tab, name(i), names, p, g, state)))
    _refuse_twins(tab, names, rows, name)
    return rows


def states(tab, rule: Rule, states, number: int) -> list[tuple]:
    """The state of each of so many parameters as a tuple of arrays, of whatever shape the book has for the rule."""
    if states is None and not rule.state:
        return [()] * number
    return [state if type(state) is tuple else rule.states(state) for state in listed(tab, "states", states)]


def listed(tab, name, value):
    """`value` as a list; a single array is none."""
    if isinstance(value, (list, tuple)):
        return value
    try:
        if isinstance(value, tab.parameter_type):
            raise TypeError
        return list(value)
    except TypeError:
        raise TypeError(f"{tab.name}: {name} is {_type(value)}; give a list, with one entry a parameter") from None


def returned(tab, rule: Rule, old: tuple, new) -> tuple:
    """What a rule has made of `old`, parameter first, if it is as many arrays of that shape."""
    shape = old[0].shape
    try:
        if len(new) == len(old) and all(x.shape == shape for x in new):
            # A rule may hand on an old value, which must not change while the others are written.
            return tuple(1 * x if any(x is y for y in old) else x for x in new)
    except (TypeError, AttributeError):  # it is no tuple, or not of arrays
        pass
    found = ", ".join(str(getattr(x, "shape", _type(x))) for x in new) if isinstance(new, tuple) else _type(new)
    names = ", ".join(("p", *rule.state))
    raise ValueError(
        f"{tab.name}: the rule {rule.name} must return ({names}), each of shape {tuple(shape)}; it returned {found}"
    )


def shape(names: tuple[str, ...]) -> str:
    """The state of one parameter, in words."""
    if len(names) < 2:
        return f"one array {names[0]}" if names else "None"
    return f"a {'pair' if len(names) == 2 else 'tuple'} ({', '.join(names)})"


def parameter(tab, i, p) -> tuple:
    """Refuse what is no parameter that a step could move; return what `kind` says of it."""
    if not isinstance(p, tab.parameter_type):
        raise TypeError(f"{tab.name}: parameter {i} is {_type(p)}; this tab takes {_types(tab.parameter_type)}")
    if not tab.writable(p):
        raise ValueError(f"{tab.name}: parameter {i} cannot be written in place; give a copy of this view")
    kind = tab.kind(p)
    if kind[1] not in HALF + FULL:
        raise TypeError(f"{tab.name}: parameter {i} is {kind[1]}; convert it to one of {', '.join(HALF + FULL)}")
    return kind


def _checked(tab, i, names, p, g, state):
    """Whether parameter `i`, as an error calls it, is in half precision; raises the error that says what is wrong."""
    shape, dtype, device = parameter(tab, i, p)
    if g is None:
        raise ValueError(f"{tab.name}: gradient of parameter {i} is None; compute it, from a loss that depends on it")
    full = state_dtype(dtype)
    arrays: list[Any] = [("gradient", g, tab.gradient_type, (full, dtype))] if g is not _NO_GRADIENT else []
    for name, x in zip(names, state, strict=True):
        arrays.append((f"state {name}", x, tab.parameter_type, (full,)))
    for words, x, types, dtypes in arrays:
        words = f"{tab.name}: {words} of parameter {i}"
        if not isinstance(x, types):
            raise TypeError(f"{words} is {_type(x)}; this tab takes {_types(types)}")
        if x is not g and not tab.writable(x):
            raise ValueError(f"{words} cannot be written in place; give a copy of this view")
        x_shape, x_dtype, x_device = tab.kind(x)
        if x_shape != shape:
            raise ValueError(f"{words} has shape {tuple(x_shape)}, parameter {i} has {tuple(shape)}; make them alike")
        if x_dtype not in dtypes:
            raise TypeError(f"{words} is {x_dtype}, parameter {i} is {dtype}; convert the former to {full}")
        if x_device != device:
            raise ValueError(f"{words} is on {x_device}, parameter {i} on {device}; move them together")
    return dtype in HALF


def _refuse_twins(tab, names, rows, name):
    """Refuse an array that is given in two places."""
    first: dict[int, str] = {}
    for i, row in enumerate(rows):
        for words, x in zip(("", *(f"state {x} of " for x in names)), (row.p, *row.state), strict=True):
            place = f"{words}parameter {name(i)}"
            if first.setdefault(id(x), place) != place:
                raise ValueError(f"{tab.name}: {place} is the same array as {first[id(x)]}; give each its own")


def _type(x):
    return f"{type(x).__module__}.{type(x).__qualname__}"


def _types(types):
    return " or ".join(f"{t.__module__}.{t.__qualname__}" for t in (types if isinstance(types, tuple) else (types,)))
