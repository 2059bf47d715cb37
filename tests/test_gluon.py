"""`d2l_adam.mxnet.Adam` and `Yogi` as Gluon has it: trainers, multipliers, schedulers, either kind of array, files."""

import pickle

import numpy as np
import oracle
import pytest
from frameworks import RULES

from d2l_adam.mxnet import Adam, Yogi, mxnet

gluon = mxnet.gluon
GRADS = np.random.default_rng(0).normal(size=(12, 3)) * [1, 1e-4, 10]
NAME = {"adam": "d2l_adam", "yogi": "yogi"}


def parameter(value=1.0, dtype="float64", ctx=None, **options):
    p = gluon.Parameter("weight", shape=(3,), dtype=dtype, **options)
    p.initialize(mxnet.init.Constant(value), ctx=ctx)
    return p


def steps(trainer, p, grads=GRADS, batch_size=1):
    """The parameter after each step."""
    out = []
    for g in grads:
        with mxnet.autograd.record():
            losses = [(x * mxnet.np.array(g, dtype=x.dtype, ctx=x.ctx)).sum() for x in p.list_data()]
        mxnet.autograd.backward(losses)
        trainer.step(batch_size)
        out.append(p.list_data()[0].asnumpy().astype("float64"))
    return np.array(out)


def expected(rule, lrs, prepare=lambda g, p: g, grads=GRADS):
    """The oracle with a learning rate for each step; `prepare` makes the gradient that the rule sees."""
    p, m, s, out = np.ones(3), np.zeros(3), np.zeros(3), []
    for t, (g, lr) in enumerate(zip(grads, lrs, strict=True), 1):
        g = prepare(g, p)
        rows = [oracle.step(rule, *map(float, (p[i], g[i], m[i], s[i])), t, lr) for i in range(3)]
        p, m, s = np.array(rows).T
        out.append(p)
    return np.array(out)


@pytest.mark.parametrize("rule", RULES)
def test_it_is_registered_and_mxnet_s_own_adam_remains(rule):
    p = parameter()
    trainer = gluon.Trainer([p], NAME[rule], {"learning_rate": 0.1})
    assert type(trainer.optimizer) is {"adam": Adam, "yogi": Yogi}[rule]
    np.testing.assert_allclose(steps(trainer, p), expected(rule, [0.1] * 12), rtol=0, atol=1e-14)
    assert type(mxnet.optimizer.create("adam")).__module__ == "mxnet.optimizer.optimizer"


@pytest.mark.parametrize("rule", RULES)
def test_rescaling_clipping_and_weight_decay_come_in_mxnet_s_order(rule):
    p = parameter()
    options = {"learning_rate": 0.1, "clip_gradient": 0.5, "wd": 0.3, "rescale_grad": 2.0}
    ours = steps(gluon.Trainer([p], NAME[rule], options), p, batch_size=4)
    prepare = lambda g, p: np.clip(0.5 * g + 0.3 * p, -0.5, 0.5)  # noqa: E731
    np.testing.assert_allclose(ours, expected(rule, [0.1] * 12, prepare), rtol=0, atol=1e-14)
    if rule == "adam":  # where eps does not matter, MXNet's own Adam is the same, but for its betas in float32
        options |= {"epsilon": 1e-30}
        p, q = parameter(), parameter()
        ours = steps(gluon.Trainer([p], "d2l_adam", options), p, batch_size=4)
        np.testing.assert_allclose(ours, steps(gluon.Trainer([q], "adam", options), q, batch_size=4), rtol=0, atol=1e-4)


def test_multipliers_of_a_parameter():
    p = parameter()
    p.lr_mult, p.wd_mult = 0.5, 2.0
    ours = steps(gluon.Trainer([p], "yogi", {"learning_rate": 0.1, "wd": 0.1}), p)
    np.testing.assert_allclose(ours, expected("yogi", [0.05] * 12, lambda g, p: g + 0.2 * p), rtol=0, atol=1e-14)


def test_schedulers_and_set_learning_rate():
    p = parameter()
    scheduler = mxnet.lr_scheduler.FactorScheduler(step=3, factor=0.5, base_lr=0.2)
    trainer = gluon.Trainer([p], "yogi", {"lr_scheduler": scheduler})
    lrs = [0.2] * 3 + [0.1] * 3 + [0.05] * 3 + [0.025] * 3
    np.testing.assert_allclose(steps(trainer, p), expected("yogi", lrs), rtol=0, atol=1e-14)
    p = parameter()
    trainer = gluon.Trainer([p], "yogi", {"learning_rate": 0.2})
    first = steps(trainer, p, GRADS[:6])
    trainer.set_learning_rate(0.1)
    np.testing.assert_allclose(
        [*first, *steps(trainer, p, GRADS[6:])], expected("yogi", [0.2] * 6 + [0.1] * 6), rtol=0, atol=1e-14
    )


def test_a_schedule_that_ends_a_rounding_below_zero_trains_on():
    p, lrs = parameter(), [0.2] * 6 + [0.0] * 6
    trainer = gluon.Trainer([p], "yogi", {"lr_scheduler": lambda t: 0.2 if t <= 6 else -1e-18})
    np.testing.assert_allclose(steps(trainer, p), expected("yogi", lrs), rtol=0, atol=1e-14)
    optimizer = Yogi(learning_rate=-1e-18)
    optimizer.set_learning_rate(-1e-18)
    assert optimizer.learning_rate == 0


def test_lazy_updates_are_refused_and_may_be_left_out():
    Adam(lazy_update=False)
    Yogi(lazy_update=False)
    for cls in (Adam, Yogi):
        with pytest.raises(ValueError, match="mxnet: lazy_update=True is refused, as this steps all rows"):
            cls(lazy_update=True)


def test_without_a_learning_rate_it_is_that_of_the_papers_implementations():
    assert (Adam().learning_rate, Yogi().learning_rate) == (1e-3, 1e-2)
    scheduler = mxnet.lr_scheduler.FactorScheduler(step=3, base_lr=0.2)
    assert Yogi(lr_scheduler=scheduler).learning_rate == 0.2


@pytest.mark.parametrize("hybridize", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_a_network_trains(rule, hybridize):
    mxnet.random.seed(0)
    net = gluon.nn.Sequential() if not hybridize else gluon.nn.HybridSequential()
    net.add(gluon.nn.Dense(3, activation="tanh"), gluon.nn.Dense(1))
    net.initialize(mxnet.init.Normal(0.1))
    if hybridize:
        net.hybridize()
    X = mxnet.np.random.normal(size=(64, 5))
    y = mxnet.np.dot(X, mxnet.np.arange(5).reshape(5, 1))
    trainer, losses = gluon.Trainer(net.collect_params(), NAME[rule], {"learning_rate": 0.1}), []
    for _ in range(60):
        with mxnet.autograd.record():
            loss = gluon.loss.L2Loss()(net(X), y)
        loss.backward()
        trainer.step(64)
        losses.append(float(loss.mean()))
    assert losses[-1] < losses[0] / 4


@pytest.mark.parametrize("rule", RULES)
def test_the_older_arrays(rule):
    with mxnet.util.np_array(False), mxnet.util.np_shape(False):
        p = gluon.Parameter("weight", shape=(3,), dtype="float64")
        p.initialize(mxnet.init.One())
        trainer, out = gluon.Trainer([p], NAME[rule], {"learning_rate": 0.1, "wd": 0.1, "clip_gradient": 5.0}), []
        assert type(p.data()) is mxnet.nd.NDArray
        for g in GRADS:
            with mxnet.autograd.record():
                loss = (p.data() * mxnet.nd.array(g, dtype="float64")).sum()
            loss.backward()
            trainer.step(1)
            out.append(p.data().asnumpy())
    np.testing.assert_allclose(
        out, expected(rule, [0.1] * 12, lambda g, p: np.clip(g + 0.1 * p, -5, 5)), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("value", [mxnet.np.ones(()), mxnet.np.ones((0,)), mxnet.np.ones((2, 1)), mxnet.nd.ones((2,))])
def test_an_updater_takes_any_shape_and_either_array(value):
    updater = mxnet.optimizer.get_updater(Yogi(learning_rate=0.5))
    updater(0, value * 1e-3, value)
    np.testing.assert_allclose(value.asnumpy(), np.full(value.shape, 0.75), rtol=1e-6)


@pytest.mark.parametrize("update_on_kvstore", [False, True])
def test_several_devices_stay_alike(update_on_kvstore):
    p = parameter(ctx=[mxnet.cpu(0), mxnet.cpu(1)])
    trainer = gluon.Trainer([p], "yogi", {"learning_rate": 0.1}, update_on_kvstore=update_on_kvstore)
    ours = steps(trainer, p)
    np.testing.assert_allclose(ours, expected("yogi", [0.1] * 12, lambda g, p: 2 * g), rtol=0, atol=1e-14)
    np.testing.assert_array_equal(p.list_data()[1].asnumpy(), ours[-1])


@pytest.mark.parametrize("multi_precision", [False, True])
def test_multi_precision_keeps_a_copy_in_float32(multi_precision, recwarn):
    p = parameter(dtype="float16")
    trainer = gluon.Trainer([p], "yogi", {"learning_rate": 2.0**-13, "multi_precision": multi_precision})
    grads = np.ones((12, 3))
    ours = steps(trainer, p, grads)[-1]
    path = expected("yogi", [2.0**-13] * 12, grads=grads)[-1]
    if multi_precision:
        np.testing.assert_array_equal(ours, path.astype("float16"))
    else:  # each step is less than half of a unit in the last place: rounded, it is none
        assert (ours == 1).all()
    assert not [warning for warning in recwarn if "float16" in str(warning.message)]


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # MXNet's file
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("update_on_kvstore", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_it_carries_on_exactly_from_saved_states(rule, update_on_kvstore, dtype, tmp_path):
    def trainer(p, lr):
        options = {"learning_rate": lr, "multi_precision": dtype == "float16"}
        return gluon.Trainer(
            [p], NAME[rule], options, kvstore=mxnet.kv.create("local"), update_on_kvstore=update_on_kvstore
        )

    p = parameter(dtype=dtype)
    uninterrupted = steps(trainer(p, 0.1), p)
    p = parameter(dtype=dtype)
    first = trainer(p, 0.1)
    steps(first, p, GRADS[:6])
    first.save_states(str(tmp_path / "states"))
    q = parameter(dtype=dtype)
    q.set_data(p.data())
    second = trainer(q, 9.0)
    second.load_states(str(tmp_path / "states"))
    np.testing.assert_array_equal(steps(second, q, GRADS[6:]), uninterrupted[6:])


def test_it_can_be_pickled():
    optimizer = pickle.loads(pickle.dumps(Yogi(learning_rate=0.25, beta1=0.5, wd=0.1)))
    assert (type(optimizer), optimizer.lr, optimizer.beta1, optimizer.wd) == (Yogi, 0.25, 0.5, 0.1)


def test_row_sparse_gradients_move_every_row():
    def train(sparse):
        with mxnet.util.np_array(False), mxnet.util.np_shape(False):
            net = gluon.nn.Embedding(4, 2, sparse_grad=sparse)
            net.initialize(mxnet.init.One())
            trainer = gluon.Trainer(net.collect_params(), "yogi", {"learning_rate": 0.1})
            for rows in ([0, 2, 2], [3, 3, 3], [1, 2, 0]):
                with mxnet.autograd.record():
                    loss = (net(mxnet.nd.array(rows)) ** 2).sum()
                loss.backward()
                trainer.step(1)
            assert net.weight.grad().stype == ("row_sparse" if sparse else "default")
            return net.weight.data().asnumpy()

    np.testing.assert_allclose(train(sparse=True), train(sparse=False), rtol=1e-6)


def test_row_sparse_weights_are_refused():
    weight = mxnet.nd.ones((4, 2)).tostype("row_sparse")
    with pytest.raises(TypeError, match="mxnet: weight 0 is stored as row_sparse; make its Parameter"):
        mxnet.optimizer.get_updater(Yogi())(0, weight, weight)


def test_what_a_key_value_store_could_only_print_is_refused_before():
    """Where the store has the optimizer, an error in its step is swallowed, and nothing trains."""
    for optimizer in ("yogi", Yogi()):
        p = gluon.Parameter("weight", shape=(4, 2), stype="row_sparse")
        with mxnet.util.np_array(False), mxnet.util.np_shape(False):
            p.initialize(mxnet.init.One())
        with pytest.raises(TypeError, match="mxnet: weight weight is stored as row_sparse; make its Parameter with"):
            gluon.Trainer([p], optimizer)


@pytest.mark.parametrize("name", ["wd", "clip_gradient", "rescale_grad"])
def test_options_that_make_no_sense_are_refused(name):
    with pytest.raises(ValueError, match=f"mxnet: hyperparameter '{name}' is nan; give a finite number"):
        Yogi(**{name: np.nan})
    with pytest.raises(TypeError, match=f"mxnet: hyperparameter '{name}' is builtins.str; give a Python number"):
        Yogi(**{name: "a"})


def test_a_negative_clip_gradient_is_none_as_in_mxnet():
    p, q = parameter(), parameter()
    ours = steps(gluon.Trainer([p], "yogi", {"clip_gradient": -1.0}), p)
    np.testing.assert_array_equal(ours, steps(gluon.Trainer([q], "yogi"), q))


def test_a_refused_step_changes_nothing():
    p = parameter()
    trainer = gluon.Trainer([p], "yogi", {"learning_rate": 0.1})
    steps(trainer, p, GRADS[:2])
    before, optimizer = p.data().asnumpy(), trainer.optimizer
    with pytest.raises(ValueError, match=r"mxnet: hyperparameter 'lr' is -0\.1"):
        trainer.set_learning_rate(-0.1)
    for name, value, error in (
        ("lr", -0.1, ValueError),
        ("lr", mxnet.np.ones(1), TypeError),
        ("wd", np.nan, ValueError),
        ("_scale", np.inf, ValueError),  # of the gradients, where the trainer keeps it
    ):
        this = trainer if name == "_scale" else optimizer
        right = getattr(this, name)
        setattr(this, name, value)
        with pytest.raises(error, match="mxnet: hyperparameter"):
            steps(trainer, p, GRADS[2:3])
        setattr(this, name, right)
    optimizer.lr_scheduler = lambda num_update: 1 / 0
    with pytest.raises(ZeroDivisionError):
        steps(trainer, p, GRADS[2:3])
    optimizer.lr_scheduler = None
    np.testing.assert_array_equal(p.data().asnumpy(), before)
    assert (optimizer.num_update, optimizer._index_update_count) == (2, {0: 2})
    np.testing.assert_allclose(steps(trainer, p, GRADS[2:]), expected("yogi", [0.1] * 12)[2:], rtol=0, atol=1e-14)
