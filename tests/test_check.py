"""The check: every defect that is put into a tab is found and named, and nothing that is right is called wrong."""

import re
from pathlib import Path

import pytest
from sections import OPTIMIZERS, section

from d2l_adam import check

TABS = ("mxnet", "pytorch", "tensorflow")
CHAPTER = Path(__file__).parents[1] / "chapter_optimization"


def put(old, new):
    """A defect: some text of the right code replaced, once."""

    def change(text):
        assert old in text, text
        return text.replace(old, new, 1)

    return change


def both(one, other):
    return lambda text: other(one(text))


# By optimizer: a defect, and what has to be said of it.
DEFECTS = {
    "adam": [
        (put("/ (sqrt(s_hat) + eps)", "/ sqrt(s_hat) + eps"), "eps outside the fraction"),
        (put("lr * v_hat / (sqrt(s_hat) + eps)", "(lr * v_hat / sqrt(s_hat) + eps)"), "eps outside the fraction"),
        (put("sqrt(s_hat) + eps", "sqrt(s_hat + eps)"), "eps inside the root"),
        (put("\nt = t + 1", ""), "t never advanced"),
        (put("\nt = t + 1", "\nt, for each p = t + 1"), "t advanced for each parameter, not for each step"),
        (put("1e-6", "1e-8"), "eps = 1e-08 instead of 1e-06"),
        (put("1e-6", "10 ** -3"), "eps = 0.001 instead of 1e-06"),
        (put("1e-6", "1 / 4e5"), "eps = 2.5e-06 instead of 1e-06"),
        (put("0.9,", "0.85,"), "beta1 = 0.85 instead of 0.9"),
        (put("0.999", "0.99"), "beta2 = 0.99 instead of 0.999"),
        (put("* square(g)", "* g"), "no square: g for square(g), in s"),
        (put("v / (1 - beta1 ** t)", "v"), "the bias of v not corrected"),
        (put("s / (1 - beta2 ** t)", "s"), "the bias of s not corrected"),
        (put("p - lr", "p + lr"), "the sign flipped in p - lr * v_hat / (sqrt(s_hat) + eps), in p"),
        (put("1 - beta2 ** t", "1 + beta2 ** t"), "the sign flipped in 1 - beta2 ** t, in s_hat"),
        (put("v = beta1", "v not stored = beta1"), "v not stored"),
        (put("s = beta2", "s not stored = beta2"), "s not stored"),
        (put("beta2 * s", "beta2 * v"), "v for s in s"),
        (put("(1 - beta1) * g", "g"), "the factor (1 - beta1) left out of v"),
        (put(" + eps", ""), "eps left out of p"),
        (put("lr * v_hat", "0.01 * v_hat"), "lr = 0.01 whatever hyperparams says"),
        (put("1 - beta1 ** t", "1 - beta1"), "beta1 for beta1 ** t, in v_hat"),
        (put("sqrt(s_hat)", "s_hat"), "no sqrt: s_hat for sqrt(s_hat), in p"),
    ],
    "yogi": [
        (put("1e-3", "1e-6"), "eps = 1e-06 instead of 0.001"),
        (put("sign(square(g) - s) * ", ""), "the factor sign(square(g) - s) left out of s"),
        (put("- s) * square(g)", "- s)"), "the factor square(g) left out of s"),
        (put("sign(square(g) - s)", "sign(s - square(g))"), "s - square(g) for square(g) - s, in s"),
        (put("sign(square(g) - s) * square(g)", "(square(g) - s)"), "s as in adam"),
    ],
    "sgd": [(put("- lr", "+ lr"), "the sign flipped in p - lr * g, in p")],
    "sgd_momentum": [
        (put("+ g", "+ (1 - momentum) * g"), "the factor (1 - momentum) before g, in v"),
        (put("momentum * v", "0.8 * v"), "momentum = 0.8 whatever hyperparams says"),
    ],
    "adagrad": [(put("s + square", "square"), "s left out of s")],
    "rmsprop": [(put("sqrt(s + eps)", "(sqrt(s) + eps)"), "eps outside the root: sqrt(s) + eps, in p")],
    "adadelta": [(put("square(step)", "square(g)"), "g for d in v")],
}
SEEDED = [(name, number, tab) for name, its in DEFECTS.items() for number in range(len(its)) for tab in TABS]
# Those of the book, and some in which one defect hides much of the other.
PAIRS = [
    ("adam", (0, 3)), ("yogi", (-1, 0)), ("adam", (2, 5)), ("adam", (3, 9)), ("adam", (4, 8)),
    ("adam", (11, 12)), ("adam", (15, 10)), ("adam", (1, 18)), ("yogi", (0, 1)), ("rmsprop", (0, -1)),
]  # fmt: skip


@pytest.fixture(scope="module")
def sections(tmp_path_factory):
    """Files with a defect in one tab, the other being right; and a chapter of all optimizers that is right."""
    folder = tmp_path_factory.mktemp("book")
    files = {}
    for name, number, tab in SEEDED:
        files[name, number, tab] = section(name, ("numpy", tab), {tab: DEFECTS[name][number][0]})
    extra = DEFECTS | {
        "yogi": [*DEFECTS["yogi"], DEFECTS["adam"][0]],
        "rmsprop": [*DEFECTS["rmsprop"], (put("1e-6", "1e-4"), "eps = 0.0001 instead of 1e-06")],
    }
    for name, (one, other) in PAIRS:
        tab = TABS[(one + other) % 3]
        (first, *words), (second, *more) = extra[name][one], extra[name][other]
        files[name, (one, other), tuple(sorted(words + more))] = section(
            name, ("numpy", tab), {tab: both(first, second)}
        )
    for name in OPTIMIZERS:
        files["clean", name] = section(name, TABS)
    paths = {}
    for number, (key, text) in enumerate(files.items()):
        paths[key] = folder / f"{number}.md"
        paths[key].write_text(text)
    return paths


@pytest.fixture(scope="module")
def report(sections):
    return check.check(list(sections.values()))


def of(report, kind, file):
    return [x for x in report.of(kind) if x.file == str(file)]


def test_every_section_could_be_checked(report):
    assert report.of("unchecked") == []
    assert report.status == 1


@pytest.mark.parametrize(("name", "number", "tab"), SEEDED)
def test_a_defect_is_found_and_named(name, number, tab, sections, report):
    file = sections[name, number, tab]
    [found] = of(report, "drift", file)
    assert (found.name, found.tab) == (name, tab)
    assert file.read_text().split("\n")[found.line - 1].startswith(f"def {name}(")
    assert (DEFECTS[name][number][1],) in found.causes, found.text()
    assert re.match(r"differs from numpy and the spec from step \d+ \(max ", found.message)


@pytest.mark.parametrize(("name", "pair"), PAIRS)
def test_two_defects_at_once_are_named_both(name, pair, sections, report):
    [(key, file)] = [(key, file) for key, file in sections.items() if key[:2] == (name, pair)]
    [found] = of(report, "drift", file)
    assert key[2] in [tuple(sorted(some)) for some in found.causes], found.text()


def test_what_is_right_is_not_called_wrong(sections, report):
    for key, file in sections.items():
        if key[0] == "clean":
            assert of(report, "drift", file) == of(report, "note", file) == []
            [compared] = [x for x in report.compared if x.file == str(file)]
            assert compared.verdict.groups == [list(TABS)]
            assert compared.verdict.matches_spec
            assert compared.verdict.rule == key[1]


def test_rounding_and_drift_are_far_apart(report):
    rounding, smallest = report.margin()
    assert rounding < 0.3
    assert smallest > 10
