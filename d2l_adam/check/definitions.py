"""What the tabs of a section define: optimizers in d2l's convention, found in its cells without running any.

init_..._states(feature_dim)                      optional: the states of a weight and of a bias
sgd(params, states, hyperparams)                  the gradients are read from the parameters
sgd(params, grads, states, hyperparams)           the gradients are passed (TensorFlow)
"""

import ast
import contextlib
import re
import symtable
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2l_adam import TABS
from d2l_adam.check import markdown
from d2l_adam.check.tree import OPERATIONS

_MAGIC = re.compile(r"^([ \t]*)[%!?].*$", re.MULTILINE)
_INIT = re.compile(r"init_\w*states$")


@dataclass
class Definition:
    """How one tab defines an optimizer: on which line, with which arguments that have to be given.

    `init` is the name of the function that makes its states, `init_args` what that calls its argument, `hyperparams`
    those that it reads, each with a value that the section trains it with, or None, `numbers` those in its code.
    """

    line: int
    args: tuple[str, ...]
    init: str | None = None
    init_args: tuple[str, ...] = ()
    hyperparams: dict[str, Any] = field(default_factory=dict)
    numbers: tuple[float, ...] = ()

    @property
    def passed(self) -> bool | None:
        """Whether the gradients are passed to it; None if it is not in d2l's convention."""
        return {3: False, 4: True}.get(len(self.args))


@dataclass
class Section:
    """What a file has.

    `cells` are the sources of the cells of each tab, each line with its number in the file, `optimizers` their
    definitions by name, then by tab, and `unreadable` the line, the tab and the cause of what cannot be read.
    """

    cells: dict[str, list[str]]
    optimizers: dict[str, dict[str, Definition]]
    unreadable: list[tuple[int, str, str]]


def parse(source: str) -> ast.Module:
    """Parse the source of a cell, its shell and IPython magics left out."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.parse(_MAGIC.sub(r"\1pass", source))


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


def _statements(trees):
    return [node for tree in trees for node in tree.body if isinstance(node, _KINDS)]


def needed(trees: list[ast.Module], names: Iterable[str]) -> list[ast.stmt]:
    """Return the statements that define some names, and what these need, in order: no other has to be run."""
    nodes = _statements(trees)
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
        raise ValueError(f"it is a folder; {markdown.READ}")
    if file.suffix.lower() != ".md":
        raise ValueError(f"it is a file {file.suffix or 'without suffix'}; {markdown.READ}")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8 ({error})") from None
    section = Section({}, {}, [(line, "", "this fence is never closed") for line in markdown.unclosed(text)])
    code = [cell for cell in markdown.read(text, default_tab) if cell.kind == "code"]
    for line, opened in markdown.unread(text) if not code else ():
        section.unreadable.append((line, "", f"a fence {opened} is no cell; {markdown.READ}"))
        break  # the first says it for all
    trees: dict[str, list[ast.Module]] = {}
    for tab in dict.fromkeys(tab for cell in code for tab in cell.tabs or ()) or TABS[:3] * bool(code):
        section.cells[tab], trees[tab] = [], []
        for cell in code:
            source = cell.within(tab).in_place
            try:
                if cell.of(tab):
                    trees[tab].append(parse(source))
                    section.cells[tab].append(source)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                line = getattr(error, "lineno", None) or cell.line
                section.unreadable.append((line, tab, f"this cell is no Python ({getattr(error, 'msg', error)})"))
    functions = {
        tab: {node.name: node for tree in trees[tab] for node in tree.body if isinstance(node, ast.FunctionDef)}
        for tab in trees
    }
    names = [name for found in functions.values() for name, node in found.items() if _is_optimizer(node)]
    for name in dict.fromkeys(names):
        section.optimizers[name] = {}
        for tab, found in functions.items():
            if name in found:
                section.optimizers[name][tab] = _definition(found[name], found, trees[tab])
            elif otherwise := [node.lineno for node in _statements(trees[tab]) if name in bound(node)]:
                section.optimizers[name][tab] = Definition(otherwise[0], ())
    return section


def _args(node):
    """The names of the arguments that have to be given."""
    names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
    return tuple(names[: len(names) - len(node.args.defaults)])


def _is_optimizer(node):
    args = _args(node)
    return len(args) in (3, 4) and args[-2:] == ("states", "hyperparams") and not node.name.startswith("_")


def _definition(node, functions, trees):
    init, values = _trained(node.name, functions, trees)
    if init is None:
        inits = [x for x in functions.values() if _INIT.match(x.name) and len(_args(x)) == 1]
        before = [x for x in inits if x.lineno < node.lineno] or inits
        named = [x for x in inits if x.name.removeprefix("init_").removesuffix("_states") in node.name]
        init = next((x.name for x in reversed(named or before)), None)
    hyperparams = {}
    last = _args(node)[-1:]
    for x in ast.walk(node):
        match x:
            case ast.Subscript(ast.Name(name), ast.Constant(str(key))) if (name,) == last:
                hyperparams[key] = values.get(key)
            case ast.Call(ast.Attribute(ast.Name(name), "get"), [ast.Constant(str(key)), *default]) if (name,) == last:
                if key in values or not default:  # else it has a value of its own, with which the section trains
                    hyperparams[key] = values.get(key)
    return Definition(
        node.lineno, _args(node), init, _args(functions[init]) if init else (), hyperparams, numbers(node)
    )


def _trained(name, functions, trees):
    """How the section trains an optimizer: with the states of which init function, and with which numbers."""
    init, values = None, dict[Any, float]()
    for node in (node for tree in trees for node in ast.walk(tree)):
        given = [*node.args, *(x.value for x in node.keywords)] if isinstance(node, ast.Call) else []
        if not any(isinstance(x, ast.Name) and x.id == name for x in given):
            continue
        for x in given:
            match x:
                case ast.Call(ast.Name(function), [_, *_]) if function in functions:
                    init = init or function
                case ast.Dict(keys, entries):
                    for key, value in zip(keys, entries, strict=True):
                        if isinstance(key, ast.Constant) and (number := _number(value)) is not None:
                            values.setdefault(key.value, number)
    return init, values


def numbers(node: ast.AST) -> tuple[float, ...]:
    """Return the numbers in some code, also those that it works out of others, such as 10**-3."""
    return tuple(dict.fromkeys(number for x in ast.walk(node) if (number := _number(x)) is not None))


def _number(node):
    match node:
        case ast.Constant(value) if type(value) in (int, float):
            return value
        case ast.UnaryOp(ast.USub(), x):
            number = _number(x)
            return None if number is None else -number
        case ast.BinOp(x, op, y) if type(op) in OPERATIONS:
            with contextlib.suppress(ArithmeticError, TypeError):  # of what is no number, too
                value = OPERATIONS[type(op)](float(_number(x)), float(_number(y)))
                return value if isinstance(value, float) else None
    return None
