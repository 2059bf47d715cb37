"""What a step costs at the chapter's size, beside the same step written by hand in d2l's manner.

Run by `make bench`; the tests do not collect it. Read the ratios, not the times.
"""

import statistics
import time

import numpy as np
import tensorflow as tf
import torch
from frameworks import Problem
from rich.console import Console
from rich.table import Table

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


def compare(tab, rule, rounds):
    """The seconds of each step from the spec and of each by hand, call by call in turn, as noise comes in bursts."""
    problem, twin = (Problem(tab, [np.zeros((5, 1)), np.zeros(1)], "float32") for _ in range(2))
    calls = []
    for this, step in ((problem, getattr(problem.module, rule)), (twin, BY_HAND[tab](rule))):
        this.set_grads([np.full((5, 1), 0.5), np.array([-2.0])])
        grads = () if tab in ("mxnet", "pytorch") else (this.grads,)
        calls.append((step, (this.params, *grads, this.states, this.hyperparams)))
    seconds: tuple[list, list] = ([], [])
    for _ in range(rounds):
        for (step, arguments), taken in zip(calls, seconds, strict=True):
            began = time.perf_counter()
            step(*arguments)
            if tab == "mxnet":
                mxnet.nd.waitall()
            taken.append(time.perf_counter() - began)
    for ours, theirs in zip(problem.values(), twin.values(), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)  # the same work, or there is nothing to compare
    return seconds


if __name__ == "__main__":
    table = Table("tab", "rule", "from the spec", "by hand", "ratio", title="A step at the chapter's size, median")
    for tab in BY_HAND:
        for rule in EPS:
            spec, hand = map(statistics.median, compare(tab, rule, 5000 if tab == "pytorch" else 600))
            table.add_row(tab, rule, f"{spec * 1e6:.0f} us", f"{hand * 1e6:.0f} us", f"{spec / hand:.2f}")
    Console().print(table)
