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

import numpy

from d2l_adam import binding, fused, protocol, render, spec

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
    ("tensorflow", "chapter", "adam, fused", (*_KERAS, "tf.function of the rule"), 5),
    ("mxnet", "chapter", "adam, fused", ("mx.nd.adam_update",), 3),
    ("pytorch", "1000 x 1000", "adam, fused", (_TORCH,), 1.5),
    ("tensorflow", "1000 x 1000", "adam, fused", _KERAS, 4),
    ("mxnet", "1000 x 1000", "adam, fused", ("mx.nd.adam_update",), 4),
    ("mxnet", "1000 x 1000", "adam, fused", ("mx.optimizer.Adam",), 4),
    ("pytorch", "1e7", "adam, optimizer", (_TORCH,), 1),
    ("mxnet", "1e7", "adam, fused", ("mx.nd.adam_update",), 5),
    ("tensorflow", "1e7", "adam, fused", _KERAS, 4),
    ("tensorflow", "1e7", "adam, fused", ("tf.raw_ops.ResourceApplyAdam",), 0.9),
    ("numpy", "1e7", "adam, fused", ("memory",), 1 / 1.15),
    ("pytorch", "1e7", "adam, optimizer", ("memory",), 1 / 1.15),
    ("mxnet", "1e7", "adam, fused", ("memory",), 1 / 1.15),
    ("tensorflow", "1e7", "adam, fused", ("memory",), 1 / 1.5),
    *((tab, "1e7", "yogi, fused", ("adam, fused",), 1 / 1.1) for tab in ("numpy", "pytorch", "mxnet", "tensorflow")),
]
#: The same for an epoch: d2l's `train_ch11` with our step, and `train`, against `train_ch11` with the chapter's code.
EPOCH_GOALS = {"pytorch": (1.3, 2), "mxnet": (1.3, 2), "tensorflow": (1.5, 8)}

Contestant = Callable[[], Any]
_LR = 1e-3


class Arrays:
    """Parameters, gradients and states of one contestant; `refill` before a step, as some set gradients to zero."""

    def __init__(self, tab, shapes):
        self.tab, self.module = tab, protocol.load(tab)
        start = [numpy.full(shape, 0.5, "float32") for shape in shapes]
        self.params = [self.module.parameter(x) for x in start]
        self.grads = [self.module.give(p, x.copy()) for p, x in zip(self.params, start, strict=True)]
        self.states = [tuple(self.module.zeros(shape, "float32") for _ in "vs") for shape in shapes]
        self.hyperparams = {"lr": _LR, "t": 1}

    def refill(self):
        """Give each gradient its value again."""
        if self.tab == "pytorch":
            for p in self.params:
                p.grad.fill_(0.5)

    def stepper(self, step):
        """`step` in the calling convention of this tab, with nothing left to be done when it returns."""
        grads = () if self.tab in ("pytorch", "mxnet") else (self.grads,)
        wait = self.module.mxnet.nd.waitall if self.tab == "mxnet" else lambda: None

        def call():
            step(self.params, *grads, self.states, self.hyperparams)
            wait()

        return call


def ours(tab: str, rule: str, shapes, large: bool = False) -> Iterator[tuple[str, Contestant, Arrays]]:
    """Yield what this project has for a step of `rule`: a name, a step, and its arrays."""
    module = protocol.load(tab)
    step = getattr(module, rule)
    if not fused.facts()["why"]:
        arrays = Arrays(tab, shapes)
        yield "fused", arrays.stepper(step), arrays
    if large:
        return
    arrays = Arrays(tab, shapes)
    yield "eager", _eagerly(arrays.stepper(step)), arrays
    arrays = Arrays(tab, shapes)
    namespace: dict[str, Any] = {}
    exec(render.render(tab, rule), namespace)
    yield "the chapter's code", arrays.stepper(namespace[rule]), arrays
    if tab != "numpy":
        arrays = Arrays(tab, shapes)
        yield "optimizer", _optimizer(arrays, rule), arrays


def _eagerly(step):
    def call():
        choice = fused.choice()
        fused.set_fused(False)
        try:
            step()
        finally:
            fused.set_fused(choice)

    return call


def _optimizer(arrays, rule):
    make = getattr(arrays.module, rule.capitalize())
    if arrays.tab == "pytorch":
        return make(arrays.params, lr=_LR).step
    if arrays.tab == "tensorflow":
        optimizer = make(_LR)
        optimizer.build(arrays.params)
        return lambda: optimizer.apply(arrays.grads, arrays.params)
    return _updater(arrays, make(_LR))


def _updater(arrays, optimizer):
    mxnet = arrays.module.mxnet
    update = mxnet.optimizer.get_updater(optimizer)

    def call():
        for i, p in enumerate(arrays.params):
            update(i, p.grad, p)
        mxnet.nd.waitall()

    return call


def theirs(tab: str, shapes) -> Iterator[tuple[str, Contestant, Arrays]]:
    """Yield the Adams of the framework itself, its best first."""
    if tab == "pytorch":
        arrays = Arrays(tab, shapes)
        torch = arrays.module.torch
        yield _TORCH, torch.optim.Adam(arrays.params, lr=_LR, fused=True).step, arrays
        arrays = Arrays(tab, shapes)
        optimizer = torch.optim.Adam(arrays.params, lr=_LR, fused=True)
        # As `adam` does: its gradients are zero after.
        yield f"{_TORCH} and zero_grad", lambda: (optimizer.step(), optimizer.zero_grad(set_to_none=False)), arrays
        arrays = Arrays(tab, shapes)
        yield "torch.optim.Adam", torch.optim.Adam(arrays.params, lr=_LR).step, arrays
    elif tab == "tensorflow":
        yield from _tensorflow(shapes)
    elif tab == "mxnet":
        arrays = Arrays(tab, shapes)
        mxnet = arrays.module.mxnet
        yield "mx.nd.adam_update", _adam_update(arrays), arrays
        arrays = Arrays(tab, shapes)
        yield "mx.optimizer.Adam", _updater(arrays, mxnet.optimizer.Adam(_LR)), arrays


def _adam_update(arrays):
    mxnet = arrays.module.mxnet
    rows = [
        tuple(x.as_nd_ndarray() for x in (p, p.grad, *pair))
        for p, pair in zip(arrays.params, arrays.states, strict=True)
    ]

    def call():
        for p, g, v, s in rows:
            mxnet.nd.adam_update(p, g, v, s, lr=_LR, out=p)
        mxnet.nd.waitall()

    return call


def _tensorflow(shapes):
    arrays = Arrays("tensorflow", shapes)
    tf, keras = arrays.module.tf, arrays.module.keras
    # XLA compiles a thousand tensors for minutes.
    for name, jit in list(zip(_KERAS, (False, True), strict=True))[: 1 if len(shapes) > 100 else 2]:
        arrays = Arrays("tensorflow", shapes)
        optimizer = keras.optimizers.Adam(_LR)
        optimizer.build(arrays.params)
        apply = tf.function(functools.partial(optimizer.apply, trainable_variables=arrays.params), jit_compile=jit)
        yield name, functools.partial(apply, arrays.grads), arrays
    arrays = Arrays("tensorflow", shapes)
    yield "tf.function of the rule", _function(arrays), arrays
    arrays = Arrays("tensorflow", shapes)
    yield "tf.raw_ops.ResourceApplyAdam", _apply_adam(arrays), arrays


def _function(arrays):
    tf, kernel, t = arrays.module.tf, binding.kernel(arrays.module, spec.adam), arrays.module.tf.Variable(0.0)
    states = [[tf.Variable(tf.zeros(p.shape)) for _ in "vs"] for p in arrays.params]

    @tf.function
    def step(grads):
        t.assign_add(1.0)
        for p, g, (v, s) in zip(arrays.params, grads, states, strict=True):
            for x, value in zip((p, v, s), kernel(p, g, v, s, t, _LR), strict=True):
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


def memory(tab: str, shapes) -> Contestant:
    """A pass that does nothing but read and write, in as many threads, and as much memory as a step has in all."""
    size = 2 * sum(math.prod(shape) for shape in shapes)
    x, y = (numpy.ones(size, "float32") for _ in range(2))

    def add(first, last):
        numpy.add(x[first:last], y[first:last], out=x[first:last])

    return lambda: fused.in_threads(add, (), size, protocol.load(tab))


_MEMORY_BYTES = 24  # of such a pass, for each parameter: 2 arrays are read and 1 written, of 2 numbers each


def measure(tab: str, size: str, rules=tuple(spec.RULES), seconds: float = 10.0, rounds: int = 5) -> dict[str, Any]:
    """Time the contestants of one case in turns, for about so many seconds and at least so many rounds.

    A turn is some calls, one after the other as in training, and counts with their median. Returns `contestants`, a
    list of dicts: `name`, the median `seconds` of a step, and `turns`, the seconds in each.
    """
    shapes = SIZES[size]
    number = sum(math.prod(shape) for shape in shapes)
    large = number > 3 * 10**7  # then only what has a chance, as each has arrays of its own
    made = [(f"{rule}, {name}", *rest) for rule in rules for name, *rest in ours(tab, rule, shapes, large)]
    made += itertools.islice(theirs(tab, shapes), 1 if large else None)
    if number >= 10**5:
        made.append(("memory", memory(tab, shapes), None))
    for _, call, arrays in made:  # what is compiled or allocated once is not counted
        _turn(call, arrays, 3)
    turns: list[list[float]] = [[] for _ in made]
    began = time.perf_counter()
    while len(turns[0]) < rounds or (time.perf_counter() - began < seconds and len(turns[0]) < 200):
        for (_, call, arrays), taken in zip(made, turns, strict=True):
            taken.append(_turn(call, arrays, 25 if number < 1000 else 3))
    contestants = [
        {"name": name, "seconds": statistics.median(taken), "turns": taken}
        for (name, *_), taken in zip(made, turns, strict=True)
    ]
    return {"tab": tab, "size": size, "parameters": number, "tensors": len(shapes), "contestants": contestants}


def _turn(call, arrays, calls):
    taken = []
    for _ in range(calls):
        if arrays:
            arrays.refill()
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def epochs(tab: str, rounds: int = 3) -> list[dict[str, Any]]:
    """Time an epoch of the chapter: d2l's `train_ch11` with the chapter's code and with ours, and `train`."""
    module = protocol.load(tab)
    data_iter, feature_dim = module.d2l.get_data_ch11(batch_size=10)
    namespace: dict[str, Any] = {}
    exec(render.render(tab, "adam"), namespace)

    def train_ch11(step):
        states, hyperparams = module.init_adam_states(feature_dim), {"lr": 0.01, "t": 1}
        with _quiet(module.d2l):
            seconds, _ = module.d2l.train_ch11(step, states, hyperparams, data_iter, feature_dim, num_epochs=2)
        return seconds[-1] / 2

    made: list[tuple[str, Callable[[], float]]] = [
        ("train_ch11, the chapter's code", functools.partial(train_ch11, namespace["adam"])),
        ("train_ch11, ours", functools.partial(train_ch11, module.adam)),
        ("train", lambda: protocol.train(tab).seconds_per_epoch),
    ]
    turns: list[list[float]] = [[] for _ in made]
    for number in range(rounds + 1):
        for (_, run), taken in zip(made, turns, strict=True):
            seconds = run()
            if number:  # the first is not counted
                taken.append(seconds)
    return [
        {"name": name, "seconds": statistics.median(taken), "turns": taken}
        for (name, _), taken in zip(made, turns, strict=True)
    ]


@contextlib.contextmanager
def _quiet(d2l):
    """Without d2l's printing and drawing, which it leaves out of its times too."""

    class Animator:
        def __init__(self, *args, **kwargs):
            self.Y: list[list[float]] = [[]]

        def add(self, x, y):
            self.Y[0].append(y[0])

    drawn, d2l.Animator = d2l.Animator, Animator
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        d2l.Animator = drawn


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
        rows += [
            _ratio(f"{tab}, an epoch", mine, book, goal) for mine, goal in zip(ours, EPOCH_GOALS[tab], strict=True)
        ]
    return rows


def _ratio(at, ours, other, goal):
    # What a pass over memory takes is counted for the bytes of a step.
    factor = BYTES / _MEMORY_BYTES if other["name"] == "memory" else 1
    low, ratio, high = statistics.quantiles(
        [factor * x / y for x, y in zip(other["turns"], ours["turns"], strict=True)], n=4
    )
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
        "threads": fused.num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.now(UTC).date().isoformat(),
    }
