"""What a step costs: this package, the chapter's code and each framework's own optimizers, side by side in one run.

All contestants of a case take turns, call by call, as noise comes in bursts: read the ratios rather than the times.
Each has its own arrays, and nothing is left to be done when its call returns.
"""

import contextlib
import functools
import io
import itertools
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from unittest import mock

import numpy

from d2l_adam import fused, protocol, render, spec
from d2l_adam.fused.threads import Pass, num_threads
from d2l_adam.rule import Rule

#: The shapes of the parameters; sizes from 1e5 on are one tensor each.
SIZES: dict[str, list[tuple[int, ...]]] = {
    "chapter": [(5, 1), (1,)],
    "1e5": [(10**5,)],
    "1e6": [(10**6,)],
    "1e7": [(10**7,)],
    "1e8": [(10**8,)],
    "1000 x 1000": [(1000,)] * 1000,
}
DEFAULT_SIZES = ("chapter", "1e5", "1e6", "1e7", "1000 x 1000")

#: A step reads p, g, v and s, and writes p, v and s, each in float32.
BYTES = 28

_TORCH, _KERAS = "torch.optim.Adam(fused=True)", ("keras Adam, tf.function", "keras Adam, XLA")

#: (tab, size, ours, against, goal): the fastest of `against` is to take `goal` times the time of ours, or more. This is
#: measured here, and never asserted.
GOALS: list[tuple[str, str, str, tuple[str, ...], float]] = [
    ("pytorch", "chapter", "adam, fused", (_TORCH,), 3),
    ("pytorch", "chapter", "adam, fused", (f"{_TORCH} and zero_grad",), 3),
    ("tensorflow", "chapter", "adam, graph", ("adam, the chapter's code",), 1.4),
    ("tensorflow", "chapter", "adam, optimizer, tf.function", _KERAS[:1], 1),
    ("mxnet", "chapter", "adam, fused", ("mx.nd.adam_update",), 3),
    ("pytorch", "1000 x 1000", "adam, fused", (_TORCH,), 1.5),
    ("tensorflow", "1000 x 1000", "adam, optimizer, tf.function", _KERAS[:1], 1),
    ("mxnet", "1000 x 1000", "adam, fused", ("mx.nd.adam_update",), 4),
    ("mxnet", "1000 x 1000", "adam, fused", ("mx.optimizer.Adam",), 4),
    ("pytorch", "1e7", "adam, optimizer", (_TORCH,), 1),
    ("mxnet", "1e7", "adam, fused", ("mx.nd.adam_update",), 5),
    ("tensorflow", "1e7", "adam, optimizer, tf.function", _KERAS[:1], 1),
    ("numpy", "1e7", "adam, fused", ("memory",), 1 / 1.15),
    ("pytorch", "1e7", "adam, optimizer", ("memory",), 1 / 1.15),
    ("mxnet", "1e7", "adam, fused", ("memory",), 1 / 1.15),
    *((tab, "1e7", "yogi, fused", ("adam, fused",), 1 / 1.1) for tab in ("numpy", "pytorch", "mxnet")),
]
#: The same for an epoch: d2l's `train_ch11` with our step, and `train`, against `train_ch11` with the chapter's code.
EPOCH_GOALS = {"pytorch": (1.3, 2), "mxnet": (1.3, 2), "tensorflow": (1.4, 8)}

Contestant = Callable[[], Any]
_LR = 1e-3


class Arrays:
    """Parameters, gradients and states of one contestant; `refill` before a step, as some set gradients to zero."""

    def __init__(self, tab, shapes):
        self.tab, self.module = tab, protocol.load(tab)
        start = [numpy.full(shape, 0.5, "float32") for shape in shapes]
        self.params = [self.module.TAB.parameter(x) for x in start]
        self.grads = [self.module.TAB.give(p, x.copy()) for p, x in zip(self.params, start, strict=True)]
        self.states = [tuple(self.module.TAB.zeros(shape, "float32") for _ in "vs") for shape in shapes]

    def refill(self):
        """Give each gradient its value again."""
        if self.tab == "pytorch":
            for p in self.params:
                p.grad.fill_(0.5)


def _function(arrays, step):
    """`step` in the calling convention of this tab, with nothing left to be done when it returns."""
    grads = () if arrays.tab in ("pytorch", "mxnet") else (arrays.grads,)
    step = functools.partial(step, arrays.params, *grads, arrays.states, {"lr": _LR, "t": 1})
    return _waiting(arrays, step) if arrays.tab == "mxnet" else step


def _waiting(arrays, *steps):
    def call():
        for step in steps:
            step()
        arrays.module.mxnet.nd.waitall()

    return call


def _ours(arrays, rule):
    return _function(arrays, getattr(arrays.module, rule))


def _eager(arrays, rule):
    step = _ours(arrays, rule)

    def call():
        choice = fused.choice()
        fused.set_fused(False)
        try:
            step()
        finally:
            fused.set_fused(choice)

    return call


def _rendered(tab, rule):
    namespace: dict[str, Any] = {}
    exec(render.render(tab, rule), namespace)
    return namespace[rule]


def _torch(arrays, make, zero_grad=False, **options):
    optimizer = make(arrays.params, lr=_LR, **options)
    if zero_grad:  # as `adam` does: its gradients are zero after
        return lambda: (optimizer.step(), optimizer.zero_grad(set_to_none=False))
    return optimizer.step


def _keras(arrays, make, **options):
    """A step in a tf.function, as in `fit`."""
    optimizer = make(_LR)
    optimizer.build(arrays.params)
    apply = functools.partial(optimizer.apply, trainable_variables=arrays.params)
    return functools.partial(arrays.module.tf.function(apply, **options), arrays.grads)


def _gluon(arrays, make):
    update = arrays.module.mxnet.optimizer.get_updater(make(_LR))
    steps = [lambda i=i, p=p: update(i, p.grad, p) for i, p in enumerate(arrays.params)]
    return _waiting(arrays, *steps)


def _adam_update(arrays):
    steps = []
    for p, state in zip(arrays.params, arrays.states, strict=True):
        row = [x.as_nd_ndarray() for x in (p, p.grad, *state)]
        steps.append(functools.partial(arrays.module.mxnet.nd.adam_update, *row, lr=_LR, out=row[0]))
    return _waiting(arrays, *steps)


def _of_the_rule(arrays):
    tf = arrays.module.tf
    t, states = tf.Variable(0.0), [[tf.Variable(tf.zeros(p.shape)) for _ in "vs"] for p in arrays.params]
    adam = Rule("adam").bound({"sqrt": tf.sqrt, "square": tf.square, "sign": tf.sign, "maximum": tf.maximum})

    @tf.function
    def step(grads):
        t.assign_add(1.0)
        for p, g, state in zip(arrays.params, grads, states, strict=True):
            for x, value in zip((p, *state), adam(p, g, *state, t, _LR), strict=True):
                x.assign(value)

    return functools.partial(step, arrays.grads)


def _apply_adam(arrays):
    tf = arrays.module.tf
    states = [[tf.Variable(tf.zeros(p.shape)).handle for _ in "vs"] for p in arrays.params]
    numbers = {"lr": _LR, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6, "beta1_power": 0.9, "beta2_power": 0.999}

    def call():
        for p, g, (v, s) in zip(arrays.params, arrays.grads, states, strict=True):
            tf.raw_ops.ResourceApplyAdam(var=p.handle, m=v, v=s, grad=g, **numbers)

    return call


def _native(arrays, rule):
    make = {"pytorch": _torch, "tensorflow": _keras, "mxnet": _gluon}[arrays.tab]
    return make(arrays, getattr(arrays.module, rule.capitalize()))


#: What this project has for a step of a rule.
_OURS = {
    "fused": _ours,
    "eager": _eager,
    "the chapter's code": lambda arrays, rule: _function(arrays, _rendered(arrays.tab, rule)),
    "optimizer": _native,
}
#: What some of them are there, as its arrays lend no memory, and its optimizers are for graphs.
_IN_TENSORFLOW = {"fused": "graph", "optimizer": "optimizer, tf.function"}
#: The Adams of the framework itself, its best first.
_THEIRS: dict[str, dict[str, Callable[[Arrays], Contestant]]] = {
    "numpy": {},
    "pytorch": {
        _TORCH: lambda a: _torch(a, a.module.torch.optim.Adam, fused=True),
        f"{_TORCH} and zero_grad": lambda a: _torch(a, a.module.torch.optim.Adam, fused=True, zero_grad=True),
        "torch.optim.Adam": lambda a: _torch(a, a.module.torch.optim.Adam),
    },
    "tensorflow": {
        _KERAS[0]: lambda a: _keras(a, a.module.keras.optimizers.Adam),
        _KERAS[1]: lambda a: _keras(a, a.module.keras.optimizers.Adam, jit_compile=True),
        "tf.function of the rule": _of_the_rule,
        "tf.raw_ops.ResourceApplyAdam": _apply_adam,
    },
    "mxnet": {
        "mx.nd.adam_update": _adam_update,
        "mx.optimizer.Adam": lambda a: _gluon(a, a.module.mxnet.optimizer.Adam),
    },
}


def contestants(tab: str, shapes, rules=tuple(spec.SECTION)) -> Iterator[tuple[str, Contestant, Arrays]]:
    """Yield what takes part in a case: a name, a step, and its arrays."""
    large = sum(map(math.prod, shapes)) > 3 * 10**7  # then only what has a chance, as each has arrays of its own
    made: dict[str, Callable[[Arrays], Contestant]] = {}
    for rule, (name, make) in itertools.product(rules, _OURS.items()):
        left_out = fused.facts()["why"] if name == "fused" else large or (tab, name) == ("numpy", "optimizer")
        if not left_out:
            name = _IN_TENSORFLOW.get(name, name) if tab == "tensorflow" else name
            made[f"{rule}, {name}"] = functools.partial(make, rule=rule)
    made |= itertools.islice(_THEIRS[tab].items(), 1 if large else None)
    if len(shapes) > 100:  # XLA compiles a thousand tensors for minutes
        made.pop(_KERAS[1], None)
    for name, step in made.items():
        arrays = Arrays(tab, shapes)
        yield name, step(arrays), arrays


def memory(tab: str, shapes) -> Contestant:
    """A pass that does nothing but read and write, in as many threads, and as much memory as a step has in all."""
    size = 2 * sum(math.prod(shape) for shape in shapes)
    x, y = (numpy.ones(size, "float32") for _ in range(2))

    def add(first, last, done, number):
        if not done[number]:
            numpy.add(x[first:last], y[first:last], out=x[first:last])
            done[number] = True

    return lambda: Pass(add, (), size, protocol.load(tab).TAB, ([], 0), False).run()


_MEMORY_BYTES = 24  # of such a pass, for each parameter: 2 arrays are read and 1 written, of 2 numbers each


def measure(tab: str, size: str, rules=tuple(spec.SECTION), seconds: float = 10.0, rounds: int = 5) -> dict[str, Any]:
    """Time the contestants of one case in turns, for about so many seconds and at least so many rounds.

    A turn is some calls, one after the other as in training, and counts with their median. Returns `contestants`, a
    list of dicts: `name`, the median `seconds` of a step, and `turns`, the seconds in each.
    """
    shapes = SIZES[size]
    number = sum(map(math.prod, shapes))
    made: list[tuple[str, Contestant, Arrays | None]] = [*contestants(tab, shapes, rules)]
    if number >= 10**5:
        made.append(("memory", memory(tab, shapes), None))
    turns: dict[str, Callable[[], float]] = {}
    for name, call, arrays in made:
        _turn(call, arrays, 3)  # what is compiled or allocated once is not counted
        turns[name] = functools.partial(_turn, call, arrays, 25 if number < 1000 else 3)
    began = time.perf_counter()
    taken = _in_turns(turns, lambda n: n < rounds or (time.perf_counter() - began < seconds and n < 200))
    return {"tab": tab, "size": size, "parameters": number, "tensors": len(shapes), "contestants": taken}


def _turn(call, arrays, calls):
    taken = []
    for _ in range(calls):
        if arrays:
            arrays.refill()
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _in_turns(turns: dict[str, Callable[[], float]], goes_on: Callable[[int], bool]) -> list[dict[str, Any]]:
    taken: dict[str, list[float]] = {name: [] for name in turns}
    for _ in itertools.takewhile(goes_on, itertools.count()):
        for name, turn in turns.items():
            taken[name].append(turn())
    return [{"name": name, "seconds": statistics.median(each), "turns": each} for name, each in taken.items()]


def epochs(tab: str, rounds: int = 3) -> list[dict[str, Any]]:
    """Time an epoch of the chapter: d2l's `train_ch11` with the chapter's code and with ours, and `train`."""
    module = protocol.load(tab)
    data_iter, feature_dim = module.d2l.get_data_ch11(batch_size=10)

    def train_ch11(step):
        states, hyperparams = module.init_adam_states(feature_dim), {"lr": 0.01, "t": 1}
        # d2l's printing and drawing, which it leaves out of its times too, take no part.
        with mock.patch.object(module.d2l, "Animator", _Still), contextlib.redirect_stdout(io.StringIO()):
            seconds, _ = module.d2l.train_ch11(step, states, hyperparams, data_iter, feature_dim, num_epochs=2)
        return seconds[-1] / 2

    turns: dict[str, Callable[[], float]] = {
        "train_ch11, the chapter's code": functools.partial(train_ch11, _rendered(tab, "adam")),
        "train_ch11, ours": functools.partial(train_ch11, module.adam),
        "train": lambda: protocol.train(tab).seconds_per_epoch,
    }
    for run in turns.values():  # the first is not counted
        run()
    return _in_turns(turns, lambda n: n < rounds)


class _Still:
    """An Animator that draws nothing."""

    def __init__(self, *args, **kwargs):
        self.Y: list[list[float]] = [[]]

    def add(self, x, y):
        self.Y[0].append(y[0])


def ratios(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return for each goal that was measured how often our time fits into the other's: the median and the quartiles."""
    rows = []
    for tab, size, ours, against, goal in GOALS:
        for case in result["cases"]:
            made = {x["name"]: x for x in case["contestants"]}
            others = [made[name] for name in against if name in made]
            if (case["tab"], case["size"]) == (tab, size) and ours in made and others:
                other = min(others, key=lambda x: x["seconds"])
                rows.append(_ratio(f"{tab}, {size}", made[ours], other, goal))
    for tab, (book, *ours) in result["epochs"].items():
        for mine, goal in zip(ours, EPOCH_GOALS[tab], strict=True):
            rows.append(_ratio(f"{tab}, an epoch", mine, book, goal))
    return rows


def _ratio(at, ours, other, goal):
    # What a pass over memory takes is counted for the bytes of a step.
    factor = BYTES / _MEMORY_BYTES if other["name"] == "memory" else 1
    turns = [factor * x / y for x, y in zip(other["turns"], ours["turns"], strict=True)]
    low, ratio, high = statistics.quantiles(turns, n=4)
    row = {"at": at, "ours": ours["name"], "against": other["name"], "ratio": ratio, "low": low, "high": high}
    return row | {"goal": goal, "met": ratio >= goal}


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    versions = {}
    for package in ("numpy", "numba", "torch", "tensorflow", "keras", "mxnet"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        name = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), name)
    return {
        "processor": name,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.now(UTC).date().isoformat(),
    }
