"""What other test suites get: functions that assert, and say what is wrong."""

import functools
import re

import numpy as np
import pytest
from sections import IMPORTS, OPTIMIZERS, function, init

import d2l_adam.numpy
import d2l_adam.torch
from d2l_adam import TABS, protocol
from d2l_adam.spec import adam, maximum, sign, sqrt, square
from d2l_adam.testing import assert_matches_spec, assert_tabs_agree


def made(of_tab, name, change=lambda text: text):
    """The function of a section, and the one that makes its states."""
    names = {}
    if of_tab != "numpy":
        _ = protocol.load(of_tab).d2l  # whatever d2l.torch misses is lent to it
    exec(IMPORTS[of_tab].replace("%matplotlib inline\n", ""), names)
    exec(init(of_tab, name) + "\n" + function(of_tab, name, change), names)
    return names[name], next((x for key, x in names.items() if key.startswith("init_")), None)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_tab_matches_the_spec(tab, name):
    trainer, init = made(tab.TAB.name, name)
    given = {"sgd_momentum": {"lr": 0.01, "momentum": 0.9}, "rmsprop": {"lr": 0.01, "gamma": 0.9}}
    assert_matches_spec(tab, trainer, name, init, given.get(name, {"rho": 0.9} if name == "adadelta" else None))


def test_the_fixture_is_each_tab(tab):
    assert tab.TAB.name in TABS


def test_tabs_agree_or_it_is_said_which_does_not():
    trainers = {tab: made(tab, "adam")[0] for tab in ("numpy", "pytorch", "mxnet")}
    inits = {tab: made(tab, "adam")[1] for tab in trainers}
    assert_tabs_agree(trainers, inits)
    assert_tabs_agree(trainers)
    trainers["pytorch"], _ = made("pytorch", "adam", lambda text: text.replace("1e-6", "1e-5"))
    with pytest.raises(AssertionError) as raised:
        assert_tabs_agree(trainers, inits)
    said = str(raised.value).splitlines()
    assert said[0].startswith("pytorch  differs from numpy, mxnet and the spec from step 1 (max ")
    assert said[1] == "            behaves as: eps = 1e-05 instead of 1e-06"
    with pytest.raises(ValueError, match="there is nothing to compare numpy with; give two tabs or more"):
        assert_tabs_agree({"numpy": trainers["numpy"]})


def test_a_function_is_held_to_a_rule():
    trainer, _ = made("numpy", "yogi", lambda text: text.replace("1e-3", "1e-6"))
    with pytest.raises(
        AssertionError, match=r"numpy  differs from yogi of the spec from step 1 \(max .*\n.*eps = 1e-06"
    ):
        assert_matches_spec("numpy", trainer, "yogi")
    with pytest.raises(ValueError, match="unknown rule 'adamix'; known: adam, yogi, sgd"):
        assert_matches_spec("numpy", trainer, "adamix")
    with pytest.raises(ValueError, match="sgd_momentum takes lr, momentum; give hyperparams"):
        assert_matches_spec("numpy", trainer, "sgd_momentum")
    with pytest.raises(TypeError, match=r"numpy: f takes \(x\); give a function \(params, states, hyperparams\)"):
        assert_matches_spec("numpy", lambda_named_f(), "adam")


def with_eps(params, grads, states, hyperparams, eps):
    d2l_adam.numpy.adam(params, grads, states, given := hyperparams | {"eps": eps})
    hyperparams["t"] = given["t"]


class WithEps:
    def __init__(self, eps):
        self.eps = eps

    def __call__(self, params, grads, states, hyperparams, /):
        with_eps(params, grads, states, hyperparams, self.eps)


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


CALLED = {
    "partial": lambda eps: functools.partial(functools.partial(with_eps), eps=eps),
    "object": WithEps,
    "method": lambda eps: WithEps(eps).__call__,
    "wrapped": lambda eps: wrapped(WithEps(eps).__call__),
    "lambda": lambda eps: lambda p, g, s, h: with_eps(p, g, s, h, eps),
}


@pytest.mark.parametrize("how", CALLED)
def test_whatever_can_be_called_is_held(how):
    right, wrong = CALLED[how](1e-6), CALLED[how](1.7e-6)
    behaves = "behaves as: eps = 1.7e-06 instead of 1e-06"
    assert_matches_spec("numpy", right, "adam")
    assert_tabs_agree({"numpy": right, "pytorch": d2l_adam.torch.adam})
    with pytest.raises(AssertionError, match=behaves):
        assert_matches_spec("numpy", wrong, "adam")
    with pytest.raises(AssertionError, match=rf"numpy  differs from pytorch and the spec [\s\S]*{behaves}"):
        assert_tabs_agree({"numpy": wrong, "pytorch": d2l_adam.torch.adam})


REFUSED = {
    "a class": (WithEps, "WithEps takes (eps); give"),
    "a decorator's own arguments": (lambda *args: with_eps(*args), "<lambda> takes (*args); give"),
    "a partial of too much": (functools.partial(with_eps, None, None, None), "with_eps takes (hyperparams, eps); give"),
    "a number": (3, "int takes (); give"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_cannot_be_driven_is_refused_by_name(how):
    trainer, words = REFUSED[how]
    with pytest.raises(TypeError, match=re.escape(words)):
        assert_matches_spec("numpy", trainer, "adam")
    with pytest.raises(TypeError, match=re.escape(words)):
        assert_tabs_agree({"numpy": trainer, "pytorch": trainer})


def lambda_named_f():
    def f(x):
        pass

    return f


def signed(p, g, t, lr):
    p = p - lr * sign(g)
    return p


def lion(p, g, v, t, lr, beta1=0.9, beta2=0.99):
    p = p - lr * sign(beta1 * v + (1 - beta1) * g)
    v = beta2 * v + (1 - beta2) * g
    return p, v


def amsgrad(p, g, v, s, top, t, lr, beta1=0.9, beta2=0.999, eps=1e-6):
    v = beta1 * v + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * square(g)
    top = maximum(top, s)
    p = p - lr * v / (sqrt(top) + abs(eps))
    return p, v, s, top


BY_HAND = """
def signed(params, grads, states, hyperparams):
    for p, g, state in zip(params, grads, states, strict=True):
        assert state is None
        p -= hyperparams["lr"] * np.sign(g)

def lion(params, grads, states, hyperparams):
    for p, g, v in zip(params, grads, states, strict=True):
        p -= hyperparams["lr"] * np.sign(0.9 * v + (1 - 0.9) * g)
        v[:] = 0.99 * v + (1 - 0.99) * g

def amsgrad(params, grads, states, hyperparams):
    for p, g, (v, s, top) in zip(params, grads, states, strict=True):
        v[:] = 0.9 * v + (1 - 0.9) * g
        s[:] = 0.999 * s + (1 - 0.999) * g * g
        top[:] = np.maximum(top, s)
        p -= hyperparams["lr"] * v / (np.sqrt(top) + 1e-6)
"""
# By rule: what is changed in that, and what it behaves as then.
OF_ANY_STATE = [
    (signed, "-=", "+=", "the sign flipped in p - lr * sign(g), in p"),
    (lion, "0.99", "0.85", "beta2 = 0.85 instead of 0.99"),
    (amsgrad, "top[:]", "top", "top not stored"),
    (amsgrad, "maximum(top, s)", "maximum(top, g)", "g for s in top"),
    (amsgrad, "1e-6)", "1e-6); s[:], top[:] = top, 1 * s", "s and top stored in each other's place"),
]


@pytest.mark.parametrize(("rule", "old", "new", "behaves"), OF_ANY_STATE)
def test_a_rule_of_one_s_own_has_any_state(rule, old, new, behaves):
    right, wrong = {"np": np}, {"np": np}
    exec(BY_HAND, right)
    exec(BY_HAND.replace(old, new), wrong)
    right, wrong = right[rule.__name__], wrong[rule.__name__]

    def in_torch(params, states, hyperparams):
        grads = [p.grad.numpy() for p in params]
        arrays = [[y.numpy() for y in x] if isinstance(x, tuple) else x if x is None else x.numpy() for x in states]
        right([p.detach().numpy() for p in params], grads, arrays, hyperparams)
        for p in params:
            p.grad.zero_()

    assert_matches_spec("numpy", right, rule)
    assert_tabs_agree({"numpy": right, "pytorch": in_torch}, rule=rule)
    behaves = re.escape(behaves)
    with pytest.raises(AssertionError, match=rf"differs from {rule.__name__} of .*\n.*behaves as: {behaves}"):
        assert_matches_spec("numpy", wrong, rule)
    with pytest.raises(AssertionError, match=rf"numpy  differs from pytorch and the spec .*\n.*as: {behaves}"):
        assert_tabs_agree({"numpy": wrong, "pytorch": in_torch}, rule=rule)


def test_a_rule_of_one_s_own_in_every_tab(tab):
    assert_matches_spec(tab, tab.step(pair), pair)


def pair(p, g, v, s, t, lr, beta1=0.9, beta2=0.99):
    v = beta2 * v + (1 - beta2) * g
    p = p - lr * sign(beta1 * v + (1 - beta1) * g)
    return p, v, s


def test_without_init_the_states_are_those_of_the_rule_of_that_name():
    def adagrad(params, grads, states, hyperparams):
        for p, g, s in zip(params, grads, states, strict=True):
            s += g * g
            p -= np.float32(hyperparams["lr"]) * g / np.sqrt(s + np.float32(1e-6))

    assert_matches_spec("numpy", adagrad, "adagrad")
    with pytest.raises(ValueError, match="takes lr, momentum; give hyperparams"):
        assert_matches_spec("numpy", adagrad, "sgd_momentum")


RATE = 0.1


def free(p, g, v, s, t, lr):
    p = p - RATE * g
    return p, v, s


def in_place(p, g, v, s, t, lr):
    p -= lr * g
    return p, v, s


def two(p, g, v, s, t, lr):
    return p - lr * g, v


def other_names(w, g, v, s, t, lr):
    w = w - lr * g
    return w, v, s


def modulo(p, g, t, lr):
    p = p - lr * g % 2
    return p


def named(p, g, t, lr, *, decay=RATE):
    p = p - lr * g - lr * decay * p
    return p


RULES = {
    "a partial": (functools.partial(adam), "the rule is functools.partial; give a Python function"),
    "wrapped": (wrapped(adam), "the rule adam is wrapped by a decorator"),
    "a lambda": (lambda p, g, v, s, t, lr: (p - lr * g, v, s), "the rule <lambda> is not made by def"),
    "a free name": (free, "the rule free uses RATE"),
    "in place": (in_place, "the rule in_place has 'p -= lr * g'"),
    "two": (two, "the rule two ends with 'return (p - lr * g, v)'"),
    "other names": (other_names, "the rule other_names takes (w, g, v, s, t, lr)"),
    "another operation": (modulo, "the rule modulo uses lr * g % 2; write it with + - * / **"),
    "named only": (named, "the rule named takes (p, g, t, lr, decay); its signature is to be"),
}


@pytest.mark.parametrize("how", RULES)
def test_a_rule_that_cannot_be_followed_is_refused(how):
    rule, words = RULES[how]
    with pytest.raises(TypeError, match=re.escape(words)):
        assert_matches_spec("numpy", d2l_adam.numpy.adam, rule)


def test_the_words_of_a_wrapped_rule_cannot_be_replaced(tab):
    with pytest.raises(TypeError, match="the rule adam is wrapped by a decorator; give the function itself"):
        tab.step(wrapped(adam))
