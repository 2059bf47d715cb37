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


def _of_adam(p, state, t, step, c, hat=False, corrected=True):
    """The step of Adam from new averages, the last of `state` under the root."""
    root, correction = sqrt(state[-1]), sqrt(1 - c.get("beta2", 0.999) ** t)
    below = root + c["eps"] if hat else root / correction + c["eps"]
    if not corrected:
        return p - c["lr"] * step / (root + c["eps"]), *state
    return p - c["lr"] * (step / (1 - 0.9**t)) / (below / correction if hat else below), *state


def _with(first, second, **options):
    """Adam of these two averages: each is made from the old one, the gradient and the new first."""

    def apart(p, g, state, t, c):
        v = first(state[0], g)
        s = second(state[1], g, v)
        state = (v, s, max(state[2], s)) if len(state) > 2 else (v, s)
        return _of_adam(p, state, t, v, {"eps": 1e-8} | c, **options)

    return apart


def _average(v, g):
    return g + 0.9 * (v - g)


def _of_squares(s, g, v):
    return g * g + 0.999 * (s - g * g)


def _of_yogi(s, g, v):
    return s + 0.001 * _sign(g * g - s) * g * g


def _adamw(p, g, state, t, c):
    new, *state = _with(_average, _of_squares)(p, g, state, t, c)
    return new - p * c["lr"] * c.get("weight_decay", 0.01), *state


def _nadam(p, g, state, t, c):
    v, s = _average(state[0], g), _of_squares(state[1], g, 0)
    ahead = 0.9 * v / (1 - 0.9 ** (t + 1)) * (1 - 0.9**t) + 0.1 * g
    return _of_adam(p, (v, s), t, ahead, {"eps": 1e-8} | c)


def _decayed_lion(p, g, state, t, c):
    new, v = _lion(p, g, state, t, c)
    return new - p * c["lr"] * c["weight_decay"], v


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
    "spec adamw": Row("adamw", {"lr": 0.1, "t": 1}, _adamw, 2),
    "spec amsgrad": Row("amsgrad", {"lr": 0.1, "t": 1}, _with(_average, _of_squares), 3),
    "spec adamax": Row("adamax", {"lr": 0.1, "t": 1}, _adamax, 2),
    "spec nadam": Row("nadam", {"lr": 0.1, "t": 1}, _nadam, 2),
    "spec adabelief": Row(
        "adabelief",
        {"lr": 0.1, "t": 1, "eps": 1e-8},
        _with(_average, lambda s, g, v: 0.999 * s + 0.001 * (g - v) ** 2 + 1e-8),
        2,
    ),
    "spec lion": Row("lion", {"lr": 0.01, "weight_decay": 0.5}, _decayed_lion, 1),
    "amsgrad_hat": Row("amsgrad_hat", {"lr": 0.1, "t": 1, "eps": 1e-8}, _amsgrad, 3),
    "adam_hat": Row("adam_hat", {"lr": 0.1, "t": 1, "eps": 1e-3}, _with(_average, _of_squares, hat=True), 2),
    "yogi_hat": Row("yogi_hat", {"lr": 0.1, "t": 1, "eps": 1e-3}, _with(_average, _of_yogi, hat=True), 2),
    "yogi_uncorrected": Row(
        "yogi_uncorrected", {"lr": 0.1, "t": 1, "eps": 1e-3}, _with(_average, _of_yogi, corrected=False), 2
    ),
    "amsgrad_uncorrected": Row(
        "amsgrad_uncorrected", {"lr": 0.1, "t": 1}, _with(_average, _of_squares, corrected=False), 3
    ),
    "clamped": Row(clamped, {"lr": 0.1}, _clamped, 1),
    "heavy_ball": Row(heavy_ball, {"lr": 0.1}, lambda p, g, state, t, c: (p - c["lr"] * g + (p - state[0]) / 2, p), 1),
    "last_gradient": Row(
        last_gradient, {"lr": 0.1}, lambda p, g, state, t, c: (p - c["lr"] * state[0], g, state[0]), 2
    ),
}


def trajectory(row, start, grads, initial=None):
    """Parameter and state after each step, in float64: shape (steps, 1 + states, *start.shape)."""
    elements = [(x, *(initial or [0.0] * row.states)) for x in np.ravel(start).astype(float).tolist()]
    out = []
    for t, grad in enumerate(grads, row.hyperparams.get("t", 1)):
        for i, g in enumerate(np.ravel(grad).astype(float).tolist()):
            p, *state = elements[i]
            elements[i] = row.apart(p, g, state, t, row.hyperparams)
        out.append(np.array(elements).T.reshape(-1, *np.shape(start)))
    return np.array(out)
