"""Steps in one pass over memory: the same numbers as eager ones, and nothing of a framework's own semantics lost."""

import concurrent.futures
import contextlib
import json
import os
import subprocess
import sys
import tracemalloc
import weakref

import numpy as np
import pytest
from click.testing import CliRunner
from frameworks import RULES, TABS, Native, Problem

import d2l_adam
from d2l_adam import protocol, spec
from d2l_adam.__main__ import cli
from d2l_adam.fused import threads
from d2l_adam.fused.memory import Memory, Refusal
from d2l_adam.step import Step

TOLERANCE = {"float32": 1e-6, "float64": 1e-14}
NATIVE = ("pytorch", "tensorflow", "mxnet")
#: Those whose arrays lend their memory; a step of TensorFlow's variables is a graph.
LENDING = tuple(tab for tab in TABS if tab not in ("tensorflow", "jax"))


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    d2l_adam.set_fused(None)


@pytest.fixture
def counted(monkeypatch):
    """The names of the tabs whose memory is stepped, in order."""
    calls = []
    make = Step.part

    def counting(self, *args):
        calls.append(self.tab.name)
        return make(self, *args)

    monkeypatch.setattr(Step, "part", counting)
    return calls


def stepped(tab, rule, params, steps, dtype, choice):
    d2l_adam.set_fused(choice)
    return Problem(tab, params, dtype, lr=0.1).run(rule, steps)


def assert_close(ours, others, atol):
    for one, other in zip(ours, others, strict=True):
        for x, y in zip(sum(one, ()), sum(other, ()), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-15 if atol < 1e-9 else 1e-5, atol=atol)


SHAPES = [(5, 1), (1,), (), (3, 1, 2), (0, 4), (4099,)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("tab", TABS)
def test_a_fused_step_is_the_eager_one(tab, rule, dtype, counted):
    rng = np.random.default_rng(0)
    params = [rng.normal(size=shape) for shape in SHAPES if shape != () or tab != "numpy"]
    steps = [[rng.normal(size=np.shape(p)) * scale for p in params] for scale in (1, 1e-4, 0, 1e3, 1e-30)]
    with np.errstate(all="ignore"):
        for bad in (np.nan, np.inf, -np.inf, 1e-45):
            steps[-1][0].flat[int(np.isnan(bad))] = bad
    one, other = (stepped(tab, rule, params, steps, dtype, choice) for choice in (None, False))
    assert_close(one, other, TOLERANCE[dtype])
    assert set(counted) == ({tab} if tab in LENDING else set())


@pytest.mark.parametrize("rule", RULES)
def test_in_numpy_they_are_the_same_bit_for_bit(rule):
    rng = np.random.default_rng(1)
    params = [rng.normal(size=10_001)]
    steps = [[rng.normal(size=10_001) * scale] for scale in (1, 1e-4, 30)]
    one, other = (stepped("numpy", rule, params, steps, "float32", choice) for choice in (True, False))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("tab", LENDING)
def test_the_choice_is_kept_to(tab, counted):
    problem = Problem(tab, [np.ones(3)], "float32")
    for choice, expected in ((None, [tab]), (False, []), (True, [tab])):
        d2l_adam.set_fused(choice)
        problem.set_grads([np.ones(3)])
        problem.step("adam")
        assert counted == expected
        counted.clear()
    with pytest.raises(ValueError, match="fused is 'yes'; give True, False, or None"):
        d2l_adam.set_fused("yes")


@pytest.mark.parametrize("tab", LENDING)
def test_where_it_is_demanded_and_cannot_be_the_error_says_why(tab):
    problem = Problem(tab, [np.ones(3), np.ones(2)], "float16")
    problem.set_grads([np.ones(3), np.ones(2)])
    before = problem.values()
    d2l_adam.set_fused(True)
    with pytest.raises(ValueError, match=f"{tab}: this step cannot be fused: it takes contiguous float32 or float64"):
        problem.step("adam")
    np.testing.assert_equal(problem.values(), before)
    assert problem.hyperparams == {"lr": 0.01, "t": 1}


@pytest.mark.parametrize("tab", LENDING)
def test_what_cannot_be_fused_is_stepped_beside_what_can(tab, counted):
    full, half = Problem(tab, [np.ones(3), np.ones(4)], "float32"), Problem(tab, [np.ones(5)], "float16")
    full.set_grads([np.full(3, 0.5), np.full(4, 0.5)])
    half.set_grads([np.full(5, 0.5)])
    mixed = Problem(tab, [], "float32")
    mixed.params = [full.params[0], half.params[0], full.params[1]]
    mixed.states = [full.states[0], half.states[0], full.states[1]]
    mixed.grads = [full.grads[0], half.grads[0], full.grads[1]]
    mixed.step("adam")
    assert counted == [tab]  # both in one pass
    for p, _, _ in mixed.values():
        np.testing.assert_allclose(p, 0.99, atol=1e-3)


@pytest.mark.parametrize("tab", TABS)
def test_it_is_the_rule_that_is_compiled(tab, counted):
    """A rule of the user's is fused as it stands, whatever it says."""
    source = {"square": spec.square, "sqrt": spec.sqrt}
    new = "p * (1 - lr * wd) - lr * sqrt(square(g)) ** 3, 2 * v + g, t * s - g / 3"
    exec(f"def rule(p, g, v, s, t, lr, wd=0.5): return {new}", source)
    params, steps = [np.arange(1.0, 6.0)], [[np.linspace(-1, 2, 5)]] * 3
    one, other = (stepped(tab, source["rule"], params, steps, "float64", choice) for choice in (None, False))
    assert_close(one, other, 1e-14)
    assert counted == [tab] * 3 * (tab in LENDING)


@pytest.mark.parametrize("tab", LENDING)
def test_numbers_in_a_rule_have_the_dtype_of_the_array_they_meet(tab, counted):
    def rule(p, g, v, s, t, lr):
        return p - lr * ((2 * g + 1e8) - 1e8), 0.5 * v + (-g), s * 1e39

    one, other = (stepped(tab, rule, [np.ones(3)], [[np.full(3, 0.3)]] * 2, "float32", c) for c in (True, False))
    assert_close(one, other, 1e-6)
    assert counted == [tab] * 2


@pytest.mark.parametrize("tab", LENDING)
def test_large_arrays_are_stepped_by_several_threads_alike(tab, monkeypatch):
    size = 2 * threads._CHUNK + 77
    rng = np.random.default_rng(2)
    params, steps = [rng.normal(size=size), rng.normal(size=3)], [[rng.normal(size=size), np.ones(3)]] * 2
    other = stepped(tab, "yogi", params, steps, "float32", False)
    for number in (1, 2, 5):
        monkeypatch.setattr(threads, "num_threads", lambda tab, number=number: number)
        assert_close(stepped(tab, "yogi", params, steps, "float32", True), other, 1e-6)


def test_the_number_of_threads_is_what_the_environment_and_the_framework_say(monkeypatch):
    torch_tab = protocol.load("pytorch")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    everything = threads.num_threads()
    assert 1 <= everything <= os.cpu_count()
    for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(variable, "1,4")
        assert threads.num_threads() == 1
        monkeypatch.setenv(variable, "1000")
        assert threads.num_threads() == everything
        monkeypatch.delenv(variable)
    before = torch_tab.torch.get_num_threads()
    try:
        torch_tab.torch.set_num_threads(1)
        assert threads.num_threads(torch_tab.TAB) == 1
    finally:
        torch_tab.torch.set_num_threads(before)


def big_step(seed, tab="numpy"):
    rng = np.random.default_rng(seed)
    size = threads._CHUNK + 1
    values = stepped(tab, "adam", [rng.normal(size=size)], [[rng.normal(size=size)]], "float32", None)
    return values[0][0][0].sum()


@pytest.mark.parametrize("tab", ["numpy", "pytorch"])
def test_many_threads_may_step_at_once_and_so_may_a_child_after_a_fork(tab, monkeypatch):
    monkeypatch.setattr(threads, "num_threads", lambda tab: 3)
    alone = [big_step(seed, tab) for seed in range(6)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert list(pool.map(big_step, range(6), [tab] * 6)) == alone
    program = (
        "import multiprocessing, sys, torch; sys.path.insert(0, 'tests'); import test_fused as t\n"
        "t.threads.num_threads = lambda tab: 3\n"
        f"mine, jobs = t.big_step(0, {tab!r}), [(0, {tab!r})] * 2\n"
        # As PyTorch's own workers do: the copies that make the arrays would wait for threads that are gone.
        "alone = dict(initializer=torch.set_num_threads, initargs=[1])\n"
        "with multiprocessing.get_context('fork').Pool(2, **alone) as pool:\n"
        "    print(mine == pool.starmap(t.big_step, jobs)[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("tab", ["numpy", "pytorch"])
def test_a_step_in_a_thread_that_outlives_the_main_one(tab):
    program = (
        "import sys, threading, time; sys.path.insert(0, 'tests'); import test_fused as t\n"
        "t.threads.num_threads = lambda tab: 3\n"
        f"def late():\n    time.sleep(0.5)\n    t.big_step(0, {tab!r})\n    print('done')\n"
        "threading.Thread(target=late).start()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_where_pytorch_has_other_threads_steps_have_their_own(monkeypatch):
    """PyTorch's are used while it looks for more work; the same is computed without."""
    from d2l_adam.torch import openmp

    monkeypatch.setattr(threads, "num_threads", lambda tab: 2)
    calls = []
    run = openmp.run
    monkeypatch.setattr(openmp, "run", lambda *args: calls.append(run(*args)) or calls[-1])
    values = [big_step(0, "pytorch")]
    monkeypatch.setattr(openmp, "_entry", {})
    values.append(big_step(0, "pytorch"))
    assert calls == [sys.platform.startswith("linux"), False]
    assert values[0] == values[1]


def test_a_step_takes_no_memory_that_grows_with_the_parameters():
    size = 100_000
    problem = Problem("numpy", [np.ones(size)], "float32")
    problem.set_grads([np.ones(size)])
    tracemalloc.start()
    try:
        for _ in range(3):
            problem.step("adam")
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(5):
            problem.step("adam")
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - kept < size
    assert abs(now - kept) < size
    assert kept < size


# PyTorch


def test_autograd_notices_a_fused_step():
    tab = protocol.load("pytorch")
    torch = tab.torch
    for step in ("adam", "optimizer"):
        p = torch.nn.Parameter(torch.ones(3))
        view, states = p.view(3, 1), [(torch.zeros(3), torch.zeros(3))]
        p.grad = torch.ones(3)
        versions = [x._version for x in (p, *states[0], p.grad)]
        loss = (p**2).sum() + (view**2).sum()
        d2l_adam.set_fused(True)
        if step == "adam":
            tab.adam([p], states, {"lr": 0.1, "t": 1})
            assert all(x._version > before for x, before in zip((p, *states[0], p.grad), versions, strict=True))
            assert not p.grad.any()
        else:
            tab.Adam([p]).step()
            assert p.grad._version == versions[-1]  # a graph may have saved it
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_gradients_that_share_memory_are_read_before_any_is_set_to_zero():
    tab = protocol.load("pytorch")
    torch = tab.torch
    params = [torch.ones(3, requires_grad=True) for _ in "ab"]
    params[0].grad = params[1].grad = torch.ones(3)
    tab.adam(params, [(torch.zeros(3), torch.zeros(3)) for _ in "ab"], {"lr": 0.5, "t": 1})
    assert [p.tolist() for p in params] == [[pytest.approx(0.5, abs=1e-6)] * 3] * 2
    assert not params[0].grad.any()


def test_a_tensor_that_stands_for_its_negative_is_taken_as_it_is_meant():
    tab = protocol.load("pytorch")
    torch = tab.torch
    p = torch.ones(1, requires_grad=True)
    p.grad = torch.tensor([1 + 1j]).conj().imag
    assert p.grad.is_neg()
    assert p.grad.is_contiguous()
    tab.adam([p], [(torch.zeros(1), torch.zeros(1))], {"lr": 0.5, "t": 1})
    assert p.item() == pytest.approx(1.5)


@pytest.mark.parametrize("make", ["_neg_view", "_efficientzerotensor"])
def test_gradients_without_plain_memory_are_taken_as_they_are_meant(make):
    tab = protocol.load("pytorch")
    torch = tab.torch
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch._neg_view(torch.ones(3)) if make == "_neg_view" else torch._efficientzerotensor(3)
    tab.Adam([p], lr=0.5).step()
    assert p.tolist() == pytest.approx([1.5 if make == "_neg_view" else 1.0] * 3)


CHANGES = [
    "pass",
    "p.grad = torch.full((2, 2), 0.5)",
    "p.data, v.data, p.grad.data = (torch.full((2, 2), x) for x in (7.0, 0.5, -1.0))",
    "s.set_(torch.full((2, 2), 9.0))",
    "v.set_(torch.arange(4.0).view(2, 2).t())",
    "p.detach_().t_()",
    "p.grad.copy_(torch.arange(4.0).view(2, 2)).t_()",
    "s.copy_(torch.arange(4.0).view(2, 2)).t_()",
    "v.resize_(3)",
    "s.resize_(4)",
    "v.data = v.double()",
    "p.grad = None; p.data, v, s = p.data.double(), v.double(), s.double(); p.grad = torch.ones_like(p)",
    "p.grad = None; p.data = p.data.bfloat16(); p.grad = torch.ones_like(p)",
    "p.requires_grad_(False)",
    "p.grad = torch._neg_view(torch.full((2, 2), 0.5))",
    "v = torch._neg_view(torch.full((2, 2), 0.5))",
    "p.grad = torch._efficientzerotensor(2, 2)",
    "p.grad = torch.eye(2).to_sparse()",
    "v = torch.eye(2).to_sparse()",
    "v = torch.eye(2).to_sparse_csr()",
    "s = torch.nested.nested_tensor([torch.ones(2), torch.ones(2)])",
    "v = torch.zeros(1, 2).expand(2, 2)",
    "with torch.inference_mode(): v, s = torch.zeros(2, 2), torch.zeros(2, 2)",
    "v = v.to('meta')",
    "v = torch.zeros(2, 2, dtype=torch.complex64).conj()",
    "v = v.as_subclass(type('Subclass', (torch.Tensor,), {}))",
    "s = s.numpy()",
    "p.grad = None",
    "p.grad = p.detach()",
    "p.grad = v",
    "v = s",
    "v = s.view(2, 2)",
]


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:The PyTorch API of nested")
@pytest.mark.parametrize("beside", [0, 1])  # so many other parameters
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_between_two_steps_is_seen(change, beside):
    tab = protocol.load("pytorch")
    torch = tab.torch
    results = []
    for choice in (None, False):
        d2l_adam.set_fused(choice)
        p, v, s = torch.nn.Parameter(torch.arange(4.0).view(2, 2)), torch.zeros(2, 2), torch.zeros(2, 2)
        p.grad, hyperparams, error = torch.ones(2, 2), {"lr": 0.5, "t": 1}, None
        others = [torch.nn.Parameter(torch.ones(3)) for _ in range(beside)]
        states = [(torch.zeros(3), torch.zeros(3)) for _ in others]
        for other in others:
            other.grad = torch.ones(3)
        tab.adam([p, *others], [(v, s), *states], hyperparams)
        p.grad.fill_(0.5)
        names = {"torch": torch, "p": p, "v": v, "s": s}
        exec(change, names)
        p, v, s = (names[name] for name in "pvs")
        try:
            for _ in range(3):
                tab.adam([p, *others], [(v, s), *states], hyperparams)
        except Exception as caught:
            error = type(caught), str(caught)
        arrays = [x for x in (p, v, s) if isinstance(x, torch.Tensor) and x.layout is torch.strided]
        values = [x.detach().flatten().tolist() for x in arrays if not (x.is_nested or x.is_meta or x.is_complex())]
        grad = p.grad is not None and (p.grad.to_dense() + torch.zeros(2, 2)).tolist()
        results.append((values, grad, error, hyperparams))
    assert str(results[0][1:]) == str(results[1][1:])
    for x, y in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_memory_that_was_given_back_is_not_stepped():
    tab = protocol.load("pytorch")
    p, v, s, g = (tab.torch.zeros(3) for _ in "pvsg")
    assert isinstance(tab.TAB.lend([p], [g], [(v, s)]), Memory)
    v.untyped_storage().resize_(0)
    assert isinstance(tab.TAB.lend([p], [g], [(v, s)]), Refusal)


@pytest.fixture
def looked_at(monkeypatch):
    """How often tensors were looked at one by one."""
    from d2l_adam.torch import memory

    calls, are_plain = [], memory._are_plain
    monkeypatch.setattr(memory, "_seen", {})
    monkeypatch.setattr(memory, "_are_plain", lambda *args: calls.append(args[1]) or are_plain(*args))
    return calls


def test_tensors_that_look_as_before_are_not_looked_at_again(looked_at, counted):
    from d2l_adam.torch import memory

    problem = Problem("pytorch", [np.ones(3), np.ones((2, 2))], "float32", lr=0.5)
    other = Problem("pytorch", [np.ones(4), np.ones(1)], "float64", lr=0.5)
    for _ in range(4):
        for each in (problem, other):
            each.set_grads([np.ones(p.shape) for p in each.params])  # new tensors
            each.step("adam")
    assert len(looked_at) == 2
    assert counted == ["pytorch"] * 8
    # The key is a hint: what was seen of other tensors under it is of no use.
    seen = memory._seen
    first, second = seen
    seen[first], seen[second] = seen[second], seen[first]
    for each in (problem, other):
        each.set_grads([np.ones(p.shape) for p in each.params])
        each.step("adam")
        np.testing.assert_allclose(np.concatenate([p.ravel() for p, _, _ in each.values()]), -1.5, atol=1e-4)
    assert len(looked_at) == 4


def test_what_was_seen_of_tensors_keeps_none_alive_and_does_not_grow(looked_at):
    from d2l_adam.torch import memory

    tab = protocol.load("pytorch")
    torch = tab.torch
    references = []
    for size in range(1, 100):
        p, v, s = (torch.ones(size) for _ in "pvs")
        p.grad = torch.ones(size)
        references += map(weakref.ref, (p, v, s))
        tab.adam([p], [(v, s)], {"lr": 0.5, "t": 1})
        del p, v, s
    assert not any(reference() is not None for reference in references)
    params = [torch.ones(3) for _ in range(99)]
    for p in params:
        p.grad = torch.ones(3)
        tab.adam([p], [(torch.zeros(3), torch.zeros(3))], {"lr": 0.5, "t": 1})
    assert 0 < len(memory._seen) <= 32


@pytest.mark.parametrize("how", ["absent", "refusing", "blind", "never content"])
def test_a_pytorch_that_compares_otherwise_is_stepped_as_well(how, looked_at, counted, monkeypatch):
    import torch

    from d2l_adam.torch import guards

    theirs = torch._C._dynamo.guards

    class Guards:
        def __init__(self, *tensors, **options):
            if how == "refusing":
                raise TypeError("unknown")

        def check(self, *tensors):
            return how == "blind"

    if how == "absent":
        monkeypatch.delattr(theirs, "TensorGuards")
    else:
        monkeypatch.setattr(theirs, "TensorGuards", Guards)
    monkeypatch.setattr(guards, "recorded", guards._recorder())
    steps = [[np.linspace(-1, i, 5)] for i in range(3)]
    one, other = (stepped("pytorch", "adam", [np.arange(5.0)], steps, "float32", choice) for choice in (True, False))
    assert_close(one, other, 1e-6)
    assert counted == ["pytorch"] * 3
    assert len(looked_at) == 3


@pytest.mark.parametrize("beside", ["nothing", "half"])
def test_gradients_that_begin_to_share_memory_are_seen(beside):
    tab = protocol.load("pytorch")
    torch = tab.torch
    params = [torch.nn.Parameter(torch.ones(3)) for _ in "ab"]
    half = [torch.nn.Parameter(torch.ones(3, dtype=torch.float16))] if beside == "half" else []
    states, hyperparams = [(torch.zeros(3), torch.zeros(3)) for _ in params + half], {"lr": 0.5, "t": 1}
    shared = torch.ones(3)
    for grads in ([torch.ones(3), torch.ones(3)], [shared, shared.view(3)], [shared, shared]):
        for p, g in zip(params + half, [*grads, *(torch.ones_like(p) for p in half)], strict=True):
            p.grad = g.fill_(1)
        tab.adam(params + half, states, hyperparams)
        assert not any(p.grad.any() for p in params + half)
    assert [p.tolist() for p in params] == [[pytest.approx(-0.5, abs=1e-5)] * 3] * 2


def test_a_mode_that_sees_operations_sees_those_of_a_known_step():
    tab = protocol.load("pytorch")
    torch = tab.torch
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    p, states, hyperparams = torch.ones(3), [(torch.zeros(3), torch.zeros(3))], {"lr": 0.5, "t": 1}
    for mode in (None, None, Mode()):
        p.grad = torch.ones(3)
        with mode or contextlib.nullcontext():
            tab.adam([p], states, hyperparams)
    assert len(seen) > 5
    assert p.tolist() == pytest.approx([-0.5] * 3, abs=1e-5)


def test_states_that_only_together_are_as_many_as_they_should_be_are_refused():
    tab = protocol.load("pytorch")
    torch = tab.torch
    params, x = [torch.ones(3) for _ in "ab"], [torch.zeros(3) for _ in "vsvs"]
    for p in params:
        p.grad = torch.ones(3)
    hyperparams = {"lr": 0.5, "t": 1}
    tab.adam(params, [(x[0], x[1]), (x[2], x[3])], hyperparams)
    for states in ([(x[0], x[1], x[2]), (x[3],)], [tuple(x)], [(x[0], x[1])]):
        for p in params:
            p.grad.fill_(1)
        with pytest.raises(ValueError, match=r"pytorch: .*state"):
            tab.adam(params, states, hyperparams)
    assert hyperparams["t"] == 2


@pytest.mark.parametrize("tab", ["pytorch", "numpy"])
def test_a_gradient_may_be_another_parameter(tab):
    problem = Problem(tab, [np.array([1.0, 2.0]), np.array([3.0, 4.0])], "float64", lr=0.1)
    x, y = problem.params
    problem.grads = [y, x]
    if tab == "pytorch":
        x.grad, y.grad = y.detach().clone().copy_(y.detach()), x.detach()
    before = [problem.module.TAB.asnumpy(y), problem.module.TAB.asnumpy(x)]
    problem.step("adam")
    for (_, v, _), g in zip(problem.values(), before, strict=True):
        np.testing.assert_allclose(v, 0.1 * g, rtol=1e-12)


def test_what_records_tensors_sees_the_step():
    tab = protocol.load("pytorch")
    torch = tab.torch

    def f(p):
        p = p.clone()
        p.grad = torch.ones(3)
        tab.adam([p], [(torch.zeros(3), torch.zeros(3))], {"lr": 0.5, "t": 1})
        return p

    from torch.fx.experimental.proxy_tensor import make_fx

    assert make_fx(f)(torch.ones(3))(torch.ones(3)).tolist() == pytest.approx([0.5] * 3)


def test_a_step_saved_as_a_number_goes_on():
    tab = protocol.load("pytorch")
    torch = tab.torch
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = tab.Adam([p], lr=0.1)
    optimizer.step()
    state = optimizer.state_dict()
    state["state"][0]["step"] = 1
    optimizer.load_state_dict(state)
    optimizer.step()
    assert optimizer.state[p]["step"] == 2
    assert p.tolist() == pytest.approx([0.8, 0.8], abs=1e-5)


def test_views_of_one_tensor_are_stepped_as_before():
    tab = protocol.load("pytorch")
    torch = tab.torch
    results = []
    for choice in (None, False):
        d2l_adam.set_fused(choice)
        base = torch.ones(4)
        params = [base, base.view(2, 2)]
        for p in params:
            p.grad = torch.ones_like(p)
        tab.adam(params, [(torch.zeros_like(p), torch.zeros_like(p)) for p in params], {"lr": 0.5, "t": 1})
        results.append(base.tolist())
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "options", [{"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}, {"maximize": True}]
)
def test_the_options_of_an_optimizer_are_in_the_same_pass(options, counted):
    results = []
    for choice in (True, False):
        native = Native("pytorch", "yogi", [np.arange(5.0), np.ones((2, 3))], lr=0.1, fused=choice, **options)
        for step in range(3):
            native.step([np.linspace(-1, step, 5), np.full((2, 3), 0.5)])
        results.append(native.values())
    assert_close([results[0]], [results[1]], 1e-15)
    assert counted == ["pytorch"] * 3


# MXNet


def test_a_fused_step_waits_for_what_is_pending_and_what_follows_sees_it():
    tab = protocol.load("mxnet")
    np_ = tab.mxnet.np
    for _ in range(5):
        p, states = np_.ones((400, 400)), [(np_.zeros((400, 400)), np_.zeros((400, 400)))]
        p.attach_grad()
        p.grad[:] = 1
        x = np_.ones((400, 400))
        for _ in range(5):
            x = np_.dot(x, x) / 400
        p *= x  # written late
        read = np_.dot(p, x) + p  # and read later still
        tab.adam([p], states, {"lr": 0.25, "t": 1})
        after = p + 0
        np.testing.assert_allclose(read.asnumpy(), 401, rtol=1e-5)
        np.testing.assert_allclose(after.asnumpy(), 0.75, rtol=1e-5)


def test_an_error_that_is_pending_is_raised_by_the_step_and_nothing_changes():
    tab = protocol.load("mxnet")
    np_ = tab.mxnet.np
    p, states, hyperparams = np_.ones((1,)), [(np_.zeros((1,)), np_.zeros((1,)))], {"lr": 0.1, "t": 1}
    p.attach_grad()
    p.grad[:] = np_.random.normal(0, np_.array([-1.0]), size=(1,))
    with pytest.raises(ValueError, match="scale < 0"):
        tab.adam([p], states, hyperparams)
    assert p.item() == 1
    assert hyperparams["t"] == 1


@pytest.mark.parametrize("options", [{"wd": 0.1, "rescale_grad": 0.5}, {"clip_gradient": 0.4}])
def test_gluon_s_options_are_kept_to(options, counted):
    results = []
    for choice in (None, False):
        d2l_adam.set_fused(choice)
        native = Native("mxnet", "adam", [np.arange(5.0)], lr=0.1, **options)
        for step in range(3):
            native.step([np.linspace(-1, step, 5)])
        results.append(native.values())
    assert_close([results[0]], [results[1]], 1e-15)
    assert counted == ["mxnet"] * 3


# TensorFlow

READS = {
    "read_value": lambda tf, x: x.read_value(),
    "identity": lambda tf, x: tf.identity(x),
    "numpy": lambda tf, x: x.numpy(),
    "function": lambda tf, x: tf.function(lambda: x.read_value())(),
}


@pytest.mark.parametrize("read", READS)
def test_a_tensor_read_before_a_step_does_not_change_after_it(read):
    tab = protocol.load("tensorflow")
    tf = tab.tf
    problem = Problem("tensorflow", [np.arange(1.0, 5.0)], "float32", lr=0.5)
    problem.set_grads([np.ones(4)])
    p, (v, s) = problem.params[0], problem.states[0]
    snapshots = []
    for _ in range(4):
        problem.step("adam")
        for x in (p, v, s):
            tensor = READS[read](tf, x)
            snapshots.append((tensor, tf.convert_to_tensor(tensor).numpy().copy()))
            np.testing.assert_array_equal(snapshots[-1][1], x.numpy()[: len(snapshots[-1][1])])
    for tensor, value in snapshots:
        np.testing.assert_array_equal(tf.convert_to_tensor(tensor).numpy(), value)
    assert len({tuple(value) for _, value in snapshots}) == len(snapshots)
    d2l_adam.set_fused(False)
    other = Problem("tensorflow", [np.arange(1.0, 5.0)], "float32", lr=0.5)
    assert_close([problem.values()], [other.run("adam", [[np.ones(4)]] * 4)[-1]], 1e-6)


@pytest.mark.parametrize("bad", [np.ones((4, 1), "float32"), np.ones(4), np.ones(3, "float32"), np.ones(4, "float16")])
def test_what_fits_a_variable_no_more_is_refused_after_it_has_been_stepped_too(bad):
    problem = Problem("tensorflow", [np.arange(4.0), np.ones(2)], "float32")
    problem.set_grads([np.ones(4), np.ones(2)])
    problem.step("adam")
    before = problem.values()
    problem.grads = [protocol.load("tensorflow").tf.constant(bad), problem.grads[1]]
    with pytest.raises((ValueError, TypeError), match="gradient of parameter 0"):
        problem.step("adam")
    np.testing.assert_equal(problem.values(), before)
    assert problem.hyperparams["t"] == 2


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_many_parameters_are_stepped_by_few_graphs(dtype):
    from d2l_adam.tensorflow import tab

    many = 2 * tab._MANY + 3
    rng = np.random.default_rng(3)
    params = [rng.normal(size=SHAPES[i % len(SHAPES)]) for i in range(many)]
    steps = [[rng.normal(size=np.shape(p)) for p in params] for _ in range(3)]
    one, other = (stepped("tensorflow", "yogi", params, steps, dtype, choice) for choice in (None, False))
    assert_close(one, other, TOLERANCE[dtype])


@pytest.mark.parametrize("scope", ["tape", "eager functions"])
def test_a_step_is_made_at_once_wherever_it_is_called(scope):
    tf = protocol.load("tensorflow").tf
    problem = Problem("tensorflow", [np.arange(1.0, 5.0)], "float32", lr=0.5)
    problem.set_grads([np.ones(4)])
    p = problem.params[0]
    tf.config.run_functions_eagerly(scope == "eager functions")
    try:
        for _ in range(3):
            before = p.numpy()
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(p**2)
                problem.step("adam")
            np.testing.assert_allclose(p.numpy(), before - 0.5, atol=1e-4)
            np.testing.assert_allclose(tape.gradient(loss, p).numpy(), 2 * before, atol=1e-6)
    finally:
        tf.config.run_functions_eagerly(False)


def test_the_gradients_of_the_chapter_s_model_are_those_of_a_tape():
    tab = protocol.load("tensorflow")
    features, labels, w, b = protocol.start()
    params, loss, gradients = tab.TAB.regression(w, b)
    for rows in (slice(0, 10), slice(5, 6), slice(0, 1500)):
        with tab.tf.GradientTape() as tape:
            error = loss(features[rows], labels[rows])
        for one, other in zip(*gradients(features[rows], labels[rows]), tape.gradient(error, params), strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-6)
        params[0].assign_add(tab.tf.ones((5, 1)))
        params[1].assign([2.0])


@pytest.mark.parametrize("how", ["assign", "assign_add", "scatter", "slice", "graph", "xla", "restore"])
def test_what_is_assigned_between_steps_is_not_lost(how, tmp_path):
    tab = protocol.load("tensorflow")
    tf = tab.tf
    results = []
    for choice in (None, False):
        d2l_adam.set_fused(choice)
        problem = Problem("tensorflow", [np.arange(1.0, 5.0)], "float32", lr=0.5)
        problem.set_grads([np.ones(4)])
        problem.step("adam")
        checkpoint = tf.train.Checkpoint(variables=[*problem.params, *problem.states[0]])
        saved = checkpoint.save(tmp_path / "checkpoint")
        problem.step("adam")
        for i, x in enumerate((*problem.params, *problem.states[0])):
            new = tf.constant([1.0, 2.0, 3.0, 4.0]) / (i + 1)
            if how == "assign":
                x.assign(new)
            elif how == "assign_add":
                x.assign_add(new)
            elif how == "scatter":
                x.scatter_nd_update([[1]], [0.25])
            elif how == "slice":
                x[1:3].assign([0.25, 0.5])
            elif how in ("graph", "xla"):
                tf.function(lambda x=x, new=new: x.assign(new), jit_compile=how == "xla")()
        if how == "restore":
            checkpoint.restore(saved).assert_consumed()
        problem.step("adam")
        problem.step("adam")
        results.append(problem.values())
    assert_close([results[0]], [results[1]], 1e-6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("tab", NATIVE)
def test_native_optimizers_are_fused_alike(tab, rule, counted):
    results = []
    for choice in (None, False):
        d2l_adam.set_fused(choice)
        native = Native(tab, rule, [np.arange(5.0), np.ones((2, 3))], lr=0.1)
        for step in range(3):
            native.step([np.linspace(-1, step, 5), np.full((2, 3), 0.5)])
        results.append(native.values())
    assert_close([results[0]], [results[1]], 1e-15)
    assert counted == [tab] * 3 * (tab in LENDING)


# Numba


def run_python(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


STEP = "import d2l_adam; from d2l_adam import fused; print(d2l_adam.train('numpy').losses[-1], fused.facts())"


def test_what_is_compiled_is_kept_where_the_user_says_also_by_two_at_once(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STEP],
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    results = [process.communicate(timeout=300) for process in processes]
    assert [err for _, err in results] == ["", ""]
    assert results[0] == results[1]
    assert str(tmp_path) in results[0][0]
    files = sorted(tmp_path.rglob("*.nb*"))
    assert files
    written = [file.stat().st_mtime_ns for file in files]
    assert run_python(STEP, NUMBA_CACHE_DIR=str(tmp_path)).stdout == results[0][0]
    assert [file.stat().st_mtime_ns for file in files] == written  # it was read, not compiled anew
    for spoil in (lambda file: file.write_bytes(b"nonsense"), lambda file: os.truncate(file, 10)):
        for file in files:
            spoil(file)
        done = run_python(STEP, NUMBA_CACHE_DIR=str(tmp_path))
        assert done.stdout.split()[0] == results[0][0].split()[0], done.stderr


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path):
    (tmp_path / "file").write_text("no folder")  # also for a superuser
    here = {
        "NUMBA_CACHE_DIR": str(tmp_path / "file"),
        "HOME": str(tmp_path / "file"),
        "XDG_CACHE_HOME": str(tmp_path / "file"),
    }
    done = run_python(STEP, **here)
    assert done.stderr == ""
    assert "'why': None" in done.stdout


WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "numba":
            raise ModuleNotFoundError("No module named 'numba'", name="numba")
sys.meta_path.insert(0, Absent())
"""


def test_without_numba_everything_works_as_before():
    done = run_python(WITHOUT + STEP)
    assert done.stderr == ""
    assert "Numba is not installed; pip install numba" in done.stdout
    d2l_adam.set_fused(False)
    assert float(done.stdout.split()[0]) == protocol.train("numpy").losses[-1]
    done = run_python(WITHOUT + "import d2l_adam; d2l_adam.set_fused(True); d2l_adam.train('numpy')")
    assert "ValueError: numpy: this step cannot be fused: Numba is not installed; pip install numba" in done.stderr


@pytest.mark.parametrize(
    ("variable", "words"), [("D2L_ADAM_FUSED", "D2L_ADAM_FUSED=0"), ("NUMBA_DISABLE_JIT", "NUMBA_DISABLE_JIT is set")]
)
def test_the_environment_may_choose(variable, words):
    value = {"D2L_ADAM_FUSED": "0", "NUMBA_DISABLE_JIT": "1"}[variable]
    done = run_python(STEP, **{variable: value})
    assert done.stderr == ""
    assert words in done.stdout


NOT_FUSED = "{0}: this step cannot be fused: {0} lends no memory; leave that choice at None"


def test_info_says_how_steps_are_made_and_why():
    result = json.loads(CliRunner().invoke(cli, ["info", "--json"]).stdout)
    assert {tab: (row["step"], row["note"]) for tab, row in result["frameworks"].items() if tab in TABS} == {
        tab: ("fused", "") if tab in LENDING else (protocol.load(tab).TAB.unfused, NOT_FUSED.format(tab))
        for tab in TABS
    }
    assert result["steps"]["why"] is None
    assert any(name.startswith("kernel.adam_float32") for name in os.listdir(result["steps"]["cache"]))
    d2l_adam.set_fused(False)
    printed = CliRunner().invoke(cli, ["info"]).output
    assert "fused by" not in printed
    assert "steps: eager; set_fused(False), or D2L_ADAM_FUSED=0, has chosen so" in printed


def test_importing_a_tab_does_not_import_numba():
    assert run_python("import d2l_adam.numpy, sys; print('numba' in sys.modules)").stdout == "False\n"
