"""What an optimizer is: driven as the check drives those of a book, and held against the table of dialects."""

import ast
import contextlib
import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from d2l_adam import dialects, protocol, spec
from d2l_adam.check import definitions, drift, drive, mutants
from d2l_adam.check.definitions import NAMES
from d2l_adam.check.tree import Tree
from d2l_adam.rule import Rule

#: The tabs that have to be imported before these modules.
_TABS = {"mxnet": "mxnet", "torch": "pytorch", "torch_optimizer": "pytorch", "pytorch_optimizer": "pytorch"}
_TABS |= dict.fromkeys(("keras", "tensorflow", "tf_keras", "tensorflow_addons"), "tensorflow")
#: Changes are looked for of so many of the likeliest rules, each for so many steps: single ones, for the most part.
NEAREST, BUDGET = 4, 5_000
_RUNS = drive.settings(["lr"])


class Identity(NamedTuple):
    """What an optimizer is.

    `rule` is the one whose path it takes, with these `constants` and this `initial` state, `like` the rows of the table
    that are the same; or with `causes`, such changes of it. Where `step` is given it is none of these: the rule is the
    nearest, which it leaves there, and from which it is `apart` by that part of the way on average. Or `error` says why
    it could not be driven.
    """

    name: str
    version: str = ""
    rule: str = ""
    constants: Mapping[str, float] = {}
    initial: Mapping[str, float] = {}
    like: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    step: int | None = None
    apart: float = 0.0
    error: str = ""

    def text(self) -> str:
        """The same as a line to read."""
        if self.error:
            return f"{self.name}  could not be driven: {self.error}"
        numbers = [f"{key}={x:g}" for key, x in self.constants.items()]
        numbers += [f"{key} starts at {x:g}" for key, x in self.initial.items() if x]
        said = self.rule + (f" ({', '.join(numbers)})" if numbers else "")
        if self.step is not None:
            apart = f"is {self.apart:.2g} of the way apart, from step {self.step} on"
            return f"{self.name}  none of these; the nearest, {said}, {apart}"
        rest = f", but {'; '.join(self.causes)}" if self.causes else f"; as {', '.join(self.like)}" if self.like else ""
        return f"{self.name}  {said}{rest}"


def names(pattern: str) -> list[str]:
    """The names that one with a star at its end stands for: the optimizers of a module, such as "torch.optim.*"."""
    if not pattern.endswith(".*"):
        return [pattern]
    module = _module(pattern[:-2])
    return [f"{pattern[:-1]}{name}" for name, x in vars(module).items() if name[0] != "_" and framework(x, True)]


def identify(name: str) -> Identity:
    """Say what an optimizer is: `name` is an import path, or file:Class, and may have arguments in brackets.

    Its code runs in this process. Raises ValueError for an unknown name, and lists those near it.
    """
    made = _made(name)
    version = ""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version(name.partition(".")[0].replace("_", "-"))
    try:
        with warnings.catch_warnings(action="ignore"):
            tab, trainer, init, passed = as_function(made, ["lr"])
            path = drift.Path(drive.drive(tab, trainer, init, _RUNS, passed)[0])
    except Exception as error:  # whatever its code does
        words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        cure = "; what it is made with may stand in brackets" if "__init__() missing" in words else ""
        return Identity(name, version, error=words + cure)

    def told(rule, *more):
        constants = {key: x.default for key, x in rule.constants.items() if key != "lr"}
        rows = [x for x in dialects.TABLE.values() if (x.rule.name, x.rule.initial) == (rule.name, rule.initial)]
        like = [x.name for x in rows if all(x.rule.constants[k].default in (None, y) for k, y in constants.items())]
        return Identity(name, version, rule.name, constants, rule.initial, tuple(like), *more)

    apart: dict[Rule, float] = {}
    given = _constants(made)
    for rule in _candidates(name, given):
        if drift.distance(_path(rule), path).agree:
            return told(rule)
        apart[rule] = drift.apart(_path(rule), path)
    nearest: dict[Any, Rule] = {}
    for rule in sorted(apart, key=apart.__getitem__):
        nearest.setdefault(rule.function, rule)
    tried = (*given.values(), *numbers(made))
    last = re.split("[.:]", name.partition("(")[0])[-1].lower()  # those of its family are tried first
    likely = sorted(nearest.values(), key=lambda rule: (rule.name.partition("_")[0] not in last, apart[rule]))
    searches = {x: mutants.explain(Tree(x), _RUNS, path.fits, tried, BUDGET) for x in likely[:NEAREST]}
    if changed := [(rule, search.causes[0]) for rule, search in searches.items() if search.causes]:
        return told(*min(changed, key=lambda x: len(x[1])))
    rule = min(apart, key=apart.__getitem__)
    return told(rule, (), drift.distance(_path(rule), path).step, apart[rule])


def as_function(made: Any, hyperparams: list[str]) -> tuple[Any, Any, Any, bool]:
    """Return a native optimizer as functions in d2l's convention: its tab, these, and whether it is passed gradients.

    `made` is a class of optimizers of PyTorch, Keras or MXNet, a function that makes one of optax's, or a class with
    `update(params, grads)`; `hyperparams` are what it is made with. Raises ValueError for what is none of these.
    """
    tab = framework(made)
    if not tab:
        raise ValueError("it is no optimizer of PyTorch, Keras, MXNet or optax, and has no update(params, grads)")
    takes = inspect.signature(made).parameters
    ours: dict[str, str] = {NAMES.get(x, x): x for x in takes}
    if tab == "mxnet":
        ours.setdefault("lr", "learning_rate")
    how = {
        "pytorch": (made, "step", 0),
        "tensorflow": (made, "apply_gradients", 1),
        "mxnet": (functools.partial(_Updater, made), "step", 0),
        "numpy": (made, "update", 2),
        "optax": (functools.partial(_Transformation, made), "update", 2),
    }
    cls, method, number = how[tab]
    passed, module = tab not in ("pytorch", "mxnet"), protocol.load("numpy" if tab == "optax" else tab)
    if unknown := {*hyperparams} - {*ours, "lr"}:
        raise ValueError(f"it takes ({', '.join(takes)}), and no {' and no '.join(sorted(unknown))}")
    chosen = {name: ours[name] for name in hyperparams if name in ours}
    return module, *drive.as_function(module, cls, (method, number, chosen), passed), passed


class _Updater:
    """One of MXNet's optimizers, with a step."""

    def __init__(self, made, params, **given):
        self.params, self.update = params, importlib.import_module("mxnet").optimizer.get_updater(made(**given))

    def step(self):
        for i, p in enumerate(self.params):
            self.update(i, p.grad, p)


class _Transformation:
    """One of optax's gradient transformations, with an update."""

    def __init__(self, made, **given):
        self.transformation, self.state = made(**given), None
        self.compiled = importlib.import_module("jax").jit(self.transformation.update)

    def update(self, params, grads):
        if self.state is None:
            self.state = self.transformation.init([*params])
        updates, self.state = self.compiled([*grads], self.state, [*params])
        params[:] = [p + drive.numpy.asarray(x) for p, x in zip(params, updates, strict=True)]


def framework(made: Any, only: bool = False) -> str | None:
    """Return the tab that drives an optimizer, or "optax", or None; `only` if nothing but a library's own counts."""
    made = made.func if isinstance(made, functools.partial) else made
    for base in getattr(made, "__mro__", ())[1:]:
        if base.__name__ == "Optimizer" and (top := base.__module__.partition(".")[0]) in _TABS:
            return _TABS[top]
    if inspect.isfunction(made) and str(made.__module__).startswith(("optax", "d2l_adam.jax")):
        return "optax" if "learning_rate" in inspect.signature(made).parameters else None
    return "numpy" if isinstance(made, type) and hasattr(made, "update") and not only else None


def _made(name):
    """Import what a name says: a class, or a function that makes optimizers, with the arguments in its brackets."""
    path, _, inner = name.partition("(")
    try:
        call: Any = ast.parse(f"f({inner}" if inner else "f()", mode="eval").body
        options = {x.arg: ast.literal_eval(x.value) for x in call.keywords}
        options |= {x.id: drive.HYPERPARAMS.get(x.id, (0.9,))[0] for x in call.args}
    except (SyntaxError, ValueError, AttributeError):
        raise ValueError(f"{name!r} is no name with arguments, such as torch.optim.SGD(momentum=0.9)") from None
    if path.startswith(("tf.keras.", "tensorflow.keras.")):
        path = path[path.index("keras.") :]
    module_name, _, last = path.rpartition(":" if ":" in path else ".")
    if not module_name:
        dialects.find(path)  # which is not there, and lists those near it
    module = _module(module_name)
    if not hasattr(module, last):
        near = [x for x in dir(module) if x.lower() == last.lower()] or difflib.get_close_matches(last, dir(module))
        near = [f"{module_name}.{x}" for x in near] or difflib.get_close_matches(path, dialects.TABLE)
        raise ValueError(f"there is no {path}; near it: {', '.join(near) or 'nothing'}")
    made = getattr(module, last)
    return functools.partial(made, **options) if options else made


def _module(name):
    """Import a module, after what has to be imported before it; or the one that a file is."""
    top = name.partition(".")[0]
    try:
        if top in _TABS:
            protocol.load(_TABS[top])
        if name.endswith(".py"):
            found: Any = importlib.util.spec_from_file_location(name, name)
            sys.modules[name] = module = importlib.util.module_from_spec(found)  # where its source is looked for
            found.loader.exec_module(module)
            return module
        return importlib.import_module(name)
    except Exception as error:
        near = difflib.get_close_matches(name, sorted({x.rpartition(".")[0] for x in dialects.TABLE}))
        cure = f"; near it: {', '.join(near)}" if near else ""
        if isinstance(error, ModuleNotFoundError) and error.name == top:
            cure = f"; pip install {top}{cure}"
        raise ValueError(f"{name} cannot be imported ({type(error).__name__}: {error}){cure}") from None


def _constants(made) -> dict[str, float]:
    """The numbers that an optimizer is made with, by our names."""
    found: dict[str, Any] = {x.name: x.default for x in inspect.signature(made).parameters.values()}
    for name in ("betas", "beta"):
        if isinstance(found.get(name), (tuple, list)):
            found |= {f"beta{i}": x for i, x in enumerate(found[name], 1)}
    return {NAMES.get(key, key): float(x) for key, x in found.items() if type(x) in (int, float)}


def _candidates(name, given: Mapping[str, float]) -> Iterator[Rule]:
    """Yield the rules that it may be, of the table, first that of its name, and the spec; also with its constants."""
    rows = sorted(dialects.TABLE.values(), key=lambda row: row.name != name)
    rules = [*(row.rule for row in rows), *map(Rule, spec.RULES.values())]
    for rule in rules:
        for defaults in ({}, {key: x for key, x in given.items() if key != "lr" and key in rule.constants}):
            made = Rule(rule, None, defaults)
            if all(x.default is not None for key, x in made.constants.items() if key != "lr"):
                yield made


def code(made: Any) -> Any:
    """Return the function or class that does the work; of an object that can be called, its class."""
    while isinstance(made, functools.partial):
        made = made.func
    return made if hasattr(made, "__name__") else type(made)


def numbers(made: Any) -> tuple[float, ...]:
    """Return the numbers in the source of what does the work, as far as it is at hand."""
    try:
        return definitions.numbers(ast.parse(textwrap.dedent(inspect.getsource(code(made)))))
    except (OSError, TypeError, SyntaxError):
        return ()


@functools.cache
def _path(rule):
    return drift.Path(list(Tree(rule).follow(_RUNS)))
