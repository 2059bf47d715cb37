"""`d2l_adam.torch.Adam` and `Yogi` as `torch.optim` has it: its own Adam, with the chapter's eps, is the measure."""

import copy
import io
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import warnings
from pathlib import Path

import numpy as np
import oracle
import pytest

from d2l_adam import torch as tab
from d2l_adam.fused.memory import Memory
from d2l_adam.spec import maximum, sign, sqrt, square
from d2l_adam.torch import Adam, Yogi, gpu, torch

TESTS = Path(__file__).parent
PEERS = TESTS.parent / ".venv" / "peers"  # among them Triton, as PyTorch's GPU builds bring it
TWIN = {"lr": 0.05, "eps": 1e-6}
PARAMS = [np.random.default_rng(0).normal(size=shape) for shape in ((4, 3), (2,), ())]


def parameters(dtype=torch.float64):
    return [torch.nn.Parameter(torch.tensor(p).to(dtype)) for p in PARAMS]


def set_grads(params, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)


def run(optimizer, steps, first=0):
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for seed in range(first, first + steps):
        set_grads(params, seed)
        optimizer.step()
    return params


def assert_equal(params, others, atol=0.0):
    for p, other in zip(params, others, strict=True):
        torch.testing.assert_close(p, other, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"betas": (0.8, 0.95)},
        {"maximize": True},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "maximize": True},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        {"lr": torch.tensor(0.05, dtype=torch.float64)},
    ],
)
def test_it_steps_as_torch_s_adam_does(options, dtype):
    ours, theirs = (run(cls(parameters(dtype), **TWIN | options), 200) for cls in (Adam, torch.optim.Adam))
    assert_equal(ours, theirs, 5e-16 * 2)


def test_decoupled_weight_decay_is_adamw():
    ours = run(Adam(parameters(), **TWIN, weight_decay=0.1, decoupled_weight_decay=True), 50)
    assert_equal(ours, run(torch.optim.AdamW(parameters(), **TWIN, weight_decay=0.1), 50), 1e-15)


def test_groups_have_options_of_their_own():
    def make(cls):
        a, b, c = parameters()
        optimizer = cls([{"params": [a], "lr": 0.1}, {"params": [b], "betas": (0.5, 0.5), "weight_decay": 0.2}], **TWIN)
        optimizer.add_param_group({"params": [c], "maximize": True})
        return run(optimizer, 20)

    assert_equal(make(Adam), make(torch.optim.Adam), 1e-15)


SCHEDULERS = {
    "LambdaLR": {"lr_lambda": lambda epoch: 0.9**epoch},
    "MultiplicativeLR": {"lr_lambda": lambda epoch: 0.9},
    "StepLR": {"step_size": 3},
    "MultiStepLR": {"milestones": [2, 5]},
    "ConstantLR": {},
    "LinearLR": {},
    "ExponentialLR": {"gamma": 0.9},
    "PolynomialLR": {},
    "CosineAnnealingLR": {"T_max": 5},
    "CosineAnnealingWarmRestarts": {"T_0": 4},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3},  # cycles beta1 too
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 11},
    "ReduceLROnPlateau": {"patience": 1},
    "SequentialLR": None,
    "ChainedScheduler": None,
}


def test_no_scheduler_of_torch_is_left_out():
    module = torch.optim.lr_scheduler
    public = {name for name in module.__all__ if isinstance(getattr(module, name), type)}
    assert public - {"LRScheduler"} == set(SCHEDULERS)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor"])
def test_every_scheduler_drives_it(name, tensor):
    module = torch.optim.lr_scheduler

    def make(cls):
        params = parameters()
        lr = torch.tensor(0.05, dtype=torch.float64) if tensor else 0.05
        optimizer = cls(params, lr=lr, eps=1e-6)
        if SCHEDULERS[name] is not None:
            scheduler = getattr(module, name)(optimizer, **SCHEDULERS[name])
        else:
            parts = [module.ConstantLR(optimizer), module.ExponentialLR(optimizer, 0.8)]
            more = ([3],) if name == "SequentialLR" else ()
            scheduler = getattr(module, name)(*([optimizer] if more else []), parts, *more)
        for i in range(10):
            set_grads(params, i)
            optimizer.step()
            scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
        return params

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the order of schedulers in a sequence; the same for both
        assert_equal(make(Adam), make(torch.optim.Adam), 1e-15)


def test_a_closure_is_called_first_with_gradients_on_and_its_loss_returned():
    p = torch.nn.Parameter(torch.tensor(3.0))
    optimizer = Yogi([p], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = p**2
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9
    assert p.item() == pytest.approx(3 - 0.5 * 6 / (6 + 1e-3))
    assert optimizer.step() is None


def test_hooks_are_called():
    calls = []
    optimizer = Adam(parameters(), **TWIN)
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    run(optimizer, 1)
    assert calls == ["before", "after"]


def test_a_parameter_without_gradient_is_left_alone_and_its_time_stands_still():
    def make(cls):
        params = parameters()
        b = params[1]
        optimizer = cls(params, **TWIN)
        run(optimizer, 2)
        before, state = b.clone(), copy.deepcopy(optimizer.state[b])
        for _ in range(3):
            set_grads(params, 7)
            b.grad = None
            optimizer.step()
        assert torch.equal(b, before)
        assert all(torch.equal(state[key], optimizer.state[b][key]) for key in state)
        return run(optimizer, 3)

    assert_equal(make(Adam), make(torch.optim.Adam), 1e-15)


def through_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("way", ["state_dict", "file", "pickle", "deepcopy"])
@pytest.mark.parametrize("cls", [Adam, Yogi])
def test_it_carries_on_exactly_from_what_was_saved(cls, way, dtype):
    uninterrupted = run(cls(parameters(dtype), lr=0.05), 10)
    optimizer = cls(parameters(dtype), lr=0.05)
    params = run(optimizer, 5)
    if way in ("state_dict", "file"):
        state = optimizer.state_dict()
        params = [torch.nn.Parameter(p.detach().clone()) for p in params]
        optimizer = cls(params, lr=9.0)
        optimizer.load_state_dict(through_file(state) if way == "file" else copy.deepcopy(state))
    elif way == "pickle":
        optimizer = pickle.loads(pickle.dumps(optimizer))
    else:
        optimizer = copy.deepcopy(optimizer)
    assert_equal(run(optimizer, 5, first=5), uninterrupted)


def test_averages_of_half_precision_are_copied_when_loaded():
    optimizer, other = (Adam(parameters(torch.bfloat16), lr=0.05) for _ in range(2))
    run(optimizer, 2)
    other.load_state_dict(optimizer.state_dict())
    before = copy.deepcopy(optimizer.state_dict()["state"])
    run(other, 3)
    for key, state in optimizer.state_dict()["state"].items():
        assert torch.equal(state["exp_avg"], before[key]["exp_avg"])


@pytest.mark.parametrize(("first", "second"), [(Adam, torch.optim.Adam), (torch.optim.Adam, Adam)])
def test_torch_s_adam_and_ours_load_each_other_s_state(first, second):
    optimizer = first(parameters(), **TWIN, weight_decay=0.1)
    params = run(optimizer, 5)
    other = second(params, lr=1.0)
    other.load_state_dict(through_file(optimizer.state_dict()))
    expected = run(torch.optim.Adam(parameters(), **TWIN, weight_decay=0.1), 10)
    assert_equal(run(other, 5, first=5), expected, 1e-15)


def test_a_state_with_another_amsgrad_is_refused():
    for amsgrad in (False, True):
        optimizer = Adam(parameters(), **TWIN, amsgrad=not amsgrad)
        before = copy.deepcopy(optimizer.state_dict())
        with pytest.raises(ValueError, match=f"pytorch: amsgrad={amsgrad} is another rule than this; make the optimi"):
            optimizer.load_state_dict(torch.optim.Adam(parameters(), amsgrad=amsgrad).state_dict())
        assert optimizer.state_dict() == before
        with pytest.raises(ValueError, match=f"pytorch: amsgrad={amsgrad} is another rule"):
            optimizer.add_param_group({"params": parameters(), "amsgrad": amsgrad})
    with pytest.raises(ValueError, match="pytorch: amsgrad=True is another rule than this; leave it out"):
        Yogi(parameters(), amsgrad=True)


@pytest.mark.parametrize("fused", [True, False])
def test_amsgrad_is_torch_s_and_their_states_are_each_other_s(fused):
    ours, theirs = (cls(parameters(), **TWIN, amsgrad=True) for cls in (Adam, torch.optim.Adam))
    ours.param_groups[0]["fused"] = fused
    assert_equal(run(ours, 20), run(theirs, 20), 1e-15)
    assert ours.state_dict()["state"][0].keys() == theirs.state_dict()["state"][0].keys()
    twin = pickle.loads(pickle.dumps(ours))
    assert twin.rule.name == "amsgrad"
    assert Adam(parameters()).rule.name == "adam"
    here, there = (cls(parameters(), **TWIN, amsgrad=True) for cls in (Adam, torch.optim.Adam))
    for other, optimizer in ((here, theirs), (there, ours)):
        for p, done in zip(other.param_groups[0]["params"], optimizer.param_groups[0]["params"], strict=True):
            p.data.copy_(done)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    there.param_groups[0]["fused"] = None
    expected = run(torch.optim.Adam(parameters(), **TWIN, amsgrad=True), 40)
    for optimizer in (here, there, twin, ours):
        assert_equal(run(optimizer, 20, first=20), expected, 1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_state_of_an_adam_is_refused(dtype):
    params = parameters(dtype)
    optimizer, sgd = Adam(params, **TWIN), torch.optim.SGD(params, lr=0.1, momentum=0.9)
    run(optimizer, 1)
    run(sgd, 1)
    before = copy.deepcopy(optimizer.state_dict())
    states = [sgd.state_dict(), copy.deepcopy(before), copy.deepcopy(before)]
    del states[1]["state"][1]["exp_avg_sq"]
    states[2]["param_groups"][0]["lr"] = -1.0
    for state, words in zip(
        states, ("it lacks betas, eps, exp_avg", "it lacks exp_avg_sq; load", "'lr' is -1"), strict=True
    ):
        with pytest.raises(ValueError, match=f"pytorch: .*{words}"):
            optimizer.load_state_dict(state)
        assert str(optimizer.state_dict()) == str(before)


def test_options_that_a_state_lacks_are_those_of_the_optimizer():
    state = torch.optim.Adam(parameters(), **TWIN).state_dict()
    del state["param_groups"][0]["decoupled_weight_decay"]
    optimizer = Adam(parameters(), decoupled_weight_decay=True)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["decoupled_weight_decay"]


def renamed(state_dict):
    names = {"m": "exp_avg", "v": "exp_avg_sq", "step": "step"}
    state = {key: {names[name]: x for name, x in row.items()} for key, row in state_dict["state"].items()}
    return state_dict | {"state": state}


def with_keys(choose):
    def hook(state_dict):
        group = state_dict["param_groups"][0]
        return state_dict | {"param_groups": [group | {"params": choose(group["params"])}]}

    return hook


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("order", "hook"),
    [
        ([0, 1, 2], renamed),
        ([2, 1, 0], with_keys(lambda keys: keys[::-1])),
        ([3, 0, 1, 2], with_keys(lambda keys: keys[1:])),
    ],
    ids=["renamed", "reordered", "fewer"],
)
def test_what_is_loaded_is_what_the_hooks_make_of_a_state(order, hook, dtype):
    """`order` is that of the parameters in the optimizer that is saved."""
    params, seen = parameters(dtype), {}
    more = torch.nn.Parameter(torch.ones(2, dtype=dtype))
    first, other = Adam([[*params, more][i] for i in order], **TWIN), Adam(params, lr=1.0)
    run(first, 5)
    state = copy.deepcopy(first.state_dict())
    if hook is renamed:
        for row in state["state"].values():
            row["m"], row["v"] = row.pop("exp_avg"), row.pop("exp_avg_sq")
    other.register_load_state_dict_pre_hook(lambda optimizer, state_dict: hook(state_dict))
    other.register_load_state_dict_post_hook(lambda optimizer: seen.update(copy.copy(optimizer.state)))
    other.load_state_dict(state)
    for loaded in (other.state, seen):  # the hooks after it see what stays
        for p in params:
            assert set(loaded[p]) == set(first.state[p])
            assert all(torch.equal(loaded[p][name], x) for name, x in first.state[p].items())
    assert other.param_groups[0]["lr"] == TWIN["lr"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda state_dict: state_dict["state"][1].pop("exp_avg_sq"), "it lacks exp_avg_sq; load another"),
        (lambda state_dict: state_dict["state"][1].update(exp_avg=[1.0, 2.0]), "it lacks exp_avg; load another"),
        (lambda state_dict: state_dict["param_groups"][0].update(lr=-1.0), "'lr' is -1"),
        (lambda state_dict: state_dict["param_groups"][0].update(params=[0, 1]), "doesn't match the size"),
    ],
)
def test_a_state_that_a_hook_has_spoilt_is_refused(spoil, words, dtype):
    optimizer = Adam(parameters(dtype), **TWIN)
    run(optimizer, 2)
    before, state = (copy.deepcopy(optimizer.state_dict()) for _ in "ab")

    def hook(optimizer, state_dict):
        spoil(state_dict)

    handle = optimizer.register_load_state_dict_pre_hook(hook)
    with pytest.raises(ValueError, match=words):
        optimizer.load_state_dict(state)
    assert str(optimizer.state_dict()) == str(before)
    handle.remove()
    optimizer.load_state_dict(copy.deepcopy(before))  # nothing is left of the refused call
    assert str(optimizer.state_dict()) == str(before)


def test_a_parameter_without_a_state_and_a_state_without_a_parameter_are_loaded_as_torch_does():
    for cls in (Adam, torch.optim.Adam):
        optimizer = cls(parameters(torch.bfloat16), **TWIN)
        state = optimizer.state_dict() | {"state": {0: {}, "mine": {"x": 1}}}
        optimizer.load_state_dict(state)
        assert optimizer.state["mine"] == {"x": 1}
        run(optimizer, 1)


def test_a_schedule_that_ends_a_rounding_below_zero_trains_on():
    """The end of a LinearLR is at -1e-18."""

    def make(cls):
        params = parameters()
        optimizer = cls(params, **TWIN)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 0.0, total_iters=7)
        for i in range(10):
            set_grads(params, i)
            optimizer.step()
            scheduler.step()
        return optimizer, params

    (optimizer, ours), (_, theirs) = make(Adam), make(torch.optim.Adam)
    assert -1e-17 < optimizer.param_groups[0]["lr"] < 0
    assert_equal(ours, theirs, 1e-15)
    before = [p.detach().clone() for p in ours]
    other = Adam(ours, **TWIN, weight_decay=-1e-18)
    other.load_state_dict(through_file(optimizer.state_dict()))
    run(other, 3)
    assert_equal(ours, before)
    for p in ours:
        assert other.state[p]["step"] == 13
    for lr in (-1e-9, -1e-3):
        optimizer.param_groups[0]["lr"] = lr
        with pytest.raises(ValueError, match=f"'lr' is {lr}; the learning rate is 0 or more"):
            run(optimizer, 1)
        with pytest.raises(ValueError, match=f"'lr' is {lr}; the learning rate is 0 or more"):
            other.load_state_dict(optimizer.state_dict())


@pytest.fixture
def default_device():
    yield torch.set_default_device
    torch.set_default_device(None)


def test_the_clock_is_on_the_processor_whatever_the_default_device(default_device, tmp_path):
    right, params = run(Adam(parameters(), **TWIN), 8), parameters()
    optimizer, third = Adam(params, **TWIN), Adam([torch.nn.Parameter(p.detach().clone()) for p in params], **TWIN)
    grads = [[p.grad for p in params] for seed in range(8) if set_grads(params, seed) is None]
    default_device("meta")

    def go_on(optimizer, grads):
        for row in grads:
            for p, g in zip(optimizer.param_groups[0]["params"], row, strict=True):
                p.grad = g
            optimizer.step()
        for state in optimizer.state.values():
            assert state["step"].is_cpu

    go_on(optimizer, grads[:5])
    tab.save(tmp_path / "file", params, optimizer)
    tab.load(tmp_path / "file", third.param_groups[0]["params"], third)
    go_on(third, grads[5:])
    other = Adam(params, **TWIN)
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0]["step"] = 5  # as old versions of torch had it
    other.load_state_dict(state)
    go_on(other, grads[5:])
    assert_equal(params, right)
    assert_equal(third.param_groups[0]["params"], right)


def test_the_counters_of_a_fused_optimizer_are_loaded_onto_the_processor():
    p = torch.nn.Parameter(torch.ones(2, device="meta"))
    optimizer = Adam([p], fused=True)
    averages = {name: torch.ones(2) for name in ("exp_avg", "exp_avg_sq")}
    optimizer.load_state_dict(optimizer.state_dict() | {"state": {0: {"step": torch.tensor(3.0)} | averages}})
    assert optimizer.state[p]["step"].is_cpu


def test_importing_under_a_default_device_loses_nothing():
    program = """
import torch
torch.set_default_device("meta")
from d2l_adam import torch as tab
p = torch.nn.Parameter(torch.ones(2, device="cpu"))
p.grad = torch.ones(2, device="cpu")
from d2l_adam.torch import guards
assert guards.recorded([p])(p)  # what speeds up the fused step is there
tab.Adam([p], lr=0.5, fused=True).step()
print(p[0].item())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(1 - 0.5 / (1 + 1e-6), rel=1e-6)


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_the_clock_does_not_depend_on_the_default_dtype(default):
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = Adam([p], lr=1e-3)
    torch.set_default_dtype(default)
    try:
        for _ in range(300):
            p.grad = torch.ones(2, dtype=torch.float32)
            optimizer.step()
    finally:
        torch.set_default_dtype(torch.float32)
    assert optimizer.state[p]["step"].dtype == torch.float32
    assert optimizer.state[p]["step"] == 300


def test_sparse_gradients_are_summed():
    weight = torch.ones(4, 2, dtype=torch.float64)
    embedding = torch.nn.Embedding(4, 2, _weight=weight.clone(), sparse=True)
    dense = torch.nn.Embedding(4, 2, _weight=weight.clone())
    ours, other = Yogi(embedding.parameters(), lr=0.1), Yogi(dense.parameters(), lr=0.1)
    for rows in ([0, 2, 2], [3, 3, 3], [1, 2, 0]):
        for module, optimizer in ((embedding, ours), (dense, other)):
            optimizer.zero_grad()
            (module(torch.tensor(rows)) ** 2).sum().backward()
            optimizer.step()
    assert embedding.weight.grad.is_sparse
    assert_equal([embedding.weight], [dense.weight])


def test_any_layout_of_memory_will_do():
    base = torch.arange(24.0, dtype=torch.float64).reshape(4, 6)
    layouts = [
        base.clone().T,
        base.clone()[:, ::2],
        base.reshape(1, 4, 2, 3).to(memory_format=torch.channels_last),
    ]
    params = [torch.nn.Parameter(layout) for layout in layouts]
    copies = [torch.nn.Parameter(layout.clone(memory_format=torch.contiguous_format)) for layout in layouts]
    assert_equal(run(Adam(params, lr=0.1), 5), run(Adam(copies, lr=0.1), 5), atol=1e-15)
    with pytest.raises(ValueError, match="parameter 0 cannot be written in place"):
        run(Adam([torch.nn.Parameter(torch.ones(1).expand(3))]), 1)


def test_a_refused_step_changes_nothing():
    params = parameters()
    optimizer = Adam(params, **TWIN)
    run(optimizer, 2)
    set_grads(params, 5)
    optimizer.state[params[1]]["exp_avg"] = torch.zeros(7, dtype=torch.float64)
    before = copy.deepcopy((params, optimizer.state_dict()))
    for spoil, words in ((lambda: None, "state v of parameter 1"), (lambda: optimizer.add_param_group(GROUP), "'lr'")):
        with pytest.raises(ValueError, match=words):
            spoil() or optimizer.step()
        assert_equal(params, before[0])
        for key, state in before[1]["state"].items():
            now = optimizer.state_dict()["state"][key]
            assert all(torch.equal(now[name], state[name]) for name in state)
        assert optimizer.state_dict()["param_groups"] == before[1]["param_groups"]


@pytest.mark.parametrize("named", [False, True])
def test_an_error_says_which_parameter_it_is(named):
    params = parameters()
    given = list(zip("abc", params, strict=True)) if named else params
    groups = [{"params": given[:1]}, {"params": given[1:]}]
    for optimizer, name in ((Adam(given), "c" if named else "2"), (Adam(groups), f"{'c' if named else 1} of group 1")):
        set_grads(params[1:], 0)
        optimizer.state[params[2]] = {name: torch.zeros(7) for name in ("step", "exp_avg", "exp_avg_sq")}
        optimizer.state[params[2]]["step"] = torch.tensor(0.0)
        with pytest.raises(
            ValueError, match=rf"pytorch: state v of parameter {name} has shape \(7,\), parameter {name} has"
        ):
            optimizer.step()
        assert set(optimizer.state) == {params[2]}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"betas": 0.9}, ValueError, r"betas is 0\.9; give two decay rates"),
        ({"betas": (0.9,)}, ValueError, r"betas is \(0\.9,\); give two decay rates"),
        ({"lr": torch.ones(2)}, TypeError, "'lr' is torch.Tensor; give a Python number"),
        ({"lr": "0.1"}, TypeError, "'lr' is builtins.str; give a Python number"),
        ({"weight_decay": -1.0}, ValueError, r"'weight_decay' is -1\.0; a weight decay is 0 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, error, words):
    with pytest.raises(error, match=f"pytorch: .*{words}"):
        Adam(parameters(), **options)


@pytest.mark.parametrize("foreach", [None, False, True])
def test_options_that_change_nothing_are_taken_as_torch_s_adam_takes_them(foreach):
    options = {"foreach": foreach, "capturable": False, "differentiable": False}
    ours, theirs = (
        cls(parameters(), TWIN["lr"], (0.9, 0.999), TWIN["eps"], 0.1, False, **options)
        for cls in (Adam, torch.optim.Adam)
    )
    assert ours.defaults == theirs.defaults
    assert_equal(run(ours, 5), run(theirs, 5), 1e-15)
    assert_equal(run(Yogi(parameters(), amsgrad=False, **options), 2), run(Yogi(parameters()), 2))
    group = {"params": parameters(), "amsgrad": False, **options}
    assert_equal(run(Adam([group], **TWIN), 5), run(torch.optim.Adam(parameters(), **TWIN), 5), 1e-15)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"capturable": True}, "capturable=True is refused, as a CUDA graph would repeat"),
        ({"differentiable": True}, "differentiable=True is refused, as autograd does not see this step"),
        ({"eps": 0}, "'eps' is 0; it is more than 0, as a zero gradient would give 0/0"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused_with_the_reason(option, words):
    optimizer = Adam(parameters())
    before = str(optimizer.state_dict())
    for refused in (
        lambda: Adam(parameters(), **option),
        lambda: Yogi(parameters(), **option),
        lambda: Adam([{"params": parameters(), **option}]),
        lambda: optimizer.add_param_group({"params": parameters(), **option}),
        lambda: optimizer.load_state_dict(torch.optim.Adam(parameters(), **option).state_dict()),
    ):
        with pytest.raises(ValueError, match=f"pytorch: .*{words}"):
            refused()
        assert str(optimizer.state_dict()) == before


def test_a_step_is_not_captured(monkeypatch):
    optimizer = Adam(parameters())
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="pytorch: this step cannot be captured in a CUDA graph"):
        run(optimizer, 1)
    assert not optimizer.state


@pytest.mark.filterwarnings("error")  # torch.optim's own, of the same
def test_a_parameter_given_twice_is_refused_when_the_optimizer_is_made():
    a, b, c = parameters()
    words = "pytorch: parameter {} is the same tensor as parameter {}; give it once"
    with pytest.raises(ValueError, match=words.format(2, 0)):
        Adam([a, b, a])
    with pytest.raises(ValueError, match=words.format("other", "one")):
        Yogi(iter([("one", a), ("two", b), ("other", a)]))
    with pytest.raises(ValueError, match=words.format(1, 0)):
        Adam([{"params": [c]}, {"params": (p for p in (a, a))}])
    optimizer = Adam([a])
    before = str(optimizer.state_dict())
    with pytest.raises(ValueError, match=words.format(1, 0)):
        optimizer.add_param_group({"params": [b, b]})
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):  # torch's own
        optimizer.add_param_group({"params": [b, a]})
    assert str(optimizer.state_dict()) == before


def test_conjugate_gradients_are_resolved_and_conjugate_parameters_refused():
    ours, other = (torch.nn.Parameter(torch.tensor([1 + 2j, 3j])) for _ in range(2))
    ours.grad = torch.tensor([1 - 1j, 2j]).conj()
    other.grad = ours.grad.resolve_conj()
    for p in (ours, other):
        Adam([p], lr=0.1).step()
    assert torch.equal(ours, other)
    assert ours.grad.is_conj()
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64).conj())
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match="resolve_conj"):
        Adam([p]).step()


GROUP = {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": -1.0}


compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))) or " " in tempfile.gettempdir() + torch.__file__,
    reason="torch.compile needs a C++ compiler here, and no space in the paths of the temporary folder and of itself",
)


@pytest.mark.parametrize("fused", [False, True])
def test_autograd_notices_the_step(fused):
    p = torch.nn.Parameter(torch.ones(3))
    loss = (p**2).sum()
    p.grad = torch.ones(3)
    Adam([p], fused=fused).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_grad_scaler_skips_the_steps_that_overflow():
    p = torch.nn.Parameter(torch.ones(2))
    optimizer, scaler = Yogi([p], lr=0.1), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for factor in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale((p * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert optimizer.state[p]["step"] == 2
    expected = oracle.trajectory("yogi", np.ones(2), np.ones((2, 2)), 0.1)[0, -1]
    np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-6)
    assert scaler.get_scale() == 2.0**9


def test_training_under_autocast():
    torch.manual_seed(0)
    X = torch.randn(64, 5)
    y = X @ torch.arange(5.0)[:, None]
    net = torch.nn.Linear(5, 1)
    optimizer = Yogi(net.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = ((net(X) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


@compiler
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler's own
@pytest.mark.parametrize("fused", [False, True])
def test_a_compiled_training_loop_trains_alike(fused):
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        X, net = torch.randn(16, 4, dtype=torch.float64), torch.nn.Linear(4, 2).double()
        optimizer = Adam(net.parameters(), lr=0.05, weight_decay=0.1, fused=fused)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)

        def step(net=net, optimizer=optimizer, X=X):
            optimizer.zero_grad()
            loss = (net(X) ** 2).sum()
            loss.backward()
            optimizer.step()
            return loss

        step = torch.compile(step) if compiled else step
        for _ in range(15):
            loss = step()
            scheduler.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_what_no_kernel_takes_is_stepped_eagerly_or_refused_as_a_whole():
    single, half = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    single.grad, half.grad = torch.ones_like(single), torch.ones_like(half)
    optimizer = Adam([single, half], lr=0.1, fused=True)
    for _ in range(2):
        with pytest.raises(ValueError, match="this step cannot be fused: it takes contiguous float32 or float64"):
            optimizer.step()
    assert single.tolist() == half.tolist() == [1.0, 1.0]
    assert not optimizer.state
    Adam([single, half], lr=0.1).step()
    assert half.tolist() != [1.0, 1.0]


def test_without_triton_a_gpu_s_steps_are_not_fused_and_it_is_said_why(monkeypatch):
    """With a stand-in for memory on a GPU, where TensorFlow was imported first."""
    monkeypatch.setitem(sys.modules, "triton", None)
    lent = Memory("float32", [], [], ([], 0), torch.device("cuda", 0))
    gpu.missing.cache_clear()
    words = "TensorFlow was imported first, .*; import torch before tensorflow"
    with pytest.warns(UserWarning, match=f"steps on a GPU are not fused: {words}"):
        refusal = Adam.rule_step.compiled(lent, {})
    gpu.missing.cache_clear()
    assert re.match(words, refusal.reason)


def all_words(p, g, v, s, x, t, lr, beta=0.9, eps=1e-6):
    """A rule with three states and all the words; its numbers are of arithmetic and of words, too."""
    v = beta * v + (1 - beta) * g
    s = s + sqrt(1 - beta**t) * sign(g) * abs(g)
    x = maximum(x, 0.5 * square(v) - 1) + maximum(-abs(s), 0.1)
    p = p / (1 + 2**-t) - lr * v / (sqrt(x) + eps)
    return p, v, s, x


@pytest.mark.skipif(sys.platform != "linux", reason="Triton has wheels for Linux only")
@pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu.py does this on the GPU")
def test_what_a_gpu_s_kernel_computes():
    """As Triton's interpreter runs it, in the memory of the processor."""
    code = """
        import contextlib, torch
        from d2l_adam import torch as tab
        from d2l_adam.torch import gpu, memory
        import test_torch_optim as tests

        lend, torch.cuda.device = memory.lend, lambda device: contextlib.nullcontext()
        memory.lend = lambda *args: lend(*args)._replace(device=torch.device("cpu"))
        for rule in ("adam", "yogi", "sgd", "adagrad", tests.all_words):
            cls = tab.optimizer(rule)
            for dtype, atol in ((torch.float32, 1e-6), (torch.float64, 1e-15)):
                results = []
                for fused in (True, False):
                    optimizer = cls(tests.parameters(dtype), lr=0.05, weight_decay=0.1, maximize=True, fused=fused)
                    results.append(tests.run(optimizer, 5))
                tests.assert_equal(*results, atol)
            assert all(isinstance(x, gpu.Kernel) for x in cls.rule_step.kernels.values())
        print("seen")
    """
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS, PEERS)))}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=env)
    assert done.stdout == "seen\n", done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_the_step_is_one_launch():
    params = [torch.nn.Parameter(p.detach().cuda().float()) for p in parameters()]
    ours = run(Yogi(params, lr=0.05), 10)
    others = run(Yogi([torch.nn.Parameter(p.detach().cuda().float()) for p in parameters()], lr=0.05, fused=False), 10)
    assert any(isinstance(x, gpu.Kernel) for x in Yogi.rule_step.kernels.values())
    assert_equal(ours, others, 1e-6)
