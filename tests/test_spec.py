"""The spec itself: plain numbers in, plain numbers out, and the identities that follow from the equations."""

import inspect
from decimal import Decimal, getcontext

import oracle
import pytest
from frameworks import RULES, TABS, Problem
from hypothesis import given
from hypothesis import strategies as st

from d2l_adam import spec

numbers = st.floats(-1e6, 1e6, allow_nan=False, allow_subnormal=False)
positive = st.floats(0, 1e6, allow_subnormal=False)

# p after each of the steps below, in float64, to the last bit.
GRADS = [0.5, -1.25e-4, 0.0, 3.0, -1e-7]
GOLDEN = {
    "adam": [
        "0x1.7ae14859e0db7p-1",
        "0x1.77734534ecc0fp-1",
        "0x1.74cc909242492p-1",
        "0x1.7181efcc17ab5p-1",
        "0x1.6eb9b955b8b7fp-1",
    ],
    "yogi": [
        "0x1.7ae3e56ddc3b4p-1",
        "0x1.7778cb8806b3cp-1",
        "0x1.74d51af0e9881p-1",
        "0x1.718b10687e5bfp-1",
        "0x1.6ec3c21f734b3p-1",
    ],
}


def test_the_spec_names_no_framework():
    source = inspect.getsource(spec)
    for name in ("numpy", "import mxnet", "import torch", "import tensorflow"):
        assert name not in source


@pytest.mark.parametrize("rule", RULES)
@given(p=numbers, g=numbers, v=numbers, s=positive, t=st.integers(1, 10**6), lr=st.floats(0, 10))
def test_on_plain_numbers_the_spec_is_the_oracle(rule, p, g, v, s, t, lr):
    assert spec.SECTION[rule](p, g, v, s, t, lr) == oracle.step(rule, p, g, v, s, t, lr)


@pytest.mark.parametrize("rule", RULES)
def test_fifty_digits_say_the_same(rule):
    """The equations in decimal arithmetic of fifty digits, as a check on the oracle's own rounding."""
    getcontext().prec = 50
    p, m, s, lr = Decimal("0.75"), Decimal(0), Decimal(0), Decimal(0.01)
    beta1, beta2, eps = Decimal(0.9), Decimal(0.999), Decimal(oracle.EPS[rule])
    for t, g in enumerate(map(Decimal, GRADS), 1):
        m = beta1 * m + (1 - beta1) * g
        if rule == "adam":
            s = beta2 * s + (1 - beta2) * g * g
        else:
            s += (1 - beta2) * g * g * ((g * g > s) - (g * g < s))
        p -= lr * m / (1 - beta1**t) / ((s / (1 - beta2**t)).sqrt() + eps)
    assert oracle.trajectory(rule, 0.75, GRADS, 0.01)[0][-1] == pytest.approx(float(p), rel=1e-15)


@pytest.mark.parametrize("rule", RULES)
def test_golden_values_of_the_oracle(rule):
    assert [x.hex() for x in oracle.trajectory(rule, 0.75, GRADS, 0.01)[0].tolist()] == GOLDEN[rule]


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("rule", RULES)
def test_golden_values_of_every_tab(tab, rule):
    problem = Problem(tab, [[0.75]])
    after = [values[0][0].item() for values in problem.run(rule, [[[g]] for g in GRADS])]
    assert [x.hex() for x in after] == GOLDEN[rule]


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("rule", RULES)
@given(g=st.floats(1e-9, 1e3), lr=st.floats(1e-6, 1.0), negative=st.booleans())
def test_the_first_step_is_lr_g_over_g_plus_eps(tab, rule, g, lr, negative):
    """Bias correction turns the first averages into g and g squared; at |g| = eps half of lr is left."""
    problem = Problem(tab, [[0.0]], lr=lr)
    problem.set_grads([[-g if negative else g]])
    problem.step(rule)
    moved = problem.values()[0][0].item()
    assert moved == pytest.approx((lr if negative else -lr) * g / (g + oracle.EPS[rule]), rel=1e-12)


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("rule", RULES)
def test_a_zero_gradient_moves_nothing(tab, rule):
    problem = Problem(tab, [[1.5, -2.0]])
    for p, v, s in (values[0] for values in problem.run(rule, [[[0.0, 0.0]]] * 3)):
        assert (p.tolist(), v.tolist(), s.tolist()) == ([1.5, -2.0], [0.0, 0.0], [0.0, 0.0])


def test_the_sign_of_a_number():
    assert [spec.sign(x) for x in (-2.5, -0.0, 0.0, 3)] == [-1, 0, 0, 1]


@pytest.mark.parametrize("tab", TABS)
def test_yogi_leaves_a_second_moment_that_is_right_already(tab):
    problem = Problem(tab, [[1.0, 1.0]])
    v, s = problem.states[0]
    if tab == "jax":  # which cannot be written
        problem.states[0] = v, problem.array([0.25, 0.25])
    problem.module.TAB.write([s], [problem.array([0.25, 0.25])])
    problem.set_grads([[0.5, -0.5]])
    problem.step("yogi")
    assert problem.values()[0][2].tolist() == [0.25, 0.25]
