"""What the tabs of a section define: optimizers in d2l's convention, found in its cells without running any.

init_..._states(feature_dim)                      optional: the states of a weight and of a bias
sgd(params, states, hyperparams)                  the gradients are read from the parameters
sgd(params, grads, states, hyperparams)           the gradients are passed (TensorFlow)
"""

import ast
import itertools
import re
import symtable
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from d2l_adam import TABS, book

_MAGIC = re.compile(r"^([ \t]*)[%!?].*$", re.MULTILINE)
_INIT = re.compile(r"init_\w*states$")


class Cell(NamedTuple):
    """The code of a cell as a tab has it, and the number in the file of each of its lines."""

    source: str
    lines: tuple[int, ...]


@dataclass
class Definition:
    """How one tab defines an optimizer."""

    line: int
    args: tuple[str, ...]
    #: The name of the function that makes its states, and what that calls its argument.
    init: str | None = None
    init_args: tuple[str, ...] = ()
    #: The hyperparameters that it reads, each with a value that the section trains it with, or None.
    hyperparams: dict[str, Any] = field(default_factory=dict)
    #: The numbers in its code.
    numbers: tuple[float, ...] = ()

    @property
    def passed(self) -> bool | None:
        """Whether the gradients are passed to it; None if it is not in d2l's convention."""
        return {3: False, 4: True}.get(len(self.args))


@dataclass
class Section:
    """The optimizers of a file: by name, then by tab; the cells of each tab; and what cannot be read of it."""

    file: Path
    cells: dict[str, list[Cell]]
    optimizers: dict[str, dict[str, Definition]]
    unreadable: list[tuple[int, str, str]]


def parse(cell: Cell) -> ast.Module:
    """Parse a cell, its shell and IPython magics left out; its nodes have the line numbers of the file."""
    try:
        tree = ast.parse(cell.source)
    except SyntaxError:
        tree = ast.parse(_MAGIC.sub(r"\1pass", cell.source))
    for node in ast.walk(tree):
        for name in ("lineno", "end_lineno"):
            if line := getattr(node, name, None):
                setattr(node, name, cell.lines[line - 1])
    return tree


_KINDS = (
    *(ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.AugAssign),
    *(ast.If, ast.Try),
)


def bound(node: ast.stmt) -> set[str]:
    """Return the names that a statement gives a value; "*" for what `from ... import *` does."""
    if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
        return {"*"}
    table = symtable.symtable(ast.unparse(node), "cell", "exec")
    return {x.get_name() for x in table.get_symbols() if x.is_assigned() or x.is_imported()}


def _used(node):
    """The names of the tab that a statement uses, now or when a function of it is called."""

    def names(table, top):
        used = {x.get_name() for x in table.get_symbols() if (x.is_referenced() if top else x.is_global())}
        return used.union(*(names(child, False) for child in table.get_children()))

    return names(symtable.symtable(ast.unparse(node), "cell", "exec"), True)


def needed(trees: list[ast.Module], names: Iterable[str]) -> list[ast.stmt]:
    """Return the statements that define some names, and what these need, in order: no other has to be run."""
    nodes = [node for tree in trees for node in tree.body if isinstance(node, _KINDS)]
    wanted, chosen, before = {"*", *names}, set[int](), -1
    while len(chosen) != before:
        before = len(chosen)
        for i, node in enumerate(nodes):
            if i not in chosen and wanted & bound(node):
                chosen.add(i)
                wanted |= _used(node)
    return [node for i, node in enumerate(nodes) if i in chosen]


def read(file: Path, default_tab: str = "mxnet") -> Section:
    """Read a section and find the optimizers of each tab. Raises OSError or ValueError if it is no Markdown."""
    if file.is_dir():
        raise ValueError(f"it is a folder; {book.READ}")
    if file.suffix.lower() != ".md":
        raise ValueError(f"it is a file {file.suffix or 'without suffix'}; {book.READ}")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8 ({error})") from None
    section = Section(file, {}, {}, [(line, "", "this fence is never closed") for line in book.unclosed(text)])
    code = [cell for cell in book.read(text, default_tab) if cell.kind == "code"]
    if not code:
        unread = itertools.islice(book.unread(text), 1)  # the first says it for all
        section.unreadable += [(line, "", f"a fence {opened} is no cell; {book.READ}") for line, opened in unread]
    trees: dict[str, list[ast.Module]] = {}
    for tab in dict.fromkeys(tab for cell in code for tab in cell.tabs or ()) or TABS[:3] * bool(code):
        its = [cell.within(tab) for cell in code if cell.of(tab)]
        section.cells[tab], trees[tab] = [], []
        for cell in (Cell(cell.source, cell.lines) for cell in its):
            try:
                trees[tab].append(parse(cell))
                section.cells[tab].append(cell)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                line = cell.lines[min(getattr(error, "lineno", None) or 1, len(cell.lines)) - 1]
                section.unreadable.append((line, tab, f"this cell is no Python ({getattr(error, 'msg', error)})"))
    functions = {
        tab: {node.name: node for tree in trees[tab] for node in tree.body if isinstance(node, ast.FunctionDef)}
        for tab in trees
    }
    names = dict.fromkeys(name for its in functions.values() for name, node in its.items() if _is_optimizer(node))
    for name in names:
        section.optimizers[name] = {}
        for tab, found in functions.items():
            if name in found:
                section.optimizers[name][tab] = _definition(found[name], found, trees[tab])
            elif line := _otherwise(name, trees[tab]):
                section.optimizers[name][tab] = Definition(line, ())
    return section


def _otherwise(name, trees):
    """The line on which a name gets its value otherwise than by `def`."""
    nodes = (node for tree in trees for node in tree.body if isinstance(node, _KINDS))
    return next((node.lineno for node in nodes if name in bound(node)), None)


def _args(node):
    """The names of the arguments that have to be given."""
    names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
    return tuple(names[: len(names) - len(node.args.defaults)])


def _is_optimizer(node):
    args = _args(node)
    return len(args) in (3, 4) and args[-2:] == ("states", "hyperparams") and not node.name.startswith("_")


def _definition(node, functions, trees):
    definition = Definition(node.lineno, _args(node))
    init, values = _trained(node.name, functions, trees)
    inits = [x for x in functions.values() if _INIT.match(x.name) and len(_args(x)) == 1]
    if init is None:
        before = [x for x in inits if x.lineno < node.lineno] or inits
        named = [x for x in inits if x.name.removeprefix("init_").removesuffix("_states") in node.name]
        init = next((x.name for x in reversed(named or before)), None)
    if init is not None:
        definition.init, definition.init_args = init, _args(functions[init])
    last = definition.args[-1]
    for x in ast.walk(node):
        key = None
        if isinstance(x, ast.Subscript) and isinstance(x.value, ast.Name) and x.value.id == last:
            key = x.slice
        elif isinstance(x, ast.Call) and ast.unparse(x.func) == f"{last}.get" and x.args:
            key = x.args[0]
            if isinstance(key, ast.Constant) and len(x.args) > 1 and key.value not in values:
                continue  # it has a value of its own, with which the section trains
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            definition.hyperparams[key.value] = values.get(key.value)
    definition.numbers = numbers(node)
    return definition


def _trained(name, functions, trees):
    """How the section trains an optimizer: with the states of which init function, and with which numbers."""
    init, values = None, dict[Any, float]()
    for node in (node for tree in trees for node in ast.walk(tree)):
        given = [*node.args, *(x.value for x in node.keywords)] if isinstance(node, ast.Call) else []
        if not any(isinstance(x, ast.Name) and x.id == name for x in given):
            continue
        for x in given:
            if isinstance(x, ast.Call) and isinstance(x.func, ast.Name) and x.func.id in functions and x.args:
                init = init or x.func.id
            if isinstance(x, ast.Dict):
                for key, value in zip(x.keys, x.values, strict=True):
                    if isinstance(key, ast.Constant) and (number := _number(value)) is not None:
                        values.setdefault(key.value, number)
    return init, values


def numbers(node: ast.AST) -> tuple[float, ...]:
    """Return the numbers in some code, also those that it works out of others, such as 10**-3."""
    return tuple(dict.fromkeys(number for x in ast.walk(node) if (number := _number(x)) is not None))


def _number(node):
    if isinstance(node, ast.Constant):
        return node.value if type(node.value) in (int, float) else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _number(node.operand)
        return None if number is None else -number
    if isinstance(node, ast.BinOp):
        left, right = _number(node.left), _number(node.right)
        if left is None or right is None or max(abs(left), abs(right)) > 1e6:
            return None
        try:
            value = {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}.get(type(node.op))
            if isinstance(node.op, ast.Div):
                value = left / right
            elif isinstance(node.op, ast.Pow) and abs(right) <= 100:
                value = left**right
        except (ArithmeticError, ValueError):
            return None
        return value if isinstance(value, (int, float)) else None
    return None
