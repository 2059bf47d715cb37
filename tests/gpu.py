"""PyTorch on a GPU: `d2l_adam.torch` held against the equations and against `torch.optim`, and timed.

    python tests/gpu.py                         # on a machine with a GPU; ends within 6 minutes
    python tests/gpu.py --device cpu --quick    # to try this script where there is none

It takes the torch of the interpreter, and sets up what is missing by pip into build/gpu. Each part is a process of its
own: a kernel that fails leaves a GPU unusable to its process, and what was compiled for one part must not serve
another. The end is a table; build/gpu.json (or --out) has it too. Exit status: 0 if all parts have passed, 1 if some
have not, 2 if nothing could be run.
"""

import argparse
import contextlib
import copy
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree, which
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "gpu"

NEEDED = ("torch", "numpy", "safetensors", "numba")
LIMIT, SET_UP, TEST, TIMING = 350, 200, 60, 50  # seconds for all, for pip, for each of the parts
LR = 0.05

TESTS, GPU_TESTS = {}, {}  # what runs anywhere, and what needs a GPU
#: What is timed: shapes of `bench`, and the dtype of the parameters.
TIMINGS = {x: (x, "float32") for x in ("chapter", "mlp", "resnet50", "gpt2", "1000 x 1000", "1e7", "1e8")}
TIMINGS |= {f"{x}, bfloat16": (x, "bfloat16") for x in ("gpt2", "1e8")}


def part(name, parts=TESTS):
    return lambda function: parts.setdefault(name, function)


def parameters(dtype, shapes=((300,), (4, 3), (2,), (), (1,), (0, 2)), device=None):
    rng = np.random.default_rng(0)
    return [torch.nn.Parameter(torch.tensor(rng.normal(size=x)).to(device or DEVICE, dtype)) for x in shapes]


def give(params, seed):
    """Set gradients of three sizes, as eps, a square and a sign show in others: 1, 1e-4 and exactly 0."""
    rng = np.random.default_rng(seed)
    for p in params:
        g = rng.normal(size=p.shape) * np.resize([1.0, 1e-4, 0.0], p.shape)
        p.grad = torch.tensor(g).to(p.device, p.dtype)


def drive(optimizer, steps, first=0):
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for seed in range(first, first + steps):
        give(params, seed)
        optimizer.step()
    return params


def amsgrad(p, g, v, s, x, t, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    """A rule with three states, as torch has it."""
    v = beta1 * v + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * square(g)  # noqa: F821
    x = maximum(x, s)  # noqa: F821
    p = p - lr * (v / (1 - beta1**t)) / (sqrt(x / (1 - beta2**t)) + eps)  # noqa: F821
    return p, v, s, x


def peer(params):
    return torch.optim.Adam(params, lr=LR, eps=1e-6)


def numbers(x):
    return x.detach().cpu().double().numpy()


def gap(params, others):
    """The largest difference, and an error if it is above what float32 may lose in some tens of steps."""
    gaps = [abs(p.detach() - q.detach()).max().item() for p, q in zip(params, others, strict=True) if p.numel()]
    assert all(x <= 3e-6 for x in gaps), f"they differ by {max(gaps):.2g}"
    return max(gaps)


def assert_refused(error, words, function, *args):
    try:
        function(*args)
    except error as caught:
        said = str(caught)
    else:
        said = f"no {error}"
    assert words in said, f"{words!r} was expected, there was: {said}"


def follows_the_equations(rule, params, step, state):
    """Make ten steps; return the largest error, as a share of what rounding allows, of any of them."""
    seen, grads, largest = [[numbers(p)] for p in params], [[] for _ in params], 0.0
    for t in range(10):
        give(params, t)
        for p, gs in zip(params, grads, strict=True):
            gs.append(numbers(p.grad))
        step()
        for p, ps in zip(params, seen, strict=True):
            ps.append(numbers(p))
    for p, ps, gs in zip(params, map(np.array, seen), grads, strict=True):
        path, v, s = oracle.trajectory(rule, ps[0], gs, LR)
        expected = ps[:-1] + np.diff(np.concatenate([ps[:1], path]), axis=0)
        last_place = torch.finfo(p.dtype).eps * 2.0 ** np.floor(np.log2(np.maximum(abs(expected), 2.0**-14)))
        share = abs(ps[1:] - expected) / (0.51 * last_place + 2e-6 * LR)
        assert (share <= 1).all(), f"{rule}, {tuple(p.shape)}: the error is {share.max():.3g} of what rounding allows"
        largest = max(largest, share.max(initial=0.0))
        for now, right in zip(state(p), (v[-1], s[-1]), strict=True):
            np.testing.assert_allclose(numbers(now), right, rtol=1e-5, atol=1e-6 * np.max(np.abs(gs), initial=0.0))
    return largest


def equations(dtype):
    figures, dtype = {}, getattr(torch, dtype)
    for rule, cls in (("adam", tab.Adam), ("yogi", tab.Yogi)):
        for form, fused in FORMS.items():
            params = parameters(dtype)
            optimizer = cls(params, lr=LR, fused=fused)

            def averages(p, states=optimizer.state):
                return states[p]["exp_avg"], states[p]["exp_avg_sq"]

            figures[f"{rule} {form}"] = follows_the_equations(rule, params, optimizer.step, averages)
        params, hyperparams = parameters(dtype), {"lr": LR, "t": 1}
        states = {p: [torch.zeros_like(p, dtype=torch.float32) for _ in "vs"] for p in params}
        step = partial(getattr(tab, rule), params, list(states.values()), hyperparams)
        figures[f"tab.{rule}"] = follows_the_equations(rule, params, step, states.get)
        assert hyperparams["t"] == 11 and not any(p.grad.any() for p in params)
    return figures


TESTS |= {f"equations, {dtype}": partial(equations, dtype) for dtype in ("float32", "bfloat16", "float16")}


@part("a rule with three states")
def three_states():
    theirs, figures = drive(torch.optim.Adam(parameters(torch.float32), lr=LR, amsgrad=True), 20), {}
    for form, fused in FORMS.items():
        optimizer = tab.optimizer(amsgrad)(parameters(torch.float32), lr=LR, fused=fused)
        figures[form] = gap(drive(optimizer, 20), theirs)
    return figures


@part("float64, and float32 beside bfloat16")
def mixed():
    figures = {}
    for dtypes in ([torch.float64] * 2, [torch.float32, torch.bfloat16]):
        results = []
        for fused in (False, None):
            params = parameters(dtypes[0], [(30,), (4, 5)]) + parameters(dtypes[1], [(30,), (4, 5)])
            results.append([p.float() for p in drive(tab.Yogi(params, lr=LR, fused=fused), 10)])
        figures[f"{dtypes[1]}"] = gap(*results)
    return figures


@part("groups, options, scheduler")
def groups():
    def train(cls, options):
        a, b = parameters(torch.float32, [(30,), (4, 5)])
        optimizer = cls([{"params": [a], "lr": 0.1}, {"params": [b], "maximize": True}], eps=1e-6, **options)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        for seed in range(20):
            drive(optimizer, 1, seed)
            scheduler.step()
        return a, b

    figures, decay = {}, {"weight_decay": 0.1}
    for given in ({}, decay | {"betas": (0.8, 0.95)}, decay | {"decoupled_weight_decay": True}):
        for lr in (0.05, torch.tensor(0.05, device=DEVICE)):
            theirs = train(torch.optim.Adam, {"lr": copy.deepcopy(lr)} | given)
            for form, fused in FORMS.items():
                ours = train(tab.Adam, {"lr": copy.deepcopy(lr), "fused": fused} | given)
                figures[form] = max(figures.get(form, 0), gap(ours, theirs))
    return figures


@part("GradScaler, float16 autocast")
def grad_scaler():
    X, y = (torch.tensor(x, dtype=torch.float32, device=DEVICE) for x in oracle.airfoil())

    def train(cls):
        net, losses = torch.nn.Linear(5, 1, device=DEVICE), []
        net.load_state_dict({"weight": torch.zeros(1, 5), "bias": torch.zeros(1)})
        optimizer, scaler = cls(net.parameters(), lr=LR, eps=1e-6), torch.amp.GradScaler(DEVICE, init_scale=2.0**10)
        for i in range(10):
            optimizer.zero_grad()
            with torch.autocast(DEVICE, torch.float16):
                predicted = net(X)
            losses.append(((predicted[:, 0].float() - y) ** 2).mean() * (float("inf") if i == 4 else 1.0))
            scaler.scale(losses[-1]).backward()
            scaler.step(optimizer)
            scaler.update()
        assert optimizer.state[net.weight]["step"] == 9 and scaler.get_scale() == 2.0**9, "no step was skipped"
        return [x.item() for x in losses if x.isfinite()]

    ours, theirs = train(tab.Adam), train(torch.optim.Adam)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    return {"first loss": ours[0], "last loss": ours[-1]}


@part("complex numbers and layouts")
def layouts():
    def train(make):
        base = torch.arange(24.0, device=DEVICE).reshape(4, 6)
        flat = torch.ones(64, device=DEVICE)  # an aligned tensor first: a compiler may take the others to be so too
        views = [torch.ones(16, device=DEVICE), flat[1:17], flat[18:34], base.clone().T, base.clone()[:, ::2]]
        views += [base.reshape(1, 4, 2, 3).to(memory_format=torch.channels_last), torch.complex(base, 1 - base)]
        return drive(make([torch.nn.Parameter(x) for x in views]), 10)

    theirs, figures = train(peer), {}
    for form, fused in FORMS.items():
        figures[form] = gap(train(partial(tab.Adam, lr=LR, fused=fused)), theirs)
    return figures


@part("sparse gradients")
def sparse():
    figures = {}
    for dtype in (torch.float32, torch.float16):
        results = []
        for is_sparse in (True, False):
            weight = torch.ones(8, 4, device=DEVICE, dtype=dtype)
            embedding = torch.nn.Embedding(8, 4, _weight=weight, sparse=is_sparse)
            optimizer = tab.Yogi(embedding.parameters(), lr=LR)
            for rows in ([0, 2, 2], [3, 3, 3], [1, 2, 0]):
                optimizer.zero_grad()
                embedding(torch.tensor(rows, device=DEVICE)).square().sum().backward()
                optimizer.step()
            results.append([embedding.weight.float()])
        figures[f"{dtype}"] = gap(*results)
    return figures


@part("default device")
def default_device():
    theirs, figures = drive(peer(parameters(torch.float32)), 10), {}
    for form, fused in FORMS.items():
        optimizer = tab.Adam(parameters(torch.float32), lr=LR, fused=fused)
        torch.set_default_device(DEVICE)
        drive(optimizer, 10)
        torch.set_default_device(None)
        figures[form] = gap(optimizer.param_groups[0]["params"], theirs)
        clocks = {state["step"].device.type for state in optimizer.state.values()}
        assert clocks == {"cpu"}, f"the counters of steps are on {clocks}: each step waits for the GPU"
    return figures


@part("state_dict, exchanged with torch")
def state_dict():
    kinds = {form: partial(tab.Adam, lr=LR, fused=fused) for form, fused in FORMS.items()}
    for option in ("foreach", "fused"):
        kinds[option] = partial(torch.optim.Adam, lr=LR, eps=1e-6, **{option: True})
    theirs, figures = drive(peer(parameters(torch.float32)), 20), {}
    for before, make in kinds.items():
        begun = make(parameters(torch.float32))
        params = drive(begun, 10)
        for after, make_other in kinds.items():
            if {before, after} & FORMS.keys():
                optimizer = make_other(copy.deepcopy(params))
                optimizer.load_state_dict(copy.deepcopy(begun.state_dict()))
                figures[f"{before} to {after}"] = gap(drive(optimizer, 10, 10), theirs)
    return figures


@part("files")
def files():
    X, y = (torch.tensor(x, dtype=torch.float32) for x in oracle.airfoil())

    def train(params, optimizer):
        (w, b), losses = params, []
        for _ in range(20):
            optimizer.zero_grad()
            losses.append(((X.to(w.device) @ w.float() + b.float() - y.to(w.device)) ** 2).mean())
            losses[-1].backward()
            optimizer.step()
        return [x.item() for x in losses]

    figures, shapes, names = {}, [(5,), ()], ("step", "exp_avg", "exp_avg_sq")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "file")
        for dtype, cls, rtol in ((torch.float32, tab.Adam, 1e-5), (torch.bfloat16, tab.Yogi, 2e-2)):
            for place, other_place in ((DEVICE, "cpu"), ("cpu", DEVICE)):
                params, others = parameters(dtype, shapes, place), parameters(dtype, shapes, other_place)
                optimizer, other = cls(params, lr=LR), cls(others, lr=LR)
                train(params, optimizer)
                tab.save(file, params, optimizer)
                tab.load(file, others, other)
                for p, q in zip(params, others, strict=True):
                    saved, loaded = ([x, *map(o.state[x].get, names)] for x, o in ((p, optimizer), (q, other)))
                    assert all((numbers(x) == numbers(z)).all() for x, z in zip(saved, loaded, strict=True))
                losses = train(others, other)
                np.testing.assert_allclose(losses, train(params, optimizer), rtol=rtol)
                figures[f"{dtype} from {place}, last loss"] = losses[-1]
    return figures


@part("errors")
def errors():
    place = "cpu" if DEVICE == "cuda" else "meta"
    (p,), x = parameters(torch.float32, [(3,)]), torch.zeros(3, device=place)
    give([p], 0)
    optimizer = tab.Adam([p])
    optimizer.step()
    optimizer.state[p]["exp_avg"], before = x, p.detach().clone()
    words = f"state v of parameter 0 is on {place}, parameter 0 on {p.device}; move them together"
    assert_refused(ValueError, words, optimizer.step)
    assert_refused(ValueError, words, tab.adam, [p], [(x, x.clone())], {"lr": LR, "t": 1})
    assert torch.equal(p, before)


@part("a CUDA graph", GPU_TESTS)
def graph():
    """A captured step would be replayed with the t and lr of its capture; torch refuses what is not capturable."""
    for fused in FORMS.values():
        optimizer = tab.Adam(parameters(torch.float32), lr=LR, fused=fused)
        drive(optimizer, 2)

        def capture(step=optimizer.step):
            with torch.cuda.graph(torch.cuda.CUDAGraph()):
                step()

        assert_refused((RuntimeError, ValueError), "captur", capture)


@part("capturable", GPU_TESTS)
def capturable():
    assert_refused(
        ValueError, "capturable=True is refused", partial(tab.Adam, capturable=True), parameters(torch.float32)
    )


@part("one launch", GPU_TESTS)
def one_launch():
    """However many tensors there are, and no memory but what is freed again."""
    from torch.profiler import ProfilerActivity, profile

    params = parameters(torch.float32, [(1000,)] * 500)
    optimizer = tab.Adam(params, lr=LR, fused=True)
    drive(optimizer, 3)
    give(params, 3)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        optimizer.step()
        torch.cuda.synchronize()
    grown, peak = torch.cuda.memory_allocated() - before, torch.cuda.max_memory_allocated() - before
    launches = [x.name for x in profiled.events() if x.device_type == torch.autograd.DeviceType.CUDA]
    launches = [name for name in launches if not name.startswith("Mem")]
    assert launches == ["kernel"], f"the kernels of a step are {launches}"
    assert not grown, f"a step keeps {grown} bytes"
    return {"bytes for a while": peak}


@part("without Triton", GPU_TESTS)
def without_triton():
    """The step is eager, with a warning; where it has to be fused, it is an error that leaves all as it was."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours = drive(tab.Adam(parameters(torch.float32), lr=LR), 10)
    assert any("are not fused" in str(x.message) for x in caught), "no warning says that the steps are eager"
    params = parameters(torch.float32)
    assert_refused(ValueError, "cannot be fused", drive, tab.Adam(params, lr=LR, fused=True), 1)
    gap(params, parameters(torch.float32))
    return {"difference": gap(ours, drive(peer(parameters(torch.float32)), 10))}


def milliseconds(step, repeats=20, between=lambda: None):
    """The median time of a step, until the GPU has done it; `between` is called before each, and not timed."""
    times = []
    for _ in range(3 + (3 if QUICK else repeats)):
        between()
        wait()
        begin = time.perf_counter()
        step()
        wait()
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times[3:])


def queued(step, repeats=20):
    """The time of one of many steps that wait in the GPU's queue, as behind a backward pass: the host's has no part."""
    if DEVICE == "cpu":
        return milliseconds(step)
    step()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(10**9)  # in which the steps are queued
    begin.record()
    for _ in range(repeats):
        step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / repeats


def wait():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def timing(name):
    """Milliseconds a step, alone and in a queue, and the seconds of our first, most of which is compilation."""
    shapes, dtype = bench.SHAPES[TIMINGS[name][0]], getattr(torch, TIMINGS[name][1])
    shapes = [tuple(min(n, 100) for n in shape) for shape in shapes[:20]] if QUICK else shapes
    contestants = {"torch fused": partial(torch.optim.Adam, fused=True), "Adam": tab.Adam, "Yogi": tab.Yogi}
    contestants |= {"amsgrad": tab.optimizer(amsgrad)}
    figures = {}
    for contestant, make in contestants.items():
        params = [torch.full(shape, 0.5, device=DEVICE, dtype=dtype, requires_grad=True) for shape in shapes]

        def refill(params=params):
            for p in params:  # new ones each time, as after zero_grad(set_to_none=True)
                p.grad = torch.full_like(p, 0.25)

        optimizer = make(params, lr=LR)
        refill()
        begin = time.perf_counter()
        optimizer.step()
        wait()
        if contestant == "Adam":
            figures["first step, s"] = time.perf_counter() - begin
        figures[f"{contestant}, ms"] = milliseconds(optimizer.step, between=refill)
        figures[f"{contestant} queued, ms"] = queued(optimizer.step)
        del optimizer, params, refill
    for form in ("", " queued"):
        for contestant in ("Adam", "Yogi"):
            ratio = figures[f"torch fused{form}, ms"] / figures[f"{contestant}{form}, ms"]
            figures[f"torch / {contestant}{form}"] = ratio
    return figures


def bandwidth():
    source = torch.ones(2**18 if QUICK else 2**28, device=DEVICE)
    target = torch.empty_like(source)
    speed = 2 * source.nbytes / queued(lambda: target.copy_(source)) * 1e3
    return {"GB/s": speed / 1e9} | {f"28 bytes x 1e{n}, ms": 28e3 * 10**n / speed for n in (7, 8)}


PARTS = TESTS | GPU_TESTS | {"copy": bandwidth} | {name: partial(timing, name) for name in TIMINGS}


def work(names, device, quick):
    """Run some parts in this process, and print what each has found, a line a part."""
    global DEVICE, FORMS, QUICK, bench, np, oracle, tab, torch
    if "without Triton" in names:
        sys.modules["triton"] = None  # what d2l_adam does where TensorFlow was imported first
    import numpy as np
    import oracle
    import torch

    from d2l_adam import bench
    from d2l_adam import torch as tab

    DEVICE, QUICK = device, quick
    FORMS = {"eager": False, "default": None}
    warnings.filterwarnings("error", "pytorch: steps on a GPU are not fused")
    for name in names:
        begin, found = time.perf_counter(), {"passed": True}
        try:
            found["figures"] = PARTS[name]() or {}
        except Exception as error:
            traceback.print_exc()
            found = {"passed": False, "error": f"{type(error).__name__}: {error}".strip()}
        print(json.dumps({name: found | {"seconds": round(time.perf_counter() - begin, 1)}}), flush=True)


def run(names, options, end):
    """Run some parts in a process of their own, and return what they have found."""
    budget = min(sum(TIMING if name in TIMINGS else TEST for name in names), max(end - time.monotonic(), 0))
    cache = FOLDER / "cache" / "".join(filter(str.isalnum, names[0]))  # one of its own, as compilation is timed
    command = [sys.executable, __file__, *options, "--parts", *names]
    try:
        env = os.environ | {"TRITON_CACHE_DIR": str(cache)}
        done: Any = subprocess.run(command, capture_output=True, timeout=budget, env=env)
        ended = f"ended with status {done.returncode}"
    except subprocess.TimeoutExpired as error:
        done, ended = error, f"stopped after {budget:.0f} s: over its budget, or over that of all parts"
    found = {name: {"passed": False, "error": ended, "seconds": round(budget, 1)} for name in names}
    for line in (done.stdout or b"").splitlines():
        with contextlib.suppress(ValueError, TypeError):  # something else that was printed
            found |= json.loads(line)
    if not all(x["passed"] for x in found.values()):
        print((done.stderr or b"").decode(), end="", file=sys.stderr)
    print(*(f"{'passed' if x['passed'] else 'FAILED'} {name}" for name, x in found.items()), sep="\n", flush=True)
    return found


def set_up():
    """Install what is missing, at the versions of constraints.txt; return what stands in the way, or None."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if not missing:
        return None
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {line.partition("==")[0]: line for line in lines}
    wanted = [pins.get(name, name) for name in missing]
    wanted += [f"{name}=={version(name)}" for name in NEEDED if name not in missing]  # these must stay as they are
    print(f"Installing {', '.join(missing)} into {FOLDER / 'site'}", flush=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "--retries",
        "1",
        "--timeout",
        "15",
        "--upgrade",
    ]
    command += ["--target", str(FOLDER / "site"), *wanted]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SET_UP)
        said = (done.stderr.strip().splitlines() or ["?"])[-1] if done.returncode else None
    except subprocess.TimeoutExpired:
        said = f"not done after {SET_UP} s"
    return said and f"{', '.join(missing)} missing, and pip could not install it ({said}); install it, and try again"


def facts(torch, device):
    card = torch.cuda.get_device_name() if device == "cuda" else None
    known = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "device": device, "card": card}
    with contextlib.suppress(OSError):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        known["driver"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    known |= {"python": sys.version.split()[0], "torch": torch.__version__, "cuda": torch.version.cuda}
    for name in ("triton", "numpy", "numba"):
        with contextlib.suppress(PackageNotFoundError):
            known[name] = version(name)
    return known


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu.json", help="where the figures go, as JSON")
    parser.add_argument("--parts", choices=PARTS, nargs="+", metavar="PART", help="run these in this process")
    given = parser.parse_args()
    if given.parts:
        return work(given.parts, given.device, given.quick)
    end, cure = time.monotonic() + LIMIT, "`--device cpu --quick` tries this script without one"
    obstacle = set_up() if find_spec("torch") or which("nvidia-smi") or given.device == "cpu" else "no nvidia-smi here"
    if not obstacle:
        importlib.invalidate_caches()  # the folder may be new
        import torch

        if given.device == "cuda" and not torch.cuda.is_available():
            obstacle = f"torch {torch.__version__} sees no GPU here"
    if obstacle:
        print(f"{obstacle}; {cure}")
        return 2
    known = facts(torch, given.device)
    print(*(f"{name} {value}" for name, value in known.items()), sep=", ", flush=True)
    rmtree(FOLDER / "cache", ignore_errors=True)
    options = ["--device", given.device, *(["--quick"] if given.quick else [])]
    names = [name for name in PARTS if given.device == "cuda" or name not in GPU_TESTS]
    together = [[name] for name in names if name in TESTS | GPU_TESTS]
    if given.quick:
        together, names = [names], []
    with ThreadPoolExecutor(4) as pool:
        found = dict(x for result in pool.map(partial(run, options=options, end=end), together) for x in result.items())
    for name in names:
        found |= {} if name in found else run([name], options, end)
    print(f"\n{'part':34}seconds  result")
    for name, x in found.items():
        says = ", ".join(f"{key} {value:.3g}" for key, value in x["figures"].items()) if x["passed"] else x["error"]
        print(f"{name:34}{x['seconds']:7}  {'passed' if x['passed'] else 'FAILED'}  {says}")
    passed = sum(x["passed"] for x in found.values())
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(known | {"parts": found}, indent=1) + "\n")
    print(f"{passed} of {len(found)} parts have passed; the figures are in {given.out}")
    return int(passed < len(found))


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(FOLDER / "site"), str(ROOT / "tests")]
    sys.exit(main())
