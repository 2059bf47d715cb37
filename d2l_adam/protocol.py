"""The parity protocol: the chapter's training run, the same rows in the same order in every tab."""

import importlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from numbers import Integral
from typing import Any

import numpy

from d2l_adam import TABS, data, spec
from d2l_adam.rule import Rule

#: How far a loss curve may lie from the float64 reference, at its farthest point.
TOLERANCE = {"float32": 1e-6, "float64": 1e-14}


@dataclass(frozen=True, eq=False)  # arrays have no one truth value
class History:
    """What `train` returns: the loss curve, its cost, and where it ended."""

    epochs: list[float]
    losses: list[float]
    seconds_per_epoch: float
    params: list[numpy.ndarray]


#: The module of each tab, named as in d2l; the framework has the same name.
MODULE = {tab: "torch" if tab == "pytorch" else tab for tab in TABS}


def load(tab: str):
    """Import the module of a tab: `load("pytorch")` is `d2l_adam.torch`."""
    if tab not in TABS:
        raise ValueError(f"unknown tab {tab!r}; known: {', '.join(TABS)}")
    return importlib.import_module(f"d2l_adam.{MODULE[tab]}")


def train(
    tab: str = "pytorch",
    rule: str | Callable = "adam",
    lr: float = 0.01,
    batch_size: int = 10,
    num_epochs: int = 2,
    seed: int = 0,
    dtype: str = "float32",
    save_to: str | os.PathLike | None = None,
    load_from: str | os.PathLike | None = None,
    hyperparams: dict[str, float] | None = None,
) -> History:
    """Train the chapter's linear regression on the airfoil data, deterministically.

    NumPy's `default_rng(seed)` draws the weights (normal, scale 0.01; the bias is 0) and the order
    of the 1500 rows in each epoch, so every tab sees the same rows. The loss over all rows, the
    mean of half the squared error, is recorded whenever the examples seen reach a multiple of 200.

    `tab` is one of `d2l_adam.TABS`, `rule` the name of a rule of the spec or such a function, `lr` its learning rate
    if it has one, `hyperparams` what else it takes, such as `{"momentum": 0.5}`; `dtype` is
    "float32" or "float64"; `numpy` in float64 is the reference. In the result, `epochs` and
    `losses` are the curve, `seconds_per_epoch` leaves out the time to record it, and `params` are
    the final weights (5, 1) and bias (1,).

    `save_to` names a file for where the run ends, `load_from` one to go on from, which any tab has made:
    with the same settings and a larger `num_epochs`, the curve goes on as if nothing had come between.

    >>> history = train(tab="numpy", dtype="float64")
    >>> print(f"{history.losses[-1]:.3f} after {history.epochs[-1]:.0f} epochs")
    0.244 after 2 epochs
    """
    module = load(tab).TAB
    known = Rule(rule)
    if not isinstance(dtype, str) or dtype not in TOLERANCE:
        raise ValueError(f"unknown dtype {dtype!r}; known: {', '.join(TOLERANCE)}")
    for name, value, least in (("batch_size", batch_size, 1), ("num_epochs", num_epochs, 1), ("seed", seed, 0)):
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} is {value!r}; give a whole number from {least} on")
    features, labels, weights, bias = start(seed, dtype)
    step, hyperparams = module.step(known), dict(hyperparams or {}) | {"t": 1}
    if "lr" in known.constants:
        hyperparams["lr"] = lr
    for first in (True, False):
        params, loss, gradients = module.regression(weights.copy(), bias.copy())
        states = module.init_states(known, params)
        if first:  # what is compiled for the first step is not to be in the time of an epoch
            step(params, *gradients(features[:batch_size], labels[:batch_size]), states, {**hyperparams})
    if load_from is not None:
        module.load(load_from, params, states, hyperparams, rule=known)
    epochs, losses, seconds = [], [], 0.0
    schedule = list(batches(seed, batch_size, num_epochs))
    todo = schedule[int(hyperparams["t"]) - 1 :]
    for rows, epoch in todo:
        began = time.perf_counter()
        step(params, *gradients(features[rows], labels[rows]), states, hyperparams)
        seconds += time.perf_counter() - began
        if epoch:
            epochs.append(epoch)
            losses.append(float(module.asnumpy(loss(features, labels))))
    if save_to is not None:
        module.save(save_to, params, states, hyperparams, rule=known)
    seconds_per_epoch = seconds / max(len(todo), 1) * len(schedule) / num_epochs
    return History(epochs, losses, seconds_per_epoch, [module.asnumpy(p) for p in params])


def start(seed: int = 0, dtype: str = "float32"):
    """Return the features (1500, 5), the labels (1500, 1), and the first weights (5, 1) and bias (1,)."""
    features, labels = (x.astype(dtype) for x in data.airfoil())
    weights = numpy.random.default_rng(seed).normal(scale=0.01, size=(features.shape[1], 1))
    return features, labels, weights.astype(dtype), numpy.zeros(1, dtype)


def batches(seed: int = 0, batch_size: int = 10, num_epochs: int = 2) -> Iterator[tuple[numpy.ndarray, float | None]]:
    """Yield the rows of each batch, and the epochs seen after it if the loss is recorded there (else None)."""
    features, _ = data.airfoil()
    num_rows = len(features)
    rng = numpy.random.default_rng(seed)
    rng.normal(size=features.shape[1])  # the weights of `start`
    seen = 0
    for _ in range(num_epochs):
        order = rng.permutation(num_rows)
        for first in range(0, num_rows, batch_size):
            rows = order[first : first + batch_size]
            before, seen = seen, seen + len(rows)
            yield rows, seen / num_rows if seen // 200 > before // 200 else None


def installed() -> tuple[str, ...]:
    """Return the tabs whose framework is here; none is imported for that."""
    return tuple(tab for tab in TABS if find_spec(MODULE[tab]))


def compare(
    tabs: Iterable[str] | None = None, rules: Iterable[Any] = tuple(spec.SECTION), track: Callable = iter, **settings
) -> list[dict]:
    """Train each rule in each tab, and measure how far its loss curve is from the reference at every point.

    The reference is NumPy in float64, whatever the others compute in; it comes first among the
    curves of each rule. `tabs` is by default what is installed; `settings` are those of `train`;
    `track` may wrap the list of runs to show progress.

    Returns a dict a curve: `tab`, `rule`, `final_loss`, `max_distance`, `seconds_per_epoch`, and
    the lists `epochs`, `losses` and `distances`.

    >>> [curve["rule"] for curve in compare(tabs=["numpy"], num_epochs=1)]
    ['adam', 'yogi']
    """
    curves = []
    tabs = dict.fromkeys(("numpy", *(installed() if tabs is None else tabs)))
    for rule, tab in track([(rule, tab) for rule in dict.fromkeys(rules) for tab in tabs]):
        history = train(tab, rule, **settings | ({"dtype": "float64"} if tab == "numpy" else {}))
        if tab == "numpy":
            reference = numpy.array(history.losses)
        distances = abs(history.losses - reference)
        curves.append(
            {
                "tab": tab,
                "rule": Rule(rule).name,
                "final_loss": history.losses[-1],
                "max_distance": distances.max(),
                "seconds_per_epoch": history.seconds_per_epoch,
                "epochs": history.epochs,
                "losses": history.losses,
                "distances": distances.tolist(),
            }
        )
    return curves
