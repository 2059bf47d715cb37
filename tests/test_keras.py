"""`d2l_adam.tensorflow.Adam` and `Yogi` as Keras has it: `fit`, graphs, schedules, mixed precision, files."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import oracle
import pytest

from d2l_adam.tensorflow import Adam, Yogi, tf

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 5)).astype("float32")
Y = X @ np.arange(5.0, dtype="float32")[:, None]
GRADS = RNG.normal(size=(12, 4)) * [1, 1e-4, 10, 0]


def model(optimizer, **options):
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, activation="tanh"), keras.layers.Dense(1)])
    net.compile(optimizer=optimizer, loss="mse", **options)
    return net


def fit(net, epochs=2, **options):
    return net.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, **options).history["loss"]


def steps(optimizer, grads, start=1.0, dtype="float64"):
    """The variable after each step."""
    variable = tf.Variable(np.full(len(grads[0]), start), dtype=dtype)
    out = []
    for g in grads:
        optimizer.apply([tf.constant(g, dtype)], [variable])
        out.append(variable.numpy())
    return np.array(out)


def expected(rule, grads, lrs, decay=0.0):
    """The oracle with a learning rate for each step, and decoupled weight decay before it."""
    p, m, s, out = [1.0] * len(grads[0]), [0.0] * len(grads[0]), [0.0] * len(grads[0]), []
    for t, (g, lr) in enumerate(zip(grads, lrs, strict=True), 1):
        for i in range(len(p)):
            before = p[i] * (1 - lr * decay)
            p[i], m[i], s[i] = oracle.step(rule, before, float(g[i]), m[i], s[i], t, lr)
        out.append(list(p))
    return np.array(out)


@pytest.mark.parametrize("cls", [Adam, Yogi])
def test_fit_is_the_same_eagerly_in_a_graph_and_compiled(cls):
    nets = [model(cls(0.05), **how) for how in ({"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True})]
    losses = [fit(net) for net in nets]
    assert losses[0][1] < losses[0][0]
    for other, net in zip(losses[1:], nets[1:], strict=True):
        np.testing.assert_allclose(other, losses[0], rtol=1e-5)
        assert int(net.optimizer.iterations) == 8


def test_fit_is_a_loop_of_steps():
    net, twin = model(Yogi(0.05)), model(Yogi(0.05))
    fit(net, epochs=1)
    optimizer = Yogi(0.05)
    for i in range(0, 64, 16):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((twin(X[i : i + 16]) - Y[i : i + 16]) ** 2)
        variables = twin.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
    for a, b in zip(net.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("graph", [False, True])
def test_schedules_and_callables_give_the_rate(graph):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=1, decay_rate=0.5)
    rates = [0.1 * 0.5**i for i in range(len(GRADS))]
    called = Yogi(lambda: 0.1 * 0.5 ** tf.cast(called.iterations, "float64"))
    for optimizer in (Yogi(schedule), called):
        if graph:
            optimizer.apply = tf.function(optimizer.apply)
        np.testing.assert_allclose(steps(optimizer, GRADS), expected("yogi", GRADS, rates), rtol=0, atol=1e-7)


@pytest.mark.parametrize("graph", [False, True])
def test_the_rate_can_be_set_and_is_used_in_double_precision(graph):
    """Its variable is float32, as in every Keras optimizer; a rate that was set after tracing has that precision."""
    optimizer, variable = Adam(learning_rate=0.01), tf.Variable(np.ones(4))
    optimizer.build([variable])
    step = lambda g: optimizer.apply([g], [variable])  # noqa: E731
    step = tf.function(step) if graph else step
    path = []
    for g, lr in zip(GRADS, rates := [0.01] * 4 + [0.3] * 4 + [0.01] * 4, strict=True):
        optimizer.learning_rate = lr
        step(tf.constant(g))
        path.append(variable.numpy())
    right = expected("adam", GRADS, rates)
    np.testing.assert_allclose(path[:4], right[:4], rtol=0, atol=1e-15)
    np.testing.assert_allclose(path, right, rtol=0, atol=1e-7 if graph else 1e-14)
    assert optimizer.learning_rate.dtype == "float32"
    tf.ones(2) * optimizer.learning_rate  # as anybody's code does
    optimizer.learning_rate.assign(0.5)
    assert optimizer._rate(optimizer.learning_rate) == 0.5
    optimizer.learning_rate = keras.optimizers.schedules.ExponentialDecay(0.25, 1, 0.5)
    assert float(optimizer.learning_rate) == 0.25 * 0.5**12


def test_a_rate_out_of_range_is_refused():
    optimizer = Adam(0.1)
    for lr in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="tensorflow: hyperparameter 'lr' is"):
            optimizer.learning_rate = lr
        with pytest.raises(ValueError, match="tensorflow: hyperparameter 'lr' is"):
            Adam(lr)
    np.testing.assert_array_equal(steps(optimizer, GRADS), steps(Adam(0.1), GRADS))


@pytest.mark.parametrize("number", [float, np.float32])
def test_a_rate_that_ends_a_rounding_below_zero_is_zero(number):
    net = model(Adam(0.5))
    fit(net)
    net.optimizer.learning_rate = number(-1e-18)
    assert float(net.optimizer.learning_rate) == net.optimizer.get_config()["learning_rate"] == 0
    losses = fit(net, epochs=2)
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match=r"tensorflow: hyperparameter 'lr' is -0\.001"):
        net.optimizer.learning_rate = number(-1e-3)


def test_callbacks_change_the_rate():
    net = model(Yogi(0.5))
    fit(
        net,
        epochs=4,
        callbacks=[keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1, min_delta=9)],
    )
    assert float(net.optimizer.learning_rate) < 0.5
    fit(net, epochs=1, callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch: 0.125)])
    assert float(net.optimizer.learning_rate) == 0.125


def test_clipping():
    norm = np.sqrt((GRADS**2).sum(axis=1, keepdims=True))
    by_norm = GRADS * np.minimum(1, 0.5 / np.maximum(norm, 1e-30))
    lrs = [0.1] * len(GRADS)
    for options, clipped in (
        ({"clipvalue": 0.3}, GRADS.clip(-0.3, 0.3)),
        ({"clipnorm": 0.5}, by_norm),
        ({"global_clipnorm": 0.5}, by_norm),
    ):
        np.testing.assert_allclose(
            steps(Yogi(0.1, **options), GRADS), expected("yogi", clipped, lrs), rtol=0, atol=1e-7
        )


def test_weight_decay_is_decoupled_and_can_leave_variables_out():
    lrs = [0.1] * len(GRADS)  # Keras decays by the rate as its variable holds it, in float32
    np.testing.assert_allclose(
        steps(Adam(0.1, weight_decay=0.2), GRADS), expected("adam", GRADS, lrs, decay=0.2), rtol=0, atol=1e-7
    )
    optimizer = Adam(0.1, weight_decay=0.2)
    optimizer.exclude_from_weight_decay(var_names=["Variable"])
    np.testing.assert_allclose(steps(optimizer, GRADS), expected("adam", GRADS, lrs), rtol=0, atol=1e-12)


def test_moving_averages_of_the_variables():
    optimizer = Yogi(0.1, use_ema=True, ema_momentum=0.75)
    variable = tf.Variable(np.ones(4))
    for g in GRADS:
        optimizer.apply([tf.constant(g)], [variable])
    path = expected("yogi", GRADS, [0.1] * len(GRADS))
    np.testing.assert_allclose(variable.numpy(), path[-1], rtol=0, atol=1e-12)
    average = path[0]
    for p in path[1:]:
        average = 0.75 * average + 0.25 * p
    optimizer.finalize_variable_values([variable])
    np.testing.assert_allclose(variable.numpy(), average, rtol=0, atol=1e-7)


@pytest.mark.parametrize("graph", [False, True])
def test_gradient_accumulation_steps_once_for_several_gradients(graph):
    optimizer = Yogi(0.1, gradient_accumulation_steps=3)
    if graph:
        optimizer.build([variable := tf.Variable(np.ones(4))])
        step = tf.function(lambda g: optimizer.apply([g], [variable]))
        path = []
        for g in GRADS:
            step(tf.constant(g))
            path.append(variable.numpy())
        path = np.array(path)
    else:
        path = steps(optimizer, GRADS)
    means = GRADS.reshape(4, 3, 4).mean(axis=1)
    np.testing.assert_allclose(path[2::3], expected("yogi", means, [0.1] * 4), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(path[:2], np.ones((2, 4)))
    np.testing.assert_array_equal(path[3:5], path[[2, 2]])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_loss_scaling_in_mixed_precision(jit_compile):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        net = model(Yogi(0.05), jit_compile=jit_compile)
        losses = fit(net, epochs=6)
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(net.optimizer, keras.optimizers.LossScaleOptimizer)
    assert losses[-1] < losses[0] / 2
    assert 12 < int(net.optimizer.inner_optimizer.iterations) < 24  # the first scales are too large


def test_a_step_that_overflows_is_skipped():
    variable = tf.Variable([1.0])
    optimizer = keras.optimizers.LossScaleOptimizer(Yogi(0.1), initial_scale=2.0)
    for g in (2.0, np.inf, 1.0):
        optimizer.apply([tf.constant([g])], [variable])
    np.testing.assert_allclose(variable.numpy(), expected("yogi", [[1.0], [1.0]], [0.1, 0.1])[-1], rtol=1e-6)


def test_a_loss_scale_factor_is_taken_out_again():
    np.testing.assert_allclose(
        steps(Yogi(0.1, loss_scale_factor=128.0), GRADS * 128),
        expected("yogi", GRADS, [0.1] * len(GRADS)),
        rtol=0,
        atol=1e-12,
    )


def test_bfloat16_models_train():
    keras.config.set_dtype_policy("bfloat16")
    try:
        net = model(Yogi(0.1))
        losses = fit(net, epochs=6)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {v.dtype for v in net.trainable_variables} == {"bfloat16"}
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("options", [{}, {"clipnorm": 10.0}, {"gradient_accumulation_steps": 2}])
def test_duplicate_rows_of_an_embedding_are_summed(graph, options):
    def train(sparse):
        table, optimizer = tf.Variable(np.ones((4, 2))), Yogi(0.1, **options)
        optimizer.build([table])

        def step(rows):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.gather(table, rows) ** 2)
            g = tape.gradient(loss, table)
            assert isinstance(g, tf.IndexedSlices)
            optimizer.apply([g if sparse else tf.convert_to_tensor(g)], [table])

        step = tf.function(step) if graph else step
        for rows in ([0, 2, 2], [3, 3, 3], [1, 2, 0], [0, 0, 1]):
            step(tf.constant(rows))
        return table.numpy()

    np.testing.assert_allclose(train(sparse=True), train(sparse=False), rtol=0, atol=1e-15)


def test_duplicate_rows_in_half_precision_are_summed_in_float32():
    table, optimizer = tf.Variable(np.ones((2, 1), "float16")), Yogi(0.1)
    values = tf.constant([[2048.0], [1.0], [1.0]], "float16")  # one after the other, 1 would be lost twice
    optimizer.apply([tf.IndexedSlices(values, tf.constant([1, 1, 1]))], [table])
    np.testing.assert_allclose(optimizer.state(table)[0].numpy(), [[0.0], [205.0]], rtol=1e-6)


@pytest.mark.parametrize("cls", [Adam, Yogi])
def test_its_config_makes_it_anew(cls):
    optimizer = cls(0.1, beta_1=0.8, beta_2=0.99, epsilon=1e-4, weight_decay=0.1, clipnorm=2.0, name="mine")
    config = optimizer.get_config()
    assert json.loads(json.dumps(config)) == config
    assert cls.from_config(config).get_config() == config
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is cls
    assert again.get_config() == config
    assert config["learning_rate"] == 0.1
    optimizer.learning_rate.assign(0.3)
    assert optimizer.get_config()["learning_rate"] == float(np.float32(0.3))


@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_float16", "bfloat16"])
def test_a_model_saved_in_the_middle_continues_exactly(dtype, tmp_path, request):
    request.addfinalizer(lambda: keras.config.set_dtype_policy("float32"))
    keras.config.set_dtype_policy(dtype)
    uninterrupted = model(Yogi(0.05))
    fit(uninterrupted, epochs=2)
    net = model(Yogi(0.05))
    fit(net, epochs=1)
    net.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    fit(loaded, epochs=1)
    for a, b in zip(uninterrupted.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(loaded.optimizer.iterations) == int(uninterrupted.optimizer.iterations)


def test_another_process_loads_the_model_once_the_tab_is_imported(tmp_path):
    net = model(Yogi(0.05))
    fit(net, epochs=1)
    net.save(tmp_path / "model.keras")
    code = "import d2l_adam.tensorflow, keras; print(keras.models.load_model('model.keras').optimizer.get_config())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "'epsilon': 0.001" in done.stdout


def test_a_checkpoint_of_tensorflow_s_own_holds_it(tmp_path):
    optimizer, variable = Yogi(0.1), tf.Variable(np.ones(4))
    for g in GRADS[:6]:
        optimizer.apply([tf.constant(g)], [variable])
    saved = tf.train.Checkpoint(optimizer=optimizer, variable=variable).save(str(tmp_path / "checkpoint"))
    other, twin = Yogi(0.1), tf.Variable(np.zeros(4))
    other.build([twin])
    tf.train.Checkpoint(optimizer=other, variable=twin).restore(saved).assert_consumed()
    for g in GRADS[6:]:
        other.apply([tf.constant(g)], [twin])
    np.testing.assert_array_equal(twin.numpy(), expected("yogi", GRADS, [0.1] * 12)[-1])


def test_a_refused_step_changes_nothing():
    optimizer, variables = Yogi(0.1), [tf.Variable(np.ones(2)), tf.Variable(np.ones(3))]
    optimizer.apply([tf.ones(2, "float64"), tf.ones(3, "float64")], variables)
    before = [x.numpy().copy() for x in (*variables, *optimizer.variables)]
    with pytest.raises(ValueError, match=r"gradient of variable 1 has shape \(2,\), variable 1 has \(3,\); make them"):
        optimizer.apply([tf.ones(2, "float64"), tf.ones(2, "float64")], variables)
    for x, value in zip((*variables, *optimizer.variables), before, strict=True):
        np.testing.assert_array_equal(x.numpy(), value)


def test_gradients_may_be_lists_and_variables_come_from_a_generator():
    variables = [tf.Variable(np.ones(2)), tf.Variable(np.float64(1.0))]
    Yogi(0.1).apply(([g, g] if g > 1 else g for g in (2.0, 0.5)), (v for v in variables))
    right = expected("yogi", [[2.0, 2.0, 0.5]], [0.1])[0]
    np.testing.assert_allclose([*variables[0].numpy(), variables[1].numpy()], right, rtol=1e-12)


def test_as_many_gradients_as_variables_are_wanted():
    optimizer, variables = Yogi(0.1), [tf.Variable([1.0]), tf.Variable([1.0])]
    for count in (1, 3):
        with pytest.raises(ValueError, match=f"tensorflow: 2 variables, {count} gradients; give one for each"):
            optimizer.apply([tf.ones(1)] * count, variables)
    assert int(optimizer.iterations) == 0


def test_two_replicas_in_one_process_stay_alike(tmp_path):
    code = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from d2l_adam import tensorflow as tab
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    v, optimizer = tf.Variable([1.0, 1.0]), tab.Yogi(0.1)
    optimizer.build([v])
def apply():
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    optimizer.apply([tf.constant([0.5, 2.0]) * (1.0 + tf.cast(replica, tf.float32))], [v])
for run in (strategy.run, tf.function(strategy.run)):
    for _ in range(3):
        run(apply)
tab.save("run", [v], optimizer)
zeros = lambda: tf.Variable([0.0, 0.0])
p, states, hyperparams = [zeros()], [(zeros(), zeros())], {"lr": 0.1, "t": 1}
tab.load("run", p, states, hyperparams)
replicas = [x.numpy().tolist() for x in strategy.experimental_local_results(v)]
print(*replicas, hyperparams["t"], p[0].numpy().tolist(), sep=";")
with strategy.scope():
    other = tab.Yogi(0.1)
try:
    other.build([v])  # outside of the scope
except RuntimeError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second, t, carried, refused = done.stdout.replace("\n", ";").strip(";").split(";")
    assert first == second == carried
    assert (t, refused) == ("7", "refused")
    right = expected("yogi", [[1.5, 6.0]] * 6, [0.1] * 6)[-1]
    np.testing.assert_allclose(json.loads(first), right, rtol=1e-5)


def test_variables_that_are_no_floats_are_refused():
    for variable, error, words in (
        (tf.Variable(1), TypeError, "variable 1 is int32; convert it to one of float16, bfloat16"),
        (tf.Variable(np.ones(2), shape=[None]), ValueError, r"variable 1 has shape \(None,\); give it a definite one"),
    ):
        optimizer = Adam()
        with pytest.raises(error, match=f"tensorflow: {words}"):
            optimizer.build([tf.Variable(1.0), variable])
        assert not optimizer.built


@pytest.mark.parametrize("options", [{"weight_decay": -0.1}, {"learning_rate": 1}, {"momentum": 0.9}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=r"weight_decay|should be float|not recognized"):
        Adam(**options)


def test_amsgrad_may_be_false_and_yogi_refuses_it():
    assert "amsgrad" not in Adam.from_config(keras.optimizers.Adam(amsgrad=False).get_config()).get_config()
    Yogi(amsgrad=False)
    with pytest.raises(ValueError, match="tensorflow: amsgrad=True is another rule than this; leave it out"):
        Yogi(amsgrad=True)


def test_amsgrad_is_keras_s():
    config = keras.optimizers.Adam(amsgrad=True, beta_1=0.875, beta_2=0.9375, learning_rate=0.25).get_config()
    results = []
    for optimizer in (Adam.from_config(config), keras.optimizers.Adam.from_config(config)):
        variable = tf.Variable([1.0, -2.0, 0.5], dtype="float64")
        for step in range(20):
            optimizer.apply([tf.constant([0.5**step, -1.0, 0.0], tf.float64)], [variable])
        results.append(variable.numpy())
        assert optimizer.get_config()["amsgrad"]
    np.testing.assert_allclose(*results, rtol=1e-9)
    assert Adam.from_config(config).rule.name == "amsgrad_hat"
    assert Adam().rule.name == "adam"


def test_another_backend_of_keras_is_named():
    code = "from d2l_adam.tensorflow import Yogi; Yogi()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KERAS_BACKEND": "torch"},
    )
    assert "ValueError: tensorflow: Keras runs on torch here; set the environment variable KERAS_BACKEND" in done.stderr
