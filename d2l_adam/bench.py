"""Steps of the native optimizers on real shapes, side by side with the framework's own, and epochs of the chapter.

    measure("pytorch", "resnet50")     # times, turn by turn
    ratios(result)                     # how often our time fits into the other's

The machine may be shared: what is compared takes turns, and only ratios of the same turn count. Nothing is asserted.
"""

import contextlib
import ctypes
import functools
import io
import itertools
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy

from d2l_adam import protocol, render, spec
from d2l_adam.fused.threads import num_threads

Shapes = list[tuple[int, ...]]


def _resnet50() -> Shapes:
    """He, Zhang, Ren and Sun, *Deep Residual Learning*, 2015, as in torchvision: 161 tensors."""
    shapes: Shapes = [(64, 3, 7, 7), (64,), (64,)]
    width = 64
    for blocks, narrow in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for i in range(blocks):
            for conv in ((narrow, width, 1, 1), (narrow, narrow, 3, 3), (4 * narrow, narrow, 1, 1)):
                shapes += [conv, conv[:1], conv[:1]]
            if not i:
                shapes += [(4 * narrow, width, 1, 1), (4 * narrow,), (4 * narrow,)]
            width = 4 * narrow
    return [*shapes, (1000, width), (1000,)]


def _gpt2() -> Shapes:
    """Radford, Wu, Child et al., *Language Models are Unsupervised Multitask Learners*, 2019, small: 148 tensors."""
    n, norm = 768, [(768,), (768,)]
    layer = [*norm, (n, 3 * n), (3 * n,), (n, n), (n,), *norm, (n, 4 * n), (4 * n,), (4 * n, n), (n,)]
    return [(50257, n), (1024, n), *layer * 12, *norm]


#: The shapes of the parameters; of models, no more than these.
MODELS: dict[str, Shapes] = {
    "mlp": [(128, 784), (128,), (64, 128), (64,), (10, 64), (10,)],
    "resnet50": _resnet50(),
    "gpt2": _gpt2(),
}
SIZES: dict[str, Shapes] = {
    "chapter": [(5, 1), (1,)],
    **{f"1e{n}": [(10**n,)] for n in range(5, 9)},
    "1000 x 1000": [(1000,)] * 1000,
}
SHAPES = SIZES | MODELS
DEFAULT = ("chapter", "mlp", "resnet50", "1e7", "1000 x 1000")

#: By tab, how often our time is to fit into that of the framework's own; in NumPy, into that of the chapter's code.
GOALS: dict[str, dict[str, float]] = {
    "pytorch": {"chapter": 1, "mlp": 1, "resnet50": 1.2, "gpt2": 1.1, "1000 x 1000": 1.2, "1e7": 1, "1e8": 1},
    "tensorflow": {"chapter": 1, "mlp": 1, "resnet50": 1, "gpt2": 1, "1000 x 1000": 1, "1e7": 1.3},
    "jax": dict.fromkeys(("chapter", "mlp", "resnet50", "gpt2", "1000 x 1000", "1e7"), 1),
    "mxnet": {"chapter": 1.3, "mlp": 1.5, "resnet50": 3, "gpt2": 3, "1000 x 1000": 4, "1e7": 5},
    "numpy": {"chapter": 1, "mlp": 3, "resnet50": 8, "gpt2": 8, "1000 x 1000": 4, "1e7": 13},
}
#: The same for an epoch: d2l's `train_ch11` with our step, and `train`, against `train_ch11` with the chapter's code.
EPOCH_GOALS = {"pytorch": (1.3, 2), "mxnet": (1.3, 2), "tensorflow": (1.4, 2)}

_LR = 1e-3


def default(tab: str) -> tuple[str, ...]:
    """The sizes that are measured if none is named: XLA would compile a step of a thousand tensors for minutes."""
    return DEFAULT[:-1] if tab == "jax" else DEFAULT


class Contestant(NamedTuple):
    """A step as its users make it; `refill` gives it new gradients before, as a backward pass does."""

    name: str
    refill: Callable[[], Any]
    step: Callable[[], Any]
    params: list


def _torch(torch, shapes, make):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    params = [torch.full(shape, 0.5, requires_grad=True, device=device) for shape in shapes]
    optimizer = make(params, lr=_LR)

    def refill():
        optimizer.zero_grad(set_to_none=True)
        for p in params:
            p.grad = torch.full_like(p, 0.5)
        torch.cuda.synchronize() if device == "cuda" else None

    def step():
        optimizer.step()
        torch.cuda.synchronize() if device == "cuda" else None

    return refill, step, params


def _keras(tf, shapes, make):
    """A step in a tf.function, as in `fit`."""
    params = [tf.Variable(tf.fill(shape, 0.5)) for shape in shapes]
    grads = [tf.fill(shape, 0.5) for shape in shapes]
    optimizer = make(_LR)
    optimizer.build(params)
    apply = tf.function(lambda *grads: optimizer.apply(grads, params))
    return lambda: None, functools.partial(apply, *grads), params


def _optax(jax, shapes, make):
    """A step in jax.jit, which takes the buffers of parameters and state over, as in a training loop."""
    import optax

    params, grads = ([jax.numpy.full(shape, 0.5) for shape in shapes] for _ in range(2))
    optimizer = make(_LR)
    state = optimizer.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def step():
        nonlocal state
        params[:], state = jax.block_until_ready(update(params, state, grads))

    return lambda: None, step, params


def _gluon(mxnet, shapes, make):
    params = [mxnet.gluon.Parameter(f"p{i}", shape=shape) for i, shape in enumerate(shapes)]
    for p in params:
        p.initialize(mxnet.init.Constant(0.5))
    trainer = mxnet.gluon.Trainer(params, make(learning_rate=_LR))

    def refill():
        with mxnet.autograd.record():
            losses = [(0.5 * p.data()).sum() for p in params]
        mxnet.autograd.backward(losses)
        mxnet.nd.waitall()

    def step():
        trainer.step(1)
        mxnet.nd.waitall()

    return refill, step, [p.data() for p in params]


def _numpy(shapes, make):
    params, grads = ([numpy.full(shape, 0.5, "float32") for shape in shapes] for _ in range(2))
    states = [tuple(numpy.zeros(shape, "float32") for _ in "vs") for shape in shapes]
    return lambda: None, functools.partial(make, params, grads, states, {"lr": _LR, "t": 1}), params


def rendered(tab: str, rule: str) -> Callable[..., None]:
    """Return the function that the chapter shows."""
    namespace: dict[str, Any] = {}
    exec(render.render(tab, rule), namespace)
    return namespace[rule]


def contestants(tab: str, shapes: Shapes, rules=tuple(spec.SECTION)) -> list[Contestant]:
    """Return what is compared in a tab: the native optimizers of `rules`, then the framework's own Adam."""
    module = protocol.load(tab)
    steps = {rule: getattr(module, rule if tab == "numpy" else rule.capitalize()) for rule in rules}
    match tab:
        case "pytorch":
            family: Callable = functools.partial(_torch, module.torch)
            steps["torch.optim.Adam(fused=True)"] = functools.partial(module.torch.optim.Adam, fused=True)
        case "tensorflow":
            family = functools.partial(_keras, module.tf)
            steps["keras.optimizers.Adam"] = module.keras.optimizers.Adam
        case "jax":
            import optax

            family = functools.partial(_optax, module.jax)
            steps["optax.adam"] = optax.adam
        case "mxnet":
            family = functools.partial(_gluon, module.mxnet)
            steps["mx.optimizer.Adam"] = module.mxnet.optimizer.Adam
        case _:
            family, steps["the chapter's code"] = _numpy, rendered(tab, "adam")
    return [Contestant(name, *family(shapes, step)) for name, step in steps.items()]


def measure(tab: str, size: str, rules=tuple(spec.SECTION), seconds: float = 10.0, rounds: int = 5) -> dict[str, Any]:
    """Time the contestants of one case in turns, for about so many seconds and at least so many rounds.

    A turn is some steps, one after the other as in training, and counts with their median. Returns `contestants`, a
    list of dicts: `name`, the median `seconds` of a step, `turns`, the seconds in each, and `memory`, how many bytes
    a step takes for a while (None where Linux is not there to say).
    """
    shapes = SHAPES[size]
    number = sum(map(math.prod, shapes))
    turns: dict[str, Callable[[], float]] = {}
    memory: dict[str, int | None] = {}
    for contestant in contestants(tab, shapes, rules):
        _turn(contestant, 3)  # what is compiled or allocated once is not counted
        memory[contestant.name] = _memory(contestant)
        turns[contestant.name] = functools.partial(_turn, contestant, 25 if number < 10**6 else 3)
    began = time.perf_counter()
    taken = _in_turns(turns, lambda n: n < rounds or (time.perf_counter() - began < seconds and n < 200))
    for x in taken:
        x["memory"] = memory[x["name"]]
    return {"tab": tab, "size": size, "parameters": number, "tensors": len(shapes), "contestants": taken}


def _turn(contestant, steps):
    taken = []
    for _ in range(steps):
        contestant.refill()
        start = time.perf_counter()
        contestant.step()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _memory(contestant):
    """By how much the memory of this process grows while a step is made."""
    contestant.refill()
    before = after = None
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system, and is taken from there again
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is used now
        before = _peak()
        contestant.step()
        after = _peak()
    return None if before is None or after is None else after - before


def _peak():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


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
        "train_ch11, the chapter's code": functools.partial(train_ch11, rendered(tab, "adam")),
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
    """Return for each that was measured how often our time fits into the other's: the median and the quartiles."""
    rows = []
    for at, (*ours, other), goals in cases(result):
        for mine, goal in zip(ours, goals, strict=False):
            turns = [x / y for x, y in zip(other["turns"], mine["turns"], strict=True)]
            low, ratio, high = statistics.quantiles(turns, n=4)
            row = {"at": at, "ours": mine["name"], "against": other["name"], "ratio": ratio, "low": low, "high": high}
            rows.append(row | {"goal": goal, "met": goal is None or ratio >= goal})
    return rows


def cases(result: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]], Iterable[float | None]]]:
    """Yield what was measured, in words, its contestants, ours and then the other, and the goals of ours."""
    for case in result["cases"]:
        goal = GOALS[case["tab"]].get(case["size"])
        yield f"{case['tab']}, {case['size']}", case["contestants"], itertools.repeat(goal)
    for tab, (book, *ours) in result["epochs"].items():
        yield f"{tab}, an epoch", [*ours, book], EPOCH_GOALS[tab]


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    versions = {}
    for package in ("numpy", "numba", "torch", "tensorflow", "keras", "mxnet", "jax", "optax"):
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
