"""What a step costs at the chapter's size, beside the same step written by hand in d2l's manner.

Run by `make bench`; the tests do not collect it. Read the ratio within each group, not the times.
"""

import numpy as np
import pytest
import tensorflow as tf
import torch
from frameworks import Problem

from d2l_adam.mxnet import mxnet

BETA1, BETA2, EPS = 0.9, 0.999, {"adam": 1e-6, "yogi": 1e-3}


def by_hand_mxnet(rule):
    np, eps = mxnet.np, EPS[rule]

    def step(params, states, hyperparams):
        for p, (v, s) in zip(params, states, strict=True):
            g, t = p.grad, hyperparams["t"]
            v[:] = BETA1 * v + (1 - BETA1) * g
            if rule == "adam":
                s[:] = BETA2 * s + (1 - BETA2) * np.square(g)
            else:
                s[:] = s + (1 - BETA2) * np.sign(np.square(g) - s) * np.square(g)
            p[:] -= hyperparams["lr"] * (v / (1 - BETA1**t)) / (np.sqrt(s / (1 - BETA2**t)) + eps)
        hyperparams["t"] += 1

    return step


def by_hand_pytorch(rule):
    eps = EPS[rule]

    def step(params, states, hyperparams):
        for p, (v, s) in zip(params, states, strict=True):
            g, t = p.grad, hyperparams["t"]
            with torch.no_grad():
                v[:] = BETA1 * v + (1 - BETA1) * g
                if rule == "adam":
                    s[:] = BETA2 * s + (1 - BETA2) * torch.square(g)
                else:
                    s[:] = s + (1 - BETA2) * torch.sign(torch.square(g) - s) * torch.square(g)
                p[:] -= hyperparams["lr"] * (v / (1 - BETA1**t)) / (torch.sqrt(s / (1 - BETA2**t)) + eps)
            g.data.zero_()
        hyperparams["t"] += 1

    return step


def by_hand_tensorflow(rule):
    eps = EPS[rule]

    def step(params, grads, states, hyperparams):
        for p, g, (v, s) in zip(params, grads, states, strict=True):
            t = hyperparams["t"]
            v[:].assign(BETA1 * v + (1 - BETA1) * g)
            if rule == "adam":
                s[:].assign(BETA2 * s + (1 - BETA2) * tf.square(g))
            else:
                s[:].assign(s + (1 - BETA2) * tf.sign(tf.square(g) - s) * tf.square(g))
            p[:].assign(p - hyperparams["lr"] * (v / (1 - BETA1**t)) / (tf.sqrt(s / (1 - BETA2**t)) + eps))
        hyperparams["t"] += 1

    return step


BY_HAND = {"mxnet": by_hand_mxnet, "pytorch": by_hand_pytorch, "tensorflow": by_hand_tensorflow}


@pytest.mark.parametrize("rule", EPS)
@pytest.mark.parametrize("tab", BY_HAND)
@pytest.mark.parametrize("written", ["by hand", "from the spec"])
def test_step(benchmark, tab, rule, written):
    benchmark.group = f"{tab}, {rule}"
    rng = np.random.default_rng(0)
    problem, twin = (Problem(tab, [np.zeros((5, 1)), np.zeros(1)], "float32") for _ in range(2))
    # The same work on both sides, or there is nothing to compare.
    steps = {"by hand": BY_HAND[tab](rule), "from the spec": getattr(problem.module, rule)}
    for this, step in zip((problem, twin), steps.values(), strict=True):
        this.set_grads([np.full((5, 1), 0.5), np.array([-2.0])])
        this.step = step
        grads = () if tab in ("mxnet", "pytorch") else (this.grads,)
        step(this.params, *grads, this.states, this.hyperparams)
    for ours, theirs in zip(problem.values(), twin.values(), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    problem.set_grads([rng.normal(size=(5, 1)), rng.normal(size=1)])
    arguments = (problem.params, *grads, problem.states, problem.hyperparams)
    step = steps[written]

    def timed():
        step(*arguments)
        if tab == "mxnet":
            mxnet.nd.waitall()

    benchmark(timed)
