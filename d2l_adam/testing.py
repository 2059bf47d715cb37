"""For your own test suite: hold optimizers of several frameworks to one another, or to the spec.

    from d2l_adam.testing import assert_matches_spec, assert_tabs_agree, tab

The functions, or objects that can be called so, are in d2l's convention, `(params, states, hyperparams)` or
`(params, grads, states, hyperparams)`, and are driven as by `d2l-adam check`, but in your own process: through
gradients of order 1, 1e-4, 1e-8 and 1e3, zeros and sparse ones, for 300 steps, and again with other hyperparameters.
`tab` is a fixture: a test that takes it runs once for each framework that is here, with the tab's module.
"""

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from types import ModuleType
from typing import Any

from d2l_adam import drift, drive, mutants, optimizers, protocol, spec
from d2l_adam.check import Finding, told

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
) -> None:
    """Assert that functions of several tabs take the same path, step by step, but for rounding.

    `trainers` has a function for each tab, by d2l's name for it (`d2l_adam.TABS`); `init` its `init_..._states`, for
    each tab or one for all; left out, the state of each parameter is a pair of zeros `(v, s)`. `hyperparams` are those
    of the first run (default: `{"lr": 0.01, "t": 1}`); the second has others of the same names.

    The AssertionError says which tab stands alone, since which step, with which gradients, how far off it is, and,
    for the optimizers of the book's chapter, what it behaves as.

    >>> import d2l_adam.numpy, d2l_adam.torch
    >>> assert_tabs_agree({"numpy": d2l_adam.numpy.yogi, "pytorch": d2l_adam.torch.yogi})
    """
    if len(trainers) < 2:
        raise ValueError(f"there is nothing to compare {', '.join(trainers) or 'nothing'} with; give two tabs or more")
    inits = init if isinstance(init, dict) else dict.fromkeys(trainers, init)
    runs = drive.settings([*(hyperparams or _USUAL)], hyperparams or _USUAL)
    name = _name(next(iter(trainers.values())))
    paths = {tab: _path(protocol.load(tab), trainer, inits.get(tab), runs) for tab, trainer in trainers.items()}
    verdict = drift.judge(name, paths, runs, {tab: _numbers(trainer) for tab, trainer in trainers.items()})
    if verdict.odd:
        _fail(finding for finding in told(verdict) if finding.kind == "drift")


def assert_matches_spec(
    tab: ModuleType | str,
    trainer: Callable[..., Any],
    rule: str | Callable[..., Any],
    init: Init | None = None,
    hyperparams: dict[str, Any] | None = None,
) -> None:
    """Assert that a function of one tab takes the path of a rule, computed in float64.

    `rule` is a name of `d2l_adam.spec.BOOK` (adam, yogi, sgd, sgd_momentum, adagrad, rmsprop, adadelta), or a rule of
    your own: assignments of arithmetic, `sqrt`, `square` and `sign`, and `return p, v, s`. The rest is as in
    `assert_tabs_agree`.

    >>> from d2l_adam import torch
    >>> assert_matches_spec(torch, torch.adam, "adam")
    """
    tab = protocol.load(tab) if isinstance(tab, str) else tab
    if isinstance(rule, str) and rule not in spec.BOOK:
        raise ValueError(f"unknown rule {rule!r}; known: {', '.join(spec.BOOK)}")
    known = mutants.Rule(spec.BOOK[rule] if isinstance(rule, str) else rule)
    usual = {name: value for name, value in _USUAL.items() if name == "t" or name in known.constants}
    runs = drive.settings([*(hyperparams or usual)], hyperparams or usual)
    if not known.takes(runs[0]):
        raise ValueError(
            f"{known.name} takes {', '.join(known.constants)}; give hyperparams, at least those without default"
        )
    path = _path(tab, trainer, init, runs)
    far = drift.distance(drift.follow(known, runs), path)
    if not far.agree:
        search = mutants.explain(known, runs, path.fits, _numbers(trainer))
        _fail([Finding("drift", "", None, "", tab.NAME, f"differs from {known.name} of the spec {far}", *search)])


_USUAL = {"lr": 0.01, "t": 1}


def _path(tab, trainer, init, runs):
    try:
        args = list(inspect.signature(trainer).parameters.values())
    except (TypeError, ValueError):  # it cannot be called, or does not tell how
        args = []
    needed = [x for x in args if x.default is x.empty and x.kind in (x.POSITIONAL_ONLY, x.POSITIONAL_OR_KEYWORD)]
    if len(needed) not in (3, 4):
        raise TypeError(
            f"{tab.NAME}: {_name(trainer)} takes ({', '.join(map(str, args))}); "
            "give a function (params, states, hyperparams) or (params, grads, states, hyperparams)"
        )
    init = init or functools.partial(tab.init_adam_states, dtype="float32")
    return drift.Path(drive.drive(tab, trainer, init, runs, len(needed) == 4).paths)


def _code(trainer):
    """The function that does the work, or the class of an object that can be called."""
    while isinstance(trainer, functools.partial):
        trainer = trainer.func
    return trainer if hasattr(trainer, "__name__") else type(trainer)


def _name(trainer):
    return _code(trainer).__name__


def _numbers(trainer):
    try:
        return optimizers.numbers(ast.parse(textwrap.dedent(inspect.getsource(_code(trainer)))))
    except (OSError, TypeError, SyntaxError):
        return ()


def _fail(findings):
    raise AssertionError("\n".join(finding.text() for finding in findings))
