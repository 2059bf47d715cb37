"""Ctrl-C at any moment: a step is made as a whole, its time step included, or not at all."""

import signal
import sys
import threading
import time

import numpy as np
import pytest
from frameworks import NATIVE, TABS, Native, Problem
from rules import amsgrad

import d2l_adam
from d2l_adam import interrupt, protocol


@pytest.fixture(autouse=True)
def _as_it_was():
    """A process that a shell has started in the background ignores interrupts: not this one."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)
    d2l_adam.set_fused(None)


def interrupted(step, check, times=100):
    """Interrupt `step`, made again and again, so many times at random moments; `check()` after each."""
    rng, caught = np.random.default_rng(0), 0
    step()
    # What interrupts a finalizer is reported there by Python, and lost: it is not counted.
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    handler = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        while caught < times:
            until = time.monotonic() + 1
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 3e-3))
                while time.monotonic() < until:
                    step()
            except KeyboardInterrupt:
                caught += 1
            check()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        sys.unraisablehook = hook


BETA2 = 0.99999


def steps_of(s):
    """How often an average of squares was stepped, at gradients of 1: s = 1 - BETA2**t."""
    return np.log1p(-np.asarray(s, "float64")) / np.log(BETA2)


def modes(tab):
    """What a step puts on for as long as it lasts."""
    if tab == "pytorch":
        torch = protocol.load(tab).torch
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    return np.geterr()


@pytest.mark.parametrize("size", [3, 600_000])
@pytest.mark.parametrize("choice", [None, False])
@pytest.mark.parametrize("tab", TABS)
def test_a_function_and_its_time_step_stay_together(tab, choice, size):
    if size > 3 and (choice is False or tab in ("tensorflow", "jax")):
        pytest.skip("what is divided among threads is the fused pass")
    d2l_adam.set_fused(choice)
    problem = Problem(tab, [np.zeros(size), np.zeros(2)], lr=1e-3)
    problem.hyperparams["beta2"] = BETA2
    problem.states = problem.module.init_states(amsgrad, problem.params)
    problem.set_grads([np.ones(size), np.ones(2)])
    compiled, asnumpy = problem.module.step(amsgrad), problem.module.TAB.asnumpy
    grads = () if tab in ("mxnet", "pytorch") else (problem.grads,)

    def step():
        if tab == "pytorch":
            for p in problem.params:
                p.grad.fill_(1)
        compiled(problem.params, *grads, problem.states, problem.hyperparams)

    def check():
        assert modes(tab) == before
        for p, state in zip(problem.params, problem.states, strict=True):
            values = [asnumpy(x) for x in (p, *state)]
            assert all(np.ptp(x) == 0 for x in values)
            for x in values[2:]:
                np.testing.assert_allclose(steps_of(x[0]), problem.hyperparams["t"] - 1, rtol=0, atol=1e-3)

    before = modes(tab)
    interrupted(step, check, 100 if size == 3 else 30)


@pytest.mark.parametrize("tab", [tab for tab in NATIVE if tab != "jax"])  # whose optimizers change nothing
def test_a_native_optimizer_and_its_clock_stay_together(tab):
    native = Native(tab, "adam", [np.zeros(3), np.zeros(2)], lr=1e-3, betas=(0.9, BETA2))
    if tab == "tensorflow":
        grads = [native.module.tf.ones(n, "float64") for n in (3, 2)]

        def make():
            native.optimizer.apply(grads, native.params)
    else:
        native.step([np.ones(3), np.ones(2)])
        make = native.optimizer.step if tab == "pytorch" else None
    if tab == "mxnet":
        updater, index = native.trainer._updaters[0], [0, 1]
        weights, grads = [p.data() for p in native.params], [p.grad() for p in native.params]

        def make():
            updater(index, grads, weights)

    def check():
        assert modes(tab) == before
        if tab == "pytorch":
            clocks = [native.optimizer.state[p]["step"].item() for p in native.params]
        elif tab == "tensorflow":
            clocks = [int(native.optimizer.iterations.numpy())] * 2
        else:
            clocks = [native.optimizer._index_update_count[i] for i in index]
        for clock, (p, v, s) in zip(clocks, native.values(), strict=True):
            assert np.ptp(p) == np.ptp(v) == np.ptp(s) == 0
            np.testing.assert_allclose(steps_of(s[0]), clock, rtol=0, atol=1e-3)

    before = modes(tab)
    interrupted(make, check)


def test_what_an_interrupt_has_cut_off_is_done_again_and_the_interrupt_let_through():
    done = []

    def work():
        done.append(len(done))
        if len(done) < 3:
            raise KeyboardInterrupt(len(done))

    with pytest.raises(KeyboardInterrupt, match="2"):
        interrupt.finish(work)
    assert done == [0, 1, 2]


def test_an_interrupt_is_kept_back_and_the_handler_is_as_it_was():
    seen = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupt.deferred():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        seen.append("after it")
    assert seen == ["after it"]
    assert signal.getsignal(signal.SIGINT) is before
    thread = threading.Thread(target=lambda: seen.append(interrupt.deferred().__enter__()))
    thread.start()
    thread.join()
    assert seen == ["after it", None]
