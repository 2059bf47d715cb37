"""What a tab gives its reader: names, states, documentation, and d2l's conventions."""

import inspect
import pickle

import numpy as np
import oracle
import pytest
from frameworks import RULES, TABS, Problem

from d2l_adam import protocol

DEFAULT = {"mxnet": "float32", "pytorch": "float32", "tensorflow": "float32", "jax": "float32", "numpy": "float64"}


@pytest.mark.parametrize("tab", TABS)
def test_the_states_are_d2l_s(tab):
    module = protocol.load(tab)
    for dtype, expected in ((None, DEFAULT[tab]), ("float32", "float32"), ("float64", "float64")):
        states = module.init_adam_states(5, dtype) if dtype else module.init_adam_states(5)
        assert [[tuple(module.TAB.kind(x)[0]) for x in pair] for pair in states] == [[(5, 1)] * 2, [(1,)] * 2]
        assert {module.TAB.kind(x)[1] for pair in states for x in pair} == {expected}
        assert not any(module.TAB.asnumpy(x).any() for pair in states for x in pair)
        assert len({id(x) for pair in states for x in pair}) == 4


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("rule", RULES)
def test_the_functions_are_documented_and_belong_to_their_tab(tab, rule):
    module = protocol.load(tab)
    step = getattr(module, rule)
    assert (step.__module__, step.__qualname__) == (module.__name__, rule)
    assert {rule, "init_adam_states", "TAB"} <= set(dir(module))
    assert pickle.loads(pickle.dumps(step)) is step
    params = ["params", "states", "hyperparams"] if tab in ("mxnet", "pytorch") else None
    assert list(inspect.signature(step).parameters) == (params or ["params", "grads", "states", "hyperparams"])
    for words in (
        "Make one step in place",
        "Raises ValueError",
        r"\begin{aligned}" if rule == "adam" else "mathrm{sign}",
    ):
        assert words in step.__doc__
    assert not any(line.startswith(" ") for line in step.__doc__.splitlines() if "Raises" in line or "one step" in line)


@pytest.mark.parametrize("tab", TABS)
def test_numbers_may_be_numpy_s(tab):
    problem = Problem(tab, [[1.0]])
    problem.hyperparams = {"lr": np.float32(0.1), "t": np.int64(3), "beta1": np.float64(0.8), "eps": np.float16(0.5)}
    problem.set_grads([[0.3]])
    problem.step("adam")
    expected = oracle.step("adam", 1.0, 0.3, 0.0, 0.0, 3, float(np.float32(0.1)), beta1=0.8, eps=0.5)
    assert [x.item() for x in problem.values()[0]] == pytest.approx(expected, rel=1e-14)
    assert problem.hyperparams["t"] == 4
    assert type(problem.module.TAB.asnumpy(problem.params[0])) is np.ndarray


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("t", [3, 3.0, np.float32(3), np.int64(3)])
def test_the_time_step_is_a_python_int_after_a_step(tab, t):
    problem = Problem(tab, [[1.0]])
    problem.hyperparams["t"] = t
    problem.set_grads([[0.3]])
    problem.step("adam")
    assert (problem.hyperparams["t"], type(problem.hyperparams["t"])) == (4, int)


def test_numpy_parameters_and_states_may_be_memory_maps(tmp_path):
    """Of a model larger than memory; the file has the new values."""
    problem, twin = Problem("numpy", [np.ones(3)]), Problem("numpy", [np.ones(3)])
    p, v, s = (np.memmap(tmp_path / name, "float64", "w+", shape=3) for name in "pvs")
    p[:] = 1
    problem.params, problem.states = [p], [(v, s)]
    for this in (problem, twin):
        this.set_grads([[1.0, -2.0, 0.0]])
        this.step("adam")
    for name, x, expected in zip("pvs", (p, v, s), twin.values()[0], strict=True):
        x.flush()
        np.testing.assert_array_equal(np.fromfile(tmp_path / name), expected)


@pytest.mark.parametrize("tab", [tab for tab in TABS if tab != "jax"])  # which replaces what is in lists
def test_params_and_states_may_come_from_generators_and_tuples(tab):
    problem, twin = Problem(tab, [[1.0], [2.0]]), Problem(tab, [[1.0], [2.0]])
    for this in (problem, twin):
        this.set_grads([[0.5], [-0.5]])
    problem.step("yogi")
    params, states = twin.params, twin.states
    twin.params, twin.states = (p for p in params), tuple(map(list, states))
    twin.step("yogi")
    twin.params = params
    for ours, theirs in zip(problem.values(), twin.values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("tab", TABS)
def test_asnumpy_is_a_copy(tab):
    problem = Problem(tab, [[1.0]])
    before = problem.module.TAB.asnumpy(problem.params[0])
    problem.set_grads([[0.5]])
    problem.step("adam")
    assert before.item() == 1.0 != problem.module.TAB.asnumpy(problem.params[0]).item()


def test_a_torch_view_with_a_stride_of_0_along_one_row_steps():
    import torch

    problem = Problem("pytorch", [np.zeros((3, 1, 2))])
    problem.params = [torch.zeros(2, 3, dtype=torch.float64).as_strided((3, 1, 2), (1, 0, 3)).requires_grad_()]
    problem.set_grads([np.ones((3, 1, 2))])
    problem.step("adam")
    assert problem.values()[0][0] == pytest.approx(-0.01)
