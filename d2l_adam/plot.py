"""The picture of a run: all loss curves on one another, and below them how far each is from the reference."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from d2l_adam.protocol import TOLERANCE

# Okabe and Ito's colours; the wider lines lie below, so that equal curves all stay visible.
STYLE = {
    "mxnet": {"color": "#56B4E9", "linewidth": 6, "label": "MXNet"},
    "pytorch": {"color": "#D55E00", "linewidth": 3, "label": "PyTorch"},
    "tensorflow": {"color": "#009E73", "linewidth": 1.8, "linestyle": (0, (4, 3)), "label": "TensorFlow"},
    "numpy": {"color": "black", "linestyle": "", "marker": ".", "zorder": 3, "label": "NumPy, float64: the reference"},
}
#: What `draw` writes, by language.
WORDS: dict[str, dict[str, str]] = {
    "English": {
        "epoch": "epoch",
        "loss": "loss",
        "distance": "distance to\nthe reference",
        "allowed": "allowed",
        "reference": str(STYLE["numpy"]["label"]),
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
    """Draw the curves that `d2l_adam.compare` gives; the dotted line is the allowed distance."""
    rules = list(dict.fromkeys(curve["rule"] for curve in curves))
    settings, words = style(language), WORDS[language]
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(4.3 * len(rules), 5), layout="constrained")
        axes = figure.subplots(2, len(rules), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 2))
        for (upper, lower), rule in zip(axes.T, rules, strict=True):
            for curve in (curve for curve in curves if curve["rule"] == rule):
                line: dict = STYLE.get(curve["tab"], {"label": curve["tab"]})
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


def draw_steps(cases: list[dict]) -> Figure:
    """Draw what a step of one tensor costs for each parameter, against its size, as `d2l_adam.bench` measures it."""
    tabs = list(dict.fromkeys(case["tab"] for case in cases))
    with matplotlib.rc_context({"axes.grid": True, "grid.alpha": 0.3, "font.size": 9}):
        figure = Figure(figsize=(4.6 * len(tabs), 7), layout="constrained")
        for axes, tab in zip(figure.subplots(1, len(tabs), sharey=True, squeeze=False)[0], tabs, strict=True):
            _draw_tab(axes, [case for case in cases if case["tab"] == tab and case["tensors"] < 3])
            axes.set_title(str(STYLE[tab]["label"]).partition(",")[0])
        figure.axes[0].set_ylabel("ns a parameter")
    return figure


def _draw_tab(axes, cases):
    lines: dict[str, list[tuple[int, float]]] = {}
    names = {x["name"] for case in cases for x in case["contestants"]}
    for case in sorted(cases, key=lambda case: case["parameters"]):
        for x in case["contestants"]:
            if x["name"].replace("yogi", "adam") not in names - {x["name"]}:  # Yogi lies on Adam
                lines.setdefault(x["name"], []).append((case["parameters"], x["seconds"] / case["parameters"] * 1e9))
    for i, (name, points) in enumerate(lines.items()):
        style = {"color": f"C{i}", "marker": "o", "markersize": 4}
        if name == "memory":
            style, name = {"color": "black", "linestyle": ":", "linewidth": 2}, "28 bytes at the memory's bandwidth"
            points = [(x, y * 28 / 24) for x, y in points]
        axes.plot(*zip(*points, strict=True), label=name, **style | ({"linewidth": 3} if name == "adam, fused" else {}))
    axes.set(xscale="log", yscale="log", xlabel="parameters")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13))


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write what was drawn to `stem`.svg and .png, each time the same bytes; return the files."""
    files = [stem.with_suffix(suffix) for suffix in (".svg", ".png")]
    with matplotlib.rc_context({"svg.hashsalt": "d2l_adam"}):
        for file, metadata in zip(files, ({"Date": None}, {}), strict=True):
            figure.savefig(file, dpi=150, metadata=metadata)
    return files
