"""What runs in the reader's browser: the rules as JavaScript, and the live figures of the pages."""

import numpy as np
import oracle
import pytest
import rules
from test_page import browser  # noqa: F401

from d2l_adam import spec
from d2l_adam.render import render
from d2l_adam.rule import Rule
from d2l_adam.spec import maximum, sign

RNG = np.random.default_rng(1)
REGIMES = {
    "order one": RNG.normal(size=100),
    "1e-4": 1e-4 * RNG.normal(size=100),
    "large": 1e4 * RNG.normal(size=100),
    "zeros between": RNG.normal(size=100) * (np.arange(100) % 3 > 0),
    "of different size": RNG.normal(size=100) * 10.0 ** RNG.integers(-2, 3, size=100),
}
FOLLOW = """([code, grads, row, constants]) => {
    const rule = eval(code);
    return grads.map((g, i) => row = rule(row[0], g, ...row.slice(1), i + 1, constants));
}"""


@pytest.fixture(scope="module")
def page(browser):  # noqa: F811
    page = browser.new_page()
    yield page
    page.close()


def follow(page, rule, grads, start, constants):
    """The rows of (p, *state) that a rule takes in the browser."""
    code = f"{{{render('javascript', rule)}{Rule(rule).name}}}"
    return np.array(page.evaluate(FOLLOW, [code, grads.tolist(), list(start), constants]))


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("name", [name for name, row in rules.TABLE.items() if isinstance(row.rule, str)] + ["amsgrad"])
def test_rules_make_the_steps_of_the_equations(page, name, regime):
    row, grads = rules.TABLE[name], REGIMES[regime]
    constants = {name: x for name, x in row.hyperparams.items() if name != "t"}
    found = follow(page, row.rule, grads, (1.0, *[0.0] * row.states), constants)
    expected = rules.trajectory(row, 1.0, grads)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)  # what is written apart rounds otherwise


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("name", spec.SECTION)
def test_adam_and_yogi_are_those_of_the_oracle(page, name, regime):
    found = follow(page, name, REGIMES[regime], (1.0, 0.0, 0.0), {"lr": 0.01})
    np.testing.assert_allclose(found.T, oracle.trajectory(name, 1.0, REGIMES[regime], 0.01), rtol=1e-13, atol=1e-15)
    unmoved = follow(page, name, np.zeros(2), (1.0, 0.0, 0.0), {"lr": 0.01})
    np.testing.assert_array_equal(unmoved, [[1.0, 0.0, 0.0]] * 2)


def of_everything(p, g, v, old, t, lr=0.5, floor=-0.25, decay=(1 / 8)):
    """A sign before a power, powers of powers, a local name that is changed, a word in a word, the old parameter."""
    g = +g - -(decay**2)
    x = -(g**2) + 2 ** -((v**2) ** 1)
    x = sign(x) * abs(x) * (-lr) ** 2 - (1 - (2 - x)) / (3 / (4 / t))
    v = maximum(floor, maximum(g, -1.0)) + v * (p - old)
    return p - lr * x, v + 1e-6, p


def test_a_rule_of_everything(page):
    grads, row = REGIMES["order one"], (1.0, 0.0, 0.0)
    for t, found in enumerate(follow(page, of_everything, grads, row, {}), 1):
        row = of_everything(row[0], float(grads[t - 1]), *row[1:], t)
        np.testing.assert_allclose(found, row, rtol=1e-13)


def words(p, g, v, t, lr):
    v = maximum(v, g)
    return p - sign(g), v


def test_words_take_what_is_no_number_as_the_spec_does(page):
    for v, g in [(1.0, np.nan), (np.nan, 1.0), (1.0, 2.0), (0.0, -0.0)]:
        np.testing.assert_array_equal(follow(page, words, np.array([g]), (0.0, v), {}), [words(0.0, g, v, 1, 0.0)])
