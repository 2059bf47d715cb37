"""JAX: what replaces its entries, is compiled, and goes through optax's ways of using a transformation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
from flax import nnx
from rules import amsgrad, heavy_ball, lion

import d2l_adam
from d2l_adam import jax as tab
from d2l_adam import spec
from d2l_adam.jax import native


@pytest.fixture
def compilations():
    """The names of what JAX compiles from now on."""
    names = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(kwargs.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.clear_event_listeners()


def parameters(dtype="float32"):
    return [tab.TAB.parameter(np.asarray(x, dtype)) for x in ([[1.0, -2.0]], [0.5])]


def test_entries_are_replaced_and_old_arrays_stay_as_they_were():
    params, hyperparams = parameters(), {"lr": 0.1, "t": 1}
    states = tab.init_adam_states(2)
    states = [tuple(x.reshape(p.shape) for x in state) for p, state in zip(params, states, strict=True)]
    before, grads = [*params, *states], [jnp.ones_like(p) for p in params]
    kept = [np.array(x) for x in (*params, *states[0])]
    w, b = tab.adam(params, grads, states, hyperparams)
    assert w is params[0] and b is params[1] and hyperparams["t"] == 2
    assert all(x is not y for x, y in zip(before, [*params, *states], strict=True))
    assert [type(state) for state in states] == [tuple] * 2
    for x, y in zip((*before[:2], *before[2]), kept, strict=True):
        np.testing.assert_array_equal(x, y)
    np.testing.assert_allclose(params[0], [[0.9, -2.1]], rtol=1e-6)


def test_what_cannot_be_replaced_is_refused():
    params, grads = parameters(), parameters()
    states = tab.init_states("adam", params)
    for name, arguments in {
        "params": (tuple(params), grads, states),
        "states": (params, grads, tuple(states)),
    }.items():
        with pytest.raises(TypeError, match=f"jax: {name} is builtins.tuple; give a list, with one entry a par"):
            tab.adam(*arguments, {"lr": 0.1, "t": 1})
    with pytest.raises(TypeError, match=r"called within jax.jit.*use tab.optimizer\(rule\)"):
        jax.jit(lambda g: tab.adam(params, g, states, {"lr": 0.1, "t": 1}))(grads)
    with pytest.raises(TypeError, match=r"gradient of parameter 0 is numpy.ndarray; this tab takes jax"):
        tab.adam(params, [np.array(g) for g in grads], states, {"lr": 0.1, "t": 1})


def test_no_number_compiles_a_step_anew(compilations):
    params, grads = parameters(), parameters()
    step, states, hyperparams = tab.step(lion), tab.init_states(lion, params), {"lr": 0.1, "beta1": 0.5, "t": 1}
    step(params, grads, states, hyperparams)
    assert compilations
    compilations.clear()
    for lr in (0.2, 0.05, 1, np.float32(0.3)):
        step(params, grads, states, hyperparams | {"lr": lr, "beta1": lr / 2, "t": 7})
    assert compilations == []


@pytest.mark.parametrize("x64", [False, True])
def test_a_step_is_exact_in_float64_whatever_jax_is_set_to(x64):
    grads = np.random.default_rng(0).normal(size=(50, 3)) * [1, 1e-4, 0]
    with jax.enable_x64(x64):
        params, hyperparams = [tab.TAB.parameter(np.ones(3))], {"lr": 0.01, "t": 1}
        states = tab.init_states("adam", params)
        for g in grads:
            tab.adam(params, [tab.TAB.parameter(g)], states, hyperparams)
        assert jax.config.jax_enable_x64 == x64
    assert params[0].dtype == "float64"
    np.testing.assert_allclose(params[0], oracle.trajectory("adam", np.ones(3), grads, 0.01)[0, -1], rtol=1e-14)


@pytest.mark.parametrize("make", [tab.Adam, optax.inject_hyperparams(tab.Adam)])
def test_the_corrections_of_a_native_step_in_float32_are_as_good_as_double(make):
    """At t = 1 and eps << g, the step is lr; 1 - float32(0.999) would be 1.3e-5 off."""
    optimizer = make(learning_rate=1.0, b1=0.9, b2=0.999, eps=2.0**-126)
    state, g = optimizer.init(jnp.zeros(3)), jnp.array([1.0, -3.0, 1e-3])
    update = jax.jit(optimizer.update)
    for _ in range(300):  # a steady gradient: the step stays lr
        updates, state = update(g, state)
        np.testing.assert_allclose(updates, [-1, 1, -1], rtol=4e-6)


def gradients(steps=60):
    drawn = np.random.default_rng(1).normal(size=(steps, 2, 3))
    return [{"a": jnp.asarray(g, "float32"), "b": None, "c": (jnp.float32(1e-4),)} for g in drawn]


START = {"a": jnp.ones((2, 3)), "b": None, "c": (jnp.zeros(()),)}


def trained(optimizer, grads, params=START):
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for g in grads:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def assert_alike(one, other, rtol=5e-5):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for x, y in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(np.asarray(x, "float64"), np.asarray(y, "float64"), rtol=rtol, atol=1e-6)


RATE = optax.exponential_decay(0.1, 5, 0.5)
WAYS = {
    "alone": lambda make: make(learning_rate=0.1),
    "a schedule": lambda make: make(learning_rate=RATE),
    "a chain": lambda make: optax.chain(optax.clip_by_global_norm(0.5), make(learning_rate=0.1), optax.scale(0.5)),
    "injected": lambda make: optax.inject_hyperparams(make)(learning_rate=0.1),
    "an injected schedule": lambda make: optax.inject_hyperparams(make)(learning_rate=RATE),
    "several gradients a step": lambda make: optax.MultiSteps(make(learning_rate=0.1), 3),
    "masked": lambda make: optax.masked(make(learning_rate=0.1), {"a": True, "b": None, "c": (False,)}),
    "partitioned": lambda make: optax.partition(
        {"x": make(learning_rate=0.1), "y": make(learning_rate=0.2)}, {"a": "x", "b": None, "c": ("y",)}
    ),
    "flat": lambda make: optax.flatten(make(learning_rate=0.1)),
}


@pytest.mark.parametrize("way", WAYS)
def test_adam_goes_every_way_that_optax_s_own_goes(way):
    ours, theirs = (WAYS[way](make) for make in (functools.partial(tab.Adam, eps=1e-8), optax.adam))
    assert_alike(trained(ours, gradients())[0], trained(theirs, gradients())[0])


def test_yogi_is_optax_s_but_for_the_start():
    theirs = optax.chain(optax.scale_by_yogi(initial_accumulator_value=0.0), optax.scale(-0.1))
    assert_alike(trained(tab.Yogi(0.1), gradients())[0], trained(theirs, gradients())[0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("factory", [tab.Adam, tab.Yogi, tab.optimizer(lion), tab.optimizer("sgd")])
def test_dtypes_and_shapes_stay_as_they_are(factory, dtype):
    """Else neither `lax.scan` nor `MultiSteps` would take it; the state of half precision is float32."""
    params, optimizer = {"w": jnp.ones((2, 2), dtype)}, factory(learning_rate=0.125)
    state = optimizer.init(params)

    def step(carry, g):
        updates, state = optimizer.update({"w": g}, carry[1], carry[0])
        assert updates["w"].dtype == dtype
        return (optax.apply_updates(carry[0], updates), state), None

    (params, after), _ = jax.lax.scan(step, (params, state), jnp.ones((4, 2, 2), dtype))
    assert params["w"].dtype == dtype
    assert {str(x.dtype) for x in jax.tree.leaves(after[1:])} <= {"float32"}
    assert after.count == 4 and after.count.dtype == jnp.int32
    assert params["w"][0, 0] == pytest.approx(0.5, abs=1e-2)


def test_models_are_trained_side_by_side_by_vmap():
    optimizer = tab.Adam(jnp.array(0.1))
    params = jnp.arange(6.0).reshape(3, 2)
    states = jax.vmap(optimizer.init)(params)
    updates, states = jax.vmap(optimizer.update)(params, states, params)
    alone, _ = optimizer.update(params[1], optimizer.init(params[1]), params[1])
    assert states.count.shape == (3,)
    np.testing.assert_array_equal(updates[1], alone)


def test_a_gradient_that_is_missing_leaves_its_state():
    optimizer = tab.Adam(0.1)
    params = [jnp.ones(2), jnp.ones(3)]
    _, state = optimizer.update([jnp.ones(2), jnp.ones(3)], optimizer.init(params), params)
    updates, after = optimizer.update([None, jnp.ones(3)], state, params)
    assert updates[0] is None and after.mu[0] is state.mu[0] and after.nu[0] is state.nu[0]
    assert after.count == 2


def test_an_update_is_not_rounded_to_the_parameter():
    optimizer = tab.Adam(1e-5)
    updates, _ = optimizer.update(jnp.ones(1), optimizer.init(jnp.ones(1)), jnp.full(1, 1e4))
    np.testing.assert_allclose(updates, -1e-5, rtol=1e-5)
    reads = tab.optimizer(heavy_ball)(0.1)
    with pytest.raises(ValueError, match=r"reads the parameter; give update\(grads, state, params\) the params"):
        reads.update(jnp.ones(1), reads.init(jnp.ones(1)))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: tab.Adam(-1.0), ValueError, "'lr' is -1.0; the learning rate is 0 or more"),
        (lambda: tab.Adam(b2=1.0), ValueError, "'beta2' is 1.0; a decay rate lies in"),
        (lambda: tab.Adam(b1=jnp.bfloat16(0.9)), TypeError, "beta1 is bfloat16, too coarse; give inject_hyperparams"),
        (lambda: tab.Adam().init([jnp.ones(2, "int32")]), TypeError, r"parameter \[0\] is int32; convert it"),
        (lambda: tab.optimizer("adadelta"), TypeError, "no lr, which an"),
    ],
)
def test_a_native_optimizer_refuses_what_it_cannot_honour(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_gradient_of_another_shape_is_refused():
    optimizer = tab.Adam()
    with pytest.raises(ValueError, match=r"a gradient has shape \(1,\), its parameter or state \(3,\); make"):
        optimizer.update(jnp.ones(1), optimizer.init(jnp.ones(3)))


def test_it_trains_a_model_of_flax():
    model = nnx.Linear(5, 1, rngs=nnx.Rngs(0))
    X = jnp.asarray(np.random.default_rng(0).normal(size=(64, 5)), "float32")
    optimizer = nnx.Optimizer(model, tab.Yogi(0.05), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda model: ((model(X) - X.sum(1, keepdims=True)) ** 2).mean())(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(300)]
    assert losses[-1] < 1e-3 < losses[0]


@pytest.mark.parametrize("way", ["alone", "a chain", "injected", "several gradients a step"])
def test_a_run_goes_on_from_its_file(way, tmp_path):
    optimizer = WAYS[way](tab.optimizer(amsgrad))
    params, state = trained(optimizer, gradients(12)[:6])
    whole, _ = trained(optimizer, gradients(12))
    tab.save(tmp_path / "file", params, state)
    new = jax.tree.map(jnp.zeros_like, params)
    new, other = tab.load(tmp_path / "file", new, optimizer.init(new))
    assert_alike(new, params, rtol=0)
    if way in ("alone", "a chain"):  # elsewhere optax counts for itself, too
        assert_alike(other, state, rtol=0)
    for g in gradients(12)[6:]:
        updates, other = optimizer.update(g, other, new)
        new = optax.apply_updates(new, updates)
    assert_alike(new, whole)


def test_the_constants_of_an_optimizer_are_said_where_a_file_is_made(tmp_path):
    params, state = trained(tab.Adam(0.1, b1=0.5), gradients(3))
    tab.save(tmp_path / "file", params, state, {"beta1": 0.5})
    with pytest.raises(ValueError, match=r"was made with beta1 0.5, here it is 0.9; continue with 0.5"):
        tab.load(tmp_path / "file", params, state)
    assert_alike(tab.load(tmp_path / "file", params, state, {"beta1": 0.5}), (params, state), rtol=0)
    with pytest.raises(ValueError, match="adam has no b1; it has lr, beta1, beta2, eps"):
        tab.save(tmp_path / "file", params, state, {"b1": 0.5})


def test_a_file_is_not_made_in_the_midst_of_several_gradients(tmp_path):
    optimizer = WAYS["several gradients a step"](tab.Adam)
    params, state = trained(optimizer, gradients()[:4])
    with pytest.raises(ValueError, match="1 gradients are accumulated; save and load after a step"):
        tab.save(tmp_path / "file", params, state)


def test_a_file_is_of_one_optimizer_which_knows_its_rule_and_its_time(tmp_path):
    params, state = trained(WAYS["partitioned"](tab.Adam), gradients(1))
    with pytest.raises(ValueError, match="these are the states of 2 optimizers; save and load each"):
        tab.save(tmp_path / "file", params, state)
    params, state = trained(tab.Adam(0.1), gradients(1))
    for more in ({"hyperparams": {"t": 2}}, {"rule": "yogi"}):
        with pytest.raises(TypeError, match="give no rule and no t with an optimizer's state; it has its own"):
            tab.save(tmp_path / "file", params, state, **more)
    with pytest.raises(
        TypeError, match=r"optimizer is .*dict.*; give a state that an optimizer of d2l_adam.jax has made"
    ):
        tab.save(tmp_path / "file", [jnp.ones(1)], {"w": jnp.ones(1)})


def test_functions_take_a_dict_of_parameters_from_a_file_and_failing_changes_nothing(tmp_path):
    params, hyperparams = dict(zip("wb", parameters(), strict=True)), {"lr": 0.1, "t": 5}
    states = [(p + 1, p + 2) for p in params.values()]
    tab.save(tmp_path / "file", params, states, hyperparams, "adam")
    new, again = {name: p * 0 for name, p in params.items()}, {"lr": 0.3, "t": 1}
    zeros = [(p, p + 0) for p in new.values()]
    with pytest.raises(ValueError, match="same array"):
        tab.load(tmp_path / "file", new, zeros, again, "adam")
    assert not new["w"].any() and again == {"lr": 0.3, "t": 1}
    states_there = tab.init_states("adam", [*new.values()])
    tab.load(tmp_path / "file", new, states_there, again, "adam")
    assert_alike((new, states_there), (params, states), rtol=0)
    assert again["t"] == 5


def test_what_they_run_is_the_spec_itself():
    assert (tab.Adam.rule.function, tab.Yogi.rule.function) == (spec.adam, spec.yogi)


def test_the_state_s_type_says_its_rule():
    assert native.AdamState._fields == ("count", "mu", "nu")
    assert tab.optimizer(lion)(0.1).init(jnp.ones(1))._fields == ("count", "v")


def test_train_in_jax_leaves_the_setting_of_float64_alone():
    before = jax.config.jax_enable_x64
    assert d2l_adam.train("jax", dtype="float64", num_epochs=1).params[0].dtype == "float64"
    assert jax.config.jax_enable_x64 == before
