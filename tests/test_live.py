"""What runs in the reader's browser: the rules as JavaScript, and the live figures of the pages."""

import itertools
import re

import numpy as np
import oracle
import pytest
import rules
from test_page import SECTION, SOURCES, browser, build, visits, write_section  # noqa: F401

import live
from d2l_adam import TABS, protocol, spec
from d2l_adam.render import render
from d2l_adam.rule import Rule
from d2l_adam.spec import maximum, sign

RNG = np.random.default_rng(1)
REGIMES = {
    "order one": RNG.normal(size=100),
    "1e-4": 1e-4 * RNG.normal(size=100),
    "large": 1e4 * RNG.normal(size=100),
    "zeros between": RNG.normal(size=100) * (np.arange(100) % 3 > 0),
    "of different size": RNG.normal(size=100) * 10.0 ** RNG.integers(-2, 3, size=100),
}
FOLLOW = """([code, grads, row, constants]) => {
    const rule = eval(code);
    return grads.map((g, i) => row = rule(row[0], g, ...row.slice(1), i + 1, constants));
}"""


@pytest.fixture(scope="module")
def page(browser):  # noqa: F811
    page = browser.new_page()
    yield page
    page.close()


def follow(page, rule, grads, start, constants):
    """The rows of (p, *state) that a rule takes in the browser."""
    code = f"{{{render('javascript', rule)}{Rule(rule).name}}}"
    return np.array(page.evaluate(FOLLOW, [code, grads.tolist(), list(start), constants]))


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("name", [name for name, row in rules.TABLE.items() if isinstance(row.rule, str)] + ["amsgrad"])
def test_rules_make_the_steps_of_the_equations(page, name, regime):
    row, grads = rules.TABLE[name], REGIMES[regime]
    constants = {name: x for name, x in row.hyperparams.items() if name != "t"}
    found = follow(page, row.rule, grads, (1.0, *[0.0] * row.states), constants)
    expected = rules.trajectory(row, 1.0, grads)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)  # what is written apart rounds otherwise


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("name", spec.SECTION)
def test_adam_and_yogi_are_those_of_the_oracle(page, name, regime):
    found = follow(page, name, REGIMES[regime], (1.0, 0.0, 0.0), {"lr": 0.01})
    np.testing.assert_allclose(found.T, oracle.trajectory(name, 1.0, REGIMES[regime], 0.01), rtol=1e-13, atol=1e-15)
    unmoved = follow(page, name, np.zeros(2), (1.0, 0.0, 0.0), {"lr": 0.01})
    np.testing.assert_array_equal(unmoved, [[1.0, 0.0, 0.0]] * 2)


def of_everything(p, g, v, old, t, lr=0.5, floor=-0.25, decay=(1 / 8)):
    """A sign before a power, powers of powers, a local name that is changed, a word in a word, the old parameter."""
    g = +g - -(decay**2)
    x = -(g**2) + 2 ** -((v**2) ** 1) + +(floor**2)
    x = sign(x) * abs(x) * (-lr) ** 2 - (1 - (2 - x)) / (3 / (4 / t))
    v = maximum(floor, maximum(g, -1.0)) + v * (p - old)
    return p - lr * x, v + 1e-6, p


def test_a_rule_of_everything(page):
    grads, row = REGIMES["order one"], (1.0, 0.0, 0.0)
    for t, found in enumerate(follow(page, of_everything, grads, row, {}), 1):
        row = of_everything(row[0], float(grads[t - 1]), *row[1:], t)
        np.testing.assert_allclose(found, row, rtol=1e-13)


def words(p, g, v, t, lr):
    v = maximum(v, g)
    return p - sign(g), v


def test_words_take_what_is_no_number_as_the_spec_does(page):
    for v, g in [(1.0, np.nan), (np.nan, 1.0), (1.0, 2.0), (0.0, -0.0)]:
        np.testing.assert_array_equal(follow(page, words, np.array([g]), (0.0, v), {}), [words(0.0, g, v, 1, 0.0)])


# The figures, in pages of a small section


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    text = SECTION + "".join(f"\n<!-- live: {name} -->\n" for name in live.FIGURES)
    options = write_section(folder, text)
    done = build(*options)
    assert done.exit_code == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def opened(browser, site):  # noqa: F811
    """Both pages, for tests that leave the figures as they were."""
    generator = visits(browser, site)
    visit = next(generator)
    yield {language: visit(f"{language}/adam.html") for language in SOURCES}
    next(generator, None)


@pytest.fixture
def visit(browser, site):  # noqa: F811
    yield from visits(browser, site)


def of(page, name):
    return page.locator(f"figure.live-{name}")


def note(page, name):
    return of(page, name).locator(".live-note").inner_text()


def drawn(page, name):
    """All that a figure shows beside its controls: its paths, and what it says of them."""
    return of(page, name).evaluate(
        "node => [...node.querySelectorAll('path, .live-note, td:not(:has(label))')].map("
        "part => part.getAttribute('d') ?? part.textContent).join()"
    )


def numbers(text):
    """The numbers that a text names, in their order, those with powers of ten among them."""
    plain = text.translate(str.maketrans("\u2212⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "--0123456789")).replace(",", "")
    plain = re.sub(r"(?:(-?[\d.]+) \xd7 )?10(-\d+)", lambda match: f"{match[1] or 1}e{match[2]}", plain)
    return [float(x) for x in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?", plain)]


@pytest.mark.parametrize("language", SOURCES)
def test_every_control_moves_its_figure_by_keyboard(visit, language):
    page = visit(f"{language}/adam.html")
    seen = 0
    for name in ("Adagrad", "Adadelta"):
        of(page, "race").get_by_role("checkbox", name=name).check()
    for name in live.FIGURES:
        for index in range(of(page, name).locator("select, input").count()):
            control = of(page, name).locator("select, input").nth(index)
            if not control.is_visible():
                continue
            before, kind = drawn(page, name), control.get_attribute("type")
            key = {"checkbox": "Space", "range": "ArrowRight"}.get(kind, "ArrowDown")
            if kind == "range" and control.input_value() == control.get_attribute("max"):
                key = "ArrowLeft"
            label = of(page, name).locator(f"label[for={control.get_attribute('id')}]") if kind != "checkbox" else None
            control.focus()
            page.keyboard.press(key)
            described = control.get_attribute("aria-label") or label is None or label.inner_text()
            assert drawn(page, name) != before, (name, described)
            assert described
            if kind == "checkbox":
                page.keyboard.press("Space")
            seen += 1
    assert seen > 30


@pytest.mark.parametrize("name", live.SETTINGS)
def test_the_run_in_the_browser_is_the_reference(opened, name):
    for page in opened.values():
        of(page, "run").get_by_role("combobox").select_option(name)
        printed = numbers(note(page, "run"))
        text = of(page, "run").locator(".live-note")
        assert float(text.get_attribute("data-distance")) <= 1e-12
        assert printed[-1] == pytest.approx(float(text.get_attribute("data-distance")), rel=0.06)
    losses = page.evaluate("name => LIVE.train(name, LIVE.settings[name])", name)
    assert printed[-2] == pytest.approx(losses[-1], rel=1e-3)
    if name in spec.SECTION:
        np.testing.assert_allclose(losses, oracle.curve(name), rtol=0, atol=1e-12)
        measured = page.evaluate("name => Object.values(LIVE.curves).map(curve => curve[name])", name)
        assert len(measured) == len(TABS)
        np.testing.assert_allclose(measured, [losses] * len(TABS), rtol=0, atol=1e-6)


def test_the_run_follows_its_sliders(visit):
    page = visit("en/adam.html")
    for label, places in (("learning rate η", 5), ("β₁", -2), ("β₂", -1), ("ε", 3)):
        of(page, "run").get_by_role("slider", name=label).focus()
        for _ in range(abs(places)):
            page.keyboard.press("ArrowRight" if places > 0 else "ArrowLeft")
    given = {"beta1": 0.7, "beta2": 0.995, "eps": 1e-3}
    assert of(page, "run").locator("output").all_inner_texts() == ["0.05", "0.7", "0.995", "0.001"]
    history = protocol.train("numpy", "adam", lr=0.05, dtype="float64", hyperparams=given)
    found = page.evaluate("given => LIVE.train('adam', given)", given | {"lr": 0.05})
    np.testing.assert_allclose(found, history.losses, rtol=0, atol=1e-12)
    assert numbers(note(page, "run"))[0] == pytest.approx(history.losses[-1], rel=1e-3)
    of(page, "run").get_by_role("button").click()
    assert of(page, "run").locator("output").all_inner_texts() == ["0.01", "0.9", "0.999", "10⁻⁶"]


def test_the_slips_are_changed_rules(visit):
    page = visit("en/adam.html")
    boxes = [of(page, "slips").get_by_role("group", name=name.capitalize()) for name in live.SLIPS]
    for chosen in ([True, False], [False, True], [True, True]):
        expected = []
        for (name, slips), box in zip(live.SLIPS.items(), boxes, strict=True):
            for checkbox, on in zip(box.get_by_role("checkbox").all(), chosen, strict=True):
                checkbox.set_checked(on)
            right, wrong = (
                np.array(protocol.train("numpy", rule, dtype="float64").losses)
                for rule in (name, live.changed(name, *itertools.compress(slips, chosen)))
            )
            expected += [wrong[-1], right[-1], abs(wrong - right).max()]
            assert abs(wrong - right)[0] > 1e-6  # what the text and the picture's description say
            assert abs(wrong - right)[-1] < 3e-3
        np.testing.assert_allclose(numbers(note(page, "slips")), expected, rtol=0.05)
    assert "NaN" not in note(page, "slips")
    of(page, "slips").get_by_role("checkbox").first.check()
    assert note(page, "slips").count("final loss NaN instead of 0.24") == 2
    for checkbox in of(page, "slips").get_by_role("checkbox").all()[1:]:
        checkbox.uncheck()
    assert numbers(note(page, "slips"))[2::3] == [0, 0]


def test_the_first_steps_are_those_of_the_formula(opened):
    steps = [(1 - 0.9**t) / (1 - 0.999**t) ** 0.5 for t in range(1, 1001)]
    assert f"{steps[0]:.2f}" == "3.16" and max(steps) > 6
    longest = steps.index(max(steps)) + 1
    assert numbers(note(opened["en"], "first-steps")) == [1, 3.16, float(f"{max(steps):.3g}"), longest]
    assert "3.16" in live.TEXTS["ja"]["figures"]["first-steps"]["caption"]


def test_adam_leaves_and_yogi_stays_or_leaves_too(visit):
    page = visit("ja/adam.html")
    assert numbers(note(page, "leaves")) == [0.8891, 30000, 50.56, 0.8891]
    of(page, "leaves").get_by_role("combobox").select_option("reddi")
    slider = of(page, "leaves").get_by_role("slider")
    assert numbers(note(page, "leaves")) == pytest.approx([-1, 30000, 1, 1], abs=0.01)
    slider.focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert of(page, "leaves").locator("output:visible").inner_text() == "2.5"
    assert numbers(note(page, "leaves")) == pytest.approx([-1, 30000, 1, -1], abs=0.01)


def test_the_race_runs_the_rules(visit):
    page = visit("en/adam.html")
    texts = of(page, "race").locator("td.live-height").all_inner_texts()
    rule, (x, y) = spec.RULES["adam"], [(-5.0, 0.0, 0.0), (-2.0, 0.0, 0.0)]
    for t in range(1, 61):
        x, y = rule(x[0], 0.2 * x[0], *x[1:], t, 0.3), rule(y[0], 4 * y[0], *y[1:], t, 0.3)
    assert float(texts[0]) == pytest.approx(0.1 * x[0] ** 2 + 2 * y[0] ** 2, rel=0.05)
    before = drawn(page, "race")
    of(page, "race").get_by_role("checkbox", name="bias correction").uncheck()
    assert drawn(page, "race") != before


def test_the_start_of_the_race_is_moved_by_mouse_touch_and_keyboard(visit):
    page = visit("en/adam.html", has_touch=True)
    start = of(page, "race").locator(".live-handle")

    def place():
        return numbers(start.get_attribute("aria-valuetext").replace(",", " "))

    assert place() == [-5, -2]
    start.focus()
    for key in ("ArrowRight", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
    assert place() == [-4.9, -1.8]
    before = drawn(page, "race")
    stage = of(page, "race").locator(".live-stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()

    def at(x, y):
        return box["x"] + (x + 6) / 9 * box["width"], box["y"] + (3 - y) / 6 * box["height"]

    page.mouse.move(*at(-4.9, -1.8))
    page.mouse.down()
    page.mouse.move(*at(0, 0), steps=3)
    assert place() == pytest.approx([0, 0], abs=0.05)
    assert drawn(page, "race") != before
    page.mouse.up()
    page.touchscreen.tap(*at(-3, 1.5))
    assert place() == pytest.approx([-3, 1.5], abs=0.05)
    touch = page.context.new_cdp_session(page)
    for kind, points in (("Start", [(-3, 1.5)]), ("Move", [(-1, 1)]), ("Move", [(1, -2)]), ("End", [])):
        where = [dict(zip("xy", at(*point), strict=True)) for point in points]
        touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": where})
        page.wait_for_timeout(50)  # moves of a finger are handed on with the next frame
    assert place() == pytest.approx([1, -2], abs=0.05)
    assert stage.bounding_box() == box, "the page scrolls"


def test_the_race_plays(visit):
    for motion in ("reduce", "no-preference"):
        page = visit("en/adam.html", reduced_motion=motion)
        race = of(page, "race")
        time = race.get_by_role("slider", name="step t")
        race.get_by_role("button", name="Reset").click()
        race.get_by_role("button", name="Step").click()
        assert time.get_attribute("aria-valuetext") == "1"
        race.get_by_role("button", name="Play").click()
        if motion == "reduce":
            assert time.get_attribute("aria-valuetext") == "200"
        else:
            race.get_by_role("button", name="Pause").wait_for()
            page.wait_for_function("document.querySelector('.live-player input').value > 2")
            race.get_by_role("button", name="Pause").click()
            paused = time.evaluate("node => node.valueAsNumber")
            page.wait_for_timeout(300)
            assert time.evaluate("node => node.valueAsNumber") == paused < 200


def test_where_scripts_are_off_and_in_print_there_is_a_picture(visit):
    for language in SOURCES:
        page = visit(f"{language}/adam.html", java_script_enabled=False)
        for name, texts in live.TEXTS[language]["figures"].items():
            image = of(page, name).locator("img")
            assert image.is_visible() and image.get_attribute("alt") == texts["picture"]
            assert texts["caption"] in of(page, name).locator("figcaption").inner_text()
        page = visit(f"{language}/adam.html")
        for media, shown in (("screen", False), ("print", True)):
            page.emulate_media(media=media)
            for name in live.FIGURES:
                image = of(page, name).locator("img")
                assert image.is_visible() == shown != of(page, name).locator(".live-box").is_visible()
                assert image.evaluate("node => node.complete && node.naturalWidth > 0")


def test_a_phone_scrolls_one_way(visit):
    page = visit("ja/adam.html", viewport={"width": 360, "height": 740})
    for name in live.FIGURES:
        assert of(page, name).evaluate("node => node.scrollWidth <= node.clientWidth"), name
        for node in of(page, name).locator("select, button, input, .live-plot text").all():
            box = node.bounding_box()
            assert box is None or (box["x"] >= 0 and box["x"] + box["width"] <= 360), (name, node)


def test_words_and_sizes(site):
    assert live.TEXTS["ja"].keys() == live.TEXTS["en"].keys()
    for language in SOURCES:
        assert sum(file.stat().st_size for file in (site / language).rglob("live*")) < 1e6


def test_a_change_that_finds_nothing_to_change_is_refused():
    with pytest.raises(ValueError, match=r"the rule sgd has no .* to be changed; bring CHANGES up to date"):
        live.changed("sgd", "bracket")
