"""The interpreter behind every tab: a rule of the spec, bound to one framework's arrays.

A tab is a module of this package, and `bind` needs nothing of it but these names:

| name | what it is |
|---|---|
| `NAME` | d2l's name of the tab, as in `#@tab pytorch` |
| `sqrt`, `square`, `sign` | the words of the spec, for this framework's arrays |
| `PARAMETER`, `GRADIENT` | the type (or tuple of types) of what is written, and of what is only read |
| `kind(x)` | `(shape, name of the dtype, device)` |
| `writable(x)` | whether `x` can be written in place, element by element |
| `write(arrays, values)` | copies each value into its array, rounded to the dtype of the array |
| `float32(x)` | `x` in float32 |
| `asnumpy(x)` | a copy of `x` as a `numpy.ndarray` |
| `zeros(shape, dtype)` | a state: zeros of that dtype (a name, or None for the framework's default) |
| `step(rule)` | `bind`, in d2l's calling convention for this framework |
| `regression(w, b)` | the chapter's linear regression, for `d2l_adam.train` |
"""

import contextlib
import operator
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from numbers import Real
from types import FunctionType, ModuleType
from typing import Any

from d2l_adam import book, spec

HALF = ("float16", "bfloat16")
FULL = ("float32", "float64")


def bind(tab: ModuleType, rule: FunctionType) -> Callable[..., None]:
    """Return `rule` as a function `(params, grads, states, hyperparams)` that steps in place.

    All inputs are checked and all new values computed before the first one is written. Parameters
    in float16 and bfloat16 are computed in float32, where their state lives, and rounded once.
    """
    kernel = FunctionType(rule.__code__, vars(tab), rule.__name__, rule.__defaults__)
    known = rule.__code__.co_varnames[4 : rule.__code__.co_argcount]  # t, lr, beta1, ...
    required = known[: len(known) - len(rule.__defaults__ or ())]

    def step(params, grads, states, hyperparams):
        """Make one step in place. `params` and `grads` are lists of arrays of equal shape and dtype."""
        params, grads, states = list(params), list(grads), list(states)
        constants = _constants(tab, known, required, hyperparams)
        arrays: list[Any] = []
        values: list[Any] = []
        for p, g, v, s, half in _checked(tab, params, grads, states):
            arrays += p, v, s
            if half:
                p, g = tab.float32(p), tab.float32(g)
            values += kernel(p, g, v, s, **constants)
        tab.write(arrays, values)
        hyperparams["t"] = constants["t"] + 1

    return step


def publish(tab: ModuleType, name: str) -> Any:
    """Make what all tabs have in common, when first asked for: the rules, `init_adam_states`, `d2l`."""
    if name in spec.RULES:
        value = tab.step(spec.RULES[name])
        value.__doc__ = f"{value.__doc__}{_STEP}{spec.RULES[name].__doc__}"
    elif name == "init_adam_states":
        value = _init_adam_states(tab)
    elif name == "d2l":
        return book.load(tab)
    else:
        raise AttributeError(f"module {tab.__name__!r} has no attribute {name!r}")
    value.__module__, value.__name__, value.__qualname__ = tab.__name__, name, name
    return vars(tab).setdefault(name, value)


_STEP = """

        `states` holds a pair `(v, s)` for each parameter, of its shape and dtype (float32 for a
        float16 or bfloat16 parameter). `hyperparams` is d2l's dict: the learning rate `lr`, the time
        step `t`, counted from 1 and advanced by one in place, and whichever of `beta1`, `beta2` and
        `eps` is to differ from the rule's default.

        Raises ValueError, TypeError or KeyError with cause and cure; then nothing has changed. A NaN
        or infinite gradient makes its own coordinate of the parameter NaN and touches no other.

        The rule:

        """


def _init_adam_states(tab):
    def init_adam_states(feature_dim, dtype=None):
        """Return the zero state `((v_w, s_w), (v_b, s_b))` of the chapter's linear regression.

        `v_w` and `s_w` have shape `(feature_dim, 1)`, `v_b` and `s_b` have shape `(1,)`. `dtype` is
        "float32" or "float64"; left out, the framework's default. The state of a float16 or
        bfloat16 parameter is float32.
        """
        try:
            if (feature_dim := operator.index(feature_dim)) < 1:
                raise TypeError
        except TypeError:
            raise ValueError(f"{tab.NAME}: feature_dim is {feature_dim!r}; give a whole number from 1 on") from None
        if dtype in HALF:
            raise ValueError(f"{tab.NAME}: a state in {dtype} is too coarse to average in; use dtype='float32'")
        if dtype not in (None, *FULL):
            raise ValueError(f"{tab.NAME}: unknown dtype {dtype!r}; known: 'float32', 'float64'")
        shapes = (feature_dim, 1), (1,)
        return tuple((tab.zeros(shape, dtype), tab.zeros(shape, dtype)) for shape in shapes)

    return init_adam_states


def _constants(tab: ModuleType, known, required, hyperparams: dict[str, Any]):
    """The time step and whatever else is given, as Python numbers, every one checked."""
    if not isinstance(hyperparams, dict):
        raise TypeError(
            f"{tab.NAME}: hyperparams is {_type(hyperparams)}; give a dict such as {{'lr': 0.01, 't': 1}}, "
            "in which the step can advance t"
        )
    constants: dict[str, Any] = {}
    for name, value in hyperparams.items():
        if name not in known:
            raise KeyError(f"{tab.NAME}: unknown hyperparameter {name!r}; known: {', '.join(known)}")
        if not isinstance(value, _NUMBER):
            raise TypeError(f"{tab.NAME}: hyperparameter {name!r} is {_type(value)}; give a Python number")
        if not abs(value) <= sys.float_info.max:
            raise ValueError(f"{tab.NAME}: hyperparameter {name!r} is {value}; give a finite number")
        holds, cure = _RANGES.get(name.rstrip("0123456789"), _ANY)
        if not holds(value):
            raise ValueError(f"{tab.NAME}: hyperparameter {name!r} is {value}; {cure}")
        constants[name] = int(value) if name == "t" else float(value)
    for name in required:
        if name not in constants:
            raise KeyError(f"{tab.NAME}: hyperparams lacks {name!r}; give for example {{'lr': 0.01, 't': 1}}")
    return constants


_NUMBER: Any = (float, int, Real)
_ANY = (lambda _: True), ""
_RANGES = {
    "t": (lambda t: t >= 1 and t == int(t), "the time step is a whole number from 1 on"),
    "lr": (lambda lr: lr >= 0, "the learning rate is 0 or more"),
    "beta": (lambda beta: 0 <= beta < 1, "a decay rate lies in [0, 1)"),
    "eps": (lambda eps: eps > 0, "it is more than 0: with 0, a zero gradient gives 0/0"),
}


def _checked(tab, params, grads, states):
    """Refuse, before anything is written, whatever a step could trip over half way.

    Return a tuple `(p, g, v, s, half)` for each parameter, `half` if it is to be computed in float32.
    """
    if not len(params) == len(grads) == len(states):
        raise ValueError(
            f"{tab.NAME}: {len(params)} parameters, {len(grads)} gradients, {len(states)} states; "
            "give one gradient and one state (v, s) for each parameter"
        )
    kind, writable, rows = tab.kind, tab.writable, []
    for i, (p, g, state) in enumerate(zip(params, grads, states, strict=True)):
        try:
            v, s = state
        except (TypeError, ValueError):
            raise ValueError(
                f"{tab.NAME}: state of parameter {i} is {_type(state)}, not a pair (v, s); see init_adam_states"
            ) from None
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
        if not plain:
            _explain(tab, i, p, g, v, s)
        rows.append((p, g, v, s, not plain))
    if len({id(x) for p, _, v, s, _ in rows for x in (p, v, s)}) < 3 * len(rows):
        _explain_twins(tab, rows)
    return rows


def _explain(tab, i, p, g, v, s):
    """Raise the error that says what is wrong with parameter `i`; if it is in half precision, nothing may be."""
    arrays = {f"parameter {i}": p, f"state v of parameter {i}": v, f"state s of parameter {i}": s}
    for name, x in arrays.items():
        if not isinstance(x, tab.PARAMETER):
            raise TypeError(f"{tab.NAME}: {name} is {_type(x)}; this tab takes {_names(tab.PARAMETER)}")
        if not tab.writable(x):
            raise ValueError(f"{tab.NAME}: {name} is a view that cannot be written in place; give a copy of it")
    if g is None:
        raise ValueError(
            f"{tab.NAME}: gradient of parameter {i} is None; compute it first, from a loss that depends on it"
        )
    if not isinstance(g, tab.GRADIENT):
        raise TypeError(f"{tab.NAME}: gradient of parameter {i} is {_type(g)}; this tab takes {_names(tab.GRADIENT)}")
    shape, dtype, device = tab.kind(p)
    if dtype not in HALF + FULL:
        raise TypeError(f"{tab.NAME}: parameter {i} is {dtype}; convert it to one of {', '.join(HALF + FULL)}")
    full = "float32" if dtype in HALF else dtype
    for name, x, dtypes in (
        (f"gradient of parameter {i}", g, (full, dtype)),
        (f"state v of parameter {i}", v, (full,)),
        (f"state s of parameter {i}", s, (full,)),
    ):
        its_shape, its_dtype, its_device = tab.kind(x)
        if its_shape != shape:
            raise ValueError(
                f"{tab.NAME}: {name} has shape {tuple(its_shape)}, parameter {i} has {tuple(shape)}; make them alike"
            )
        if its_dtype not in dtypes:
            raise TypeError(
                f"{tab.NAME}: {name} is {its_dtype}, parameter {i} is {dtype}; convert the former to {full}"
            )
        if its_device != device:
            raise ValueError(f"{tab.NAME}: {name} is on {its_device}, parameter {i} on {device}; move them together")


def _explain_twins(tab, rows):
    """Raise the error that names the two places in which one array was given."""
    first: dict[int, str] = {}
    for i, (p, _, v, s, _) in enumerate(rows):
        for name, x in ((f"parameter {i}", p), (f"state v of parameter {i}", v), (f"state s of parameter {i}", s)):
            if id(x) in first:
                raise ValueError(f"{tab.NAME}: {name} is the same array as {first[id(x)]}; give each its own")
            first[id(x)] = name


def _names(types):
    types = types if isinstance(types, tuple) else (types,)
    return " or ".join(f"{t.__module__}.{t.__qualname__}" for t in types)


def _type(x):
    return f"{type(x).__module__}.{type(x).__qualname__}"


@contextlib.contextmanager
def framework(name: str, pip: str, apt: str = "see its own notes on installation") -> Iterator[None]:
    """Around the import of a framework: say how to install it where it is missing, or what is broken."""
    try:
        yield
    except Exception as error:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"{name} is not installed; pip install {pip}", name=name) from None
        cure = apt if isinstance(error, OSError) else f"reinstall it: pip install {pip}"
        raise ImportError(f"{name} is installed but cannot be imported ({error}); {cure}", name=name) from error
