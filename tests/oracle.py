"""The float64 oracle: the chapter's training run, worked out number by number from the equations.

It never imports d2l_adam. A shared spec would make a shared mistake agree with itself; this is the
other side of every comparison. Equation numbers are those of Kingma and Ba (2014), algorithm 1, and
Zaheer et al. (2018), algorithm 2.
"""

from math import copysign, sqrt
from pathlib import Path

import numpy as np

EPS = {"adam": 1e-6, "yogi": 1e-3}


def second_moment(rule, s, g, beta2):
    if rule == "adam":
        return s * beta2 + g * g * (1.0 - beta2)
    gap = g * g - s
    return s if gap == 0 else s + copysign(1.0, gap) * (1.0 - beta2) * (g * g)


def step(rule, p, g, m, s, t, lr, beta1=0.9, beta2=0.999, eps=None):
    """One step for one coordinate: Python floats in, `(p, m, s)` out."""
    eps = EPS[rule] if eps is None else eps
    m = beta1 * m + (1.0 - beta1) * g
    s = second_moment(rule, s, g, beta2)
    m_hat = m / (1.0 - beta1**t)
    s_hat = s / (1.0 - beta2**t)
    return p - lr * m_hat / (sqrt(s_hat) + eps), m, s


def trajectory(rule, p, grads, lr, **constants):
    """Steps over arrays: the parameter and both moments after each of `grads`, shape (3, steps, *p.shape)."""
    shape, p = np.shape(p), np.ravel(p).astype(float).tolist()
    m, s, out = [0.0] * len(p), [0.0] * len(p), []
    for t, grad in enumerate(grads, 1):
        for i, g in enumerate(np.ravel(grad).astype(float).tolist()):
            p[i], m[i], s[i] = step(rule, p[i], g, m[i], s[i], t, lr, **constants)
        out.append([list(p), list(m), list(s)])
    return np.array(out).reshape(len(out), 3, *shape).swapaxes(0, 1)


def airfoil():
    rows = (Path(__file__).parents[1] / "data" / "airfoil_self_noise.dat").read_text().split("\n")
    table = np.array([[float(x) for x in row.split("\t")] for row in rows if row.strip()])
    table = (table - table.mean(0)) / np.sqrt(((table - table.mean(0)) ** 2).mean(0))
    return table[:1500, :5], table[:1500, 5]


def curve(rule, lr=0.01, batch_size=10, num_epochs=2, seed=0):
    """The loss curve of the parity protocol: mean half squared error at each multiple of 200 examples."""
    features, labels = airfoil()
    rng = np.random.default_rng(seed)
    parameters = [*rng.normal(0.0, 0.01, size=(5, 1))[:, 0].tolist(), 0.0]
    m, s, t, seen, losses = [0.0] * 6, [0.0] * 6, 0, 0, []
    for _ in range(num_epochs):
        order = rng.permutation(1500)
        for first in range(0, 1500, batch_size):
            batch = order[first : first + batch_size]
            t += 1
            error = features[batch] @ parameters[:5] + parameters[5] - labels[batch]
            gradient = [*(features[batch] * error[:, None]).mean(0).tolist(), float(error.mean())]
            for i in range(6):
                parameters[i], m[i], s[i] = step(rule, parameters[i], gradient[i], m[i], s[i], t, lr)
            if (seen + len(batch)) // 200 != seen // 200:
                losses.append(float(((features @ parameters[:5] + parameters[5] - labels) ** 2).mean() / 2))
            seen += len(batch)
    return losses
