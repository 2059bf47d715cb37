"""The defects that can be named: changes of a rule's syntax tree, and which of them make the path that was seen.

Each change is one that a hand makes when it copies a formula: a bracket that closes too late, a factor, a sign or a
counter left out, another number, a state mistaken for another. Nothing is named but what makes the very path.
"""

import ast
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from d2l_adam import spec
from d2l_adam.check import drive
from d2l_adam.check.tree import ORDER, Change, Tree, before

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

#: What may become of an expression: whether it is likely, or so where a bias is corrected; the pattern; what becomes of
#: it; and the words, of the first row that makes it. For `A` to `D` any expression may stand, for `N` a name, for `K`
#: that of a constant, for `X` a number, for `L` what is no operation, for `F` a word; `±` is + in one row, - in
#: another. {text} is the whole expression, {target} what it is computed for.
_TABLE = """
likely  A / (B + C)        A / B + C            {C} outside the fraction
likely  A / F(B + eps)     A / F(B) + eps       eps outside the fraction
of_hat  N / B              N                    the bias of {N} not corrected
other   A / B              A                    not divided by {B}
likely  A ± B / (C + D)    A ± B / C + D        {D} outside the fraction
likely  F(A) + eps         F(A + eps)           eps inside the root
likely  F(A) + eps         F(A) + eps / sqrt(1 - beta2**t)   eps added before the bias is corrected (eps hat)
other   K * A ± L          K * A ± (1 - K) * L  the factor (1 - {K}) before {L}, in {target}
likely  A ± eps            A                    eps left out of {target}
other   A ± B              A                    {B} left out of {target}
other   X ± B              B                    {B} for {text}, in {target}
other   A ± B              B                    {A} left out of {target}
other   A + B              A - B                the sign flipped in {text}, in {target}
other   A - B              A + B                the sign flipped in {text}, in {target}
other   A - B              B - A                {B} - {A} for {text}, in {target}
other   A * B              B                    the factor {A} left out of {target}
other   A * B              A                    the factor {B} left out of {target}
other   A ** B             A                    {A} for {text}, in {target}
likely  F(A + eps)         F(A) + eps           eps outside the root: {F}({A}) + eps, in {target}
other   F(A)               A                    no {F}: {A} for {text}, in {target}
other   square(A)          abs(A)               abs for square in {target}
other   square(A)          sqrt(A)              sqrt for square in {target}
other   sqrt(A)            square(A)            square for sqrt in {target}
other   sqrt(A)            abs(A)               abs for sqrt in {target}
other   maximum(A, B)      A                    {A} for {text}, in {target}
other   maximum(A, B)      B                    {B} for {text}, in {target}
"""
_KINDS: dict[str, Any] = dict.fromkeys("ABCDL", ast.expr) | dict.fromkeys("FKN", ast.Name) | {"X": ast.Constant}
_COUNTS: dict[str, Callable[[int, Any], Any]] = {
    "t never advanced": lambda t, k: 1,
    "t advanced for each parameter, not for each step": lambda t, k: len(drive.SHAPES) * (t - 1) + k + 1,
    "t advanced before it is used": lambda t, k: t + 1,
    "t advanced for each parameter, before it is used": lambda t, k: len(drive.SHAPES) * (t - 1) + k + 2,
    "t advanced by 2 a step": lambda t, k: 2 * t - 1,
    "t counted from 0": lambda t, k: t - 1,
}

_ROWS: list[tuple[str, ast.expr, str, str]] = []
for _line in _TABLE.strip().splitlines():
    for _sign in "+-" if "±" in _line else "+":
        _when, _pattern, _source, _words = (x.strip() for x in _line.replace("±", _sign).split("  ") if x)
        _ROWS.append((_when, ast.parse(_pattern, mode="eval").body, _source, _words))


class _Filled(ast.NodeTransformer):
    """Put the expressions that were found in the places of a pattern's letters."""

    def __init__(self, found):
        self.found = found

    def visit_Name(self, node):
        return self.found.get(node.id, node)


def _matches(pattern, node, found):
    """Whether an expression is as a pattern has it; what stands for the letters goes into `found`."""
    if isinstance(pattern, ast.Name) and pattern.id in _KINDS:
        found[pattern.id] = node
        return isinstance(node, _KINDS[pattern.id]) and not (pattern.id == "L" and isinstance(node, ast.BinOp))
    if type(pattern) is not type(node) or (isinstance(node, ast.Name) and node.id != pattern.id):
        return False
    parts, others = list(ast.iter_child_nodes(pattern)), list(ast.iter_child_nodes(node))
    return len(parts) == len(others) and all(_matches(x, y, found) for x, y in zip(parts, others, strict=True))


def _text(node):
    """The source of an expression, in brackets if it is a sum."""
    text = ast.unparse(node)
    return f"({text})" if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)) else text


class Search(NamedTuple):
    """What makes a path: sets of changes, alternatives; and whether the search ended before it had tried them all."""

    causes: list[tuple[str, ...]]
    stopped: bool = False


def changes(tree: Tree, numbers: Iterable[float] = ()) -> list[Change]:
    """Return the changes of a rule, the likeliest first; `numbers` are tried as its constants before others."""
    likely = [Change(words, "t", count) for words, count in _COUNTS.items() if tree.rule.reads_t]
    other: list[Change] = []
    names = {"p", "g", *tree.rule.state}
    elsewhere = [Tree(name) for name in spec.BOOK if name != tree.rule.name]
    for statement in tree.assignments:
        target = statement.targets[0].id
        for node in ast.walk(statement.value):
            if isinstance(node, ast.Name):
                other += _other_names(node, target, names, tree.rule)
            elif isinstance(node, ast.expr):
                for is_likely, change in _other_forms(node, target, tree.rule.constants):
                    (likely if is_likely else other).append(change)
        names.add(target)
        other += _as_elsewhere(elsewhere, statement, target)
    likely += _stored(tree)
    other += _orders(tree)
    for name, constant in tree.rule.constants.items():
        own = [x for x in dict.fromkeys(numbers) if _fits(name, x)][:12]
        likely += _numbers(name, constant.default, own)
        other += _numbers(name, constant.default, [x for x in NUMBERS.get(_kind(name), ()) if x not in own])
    return likely + other


def _other_forms(node, target, constants):
    """Yield what the table makes of an expression in the assignment to `target`, and whether that is likely."""
    made = set()
    for when, pattern, source, words in _ROWS:
        found: dict[str, Any] = {}
        if not _matches(pattern, node, found) or (when == "of_hat" and not target.endswith("_hat")):
            continue
        if ("K" in found and found["K"].id not in constants) or ("beta2" in source and "beta2" not in constants):
            continue
        new = _Filled(found).visit(ast.parse(source, mode="eval").body)
        if (text := ast.unparse(new)) not in made:
            made.add(text)
            said = {letter: _text(x) for letter, x in found.items()}
            said |= {"text": ast.unparse(node), "target": target}
            yield when != "other", Change(words.format(**said), node, new)


def _other_names(node, target, names, rule):
    """Another name for one in the assignment to `target`: of the same kind, and known by then."""
    pool = [x for x in rule.constants if node.id in rule.constants and _kind(x) == _kind(node.id)]
    if node.id in names:
        own = node.id.removesuffix("_hat")
        pool = [before(own)] * (own in ("p", *rule.state)) + sorted(names)
    return [Change(f"{x} for {node.id} in {target}", node, ast.Name(x)) for x in pool if x != node.id]


def _kind(name):
    return "beta" if name.startswith("beta") or name in ("gamma", "rho", "momentum") else name


def _fits(name, x):
    return 0 < x < {"beta": 1, "eps": 0.5}.get(_kind(name), float("inf"))


def _numbers(name, default, values):
    was = " whatever hyperparams says" if default is None else f" instead of {default:g}"
    return [Change(f"{name} = {x:g}{was}", name, float(x)) for x in values if x != default]


def _orders(tree):
    """One statement moved before another."""
    targets = [statement.targets[0].id for statement in tree.assignments]
    for i, j in itertools.combinations(range(len(targets)), 2):
        order = [k for k in range(len(targets)) if k != j]
        yield Change(f"{targets[j]} computed before {targets[i]}", ORDER, (*order[:i], j, *order[i:]))


def _as_elsewhere(trees, statement, target):
    """What the other rules of the spec have in this place."""
    for tree in trees:
        for other in tree.assignments:
            if other.targets[0].id == target and ast.dump(other.value) != ast.dump(statement.value):
                yield Change(f"{target} as in {tree.rule.name}", statement.value, other.value)


def _stored(tree):
    """What may become of `return p, *state`."""
    p, *state = tree.returned.elts
    for x in state:
        yield Change(f"{x.id} not stored", x, ast.Name(before(x.id)))
    for i, j in itertools.combinations(range(len(state)), 2):
        swapped = [*state]
        swapped[i], swapped[j] = swapped[j], swapped[i]
        words = f"{state[i].id} and {state[j].id} stored in each other's place"
        yield Change(words, tree.returned, ast.Tuple([p, *swapped]))


def explain(
    tree: Tree,
    runs: Sequence[dict[str, Any]],
    fits: Callable[[int, Any], bool],
    numbers: Iterable[float] = (),
    budget: int | None = None,
) -> Search:
    """Find the smallest sets of changes with which a rule makes a path, the likeliest first; [()] if it needs none.

    `fits(row, p)` says whether the path has `p` in that row; `numbers` are those in the code that made the path. The
    search is stopped after a `budget` of steps, by default `BUDGET`.
    """
    made = 0

    def makes_it(some):
        nonlocal made
        try:
            for row, p in enumerate(tree.follow(runs, some, "float32")):
                made += 1
                if not fits(row, p):
                    return False
        except (ArithmeticError, LookupError):  # one removes what another changes, or uses what is not there yet
            return False
        return True

    single = changes(tree, numbers)
    every = []
    for name, constant in tree.rule.constants.items():
        every += _numbers(name, constant.default, EVERY_NUMBER.get(_kind(name), ()))
    likeliest = single[:LIKELIEST]
    likeliest_first: list[Iterable[tuple[Change, ...]]] = [
        [()],
        ((x,) for x in single),
        ((x,) for x in every),
        itertools.combinations(single, 2),
        itertools.combinations(likeliest, 3),
        itertools.product((x for x in likeliest if x.of not in tree.rule.constants), every),
    ]
    for sets in likeliest_first:
        found: dict[tuple[str, ...], None] = {}
        for some in sets:
            if made >= (budget or BUDGET):
                return Search(list(found), stopped=True)
            if len({change.of for change in some}) == len(some) and makes_it(some):  # no two are of the same thing
                found[tuple(change.words for change in some)] = None
        if found:
            return Search(list(found))
    return Search([])
