"""What other test suites get: functions that assert, and say what is wrong."""

import numpy as np
import pytest
from sections import IMPORTS, OPTIMIZERS, function, init

from d2l_adam import TABS, protocol
from d2l_adam.spec import sign
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
    trainer, init = made(tab.NAME, name)
    given = {"sgd_momentum": {"lr": 0.01, "momentum": 0.9}, "rmsprop": {"lr": 0.01, "gamma": 0.9}}
    assert_matches_spec(tab, trainer, name, init, given.get(name, {"rho": 0.9} if name == "adadelta" else None))


def test_the_fixture_is_each_tab(tab):
    assert tab.NAME in TABS


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
    with pytest.raises(ValueError, match="unknown rule 'adamax'; known: adam, yogi, sgd"):
        assert_matches_spec("numpy", trainer, "adamax")
    with pytest.raises(ValueError, match="sgd_momentum takes lr, momentum; give hyperparams"):
        assert_matches_spec("numpy", trainer, "sgd_momentum")
    with pytest.raises(TypeError, match=r"numpy: f takes \(x\); give a function \(params, states, hyperparams\)"):
        assert_matches_spec("numpy", lambda_named_f(), "adam")


def lambda_named_f():
    def f(x):
        pass

    return f


def lion(p, g, v, s, t, lr, beta1=0.9, beta2=0.99):
    c = beta1 * v + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g
    p = p - lr * sign(c)
    return p, v, s


def test_a_rule_of_one_s_own(tab):
    def by_hand(beta2):
        def lion(params, grads, states, hyperparams):
            for p, g, (v, _) in zip(params, grads, states, strict=True):
                p -= np.float32(hyperparams["lr"]) * np.sign(0.9 * v + (1 - 0.9) * g)
                v[:] = beta2 * v + (1 - beta2) * g

        return lion

    assert_matches_spec(tab, tab.step(lion), lion)
    assert_matches_spec("numpy", by_hand(0.99), lion)
    with pytest.raises(AssertionError, match=r"behaves as: beta2 = 0.9 instead of 0.99"):
        assert_matches_spec("numpy", by_hand(0.9), lion)
