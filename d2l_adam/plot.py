"""The picture of a run: all loss curves on one another, and below them how far each is from the reference."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.lines import Line2D

from d2l_adam.protocol import TOLERANCE

# Okabe and Ito's colours; the wider lines lie below, so that equal curves all stay visible.
STYLE: dict[str, dict] = {
    "mxnet": {"color": "#56B4E9", "linewidth": 6, "label": "MXNet"},
    "pytorch": {"color": "#D55E00", "linewidth": 3, "label": "PyTorch"},
    "tensorflow": {"color": "#009E73", "linewidth": 1.8, "linestyle": (0, (4, 3)), "label": "TensorFlow"},
    "jax": {"color": "#E69F00", "linewidth": 1.2, "linestyle": (0, (1, 2)), "label": "JAX"},
    "numpy": {"color": "black", "linestyle": "", "marker": ".", "zorder": 3, "label": "NumPy"},
}
#: What `draw` writes, by language.
WORDS: dict[str, dict[str, str]] = {
    "English": {
        "epoch": "epoch",
        "loss": "loss",
        "distance": "distance to\nthe reference",
        "allowed": "allowed",
        "reference": "NumPy, float64: the reference",
    },
    "日本語": {
        "epoch": "エポック",
        "loss": "損失",
        "distance": "基準からの\n距離",
        "allowed": "許容範囲",
        "reference": "NumPy（float64）：基準",
    },
}


def style(language: str) -> dict:
    """Return Matplotlib's settings for figures in a language: "English" or "日本語".

    No font that every machine has can write Japanese: `matplotlib_fontja` brings one. Raises ValueError for another
    language, ModuleNotFoundError where Japanese is asked for and that package is absent.
    """
    if language not in WORDS:
        raise ValueError(f"unknown language {language!r}; known: {', '.join(WORDS)}")
    settings: dict = {"axes.grid": True, "grid.alpha": 0.3}
    if language == "日本語":
        with matplotlib.rc_context():  # what the package sets for all figures is undone
            try:
                import matplotlib_fontja
            except ModuleNotFoundError:
                cure = "Japanese figures need a font; install it with: pip install matplotlib-fontja"
                raise ModuleNotFoundError(cure, name="matplotlib_fontja") from None
        fontManager.addfont(matplotlib_fontja.get_font_ttf_path())
        settings["font.family"] = ["DejaVu Sans", matplotlib_fontja.matplotlib_fontja.FONT_NAME]
    return settings


def draw(curves: list[dict], tolerance: float = TOLERANCE["float32"], language: str = "English") -> Figure:
    """Draw the curves that `d2l_adam.compare` gives; the dotted line is the allowed distance.

    `language` is "English" or "日本語"; it raises as `style` does.
    """
    rules = list(dict.fromkeys(curve["rule"] for curve in curves))
    settings, words = style(language), WORDS[language]
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(4.3 * len(rules), 5), layout="constrained")
        axes = figure.subplots(2, len(rules), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 2))
        for (upper, lower), rule in zip(axes.T, rules, strict=True):
            for curve in (curve for curve in curves if curve["rule"] == rule):
                line = STYLE.get(curve["tab"], {"label": curve["tab"]})
                if curve["tab"] == "numpy":
                    line = line | {"label": words["reference"]}
                upper.plot(curve["epochs"], curve["losses"], **line)
                if any(curve["distances"]):  # the reference lies at 0, which a log scale cannot show
                    lower.plot(curve["epochs"], curve["distances"], **line | {"linewidth": 1.5, "marker": "."})
            lower.axhline(tolerance, color="black", linewidth=1, linestyle=":")
            lower.text(0.99, tolerance, words["allowed"], ha="right", va="top", transform=lower.get_yaxis_transform())
            lower.set(yscale="log", xlabel=words["epoch"])
            upper.set_title(rule.capitalize())
        axes[0, 0].set_ylabel(words["loss"])
        axes[1, 0].set_ylabel(words["distance"])
        axes[0, -1].legend()
    return figure


def draw_steps(ratios: list[dict]) -> Figure:
    """Draw how often our steps fit into the others', as `d2l_adam.bench.ratios` has it, with quartiles and goals."""
    names = [*dict.fromkeys(x["ours"] for x in ratios)]
    panels: dict[str, dict[str, list[dict]]] = {}
    for x in ratios:
        tab, _, size = x["at"].partition(", ")
        panels.setdefault(tab, {}).setdefault(size, []).append(x)
    with matplotlib.rc_context({"axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(3.2 * len(panels) + 1, 4.2), layout="constrained")
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (tab, sizes) in zip(row, panels.items(), strict=True):
            for at, rows in enumerate(sizes.values()):
                for x in rows:
                    i = names.index(x["ours"])
                    low, high = x["ratio"] - x["low"], x["high"] - x["ratio"]
                    place = at + 0.2 * (i % 2) - 0.1
                    axes.errorbar(place, x["ratio"], [[low], [high]], marker="os^v"[i % 4], color=STYLE[tab]["color"])
                    if x["goal"]:
                        axes.plot(place, x["goal"], "_", color="0.4", markersize=12)
            axes.axhline(1, color="black", linewidth=1)
            axes.set(yscale="log", title=STYLE[tab]["label"], xlim=(-0.6, len(sizes) - 0.4))
            axes.set_xticks(range(len(sizes)), [*sizes], rotation=40, ha="right")
            axes.yaxis.set_major_formatter("{x:g}")
        figure.axes[0].set_ylabel("the other's time / ours")
        keys = [Line2D([], [], color="0.1", marker="os^v"[i % 4], linestyle="", label=x) for i, x in enumerate(names)]
        keys.append(Line2D([], [], color="0.4", marker="_", markersize=12, linestyle="", label="goal"))
        figure.legend(handles=keys, loc="outside lower center", ncols=len(keys))
    return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write what was drawn to `stem`.svg and .png, each time the same bytes; return the files."""
    files = [stem.with_suffix(suffix) for suffix in (".svg", ".png")]
    with matplotlib.rc_context({"svg.hashsalt": "d2l_adam"}):
        for file, metadata in zip(files, ({"Date": None}, {}), strict=True):
            figure.savefig(file, dpi=150, metadata=metadata)
    return files
