"""For your own test suite: hold optimizers of several frameworks to one another, or to the spec.

    from d2l_adam.testing import assert_matches_spec, assert_tabs_agree, tab

The functions, or objects that can be called so, are in d2l's convention, `(params, states, hyperparams)` or
`(params, grads, states, hyperparams)`, and are driven as by `d2l-adam check`, but in your own process: through
gradients of order 1, 1e-4, 1e-8 and 1e3, zeros and sparse ones, for 300 steps, and again with other hyperparameters.
`tab` is a fixture: a test that takes it runs once for each framework that is here, with the tab's module.
"""

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from d2l_adam import dialects, protocol, spec
from d2l_adam.check import Finding, drift, drive, identify, mutants
from d2l_adam.check.report import told
from d2l_adam.check.tree import Tree

try:
    import pytest
except ModuleNotFoundError:
    raise ModuleNotFoundError("pytest is not installed; pip install pytest", name="pytest") from None

__all__ = ["assert_matches_spec", "assert_tabs_agree", "tab"]

Init = Callable[[int], Any]


@pytest.fixture(params=protocol.installed())
def tab(request: Any) -> ModuleType:
    """The module of each tab whose framework is here, such as `d2l_adam.torch`, one after another."""
    return protocol.load(request.param)


def assert_tabs_agree(
    trainers: dict[str, Callable[..., Any]],
    init: dict[str, Init] | Init | None = None,
    hyperparams: dict[str, Any] | None = None,
    rule: str | Callable[..., Any] | None = None,
) -> None:
    """Assert that functions of several tabs take the same path, step by step, but for rounding.

    `trainers` has a function for each tab, by d2l's name for it (`d2l_adam.TABS`); `init` its `init_..._states`, for
    each tab or one for all. Left out, the states are float32 zeros, as a `rule` has them in the book's shape: None, an
    array or a tuple for each parameter. Left out too, that is the spec's of the first function's name, else `adam`.
    `hyperparams` are those of the first run (default: `{"lr": 0.01, "t": 1}`); the second has others of the same names.

    The AssertionError says which tab stands alone, since which step, with which gradients, how far off it is, and, for
    `rule` or the optimizers of the book's chapter, what it behaves as.

    >>> import d2l_adam.numpy, d2l_adam.torch
    >>> assert_tabs_agree({"numpy": d2l_adam.numpy.yogi, "pytorch": d2l_adam.torch.yogi})
    """
    if len(trainers) < 2:
        raise ValueError(f"there is nothing to compare {', '.join(trainers) or 'nothing'} with; give two tabs or more")
    inits = init if isinstance(init, dict) else dict.fromkeys(trainers, init)
    runs = drive.settings([*(hyperparams or _USUAL)], hyperparams or _USUAL)
    name = identify.code(next(iter(trainers.values()))).__name__
    tree = Tree(rule or (name if name in spec.RULES else "adam"))
    paths = {tab: _path(protocol.load(tab), trainer, inits.get(tab), tree, runs) for tab, trainer in trainers.items()}
    numbers = {tab: identify.numbers(trainer) for tab, trainer in trainers.items()}
    verdict = drift.judge(tree.rule.name if rule else name, paths, runs, numbers, [rule] if rule else spec.RULES)
    if verdict.odd:
        _fail(finding for finding in told(verdict) if finding.kind == "drift")


def assert_matches_spec(
    tab: ModuleType | str,
    trainer: Callable[..., Any],
    rule: str | Callable[..., Any],
    init: Init | None = None,
    hyperparams: dict[str, Any] | None = None,
) -> None:
    """Assert that a function of one tab, or a native optimizer, takes the path of a rule, computed in float64.

    `trainer` may be a class of optimizers of PyTorch, Keras or MXNet, a function that makes one of optax's, or a
    `functools.partial` of these; `hyperparams` are then what it is made with. `rule` is a name of `d2l_adam.spec.RULES`
    (adam, yogi, sgd, sgd_momentum, adagrad, rmsprop, adadelta ...), one that `d2l-adam dialects` prints, or a rule of
    your own, `rule(p, g, *state, t, *constants)` with any number of states: assignments of arithmetic, `sqrt`,
    `square`, `sign`, `maximum` and `abs`, and `return p, *state`, written out. The rest is as in `assert_tabs_agree`.

    >>> from d2l_adam import torch
    >>> assert_matches_spec(torch, torch.adam, "adam")
    >>> assert_matches_spec(torch, torch.Adam, "adam", hyperparams={"lr": 0.1, "eps": 1e-3})
    >>> assert_matches_spec(torch, torch.like("keras.optimizers.Adam"), "keras.optimizers.Adam")
    """
    tab = protocol.load(tab) if isinstance(tab, str) else tab
    tree = Tree(dialects.find(rule).rule if isinstance(rule, str) and "." in rule else rule)
    usual = {name: value for name, value in _USUAL.items() if name in tree.rule.numbers}
    runs = drive.settings([*(hyperparams or usual)], hyperparams or usual)
    if not tree.takes(runs[0]):
        constants = ", ".join(tree.rule.constants)
        raise ValueError(f"{tree.rule.name} takes {constants}; give hyperparams, at least those without default")
    right = drift.Path(list(tree.follow(runs)))  # first: what cannot be followed is refused
    path = _path(tab, trainer, init, tree, runs)
    far = drift.distance(right, path)
    if not far.agree:
        search = mutants.explain(tree, runs, path.fits, identify.numbers(trainer))
        message = f"differs from {tree.rule.name} of the spec {far}"
        _fail([Finding("drift", "", None, "", tab.TAB.name, message, *search)])


_USUAL = {"lr": 0.01, "t": 1}


def _path(tab, trainer, init, tree, runs):
    if identify.framework(trainer):
        names = [name for name in runs[0] if name != "t"]
        native, trainer, init, passed = identify.as_function(trainer, names)
        if native is not tab and native.TAB.name != "numpy":
            raise TypeError(f"{tab.TAB.name}: it is an optimizer of {native.TAB.name}; give that tab")
        return drift.Path(drive.drive(native, trainer, init, runs, passed)[0])
    try:
        args = list(inspect.signature(trainer).parameters.values())
    except (TypeError, ValueError):  # it cannot be called, or does not tell how
        args = []
    needed = [x for x in args if x.default is x.empty and x.kind in (x.POSITIONAL_ONLY, x.POSITIONAL_OR_KEYWORD)]
    if len(needed) not in (3, 4):
        raise TypeError(
            f"{tab.TAB.name}: {identify.code(trainer).__name__} takes ({', '.join(map(str, args))}); "
            "give a function (params, states, hyperparams) or (params, grads, states, hyperparams)"
        )
    init = init or functools.partial(tab.TAB.book_states, tree.rule, dtype="float32")
    return drift.Path(drive.drive(tab, trainer, init, runs, len(needed) == 4)[0])


def _fail(findings):
    raise AssertionError("\n".join(finding.text() for finding in findings))
