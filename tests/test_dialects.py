"""Dialects: the optimizers of other libraries as they stand there, and `like` in every framework beside them."""

import functools
import json

import libraries
import numpy as np
import pytest
from click.testing import CliRunner
from frameworks import NATIVE, TABS, Native, Problem
from rules import TABLE as RULES
from rules import trajectory
from test_rules import START, gradients

from d2l_adam import dialects, protocol
from d2l_adam.__main__ import cli
from d2l_adam.rule import Rule

STEPS = 120
#: How far a path may be from the library's, as a part of its way. Keras casts the betas, the momentum and the start by
#: way of float32; MXNet's operators take all numbers as C floats, so that 1 - 0.999 is off by 6e-5 of itself, the root
#: of the second moment by half of that.
ROUNDING = {"keras": 1e-5, "mxnet": 4e-5}
#: MXNet makes the state of these in float32, whatever the weight is; then each step rounds it to 6e-8 of itself.
SINGLE = ("mxnet.optimizer.AdaGrad", "mxnet.optimizer.RMSProp")
NOT_THERE = ("tensorflow_addons.optimizers.Yogi", "paper.Yogi", "paper.AMSGrad")  # these are in the table of rules
#: What float32 holds exactly, by the names of a rule: with these Keras computes in double.
EXACT = {"beta1": 0.875, "beta2": 1 - 2.0**-10, "momentum": 0.875, "eps": 2.0**-20, "weight_decay": 2.0**-8}
INEXACT = ("keras.optimizers.Nadam", "keras.optimizers.Adagrad")  # as the numbers 0.96, and 0.1 to start from, are


@functools.cache
def problem():
    """A start, and gradients of order one, of order 1e-4, and exact zeros, some of the former zeros too."""
    rng = np.random.default_rng(0)
    grads = (rng.normal(size=(STEPS, 3, 4)) + 0.3) * np.array([[1.0], [1e-4], [0.0]])
    grads[10:20, :2, 1] = 0
    return rng.normal(size=(3, 4)), grads


@functools.cache
def theirs(name, exact=False):
    constants = {x: EXACT[x] for x in dialects.TABLE[name].constants if exact and x in EXACT}
    dtype = "float32" if name in SINGLE else "float64"
    return libraries.path(name, *(x.astype(dtype) for x in problem()), **constants).astype("float64")


def assert_same_way(found, expected, part, single=0):
    """Each regime by itself: `part` of the way that it has gone, and rounding."""
    for row, other, start in zip(np.swapaxes(found, 0, 1), np.swapaxes(expected, 0, 1), problem()[0], strict=True):
        way = np.abs(other - start).max()
        np.testing.assert_allclose(row, other, rtol=single, atol=part * way + 1e-12)


def ours(tab, name, **constants):
    """The path of `like(name)` in a tab, natively."""
    start, grads = problem()
    dtype = "float32" if name in SINGLE else "float64"
    native = Native(tab, name, [start], dtype, constants=libraries.given(dialects.TABLE[name]) | constants, like=True)
    found = []
    for g in grads:
        native.step([g])
        found.append(native.values()[0][0])
    return np.array(found)


@pytest.mark.parametrize("name", [name for name in dialects.TABLE if name not in NOT_THERE])
@pytest.mark.parametrize("tab", NATIVE)
def test_like_makes_the_steps_of_the_library(tab, name):
    library = name.partition(".")[0]
    single = 2e-6 if name in SINGLE else 0
    assert_same_way(ours(tab, name), theirs(name), ROUNDING.get(library, 1e-12), single)


@pytest.mark.parametrize("name", [name for name in dialects.TABLE if name.startswith("keras.") and name not in INEXACT])
def test_like_keras_is_exact_where_float32_holds_the_constants(name):
    constants = {x: EXACT[x] for x in dialects.TABLE[name].constants if x in EXACT}
    assert_same_way(ours(NATIVE[0], name, **constants), theirs(name, exact=True), 1e-12)


def test_the_libraries_differ():
    """The tolerance tells every dialect of the table from the rule that it is nearest to."""
    for name, other in {
        "keras.optimizers.Adam": "torch.optim.Adam",
        "keras.optimizers.Adam(amsgrad=True)": "torch.optim.Adam(amsgrad=True)",
        "optax.amsgrad": "torch.optim.Adam(amsgrad=True)",
        "keras.optimizers.Nadam": "torch.optim.NAdam",
        "keras.optimizers.Adamax": "torch.optim.Adamax",
        "torch.optim.Adagrad": "keras.optimizers.Adagrad",
        "torch.optim.RMSprop": "keras.optimizers.RMSprop",
    }.items():
        with pytest.raises(AssertionError):
            assert_same_way(theirs(name), theirs(other), 1e-5)


@pytest.mark.parametrize("tab", TABS)
def test_a_state_starts_where_it_is_said_to(tab):
    """As a function, with the rule's own steps from there."""
    row = RULES["yogi"]
    problem = Problem(tab, [START])
    initial = {"v": 0.25, "s": 0.5}
    problem.states = problem.module.init_states("yogi", problem.params, initial=initial)
    assert [x.tolist() for x in problem.values()[0][1:]] == [[[x] * 3] * 2 for x in initial.values()]
    problem.hyperparams = dict(row.hyperparams)
    found = problem.run("yogi", [[g] for g in gradients(20)])
    expected = trajectory(row, START, gradients(20), initial.values())
    np.testing.assert_allclose([x[0][0] for x in found], expected[:, 0], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("tab", NATIVE)
def test_a_native_state_starts_where_it_is_said_to(tab, half):
    row, initial = RULES["yogi"], {"v": 0.25, "s": 0.5}
    dtype = "float16" if half else "float64"
    native = Native(tab, "yogi", [START], dtype, constants=row.hyperparams, initial=initial)
    for g in gradients(20):
        native.step([g])
    expected = trajectory(row, START, gradients(20).astype(dtype), initial.values())[-1]
    np.testing.assert_allclose(native.values()[0], expected, rtol=0, atol=0.1 if half else 1e-13)
    plain = Native(tab, "yogi", [START], dtype, constants=row.hyperparams)
    one, other = (x.opt_state if tab == "jax" else x.optimizer for x in (plain, native))
    assert type(one) is not type(other)
    plain.step([START])


def test_what_a_rule_cannot_start_with_is_refused():
    with pytest.raises(ValueError, match="the rule yogi starts with x=1; give finite numbers for v, s"):
        Rule("yogi", initial={"x": 1})
    with pytest.raises(ValueError, match="starts with s=nan"):
        Rule("yogi", initial={"s": float("nan")})
    with pytest.raises(ValueError, match="the rule sgd starts with v=1; give finite numbers for none"):
        Rule("sgd", initial={"v": 1})
    with pytest.raises(ValueError, match="the rule sgd has no momentum; it has lr"):
        Rule("sgd", defaults={"momentum": 0.5})


@pytest.mark.parametrize("tab", TABS)
def test_the_defaults_of_a_dialect_hold_in_a_function(tab):
    rule, problem = dialects.find("keras.optimizers.AdamW").rule, Problem(tab, [[0.5]])
    problem.hyperparams = {"t": 1}
    problem.set_grads([[1e-7]])
    problem.step(rule)
    moved = 0.001 * (0.004 * 0.5 + 0.5 * 2 / (1 + 1 / 0.001**0.5))
    assert problem.values()[0][0].item() == pytest.approx(0.5 - moved, rel=1e-13)
    assert problem.hyperparams == {"t": 2}


@pytest.mark.parametrize("tab", NATIVE)
def test_an_unknown_name_lists_near_ones(tab):
    module = protocol.load(tab)
    with pytest.raises(ValueError, match=r"unknown optimizer 'keras.optimizer.Adam'; near it: .*keras.optimizers"):
        module.like("keras.optimizer.Adam")
    with pytest.raises(ValueError, match=r"near it: optax.yogi, torch_optimizer.Yogi"):
        module.like("Yogi")
    with pytest.raises(ValueError, match="see `python -m d2l_adam dialects`"):
        module.like("?")
    assert module.like("tf.keras.optimizers.Adam") is module.like("keras.optimizers.Adam")


def test_the_command_prints_the_table():
    rows = json.loads(CliRunner().invoke(cli, ["dialects", "--json"]).output)
    assert [row["name"] for row in rows] == [*dialects.TABLE]
    yogi = next(row for row in rows if row["name"] == "optax.yogi")
    assert (yogi["rule"], yogi["initial"]) == ("yogi", {"v": 1e-6, "s": 1e-6})
    assert yogi["defaults"] == {"lr": None, "beta1": 0.9, "beta2": 0.999, "eps": 1e-3}
    assert (yogi["constants"]["beta1"], yogi["state"]["s"]) == ("b1", "nu")
    text = CliRunner().invoke(cli, ["dialects"]).output
    assert all(name in text for name in dialects.TABLE)


def test_every_rule_is_short():
    import inspect

    for name, function in __import__("d2l_adam.spec").spec.RULES.items():
        body = inspect.getsource(function).rpartition('"""')[2].strip().splitlines()
        assert len(body) <= 12, name
