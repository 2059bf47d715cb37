r"""The spec: Adam and Yogi, each written once, in the order of the equations.

A *rule* is a pure function of one parameter `p`, its gradient `g` and its state `(v, s)`:

    rule(p, g, v, s, t, lr, beta1, beta2, eps) -> (p, v, s)

It names no framework. Beside `+ - * / **` it uses three words, `sqrt`, `square` and `sign`. Here
they mean plain numbers, so that a rule can be tried with a pocket calculator beside it; a tab
(`d2l_adam.torch`, ...) runs the same code with its framework's words and arrays.

| name | in the paper | meaning |
|---|---|---|
| `t` | $t$ | the time step, counted from 1 |
| `lr` | $\alpha$ (d2l: $\eta$) | the learning rate |
| `v` | $m_t$ (d2l: $\mathbf{v}_t$) | moving average of the gradient, from 0 |
| `s` | $v_t$ (d2l: $\mathbf{s}_t$) | moving average of its square, from 0 |

The constants are Python floats, never arrays: `1 - beta2` and `beta2 ** t` are then computed in
double precision even for a parameter whose dtype would round 0.999 to 1.
"""

from math import sqrt


def square(x):
    """Return x squared."""
    return x * x


def sign(x):
    """Return -1, 0 or 1. The sign of NaN is 0 here, for plain numbers; a framework's may be NaN."""
    return (x > 0) - (x < 0)


def adam(p, g, v, s, t, lr, beta1=0.9, beta2=0.999, eps=1e-6):
    r"""Adam: a step along the averaged gradient, scaled by the root of its averaged square.

    $$
    \begin{aligned}
    v_t &= \beta_1 v_{t-1} + (1 - \beta_1) g_t, &
    s_t &= \beta_2 s_{t-1} + (1 - \beta_2) g_t^2, \\
    \hat v_t &= \frac{v_t}{1 - \beta_1^t}, &
    \hat s_t &= \frac{s_t}{1 - \beta_2^t}, \\
    p_t &= p_{t-1} - \frac{\eta\, \hat v_t}{\sqrt{\hat s_t} + \epsilon}. &&
    \end{aligned}
    $$

    Source: Kingma and Ba, *Adam: A Method for Stochastic Optimization*, 2014, algorithm 1.
    `eps` stands inside the fraction and outside the root; `torch.optim.Adam` does the same, the
    Adams of Keras and MXNet add `eps` to the root *before* its bias is corrected.

    The first step has length `lr * abs(g) / (abs(g) + eps)`: half of `lr` at `abs(g) == eps`.

    >>> adam(p=1.0, g=1e-6, v=0.0, s=0.0, t=1, lr=0.5)[0]
    0.75
    """
    v = beta1 * v + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * square(g)
    v_hat = v / (1 - beta1**t)
    s_hat = s / (1 - beta2**t)
    p = p - lr * v_hat / (sqrt(s_hat) + eps)
    return p, v, s


def yogi(p, g, v, s, t, lr, beta1=0.9, beta2=0.999, eps=1e-3):
    r"""Yogi: Adam whose second moment moves by no more than the new square, up or down.

    $$
    s_t = s_{t-1} + (1 - \beta_2)\, \mathrm{sign}(g_t^2 - s_{t-1})\, g_t^2,
    $$

    and all else as in `adam`. Source: Zaheer, Reddi, Sachan, Kale and Kumar, *Adaptive Methods for
    Nonconvex Optimization*, 2018, algorithm 2. The state starts at 0 as in d2l; optax and other
    implementations start it at 1e-6.

    A gradient that is NaN gives NaN, whether a framework takes the sign of NaN for NaN or for 0.

    >>> yogi(p=1.0, g=1e-3, v=0.0, s=0.0, t=1, lr=0.5)[0]
    0.75
    """
    v = beta1 * v + (1 - beta1) * g
    s = s + (1 - beta2) * sign(square(g) - s) * square(g)
    v_hat = v / (1 - beta1**t)
    s_hat = s / (1 - beta2**t)
    p = p - lr * v_hat / (sqrt(s_hat) + eps)
    return p, v, s


def conditioned(p, g, scale=None, l2=None, decay=None):
    """What the options of an optimizer make of a parameter and its gradient, before the rule sees them."""
    if scale is not None:
        g = scale * g
    if l2 is not None:
        g = g + l2 * p
    if decay is not None:
        p = p * (1 - decay)
    return p, g


RULES = {"adam": adam, "yogi": yogi}


# The other optimizers of the book's chapter, for `d2l_adam.check`, which compares them with what a section has. No tab
# publishes them, but `tab.step` takes them as any rule.


def sgd(p, g, v, s, t, lr):
    """Stochastic gradient descent."""
    p = p - lr * g
    return p, v, s


def sgd_momentum(p, g, v, s, t, lr, momentum):
    """SGD with momentum: a step along the leaky sum `v` of the gradients. Polyak, 1964."""
    v = momentum * v + g
    p = p - lr * v
    return p, v, s


def adagrad(p, g, v, s, t, lr, eps=1e-6):
    """Adagrad: scaled by the root of the sum `s` of all squares. Duchi, Hazan and Singer, 2011."""
    s = s + square(g)
    p = p - lr * g / sqrt(s + eps)
    return p, v, s


def rmsprop(p, g, v, s, t, lr, gamma, eps=1e-6):
    """RMSProp: scaled by the root of the averaged square `s`. Tieleman and Hinton, 2012."""
    s = gamma * s + (1 - gamma) * square(g)
    p = p - lr * g / sqrt(s + eps)
    return p, v, s


def adadelta(p, g, v, s, t, rho, eps=1e-5):
    """Adadelta: scaled by the averaged squares `v` of the steps and `s` of the gradients. Zeiler, 2012."""
    s = rho * s + (1 - rho) * square(g)
    d = sqrt(v + eps) / sqrt(s + eps) * g
    p = p - d
    v = rho * v + (1 - rho) * square(d)
    return p, v, s


BOOK = RULES | {"sgd": sgd, "sgd_momentum": sgd_momentum, "adagrad": adagrad, "rmsprop": rmsprop, "adadelta": adadelta}
