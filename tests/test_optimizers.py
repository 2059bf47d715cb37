"""The native optimizers of all three frameworks: one rule, whoever steps it."""

import inspect
import re

import numpy as np
import oracle
import pytest
from frameworks import HALVES, RULES, Native

from d2l_adam import protocol, spec

NATIVE = ("mxnet", "pytorch", "tensorflow", "jax")
# TensorFlow's may be traced into a graph, which must not freeze its time step, and compiled by XLA.
WAYS = [("mxnet", None), ("pytorch", None), ("tensorflow", None), ("tensorflow", "function"), ("tensorflow", "xla")]
WAYS += [("jax", None), ("jax", "jit")]


def gradients(steps, shape, seed=0):
    """From 1e-6 to 1e3 in size, one in twenty exactly zero."""
    rng = np.random.default_rng(seed)
    sizes = 10 ** rng.uniform(-6, 3, size=(steps, *shape))
    return rng.normal(size=(steps, *shape)) * sizes * (rng.random((steps, *shape)) > 0.05)


@pytest.mark.parametrize(("tab", "graph"), WAYS)
@pytest.mark.parametrize("rule", RULES)
def test_a_thousand_steps_follow_the_oracle(tab, graph, rule):
    grads = gradients(1000, (6,))
    native = Native(tab, rule, [np.ones(6)], graph=graph)
    steps = []
    for g in grads:
        native.step([g])
        steps.append(native.values()[0])
    expected = oracle.trajectory(rule, np.ones(6), grads, 0.01).swapaxes(0, 1)
    np.testing.assert_allclose(np.array(steps)[:, 0], expected[:, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.array(steps)[:, 1:], expected[:, 1:], rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize(("tab", "graph"), WAYS)
def test_the_constants_are_those_given(tab, graph):
    grads = gradients(50, (3,))
    native = Native(tab, "adam", [np.ones(3)], graph=graph, lr=0.3, betas=(0.5, 0.75), eps=0.1)
    for g in grads:
        native.step([g])
    expected = oracle.trajectory("adam", np.ones(3), grads, 0.3, beta1=0.5, beta2=0.75, eps=0.1)
    np.testing.assert_allclose(native.values()[0], expected[:, -1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tab", NATIVE)
@pytest.mark.parametrize("rule", RULES)
def test_the_defaults_of_the_constants_are_the_spec_s(tab, rule):
    signature = inspect.signature(getattr(protocol.load(tab), rule.capitalize())).parameters
    constants = inspect.signature(spec.SECTION[rule]).parameters
    betas = signature["betas"].default if tab == "pytorch" else None
    eps = (signature.get("eps") or signature["epsilon"]).default
    named = [[f"beta{i}", f"beta_{i}", f"b{i}"] for i in (1, 2)]
    beta1, beta2 = betas or [next(signature[name].default for name in names if name in signature) for names in named]
    assert [beta1, beta2, eps] == [constants[name].default for name in ("beta1", "beta2", "eps")]


@pytest.mark.parametrize(("tab", "graph"), WAYS)
@pytest.mark.parametrize("rule", RULES)
def test_a_zero_gradient_moves_nothing_and_any_shape_will_do(tab, graph, rule):
    shapes = (1,), (2, 3), *([(), (0,), (2, 0, 3)] if tab != "mxnet" else [])  # Gluon cannot initialize the others
    native = Native(tab, rule, [np.ones(shape) for shape in shapes], "float32", graph=graph)
    for _ in range(2):
        native.step([np.zeros(shape) for shape in shapes])
    for p, v, s in native.values():
        assert (p == 1).all()
        assert not v.any()
        assert not s.any()


@pytest.mark.parametrize(("tab", "half"), [(tab, half) for tab, half in HALVES if tab != "numpy"])
@pytest.mark.parametrize("rule", RULES)
def test_half_precision_trains_with_averages_in_float32(tab, half, rule):
    """With an average in bfloat16, 0.999 would be 1 and nothing would move."""
    native = Native(tab, rule, [np.ones(3)], half, lr=2**-6)
    grads = np.array([[0.5, -2.0, 0.0]] * 20)
    for g in grads:
        native.step([g])
    p, v, s = native.values()[0]
    expected = oracle.trajectory(rule, np.ones(3), grads, 2**-6)[:, -1]
    np.testing.assert_allclose(p, expected[0], rtol=0, atol=20 * {"float16": 2**-11, "bfloat16": 2**-8}[half])
    assert p[2] == 1
    np.testing.assert_allclose([v, s], expected[1:], rtol=1e-5)


@pytest.mark.parametrize(("tab", "graph"), WAYS)
@pytest.mark.parametrize("rule", RULES)
def test_a_non_finite_gradient_spoils_its_own_coordinate_only(tab, graph, rule):
    native, sound = (Native(tab, rule, [np.ones(4)], graph=graph) for _ in range(2))
    native.step([[np.nan, np.inf, 0.5, 0.0]])
    sound.step([[1.0, 1.0, 0.5, 0.0]])
    p = native.values()[0][0]
    assert np.isnan(p[:2]).all()
    np.testing.assert_array_equal(p[2:], sound.values()[0][0][2:])


@pytest.mark.parametrize("tab", NATIVE)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": -0.1}, "'lr' is -0.1; the learning rate is 0 or more"),
        ({"lr": float("nan")}, "'lr' is nan; give a finite number"),
        ({"betas": (1.0, 0.999)}, r"'beta1' is 1.0; a decay rate lies in \[0, 1\)"),
        ({"betas": (0.9, -0.5)}, r"'beta2' is -0.5; a decay rate lies in \[0, 1\)"),
        ({"eps": 0.0}, "'eps' is 0.0; it is more than 0"),
    ],
)
def test_constants_out_of_range_are_refused(tab, options, words):
    with pytest.raises(ValueError, match=f"{tab}: hyperparameter {words}"):
        Native(tab, "adam", [np.ones(2)], **options)


@pytest.mark.parametrize("tab", NATIVE)
@pytest.mark.parametrize("rule", RULES)
def test_the_docstring_has_arguments_the_equation_an_example_and_the_conventions(tab, rule):
    cls = getattr(protocol.load(tab), rule.capitalize())
    eps = inspect.signature(spec.SECTION[rule]).parameters["eps"].default
    for words in (">>> ", "1 - \\beta_2", "Source: ", str(eps), "bfloat16" if tab != "mxnet" else "float16", "1e-"):
        assert words in cls.__doc__
    assert not re.search(r"\{[a-z]", cls.__doc__.partition("$$")[0])


@pytest.mark.parametrize("tab", NATIVE[:-1])
@pytest.mark.parametrize("rule", RULES)
def test_what_they_run_is_the_spec_itself(tab, rule):
    assert getattr(protocol.load(tab), rule.capitalize()).rule_step.bound.__code__ is spec.SECTION[rule].__code__


@pytest.mark.parametrize("tab", NATIVE)
def test_only_three_tabs_have_them(tab):
    assert {"Adam", "Yogi"} <= set(vars(protocol.load(tab)))
    for name in ("Adam", "Yogi"):
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
            getattr(protocol.load("numpy"), name)
