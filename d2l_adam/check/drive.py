"""The drive: any optimizer in d2l's convention, run on the same gradients from the same start in every tab.

A weight and a bias, as the chapter's model has them, are stepped in two runs, the second of them with other
hyperparameters. Each element has gradients of one regime; what is compared is where it is after every step: its
path, an array with a row for the start of each run and for each of its steps.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy

from d2l_adam import contract

#: How many steps the runs have; the second only has to tell whether the hyperparameters are heeded.
STEPS = (300, 60)
#: The number of the step in its run, of each row of a path.
STEP = numpy.concatenate([numpy.arange(steps + 1) for steps in STEPS])
FEATURES = 48  # so that the bias has gradients of order 1
SHAPES = (FEATURES, 1), (1,)
#: The regimes of gradients. Element by element they take turns.
REGIMES = ("of order 1", "of order 1e-4", "of order 1e-8", "of order 1e3", "exactly 0", "sparse")
#: What hyperparameters are set to, in one run and in the other, if the section does not say; any other is 0.9 and 0.5.
HYPERPARAMS = {
    "lr": (0.01, 0.05),
    "t": (1, 1),
    "beta1": (0.9, 0.8),
    "beta2": (0.999, 0.99),
    "eps": (1e-6, 1e-4),
    "wd": (0.1, 0.05),
    "weight_decay": (0.1, 0.05),
}
_SIZES = [int(numpy.prod(shape)) for shape in SHAPES]
#: The regime of each element, counted through all parameters, and the number of its parameter.
REGIME = numpy.arange(sum(_SIZES)) % len(REGIMES)
PARAMETER = numpy.repeat(numpy.arange(len(SHAPES)), _SIZES)


@functools.cache
def start() -> numpy.ndarray:
    """Where the elements start: half of them at 0, where the smallest step shows; float32."""
    rng = numpy.random.default_rng(0)
    p = rng.normal(scale=0.5, size=len(REGIME)) * (rng.permutation(len(REGIME)) % 2)
    return _fixed(p)


@functools.cache
def gradients() -> numpy.ndarray:
    """The gradients of all steps, (steps, elements), around a mean of each element's own; float32."""
    rng = numpy.random.default_rng(1)
    g = rng.normal(size=(STEPS[0], len(REGIME))) + rng.normal(size=len(REGIME))
    scale = numpy.array([1, 1e-4, 1e-8, 1e3, 0, 1])[REGIME]
    seldom = (REGIMES.index("sparse") == REGIME) & (rng.uniform(size=g.shape) > 0.1)
    return _fixed(g * scale * ~seldom)


def _fixed(x):
    x = x.astype("float32")
    x.flags.writeable = False
    return x


def settings(names: Sequence[str], values: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The hyperparameters `names` of both runs; `values` are the section's own, for the first."""
    runs = [{name: HYPERPARAMS.get(name, (0.9, 0.5))[run] for name in names} for run in range(2)]
    first = {name: value for name, value in (values or {}).items() if name in runs[0] and value is not None}
    # The other run has to have other values.
    second = {name: runs[0][name] for name, value in first.items() if name != "t" and value == runs[1][name]}
    return runs[0] | first, runs[1] | second


def drive(
    tab: ModuleType,
    trainer: Callable[..., Any],
    init: Callable[[int], Any] | None,
    runs: Sequence[dict[str, Any]],
    passed: bool,
) -> tuple[numpy.ndarray, list[str]]:
    """Run an optimizer in a tab: the path it takes, float32, and what is to be told of it.

    `init` makes its states, `passed` says whether it is passed the gradients.
    """
    path, notes = [], dict[str, None]()
    for run, steps in zip(runs, STEPS, strict=True):
        hyperparams = {**run}
        params = [tab.TAB.parameter(x) for x in split(start())]
        states: Any = init(FEATURES) if init else [None] * len(params)
        path.append(start())
        for row in gradients()[:steps]:
            gives = [tab.TAB.give(p, g) for p, g in zip(params, split(row), strict=True)]
            if not passed and gives[0] is not None:
                cure = "give it (params, grads, states, hyperparams)"
                raise TypeError(f"a parameter has no gradient in {tab.TAB.name}; {cure}")
            grads = gives if gives[0] is not None else [p.grad for p in params]
            # As d2l does: a list of its own each time, so that only what is changed in place lasts (in JAX, returned).
            returned = trainer([*params], *([grads] if passed else []), states, hyperparams)
            if tab.TAB.name == "jax":  # its arrays cannot be written: in the book, those that are returned go on
                params = [*contract.listed(tab.TAB, "what it returns", returned)]
            elif returned is not None:
                notes["returns a value, which d2l's train_ch11 does not look at"] = None
            path.append(numpy.concatenate([numpy.asarray(tab.TAB.asnumpy(p), "float32").reshape(-1) for p in params]))
            if tab.TAB.name == "pytorch" and not passed and any(p.grad is not None and p.grad.any() for p in params):
                notes["does not set the gradients to zero; backward adds to them"] = None
        if path[-1].size != len(REGIME):
            cure = "parameters have to be changed in place"
            raise ValueError(f"it leaves {path[-1].size} elements of {len(REGIME)}: {cure}")
    return numpy.array(path), list(notes)


class _Listed(list):
    """Parameters, or gradients, for code that may take them for a dict, such as *Deep Learning from Scratch*'s."""

    def keys(self):
        return range(len(self))

    def items(self):
        return enumerate(self)


def as_function(
    tab: ModuleType, cls: Any, how: Sequence[Any], passed: bool
) -> tuple[Callable[..., None], Callable[[int], list]]:
    """Return a class of optimizers as the functions of d2l's convention: what makes a step, and what makes its states.

    It is made with hyperparameters; if it is not `passed` the gradients, with the parameters before. `how` is the name
    of the method that steps, its number of arguments, and the names of the hyperparameters by ours. What it puts in the
    place of a parameter is written to that.
    """
    method, number, names = how

    def step(params, *rest):
        *grads, made, hyperparams = rest
        given = {name: hyperparams[key] for key, name in names.items()}
        if not made:
            made.append(cls(**given) if passed else cls(params, **given))
        taken = _Listed(params)
        both = [taken, _Listed(*grads)] if passed else [1]
        getattr(made[0], method)(*([zip(*reversed(both), strict=True)] if passed and number == 1 else both[:number]))
        for p, x in zip(params, taken, strict=True):
            if p is not x:
                tab.TAB.write([p], [x])

    return step, lambda features: []


def split(row: numpy.ndarray) -> list[numpy.ndarray]:
    """Return the values of each parameter, in its shape."""
    parts = numpy.split(row, numpy.cumsum(_SIZES)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, SHAPES, strict=True)]


def follow(
    step: Callable[..., Any], initial: Iterable[float], runs: Sequence[dict[str, Any]], dtype: str = "float64"
) -> Iterator[numpy.ndarray]:
    """Make steps `step(run, t, p, g, *state)` on the same gradients, from `initial` states; yield each row of it."""
    for run, steps in zip(runs, STEPS, strict=True):
        p, *state = start().astype(dtype), *(numpy.full(len(REGIME), x, dtype) for x in initial)
        yield p
        with numpy.errstate(all="ignore"):
            for number, g in enumerate(gradients()[:steps].astype(dtype)):
                p, *state = (numpy.asarray(x, dtype) for x in step(run, run.get("t", 1) + number, p, g, *state))
                yield p
