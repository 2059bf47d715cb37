"""Rules of the user's own: any pure function of (p, g, v, s, t, ...) binds to any tab."""

import math

import numpy as np
import pytest
from frameworks import TABS, Problem
from test_errors import refused, sound

from d2l_adam.spec import sign, sqrt, square

DECAY = 0.5


def heavy_ball(p, g, v, s, t, lr, beta=0.5):
    """It keeps the last parameter as a state: an old value, handed on."""
    return p - lr * g + beta * (p - s), v, p


def last_gradient(p, g, v, s, t, lr):
    return p - lr * v, g, v


def with_words_and_a_constant(p, g, v, s, t, lr, *, power=2):
    v = DECAY * v + sign(g) * sqrt(square(g))
    return p - lr * v / math.sqrt(power), v, s


def scaled_by(factor):
    def rule(p, g, v, s, t, lr):
        return p - factor * lr * g / t, v, s

    return rule


RULES = [heavy_ball, last_gradient, with_words_and_a_constant, scaled_by(3.0), lambda p, g, v, s, t, lr: (p - lr, v, s)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("tab", TABS)
def test_a_rule_says_the_same_of_arrays_as_of_numbers(tab, rule):
    grads = np.random.default_rng(0).normal(size=(5, 3))
    steps = Problem(tab, [np.arange(3.0)], lr=0.1).run(rule, [[g] for g in grads])
    for i in range(3):
        p, v, s = float(i), 0.0, 0.0
        for t, g in enumerate(grads[:, i].tolist(), 1):
            p, v, s = rule(p, g, v, s, t, 0.1)
            assert [x[i] for x in steps[t - 1][0]] == pytest.approx([p, v, s], rel=1e-14)


@pytest.mark.parametrize("tab", TABS)
def test_keyword_only_constants_can_be_given(tab):
    problem = Problem(tab, [[0.0]], lr=0.1)
    problem.hyperparams["power"] = 4
    problem.set_grads([[2.0]])
    problem.step(with_words_and_a_constant)
    assert problem.values()[0][0].item() == pytest.approx(-0.1)


@pytest.mark.parametrize("tab", TABS)
def test_constants_reach_a_rule_as_python_numbers(tab):
    """A NumPy scalar would drag arrays of float32 to its own dtype, or float64 to float32."""
    seen = []

    def rule(p, g, v, s, t, lr, beta, power, scale=2):
        seen.extend(map(type, (t, lr, beta, power)))
        return p - lr * g, v, s

    problem = sound(tab)
    problem.hyperparams = {"t": np.float32(3), "lr": np.float32(0.1), "beta": np.float64(0.5), "power": np.int64(2)}
    problem.step(rule)
    assert seen == [int, float, float, float] * 2


WRONG = {
    "two values": (lambda p, g, v, s, t, lr: (p, v), r"it returned \S+"),
    "four values": (lambda p, g, v, s, t, lr: (p, v, s, s), r"it returned \S+"),
    "nothing": (lambda p, g, v, s, t, lr: None, "it returned builtins.NoneType"),
    "a number for a state": (lambda p, g, v, s, t, lr: (p - lr * g, 0.0, s), "it returned .*builtins.float"),
    "a slice": (lambda p, g, v, s, t, lr: (p - lr * g, v[:1], s), r"it returned .*1"),
    "a slice of p": (lambda p, g, v, s, t, lr: (p[:1], v, s), r"it returned .*1.*2.*2"),
    "a slice of s": (lambda p, g, v, s, t, lr: (p - lr * g, v, s[:1]), r"it returned .*2.*2.*1"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("tab", TABS)
def test_a_rule_that_returns_the_wrong_thing_changes_nothing(tab, case):
    rule, words = WRONG[case]
    refused(sound(tab), ValueError, rf"the rule <lambda> must return \(p, v, s\), each of shape \(2,\); {words}", rule)


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize(
    "rule",
    [lambda p, g, v, s, lr: (p, v, s), lambda p, g, v, s, t, lr, /: (p, v, s), lambda p, g, v, s, t, *lr: (p, v, s)],
)
def test_a_rule_of_another_signature_is_refused(tab, rule):
    with pytest.raises(TypeError, match=f"{tab}: the rule <lambda> has another signature than"):
        Problem(tab, []).module.step(rule)


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("rule", ["adam", None, print, str.upper])
def test_what_is_no_function_is_refused(tab, rule):
    with pytest.raises(
        TypeError, match=rf"{tab}: the rule is builtins\.\S+; give a Python function rule\(p, g, v, s, t"
    ):
        Problem(tab, []).module.step(rule)


@pytest.mark.parametrize("tab", TABS)
def test_a_rule_that_fails_at_the_second_parameter_leaves_the_first_alone(tab):
    calls = []

    def rule(p, g, v, s, t, lr):
        calls.append(t)
        if len(calls) == 2:
            raise ZeroDivisionError(f"{tab} at step {t}")
        return p - g, v, s

    refused(sound(tab), ZeroDivisionError, "at step 1", rule)
    assert len(calls) == 2


def test_mxnet_does_not_record_the_step():
    from mxnet import autograd

    seen = []

    def rule(p, g, v, s, t, lr):
        seen.append(autograd.is_recording())
        return p - lr * g, v, s

    problem = sound("mxnet")
    with autograd.record():
        problem.step(rule)
    assert seen == [False, False]
