"""The picture of a run: all loss curves on one another, and below them how far each is from the reference."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from d2l_adam.protocol import TOLERANCE

# Okabe and Ito's colours; the wider lines lie below, so that equal curves all stay visible.
STYLE = {
    "mxnet": {"color": "#56B4E9", "linewidth": 6, "label": "MXNet"},
    "pytorch": {"color": "#D55E00", "linewidth": 3, "label": "PyTorch"},
    "tensorflow": {"color": "#009E73", "linewidth": 1.8, "linestyle": (0, (4, 3)), "label": "TensorFlow"},
    "numpy": {"color": "black", "linestyle": "", "marker": ".", "zorder": 3, "label": "NumPy, float64: the reference"},
}


def draw(curves: list[dict], tolerance: float = TOLERANCE["float32"]) -> Figure:
    """Draw the curves that `d2l_adam.compare` gives; the dotted line is the allowed distance."""
    rules = list(dict.fromkeys(curve["rule"] for curve in curves))
    with matplotlib.rc_context({"axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(4.3 * len(rules), 5), layout="constrained")
        axes = figure.subplots(2, len(rules), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 2))
        for (upper, lower), rule in zip(axes.T, rules, strict=True):
            for curve in (curve for curve in curves if curve["rule"] == rule):
                style = STYLE.get(curve["tab"], {"label": curve["tab"]})
                upper.plot(curve["epochs"], curve["losses"], **style)
                if any(curve["distances"]):  # the reference lies at 0, which a log scale cannot show
                    lower.plot(curve["epochs"], curve["distances"], **style | {"linewidth": 1.5, "marker": "."})
            lower.axhline(tolerance, color="black", linewidth=1, linestyle=":")
            lower.text(0.99, tolerance, "allowed", ha="right", va="top", transform=lower.get_yaxis_transform())
            lower.set(yscale="log", xlabel="epoch")
            upper.set_title(rule.capitalize())
        axes[0, 0].set_ylabel("loss")
        axes[1, 0].set_ylabel("distance to\nthe reference")
        axes[0, -1].legend()
    return figure


def draw_steps(cases: list[dict]) -> Figure:
    """Draw what a step costs for each parameter, as `d2l_adam.bench` measures it: ours in colour, others' in grey."""
    tabs = list(dict.fromkeys(case["tab"] for case in cases))
    sizes = list(dict.fromkeys(case["size"] for case in cases))
    with matplotlib.rc_context({"axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(3.4 * len(tabs) + 1, 4.2), layout="constrained")
        for axes, tab in zip(figure.subplots(1, len(tabs), sharey=True, squeeze=False)[0], tabs, strict=True):
            for case in (case for case in cases if case["tab"] == tab):
                *ours, other = case["contestants"]
                at, number = sizes.index(case["size"]), case["parameters"] / 1e9
                axes.plot(at + 0.2, other["seconds"] / number, "D", color="0.55", markersize=6)
                for i, x in enumerate(ours):
                    marker = {"color": STYLE[tab]["color"], "marker": "os^v"[i % 4], "markersize": 9 - 2 * i}
                    axes.plot(at - 0.2 + 0.15 * i, x["seconds"] / number, linestyle="", **marker)
            axes.set(yscale="log", title=str(STYLE[tab]["label"]).partition(",")[0], xlim=(-0.6, len(sizes) - 0.4))
            axes.set_xticks(range(len(sizes)), sizes, rotation=40, ha="right")
        figure.axes[0].set_ylabel("ns a parameter")
        names = [x["name"] for x in cases[0]["contestants"][:-1]] if cases else []
        keys = [Line2D([], [], color="0.1", marker="os^v"[i % 4], linestyle="", label=x) for i, x in enumerate(names)]
        keys.append(Line2D([], [], color="0.55", marker="D", linestyle="", label="the framework's own Adam"))
        figure.legend(handles=keys, loc="outside lower center", ncols=len(keys))
    return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write what was drawn to `stem`.svg and .png, each time the same bytes; return the files."""
    files = [stem.with_suffix(suffix) for suffix in (".svg", ".png")]
    with matplotlib.rc_context({"svg.hashsalt": "d2l_adam"}):
        for file, metadata in zip(files, ({"Date": None}, {}), strict=True):
            figure.savefig(file, dpi=150, metadata=metadata)
    return files
