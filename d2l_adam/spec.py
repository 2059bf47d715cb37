r"""The spec: Adam, Yogi, the other optimizers of the book and their family, each written once, as the equations go.

A *rule* is a pure function of one parameter `p`, its gradient `g` and its state:

    rule(p, g, *state, t, *constants) -> (p, *state)

Its signature declares everything: the names between `g` and `t` are the state arrays, those after `t` the
constants. It names no framework. Beside `+ - * / **` and `abs` it uses the words `sqrt`, `square`, `sign` and
`maximum`. Here they mean plain numbers, so that a rule can be tried with a pocket calculator beside it; a tab
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


def maximum(x, y):
    """Return the larger of two numbers; NaN if one of them is."""
    return x if x >= y or x != x else y


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
    r"""Yogi: Adam whose second moment moves by the new square times `1 - beta2`, up or down.

    $$
    s_t = s_{t-1} + (1 - \beta_2)\, \mathrm{sign}(g_t^2 - s_{t-1})\, g_t^2,
    $$

    and all else as in `adam`. Source: Zaheer, Reddi, Sachan, Kale and Kumar, *Adaptive Methods for
    Nonconvex Optimization*, 2018, algorithm 2, which has no bias correction: d2l adds it, and so does
    this rule. The state starts at 0 as in d2l; optax and other implementations start it at 1e-6.

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


def sgd(p, g, t, lr):
    r"""Stochastic gradient descent.

    $$p_t = p_{t-1} - \eta\, g_t.$$

    Source: Robbins and Monro, *A Stochastic Approximation Method*, 1951.

    >>> sgd(p=1.0, g=2.0, t=1, lr=0.25)
    0.5
    """
    p = p - lr * g
    return p


def sgd_momentum(p, g, v, t, lr, momentum):
    r"""SGD with momentum: a step along the leaky sum of the gradients.

    $$v_t = \beta v_{t-1} + g_t, \qquad p_t = p_{t-1} - \eta\, v_t.$$

    Source: Polyak, *Some Methods of Speeding up the Convergence of Iteration Methods*, 1964.

    >>> sgd_momentum(p=1.0, g=1.0, v=1.0, t=2, lr=0.5, momentum=0.5)
    (0.25, 1.5)
    """
    v = momentum * v + g
    p = p - lr * v
    return p, v


def adagrad(p, g, s, t, lr, eps=1e-6):
    r"""Adagrad: a step scaled by the root of the sum of all squares.

    $$s_t = s_{t-1} + g_t^2, \qquad p_t = p_{t-1} - \frac{\eta}{\sqrt{s_t + \epsilon}}\, g_t.$$

    Source: Duchi, Hazan and Singer, *Adaptive Subgradient Methods*, 2011; `eps` inside the root as in d2l.

    >>> adagrad(p=1.0, g=3.0, s=15.0, t=2, lr=1.0, eps=1.0)
    (0.4, 24.0)
    """
    s = s + square(g)
    p = p - lr * g / sqrt(s + eps)
    return p, s


def rmsprop(p, g, s, t, lr, gamma, eps=1e-6):
    r"""RMSProp: a step scaled by the root of the averaged square.

    $$s_t = \gamma s_{t-1} + (1 - \gamma) g_t^2, \qquad p_t = p_{t-1} - \frac{\eta}{\sqrt{s_t + \epsilon}}\, g_t.$$

    Source: Tieleman and Hinton, *Lecture 6.5: RMSProp*, 2012; `eps` inside the root as in d2l.

    >>> rmsprop(p=1.0, g=2.0, s=0.0, t=1, lr=1.0, gamma=0.5, eps=2.0)
    (0.0, 2.0)
    """
    s = gamma * s + (1 - gamma) * square(g)
    p = p - lr * g / sqrt(s + eps)
    return p, s


def adadelta(p, g, s, delta, t, rho, eps=1e-5):
    r"""Adadelta: no learning rate; the averaged squares of the steps scale the gradient, too.

    $$
    s_t = \rho s_{t-1} + (1 - \rho) g_t^2, \qquad
    d_t = \frac{\sqrt{\Delta_{t-1} + \epsilon}}{\sqrt{s_t + \epsilon}}\, g_t, \qquad
    p_t = p_{t-1} - d_t, \qquad
    \Delta_t = \rho \Delta_{t-1} + (1 - \rho) d_t^2.
    $$

    Source: Zeiler, *ADADELTA: An Adaptive Learning Rate Method*, 2012.

    >>> adadelta(p=1.0, g=2.0, s=0.0, delta=0.0, t=1, rho=0.5, eps=2.0)[:2]
    (-0.41421356237309515, 2.0)
    """
    s = rho * s + (1 - rho) * square(g)
    d = sqrt(delta + eps) / sqrt(s + eps) * g
    p = p - d
    delta = rho * delta + (1 - rho) * square(d)
    return p, s, delta


def adamw(p, g, v, s, t, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
    r"""AdamW: Adam, and beside its step the parameter shrinks by `lr * weight_decay`.

    $$p_t = p_{t-1} - \eta \left(\frac{\hat v_t}{\sqrt{\hat s_t} + \epsilon} + \lambda p_{t-1}\right),$$

    and all else as in `adam`. Source: Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2017; the
    defaults are those of `torch.optim.AdamW`.

    >>> adamw(p=2.0, g=0.0, v=0.0, s=0.0, t=1, lr=0.5, weight_decay=0.25)[0]
    1.75
    """
    v = beta1 * v + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * square(g)
    v_hat = v / (1 - beta1**t)
    s_hat = s / (1 - beta2**t)
    p = p - lr * (v_hat / (sqrt(s_hat) + eps) + weight_decay * p)
    return p, v, s


def amsgrad(p, g, v, s, x, t, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    r"""AMSGrad: Adam whose second moment, before its bias is corrected, is the largest so far.

    $$x_t = \max(x_{t-1}, s_t), \qquad p_t = p_{t-1} - \frac{\eta\, \hat v_t}{\sqrt{\hat x_t} + \epsilon},$$

    and all else as in `adam`. Source: Reddi, Kale and Kumar, *On the Convergence of Adam and Beyond*, 2018, which
    corrects no bias; this is as `torch.optim.Adam` has it.

    >>> amsgrad(p=1.0, g=0.0, v=0.0, s=0.25, x=4.0, t=1, lr=0.5, beta2=0.5)[1:]
    (0.0, 0.125, 4.0)
    """
    v = beta1 * v + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * square(g)
    x = maximum(x, s)
    v_hat = v / (1 - beta1**t)
    x_hat = x / (1 - beta2**t)
    p = p - lr * v_hat / (sqrt(x_hat) + eps)
    return p, v, s, x


def adamax(p, g, v, u, t, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    r"""Adamax: Adam with the largest gradient, which decays, for the root of the second moment.

    $$u_t = \max(\beta_2 u_{t-1}, |g_t| + \epsilon), \qquad p_t = p_{t-1} - \eta\, \frac{\hat v_t}{u_t}.$$

    Source: Kingma and Ba, *Adam: A Method for Stochastic Optimization*, 2014, algorithm 2, which has no `eps`; PyTorch
    has it here.

    >>> adamax(p=1.0, g=4.0, v=0.0, u=1.0, t=1, lr=0.5, eps=1.0)[2]
    5.0
    """
    v = beta1 * v + (1 - beta1) * g
    u = maximum(beta2 * u, abs(g) + eps)
    p = p - lr / (1 - beta1**t) * v / u
    return p, v, u


def nadam(p, g, v, s, t, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    r"""NAdam: Adam with Nesterov's momentum, which is constant here.

    $$
    \bar v_t = \frac{\beta_1 v_t}{1 - \beta_1^{t+1}} + \frac{(1 - \beta_1)\, g_t}{1 - \beta_1^t}, \qquad
    p_t = p_{t-1} - \frac{\eta\, \bar v_t}{\sqrt{\hat s_t} + \epsilon}.
    $$

    Source: Dozat, *Incorporating Nesterov Momentum into Adam*, 2016.

    >>> nadam(p=1.0, g=1.0, v=0.0, s=0.0, t=1, lr=0.75, beta1=0.5, eps=1.0)[0]
    0.5
    """
    v = beta1 * v + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * square(g)
    v_bar = beta1 * v / (1 - beta1 ** (t + 1))
    v_bar = v_bar + (1 - beta1) * g / (1 - beta1**t)
    s_hat = s / (1 - beta2**t)
    p = p - lr * v_bar / (sqrt(s_hat) + eps)
    return p, v, s


def adabelief(p, g, v, s, t, lr, beta1=0.9, beta2=0.999, eps=1e-16):
    r"""AdaBelief: Adam whose second moment is that of what the first did not foresee.

    $$s_t = \beta_2 s_{t-1} + (1 - \beta_2) (g_t - v_t)^2 + \epsilon,$$

    and all else as in `adam`: `eps` adds up in `s`. Source: Zhuang and others, *AdaBelief Optimizer*, 2020.

    >>> adabelief(p=1.0, g=4.0, v=0.0, s=0.0, t=1, lr=0.5, beta1=0.5, beta2=0.5, eps=1.0)[1:]
    (2.0, 3.0)
    """
    v = beta1 * v + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * square(g - v) + eps
    v_hat = v / (1 - beta1**t)
    s_hat = s / (1 - beta2**t)
    p = p - lr * v_hat / (sqrt(s_hat) + eps)
    return p, v, s


def lion(p, g, v, t, lr, beta1=0.9, beta2=0.99, weight_decay=0.0):
    r"""Lion: steps of one length, in the direction of the sign of the average.

    $$
    p_t = p_{t-1} - \eta \left(\mathrm{sign}(\beta_1 v_{t-1} + (1 - \beta_1) g_t) + \lambda p_{t-1}\right), \qquad
    v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t.
    $$

    Source: Chen and others, *Symbolic Discovery of Optimization Algorithms*, 2023.

    >>> lion(p=1.0, g=-4.0, v=0.0, t=1, lr=0.5, beta2=0.5)
    (1.5, -2.0)
    """
    c = sign(beta1 * v + (1 - beta1) * g)
    p = p - lr * (c + weight_decay * p)
    v = beta2 * v + (1 - beta2) * g
    return p, v


# Dialects: what a library computes where it is not one of the above with other constants or another start. Which
# library it is stands in `dialects.py`.


def adam_hat(p, g, v, s, t, lr, beta1=0.9, beta2=0.999, eps=1e-7, weight_decay=0.0):
    """Adam and AdamW with the "epsilon hat" of Kingma and Ba: `eps` is added before the bias is corrected."""
    v = beta1 * v + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * square(g)
    p = p - lr * weight_decay * p
    root = sqrt(1 - beta2**t)
    v_hat = v / (1 - beta1**t)
    p = p - lr * root * v_hat / (sqrt(s) + eps)
    return p, v, s


def yogi_hat(p, g, v, s, t, lr, beta1=0.9, beta2=0.999, eps=1e-3):
    """Yogi with `eps` added before the bias is corrected."""
    v = beta1 * v + (1 - beta1) * g
    s = s + (1 - beta2) * sign(square(g) - s) * square(g)
    root = sqrt(1 - beta2**t)
    v_hat = v / (1 - beta1**t)
    p = p - lr * root * v_hat / (sqrt(s) + eps)
    return p, v, s


def yogi_uncorrected(p, g, v, s, t, lr, beta1=0.9, beta2=0.999, eps=1e-3):
    """Yogi as in its paper, algorithm 2: no bias is corrected."""
    v = beta1 * v + (1 - beta1) * g
    s = s + (1 - beta2) * sign(square(g) - s) * square(g)
    p = p - lr * v / (sqrt(s) + eps)
    return p, v, s


def amsgrad_hat(p, g, v, s, x, t, lr, beta1=0.9, beta2=0.999, eps=1e-7):
    """AMSGrad with `eps` added before the bias is corrected."""
    v = beta1 * v + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * square(g)
    x = maximum(x, s)
    root = sqrt(1 - beta2**t)
    v_hat = v / (1 - beta1**t)
    p = p - lr * root * v_hat / (sqrt(x) + eps)
    return p, v, s, x


def amsgrad_corrected(p, g, v, s, x_hat, t, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    """AMSGrad with the largest of the second moments whose bias is corrected."""
    v = beta1 * v + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * square(g)
    x_hat = maximum(x_hat, s / (1 - beta2**t))
    p = p - lr * (v / (1 - beta1**t)) / (sqrt(x_hat) + eps)
    return p, v, s, x_hat


def amsgrad_uncorrected(p, g, v, s, x, t, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    """AMSGrad as in its paper, algorithm 2: no bias is corrected. The paper has no `eps`."""
    v = beta1 * v + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * square(g)
    x = maximum(x, s)
    p = p - lr * v / (sqrt(x) + eps)
    return p, v, s, x


def adamax_outside(p, g, v, u, t, lr, beta1=0.9, beta2=0.999, eps=1e-7):
    """Adamax with `eps` outside of the maximum."""
    v = beta1 * v + (1 - beta1) * g
    u = maximum(beta2 * u, abs(g))
    p = p - lr / (1 - beta1**t) * v / (u + eps)
    return p, v, u


def nadam_scheduled(p, g, v, s, w, t, lr, beta1=0.9, beta2=0.999, eps=1e-8, momentum_decay=0.004):
    """NAdam as in its paper: the momentum rises to `beta1`. `w` is 1 less the product of the momenta so far."""
    v = beta1 * v + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * square(g)
    decay = 0.96**momentum_decay
    mu = beta1 * (1 - 0.5 * decay**t)
    next_mu = beta1 * (1 - 0.5 * decay ** (t + 1))
    w = 1 - mu * (1 - w)
    v_bar = next_mu * v / (1 - next_mu * (1 - w)) + (1 - mu) * g / w
    p = p - lr * v_bar / (sqrt(s / (1 - beta2**t)) + eps)
    return p, v, s, w


def sgd_velocity(p, g, velocity, t, lr, momentum):
    """SGD with momentum, the rate in the sum: one that changes has no part in earlier gradients."""
    velocity = momentum * velocity - lr * g
    p = p + velocity
    return p, velocity


def adagrad_outside(p, g, s, t, lr, eps=1e-10):
    """Adagrad with `eps` outside of the root."""
    s = s + square(g)
    p = p - lr * g / (sqrt(s) + eps)
    return p, s


def rmsprop_outside(p, g, s, t, lr, gamma=0.99, eps=1e-8):
    """RMSProp with `eps` outside of the root."""
    s = gamma * s + (1 - gamma) * square(g)
    p = p - lr * g / (sqrt(s) + eps)
    return p, s


def adadelta_scaled(p, g, s, delta, t, lr, rho=0.9, eps=1e-6):
    """Adadelta with a learning rate, which scales the step but not its average."""
    s = rho * s + (1 - rho) * square(g)
    d = sqrt(delta + eps) / sqrt(s + eps) * g
    p = p - lr * d
    delta = rho * delta + (1 - rho) * square(d)
    return p, s, delta


def conditioned(p, g, scale=None, l2=None, clip=None, decay=None):
    """What the options of an optimizer make of a parameter and its gradient, before the rule sees them."""
    if scale is not None:
        g = scale * g
    if l2 is not None:
        g = g + l2 * p
    if clip is not None:
        g = -maximum(-maximum(g, -clip), -clip)
    if decay is not None:
        p = p * (1 - decay)
    return p, g


OPTIONS = ("scale", "l2", "clip", "decay")

#: The chapter's own two, the optimizers of the book, and all rules by their names.
SECTION = {"adam": adam, "yogi": yogi}
BOOK = SECTION | {
    "sgd": sgd,
    "sgd_momentum": sgd_momentum,
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "adadelta": adadelta,
}
_FAMILY = adamw, amsgrad, adamax, nadam, adabelief, lion
_DIALECTS = (
    *(adam_hat, yogi_hat, yogi_uncorrected, amsgrad_hat, amsgrad_corrected, amsgrad_uncorrected, adamax_outside),
    *(nadam_scheduled, sgd_velocity, adagrad_outside, rmsprop_outside, adadelta_scaled),
)
RULES = BOOK | {rule.__name__: rule for rule in (*_FAMILY, *_DIALECTS)}
