"""The picture: which lines stand where. How it looks is for the eye."""

import sys

import matplotlib
import numpy as np
import pytest

from d2l_adam import plot

EPOCHS = [0.5, 1.0, 1.5]


def curve(tab, rule, losses, distances):
    return {"tab": tab, "rule": rule, "epochs": EPOCHS, "losses": losses, "distances": distances}


CURVES = [
    curve("numpy", "adam", [0.4, 0.3, 0.2], [0.0, 0.0, 0.0]),
    curve("pytorch", "adam", [0.5, 0.4, 0.3], [1e-8, 2e-8, 0.0]),
    curve("numpy", "yogi", [0.7, 0.6, 0.5], [0.0, 0.0, 0.0]),
    curve("cupy", "yogi", [0.8, 0.7, 0.6], [3e-8, 4e-8, 5e-8]),
]


@pytest.fixture
def axes(tmp_path, monkeypatch):
    """The axes that `draw` draws, by row and column."""
    figures = []

    class Kept(plot.Figure):
        def __init__(self, **options):
            super().__init__(**options)
            figures.append(self)

    monkeypatch.setattr(plot, "Figure", Kept)
    plot.save(plot.draw(CURVES, 1e-6), tmp_path / "curves")
    (figure,) = figures
    return np.reshape(figure.axes, (2, 2))


def lines(axis):
    """What the lines of `axis` show: label, x and y."""
    return [(line.get_label(), *(np.asarray(x).tolist() for x in line.get_data())) for line in axis.get_lines()]


REFERENCE = "NumPy, float64: the reference"
ALLOWED = ("_child1", [0, 1], [1e-6, 1e-6])  # matplotlib's own name for the second line, which gets no label


def test_the_losses_of_a_rule_stand_above(axes):
    assert lines(axes[0, 0]) == [(REFERENCE, EPOCHS, [0.4, 0.3, 0.2]), ("PyTorch", EPOCHS, [0.5, 0.4, 0.3])]
    assert lines(axes[0, 1]) == [(REFERENCE, EPOCHS, [0.7, 0.6, 0.5]), ("cupy", EPOCHS, [0.8, 0.7, 0.6])]
    assert [axis.get_title() for axis in axes[0]] == ["Adam", "Yogi"]


def test_the_distances_stand_below_with_what_is_allowed(axes):
    """But not the reference's, which are 0."""
    assert lines(axes[1, 0]) == [("PyTorch", EPOCHS, [1e-8, 2e-8, 0.0]), ALLOWED]
    assert lines(axes[1, 1]) == [("cupy", EPOCHS, [3e-8, 4e-8, 5e-8]), ALLOWED]
    assert [axis.get_yscale() for axis in axes.flat] == ["linear", "linear", "log", "log"]
    assert [axis.get_xlabel() for axis in axes[1]] == ["epoch", "epoch"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["loss", "distance to\nthe reference"]


def test_a_figure_is_written_in_the_language_asked_for(tmp_path):
    """With a font that has every letter: else this warns, and warnings are errors."""
    figure = plot.draw(CURVES, language="日本語")
    plot.save(figure, tmp_path / "curves")
    upper, _, lower, _ = figure.axes
    assert (upper.get_ylabel(), lower.get_ylabel(), lower.get_xlabel()) == ("損失", "基準からの\n距離", "エポック")
    assert lines(upper)[0][0] == "NumPy（float64）：基準"
    assert lower.texts[0].get_text() == "許容範囲"


def test_a_language_that_is_none_is_refused_and_settings_stay_as_they_are():
    before = dict(matplotlib.rcParams)
    with pytest.raises(ValueError, match="unknown language 'Latin'; known: English, 日本語"):
        plot.draw(CURVES, language="Latin")
    assert plot.style("日本語")["font.family"] == ["DejaVu Sans", "IPAexGothic"]
    assert dict(matplotlib.rcParams) == before


def test_without_a_japanese_font_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib_fontja", None)
    with pytest.raises(ModuleNotFoundError, match="pip install matplotlib-fontja"):
        plot.style("日本語")
    assert "font.family" not in plot.style("English")
