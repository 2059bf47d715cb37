"""The chapter's two sources: the same cells, rendered from the spec, and prose that is so."""

import ast
import contextlib
import functools
import inspect
import io
import itertools
import math
import os
import platform
import re
import subprocess
import sys
import types
from pathlib import Path
from unittest import mock

import matplotlib
import numpy as np
import optax
import oracle
import pytest
from matplotlib import pyplot

import cells
import d2l_adam
import notebooks
import references
from d2l_adam import data, protocol, spec
from d2l_adam.check import markdown

jax = protocol.load("jax").jax
mxnet, torch, tf = protocol.load("mxnet").mxnet, protocol.load("pytorch").torch, protocol.load("tensorflow").tf

TEXTS = {name: (references.FOLDER / f"{name}.md").read_text(encoding="utf-8") for name in references.SOURCES}
CELLS = {name: markdown.read(text) for name, text in TEXTS.items()}
PROSE = {name: [cell.source for cell in read if cell.kind == "markdown"] for name, read in CELLS.items()}
FRAMEWORKS = ("mxnet", "pytorch", "tensorflow", "jax")


def test_both_languages_have_the_same_cells():
    japanese, english = CELLS["adam"], CELLS["adam_origin"]
    assert [(cell.kind, cell.tabs) for cell in japanese] == [(cell.kind, cell.tabs) for cell in english]
    for ours, theirs in zip(japanese, english, strict=True):
        if ours.kind == "code":
            (code, strings), (expected, others) = parsed(ours.source), parsed(theirs.source)
            assert code == expected
            assert all(x == y or JAPANESE.search(x) for x, y in zip(strings, others, strict=True)), theirs.source
            assert not JAPANESE.search(theirs.source)


JAPANESE = re.compile("[ぁ-んァ-ヶ一-龥]")


def parsed(source):
    """Code without its strings, and these; what an f-string computes is code, in whatever order."""
    strings = []

    class Without(ast.NodeTransformer):
        def visit_Constant(self, node):
            if not isinstance(node.value, str):
                return node
            strings.append(node.value)
            return ast.Constant("")

        def visit_JoinedStr(self, node):
            values = [ast.dump(x) for x in node.values if isinstance(x, ast.FormattedValue)]
            strings.append("".join(x.value for x in node.values if isinstance(x, ast.Constant)))
            return ast.Constant("\n".join(sorted(values)))

    return ast.dump(Without().visit(ast.parse(source.replace("%matplotlib", "#")))), strings


def test_both_languages_have_the_same_structure():
    """The same headings' levels, labels, equations, marks and references, in the same order."""
    marks = r"<!-- (?:live: [\w-]+|alt|fold|end fold)"
    for pattern in (
        r"^(?:#+|\*|1\.) ",
        r":label:`\w+`",
        r"\$\$.*?\$\$",
        r":(?:num|eq)ref:`\w+`|:citet?:`[\w.]+`",
        r"^\|",
        marks,
    ):
        found = [re.findall(pattern, text, re.MULTILINE | re.DOTALL) for text in TEXTS.values()]
        if "ref" in pattern:  # word order differs
            found = [sorted(set(references)) for references in found]
        assert found[0] == found[1], pattern
        assert found[0]
    assert JAPANESE.search(TEXTS["adam"])
    # The name of the language apart, which is an argument.
    assert not JAPANESE.search(TEXTS["adam_origin"])


@pytest.mark.parametrize("name", TEXTS)
def test_marks_stand_alone_and_what_is_folded_ends_in_its_section(name):
    for mark in re.findall(r".*<!--.*", TEXTS[name]):
        assert re.fullmatch(r"<!-- (live: (run|race|first-steps|slips|leaves)|alt: .+|fold: .+|end fold) -->", mark)
        assert f"\n\n{mark}\n\n" in TEXTS[name]
        assert any(mark in cell.source for cell in CELLS[name] if cell.tabs is None and cell.kind == "markdown")
    assert len(re.findall("<!-- live: ", TEXTS[name])) == 5
    folds = re.findall(r"^#{2,} |<!-- (fold|end fold)\b", TEXTS[name], re.MULTILINE)
    assert [mark for mark in folds if mark] == ["fold", "end fold"] * 6
    assert "fold,," not in ",".join(folds).replace("end fold", "end")  # no heading within


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("tab", FRAMEWORKS)
def test_every_figure_has_a_text_of_its_own_and_no_mark_is_left(name, tab):
    made = notebooks.notebook(CELLS[name], tab, references.SOURCES[name])
    drawing = [cell for cell in made.cells if cell.cell_type == "code" and DRAWS.search(cell.source)]
    texts = [cell.metadata["alt"] for cell in drawing]
    assert len(texts) == len({*texts}) == 10
    assert all(JAPANESE.search(text) for text in texts) == (name == "adam")
    prose = [cell.source for cell in made.cells if cell.cell_type == "markdown"]
    assert "<!--" not in "".join(prose) and all(prose)
    assert "".join(prose).count("<details><summary>") == "".join(prose).count("</details>") == 2  # answers and hints


DRAWS = re.compile(r"plot\.draw|\.subplots\(|train(?:_concise)?_ch11")


@pytest.mark.parametrize("name", TEXTS)
def test_cells_are_what_the_spec_renders_to(name):
    assert cells.refreshed(TEXTS[name]) == TEXTS[name], "run: make cells"
    rendered = [cell for cell in CELLS[name] if cells.rendered(cell)]
    assert [cell.tabs for cell in rendered] == [None, *((tab,) for tab in FRAMEWORKS)] * 2
    for tab in FRAMEWORKS:
        source = "\n".join(cell.source for cell in rendered if cell.of(tab))
        defined = re.findall(r"^def (\w+)", source, re.MULTILINE)
        assert defined == ["adam_rule", "init_adam_states", "adam", "yogi_rule", "yogi"]


def test_a_cell_that_drifts_is_found_and_mended():
    text = TEXTS["adam"]
    for right, wrong in (("np.sqrt(s_hat) + eps)", "np.sqrt(s_hat)) + eps"), ("(sqrt(s_hat) + eps)", "sqrt(s_hat)")):
        drifted = text.replace(right, wrong, 1)
        assert drifted != text
        assert cells.refreshed(drifted) == text


@pytest.mark.parametrize("name", TEXTS)
def test_marks_are_balanced_and_references_resolve(name):
    text = "\n\n".join(PROSE[name])
    assert text.count("[**") == text.count("**]") >= 5
    assert text.count("$") % 2 == 0
    assert TEXTS[name].count("\n:begin_tab:") == TEXTS[name].count("\n:end_tab:") == 3
    labels = re.findall(r":(?:eq)?label:`(\w+)`", text)
    assert len(labels) == len(set(labels))
    for kind in ("numref", "eqref"):
        assert {*re.findall(f":{kind}:`(\\w+)`", text)} <= {*labels, *references.SECTIONS}
    resolved = "\n".join(references.plain(PROSE[name], references.SOURCES[name]))
    assert not re.search(r":\w+:`|\[\*\*|\*\*\]|:begin_tab:", resolved)
    assert resolved.count(r"\tag{") == text.count(":eqlabel:") >= 8
    anchors = {title.replace(" ", "-") for title in re.findall(r"^#+ (.+)$", resolved, re.MULTILINE)}
    assert {*re.findall(r"\]\(#([^)]+)\)", resolved)} <= anchors


KEYS = ("Kingma.Ba.2014", "Loshchilov.Hutter.2019", "Reddi.Kale.Kumar.2019", "Zaheer.Reddi.Sachan.ea.2018")


def test_the_bibliography_is_cited_and_complete():
    cited = set(re.findall(r":citet?:`([\w.]+)`", TEXTS["adam"]))
    keys = re.findall(r"^@\w+\{([\w.]+),", references.BIBLIOGRAPHY.read_text(), re.MULTILINE)
    assert cited == set(keys) == {*KEYS}
    assert "Zaheer et al. (2018)" in "\n".join(references.plain(PROSE["adam_origin"], "en"))
    assert "Zaheer ら (2018)" in "\n".join(references.plain(PROSE["adam"], "ja"))
    assert references.references("ja").count("\n* ") == len(KEYS)


def test_the_discussions_are_those_of_the_tab():
    for name, read in CELLS.items():
        for tab, thread in zip(FRAMEWORKS[:3], ("358", "1078", "1079"), strict=True):  # there is none for JAX
            [link] = [cell.source for cell in read if cell.tabs == (tab,) and cell.kind == "markdown"]
            assert link.endswith(f"(https://discuss.d2l.ai/t/{thread})"), name


def test_an_unknown_reference_is_named():
    with pytest.raises(KeyError, match="sec_nowhere"):
        references.plain(["See :numref:`sec_nowhere`."], "en")


# ---- the prose: every number in it is recomputed here --------------------------------------------


def numbers(text):
    """The numbers in a text; not those in code, in displayed equations, or of headings, indices and powers."""
    text = re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)
    text = re.sub(r"`[^`]*`|^#.*$|\]\([^)]*\)|^1\. ", "", text, flags=re.MULTILINE)
    text = re.sub(r"10\^\{(-\d+)\}", r"1e\1", text)
    text = re.sub(r"[_^](\{[^}]*\}|\w)", "", text)
    return set(re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", text))


def default(rule, name):
    return inspect.signature(rule).parameters[name].default


def uncorrected(t):
    """How many times too long a step is without the bias correction, under a steady gradient."""
    return (1 - default(spec.adam, "beta1") ** t) / math.sqrt(1 - default(spec.adam, "beta2") ** t)


def yogi_rates(grads):
    """Yogi's effective learning rate, in units of lr, after each gradient."""
    v = s = 0.0
    rates = []
    for t, g in enumerate(grads, start=1):
        _, v, s = spec.yogi(0.0, g, v, s, t, 1.0)
        rates.append(1 / (math.sqrt(s / (1 - 0.999**t)) + default(spec.yogi, "eps")))
    return rates


def steps_to_half(beta2):
    """After how many steps those of Adam have half their length again, once all gradients are ten times smaller."""
    return next(t for t in itertools.count(1) if math.sqrt(0.01 + 0.99 * beta2**t) <= 0.2)


def noise_steps(steps=100, runs=20000):
    """The root mean square of v_hat / sqrt(s_hat), if gradients are nothing but noise, at each step."""
    rng, x, found = np.random.default_rng(0), np.zeros(runs), []
    states, hyperparams = [(np.zeros(runs), np.zeros(runs))], {"lr": 1.0, "t": 1}
    for _ in range(steps):
        before = x.copy()
        protocol.load("numpy").adam([x], [rng.normal(size=runs)], states, hyperparams)
        found.append(math.sqrt(np.mean((x - before) ** 2)))
    return found


def num_states(rule):
    return list(inspect.signature(rule).parameters).index("t") - 2


def amsgrad():
    return namespace_of_the_chapter("from d2l_adam.spec import")["amsgrad_rule"]


def spread():
    finals = [d2l_adam.train("numpy", "adam", seed=seed).losses[-1] for seed in range(20)]
    return max(finals) - min(finals)


STEEP, PERIOD = 450, 300  # exercise 4
SLOPE = 1 - PERIOD
NUMBERS = {
    "0.9": lambda: default(spec.adam, "beta1"),
    "0.999": lambda: default(spec.yogi, "beta2"),
    "1e-6": lambda: default(spec.adam, "eps"),
    "1e-3": lambda: default(spec.yogi, "eps"),
    "0.01": lambda: default(d2l_adam.train, "lr"),
    "3.16": lambda: uncorrected(1),
    "6.57": lambda: max(map(uncorrected, range(1, 2000))),
    "12": lambda: max(range(1, 2000), key=uncorrected),
    "1.26": lambda: uncorrected(1000),
    **{
        text: lambda i=i: yogi_rates([10, 1e-3, 1e-3, 1e-3])[i]
        for i, text in enumerate(("0.100", "0.141", "0.173", "0.200"))
    },
    "0.795": lambda: yogi_rates([1.0] * 1000)[-1],
    "0.23": lambda: noise_steps()[-1],
    "3500": lambda: round(steps_to_half(0.999), -2),
    "350": lambda: round(steps_to_half(0.99), -1),
    "70": lambda: round(steps_to_half(0.95), -1),
    "8": lambda: 4 * (2 + num_states(spec.sgd)),
    "16": lambda: 4 * (2 + num_states(spec.adam)),
    "20": lambda: 4 * (2 + num_states(amsgrad())),
    "10000": lambda: (3 / 0.03) ** 2,
    "32": lambda: 1 / math.sqrt(1 - default(spec.adam, "beta2")),
    "300": lambda: (
        len(data.airfoil()[0]) / default(d2l_adam.train, "batch_size") * default(d2l_adam.train, "num_epochs")
    ),
    "299": lambda: -SLOPE,
    "450": lambda: STEEP,
    "0.889": lambda: SLOPE / -math.sqrt(STEEP**2 - SLOPE**2),
    "10": lambda: 0.03 / 0.003,
    "0.006": spread,
    # The table; that these defaults are those of the libraries is tested below.
    "0.001": lambda: torch.optim.Adam([torch.zeros(1)]).defaults["lr"],
    "1e-8": lambda: torch.optim.Adam([torch.zeros(1)]).defaults["eps"],
    "1e-7": lambda: tf.keras.optimizers.Adam().epsilon,
}
# Small whole numbers of the language and of the algebra, and what a test of its own stands for.
NAMED = {*"0123456", "0.0003", "0.0005", "0.0026", "0.03", "0.3", "0.95", "0.99", "2.4", "2.45", "1000"}


@pytest.mark.parametrize("name", TEXTS)
def test_every_number_of_the_prose_is_recomputed(name):
    found = set().union(*map(numbers, PROSE[name]))
    assert found - NAMED <= set(NUMBERS)
    for text in found - NAMED:
        digits = len(text.partition(".")[2]) if "e" not in text else 12
        assert round(NUMBERS[text](), digits) == float(text), text


def test_the_betas_in_single_precision_are_good_to_five_digits():
    relative = (1 - float(np.float32(0.999))) / (1 - 0.999) - 1
    assert 1e-6 < abs(relative) < 10**-4.5


def test_the_memories_and_the_floor_of_eps():
    beta1, beta2, eps = (default(spec.adam, name) for name in ("beta1", "beta2", "eps"))
    assert pytest.approx(100) == (1 - beta1) / (1 - beta2)  # "a hundred times as long"
    assert math.sqrt(eps) / eps == pytest.approx(1000)  # "a thousand times higher"


BRACKET = "(sqrt(s_hat) + eps)", "sqrt(s_hat) + eps"
SLIPS = [("adam", *BRACKET), ("adam", "**t", "**1"), ("yogi", *BRACKET), ("yogi", "eps=1e-3", "eps=1e-6")]


@functools.cache
def ran():
    """Run the cells for all tabs in NumPy. Return what they define, and what each printed and drew, by its beginning.

    They are the Japanese section's; those of the English one are the same but for their words. Left out are those that
    need a framework's d2l; `compare` compares nothing here.
    """
    d2l = types.SimpleNamespace(plt=pyplot)
    package = types.SimpleNamespace(train=d2l_adam.train, compare=lambda: d2l_adam.compare(tabs=[]))
    names, printed, drawn = {"tab": protocol.load("numpy"), "d2l_adam": package, "d2l": d2l}, {}, {}
    with matplotlib.rc_context():
        for cell in CELLS["adam"]:
            if cell.kind != "code" or cell.tabs or "train_ch11" in cell.source or "@interact" in cell.source:
                continue
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(cell.source, names)
            printed[cell.source] = out.getvalue()
            for number in pyplot.get_fignums():
                drawn[cell.source] = pyplot.figure(number)
                drawn[cell.source].canvas.draw()  # every glyph is there, or this warns, and warnings are errors
            pyplot.close("all")
    return names, printed, drawn


def of_cell(found, text):
    """What belongs to the one cell that contains a text."""
    [value] = [value for source, value in found.items() if text in source]
    return value


def lines(axes):
    """The lines of a panel: label, x and y."""
    return [(line.get_label(), *map(np.asarray, line.get_data())) for line in axes.get_lines()]


def namespace_of_the_chapter(*starts):
    """What the cells for all tabs define that begin so, without their plots."""
    names = {"tab": protocol.load("numpy"), "d2l_adam": d2l_adam}
    for cell in CELLS["adam"]:
        if cell.kind == "code" and cell.tabs is None and cell.source.startswith(starts):
            exec(cell.source, names)
    return names


def test_figures_and_what_is_printed_are_in_the_notebook_s_language():
    _, printed, drawn = ran()
    names = {"adam", "yogi", "amsgrad", *spec.RULES, "sqrt(lr / 2)", "0.1 / sqrt(t)"}
    assert len(drawn) == 5
    for axes in itertools.chain.from_iterable(figure.axes for figure in drawn.values()):
        labels = [axes.get_xlabel(), axes.get_ylabel(), axes.get_title()]
        if legend := axes.get_legend():
            labels += [text.get_text() for text in legend.get_texts()]
        for label in filter(None, labels):
            assert JAPANESE.search(label) or label.lower() in names, label
    for line in "".join(printed.values()).splitlines():
        assert JAPANESE.search(line), line


def test_the_slips_hide_in_the_curve_and_show_in_the_distance():
    names, printed, drawn = ran()
    assert list(names["slips"].values()) == SLIPS
    panels = np.reshape(of_cell(drawn, "wrong.losses").axes, (2, 4))
    texts = of_cell(printed, "wrong.losses").splitlines()
    shown = []
    for upper, lower, text, (title, slip) in zip(*panels, texts, names["slips"].items(), strict=True):
        right, wrong = (d2l_adam.train("numpy", rule) for rule in (slip[0], names["with_slip"](*slip)))
        distances = np.abs(np.subtract(right.losses, wrong.losses))
        assert upper.get_title() == title and text.startswith(title)
        assert re.findall(r"0\.\d{4}", text) == [f"{x.losses[-1]:.4f}" for x in (wrong, right)]
        for (_, x, y), expected in zip(lines(upper) + lines(lower)[:1], (right, wrong, None), strict=True):
            np.testing.assert_array_equal(x, right.epochs)
            np.testing.assert_array_equal(y, expected.losses if expected else distances)
        assert {*lines(lower)[1][2]} == {protocol.TOLERANCE["float32"]}
        assert distances[-1] < 0.0026 < spread()
        assert distances[0] > protocol.TOLERANCE["float32"]  # all leave the line at the first point
        shown.append((distances.max() > 0.01, distances.max() < 0.001, distances[-1] < distances.max() / 4))
    assert sorted(visible for visible, *_ in shown) == [False, False, True, True]
    assert all(fades if visible else hidden for visible, hidden, fades in shown)


def test_a_zero_gradient_with_the_bracket_lost_is_not_a_number():
    names, _, _ = ran()
    step = protocol.load("numpy").step(names["with_slip"](*SLIPS[2]))
    p, states, hyperparams = np.ones(3), [(np.zeros(3), np.zeros(3))], {"lr": 0.01, "t": 1}
    step([p], [np.array([0.0, 1.0, 1.0])], states, hyperparams)
    step([p], [np.array([1.0, 1.0, 0.0])], states, hyperparams)
    assert np.isnan(p).tolist() == [True, False, False]  # only if all so far were zero


def test_the_bias_is_that_of_the_expectation_and_the_correction_removes_it():
    rng, t = np.random.default_rng(0), 5
    grads = rng.normal(1.0, 1.0, size=(t, 100000))
    v = s = 0.0
    for g in grads:
        v, s = 0.9 * v + 0.1 * g, 0.999 * s + 0.001 * g * g
    assert v.mean() == pytest.approx(1 - 0.9**t, rel=0.01)
    assert s.mean() == pytest.approx((1 - 0.999**t) * 2, rel=0.01)


def test_without_the_correction_the_first_steps_are_too_long():
    """By the factor of which the numbers are above: here with the rule itself."""
    v = s = 0.0
    for t in range(1, 1001):
        p, v, s = spec.adam(0.0, 3.0, v, s, t, 1.0, eps=1e-12)
        assert v / math.sqrt(s) == pytest.approx(-uncorrected(t) * p)
        assert p == pytest.approx(-1)
    assert uncorrected(1) == pytest.approx((1 - 0.9) / math.sqrt(1 - 0.999))
    assert min(map(uncorrected, range(1, 1001))) > 1  # too long, throughout


def test_multiplying_the_loss_changes_nothing_but_by_eps():
    grads = np.random.default_rng(0).normal(size=(100, 1))
    path, larger = (oracle.trajectory("adam", np.zeros(1), k * grads, 0.01)[0] for k in (1, 1000))
    np.testing.assert_allclose(path, larger, atol=1e-4)


def test_yogi_moves_by_the_square_and_when_it_is_faster_than_adam():
    for s, g in itertools.product((0.0, 0.5, 3.0), (0.0, 0.1, 0.6, 1.0, 1.5, 4.0)):
        adam, yogi = (rule(1.0, g, 0.0, s, 1, 0.1)[2] for rule in (spec.adam, spec.yogi))
        assert abs(yogi - s) == (pytest.approx(0.001 * g * g) if g * g != s else 0)
        assert yogi >= adam or g * g < s  # when the square is the larger one, at least as fast
        if s / 2 < g * g < s:
            assert yogi < adam < s  # lowered faster
        if 0 < g * g < s / 2:
            assert adam < yogi < s
        assert g or yogi == s  # a zero leaves it


def test_yogi_s_rate_can_grow_early_and_its_steps_sink_and_return():
    rates = yogi_rates([10] + [1e-3] * 3)
    assert rates == sorted(rates)
    steady = np.array(yogi_rates([1.0] * 8000))
    assert steady.argmin() == 999
    assert steady[-1] == pytest.approx(1, abs=2e-3)


def test_yogi_trains_well_without_a_special_start():
    adam, yogi = (d2l_adam.train("numpy", rule).losses[-1] for rule in ("adam", "yogi"))
    assert abs(adam - yogi) < 0.001


def test_amsgrad_is_torch_s():
    rule, p, states = amsgrad(), 1.0, [0.0] * 3
    w = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=0.01, eps=1e-6, amsgrad=True)
    for t, g in enumerate(np.random.default_rng(0).normal(size=300) * np.r_[[1.0] * 100, [0.01] * 200], start=1):
        p, *states = rule(p, float(g), *states, t, 0.01)
        w.grad = torch.tensor([g])
        optimizer.step()
        assert p == pytest.approx(w.item(), abs=1e-14)


def test_a_huge_gradient_shortens_all_later_steps_of_amsgrad_and_not_of_adam():
    grads = [1.0] * 100 + [1000.0] + [1.0] * 20000
    for rule, recovers in ((amsgrad(), False), (spec.adam, True)):
        p, states, raw = 0.0, [0.0] * num_states(rule), []
        for t, g in enumerate(grads, start=1):
            before = p
            p, *states = rule(p, g, *states, t, 1.0)
            raw.append(states[-1])
        assert (abs(p - before) > 0.9) == recovers
        assert (raw == sorted(raw)) != recovers  # but for the bias correction, its rate never grows


def test_a_steady_gradient_moves_by_the_learning_rate_and_noise_by_less():
    rng = np.random.default_rng(0)
    for grads, least, most in ((np.full(500, 30.0), 0.99, 1.01), (rng.normal(size=500), 0.05, 0.5)):
        path = oracle.trajectory("adam", np.zeros(1), grads[:, None], 0.01)[0].ravel()
        assert least < np.abs(np.diff(path)).mean() / 0.01 < most


def shown(pattern):
    """What a cell of the chapter gives for the one group of a pattern."""
    [found] = re.findall(pattern, "\n".join(c.source for c in CELLS["adam"] if c.kind == "code"), re.MULTILINE)
    return ast.literal_eval(found)


def test_useful_learning_rates_span_a_factor_of_ten():
    assert shown(r"^rates = (.*0\.0003.*)$") == [0.0003, 0.003, 0.03, 0.3]
    for rule in ("adam", "yogi"):
        final = {lr: d2l_adam.train("numpy", rule, lr=lr).losses[-1] for lr in (0.0003, 0.003, 0.03, 0.3)}
        assert abs(final[0.003] - final[0.03]) < 0.01
        assert min(final[0.0003], final[0.3]) > final[0.003] + 0.1
        # "the libraries' default of 0.001 would stop half-way here"
        start = d2l_adam.train("numpy", rule, lr=1e-9).losses[-1]
        half = (start + final[0.03]) / 2
        assert d2l_adam.train("numpy", rule, lr=0.001).losses[-1] == pytest.approx(half, abs=0.05)


def test_the_noise_floor_is_the_root_of_half_the_learning_rate():
    rules = namespace_of_the_chapter("from d2l_adam.spec import sqrt, square")
    rng = np.random.default_rng(0)
    for lr in (0.003, 0.03):
        x, squares = np.zeros(2000), []
        step = protocol.load("numpy").step(rules["adam_rule"])
        states, hyperparams = [(np.zeros(2000), np.zeros(2000))], {"lr": lr, "t": 1}
        for _ in range(int(10 / lr)):
            step([x], [x + rng.normal(size=2000)], states, hyperparams)
            squares.append(np.mean(x**2))
        assert math.sqrt(np.mean(squares[len(squares) // 2 :])) == pytest.approx(math.sqrt(lr / 2), rel=0.2)


def test_a_falling_rate_arrives_early_and_stays_close():
    left, right = of_cell(ran()[2], "def distances").axes
    (_, rates, floors), (_, _, theory) = lines(left)
    np.testing.assert_allclose(theory, np.sqrt(rates / 2))
    np.testing.assert_allclose(floors, theory, rtol=0.06)  # six percent
    assert rates.tolist() == [0.001, 0.003, 0.01, 0.03, 0.1]
    large, small, falling = (y for _, _, y in lines(right))
    assert [re.sub(r"[^\d./]", "", label) for label, *_ in lines(right)] == ["0.1", "0.001", "0.1/"]
    near = [int(np.argmax(blocks < 0.1)) for blocks in (small, falling)]
    assert 0 < near[1] < near[0] / 2  # well before the small rate
    assert large[2:].min() > 0.1  # the large rate is there at once, and stays far off
    assert falling[15:].mean() < 1.05 * small[15:].mean() < large[15:].mean() / 3


def test_the_learning_rates_of_exercise_1_are_drawn():
    left, right = of_cell(ran()[2], "runs['adam', lr]").axes
    for (label, x, y), lr in zip(lines(left), (0.0003, 0.003, 0.03, 0.3), strict=True):
        expected = d2l_adam.train("numpy", "adam", lr=lr)
        np.testing.assert_array_equal([x, y], [expected.epochs, expected.losses])
        assert label.endswith(f" {lr:g}")
    for (label, x, y), rule in zip(lines(right), ("adam", "yogi"), strict=True):
        np.testing.assert_array_equal(y, [d2l_adam.train("numpy", rule, lr=lr).losses[-1] for lr in x])
        assert label == rule.capitalize()


def test_when_to_choose_adam():
    """What the panels show, and what the text says of it."""
    names, printed, drawn = ran()
    figure = of_cell(drawn, "def final_losses")
    final = functools.cache(lambda rule, lr, scales: names["final_losses"](rule, lr, list(scales)))
    scales = [(1, 1, 1, 1, 1), (3, 1, 0.3, 0.1, 0.03)]
    rates, best, problems = [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0], [], []
    assert list(names["constants"]) == [
        "sgd", "sgd_momentum", "adagrad", "rmsprop", "adam", "yogi",
    ]  # fmt: skip
    found = re.findall(
        r"(\w+)(?:: loss |：損失 )(\S+?)(?: with learning rate |（学習率 )([\d.]+)", of_cell(printed, "def final")
    )
    found = iter(found)
    for axes, unit in zip(figure.axes, scales, strict=True):
        drawn_lines = lines(axes)
        assert [label for label, *_ in drawn_lines] == list(names["constants"])
        lowest = {}
        for rule, x, y in drawn_lines:
            with np.errstate(over="ignore", invalid="ignore"):
                losses = np.array([final(rule, lr, unit).mean() for lr in rates])
            np.testing.assert_array_equal(x, rates)
            np.testing.assert_array_equal(y, np.where(losses < 10, losses, np.nan))
            at = int(np.nanargmin(y))
            assert 0 < at < len(rates) - 1 or rule == "sgd_momentum"  # the range holds the best; half of it is as good
            assert next(found) == (rule, f"{y[at]:.4f}", f"{rates[at]:g}")
            lowest[rule] = final(rule, rates[at], unit)
        best.append({rule: losses.mean() for rule, losses in lowest.items()})
        problems.append(lowest)
    equal, unequal = best
    assert max(equal.values()) - min(equal.values()) < 0.0005
    assert max(unequal["adam"], unequal["yogi"]) < unequal["sgd"] / 50
    assert unequal["rmsprop"] < unequal["sgd_momentum"] / 5 < unequal["sgd"] / 5
    assert unequal["adagrad"] < unequal["adam"]
    assert (1 - 0.1 * 0.03**2) ** 300 > 0.97  # SGD at its best rate hardly moves along the flattest
    for other in ("sgd", "sgd_momentum"):
        assert (problems[1]["adam"] < problems[1][other]).sum() == 10


def test_when_to_choose_adam_for_a_network():
    names, printed, _ = ran()
    found = re.findall(
        r"(\w+)(?:: loss |：損失 )(\S+?)(?: with learning rate |（学習率 )([\d.]+)",
        of_cell(printed, "def network_losses"),
    )
    rates, best = (0.01, 0.03, 0.1, 0.3, 1.0), {}
    for rule, loss, rate in found:
        with np.errstate(over="ignore", invalid="ignore"):
            losses = {lr: names["network_losses"](rule, lr) for lr in rates}
        at = min(rates, key=lambda lr: losses[lr].mean())
        assert (loss, rate) == (f"{losses[at].mean():.3f}", f"{at:g}")
        assert rates[0] < at < rates[-1]  # the range holds the best
        best[rule] = losses[at]
    assert list(best) == list(names["constants"])
    mean = {rule: losses.mean() for rule, losses in best.items()}
    assert min(mean, key=mean.get) == "adam"
    assert mean["adagrad"] > 2 * mean["adam"]
    for other in ("sgd", "sgd_momentum"):
        assert mean["adam"] < mean[other] / 4
        assert (best["adam"] < best[other]).sum() == 10


def test_the_gradients_of_the_network_are_its_derivatives():
    """Of its first step, by torch's autograd: SGD moves each parameter by them."""
    names, steps = ran()[0], []
    reference = names["reference"]

    def spied(rule):
        def step(params, grads, states, hyperparams):
            steps.append(([p.copy() for p in params], grads))
            reference.step(rule)(params, grads, states, hyperparams)

        return step

    spy = mock.Mock(step=spied, init_states=reference.init_states)
    with mock.patch.dict(names["network_losses"].__globals__, reference=spy):
        names["network_losses"]("sgd", 0.1, num_steps=2)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2, 10, 20, 5))
    y = np.sin(X @ rng.normal(size=(10, 5, 1)))
    X *= [3, 1, 0.3, 0.1, 0.03]
    for (params, grads), X_t, y_t in zip(steps, X, y, strict=True):
        W_1, b_1, W_2, b_2 = params = [torch.tensor(p, requires_grad=True) for p in params]
        error = torch.tanh(torch.tensor(X_t) @ W_1 + b_1) @ W_2 + b_2 - torch.tensor(y_t)
        (error**2 / 2).mean(dim=(1, 2)).sum().backward()
        for p, grad in zip(params, grads, strict=True):
            np.testing.assert_allclose(grad, p.grad.numpy(), rtol=1e-12, atol=1e-14)


def test_the_features_of_the_airfoil_data_are_standardized_and_those_of_the_problem_matter_equally():
    features, _ = data.airfoil()
    np.testing.assert_allclose(features.std(axis=0), 1, atol=0.01)
    sgd, adam = (d2l_adam.train("numpy", rule, lr=lr).losses[-1] for rule, lr in (("sgd", 0.03), ("adam", 0.01)))
    assert sgd == pytest.approx(adam, abs=0.001)  # it does as well
    final = ran()[0]["final_losses"]
    for scales in ([1, 1, 1, 1, 1], [3, 1, 0.3, 0.1, 0.03]):  # no step: the loss is of the targets alone
        start = final("sgd", 1e-30, scales)
        np.testing.assert_allclose(start, final("sgd", 1e-30, scales[::-1]))


def test_adamw_decays_alike_and_l2_by_the_gradient():
    names, printed, _ = ran()
    found = re.findall(r"(\d\.\d\d)", of_cell(printed, "def remainder"))
    assert found == ["0.01", "0.60", "0.60", "0.60", "0.93", "0.60"]
    for size in (0.1, 10.0):  # the same with torch's own two
        for optimizer, decoupled in ((torch.optim.Adam, False), (torch.optim.AdamW, True)):
            w = torch.ones(1, dtype=torch.float64, requires_grad=True)
            steps = optimizer([w], lr=0.01, eps=1e-6, weight_decay=0.1)
            for t in range(1, 501):
                w.grad = torch.tensor([size if t % 2 else -size], dtype=torch.float64)
                steps.step()
            assert names["remainder"](size, decoupled) == pytest.approx(w.item(), abs=1e-12)


def test_for_sgd_l2_and_weight_decay_are_the_same():
    assert spec.sgd(2.0, 0.5 + 0.1 * 2.0, 1, 0.01) == pytest.approx(spec.sgd((1 - 0.01 * 0.1) * 2.0, 0.5, 1, 0.01))


def test_what_the_libraries_mean_by_weight_decay():
    """At a gradient of zero, L2 moves a weight by a step of Adam, decoupled decay by lr * decay."""
    w = torch.ones(1, requires_grad=True)
    w.grad = torch.zeros(1)
    torch.optim.Adam([w], lr=0.01, weight_decay=0.1).step()
    x = mxnet.np.ones(1)
    mxnet.optimizer.get_updater(mxnet.optimizer.Adam(learning_rate=0.01, wd=0.1))(0, mxnet.np.zeros(1), x)
    y = tf.Variable([1.0])
    tf.keras.optimizers.Adam(0.01, weight_decay=0.1).apply([tf.constant([0.0])], [y])
    assert [w.item(), float(x[0]), float(y[0])] == pytest.approx([0.99, 0.99, 0.999], abs=1e-6)


def test_the_constants_of_the_practice():
    first, *_, last = noise_steps()
    assert first == pytest.approx(1, abs=1e-4)  # of plus or minus 1, whatever the noise
    assert max(noise_steps()[1:]) < first
    assert last < 0.25
    assert np.float16(1e-8) == 0
    assert [num_states(rule) for rule in (spec.sgd, spec.sgd_momentum, spec.adam, spec.yogi, amsgrad())] == [
        0,
        1,
        2,
        2,
        3,
    ]
    for beta2, fails in ((0.9, True), (0.99, True), (0.999, False)):  # a short memory makes Adam fail
        assert (exercise_4("adam", beta2=beta2)[0][-1] > 10) == fails
    # The steps of a rule itself, once the gradients become ten times smaller
    v = s = 1.0
    steps = []
    for t in range(10**6, 10**6 + 3600):
        p, v, s = spec.adam(0.0, 0.1, v, s, t, 1.0)
        steps.append(-p)
    assert np.argmax(np.array(steps[100:]) >= 0.5) + 101 == pytest.approx(steps_to_half(0.999), abs=1)


def exercise_4(rule, num_steps=30000, beta2=0.99):
    x, v, s, path, effective = -1.0, 0.0, 0.0, [], []
    for t in range(1, num_steps + 1):
        g = STEEP * x / math.sqrt(1 + x * x) if t % PERIOD == 1 else -1.0
        x, v, s = oracle.step(rule, x, g, v, s, t, 0.1, beta2=beta2)
        path.append(float(x))
        effective.append(0.1 / (math.sqrt(s / (1 - beta2**t)) + oracle.EPS[rule]))
    return path, effective


def test_exercise_4_is_drawn_and_printed_as_it_is():
    names, printed, drawn = ran()
    left, right = of_cell(drawn, "ends = range").axes
    best = NUMBERS["0.889"]()
    assert [label for label, *_ in lines(left)] == [label for label, *_ in lines(right)] == ["Adam", "Yogi", "AMSGrad"]
    for rule, (_, x, y), (_, t, rate) in zip(("adam", "yogi", None), lines(left), lines(right), strict=True):
        path, effective = exercise_4(rule) if rule else names["paths"]["AMSGrad"]
        assert x.tolist() == list(range(PERIOD, 30001, PERIOD))
        np.testing.assert_allclose(y, [abs(path[int(i) - 1] - best) for i in x], rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(rate, [effective[int(i) - 1] for i in t], rtol=1e-9)
        assert t.tolist() == list(range(28501, 30001))
    assert re.findall(r"\d+\.\d+", of_cell(printed, "def slope")) == ["0.889082", "50.5627", "0.8891", "0.8891"]


def test_adam_diverges_and_yogi_converges():
    best = NUMBERS["0.889"]()
    adam, effective = exercise_4("adam")
    yogi, steady = exercise_4("yogi")
    assert adam[-1] == pytest.approx(50.56, abs=0.01)
    ends = adam[PERIOD - 1 :: PERIOD]
    assert ends == sorted(ends)  # farther out at each end
    assert ends[-1] - ends[-11] == pytest.approx(ends[-11] - ends[-21], rel=0.02)  # without end
    assert yogi[-1] == pytest.approx(best, abs=1e-4)
    window = slice(28500, 30000)
    assert 4 < max(effective[window]) / min(effective[window]) < 5  # "more than fourfold"
    assert max(steady[window]) / min(steady[window]) < 1.1  # "hardly moves"
    left, right = adam[28799] - adam[28800], adam[29099] - adam[28800]
    assert 0 < left < right  # the small gradients push farther than the large one pulled
    assert STEEP * 1.5 / math.sqrt(1 + 1.5**2) > PERIOD - 1  # right of the minimum the steep slope outweighs
    maximum, flat = ran()[0]["paths"]["AMSGrad"]
    assert maximum[-1] == pytest.approx(best, abs=1e-4)
    assert max(flat[window]) / min(flat[window]) < 1 + 1e-9  # "not at all"
    for path in (yogi, maximum):
        assert max(abs(x - best) for x in path[window]) > 0.01  # within one, they swing as well


def test_yogi_is_no_universal_cure_and_amsgrad_answers():
    names, printed, _ = ran()
    ends = {2.1: "+", 2.4: "+", 2.45: "-", 3.0: "-", 5.0: "-"}
    found = re.findall(r"C = (\S+?)[:：]\D+?(\S)1\.00\D+?(\S)1\.00\D+?(\S)1\.00", of_cell(printed, "def reddi"))
    assert found == [(f"{C}", "+", yogi, "-") for C, yogi in ends.items()]
    assert all(C - 1 - 1 > 0 for C in ends)  # the gradients' sum: the best point is -1
    x, v, s = 0.0, 0.0, 0.0
    for t in range(1, 31):
        g = 3.0 if t % 3 == 1 else -1.0
        x, v, s = oracle.step("yogi", x, g, v, s, t, 0.5 / math.sqrt(t), beta1=0.0, beta2=0.1)
        x = min(max(float(x), -1.0), 1.0)
    assert names["reddi"](spec.yogi, 3.0, num_steps=30) == pytest.approx(x, abs=1e-12)


@pytest.mark.parametrize(("rule", "C", "end"), [("yogi", 2.4, 1), ("yogi", 2.45, -1), ("adam", 5.0, 1)])
def test_ten_times_as_many_steps_lead_to_the_same_end(rule, C, end):
    assert ran()[0]["reddi"](spec.RULES[rule], C, num_steps=300000) == pytest.approx(end, abs=0.02)


def test_the_recursion_needs_no_correction_and_no_initial_state():
    rule = namespace_of_the_chapter("from d2l_adam.spec import sqrt", "def recursive_rule")["recursive_rule"]
    grads = np.random.default_rng(0).normal(size=1000)
    expected = oracle.trajectory("adam", np.ones(1), grads[:, None], 0.01)[0].ravel()
    for start in (0.0, 5.0):
        p, v, s = 1.0, start, start
        for t, (g, x) in enumerate(zip(grads, expected, strict=True), start=1):
            p, v, s = rule(p, g, v, s, t, 0.01)
            assert abs(p - x) < 1e-13


# ---- the table of built-in optimizers -------------------------------------------------------------


@pytest.mark.parametrize("name", TEXTS)
def test_the_defaults_of_the_table_are_the_libraries(name):
    lines = re.findall(r"^\|.*\|$", TEXTS[name], re.MULTILINE)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines][2:]
    libraries = [re.search("PyTorch|Keras|MXNet|optax|TensorFlow", row[0])[0] for row in rows]
    assert libraries == ["PyTorch", "optax", "Keras", "MXNet", "optax", "TensorFlow"]
    adam, keras, gluon = torch.optim.Adam([torch.zeros(1)]).defaults, tf.keras.optimizers.Adam(), mxnet.optimizer.Adam()
    default = inspect.signature(optax.adam).parameters["eps"].default
    expected = [
        (adam["lr"], adam["eps"]),
        (None, default),
        (float(keras.learning_rate), keras.epsilon),
        (gluon.lr, gluon.epsilon),
    ]
    for row, (lr, eps) in zip(rows, expected, strict=False):
        assert float(row[3]) == pytest.approx(eps)
        assert row[2] in ("none", "なし") if lr is None else float(row[2]) == pytest.approx(lr)
    assert ["eps_hat" in row[1] for row in rows] == [False, False, True, True, False, True]


GRADS = np.random.default_rng(0).normal(size=(1000, 4)) * [1, 1e-4, 30, 1e-3]


def built_in(framework, grads, eps):
    """Positions of a framework's Adam from 0, `eps(t)` set anew at each step."""
    path = []
    if framework == "pytorch":
        p = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([p], lr=0.01)
        for t, g in enumerate(grads, start=1):
            optimizer.param_groups[0]["eps"], p.grad = eps(t), torch.from_numpy(g)
            optimizer.step()
            path.append(p.detach().numpy().copy())
    elif framework == "tensorflow":
        p, optimizer = tf.Variable(np.zeros(4)), tf.keras.optimizers.Adam(0.01)
        optimizer.build([p])
        for t, g in enumerate(grads, start=1):
            optimizer.epsilon = eps(t)
            optimizer.apply([tf.constant(g)], [p])
            path.append(p.numpy())
    elif framework == "jax":
        p, state = jax.numpy.zeros(4), None
        for t, g in enumerate(grads, start=1):
            optimizer = optax.adam(0.01, eps=eps(t))
            state = optimizer.init(p) if state is None else state
            updates, state = optimizer.update(jax.numpy.asarray(g, "float32"), state)
            p = optax.apply_updates(p, updates)
            path.append(np.asarray(p))
    else:
        p, optimizer = mxnet.np.zeros(4, dtype="float64"), mxnet.optimizer.Adam(learning_rate=0.01)
        update = mxnet.optimizer.get_updater(optimizer)
        for t, g in enumerate(grads, start=1):
            optimizer.epsilon = eps(t)
            update(0, mxnet.np.array(g, dtype="float64"), p)
            path.append(p.asnumpy())
    return np.array(path)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_built_in_adam_agrees_when_the_table_says_so(framework):
    expected = oracle.trajectory("adam", np.zeros(4), GRADS, 0.01)[0]
    plain = built_in(framework, GRADS, lambda t: 1e-6)
    hat = built_in(framework, GRADS, lambda t: 1e-6 * math.sqrt(1 - 0.999**t))
    right, other = (plain, hat) if framework in ("pytorch", "jax") else (hat, plain)
    # Keras and MXNet hold the betas in single precision; optax and its parameters are in it.
    assert np.abs(right - expected).max() < (1e-14 if framework == "pytorch" else 2e-5)
    assert np.abs(other - expected).max() > 1e-4


PEERS = Path(__file__).parents[1] / ".venv" / "peers"
PEERS_SCRIPT = """
import sys
sys.path.append(sys.argv[1])
import numpy, torch, jax, optax, pytorch_optimizer, torch_optimizer
jax.config.update("jax_enable_x64", True)
grads = numpy.load(sys.argv[2])

def by_torch(yogi, init):
    p = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer, path = yogi([p], lr=0.01, initial_accumulator=init), []
    for g in grads:
        p.grad = torch.from_numpy(g)
        optimizer.step()
        path.append(p.detach().numpy().copy())
    return path

def by_optax(init):
    yogi = optax.chain(optax.scale_by_yogi(initial_accumulator_value=init), optax.scale(-0.01))
    p, path = jax.numpy.zeros(4), []
    state = yogi.init(p)
    for g in grads:
        step, state = yogi.update(jax.numpy.asarray(g), state, p)
        p = optax.apply_updates(p, step)
        path.append(numpy.asarray(p))
    return path

paths = []
for init in (0.0, 1e-6):
    paths.append([by_torch(torch_optimizer.Yogi, init), by_torch(pytorch_optimizer.Yogi, init), by_optax(init)])
numpy.save(sys.argv[3], paths)
import inspect
for yogi in (torch_optimizer.Yogi, pytorch_optimizer.Yogi):
    names = inspect.signature(yogi).parameters
    print(*(names[name].default for name in ("lr", "eps", "initial_accumulator")))
print(inspect.signature(optax.yogi).parameters["learning_rate"].default is inspect.Parameter.empty)
names = inspect.signature(optax.scale_by_yogi).parameters
print(*(names[name].default for name in ("eps", "initial_accumulator_value")))
"""


def test_other_libraries_yogi_agrees_from_zero(tmp_path):
    assert PEERS.is_dir(), "the other libraries are not installed; run: make setup-tests"
    np.save(tmp_path / "grads.npy", GRADS[:200])
    expected = oracle.trajectory("yogi", np.zeros(4), GRADS[:200], 0.01)[0]
    run = subprocess.run(
        [sys.executable, "-c", PEERS_SCRIPT, PEERS, tmp_path / "grads.npy", tmp_path / "paths.npy"],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        check=True,
    )
    from_zero, from_elsewhere = np.load(tmp_path / "paths.npy")
    assert all(np.abs(path - expected).max() < 1e-14 for path in from_zero)
    assert all(np.abs(path - expected).max() > 1e-14 for path in from_elsewhere)
    assert run.stdout.split() == [*["0.01", "0.001", "1e-06"] * 2, "True", "0.001", "1e-06"]


# Its package asks for a TensorFlow of 2023, its file with Yogi for the optimizer of Keras 2 only.
ADDONS_SCRIPT = """
import importlib.util, inspect, pathlib, sys, types, typing
sys.path.append(sys.argv[1])
import numpy
import tensorflow as tf

for name, content in (
    ("tensorflow_addons", {}),
    ("tensorflow_addons.utils", {}),
    ("tensorflow_addons.utils.types", {"FloatTensorLike": typing.Any}),
    ("tensorflow_addons.optimizers", {"KerasLegacyOptimizer": tf.keras.optimizers.legacy.Optimizer}),
):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(content, __path__=[])
file = pathlib.Path(sys.argv[1], "tensorflow_addons", "optimizers", "yogi.py")
spec = importlib.util.spec_from_file_location("yogi", file)
yogi = importlib.util.module_from_spec(spec)
spec.loader.exec_module(yogi)
paths = []
for init in (0.0, 1e-6):
    for power in (0.5, 0.0):
        p, optimizer, path = tf.Variable(numpy.zeros(4)), yogi.Yogi(0.01, initial_accumulator_value=init), []
        for t, g in enumerate(numpy.load(sys.argv[2]), start=1):
            optimizer._hyper["epsilon"] = 1e-3 * (1 - 0.999**t) ** power
            optimizer.apply_gradients([(tf.constant(g), p)])
            path.append(p.numpy())
        paths.append(path)
numpy.save(sys.argv[3], paths)
names = inspect.signature(yogi.Yogi).parameters
print(*(names[name].default for name in ("learning_rate", "epsilon", "initial_accumulator_value")))
optimizer._create_all_weights([q := tf.Variable(1.0)])
print(optimizer.get_slot(q, "m").numpy())
"""


@pytest.mark.skipif(
    sys.version_info >= (3, 12) or (sys.platform != "darwin" and platform.machine() != "x86_64"),
    reason="the last TensorFlow Addons is for Python 3.11, on x86-64 or a Mac",
)
def test_the_yogi_of_tensorflow_addons_agrees_from_zero_with_eps_hat(tmp_path):
    np.save(tmp_path / "grads.npy", GRADS[:200])
    run = subprocess.run(
        [sys.executable, "-c", ADDONS_SCRIPT, PEERS, tmp_path / "grads.npy", tmp_path / "paths.npy"],
        capture_output=True,
        text=True,
        env=os.environ | {"TF_USE_LEGACY_KERAS": "1"},
    )
    assert run.returncode == 0, run.stderr
    expected = oracle.trajectory("yogi", np.zeros(4), GRADS[:200], 0.01)[0]
    distances = [np.abs(path - expected).max() for path in np.load(tmp_path / "paths.npy")]
    assert [bool(distance < 1e-6) for distance in distances] == [True, False, False, False]
    assert run.stdout.split() == ["0.01", "0.001", "1e-06", "0.0"]


def test_no_framework_of_the_three_ships_yogi():
    for optimizers in (torch.optim, tf.keras.optimizers, mxnet.optimizer):
        assert hasattr(optimizers, "Adam")
        assert not hasattr(optimizers, "Yogi")
