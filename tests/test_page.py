"""The pages of the section: built from the executed notebooks, and used in a real browser."""

import functools
import os
import re
import shutil
import warnings
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import nbformat
import pytest
from click.testing import CliRunner
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from playwright.sync_api import sync_playwright

import page as script

pytestmark = pytest.mark.needs("mxnet", "pytorch", "tensorflow", "jax")
CHAPTER = Path(__file__).parents[1] / "chapter_optimization"
SOURCES = {"ja": "adam", "en": "adam_origin"}
OTHER = {"ja": "en", "en": "ja"}
NAMES = {"mxnet": "MXNet", "pytorch": "PyTorch", "tensorflow": "TensorFlow", "jax": "JAX"}
SHOWN = "node => node.checkVisibility()"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def build(*options):
    """Build pages; the folder for their sources is one beside them, as test files run side by side."""
    scratch = options[options.index("--out") + 1].with_name("page")
    with warnings.catch_warnings(action="ignore"):  # what Sphinx will drop is its extensions' own
        return CliRunner().invoke(script.main, [*map(str, options), "--scratch", str(scratch)])


@pytest.fixture(scope="session")
def site(notebooks, tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "html"
    done = build("--notebooks", notebooks, "--out", out)
    assert done.exit_code == 0, done.stderr
    assert "en: building" in done.stdout
    return out


@pytest.fixture(scope="module")
def browser():
    names = [os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"]
    chromium = next(filter(None, map(shutil.which, filter(None, names))), None)
    if not chromium:
        reason = "no Chromium found: install one, or name it in the variable CHROMIUM"
        # No package index has a browser, and the rest of the suite needs none; CI installs one, and may not go without.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, site):
    """Open a page; whatever the test does with it, no request leaves the machine and nothing is complained of."""
    yield from visits(browser, site)


@pytest.fixture(scope="module", params=SOURCES)
def opened(request, browser, site):
    """A language and its page, for tests that only look."""
    generator = visits(browser, site)
    yield request.param, next(generator)(f"{request.param}/adam.html", color_scheme="dark")
    next(generator, None)


def visits(browser, site):
    contexts, complaints = [], []

    def look(request):
        if not request.url.startswith(("file:", "data:")):
            complaints.append(request.url)

    def visit(address, folded=False, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", look)
        page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((site / urldefrag(address).url).as_uri() + "#" * ("#" in address) + urldefrag(address).fragment)
        ready(page)
        if not folded:
            unfold(page)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []


def ready(page):
    if page.evaluate("Boolean(window.MathJax)"):
        page.evaluate("MathJax.startup.promise.then(() => true)")
    page.wait_for_timeout(50)


def test_answers_are_folded_until_they_are_asked_for_or_printed(visit):
    page = visit("en/adam.html", folded=True)
    answers = page.locator("details.fold", has_text="Answers").first
    assert not page.evaluate("[...document.querySelectorAll('details.fold')].some(x => x.open)")
    assert not answers.get_by_text("Too long").is_visible()
    answers.locator("summary").press("Enter")
    assert answers.get_by_text("Too long").is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("[...document.querySelectorAll('details.fold')].every(x => x.open)")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.querySelectorAll('details.fold[open]').length") == 1


def unfold(page):
    page.eval_on_selector_all("details", "all => all.forEach(details => { details.open = true })")


def panels(page):
    """For each group of tabs, the tabs whose panels are shown."""
    unfold(page)
    return page.eval_on_selector_all(
        ".tabs",
        "groups => groups.map(group => [...group.querySelectorAll('.tab')].filter(tab => tab.checkVisibility())"
        ".map(tab => ['mxnet', 'pytorch', 'tensorflow', 'jax'].find(name => tab.classList.contains(name))))",
    )


def selected(page):
    return page.eval_on_selector_all("[role=tab][aria-selected=true]", "tabs => tabs.map(tab => tab.dataset.name)")


def prose(page):
    """The text of the page without code and formulas."""
    return page.evaluate(
        "() => { const article = document.querySelector('article').cloneNode(true);"
        "article.querySelectorAll('pre, code, mjx-container').forEach(node => node.replaceWith('x'));"
        "return article.textContent; }"
    )


@pytest.mark.parametrize("language", SOURCES)
def test_a_tab_switches_every_group(visit, language):
    page = visit(f"{language}/adam.html")
    groups = len(panels(page))
    assert groups > 5
    for bar, name in ((0, "tensorflow"), (groups - 1, "mxnet"), (1, "jax"), (2, "pytorch")):
        page.locator(".tab-bar").nth(bar).get_by_role("tab", name=NAMES[name]).click()
        assert panels(page) == [[name]] * groups
        assert selected(page) == [name] * groups
        # Code, what it printed and what it drew are all of this tab.
        shown = []
        for other in NAMES:
            text = "{}：2 エポック後の損失は" if (language, other) == ("ja", "pytorch") else "{}: loss "  # as executed
            shown.append(page.get_by_text(text.format(other)).is_visible())
        assert shown == [other == name for other in NAMES]
        assert page.locator(f".tab.{name} .output img").first.is_visible()


@pytest.mark.needs("numpy")
@pytest.mark.parametrize("tabs", [("pytorch",), ("mxnet", "tensorflow")], ids=" and ".join)
def test_a_page_has_the_tabs_whose_notebooks_there_are(notebooks, browser, tmp_path, tabs):
    for tab in tabs:
        shutil.copytree(notebooks / tab, tmp_path / "notebooks" / tab)
    done = build("--notebooks", tmp_path / "notebooks", "--out", tmp_path / "html")
    assert done.exit_code == 0, done.stderr
    generator = visits(browser, tmp_path / "html")
    page = next(generator)("en/adam.html")
    assert [page.get_by_text(f"{tab}: loss ").count() for tab in NAMES] == [tab in tabs for tab in NAMES]
    assert page.get_by_text(f"{tabs[-1]}: loss ").is_visible()
    if len(tabs) > 1:
        bar = page.locator(".tab-bar").first
        assert bar.get_by_role("tab").count() == len(tabs)
        bar.get_by_role("tab", name="MXNet").click()
        assert {*map(tuple, panels(page))} == {("mxnet",)}
        page.keyboard.press("ArrowRight")
        assert {*map(tuple, panels(page))} == {("tensorflow",)}
    next(generator, None)


def test_the_choice_stays(visit):
    page = visit("ja/adam.html")
    for name, language in (("tensorflow", "en"), ("mxnet", "ja")):
        page.get_by_role("tab", name=NAMES[name]).first.click()
        page.reload()
        assert {*selected(page)} == {name}
        page.locator("article .other-language").evaluate("link => link.click()")
        page.wait_for_url(f"**/{language}/adam.html*")
        assert {*selected(page)} == {name}
        assert {*map(tuple, panels(page))} == {(name,)}


def test_a_choice_that_is_no_tab_is_ignored(visit):
    page = visit("ja/adam.html")
    page.evaluate("localStorage.setItem('d2l-adam-tab', 'caffe')")
    page.reload()
    assert {*map(tuple, panels(page))} == {("pytorch",)}


def test_the_sections_have_the_same_addresses_in_both_languages(site):
    ids = {
        language: re.findall('<section[^>]* id="([^"]+)', (site / language / "adam.html").read_text(encoding="utf-8"))
        for language in SOURCES
    }
    assert ids["ja"] == ids["en"]
    assert ids["ja"][0] == "sec-adam" and "subsec-yogi" in ids["ja"] and "part-1" in ids["ja"]


@pytest.mark.parametrize(
    ("language", "link"), [("ja", "article .other-language"), ("en", ".sidebar-drawer .other-language")]
)
def test_the_other_language_opens_at_the_same_section(visit, language, link):
    page = visit(f"{language}/adam.html#subsec-yogi")
    page.locator(link).evaluate("link => link.click()")
    page.wait_for_url(f"**/{OTHER[language]}/adam.html#subsec-yogi")
    ready(page)
    assert page.locator("html").get_attribute("lang") == OTHER[language]
    assert -1 < page.locator("#subsec-yogi").evaluate("node => node.getBoundingClientRect().top") < 200
    page.locator(link).evaluate("link => link.click()")
    page.wait_for_url(f"**/{language}/adam.html#subsec-yogi")
    assert page.locator("html").get_attribute("lang") == language


def test_the_other_language_opens_at_the_section_being_read(visit):
    page = visit("en/adam.html#subsec-adam-algorithm")
    page.locator("#subsec-adam-rule > p").nth(1).evaluate("node => node.scrollIntoView({behavior: 'instant'})")
    page.locator(".sidebar-drawer .other-language").click()
    page.wait_for_url("**/ja/adam.html#subsec-adam-rule")
    page = visit("en/adam.html")
    page.locator(".sidebar-drawer .other-language").click()
    page.wait_for_url("**/ja/adam.html")


def test_the_keyboard(visit):
    page = visit("ja/adam.html")
    bars = page.locator(".tab-bar")
    bars.nth(3).get_by_role("tab", name="MXNet").click()
    steps = {"ArrowRight": "pytorch", "End": "jax", "ArrowLeft": "tensorflow", "Home": "mxnet"}
    for key, name in (*steps.items(), ("ArrowLeft", "jax"), ("ArrowRight", "mxnet")):
        page.keyboard.press(key)
        assert {*selected(page)} == {name}
        assert {*map(tuple, panels(page))} == {(name,)}
        focused = bars.nth(3).locator(":focus")
        assert focused.get_attribute("data-name") == name
        assert (
            focused.evaluate("node => node.matches(':focus-visible') && getComputedStyle(node).outlineStyle") == "solid"
        )
    assert page.locator("[role=tab][tabindex='0']").count() == bars.count()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    assert bars.nth(3).locator(":focus").get_attribute("data-name") == "mxnet"
    page.keyboard.press("Control+End")
    assert {*selected(page)} == {"mxnet"}


def test_tabs_and_panels_name_one_another(opened):
    language, page = opened
    assert (
        page.get_by_role("tablist", name={"ja": "フレームワーク", "en": "Framework"}[language]).count()
        == page.locator(".tabs").count()
    )
    for tab in page.get_by_role("tab").all():
        panel = page.locator(f"#{tab.get_attribute('aria-controls')}")
        assert panel.get_attribute("role") == "tabpanel"
        assert panel.get_attribute("aria-labelledby") == tab.get_attribute("id")


def test_the_tab_bar_stays_where_it_was_clicked(visit):
    page = visit("en/adam.html")
    bar = page.locator(".tab-bar").nth(-3)
    bar.evaluate("node => node.scrollIntoView({block: 'center', behavior: 'instant'})")
    place = bar.bounding_box()["y"]
    heights = set()
    for name in ("TensorFlow", "MXNet", "PyTorch"):
        bar.get_by_role("tab", name=name).click()
        page.wait_for_timeout(100)
        assert bar.bounding_box()["y"] == pytest.approx(place, abs=1)
        heights.add(page.evaluate("document.documentElement.scrollHeight"))
    assert len(heights) > 1


def test_formulas_are_drawn_and_numbered(opened):
    language, page = opened
    source = (CHAPTER / f"{SOURCES[language]}.md").read_text(encoding="utf-8")
    assert page.locator(".math").count() == page.locator(".math mjx-container > svg").count() > 50
    assert page.locator("[data-mml-node=merror], mjx-merror").count() == 0
    numbers = page.eval_on_selector_all(".eqno", "nodes => nodes.map(node => node.firstChild.textContent)")
    assert numbers == [f"(12.10.{i + 1})" for i in range(source.count(":eqlabel:"))]
    assert not re.search(r"\$|\\[a-z(\[]", prose(page))


def test_references_are_resolved(opened):
    language, page = opened
    text = prose(page)
    assert not re.search(r":\w+:|:\w+_tab|\*\*|~~|\[\[|\{\w+\}|\]\(|\x00|`", text)
    section, table = {"ja": ("{} 節", "表 {}"), "en": ("Section {}", "Table {}")}[language]
    momentum = page.get_by_role("link", name=section.format("12.6"), exact=True)
    assert momentum.get_attribute("href") == "https://d2l.ai/chapter_optimization/momentum.html"
    assert momentum.get_attribute("title") == {"ja": "モーメンタム法", "en": "Momentum"}[language]
    assert (
        page.get_by_role("link", name=section.format("12.10.4"), exact=True)
        .first.get_attribute("href")
        .endswith("#subsec-yogi")
    )
    assert page.locator("h1").inner_text().startswith("12.10. Adam")
    assert page.locator("caption").first.inner_text().startswith(table.format("12.10.1"))
    assert {"ja": "Kingma・Ba, 2014", "en": "Kingma and Ba, 2014"}[language] in text
    assert not re.search(r"[\u3000-\u303f\uff00-\uffef] [\dx(]|[\dx)節] [\u3000-\u303f\uff00-\uffef]", text)
    assert page.locator(".citation").count() == 4


def test_every_internal_link_leads_somewhere(site):
    pages = {file: file.read_text(encoding="utf-8") for file in site.rglob("*.html")}
    assert {str(file.relative_to(site)) for file in pages} == {
        "index.html", "en/adam.html", "en/index.html", "ja/adam.html", "ja/index.html",
    }  # fmt: skip
    for file, text in pages.items():
        links = re.findall(r'(?:href|src)="([^"]+)"', text) + re.findall(r"url=([^\"]+)", text)
        for link in filter(None, links):
            if urlparse(link).scheme or link == "guide/index.html":  # which guide.py makes
                continue
            path, fragment = urldefrag(link)
            target = (file.parent / unquote(urlparse(path).path)).resolve() if path else file
            assert target.exists(), link
            if fragment and not fragment.startswith("svg-"):
                assert f'id="{fragment}"' in pages[target], link


def test_nothing_is_loaded_from_elsewhere(site):
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r'<(?!a\b)[^>]*\b(?:src|srcset|href|action|data)="(?:https?:)?//', text)
    for file in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(?:https?:)?//", file.read_text(encoding="utf-8"))
    assert sum(file.stat().st_size for file in site.rglob("*")) < 2e7


def test_the_first_page_leads_to_both(visit):
    page = visit("index.html")
    for name, language in (("日本語", "ja"), ("English", "en")):
        page.get_by_role("link", name=name).click()
        page.wait_for_url(f"**/{language}/adam.html")
        assert page.locator("html").get_attribute("lang") == language
        page.go_back()


@pytest.mark.parametrize("language", SOURCES)
def test_a_phone_scrolls_one_way(visit, language):
    page = visit(f"{language}/adam.html", viewport={"width": 360, "height": 740})
    for tab in NAMES.values():
        page.get_by_role("tab", name=tab).first.click()
        for node in ("html", ".page", ".content", "article"):
            assert page.locator(node).evaluate("node => node.scrollWidth") <= 360, (tab, node)


def test_print_shows_the_chosen_tab_and_its_name(visit):
    page = visit("ja/adam.html")
    page.get_by_role("tab", name="MXNet").first.click()
    page.emulate_media(media="print")
    assert {*map(tuple, panels(page))} == {("mxnet",)}
    names = page.locator(".tab-name").all()
    assert [name.inner_text() for name in names if name.is_visible()] == ["MXNet"] * len(panels(page))
    controls = ".tab-bar .sidebar-drawer .mobile-header .language .copybtn .theme-toggle .skip-to-content"
    for node in controls.split():
        assert not any(page.eval_on_selector_all(node, f"nodes => nodes.map({SHOWN})")), node
    assert len(page.pdf()) > 100_000


def test_without_scripts_every_panel_is_shown_under_its_name(visit):
    page = visit("ja/adam.html", java_script_enabled=False)
    for tab in page.locator(".tab").all():
        assert tab.is_visible()
        assert tab.locator(".tab-name").is_visible()
        assert tab.locator(".tab-name").inner_text() in NAMES.values()


def test_figures_are_legible_and_described(opened):
    _, page = opened
    images = page.locator(".output img")
    assert images.count() > 5
    for image in images.all():
        assert image.get_attribute("alt")
        assert (
            image.evaluate("node => node.naturalWidth > 0 && getComputedStyle(node).backgroundColor")
            == "rgb(255, 255, 255)"
        )


# The reading of sources and notebooks, on a small section


SECTION = """\
# Title
:label:`sec_adam`

(**Marks**) of [**slides :cite:`Kingma.Ba.2014`**], [~~with `code[**k]` inside~~]; `[**as is**]`. See :eqref:`eq_x`.

$$x$$
:eqlabel:`eq_x`

:begin_tab:`mxnet`
Only :numref:`sec_momentum`.
:end_tab:

```{.python .input}
#@tab all
1 + 1
```

```{.python .input}
#@tab all
print(tab)
```
"""


def write_section(folder, text=SECTION, outputs=None):
    """Write the sources and executed notebooks of the small section; `outputs` are those of the cell that prints."""
    for name in SOURCES.values():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
        for tab in NAMES:
            cells = [new_markdown_cell()] + [new_markdown_cell()] * (tab == "mxnet")
            same = new_output("execute_result", {"text/plain": "2"})
            own = [new_output("stream", text=f"{tab}\n")] if outputs is None else outputs
            cells += [new_code_cell("1 + 1", outputs=[same]), new_code_cell("print(tab)", outputs=own)]
            cells.append(new_markdown_cell("more"))
            file = folder / "notebooks" / tab / "chapter_optimization" / f"{name}.ipynb"
            file.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(new_notebook(cells=cells), file)
    return "--sources", folder, "--notebooks", folder / "notebooks", "--out", folder / "html"


@pytest.fixture
def section(tmp_path):
    return functools.partial(write_section, tmp_path)


def html(options):
    done = build(*options)
    assert done.exit_code == 0, done.stderr
    text = (options[-1] / "en" / "adam.html").read_text(encoding="utf-8")
    return text[text.index("<article") : text.index("</article>")]


def words(text):
    return " ".join(re.sub("<[^>]*>", "", text).split())


def test_only_what_differs_is_in_tabs(section):
    groups = html(section()).split('<div class="tabs')
    assert len(groups) == 3
    assert words(groups[1]).count("Only Section 12.6") == 1
    assert words(groups[1]).count("Nothing here for this framework.") == len(NAMES) - 1
    assert words(groups[1]).endswith("1 + 1 2")
    assert [words(groups[2]).count(tab) for tab in NAMES] == [1] * len(NAMES)
    assert words(groups[2]).count("print(tab)") == len(NAMES)
    assert "more" not in words(groups[2])


def test_marks_are_dropped_and_code_is_kept(section):
    text = words(html(section()))
    assert "Marks of slides (Kingma and Ba, 2014), with code[**k] inside; [**as is**]" in text
    assert "See (12.10.1)" in text


def test_outputs(section, tmp_path):
    svg = '<svg xmlns="http://www.w3.org/2000/svg"/>'
    cell = new_code_cell(
        outputs=[
            new_output("stream", text="\x1b[31mred\x1b[0m 1%\r100%\n"),
            new_output("stream", name="stderr", text="```\n"),
            new_output("display_data", {"image/svg+xml": svg, "text/plain": "<Figure>"}),
            new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "interactive"}),
            new_output("execute_result", {"text/html": "<table><tr><td>7</td></tr></table>", "text/plain": "7"}),
            new_output("execute_result", {"text/html": "<b>8</b>", "text/plain": "8"}),
        ]
    )
    [text] = script.outputs(cell, script.WORDS["en"], tmp_path)
    assert "100%\n```\n" in text and "\x1b" not in text and "red" not in text
    assert "<Figure>" not in text and "interactive" not in text and "<b>" not in text
    assert "The slider is in the notebook." in text and "<td>7</td>" in text and "\n8\n" in text
    assert script.figure('<dc:date>1</dc:date><a id="p0123456789" b="url(#p0123456789)"/>') == script.figure(
        '<dc:date>2</dc:date><a id="pabcdef0123" b="url(#pabcdef0123)"/>'
    )
    [file] = tmp_path.glob("*.svg")
    assert file.read_text() == svg and file.name in text and ":alt: Figure drawn by the code above" in text
    cell.metadata["alt"] = "Two\ncurves"
    assert ":alt: Two curves" in script.outputs(cell, script.WORDS["en"], tmp_path)[0]


def test_figures_of_an_earlier_build_are_gone(section, tmp_path):
    old = tmp_path / "html" / "en" / "_images" / "old.svg"
    old.parent.mkdir(parents=True)
    old.touch()
    options = section()
    html(options)
    assert old.exists(), "a folder without a page may be anyone's"
    html(options)
    assert not old.exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sec_momentum", "sec_absent", "sec_absent"),
        ("eq_x`.", "eq_absent`.", "eq_absent"),
        ("Kingma.Ba.2014", "Absent.2014", "Absent.2014"),
        (":eqref:", ":foo:", ":foo:"),
        ("$$x$$", "<!-- live: absent -->\n\n$$x$$", "known: run, race, first-steps, slips, leaves"),
    ],
)
def test_what_is_not_there_fails_the_build(section, old, new, message):
    done = build(*section(SECTION.replace(old, new)))
    assert done.exit_code == 1
    assert message in done.stderr


def test_missing_stale_and_failed_notebooks_are_named(section, tmp_path):
    options = section()
    file = tmp_path / "notebooks" / "pytorch" / "chapter_optimization" / "adam.ipynb"
    notebook = nbformat.read(file, 4)
    for cells in (notebook.cells[1:], [*notebook.cells[:-2], new_code_cell("print(1)")]):
        nbformat.write(new_notebook(cells=cells), file)
        stale = build(*options)
        assert stale.exit_code == 1 and f"{file} has other cells" in stale.stderr
    file.unlink()
    missing = build(*options)
    assert missing.exit_code == 1 and f"{file} is missing" in missing.stderr
    failed = build(*section(outputs=[new_output("error", ename="E", evalue="", traceback=[])]))
    assert failed.exit_code == 1 and "a cell failed" in failed.stderr
