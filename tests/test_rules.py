"""Every rule of the table in every tab: as a function, eager and fused, as a native optimizer; and what is no rule."""

import copy
import pickle

import numpy as np
import pytest
from frameworks import NATIVE, TABS, Native, Problem
from rules import TABLE, amsgrad, lion, trajectory
from test_errors import refused, sound

import d2l_adam
from d2l_adam import protocol
from d2l_adam.rule import Rule

TOLERANCE = {"float64": (1e-13, 1e-13), "float32": (3e-5, 3e-5)}
START = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -0.25]])
GRAPHS = {"tensorflow": (None, "function", "xla"), "jax": (None, "jit")}
WAYS = [(tab, graph) for tab in NATIVE for graph in GRAPHS.get(tab, (None,))]


def gradients(steps):
    rng = np.random.default_rng(0)
    scale = np.array([[1, 1e-3, 30], [0, 1, 1e-6]])
    return (rng.normal(size=(steps, 2, 3)) + 0.5) * scale


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    d2l_adam.set_fused(None)


def assert_follows(found, expected, dtype):
    rtol, atol = TOLERANCE[dtype]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("choice", [None, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("tab", TABS)
def test_every_rule_is_a_function_of_every_tab(tab, name, dtype, choice):
    """In the book's convention: no state, a bare array, a tuple; t only where it is read."""
    row, grads = TABLE[name], gradients(40)
    d2l_adam.set_fused(choice)
    problem = Problem(tab, [START], dtype)
    rule, framework = Rule(row.rule), problem.module.TAB
    problem.states = problem.module.init_states(row.rule, problem.params)
    assert (problem.states is None) == (row.states == 0)
    problem.hyperparams = dict(row.hyperparams)
    found = []
    for g in grads:
        problem.set_grads([g])
        problem.step(row.rule)
        state = rule.states(problem.states[0]) if row.states else ()
        found.append([framework.asnumpy(x).astype("float64") for x in (problem.params[0], *state)])
    assert_follows(found, trajectory(row, START, grads), dtype)
    assert problem.hyperparams == row.hyperparams | ({"t": 41} if "t" in row.hyperparams else {})


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.native])
@pytest.mark.parametrize(("tab", "graph"), WAYS)
def test_every_rule_is_a_native_optimizer(tab, graph, name):
    row, grads = TABLE[name], gradients(30)
    native = Native(tab, row.rule, [START], graph=graph, constants=row.hyperparams)
    found = []
    for g in grads:
        native.step([g])
        found.append(native.values()[0])
    assert_follows(found, trajectory(row, START, grads), "float64")


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("rule", [lion, amsgrad, "sgd", "rmsprop"])
@pytest.mark.parametrize("tab", NATIVE)
def test_half_precision_has_its_state_in_float32(tab, rule, half):
    if (tab, half) == ("mxnet", "bfloat16"):
        pytest.skip("MXNet has no such arrays")
    name = rule if isinstance(rule, str) else rule.__name__
    row, grads = TABLE[name], np.array([[0.5, -2.0, 0.0]] * 10)
    native = Native(tab, rule, [np.ones(3)], half, constants=row.hyperparams | {"lr": 2**-5})
    for g in grads:
        native.step([g])
    expected = trajectory(row._replace(hyperparams=row.hyperparams | {"lr": 2**-5}), np.ones(3), grads)[-1]
    p, *state = native.values()[0]
    np.testing.assert_allclose(p, expected[0], rtol=0, atol=10 * {"float16": 2**-10, "bfloat16": 2**-7}[half])
    for x, other in zip(state, expected[1:], strict=True):
        np.testing.assert_allclose(x, other, rtol=1e-5)


@pytest.mark.parametrize("tab", NATIVE)
def test_a_class_is_made_once_documented_and_says_its_arguments(tab):
    optimizer = protocol.load(tab).optimizer
    cls = optimizer(lion)
    assert cls is optimizer(lion) is optimizer(Rule(lion))
    assert cls.__name__ == "Lion"
    arguments = str(cls.__signature__)
    assert "beta1=0.9, beta2=0.99" in arguments
    assert ("lr" if tab == "pytorch" else "learning_rate") in arguments
    assert "a decay rate lies in [0, 1) (default: 0.99)" in cls.__doc__
    assert optimizer("rmsprop").__name__ == "Rmsprop"
    assert "Tieleman" in optimizer("rmsprop").__doc__
    with pytest.raises(TypeError, match=f"{tab}: the rule adadelta takes rho, eps and no lr, which an"):
        optimizer("adadelta")
    with pytest.raises(TypeError, match="write it with def, to name the class after it"):
        optimizer(lambda p, g, t, lr: p - lr * g)
    with pytest.raises((TypeError, ValueError), match="power"):
        Native(tab, lion, [START], constants={"lr": 0.1, "power": 3}).step([START])
    with pytest.raises(ValueError, match=r"'beta2' is 1.5; a decay rate lies in \[0, 1\)"):
        Native(tab, lion, [START], constants={"lr": 0.1, "beta2": 1.5})


def test_gluon_knows_a_rule_by_its_name_and_keeps_its_own():
    from d2l_adam import mxnet as tab

    own = tab.mxnet.optimizer.Optimizer.opt_registry["sgd"]
    cls = tab.optimizer("sgd")
    assert tab.mxnet.optimizer.create("d2l_sgd", learning_rate=0.1).__class__ is cls
    cls = tab.optimizer(lion)
    assert tab.mxnet.optimizer.create("lion", learning_rate=0.1).__class__ is cls
    assert tab.mxnet.optimizer.Optimizer.opt_registry["sgd"] is own
    for initial in (None, {"s": 1e-6}):
        tab.optimizer("yogi", initial=initial)
        assert type(tab.mxnet.optimizer.create("yogi")) is tab.Yogi
    schedule = tab.mxnet.lr_scheduler.FactorScheduler(10, base_lr=0.5)
    assert tab.optimizer(lion)(lr_scheduler=schedule).learning_rate == 0.5
    with pytest.raises(TypeError, match="learning_rate is missing; give it, or an lr_scheduler"):
        tab.optimizer(lion)()


@pytest.mark.parametrize("rule", [lion, amsgrad, "sgd"])
@pytest.mark.parametrize("tab", ["pytorch", "mxnet"])
def test_an_optimizer_of_a_rule_is_copied_and_pickled(tab, rule):
    native = Native(tab, rule, [START], constants={"lr": 0.1})
    native.step([START])
    for twin in (copy.deepcopy(native.optimizer), pickle.loads(pickle.dumps(native.optimizer))):
        assert type(twin) is type(native.optimizer)
        assert twin.rule == native.optimizer.rule


@pytest.mark.parametrize("rule", ["adam", "sgd", lion, amsgrad])
@pytest.mark.needs("jax")
def test_a_state_for_optax_is_copied_and_pickled(rule):
    from d2l_adam import jax as tab

    optimizer = tab.Adam() if rule == "adam" else tab.optimizer(rule)(0.1)
    state = optimizer.update(np.ones(2, "float32"), optimizer.init(np.ones(2, "float32")))[1]
    for twin in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert type(twin) is type(state)
        assert [x.tolist() for x in twin] == [x.tolist() for x in state]


def test_a_keras_model_with_a_rule_is_saved_and_trains_on(tmp_path):
    from d2l_adam import tensorflow as tab

    keras, losses = tab.keras, []
    X, y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    options = {"beta1": 0.8, "weight_decay": 0.01, "clipnorm": 1.0, "use_ema": True}
    model.compile(optimizer=tab.optimizer(lion)(learning_rate=schedule, **options), loss="mse")
    model.fit(X, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is tab.optimizer(lion)
    assert loaded.optimizer.get_config()["beta1"] == 0.8
    for each in (model, loaded):
        each.fit(X, y, epochs=2, verbose=0)
        losses.append(each.evaluate(X, y, verbose=0))
    assert losses[0] == losses[1]


def test_torch_s_groups_options_and_state_hold_for_any_rule():
    from d2l_adam import torch as tab

    torch = tab.torch
    results = []
    for fused in (True, False):
        params = [torch.nn.Parameter(torch.tensor(START)) for _ in range(3)]

        def groups(params=params):
            return [{"params": params[:1], "lr": 0.2, "beta1": 0.5}, {"params": params[1:], "weight_decay": 0.1}]

        optimizer = tab.optimizer(amsgrad)(groups(), lr=0.1, decoupled_weight_decay=True, fused=fused)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        for step in range(4):
            for p in params[: 2 + step // 2]:
                p.grad = torch.tensor(START) + step
            optimizer.step()
            schedule.step()
            if step == 1:
                other = tab.optimizer(amsgrad)(groups(), lr=0.3)
                other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
                schedule.optimizer = optimizer = other
        assert set(optimizer.state[params[0]]) == {"step", "v", "s", "x"}
        assert [int(optimizer.state[p]["step"]) for p in params] == [4, 4, 2]
        results.append([p.detach().numpy() for p in params])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-13)
    with pytest.raises(ValueError, match="it lacks beta1, beta2, eps"):
        optimizer.load_state_dict(tab.optimizer("sgd")(groups(), lr=0.1).state_dict())
    adamw = Rule(eval("lambda p, g, t, lr, weight_decay=0.5: p - lr * (g + weight_decay * p)"))
    adamw.function.__name__ = adamw.name = "adamw"
    p = torch.nn.Parameter(torch.ones(1))
    p.grad = torch.zeros(1)
    tab.optimizer(adamw.function)([p], lr=0.5).step()
    assert p.item() == 0.75  # the rule's own constant, once


@pytest.mark.parametrize("name", ["sgd", "lion", "amsgrad"])
@pytest.mark.parametrize("tab", NATIVE)
def test_a_rule_goes_on_in_another_framework(tab, name, tmp_path):
    """As a native optimizer here, as a function in NumPy after it, and back."""
    row, grads = TABLE[name], gradients(12)
    native, reference = Native(tab, row.rule, [START], constants=row.hyperparams), protocol.load("numpy")
    for g in grads[:4]:
        native.step([g])
    params = [np.zeros_like(START)]
    states, hyperparams = reference.init_states(row.rule, params), row.hyperparams | {"t": 1}
    native.module.save(tmp_path / "one", native.params, native.holder)
    reference.load(tmp_path / "one", params, states, hyperparams, rule=row.rule)
    assert hyperparams["t"] == 5
    for g in grads[4:8]:
        reference.step(row.rule)(params, [g], states, hyperparams)
    reference.save(tmp_path / "two", params, states, hyperparams, rule=row.rule)
    native.load(tmp_path / "two")
    for g in grads[8:]:
        native.step([g])
    assert_follows(native.values()[0], trajectory(row, START, grads)[-1], "float64")


@pytest.mark.parametrize("name", ["sgd", "lion", "amsgrad"])
def test_train_and_compare_take_any_rule(name):
    row = TABLE[name]
    for curve in d2l_adam.compare(rules=[row.rule], num_epochs=1, lr=0.01):
        assert curve["rule"] == name
        assert curve["max_distance"] <= 1e-6


@pytest.mark.parametrize("tab", TABS)
def test_constants_are_converted_to_python_numbers(tab):
    """A NumPy scalar would drag arrays of float32 to its own dtype, or float64 to float32."""
    problem, twin = sound(tab), sound(tab)
    given = {"t": 3, "lr": 0.5, "beta1": 0.5, "eps": 2}
    problem.hyperparams = {
        "t": np.float32(3), "lr": np.float32(0.5), "beta1": np.float64(0.5), "eps": np.int64(2)
    }  # fmt: skip
    twin.hyperparams = given
    for each in (problem, twin):
        each.step("adam")
    np.testing.assert_equal(problem.values(), twin.values())
    assert type(problem.hyperparams["t"]) is int


WRONG = {
    "two values": (lambda p, g, v, s, t, lr: (p, v), r"it returned \S+"),
    "four values": (lambda p, g, v, s, t, lr: (p, v, s, s), r"it returned \S+"),
    "nothing": (lambda p, g, v, s, t, lr: None, "it returned builtins.NoneType"),
    "a number for a state": (lambda p, g, v, s, t, lr: (p - lr * g, 0.0, s), "it returned .*builtins.float"),
    "a slice": (lambda p, g, v, s, t, lr: (p - lr * g, v[:1], s), r"it returned .*1"),
    "a slice of p": (lambda p, g, v, s, t, lr: (p[:1], v, s), r"it returned .*1.*2.*2"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("tab", TABS)
def test_a_rule_that_returns_the_wrong_thing_changes_nothing(tab, case):
    rule, words = WRONG[case]
    refused(sound(tab), ValueError, rf"the rule <lambda> must return \(p, v, s\), each of shape \(2,\); {words}", rule)


def branching(p, g, t, lr):
    if t > 1:
        p = p - lr * g
    return p


def helper(p, g, t, lr):
    return p - lr * np.sign(g)


FACTOR = 3.0
NO_RULES = {
    "nothing": (None, "the rule is builtins.NoneType; give a Python function"),
    "a builtin": (print, "the rule is builtins.builtin_function_or_method; give a Python function"),
    "no t": (lambda p, g, v, s, lr: (p, v, s), "takes .*; its signature is to be"),
    "another order": (lambda g, p, t, lr: p, "takes .*; its signature is to be"),
    "positional only": (lambda p, g, v, s, t, lr, /: (p, v, s), "its signature is to be"),
    "any number": (lambda p, g, v, s, t, *lr: (p, v, s), "its signature is to be"),
    "another function": (helper, "the rule helper uses np, sign; .* and the words abs, maximum, sign, sqrt, square"),
    "a method": (lambda p, g, t, lr: p - lr * g.sqrt(), "the rule <lambda> uses sqrt;"),
    "a global": (lambda p, g, t, lr: p - FACTOR * lr * g, "the rule <lambda> uses FACTOR;"),
    "a closure": ((lambda factor: lambda p, g, t, lr: p - factor * g)(2.0), "the rule <lambda> uses factor;"),
    "a function within": (lambda p, g, t, lr: p - lr * (lambda x: x)(g), "the rule <lambda> uses <lambda>;"),
    "a branch": (branching, "the rule branching branches; arrays have no one truth value"),
    "a text": (lambda p, g, t, lr, mode="x": p, "has mode='x'; a constant is a number"),
}


@pytest.mark.parametrize("case", NO_RULES)
@pytest.mark.parametrize("tab", TABS)
def test_what_is_no_rule_is_refused(tab, case):
    rule, words = NO_RULES[case]
    with pytest.raises(TypeError, match=words):
        protocol.load(tab).step(rule)


@pytest.mark.parametrize("tab", TABS)
def test_an_unknown_name_is_refused(tab):
    with pytest.raises(ValueError, match="unknown rule 'adamw2'; known: adam, yogi, sgd"):
        protocol.load(tab).init_states("adamw2", [])


@pytest.mark.parametrize("tab", TABS)
def test_states_of_another_rule_are_refused(tab):
    for rule, words in (("sgd", "not None"), ("rmsprop", "not one array s"), (amsgrad, r"not a tuple \(v, s, x\)")):
        problem = sound(tab)
        problem.hyperparams |= {"gamma": 0.9} if rule == "rmsprop" else {}
        with pytest.raises(ValueError, match=f"state of parameter 0 is 2 arrays, {words}"):
            problem.step(rule)
        problem.states = None
        if rule != "sgd":
            with pytest.raises(TypeError, match=r"states is builtins\.NoneType; give a list"):
                problem.step(rule)


@pytest.mark.needs("mxnet")
def test_mxnet_does_not_record_the_step():
    from mxnet import autograd

    d2l_adam.set_fused(False)
    problem = sound("mxnet")
    with autograd.record():
        problem.step("adam")
        loss = (problem.params[0] ** 2).sum()
    loss.backward()
    np.testing.assert_allclose(problem.params[0].grad.asnumpy(), 2 * problem.params[0].asnumpy())
