"""One table of rules: what each takes, and its steps written apart, number by number. A new rule is one row.

The rules of the user's own are here as functions; those of the spec go by their name.
"""

from math import copysign, sqrt
from typing import NamedTuple

import numpy as np


def lion(p, g, v, t, lr, beta1=0.9, beta2=0.99):
    p = p - lr * sign(beta1 * v + (1 - beta1) * g)  # noqa: F821  words are the tab's
    v = beta2 * v + (1 - beta2) * g
    return p, v


def amsgrad(p, g, v, s, x, t, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    v = beta1 * v + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * square(g)  # noqa: F821
    x = maximum(x, s)  # noqa: F821
    p = p - lr * sqrt(1 - beta2**t) / (1 - beta1**t) * v / (sqrt(x) + eps)
    return p, v, s, x


def adamax(p, g, v, u, t, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    v = beta1 * v + (1 - beta1) * g
    u = maximum(beta2 * u, abs(g) + eps)  # noqa: F821
    p = p - lr / (1 - beta1**t) * v / u
    return p, v, u


def clamped(p, g, s, t, lr=0.1, floor=0.25):
    """A word of a number and an array, both ways round, and of two numbers."""
    s = maximum(0.5 * s + abs(g), floor)  # noqa: F821
    p = p - maximum(lr, 2 * lr) * g / maximum(floor, s)  # noqa: F821
    return p, s


def heavy_ball(p, g, s, t, lr, beta=0.5):
    """It keeps the last parameter as a state: an old value, handed on."""
    return p - lr * g + beta * (p - s), p


def last_gradient(p, g, v, s, t, lr):
    return p - lr * v, g, v


def _sign(x):
    return copysign(1.0, x) if x else 0.0


# The same apart: (p, g, state, t, constants) of one element, as plain numbers -> (p, *state)


def _adam(p, g, state, t, c, eps=1e-6, yogi=False):
    m, s = state
    m += (1 - c.get("beta1", 0.9)) * (g - m)
    b2 = c.get("beta2", 0.999)
    s = s + (1 - b2) * _sign(g * g - s) * g * g if yogi else b2 * s + g * g - b2 * g * g
    return p - c["lr"] * (m / (1 - c.get("beta1", 0.9) ** t)) / (sqrt(s / (1 - b2**t)) + c.get("eps", eps)), m, s


def _momentum(p, g, state, t, c):
    v = g + c["momentum"] * state[0]
    return p - v * c["lr"], v


def _adagrad(p, g, state, t, c):
    s = g**2 + state[0]
    return p - c["lr"] / sqrt(1e-6 + s) * g, s


def _rmsprop(p, g, state, t, c):
    s = g**2 + c["gamma"] * (state[0] - g**2)
    return p - c["lr"] / sqrt(1e-6 + s) * g, s


def _adadelta(p, g, state, t, c):
    s, delta = state
    s = g**2 + c["rho"] * (s - g**2)
    d = g * sqrt((1e-5 + delta) / (1e-5 + s))
    return p - d, s, d**2 + c["rho"] * (delta - d**2)


def _lion(p, g, state, t, c):
    (v,) = state
    return p - c["lr"] * _sign(0.9 * v + 0.1 * g), g + 0.99 * (v - g)


def _amsgrad(p, g, state, t, c):
    v, s, x = state
    v, s = g + 0.9 * (v - g), g * g + 0.999 * (s - g * g)
    x = x if x > s else s
    return p - c["lr"] * (v / (1 - 0.9**t)) / ((sqrt(x) + 1e-8) / sqrt(1 - 0.999**t)), v, s, x


def _adamax(p, g, state, t, c):
    v, u = g + 0.9 * (state[0] - g), max(0.999 * state[1], abs(g) + 1e-8)
    return p - c["lr"] * v / u / (1 - 0.9**t), v, u


def _clamped(p, g, state, t, c):
    s = max(0.5 * state[0] + abs(g), 0.25)
    return p - 2 * c["lr"] * g / s, s


class Row(NamedTuple):
    """A rule, what it is given in a test, and its steps written apart; `native` if it can be an optimizer."""

    rule: object
    hyperparams: dict
    apart: object
    states: int

    @property
    def native(self):
        return "lr" in self.hyperparams


TABLE = {
    "adam": Row("adam", {"lr": 0.1, "t": 1}, _adam, 2),
    "adam, constants": Row("adam", {"lr": 0.1, "t": 1, "beta1": 0.5, "beta2": 0.75, "eps": 0.1}, _adam, 2),
    "yogi": Row("yogi", {"lr": 0.1, "t": 1}, lambda *args: _adam(*args, eps=1e-3, yogi=True), 2),
    "sgd": Row("sgd", {"lr": 0.1}, lambda p, g, state, t, c: (p - g * c["lr"],), 0),
    "sgd_momentum": Row("sgd_momentum", {"lr": 0.02, "momentum": 0.5}, _momentum, 1),
    "adagrad": Row("adagrad", {"lr": 0.1}, _adagrad, 1),
    "rmsprop": Row("rmsprop", {"lr": 0.01, "gamma": 0.9}, _rmsprop, 1),
    "adadelta": Row("adadelta", {"rho": 0.9}, _adadelta, 2),
    "lion": Row(lion, {"lr": 0.01}, _lion, 1),
    "amsgrad": Row(amsgrad, {"lr": 0.1, "t": 1}, _amsgrad, 3),
    "adamax": Row(adamax, {"lr": 0.1, "t": 1}, _adamax, 2),
    "clamped": Row(clamped, {"lr": 0.1}, _clamped, 1),
    "heavy_ball": Row(heavy_ball, {"lr": 0.1}, lambda p, g, state, t, c: (p - c["lr"] * g + (p - state[0]) / 2, p), 1),
    "last_gradient": Row(
        last_gradient, {"lr": 0.1}, lambda p, g, state, t, c: (p - c["lr"] * state[0], g, state[0]), 2
    ),
}


def trajectory(row, start, grads):
    """Parameter and state after each step, in float64: shape (steps, 1 + states, *start.shape)."""
    elements = [(x, *[0.0] * row.states) for x in np.ravel(start).astype(float).tolist()]
    out = []
    for t, grad in enumerate(grads, row.hyperparams.get("t", 1)):
        for i, g in enumerate(np.ravel(grad).astype(float).tolist()):
            p, *state = elements[i]
            elements[i] = row.apart(p, g, state, t, row.hyperparams)
        out.append(np.array(elements).T.reshape(-1, *np.shape(start)))
    return np.array(out)
