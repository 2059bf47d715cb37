"""Sections of a book of our own, in d2l's Markdown, into which defects can be put."""

import re
from typing import NamedTuple


class Optimizer(NamedTuple):
    """An optimizer as a section writes it: its states, its constants, and a step, line by line."""

    states: tuple[str, ...]
    constants: str
    lines: tuple[str, ...]
    counts: bool = False


_MOMENTS = (
    "v = beta1 * v + (1 - beta1) * g",
    "s = beta2 * s + (1 - beta2) * square(g)",
    "v_hat = v / (1 - beta1 ** t)",
    "s_hat = s / (1 - beta2 ** t)",
    "p = p - lr * v_hat / (sqrt(s_hat) + eps)",
)
_YOGI = "s = s + (1 - beta2) * sign(square(g) - s) * square(g)"
OPTIMIZERS = {
    "sgd": Optimizer((), "", ("p = p - lr * g",)),
    "sgd_momentum": Optimizer(("v",), "", ("v = momentum * v + g", "p = p - lr * v")),
    "adagrad": Optimizer(("s",), "eps = 1e-6", ("s = s + square(g)", "p = p - lr * g / sqrt(s + eps)")),
    "rmsprop": Optimizer(
        ("s",), "eps = 1e-6", ("s = gamma * s + (1 - gamma) * square(g)", "p = p - lr * g / sqrt(s + eps)")
    ),
    "adadelta": Optimizer(
        ("s", "delta"),
        "eps = 1e-5",
        (
            "s = rho * s + (1 - rho) * square(g)",
            "step = sqrt(delta + eps) / sqrt(s + eps) * g",
            "p = p - step",
            "delta = rho * delta + (1 - rho) * square(step)",
        ),
    ),
    "adam": Optimizer(("v", "s"), "beta1, beta2, eps = 0.9, 0.999, 1e-6", _MOMENTS, True),
    "yogi": Optimizer(("v", "s"), "beta1, beta2, eps = 0.9, 0.999, 1e-3", (_MOMENTS[0], _YOGI, *_MOMENTS[2:]), True),
}
HYPERPARAMS = ("lr", "t", "momentum", "gamma", "rho")
IMPORTS = {
    "mxnet": "from d2l import mxnet as d2l\nfrom mxnet import np, npx\nnpx.set_np()",
    "pytorch": "%matplotlib inline\nfrom d2l import torch as d2l\nimport torch",
    "tensorflow": "from d2l import tensorflow as d2l\nimport tensorflow as tf",
    "jax": "import jax.numpy as jnp",
    "numpy": "import numpy as np",
}
_WORDS = {"mxnet": "np", "pytorch": "torch", "tensorflow": "tf.math", "jax": "jnp", "numpy": "np"}
_ZEROS = {"tensorflow": "tf.Variable(d2l.zeros({}))", "jax": "jnp.zeros({})", "numpy": "np.zeros({}, 'float32')"}


def function(tab, name, change=lambda text: text):
    """The function of an optimizer in the words of a tab; `change` may put a defect into the lines above."""
    states, constants, lines, counts = OPTIMIZERS[name]
    constants, *lines = change("\n".join((constants, *lines, "t = t + 1" if counts else ""))).split("\n")
    passed = tab in ("tensorflow", "jax", "numpy")
    grads = "grads, " if passed else ""
    of_states = {0: "", 1: f", {''.join(states)}", 2: f", ({', '.join(states)})"}[len(states)]
    loop = f"p{of_states}{', g' * passed} in zip(params{', states' * bool(states)}{', grads' * passed})"
    if "," not in loop.partition(" in ")[0]:
        loop = "p in params"
    if tab == "jax":
        loop = re.sub(r"^(.*) in (.*)$", r"i, (\1) in enumerate(\2)", loop)
    out = [f"def {name}(params, {grads}states, hyperparams):", *(f"    {x}" for x in constants.split("\n") if x)]
    out.append(f"    for {loop}:")
    if tab == "pytorch":
        out.append("        with torch.no_grad():")
    inner = " " * (12 if tab == "pytorch" else 8)
    after = []
    for line in filter(None, lines):
        target, _, value = line.partition(" = ")
        value = re.sub(r"\b(sqrt|square|sign)\(", rf"{_WORDS[tab]}.\1(", value)
        value = re.sub(rf"\b({'|'.join(HYPERPARAMS)})\b", r"hyperparams['\1']", value)
        value = value if passed else re.sub(r"\bg\b", "p.grad", value)
        if target == "t":
            after.append("    hyperparams['t'] += 1")
        elif target == "t, for each p":
            out.append(f"{inner}hyperparams['t'] += 1")
        elif target not in ("p", *states):
            out.append(f"{inner}{target.removesuffix(' not stored')} = {value}")
        else:
            write = {"tensorflow": "{}.assign({})", "jax": "{} = {}"}.get(tab, "{}[:] = {}")
            out.append(inner + write.format(target, value))
    if tab == "pytorch":
        out.append("        p.grad.zero_()")
    if tab == "jax":
        out.append("        params[i] = p")
        out += [f"        states[i] = {of_states[2:]}"] * bool(states)
        after.append("    return params")
    return "\n".join(out + after)


def init(tab, name):
    """The function that makes the states of an optimizer, if it has any."""
    zeros, number = _ZEROS.get(tab, "d2l.zeros({})"), len(OPTIMIZERS[name].states)
    if not number:
        return ""
    of_tab = "list" if tab == "jax" else ""
    return (
        f"def init_{name.removeprefix('sgd_')}_states(feature_dim):\n"
        f"    w, b = ([{zeros.format('shape')} for _ in range({number})] for shape in ((feature_dim, 1), (1,)))\n"
        f"    return {of_tab}((*w, *b) if {number} == 1 else (w, b))"
    )


def fence(tab, source):
    return f"```{{.python .input}}\n#@tab {tab}\n{source}\n```\n"


def section(name, tabs, changes=None):
    """A section of one optimizer; `changes` puts a defect into some tabs."""
    parts = [f"# {name}\n"]
    for tab in tabs:
        change = (changes or {}).get(tab, lambda text: text)
        parts.append(fence(tab, f"{IMPORTS[tab]}\n\n{init(tab, name)}\n\n{function(tab, name, change)}"))
    number = len(OPTIMIZERS[name].states)
    states = f"init_{name.removeprefix('sgd_')}_states(feature_dim)" if number else "None"
    given = "{'lr': 0.01, 't': 1, 'momentum': 0.9, 'gamma': 0.9, 'rho': 0.9}"
    parts.append(
        "The text between.\n\n"
        + fence(
            "all",
            f"data_iter, feature_dim = d2l.get_data_ch11(batch_size=10)\n"
            f"d2l.train_ch11({name}, {states}, {given}, data_iter, feature_dim)",
        )
    )
    return "\n".join(parts)
