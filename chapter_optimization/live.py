"""The live figures of the pages: what the reader's browser needs to compute them, and a picture where it may not.

The rules that run in the browser are rendered from the spec; _static/live.js moves and draws them.
"""

import inspect
import itertools
import json
import linecache
import warnings
from base64 import b64encode
from math import sqrt

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
#: The learning rates that suit the elongated bowl of the race.
RATES = {"sgd": 0.2, "sgd_momentum": 0.15, "adagrad": 1.0, "rmsprop": 0.1, "adam": 0.3, "yogi": 0.3}
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
OF_TABS = {"mxnet": "sky", "pytorch": "vermillion", "tensorflow": "green"}
NAMES = {
    **{"adam": "Adam", "yogi": "Yogi", "sgd": "SGD", "sgd_momentum": "Momentum", "adagrad": "Adagrad"},
    **{"rmsprop": "RMSProp", "adadelta": "Adadelta", "mxnet": "MXNet", "pytorch": "PyTorch", "tensorflow": "TensorFlow"},
}
#: What is changed in the text of a rule: the slips of the book's TensorFlow tab, and Adam without bias correction.
CHANGES = {
    "bracket": [("(sqrt(s_hat) + eps)", "sqrt(s_hat) + eps")],
    "time": [("**t", "**1")],
    "eps": [("eps=1e-3", "eps=1e-6")],
    "uncorrected": [("v / (1 - beta1**t)", "v"), ("s / (1 - beta2**t)", "s")],
}
SLIPS = {"adam": ("bracket", "time"), "yogi": ("bracket", "eps")}


def changed(name, *changes):
    """Return a rule of the spec with some of `CHANGES`, named such as `adam_bracket_time`; its source is at hand."""
    source = inspect.getsource(spec.RULES[name])
    new = "_".join((name, *changes))
    for right, wrong in ((f"def {name}(", f"def {new}("), *itertools.chain(*map(CHANGES.get, changes))):
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
    """What was measured on this machine: the float64 reference of each rule, and the frameworks' float32 curves."""
    curves = {tab: {name: protocol.train(tab, name).losses for name in spec.SECTION} for tab in tabs}
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
        "words": WORDS[language],
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


WORDS = {
    "en": {
        "lr": "learning rate η",
        "beta1": "β₁",
        "beta2": "β₂",
        "eps": "ε",
        "momentum": "momentum β",
        "gamma": "RMSProp’s γ",
        "rho": "Adadelta’s ρ",
        "optimizer": "optimizer",
        "epoch": "epoch",
        "loss": "loss",
        "distance": "distance from the float64 reference",
        "here": "your browser",
        "reference": "NumPy, float64",
        "run-note": "Final loss {0}. Largest distance from the float64 reference with the book’s settings: {1}.",
        "reset": "Reset",
        "surface": "surface",
        "bowl": "elongated bowl",
        "valley": "curved valley",
        "saddle": "saddle",
        "noisy": "noisy bowl",
        "noise": "noise of the gradient",
        "correction": "bias correction (Adam, Yogi)",
        "step": "Step",
        "play": "Play",
        "pause": "Pause",
        "time": "step t",
        "start": "start; the arrow keys move it",
        "contours": "Contours of the function and the paths of the optimizers",
        "position": "x₁, x₂",
        "height": "f(x)",
        "moved": "last step",
        "states": "states",
        "race-note": "After {0} steps, {1} is lowest: f = {2}.",
        "steady": "gradient g",
        "length": "step / η",
        "with": "with bias correction",
        "without": "without",
        "first-steps-note": "First step: {0} η with the correction, {1} η without. Longest without: {2} η, at t = {3}.",
        "right": "right",
        "wrong": "with the slip",
        "bracket": "bracket lost: ε outside the fraction",
        "advanced": "t stays 1",
        "other_eps": "the ε of Adam",
        "zero": "Add a feature that is always zero (both)",
        "slips-note": "{0}: final loss {1} instead of {2}; largest distance {3}. ",
        "allowed": "allowed for rounding",
        "apart": "distance from the right curve",
        "example": "example",
        "steep": "a steep slope once a period",
        "reddi": "Reddi, Kale and Kumar: C, −1, −1",
        "period": "period N",
        "slope": "steepness G",
        "C": "gradient C",
        "x": "x, at the ends of periods",
        "rate": "effective learning rate, last periods",
        "best": "best x",
        "leaves-note": "Best x: {0}. After {1} steps, Adam is at {2} and Yogi at {3}.",
        "no-best": "none (G is to be more than N − 1)",
    },
    "ja": {
        "lr": "学習率 η",
        "beta1": "β₁",
        "beta2": "β₂",
        "eps": "ε",
        "momentum": "モーメンタム β",
        "gamma": "RMSProp の γ",
        "rho": "Adadelta の ρ",
        "optimizer": "最適化アルゴリズム",
        "epoch": "エポック",
        "loss": "損失",
        "distance": "倍精度の基準との差",
        "here": "このブラウザ",
        "reference": "NumPy（倍精度）",
        "run-note": "最後の損失は {0} です。本書の設定での倍精度の基準との差は、最大で {1} です。",
        "reset": "最初に戻す",
        "surface": "関数",
        "bowl": "細長い谷",
        "valley": "曲がった谷",
        "saddle": "鞍点",
        "noisy": "ノイズのある細長い谷",
        "noise": "勾配のノイズ",
        "correction": "バイアス補正（Adam、Yogi）",
        "step": "1 ステップ",
        "play": "再生",
        "pause": "一時停止",
        "time": "ステップ t",
        "start": "出発点（矢印キーで動かせます）",
        "contours": "関数の等高線と、各アルゴリズムがたどった経路",
        "position": "x₁, x₂",
        "height": "f(x)",
        "moved": "直前の移動",
        "states": "状態",
        "race-note": "{0} ステップ後に最も低いのは {1} で、f = {2} です。",
        "steady": "勾配 g",
        "length": "ステップの長さ / η",
        "with": "バイアス補正あり",
        "without": "補正なし",
        "first-steps-note": "最初のステップの長さは、補正ありで {0} η、補正なしで {1} η です。"
        "補正なしで最も長いのは t = {3} のときの {2} η です。",
        "right": "正しい規則",
        "wrong": "誤りのある規則",
        "bracket": "括弧の抜け（ε が分数の外に出る）",
        "advanced": "t が 1 のまま進まない",
        "other_eps": "ε が Adam のもの",
        "zero": "常にゼロの特徴量を加える（両方）",
        "slips-note": "{0}：最後の損失は {1}（正しくは {2}）、差は最大で {3} です。",
        "allowed": "丸め誤差の許容範囲",
        "apart": "正しい曲線との差",
        "example": "例",
        "steep": "周期に一度だけ急な傾き",
        "reddi": "Reddi・Kale・Kumar の例（C, −1, −1）",
        "period": "周期 N",
        "slope": "傾きの急さ G",
        "C": "勾配 C",
        "x": "各周期の終わりの x",
        "rate": "実効的な学習率（最後の数周期）",
        "best": "最適な x",
        "leaves-note": "最適な x は {0} です。{1} ステップ後、Adam は {2}、Yogi は {3} にいます。",
        "no-best": "なし（G は N − 1 より大きくします）",
    },
}
#: Of each figure the caption, and what is to be seen in its picture.
FIGURES = {
    "run": {
        "en": (
            "The training run of this section, computed by your browser with the rule rendered to JavaScript. With the "
            "book’s settings, its curve lies on those of the frameworks.",
            "Loss curves of Adam over two epochs: those of the frameworks lie on the reference. Below, their distances "
            "from it, all under one millionth.",
        ),
        "ja": (
            "この節の訓練を、JavaScript に書き出した規則を使って、このブラウザが計算したもの。本書の設定では、曲線は"
            "各フレームワークの曲線に重なります。",
            "Adam の 2 エポックの損失曲線。各フレームワークの曲線は基準に重なる。下は基準との差で、すべて 100 万分の 1 未満。",
        ),
    },
    "race": {
        "en": (
            "A race: the optimizers of this chapter side by side. Choose a function, drag the start, change the "
            "constants.",
            "Contours of an elongated bowl, and the paths on which the optimizers go from the same start to its bottom.",
        ),
        "ja": (
            "最適化アルゴリズムの競走。関数を選び、出発点をドラッグし、定数を変えてみましょう。",
            "細長い谷の等高線と、各アルゴリズムが同じ出発点から底へ向かう経路。",
        ),
    },
    "first-steps": {
        "en": (
            "The first steps under a steady gradient, in units of the learning rate. Without bias correction the first "
            "step is not too short but 3.16 times too long.",
            "Length of Adam’s steps over time: always 1 with bias correction; without it 3.16 at first, then above 6, "
            "and slowly back to 1.",
        ),
        "ja": (
            "勾配が一定のときのステップの長さ（学習率を 1 とする）。バイアス補正がないと、最初のステップは短すぎるのではなく、"
            "3.16 倍も長くなります。",
            "Adam のステップの長さの推移。補正があれば常に 1。補正がないと最初は 3.16 で、6 を超えたのち、ゆっくり 1 に戻る。",
        ),
    },
    "slips": {
        "en": (
            "The four slips of the earlier TensorFlow code as switches. Most of the upper curves look right; the "
            "lower ones tell how far off they are.",
            "Loss curves of Adam and Yogi, right and with both of their slips, end together. Below, their distances start "
            "far above the millionth that is allowed for rounding.",
        ),
        "ja": (
            "以前の TensorFlow 版にあった四つの誤りをスイッチにしたもの。上の損失曲線はたいてい正しく見えますが、"
            "下の図を見るとずれの大きさが分かります。",
            "Adam と Yogi の、正しい損失曲線と、二つずつの誤りを入れた損失曲線。最後には重なる。もう一つの図に示した差は、"
            "初めは丸め誤差の許容範囲である 100 万分の 1 をはるかに超えている。",
        ),
    },
    "leaves": {
        "en": (
            "Adam leaves, Yogi stays: the example of exercise 4 with its constants as sliders; and an example in which "
            "Yogi leaves as well when C is small.",
            "Where Adam and Yogi are at the ends of periods: Adam moves away steadily, Yogi stays at the best point.",
        ),
        "ja": (
            "Adam は離れ、Yogi はとどまります。演習 4 の例の定数をスライダーにしました。"
            "もう一つの例では、C が小さいと Yogi も離れます。",
            "各周期の終わりの Adam と Yogi の位置。Adam は一定の速さで離れていき、Yogi は最適な点にとどまる。",
        ),
    },
}


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
            _descend(spec.RULES[name], lambda p, t, k=k: k * p, start, 60, RATES[name], **constants)
            for k, start in ((0.2, -5.0), (4.0, -2.0))
        )
        points = [[row[0] for row in way] for way in ways]
        axes.plot(*points, ".-", color=COLORS[OF_RULES[name]], linewidth=1.2, markersize=3, label=NAMES[name])
    axes.set(xlabel="x₁", ylabel="x₂")


def _draw_slips(axes, words, curves):
    epochs = numpy.arange(1, 16) * 200 / 1500
    for (name, slips), color in zip(SLIPS.items(), ("vermillion", "blue"), strict=True):
        right = numpy.array(curves["reference"][name])
        wrong = numpy.array(protocol.train("numpy", changed(name, *slips), dtype="float64").losses)
        axes[0].plot(epochs, right, color=COLORS[color], alpha=0.4, linewidth=4, label=f"{NAMES[name]}: {words['right']}")
        axes[0].plot(epochs, wrong, "--", color=COLORS[color], label=f"{NAMES[name]}: {words['wrong']}")
        axes[1].semilogy(epochs, abs(wrong - right), ".-", color=COLORS[color], label=NAMES[name])
    axes[1].axhline(protocol.TOLERANCE["float32"], color="black", linestyle=":", label=words["allowed"])
    axes[0].set(xlabel=words["epoch"], ylabel=words["loss"])
    axes[1].set(xlabel=words["epoch"], ylabel=words["apart"])


def _draw_leaves(axes, words, curves):
    for name in spec.SECTION:
        way = _descend(
            spec.RULES[name], lambda x, t: 450 * x / sqrt(1 + x * x) if t % 300 == 1 else -1.0, -1.0, 30000, 0.1, beta2=0.99
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
    style = {"svg.fonttype": "none", "svg.hashsalt": name, "font.sans-serif": fonts, "axes.grid": True, "grid.alpha": 0.3}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no font on this machine need have the glyphs
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        axes = figure.subplots(1, panels)
        draw(axes, WORDS[language], curves)
        for each in numpy.ravel(axes):
            each.legend()
        figure.savefig(file, metadata={"Date": None})
