"""The defects that can be named: changes of a rule's syntax tree, and which of them make the path that was seen.

Each change is one that a hand makes when it copies a formula: a bracket that closes too late, a factor, a sign or a
counter left out, another number, a state mistaken for another. Nothing is named but what makes the very path.
"""

import ast
import inspect
import itertools
import operator
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import numpy

from d2l_adam import drive, render, spec

#: Numbers that are tried for a constant, beside those in the code at hand.
NUMBERS = {
    "beta": (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999),
    "eps": (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10, 1e-12, 1e-16),
    "lr": (1.0, 0.5, 0.1, 0.05, 1e-2, 1e-3, 1e-4),
}
_TWO_DIGITS = range(10, 100)
#: All numbers of few digits, tried where nothing else makes the path.
EVERY_NUMBER = {
    "beta": sorted({x / 100 for x in range(100)} | {x / 10**4 for x in range(9000, 10**4)}),
    "eps": [float(f"{x}e{k}") for k in range(-17, 0) for x in _TWO_DIGITS],
    "lr": [float(f"{x}e{k}") for k in range(-6, 1) for x in _TWO_DIGITS],
}
#: So many steps of changed rules are made, at most, to explain a path: some 9 seconds. To try all changes of a rule of
#: the book takes up to 250,000. They are counted, as no path may have another cause on a slower machine.
BUDGET = 300_000
#: Any two changes are tried together; three, and two with any number, only of so many of the likeliest.
LIKELIEST = 24


class Change(NamedTuple):
    """One change of a rule, in words: of an expression, a constant, the order of statements, or the count of steps.

    `replace` returns the expression that takes the place of the one numbered `at`. `counted(t, k)` is the time
    step that is used for parameter `k` at step `t`.
    """

    words: str
    at: int | None = None
    replace: Callable[[Any], ast.expr] | None = None
    constant: tuple[str, float] | None = None
    order: tuple[int, ...] | None = None
    counted: Callable[[int, Any], Any] | None = None


class Search(NamedTuple):
    """What makes a path: sets of changes, alternatives; and whether the search ended before it had tried them all."""

    causes: list[tuple[str, ...]]
    stopped: bool = False


class Rule:
    """A rule of the spec as a tree, which can be followed with some changes."""

    def __init__(self, rule: Any):
        self.statements = _statements(rule)
        self.name = rule.__name__
        for at, node in enumerate(node for statement in self.statements for node in ast.walk(statement)):
            vars(node)["at"] = at
        constants = list(inspect.signature(rule).parameters.values())[5:]
        #: What the rule takes beside the arrays and the time step, with the default of each, or None.
        self.constants = {x.name: None if x.default is x.empty else x.default for x in constants}

    def takes(self, run: dict[str, Any]) -> bool:
        """Whether the rule has all of these hyperparameters, and needs no more."""
        needed = {name for name, default in self.constants.items() if default is None}
        return needed <= {*run} <= {"t", *self.constants}

    def follow(self, run: dict[str, Any], steps: int, changes: Iterable[Change] = (), dtype: str = "float64"):
        """Yield where the elements of a drive are after each of the steps of the rule so changed."""
        replace = {change.at: change.replace for change in changes if change.replace}
        constants = dict(change.constant for change in changes if change.constant)
        count = next((change.counted for change in changes if change.counted), None)
        order = next((change.order for change in changes if change.order), range(len(self.statements) - 1))
        unused = {*replace}
        start = {name: value for name, value in (self.constants | run | constants).items() if name != "t"}

        def value(node, names):
            while (new := replace.get(getattr(node, "at", None))) is not None:
                unused.discard(node.at)
                node = new(node)
            kind = type(node)  # asked like this for speed: for two changes at once, there are thousands of mutants
            if kind is ast.BinOp:
                return _OPERATIONS[type(node.op)](value(node.left, names), value(node.right, names))
            if kind is ast.Name:
                return names[node.id]
            if kind is ast.Constant:
                return node.value
            if kind is ast.Call:
                return getattr(numpy, node.func.id)(value(node.args[0], names))
            if kind is ast.UnaryOp and type(node.op) is ast.USub:
                return -value(node.operand, names)
            if kind is ast.Tuple:
                return tuple(value(x, names) for x in node.elts)
            raise TypeError(
                f"the rule {self.name} uses {ast.unparse(node)}; write it with + - * / ** and the spec's words"
            )

        def step(p, g, v, s, t):
            names = start | {"p": p, "g": g, "v": v, "s": s, "t": t if count is None else count(t, drive.PARAMETER)}
            names |= {"p_before": p, "v_before": v, "s_before": s}
            for statement in (self.statements[i] for i in order):
                names[statement.targets[0].id] = value(statement.value, names)
            return value(self.statements[-1].value, names)

        for number, p in enumerate(drive.follow(step, run.get("t", 1), steps, dtype)):
            yield p
            if unused and number:
                raise LookupError("one change has removed what another was to change")


def _statements(rule):
    """The statements of a rule without its docstring; what cannot be followed is refused."""
    how = (
        "write it in a file, as def rule(p, g, v, s, t, lr, ...), assignments of arithmetic, sqrt, square and sign "
        "to single names, and return p, v, s"
    )
    if not isinstance(rule, FunctionType) or hasattr(rule, "__wrapped__"):
        raise TypeError(f"the rule {getattr(rule, '__name__', rule)} is not a plain function; {how}")
    try:
        tree = render.tree(rule)
    except (OSError, SyntaxError):
        tree = None
    if not isinstance(tree, ast.FunctionDef):
        raise TypeError(f"the rule {rule.__name__} is not made by def, or its source is not at hand; {how}")
    names = [*inspect.signature(rule).parameters]
    if names[:5] != [*"pgvst"]:
        raise TypeError(f"the rule {rule.__name__} takes ({', '.join(names)}); {how}")
    *assignments, end = statements = [node for node in tree.body if not isinstance(node, ast.Expr)] or [ast.Pass()]
    for node in assignments:
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
            raise TypeError(f"the rule {rule.__name__} has {ast.unparse(node)!r}; {how}")
        names.append(node.targets[0].id)
    if ast.unparse(end) != "return (p, v, s)":
        raise TypeError(f"the rule {rule.__name__} ends with {ast.unparse(end)!r}; {how}")
    called = {ast.unparse(node.func) for x in statements for node in ast.walk(x) if isinstance(node, ast.Call)}
    used = {node.id for x in statements for node in ast.walk(x) if isinstance(node, ast.Name)}
    if unknown := used - {*names} - {name for name in called if hasattr(numpy, name)}:
        raise TypeError(f"the rule {rule.__name__} uses {', '.join(sorted(unknown))}; {how}")
    return statements


_OPERATIONS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def changes(rule: Rule, numbers: Iterable[float] = ()) -> list[Change]:
    """Return the changes of a rule, the likeliest first; `numbers` are tried as its constants before others."""
    likely = list(_counts()) if any(_named(node, "t") for x in rule.statements for node in ast.walk(x)) else []
    other: list[Change] = []
    names = {"p", "g", "v", "s"}
    for statement in rule.statements:
        target = ast.unparse(statement.targets[0]) if isinstance(statement, ast.Assign) else None
        for node in ast.walk(statement.value) if target else ():
            for very, words, replace in _of(node, target, names, [*rule.constants]):
                (likely if very else other).append(Change(words, vars(node)["at"], replace))
        if target:
            names.add(target)
            other += _as_elsewhere(rule, statement, target)
        else:
            likely += _stored(statement.value)
    other += _orders(rule)
    for name, default in rule.constants.items():
        known, own = NUMBERS.get(_kind(name), ()), [x for x in dict.fromkeys(numbers) if _fits(name, x)][:12]
        likely += _numbers(name, default, own)
        other += _numbers(name, default, [x for x in known if x not in own])
    return likely + other


def _counts():
    many = len(drive.SHAPES)
    for words, count in {
        "t never advanced": lambda t, k: 1,
        "t advanced for each parameter, not for each step": lambda t, k: many * (t - 1) + k + 1,
        "t advanced before it is used": lambda t, k: t + 1,
        "t advanced for each parameter, before it is used": lambda t, k: many * (t - 1) + k + 2,
        "t advanced by 2 a step": lambda t, k: 2 * t - 1,
        "t counted from 0": lambda t, k: t - 1,
    }.items():
        yield Change(words, counted=count)


def _kind(name):
    return "beta" if name.startswith("beta") or name in ("gamma", "rho", "momentum") else name


def _fits(name, x):
    return 0 < x < {"beta": 1, "eps": 0.5}.get(_kind(name), float("inf"))


def _numbers(name, default, values):
    was = "" if default is None else f" instead of {default:g}"
    whatever = " whatever hyperparams says" if default is None else ""
    return [Change(f"{name} = {x:g}{was}{whatever}", constant=(name, float(x))) for x in values if x != default]


def _of(node, target, names, constants):
    """What may become of one expression in the assignment to `target`: whether it is likely, words, replacement."""
    text = ast.unparse(node)
    match node:
        case ast.BinOp(a, ast.Div(), b):
            if isinstance(b, ast.BinOp) and isinstance(b.op, ast.Add):
                yield (
                    True,
                    f"{ast.unparse(b.right)} outside the fraction",
                    lambda n: ast.BinOp(ast.BinOp(n.left, n.op, n.right.left), n.right.op, n.right.right),
                )
            if isinstance(b, ast.Call) and isinstance(b.args[0], ast.BinOp) and _named(b.args[0].right, "eps"):
                yield True, "eps outside the fraction", lambda n: _out_of_call(n.right, left=n.left)
            corrected = target.endswith("_hat") and isinstance(a, ast.Name)
            words = f"the bias of {_text(a)} not corrected" if corrected else f"not divided by {_text(b)}"
            yield corrected, words, lambda n: n.left
        case ast.BinOp(a, ast.Add() | ast.Sub(), b):
            eps = ast.unparse(b) == "eps"
            match b:
                case ast.BinOp(_, ast.Div(), ast.BinOp(_, ast.Add(), c)):  # p - lr * v / sqrt(s) + eps
                    yield True, f"{_text(c)} outside the fraction", _without_brackets
            if isinstance(a, ast.Call) and eps:
                yield (
                    True,
                    "eps inside the root",
                    lambda n: ast.Call(n.left.func, [ast.BinOp(n.left.args[0], n.op, n.right)], []),
                )
                if "beta2" in constants:
                    yield (
                        True,
                        "eps added before the bias is corrected (eps hat)",
                        lambda n: ast.BinOp(n.left, n.op, ast.parse("eps / sqrt(1 - beta2**t)", mode="eval").body),
                    )
            match a:
                case ast.BinOp(ast.Name(decay), ast.Mult(), _) if decay in constants and not isinstance(b, ast.BinOp):
                    yield False, f"the factor (1 - {decay}) before {_text(b)}, in {target}", _averaged
            yield eps, f"{_text(b)} left out of {target}", lambda n: n.left
            left_out = f"{_text(b)} for {text}, in {target}" if isinstance(a, ast.Constant) else None
            yield False, left_out or f"{_text(a)} left out of {target}", lambda n: n.right
            yield False, f"the sign flipped in {text}, in {target}", _flipped
            if isinstance(node.op, ast.Sub):
                words = f"{_text(b)} - {_text(a)} for {text}, in {target}"
                yield False, words, lambda n: ast.BinOp(n.right, n.op, n.left)
        case ast.BinOp(a, ast.Mult(), b):
            yield False, f"the factor {_text(a)} left out of {target}", lambda n: n.right
            yield False, f"the factor {_text(b)} left out of {target}", lambda n: n.left
        case ast.BinOp(a, ast.Pow(), b):
            yield False, f"{_text(a)} for {text}, in {target}", lambda n: n.left
        case ast.Call(ast.Name(word), [x]):
            if isinstance(x, ast.BinOp) and _named(x.right, "eps"):
                yield True, f"eps outside the root: {word}({_text(x.left)}) + eps, in {target}", _out_of_call
            yield False, f"no {word}: {_text(x)} for {text}, in {target}", lambda n: n.args[0]
            for other in {"square": ("abs", "sqrt"), "sqrt": ("square", "abs")}.get(word, ()):
                call = ast.Name(other)
                yield False, f"{other} for {word} in {target}", lambda n, call=call: ast.Call(call, n.args, [])
        case ast.Name(name) if name in names or name in constants:
            pool = [x for x in constants if _kind(x) == _kind(name)]
            if name in names:
                pool = [*(f"{x}_before" for x in ("p", "v", "s") if x == name.removesuffix("_hat")), *sorted(names)]
            for other in pool:
                words = f"the {other[0]} from before the step" if other.endswith("_before") else other
                if other != name:
                    yield False, f"{words} for {name} in {target}", lambda n, other=other: ast.Name(other)


def _text(node):
    """The source of an expression, in brackets if it is a sum."""
    text = ast.unparse(node)
    return f"({text})" if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)) else text


def _named(node, name):
    return isinstance(node, ast.Name) and node.id == name


def _out_of_call(n, left=None):
    call = ast.Call(n.func, [n.args[0].left], [])
    return ast.BinOp(call if left is None else ast.BinOp(left, ast.Div(), call), n.args[0].op, n.args[0].right)


def _averaged(n):
    weight = ast.BinOp(ast.Constant(1), ast.Sub(), n.left.left)
    return ast.BinOp(n.left, n.op, ast.BinOp(weight, ast.Mult(), n.right))


def _without_brackets(n):
    return ast.BinOp(
        ast.BinOp(n.left, n.op, ast.BinOp(n.right.left, ast.Div(), n.right.right.left)), ast.Add(), n.right.right.right
    )


def _flipped(n):
    return ast.BinOp(n.left, ast.Sub() if isinstance(n.op, ast.Add) else ast.Add(), n.right)


def _orders(rule):
    """One statement moved before another."""
    targets = [ast.unparse(statement.targets[0]) for statement in rule.statements[:-1]]
    for i, j in itertools.combinations(range(len(targets)), 2):
        order = [k for k in range(len(targets)) if k != j]
        yield Change(f"{targets[j]} computed before {targets[i]}", order=(*order[:i], j, *order[i:]))


def _as_elsewhere(rule, statement, target):
    """What the other rules of the spec have in this place."""
    for name, other in spec.BOOK.items():
        for theirs in render.tree(other).body if name != rule.name else ():
            if isinstance(theirs, ast.Assign) and ast.unparse(theirs.targets[0]) == target:
                its: Any = theirs.value
                if ast.dump(its) != ast.dump(statement.value):
                    yield Change(f"{target} as in {name}", statement.value.at, _instead(its))


def _stored(end):
    """What may become of `return p, v, s`."""
    for x in end.elts[1:]:
        yield Change(f"{x.id} not stored", x.at, _instead(ast.Name(f"{x.id}_before")))
    p, v, s = end.elts
    yield Change("v and s stored in each other's place", end.at, _instead(ast.Tuple([p, s, v])))


def _instead(new: ast.expr) -> Callable[[Any], ast.expr]:
    return lambda node: new


def explain(
    rule: Rule,
    runs: Sequence[dict[str, Any]],
    fits: Callable[[int, int, Any], bool],
    numbers: Iterable[float] = (),
) -> Search:
    """Find the smallest sets of changes with which a rule makes a path, the likeliest first; [()] if it needs none.

    `fits(run, step, p)` says whether the path has `p` after that step of that run; `numbers` are those in the code
    that made the path. The search is stopped after `BUDGET` steps.
    """
    made = 0

    def makes_it(some):
        nonlocal made
        try:
            for number, (run, steps) in enumerate(zip(runs, drive.STEPS, strict=True)):
                for step, p in enumerate(rule.follow(run, steps, some, "float32")):
                    made += 1
                    if not fits(number, step, p):
                        return False
        except (ArithmeticError, LookupError):  # one removes what another changes, or uses what is not there yet
            return False
        return True

    single = changes(rule, numbers)
    every = [
        change
        for name, default in rule.constants.items()
        for change in _numbers(name, default, EVERY_NUMBER.get(_kind(name), ()))
    ]
    likeliest = single[:LIKELIEST]
    likeliest_first: list[Iterable[tuple[Change, ...]]] = [
        [()],
        ((x,) for x in single),
        ((x,) for x in every),
        itertools.combinations(single, 2),
        itertools.combinations(likeliest, 3),
        itertools.product((x for x in likeliest if not x.constant), every),
    ]
    for sets in likeliest_first:
        found: dict[tuple[str, ...], None] = {}
        for some in sets:
            if made >= BUDGET:
                return Search(list(found), stopped=True)
            if _together(some) and makes_it(some):
                found[tuple(change.words for change in some)] = None
        if found:
            return Search(list(found))
    return Search([])


def _together(some):
    """Whether no two changes are of the same thing."""
    what = [x.at if x.replace else x.constant[0] if x.constant else "order" if x.order else "count" for x in some]
    return len({*what}) == len(what)
