"""What a step refuses, before anything is written: each error names the cause and the cure."""

import inspect
import math
from numbers import Integral, Real
from types import FunctionType
from typing import Any

HALF = ("float16", "bfloat16")
FULL = ("float32", "float64")
WORDS = ("sqrt", "square", "sign")


def feature_dim(tab, feature_dim, dtype):
    """Refuse what `init_adam_states` cannot make."""
    if not isinstance(feature_dim, Integral) or feature_dim < 1:
        raise ValueError(f"{tab.NAME}: feature_dim is {feature_dim!r}; give a whole number from 1 on")
    if dtype in HALF:
        raise ValueError(f"{tab.NAME}: a state in {dtype} is too coarse to average in; use dtype='float32'")
    if dtype is not None and not (isinstance(dtype, str) and dtype in FULL):
        raise ValueError(f"{tab.NAME}: unknown dtype {dtype!r}; known: 'float32', 'float64'")


# What each constant may be: a test, and the cure where it fails.
_RANGES = {
    "t": (lambda t: t >= 1 and t.is_integer(), "the time step is a whole number from 1 on"),
    "lr": (lambda lr: 0 <= lr < 2.0**127, "the learning rate is 0 or more, and within float32"),
    "beta": (lambda beta: 0 <= beta < 1, "a decay rate lies in [0, 1)"),
    "eps": (
        lambda eps: 2.0**-126 <= eps < 2.0**127,
        "it is more than 0, as a zero gradient would give 0/0, and within float32 (from 2**-126)",
    ),
    "weight_decay": (lambda decay: 0 <= decay < 2.0**127, "a weight decay is 0 or more, and within float32"),
}
_ANY = math.isfinite, ""  # a constant of the user's own

# A schedule that ends at 0 may end below it, by its rounding: by 1e-18 in torch's LinearLR, by 1e-10 where the rate
# is kept in float32. Where 0 is the least that a constant may be, that is 0. The bound is a number, not a part of the
# first rate, which a step does not know; no rate so small is meant: a parameter moves by about the rate in a step, and
# in float32 one of 0.02 does not move by 1e-9.
_ROUNDING = 1e-9


def constants(tab, rule):
    """What a rule takes beside the arrays: its constants by name, each with its default and its range."""
    if not isinstance(rule, FunctionType):
        raise TypeError(f"{tab.NAME}: the rule is {_type(rule)}; give a Python function rule(p, g, v, s, t, lr, ...)")
    if hasattr(rule, "__wrapped__"):  # the words of what is in there could not be replaced
        raise TypeError(f"{tab.NAME}: the rule {rule.__name__} is wrapped by a decorator; give the function itself")
    names = dict(list(inspect.signature(rule).parameters.items())[4:])
    named = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    if "t" not in names or any(parameter.kind not in named for parameter in names.values()):
        raise TypeError(f"{tab.NAME}: the rule {rule.__name__} has another signature than (p, g, v, s, t, lr, ...)")
    return {name: (parameter.default, *_range(name)) for name, parameter in names.items()}


def _range(name):
    return _RANGES.get("beta" if name.startswith("beta") else name, _ANY)


_NUMBER: Any = (float, int, Real)  # the common ones first: Real is slow to ask


def numbers(tab, constants, hyperparams):
    """The time step and whatever else is given, as Python numbers."""
    if not isinstance(hyperparams, dict):
        raise TypeError(
            f"{tab.NAME}: hyperparams is {_type(hyperparams)}; give a dict such as {{'lr': 0.01, 't': 1}}, "
            "in which the step can advance t"
        )
    numbers = {}
    for name, value in hyperparams.items():
        if name not in constants:
            raise KeyError(f"{tab.NAME}: unknown hyperparameter {name!r}; known: {', '.join(constants)}")
        _, holds, cure = constants[name]
        # The usual cases, decided quickly, as this runs in every step.
        if (type(value) is float and holds(value) and name != "t") or (
            name == "t" and type(value) is int and 0 < value < 2**53
        ):
            numbers[name] = value
        else:
            x = number(tab, name, value, holds, cure)
            numbers[name] = int(value) if name == "t" else x
    if len(numbers) < len(constants):
        for name, (default, *_) in constants.items():
            if default is inspect.Parameter.empty and name not in numbers:
                raise KeyError(f"{tab.NAME}: hyperparams lacks {name!r}; give for example {{'lr': 0.01, 't': 1}}")
    return numbers


def number(tab, name, value, holds=None, cure=None):
    """A hyperparameter as a float; its range is looked up by its name where none is given."""
    if not isinstance(value, _NUMBER):
        raise TypeError(f"{tab.NAME}: hyperparameter {name!r} is {_type(value)}; give a Python number")
    try:
        x = float(value)
    except OverflowError:
        x = math.inf
    if not math.isfinite(x):
        raise ValueError(f"{tab.NAME}: hyperparameter {name!r} is {value}; give a finite number")
    if holds is None:
        holds, cure = _range(name)
    if not holds(x):
        if -_ROUNDING < x < 0 and holds(0.0):
            return 0.0
        raise ValueError(f"{tab.NAME}: hyperparameter {name!r} is {value}; {cure}")
    return x


_NONE: Any = object()


def arrays(tab, params, grads, states, name=str):
    """A tuple `(p, g, v, s, half)` for each parameter, `half` if it is to be computed in float32.

    `grads` is None where gradients have no part; `name(i)` is what an error calls parameter `i`.
    """
    params, states = listed(tab, "params", params), listed(tab, "states", states)
    grads = [_NONE] * len(params) if grads is None else listed(tab, "grads", grads)
    if not len(params) == len(grads) == len(states):
        raise ValueError(
            f"{tab.NAME}: {len(params)} parameters, {len(grads)} gradients, {len(states)} states; "
            "give one gradient and one state (v, s) for each parameter"
        )
    kind, writable, rows = tab.kind, tab.writable, []
    for i, (p, g, state) in enumerate(zip(params, grads, states, strict=True)):
        if not isinstance(state, (tuple, list)) or len(state) != 2:
            raise ValueError(f"{tab.NAME}: state of parameter {name(i)} is {_type(state)}, not a pair (v, s)")
        v, s = state
        plain = (  # the usual case, decided quickly, as this runs in every step
            isinstance(p, tab.PARAMETER)
            and isinstance(v, tab.PARAMETER)
            and isinstance(s, tab.PARAMETER)
            and isinstance(g, tab.GRADIENT)
            and (its := kind(p)) == kind(g) == kind(v) == kind(s)
            and its[1] in FULL
            and writable(p)
            and writable(v)
            and writable(s)
        )
        half = not plain and _is_half(tab, name(i), p, g, v, s)
        rows.append((p, g, v, s, half))
    if len({id(x) for p, _, v, s, _ in rows for x in (p, v, s)}) < 3 * len(rows):
        _explain_twins(tab, rows, name)
    return rows


def listed(tab, name, value):
    """`value` as a list; a single array is none."""
    if isinstance(value, (list, tuple)):
        return value
    try:
        if isinstance(value, tab.PARAMETER):
            raise TypeError
        return list(value)
    except TypeError:
        raise TypeError(f"{tab.NAME}: {name} is {_type(value)}; give a list, with one entry a parameter") from None


def returned(tab, rule, g, new):
    """What a rule returned, if it is three arrays of the parameter's shape."""
    shape = g.shape
    try:
        p, v, s = new
        if p.shape == v.shape == s.shape == shape:
            return new
    except (TypeError, ValueError, AttributeError):
        pass
    found = ", ".join(str(getattr(x, "shape", _type(x))) for x in new) if isinstance(new, tuple) else _type(new)
    raise ValueError(
        f"{tab.NAME}: the rule {rule.__name__} must return (p, v, s), each of shape {tuple(shape)}; it returned {found}"
    )


def _is_half(tab, i, p, g, v, s):
    """Whether parameter `i`, as an error calls it, is in half precision; raises the error that says what is wrong."""
    for name, x in (("", p), ("state v of ", v), ("state s of ", s)):
        if not isinstance(x, tab.PARAMETER):
            raise TypeError(f"{tab.NAME}: {name}parameter {i} is {_type(x)}; this tab takes {_types(tab.PARAMETER)}")
        if not tab.writable(x):
            raise ValueError(f"{tab.NAME}: {name}parameter {i} cannot be written in place; give a copy of this view")
    if g is None:
        raise ValueError(f"{tab.NAME}: gradient of parameter {i} is None; compute it, from a loss that depends on it")
    if g is not _NONE and not isinstance(g, tab.GRADIENT):
        raise TypeError(f"{tab.NAME}: gradient of parameter {i} is {_type(g)}; this tab takes {_types(tab.GRADIENT)}")
    shape, dtype, device = tab.kind(p)
    if dtype not in HALF + FULL:
        raise TypeError(f"{tab.NAME}: parameter {i} is {dtype}; convert it to one of {', '.join(HALF + FULL)}")
    full = "float32" if dtype in HALF else dtype
    for name, x, dtypes in (("gradient", g, (full, dtype)), ("state v", v, (full,)), ("state s", s, (full,))):
        if x is _NONE:
            continue
        name = f"{tab.NAME}: {name} of parameter {i}"
        its_shape, its_dtype, its_device = tab.kind(x)
        if its_shape != shape:
            raise ValueError(f"{name} has shape {tuple(its_shape)}, parameter {i} has {tuple(shape)}; make them alike")
        if its_dtype not in dtypes:
            raise TypeError(f"{name} is {its_dtype}, parameter {i} is {dtype}; convert the former to {full}")
        if its_device != device:
            raise ValueError(f"{name} is on {its_device}, parameter {i} on {device}; move them together")
    return dtype in HALF


def _explain_twins(tab, rows, name):
    """Raise the error that names the two places in which one array was given."""
    first: dict[int, str] = {}
    for i, (p, _, v, s, _) in enumerate(rows):
        for place, x in (("", p), ("state v of ", v), ("state s of ", s)):
            place += f"parameter {name(i)}"
            if first.setdefault(id(x), place) != place:
                raise ValueError(f"{tab.NAME}: {place} is the same array as {first[id(x)]}; give each its own")


def _type(x):
    return f"{type(x).__module__}.{type(x).__qualname__}"


def _types(types):
    return " or ".join(f"{t.__module__}.{t.__qualname__}" for t in (types if isinstance(types, tuple) else (types,)))
