"""What an optimizer is: driven as the check drives those of a book, and held against the table of dialects."""

import ast
import contextlib
import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from d2l_adam import dialects, protocol
from d2l_adam.check import drift, drive, mutants
from d2l_adam.check.definitions import NAMES
from d2l_adam.check.tree import Tree
from d2l_adam.rule import Rule

#: Steps of changed rules that are made at most: a tenth of a check's, as there may be a hundred optimizers.
BUDGET = 30_000
_RUNS = drive.settings(["lr"])


class Identity(NamedTuple):
    """What an optimizer is.

    `rule` is the one of the table (`like` are the names there) whose path it takes, or, with `causes`, that it takes if
    it is changed so, or, where it is `far` from that, too, the nearest. Or `error` says why it could not be driven.
    """

    name: str
    version: str = ""
    rule: Rule | None = None
    like: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    far: drift.Distance | None = None
    error: str = ""

    def text(self) -> str:
        """The same as a line to read."""
        if self.rule is None:
            return f"{self.name}  could not be driven: {self.error}"
        numbers = [f"{key}={x.default:g}" for key, x in self.rule.constants.items() if key != "lr"]
        numbers += [f"{key} starts at {x:g}" for key, x in self.rule.initial.items() if x]
        said = self.rule.name + (f" ({', '.join(numbers)})" if numbers else "")
        if self.far:
            return f"{self.name}  none of these; the nearest, {said}, differs {self.far}"
        changed = f", but {'; '.join(self.causes)}" if self.causes else ""
        return f"{self.name}  {said}{changed}" + (f"; as {', '.join(self.like)}" if self.like else "")

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        rule = self.rule
        constants = {key: x.default for key, x in rule.constants.items() if key != "lr"} if rule else {}
        told = {"rule": rule and rule.name, "constants": constants, "initial": rule.initial if rule else {}}
        return self._asdict() | told | {"far": self.far and self.far._asdict()}


def names(pattern: str) -> list[str]:
    """The names that one with a star at its end stands for: the optimizers of a module, such as "torch.optim.*"."""
    if not pattern.endswith(".*"):
        return [pattern]
    module = _module(pattern[:-2])
    return [f"{pattern[:-1]}{name}" for name, x in vars(module).items() if name[0] != "_" and _framework(x, True)]


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
        words = " ".join(f"{type(error).__name__}: {error}".split())
        return Identity(name, version, error=f"{words[:200]}; what it has to be given may stand in brackets")
    shares: dict[Rule, float] = {}
    given = _constants(made)
    for rule in _candidates(name, given):
        right = _path(rule)
        if drift.distance(right, path).agree:
            return Identity(name, version, rule, _like(rule))
        shares[rule] = (drift.apart(right.rows, path.rows) <= right.limits).mean()
    nearest = max(shares, key=lambda rule: shares[rule])
    causes, _ = mutants.explain(Tree(nearest), _RUNS, path.fits, given.values(), BUDGET)
    if causes:
        return Identity(name, version, nearest, _like(nearest), causes[0])
    return Identity(name, version, nearest, _like(nearest), (), drift.distance(_path(nearest), path))


def as_function(made: Any, hyperparams: list[str]) -> tuple[Any, Any, Any, bool]:
    """Return a native optimizer as functions in d2l's convention: its tab, these, and whether it is passed gradients.

    `made` is a class of optimizers of PyTorch, Keras or MXNet, a function that makes one of optax's, or a class with
    `update(params, grads)`; `hyperparams` are what it is made with. Raises ValueError for what is none of these.
    """
    framework, takes = _framework(made), inspect.signature(made).parameters
    if not framework:
        raise ValueError("it is no optimizer of PyTorch, Keras, MXNet or optax, and has no update(params, grads)")
    ours: dict[str, str] = {NAMES.get(x, x): x for x in takes}
    if framework == "mxnet":
        ours.setdefault("lr", "learning_rate")
    how = {
        "pytorch": (made, "step", 0),
        "tensorflow": (made, "apply_gradients", 1),
        "mxnet": (functools.partial(_Updater, made), "step", 0),
        "numpy": (made, "update", 2),
        "optax": (functools.partial(_Transformation, made), "update", 2),
    }
    cls, method, number = how[framework]
    tab = protocol.load("numpy" if framework == "optax" else framework)
    passed = framework not in ("pytorch", "mxnet")
    chosen = {name: ours[name] for name in hyperparams if name in ours}
    return tab, *drive.as_function(tab, cls, (method, number, chosen), passed), passed


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


def _framework(made, only=False):
    """The tab that drives an optimizer, or "optax", or None; `only` if nothing but a library's own counts."""
    made = made.func if isinstance(made, functools.partial) else made
    bases = {(x.__module__.partition(".")[0], x.__name__) for x in getattr(made, "__mro__", ())[1:]}
    for module, tab in {"torch": "pytorch", "keras": "tensorflow", "tf_keras": "tensorflow", "mxnet": "mxnet"}.items():
        if (module, "Optimizer") in bases:
            return tab
    if inspect.isfunction(made) and made.__module__.startswith("optax"):
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
    module_name, _, last = path.rpartition(":" if ":" in path else ".")
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
        for tab in ("mxnet", "tensorflow"):  # they need the names that NumPy has dropped, and an order
            if top == tab or (tab == "tensorflow" and top in ("keras", "tf_keras", "tensorflow_addons")):
                protocol.load(tab)
        if name.endswith(".py"):
            spec: Any = importlib.util.spec_from_file_location(Path(name).stem, name)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        near = difflib.get_close_matches(name, {x.rpartition(".")[0] for x in dialects.TABLE})
        cure = f"pip install {top}" + (f"; near it: {', '.join(near)}" if near else "")
        raise ValueError(f"{name or 'a name without a module'} cannot be imported ({error}); {cure}") from None


def _constants(made) -> dict[str, float]:
    """The numbers that an optimizer is made with, by our names."""
    found: dict[str, Any] = {x.name: x.default for x in inspect.signature(made).parameters.values()}
    for name in ("betas", "beta"):
        if isinstance(found.get(name), (tuple, list)):
            found |= {f"beta{i}": x for i, x in enumerate(found[name], 1)}
    return {NAMES.get(key, key): float(x) for key, x in found.items() if type(x) in (int, float)}


def _candidates(name, given: Mapping[str, float]) -> Iterator[Rule]:
    """Yield the rules that an optimizer may be: the table's, that of its name first, also with its own constants."""
    rows = sorted(dialects.TABLE.values(), key=lambda row: row.name != name)
    rules = dict.fromkeys(row.rule for row in rows)
    own = {key: x for key, x in given.items() if key != "lr"}
    for rule in rules:
        for defaults in ({}, {key: x for key, x in own.items() if key in rule.constants}):
            made = Rule(rule, None, defaults)
            if all(x.default is not None for key, x in made.constants.items() if key != "lr"):
                yield made


def _like(rule):
    """The rows of the table that are a rule with its constants and its start."""
    return tuple(row.name for row in dialects.TABLE.values() if _key(row.rule) == _key(rule))


def _key(rule):
    return rule.name, rule.initial, {key: x.default for key, x in rule.constants.items() if key != "lr"}


@functools.cache
def _path(rule):
    return drift.Path(list(Tree(rule).follow(_RUNS)))
