"""The live figures of the pages: what the reader's browser needs to compute them, and a picture where it may not.

The rules that run in the browser are rendered from the spec; _static/live.js moves and draws them.
"""

import inspect
import itertools
import json
import linecache
import tomllib
import warnings
from base64 import b64encode
from math import sqrt
from pathlib import Path

import matplotlib
import numpy
from matplotlib.figure import Figure

from d2l_adam import protocol, spec
from d2l_adam.render import render
from d2l_adam.rule import Rule

#: The settings with which the book trains on the airfoil data.
SETTINGS: dict[str, dict[str, float]] = {
    "adam": {"lr": 0.01},
    "yogi": {"lr": 0.01},
    "sgd": {"lr": 0.05},
    "sgd_momentum": {"lr": 0.02, "momentum": 0.5},
    "adagrad": {"lr": 0.1},
    "rmsprop": {"lr": 0.01, "gamma": 0.9},
    "adadelta": {"rho": 0.9},
}
#: The learning rates that suit the surfaces of the race.
_OF_RATES = ("sgd", "sgd_momentum", "adagrad", "rmsprop", "adam", "yogi")
RATES = {
    "bowl": dict(zip(_OF_RATES, (0.2, 0.15, 1.0, 0.1, 0.3, 0.3), strict=True)),
    "valley": dict(zip(_OF_RATES, (0.02, 0.015, 0.4, 0.05, 0.1, 0.1), strict=True)),
    "saddle": dict(zip(_OF_RATES, (0.1, 0.1, 0.3, 0.05, 0.1, 0.1), strict=True)),
    "noisy": dict(zip(_OF_RATES, (0.2, 0.15, 1.0, 0.1, 0.1, 0.1), strict=True)),
}
#: Okabe and Ito's colours.
COLORS = {
    "sky": "#56B4E9",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "blue": "#0072B2",
    "orange": "#E69F00",
    "purple": "#CC79A7",
    "text": "black",
}
OF_RULES = dict(zip(SETTINGS, ("vermillion", "blue", "text", "sky", "purple", "green", "orange"), strict=True))
OF_TABS = {"mxnet": "sky", "pytorch": "vermillion", "tensorflow": "green", "jax": "orange"}
NAMES = {
    "adam": "Adam",
    "yogi": "Yogi",
    "sgd": "SGD",
    "sgd_momentum": "Momentum",
    "adagrad": "Adagrad",
    "rmsprop": "RMSProp",
    "adadelta": "Adadelta",
    "mxnet": "MXNet",
    "pytorch": "PyTorch",
    "tensorflow": "TensorFlow",
    "jax": "JAX",
}
#: What is changed in the text of a rule: the slips of the book's TensorFlow tab, and Adam without bias correction.
CHANGES = {
    "bracket": [("(sqrt(s_hat) + eps)", "sqrt(s_hat) + eps")],
    "time": [("**t", "**1")],
    "eps": [("eps=1e-3", "eps=1e-6")],
    "uncorrected": [("v / (1 - beta1**t)", "v"), ("s / (1 - beta2**t)", "s")],
}
TEXTS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
FIGURES = tuple(TEXTS["en"]["figures"])
SLIPS = {"adam": ("bracket", "time"), "yogi": ("bracket", "eps")}


def changed(name, *changes):
    """Return a rule of the spec with some of `CHANGES`, named such as `adam_bracket_time`; its source is at hand."""
    source = inspect.getsource(Rule(name).function)
    new = "_".join((name, *changes))
    for right, wrong in ((f"def {name}(", f"def {new}("), *itertools.chain(*(CHANGES[change] for change in changes))):
        if right not in source:
            raise ValueError(f"the rule {name} has no {right!r} to be changed; bring CHANGES up to date with the spec")
        source = source.replace(right, wrong)
    names, file = dict(vars(spec)), f"<{new}>"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    exec(compile(source, file, "exec"), names)
    return names[new]


def functions():
    """All rules that the figures run, by name."""
    made = [changed(name, "uncorrected") for name in spec.SECTION]
    for name, slips in SLIPS.items():
        made += [changed(name, *some) for k in (1, 2) for some in itertools.combinations(slips, k)]
    return spec.RULES | {rule.__name__: rule for rule in made}


def _base64(array, dtype):
    return b64encode(numpy.ascontiguousarray(array, dtype).tobytes()).decode()


def measured(tabs):
    """Train on this machine: the float64 reference of each rule, and the float32 curves of the tabs that are here."""
    here = [tab for tab in tabs if tab in protocol.installed()]
    curves = {tab: {name: protocol.train(tab, name).losses for name in spec.SECTION} for tab in here}
    for name, constants in SETTINGS.items():
        given = dict(constants)
        lr = given.pop("lr", 0.0)
        history = protocol.train("numpy", name, lr=lr, dtype="float64", hyperparams=given)
        curves.setdefault("reference", {})[name] = history.losses
    return curves


def script(curves, language):
    """The script that gives live.js the rules, the data, what was measured, and its words."""
    features, labels, weights, bias = protocol.start(dtype="float64")
    known = {name: Rule(rule) for name, rule in functions().items()}
    state = {
        "words": TEXTS[language],
        "names": NAMES,
        "settings": SETTINGS,
        "rates": RATES,
        "colors": OF_RULES | OF_TABS,
        "curves": curves,
        "states": {name: rule.state for name, rule in known.items()},
        "constants": {name: {key: c.default for key, c in rule.constants.items()} for name, rule in known.items()},
        "start": [*weights[:, 0], *bias],
        "rows": _base64(numpy.hstack([features, labels]), "<f8"),
        "order": _base64(numpy.concatenate([rows for rows, _ in protocol.batches()]), "<u2"),
    }
    code = render("javascript", *functions().values())
    return (
        f"const LIVE = {json.dumps(state, ensure_ascii=False)};\n"
        f"LIVE.rules = (() => {{\n{code}\nreturn {{ {', '.join(known)} }};\n}})();\n"
    )


def _descend(rule, slope, start, steps, lr, **constants):
    """The rows (p, *state) of one number on its way; `slope(p, t)` is the gradient, `lr` may depend on t."""
    rows = [(start, *[0.0] * len(Rule(rule).state))]
    for t in range(1, steps + 1):
        (p, *state) = rows[-1]
        made = rule(p, slope(p, t), *state, t=t, lr=lr, **constants)
        rows.append(made if state else (made,))
    return rows


def _draw_first_steps(axes, words, curves):
    for name, color in (("adam", "blue"), ("adam_uncorrected", "vermillion")):
        rows = _descend(functions()[name], lambda p, t: 1.0, 0.0, 1000, 1.0)
        steps = [before[0] - after[0] for before, after in itertools.pairwise(rows)]
        axes.plot(range(1, 1001), steps, color=COLORS[color], label=words["without" if "_" in name else "with"])
    axes.set(xscale="log", xlabel="t", ylabel=words["length"], ylim=(0, None))


def _draw_run(axes, words, curves):
    reference = numpy.array(curves["reference"]["adam"])
    epochs = numpy.arange(1, len(reference) + 1) * 200 / 1500
    for (tab, of), width in zip(curves.items(), (5, 3, 1.5, 0), strict=False):
        if tab != "reference":
            style = {"color": COLORS[OF_TABS[tab]], "linewidth": width, "label": NAMES[tab]}
            axes[0].plot(epochs, of["adam"], **style)
            axes[1].semilogy(epochs, abs(of["adam"] - reference), **style | {"linewidth": 1.5})
    axes[0].plot(epochs, reference, "k.", label=words["reference"])
    axes[0].set(xlabel=words["epoch"], ylabel=words["loss"])
    axes[1].set(xlabel=words["epoch"], ylabel=words["distance"])


def _draw_race(axes, words, curves):
    x, y = numpy.meshgrid(numpy.linspace(-6, 3, 90), numpy.linspace(-3, 3, 60))
    axes.contour(x, y, numpy.log2(1 + 0.1 * x**2 + 2 * y**2), 12, colors="0.8", linewidths=0.8)
    settings = {"sgd": {}, "sgd_momentum": {"momentum": 0.5}, "rmsprop": {"gamma": 0.9}, "adam": {}, "yogi": {}}
    for name, constants in settings.items():
        ways = (
            _descend(spec.RULES[name], lambda p, t, k=k: k * p, start, 60, RATES["bowl"][name], **constants)
            for k, start in ((0.2, -5.0), (4.0, -2.0))
        )
        points = [[row[0] for row in way] for way in ways]
        axes.plot(*points, ".-", color=COLORS[OF_RULES[name]], linewidth=1.2, markersize=3, label=NAMES[name])
    axes.set(xlabel="$x_1$", ylabel="$x_2$")


def _draw_slips(axes, words, curves):
    epochs = numpy.arange(1, 16) * 200 / 1500
    for (name, slips), color in zip(SLIPS.items(), ("vermillion", "blue"), strict=True):
        right = numpy.array(curves["reference"][name])
        wrong = numpy.array(protocol.train("numpy", changed(name, *slips), dtype="float64").losses)
        axes[0].plot(
            epochs, right, color=COLORS[color], alpha=0.4, linewidth=4, label=f"{NAMES[name]}: {words['right']}"
        )
        axes[0].plot(epochs, wrong, "--", color=COLORS[color], label=f"{NAMES[name]}: {words['wrong']}")
        axes[1].semilogy(epochs, abs(wrong - right), ".-", color=COLORS[color], label=NAMES[name])
    axes[1].axhline(protocol.TOLERANCE["float32"], color="black", linestyle=":", label=words["allowed"])
    axes[0].set(xlabel=words["epoch"], ylabel=words["loss"])
    axes[1].set(xlabel=words["epoch"], ylabel=words["apart"])


def _draw_leaves(axes, words, curves):
    for name in spec.SECTION:
        way = _descend(
            spec.RULES[name],
            lambda x, t: 450 * x / sqrt(1 + x * x) if t % 300 == 1 else -1.0,
            -1.0,
            30000,
            0.1,
            beta2=0.99,
        )
        points = range(300, 30001, 300)
        axes.plot(points, [way[t][0] for t in points], color=COLORS[OF_RULES[name]], label=NAMES[name])
    axes.axhline(299 / sqrt(450**2 - 299**2), color="black", linestyle=":", label=words["best"])
    axes.set(xlabel="t", ylabel=words["x"])


_DRAW = {
    "run": (_draw_run, 2), "race": (_draw_race, 1), "first-steps": (_draw_first_steps, 1), "slips": (_draw_slips, 2),
    "leaves": (_draw_leaves, 1),
}  # fmt: skip


def picture(name, language, curves, file):
    """Write the picture of a figure, for print and where scripts are off; its words are drawn by the reader's fonts."""
    fonts = ["Hiragino Sans", "Noto Sans CJK JP", "Yu Gothic", "Meiryo", "DejaVu Sans"]
    draw, panels = _DRAW[name]
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.sans-serif": fonts,
        "axes.grid": True,
        "grid.alpha": 0.3,
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no font on this machine need have the glyphs
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        axes = figure.subplots(1, panels)
        draw(axes, TEXTS[language], curves)
        for each in numpy.ravel(axes):
            each.legend()
        figure.savefig(file, metadata={"Date": None})
