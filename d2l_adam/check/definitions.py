"""What the tabs of a section define: optimizers in d2l's convention, found in its cells without running any.

init_..._states(feature_dim)                      optional: the states of a weight and of a bias
sgd(params, states, hyperparams)                  the gradients are read from the parameters
sgd(params, grads, states, hyperparams)           the gradients are passed (TensorFlow)

Or a class, made with hyperparameters, and with `params` before them unless they are passed to what makes the step:
step(), step(batch_size), step(params, grads), update(params, grads) or apply_gradients(grads_and_params).
"""

import ast
import contextlib
import re
import symtable
import sys
from collections import namedtuple
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2l_adam import TABS
from d2l_adam.check import markdown, notebooks
from d2l_adam.check.tree import OPERATIONS

#: How many tabs and optimizers a file may have, and how many of its mistakes are told one by one.
MOST_TABS, MOST_OPTIMIZERS, MOST_UNREADABLE = 16, 200, 20
_MAGIC = re.compile(r"^([ \t]*)[%!?].*$", re.MULTILINE)
_INIT = re.compile(r"init_\w*states$")
#: What optimizers that are classes call the rules' constants.
NAMES = {"learning_rate": "lr", "beta_1": "beta1", "beta_2": "beta2", "b1": "beta1", "b2": "beta2", "epsilon": "eps"}


@dataclass
class Definition:
    """How one tab defines an optimizer: on which line, with which arguments that have to be given.

    `init` is the name of the function that makes its states, `init_args` what that calls its argument, `hyperparams`
    those that it reads, each with a value that the section trains it with, or None, `numbers` those in its code. Of a
    class, `step` has the name of the method, its number of arguments, and what its hyperparameters are called.
    """

    line: int
    args: tuple[str, ...]
    init: str | None = None
    init_args: tuple[str, ...] = ()
    hyperparams: dict[str, Any] = field(default_factory=dict)
    numbers: tuple[float, ...] = ()
    step: tuple[str, int, dict[str, str]] | None = None

    @property
    def passed(self) -> bool | None:
        """Whether the gradients are passed to it; None if it is not in d2l's convention."""
        return {3: False, 4: True}.get(len(self.args))


@dataclass
class Section:
    """What a file has.

    `cells` are the first line and the source of the cells of each tab, `optimizers` their
    definitions by name, then by tab, and `unreadable` the line, the tab and the cause of what cannot be read. A section
    of notebooks has several `files`, here by tab.
    """

    cells: dict[str, list[tuple[int, str]]]
    optimizers: dict[str, dict[str, Definition]]
    unreadable: list[tuple[int, str, str]]
    files: dict[str, str] = field(default_factory=dict)

    def add(self, part: "Section", file: Path) -> None:
        """Add what a file has."""
        self.cells |= part.cells
        self.files |= dict.fromkeys(part.cells, str(file))
        for name, in_tabs in part.optimizers.items():
            self.optimizers[name] = self.optimizers.get(name, {}) | in_tabs


def parse(source: str, line: int = 1) -> ast.Module:
    """Parse the source of a cell that begins on some line, its shell and IPython magics left out."""
    try:
        try:
            tree = ast.parse(source)
        except SyntaxError:
            tree = ast.parse(_MAGIC.sub(r"\1pass", source))
    except SyntaxError as error:
        error.lineno = (error.lineno or 1) + line - 1
        raise
    return ast.increment_lineno(tree, line - 1)


_KINDS = (
    *(ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.AugAssign),
    *(ast.If, ast.Try),
)


#: A statement, the names that it gives a value ("*": those of a module), and those of the tab that it uses, also later.
Statement = namedtuple("Statement", ("node", "bound", "used"))


def statements(trees: Iterable[ast.Module]) -> list[Statement]:
    """Return what the cells of a tab consist of."""
    found = []
    for node in (node for tree in trees for node in tree.body if isinstance(node, _KINDS)):
        table = symtable.symtable(ast.unparse(node), "cell", "exec")
        bound = {x.get_name() for x in table.get_symbols() if x.is_assigned() or x.is_imported()}
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            bound = {"*"}
        found.append(Statement(node, bound, _used(table, True)))
    return found


def _used(table, top):
    used = {x.get_name() for x in table.get_symbols() if (x.is_referenced() if top else x.is_global())}
    return used.union(*(_used(child, False) for child in table.get_children()))


def needed(statements: list[Statement], names: Iterable[str]) -> list[Statement]:
    """Return the statements that define some names, and what these need, in order: no other has to be run."""
    wanted, chosen = {"*", *names}, set[int]()
    while more := {i for i, statement in enumerate(statements) if statement.bound & wanted} - chosen:
        chosen |= more
        wanted |= {name for i in more for name in statements[i].used}
    return [statements[i] for i in sorted(chosen)]


def read(file: Path, default_tab: str | None = None, plain: bool = False) -> Section:
    """Read a section and find the optimizers of each tab. Raises OSError or ValueError if it cannot be read.

    `default_tab` is that of cells without one; left out, of a notebook they are refused, of Markdown they are of the
    first of the book's `config.ini`, else mxnet. `plain` says whether any fence of Python is a cell.
    """
    if file.is_dir():
        raise ValueError(f"it is a folder; {markdown.READ}")
    section = Section({}, {}, [])
    if file.suffix.lower() == ".ipynb":
        code = notebooks.read(file, default_tab or "")
    elif file.suffix.lower() == ".md":
        text = markdown.text_of(file)
        unclosed, others = markdown.unread(text)
        section.unreadable += [(line, "", "this fence is never closed") for line in unclosed]
        default_tab = default_tab or markdown.default_tab(file) or "mxnet"
        code = [cell for cell in markdown.read(text, default_tab, plain) if cell.kind == "code"]
        for line, opened in others[:1] if not code else ():  # the first says it for all
            section.unreadable.append((line, "", f"a fence {opened} is no cell; {markdown.READ}"))
    else:
        raise ValueError(f"it is a file {file.suffix or 'without suffix'}; {markdown.READ}")
    trees: dict[str, list[ast.Module]] = {}
    found: dict[str, list[Statement]] = {}
    made: dict[str, dict[str, ast.FunctionDef | ast.ClassDef]] = {}
    tabs = dict.fromkeys(tab for cell in code for tab in cell.tabs or ()) or TABS[:3] * bool(code)
    if len(tabs) > MOST_TABS:
        raise ValueError(f"it has {len(tabs)} tabs; {MOST_TABS} is the most that are read")
    for tab in tabs:
        section.cells[tab], trees[tab], found[tab] = [], [], []
        for cell in (cell.within(tab) for cell in code if cell.of(tab)):
            try:
                if cell.lines:
                    tree = parse(cell.in_place, cell.line)
                    found[tab] += statements([tree])
                    trees[tab].append(tree)
                    section.cells[tab].append((cell.line, cell.in_place))
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                why = getattr(error, "msg", str(error)) or type(error).__name__
                line = getattr(error, "lineno", cell.line)
                section.unreadable.append((line, tab, f"this cell is no Python ({why})"))
        kinds = ast.FunctionDef, ast.ClassDef  # told in this order
        made[tab] = {x.node.name: x.node for kind in kinds for x in found[tab] if isinstance(x.node, kind)}
    if (more := len(section.unreadable) - MOST_UNREADABLE) > 0:
        line, tab, _ = section.unreadable[MOST_UNREADABLE]
        section.unreadable[MOST_UNREADABLE:] = [(line, tab, f"{more} more of this kind from here on")]
    names = dict.fromkeys(name for in_tab in made.values() for name, node in in_tab.items() if _is_optimizer(node))
    if len(names) > MOST_OPTIMIZERS:
        raise ValueError(f"it has {len(names)} optimizers; {MOST_OPTIMIZERS} is the most that are read")
    section.optimizers = {name: {} for name in names}
    for tab, in_tab in made.items():
        functions = {name: node for name, node in in_tab.items() if isinstance(node, ast.FunctionDef)}
        lines = {name: x.node.lineno for x in reversed(found[tab]) for name in x.bound}
        calls = _calls(trees[tab])
        for name, definitions in section.optimizers.items():
            if name in functions:
                definitions[tab] = _definition(functions[name], functions, calls.get(name, ()))
            elif name in lines:
                definitions[tab] = (name in in_tab and _class(in_tab[name])) or Definition(lines[name], ())
    return section


def _args(node):
    """The names of the arguments that have to be given."""
    names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
    return tuple(names[: len(names) - len(node.args.defaults)])


def _is_optimizer(node):
    if isinstance(node, ast.ClassDef):
        return _class(node) is not None
    args = _args(node)
    return len(args) in (3, 4) and args[-2:] == ("states", "hyperparams") and not node.name.startswith("_")


_NO_INIT: Any = ast.parse("def __init__(self): pass").body[0]


def _class(node):
    """How a class is made and stepped as an optimizer, or None if it is none."""
    methods = {x.name: x for x in node.body if isinstance(x, ast.FunctionDef)}
    made = methods.get("__init__", _NO_INIT)
    arguments = [x.arg for x in (*made.args.args, *made.args.kwonlyargs)][1:]
    held = arguments[:1] in (["params"], ["parameters"])
    for name in (x for x in ("step", "update", "apply_gradients") if x in methods):
        takes = _args(methods[name])[1:]
        passed = name == "apply_gradients" or [x[:4] for x in takes] == ["para", "grad"]
        if passed != held and (passed or (name == "step" and len(takes) < 2)):
            only = [x.arg for x, y in zip(made.args.kwonlyargs, made.args.kw_defaults, strict=True) if not y]
            needed = (*_args(made), *only)
            names = {NAMES.get(x, x): x for x in arguments[held:] if x in needed or NAMES.get(x, x) == "lr"}
            args = "params", *["grads"] * passed, "states", "hyperparams"
            step = name, len(takes), names
            return Definition(node.lineno, args, None, (), dict.fromkeys(names), numbers(node), step)
    return None


def _definition(node, functions, given):
    init, values = _trained(functions, given)
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


def _calls(trees):
    """What is given in the calls that are given a name, by that name."""
    calls: dict[str, list[ast.expr]] = {}
    for node in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given = [*node.args, *(x.value for x in node.keywords)]
        for name in dict.fromkeys(x.id for x in given if isinstance(x, ast.Name)):
            calls.setdefault(name, []).extend(given)
    return calls


def _trained(functions, given):
    """How a section trains an optimizer: with the states of which init function, and with which numbers."""
    init, values = None, dict[Any, float]()
    for x in given:
        match x:
            case ast.Call(ast.Name(function), [_, *_]) if function in functions:
                init = init or function
            case ast.Dict(keys, entries):
                for key, value in zip(keys, entries, strict=True):
                    if isinstance(key, ast.Constant) and (number := _number(value, {})) is not None:
                        values.setdefault(key.value, number)
    return init, values


def numbers(node: ast.AST) -> tuple[float, ...]:
    """Return the numbers in some code, also those that it works out of others, such as 10**-3."""
    values: dict[int, Any] = {}
    _number(node, values)
    return tuple(dict.fromkeys(values[id(x)] for x in ast.walk(node) if values[id(x)] is not None))


def _number(node, values):
    """The number that an expression is, or None; those of all its parts go into `values`."""
    parts, number = [_number(x, values) for x in ast.iter_child_nodes(node)], None
    with contextlib.suppress(ArithmeticError, TypeError):  # of what is no number, too
        match node:
            case ast.Constant(value) if type(value) in (int, float):
                number = value
            case ast.UnaryOp(ast.USub()):
                number = -parts[1]
            case ast.BinOp() if type(node.op) in OPERATIONS:
                number = OPERATIONS[type(node.op)](float(parts[0]), float(parts[2]))
    finite = isinstance(number, (int, float)) and abs(number) <= sys.float_info.max
    values[id(node)] = number if finite else None
    return values[id(node)]
