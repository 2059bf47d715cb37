"""A rule as a syntax tree, which can be followed as it stands or with some changes."""

import ast
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy

from d2l_adam import render
from d2l_adam.check import drive
from d2l_adam.rule import WORDS, Rule

#: What is changed where statements change places.
ORDER = "the order"
OPERATIONS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


class Change(NamedTuple):
    """One change of a rule: its words, `of` what it is, and what is `new`.

    | `of` | `new` |
    |---|---|
    | an expression of the tree | the expression that takes its place, of which it may be a part |
    | the name of a constant | a number |
    | "t" | `count(t, k)`: the time step that is used for parameter `k` at step `t` |
    | ORDER | the numbers of the assignments, in another order |
    """

    words: str
    of: ast.expr | str
    new: Any


def before(name: str) -> str:
    """The name by which a changed rule has what `name` was before the step."""
    return f"the {name} from before the step"


class Tree:
    """The tree of a rule: its `assignments`, and the tuple that is `returned`; what it declares is in `rule`.

    Raises TypeError for a rule that is no Python function of assignments to single names.
    """

    def __init__(self, rule: Any):
        self.rule = Rule(rule)
        self.assignments, self.returned = _parts(self.rule)

    def takes(self, run: dict[str, Any]) -> bool:
        """Whether the rule has all of these hyperparameters, but for `lr`, which is always there, and needs no more."""
        needed = {name for name, constant in self.rule.constants.items() if constant.default is None}
        return needed <= {*run} <= {"lr", *self.rule.numbers}

    def follow(
        self, runs: Sequence[dict[str, Any]], changes: Iterable[Change] = (), dtype: str = "float64"
    ) -> Iterator[numpy.ndarray]:
        """Yield each row of the path that the rule takes with some changes: float arrays (elements,).

        Raises LookupError where one change has removed what another was to change.
        """
        changed = {change.of: change.new for change in changes}
        unused = {of for of in changed if isinstance(of, ast.expr)}
        statements = [self.assignments[i] for i in changed.get(ORDER, range(len(self.assignments)))]
        known = ("p", *self.rule.state)
        defaults = {name: constant.default for name, constant in self.rule.constants.items()}

        def value(node, names):
            while (new := changed.get(node)) is not None:
                unused.discard(node)
                node = new
            kind = type(node)  # asked like this for speed: for two changes at once, there are thousands of mutants
            if kind is ast.BinOp and type(node.op) in OPERATIONS:
                return OPERATIONS[type(node.op)](value(node.left, names), value(node.right, names))
            if kind is ast.Name:
                return names[node.id]
            if kind is ast.Constant:
                return node.value
            if kind is ast.Call:
                return getattr(numpy, node.func.id)(*[value(x, names) for x in node.args])
            if kind is ast.Tuple:
                return [value(x, names) for x in node.elts]
            if kind is ast.UnaryOp and type(node.op) is ast.USub:
                return -value(node.operand, names)
            source = ast.unparse(node)
            raise TypeError(f"the rule {self.rule.name} uses {source}; write it with + - * / ** and the spec's words")

        def step(run, t, p, g, *state):
            names = defaults | run | changed | {"g": g, "t": changed["t"](t, drive.PARAMETER) if "t" in changed else t}
            for name, x in zip(known, (p, *state), strict=True):
                names[name] = names[before(name)] = x
            for statement in statements:
                names[statement.targets[0].id] = value(statement.value, names)
            return value(self.returned, names)

        for number, p in enumerate(drive.follow(step, self.rule.initial.values(), runs, dtype)):
            yield p
            if unused and number:
                raise LookupError("one change has removed what another was to change")


def _parts(rule):
    """The assignments of a rule, and the tuple that it returns; what cannot be followed is refused."""
    end = ", ".join(("p", *rule.state))
    how = (
        f"write it in a file, as def {rule.name}(p, g, *state, t, lr, ...), assignments of arithmetic and "
        f"{', '.join(WORDS)} to single names, and return {end}"
    )
    try:
        tree = render.tree(rule.function)
    except ValueError:
        tree = None
    if not isinstance(tree, ast.FunctionDef):
        raise TypeError(f"the rule {rule.name} is not made by def, or its source is not at hand; {how}")
    last: Any
    *assignments, last = [node for node in tree.body if not isinstance(node, ast.Expr)] or [ast.Pass()]
    for node in assignments:
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
            raise TypeError(f"the rule {rule.name} has {ast.unparse(node)!r}; {how}")
    if ast.unparse(last) not in (f"return {end}", f"return ({end})"):
        raise TypeError(f"the rule {rule.name} ends with {ast.unparse(last)!r}; {how}")
    return assignments, last.value if rule.state else ast.Tuple([last.value])
