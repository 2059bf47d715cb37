"""The parity protocol: every tab on one loss curve, and proof that a wrong rule leaves it."""

import dataclasses
import inspect
import itertools

import numpy as np
import oracle
import pytest
from frameworks import RULES, TABS, Problem

import d2l_adam
from d2l_adam import protocol, spec

SETTINGS = [{}, {"seed": 1, "batch_size": 64}, {"seed": 2, "batch_size": 7, "lr": 0.05, "num_epochs": 1}]


def distance(curve, other):
    """The largest distance over the whole curve; NaN is infinitely far."""
    assert len(curve) == len(other) > 0
    gaps = np.abs(np.subtract(curve, other))
    return np.where(np.isnan(gaps), np.inf, gaps).max()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_tab_is_on_the_oracle_s_curve_and_on_each_other_s(rule, dtype, settings):
    curves = {tab: d2l_adam.train(tab=tab, rule=rule, dtype=dtype, **settings).losses for tab in TABS}
    curves["oracle"] = oracle.curve(rule, **settings)
    for one, other in itertools.combinations(curves, 2):
        assert distance(curves[one], curves[other]) <= protocol.TOLERANCE[dtype], (one, other)


def test_the_tolerances_are_those_of_the_protocol():
    assert protocol.TOLERANCE == {"float32": 1e-6, "float64": 1e-14}


@pytest.mark.parametrize("rule", RULES)
def test_the_curve_goes_down_to_the_loss_that_the_book_prints(rule):
    losses = oracle.curve(rule)
    assert len(losses) == 15
    assert losses[0] > 0.37
    assert losses[-1] == pytest.approx(0.243, abs=1e-3)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 200, 1500, 4000])
def test_a_point_is_recorded_whenever_the_examples_reach_a_multiple_of_200(batch_size):
    history = d2l_adam.train(tab="numpy", dtype="float64", batch_size=batch_size, num_epochs=2)
    ends = np.cumsum(([batch_size] * (1500 // batch_size) + [1500 % batch_size] * (1500 % batch_size > 0)) * 2)
    expected = [end / 1500 for end, before in zip(ends, [0, *ends], strict=False) if end // 200 > before // 200]
    assert history.epochs == pytest.approx(expected)
    assert len(history.losses) == len(expected) > 0


@pytest.mark.parametrize("tab", TABS)
def test_history_has_the_final_parameters_and_the_time(tab):
    history = d2l_adam.train(tab=tab, num_epochs=1)
    w, b = history.params
    assert (type(w), w.shape, w.dtype, b.shape) == (np.ndarray, (5, 1), np.dtype("float32"), (1,))
    assert history.seconds_per_epoch > 0
    features, labels = oracle.airfoil()
    at_end = ((features @ w[:, 0] + b[0] - labels) ** 2).mean() / 2
    assert at_end == pytest.approx(history.losses[-1], abs=0.02)


def test_histories_compare_without_a_word_on_arrays():
    """Field by field, `==` would ask arrays for their one truth value."""
    one = d2l_adam.train(tab="numpy", num_epochs=1)
    other = dataclasses.replace(one, params=[p.copy() for p in one.params])
    assert other != one
    assert one in [other, one]


def test_the_time_an_epoch_takes_is_that_of_its_steps(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(protocol.time, "perf_counter", lambda: next(ticks))
    assert d2l_adam.train(tab="numpy", num_epochs=2).seconds_per_epoch == 150


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_s_own_adam_is_on_the_curve(dtype):
    """`torch.optim.Adam` has the same formula, written by others; at eps=1e-6 it must agree."""
    import torch

    features, labels = (torch.tensor(x, dtype=getattr(torch, dtype)) for x in oracle.airfoil())
    rng = np.random.default_rng(0)
    w = torch.tensor(rng.normal(0, 0.01, (5, 1)), dtype=getattr(torch, dtype), requires_grad=True)
    b = torch.zeros(1, dtype=getattr(torch, dtype), requires_grad=True)
    optimizer, losses = torch.optim.Adam([w, b], lr=0.01, eps=1e-6), []
    for n, rows in enumerate(np.concatenate([rng.permutation(1500), rng.permutation(1500)]).reshape(-1, 10), 1):
        optimizer.zero_grad()
        (((features[rows] @ w + b)[:, 0] - labels[rows]) ** 2 / 2).mean().backward()
        optimizer.step()
        if n * 10 % 200 == 0:
            losses.append((((features @ w + b)[:, 0] - labels) ** 2 / 2).mean().item())
    ours = d2l_adam.train(tab="pytorch", rule="adam", dtype=dtype).losses
    assert distance(ours, losses) <= protocol.TOLERANCE[dtype]


# The four defects of the book's TensorFlow tab, each alone, and some more that people make.
DEFECTS = {
    "adam, eps outside the fraction": ("adam", "lr * v_hat / (sqrt(s_hat) + eps)", "lr * v_hat / sqrt(s_hat) + eps"),
    "adam, t never advances": ("adam", "    v = beta1", "    t = 1\n    v = beta1"),
    "yogi, eps outside the fraction": ("yogi", "lr * v_hat / (sqrt(s_hat) + eps)", "lr * v_hat / sqrt(s_hat) + eps"),
    "yogi, eps of adam": ("yogi", "eps=1e-3", "eps=1e-6"),
    "adam, eps added before the bias is corrected": ("adam", "+ eps)", "+ eps / (1 - beta2**t) ** 0.5)"),
    "yogi, sign turned round": ("yogi", "sign(square(g) - s)", "sign(s - square(g))"),
    "yogi, adam's second moment": ("yogi", "sign(square(g) - s) * square(g)", "(square(g) - s)"),
}


def mutant(rule, right, wrong):
    source = inspect.getsource(spec.SECTION[rule])
    head, _, body = source.rpartition('"""')  # the docstring stays out of it
    signature, _ = head.split("\n", 1)
    code = signature + "\n" + body.lstrip("\n")
    assert code.count(right) == 1
    namespace = {}
    exec(code.replace(right, wrong), namespace)
    return namespace[rule]


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_turns_parity_red(tab, defect):
    rule, right, wrong = DEFECTS[defect]
    losses = d2l_adam.train(tab=tab, rule=mutant(rule, right, wrong)).losses
    assert not distance(losses, oracle.curve(rule)) <= protocol.TOLERANCE["float32"]


# The curve's gradients are of order one, and hardly see eps; these do. One step cannot see a missing t.
RNG = np.random.default_rng(0)
REGIMES = {
    "order one": RNG.normal(size=(300, 4)),
    "1e-4": 1e-4 * RNG.normal(size=(300, 4)),
    "mostly zero": RNG.normal(size=(300, 4)) * (RNG.random((300, 4)) < 0.05) * [1, 1, 1, 0],
}


def trajectory(tab, rule, grads):
    """The parameter after each step, in float64."""
    steps = Problem(tab, [np.ones(4)]).run(rule, [[g] for g in grads])
    return np.array([values[0][0] for values in steps])


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("tab", TABS)
def test_every_tab_follows_the_oracle_in_every_regime(tab, rule, regime):
    expected = oracle.trajectory(rule, np.ones(4), REGIMES[regime], 0.01)[0]
    assert distance(trajectory(tab, rule, REGIMES[regime]), expected) <= 1e-14


def test_the_regimes_see_an_eps_that_the_curve_does_not():
    wrong = mutant("adam", "(sqrt(s_hat) + eps)", "sqrt(s_hat + eps)")
    assert distance(d2l_adam.train(tab="numpy", rule=wrong).losses, oracle.curve("adam")) < 1e-6
    expected = oracle.trajectory("adam", np.ones(4), REGIMES["1e-4"], 0.01)[0]
    assert distance(trajectory("numpy", wrong, REGIMES["1e-4"]), expected) > 1e-2


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("rule", RULES)
def test_the_mutation_itself_changes_nothing(tab, rule):
    losses = d2l_adam.train(tab=tab, rule=mutant(rule, "    return p, v, s", "    return p, v, s")).losses
    assert losses == d2l_adam.train(tab=tab, rule=rule).losses


@pytest.mark.parametrize(
    ("setting", "error", "words"),
    [
        ({"tab": "caffe"}, ValueError, "unknown tab 'caffe'; known: mxnet, pytorch, tensorflow, jax, numpy"),
        ({"rule": "adagrads"}, ValueError, "unknown rule 'adagrads'; known: adam, yogi"),
        ({"dtype": "float16"}, ValueError, "unknown dtype 'float16'; known: float32, float64"),
        ({"batch_size": 0}, ValueError, "batch_size is 0; give a whole number from 1 on"),
        ({"num_epochs": 1.5}, ValueError, "num_epochs is 1.5; give a whole number"),
        ({"lr": -0.01}, ValueError, "numpy: hyperparameter 'lr' is -0.01"),
        ({"lr": float("nan")}, ValueError, "numpy: hyperparameter 'lr' is nan; give a finite number"),
    ],
)
def test_train_names_cause_and_cure(setting, error, words):
    with pytest.raises(error, match=words):
        d2l_adam.train(**{"tab": "numpy"} | setting)
