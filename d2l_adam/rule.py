"""What a rule declares by its signature: `rule(p, g, *state, t, *constants) -> (p, *state)`.

Everything that runs a rule, renders it or looks for defects of it asks a `Rule`, which alone inspects the signature,
and alone puts other words in the place of the spec's.
"""

import dis
import inspect
import math
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType
from typing import Any, NamedTuple

from d2l_adam import spec

#: What a rule may call. `abs` is Python's own, of numbers and of every framework's arrays.
WORDS = ("abs", "maximum", "sign", "sqrt", "square")


class Constant(NamedTuple):
    """A number that a rule takes beside the arrays: its default, or None, and which values it may have."""

    default: float | None
    holds: Callable[[float], bool]
    #: What is said of a value for which it does not hold.
    cure: str


_DECAY = (lambda x: 0 <= x < 1), "a decay rate lies in [0, 1)"
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "t": (lambda t: t >= 1 and t.is_integer(), "the time step is a whole number from 1 on"),
    "lr": (lambda lr: 0 <= lr < 2.0**127, "the learning rate is 0 or more, and within float32"),
    "gamma": _DECAY,
    "momentum": _DECAY,
    "rho": _DECAY,
    "eps": (
        lambda eps: 2.0**-126 <= eps < 2.0**127,
        "it is more than 0, as a zero gradient would give 0/0, and within float32 (from 2**-126)",
    ),
    "weight_decay": (lambda decay: 0 <= decay < 2.0**127, "a weight decay is 0 or more, and within float32"),
}


def constant(name: str, default: float | None = None) -> Constant:
    """What is known of a constant by its name; one of another name may be any finite number."""
    holds, cure = _DECAY if name.startswith("beta") else _RANGES.get(name, (math.isfinite, ""))
    return Constant(default, holds, cure)


class Rule:
    """A rule as its interpreters see it; made of the function, or of a name in `spec.RULES`.

    `name` is that of the function; `state` are the names of its state arrays, `constants` what it takes after `t`, by
    name, and `numbers` the same with `t` before them. `reads_t` says whether the time step has a part in it.

    `initial` says where its state starts, by name (default: 0), and `defaults` has other defaults for its constants: a
    dialect, if both are of a library's optimizer; `dialect` is then the name of that.

    Raises TypeError for what could not be run as it stands in every framework, ValueError for what it has not.

    >>> rule = Rule("adam")
    >>> rule.state, [*rule.constants]
    (('v', 's'), ['lr', 'beta1', 'beta2', 'eps'])
    """

    initial: dict[str, float]
    defaults: dict[str, float]

    def __init__(
        self,
        rule: "Rule | FunctionType | str | Any",
        initial: Mapping[str, float] | None = None,
        defaults: Mapping[str, float] | None = None,
        dialect: str | None = None,
    ):
        if isinstance(rule, str):
            if rule not in spec.RULES:
                raise ValueError(f"unknown rule {rule!r}; known: {', '.join(spec.RULES)}")
            rule = spec.RULES[rule]
        if isinstance(rule, Rule):
            initial, defaults = rule.initial | dict(initial or {}), rule.defaults | dict(defaults or {})
            rule, dialect = rule.function, dialect or rule.dialect
        if not isinstance(rule, FunctionType):
            kind = f"{type(rule).__module__}.{type(rule).__qualname__}"
            raise TypeError(f"the rule is {kind}; give a Python function rule(p, g, v, s, t, lr, ...)")
        self.function: Any = rule
        self.name: str = rule.__name__
        if hasattr(rule, "__wrapped__"):  # the words of what is in there could not be replaced
            raise TypeError(f"the rule {self.name} is wrapped by a decorator; give the function itself")
        parameters = inspect.signature(rule).parameters
        names = list(parameters)
        positional = {x.kind for x in parameters.values()} <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}
        if not positional or names[:2] != ["p", "g"] or "t" not in names:
            signature = "(p, g, *state, t, *constants), such as (p, g, v, s, t, lr, eps=1e-6)"
            raise TypeError(f"the rule {self.name} takes ({', '.join(names)}); its signature is to be {signature}")
        end = names.index("t")
        self.state = tuple(names[2:end])
        self.constants: dict[str, Constant] = {}
        for name in names[end + 1 :]:
            default = parameters[name].default
            default = None if default is inspect.Parameter.empty else default
            if default is not None and (isinstance(default, bool) or not isinstance(default, (int, float))):
                raise TypeError(f"the rule {self.name} has {name}={default!r}; a constant is a number")
            self.constants[name] = constant(name, default)
        self.defaults = dict(defaults or {})
        for name, default in self.defaults.items():
            if name not in self.constants:
                raise ValueError(f"the rule {self.name} has no {name}; it has {', '.join(self.constants)}")
            self.constants[name] = constant(name, default)
        self.initial = dict.fromkeys(self.state, 0.0)
        for name, value in (initial or {}).items():
            if name not in self.initial or not isinstance(value, (int, float)) or not math.isfinite(value):
                known = ", ".join(self.state) or "none"
                raise ValueError(f"the rule {self.name} starts with {name}={value}; give finite numbers for {known}")
            self.initial[name] = float(value)
        self.dialect = dialect
        self.numbers = {"t": constant("t")} | self.constants
        _check(self.name, rule.__code__)
        self.reads_t = _reads(rule, "t")

    def __repr__(self):
        return f"Rule({self.name})"

    def __eq__(self, other):
        return isinstance(other, Rule) and self.__reduce__() == other.__reduce__()

    def __hash__(self):
        return hash(self.function)

    def __reduce__(self):
        return Rule, (self.function, self.initial, self.defaults, self.dialect)

    def bound(self, words: Mapping[str, Callable]) -> Callable[..., tuple]:
        """Return the function itself with a framework's words, as `(p, g, *state, t, *constants) -> (p, *state)`."""
        function = bound(self.function, words)
        if self.state and not self.defaults:
            return function

        def call(*args, **kwargs):
            new = function(*args, **(self.defaults | kwargs))
            return new if self.state else (new,)

        return call

    @staticmethod
    def states(state: Any) -> tuple:
        """The arrays in the state of one parameter, which is in the book's shape: None, a bare array, or a tuple."""
        if state is None:
            return ()
        return tuple(state) if isinstance(state, (tuple, list)) else (state,)

    @staticmethod
    def book_shape(arrays: tuple) -> Any:
        """The same the other way round."""
        return arrays if len(arrays) > 1 else arrays[0] if arrays else None


def bound(function: Any, words: Mapping[str, Callable]) -> FunctionType:
    """Return a function of the spec with other words."""
    return FunctionType(
        function.__code__, {"__builtins__": __builtins__} | dict(words), function.__name__, function.__defaults__
    )


def of_arrays(words: Mapping[str, Callable]) -> dict[str, Callable]:
    """The words of a framework's arrays; of plain numbers, as in `sqrt(1 - beta2**t)`, the spec's own are taken."""
    return {word: _either(getattr(spec, word, abs), words.get(word, abs)) for word in WORDS}


def _either(of_numbers, of_arrays):
    def word(*args):
        for x in args:
            if not isinstance(x, (int, float)):
                return of_arrays(*args)
        return of_numbers(*args)

    return word


_CALLS = {("LOAD_GLOBAL", word) for word in WORDS}


def _check(name, code):
    """Refuse what a rule uses beside its arguments, arithmetic and the words."""
    others = {*code.co_freevars} | {x.co_name for x in code.co_consts if isinstance(x, CodeType)}
    branches = False
    for instruction in dis.get_instructions(code):
        branches |= instruction.opcode in (*dis.hasjrel, *dis.hasjabs)
        if instruction.opcode in dis.hasname and (instruction.opname, instruction.argval) not in _CALLS:
            others.add(instruction.argval)
    if others:
        raise TypeError(
            f"the rule {name} uses {', '.join(sorted(others))}; a rule is of arithmetic, its own arguments and the "
            f"words {', '.join(WORDS)}, which each framework has: write the rest out"
        )
    if branches:
        raise TypeError(
            f"the rule {name} branches; arrays have no one truth value: write it with {', '.join(WORDS)}, which see "
            "every element"
        )


def _reads(rule, name):
    """Whether a function reads one of its arguments."""
    for instruction in dis.get_instructions(rule):
        names = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
        if "LOAD_FAST" in instruction.opname and name in names:
            return True
    return False
