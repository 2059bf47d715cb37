"""The guide and its reference: every public name is there, as it is, and the pages need nothing else."""

import importlib
import inspect
import re
import warnings
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from click.testing import CliRunner

import guide
from d2l_adam import protocol

ROOT = Path(__file__).parents[1]
MODULES = [*guide.MODULES, *(f"d2l_adam.{protocol.MODULE[tab]}" for tab in protocol.installed())]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages, built without a warning."""
    folder = tmp_path_factory.mktemp("html")
    with warnings.catch_warnings(action="ignore"):  # what Sphinx will drop is its extensions' own
        done = CliRunner().invoke(guide.main, ["--out", str(folder)])
    assert done.exit_code == 0, done.stderr
    return {file.stem: BeautifulSoup(file.read_text(), "html.parser") for file in (folder / "guide").glob("*.html")}


@pytest.mark.parametrize("name", MODULES)
def test_the_reference_has_every_public_name_as_it_is(pages, name):
    public = guide.public(importlib.import_module(name))
    assert public
    sections = {x.h2.contents[0]: x for x in pages[name].select("section > section")}
    assert list(sections) == list(public)
    for key, x in public.items():
        shown = sections[key].pre.get_text()
        assert shown.startswith(f"{key}(")
        for argument in inspect.signature(x).parameters.values():
            assert str(argument).partition("<function")[0] in shown
        first = (inspect.getdoc(x) or "").partition("\n")[0]
        assert letters(first)[:40] in letters(sections[key].get_text())


def letters(text):
    return re.sub(r"\W", "", text)


def test_the_public_names_of_a_tab_are_those_that_are_promised():
    from d2l_adam import torch

    names = {"step", "optimizer", "init_states", "init_adam_states", "adam", "yogi", "Adam", "Yogi", "save", "load"}
    assert names < {*guide.public(torch)}


def test_a_docstring_is_markdown():
    text = guide.markdown("Does it.\n\n>>> f(1)\n2\n\nArgs:\n    x (int): a\n        number\n\nSo:\n\n    f(2)\n")
    assert text.split("\n\n") == [
        "Does it.",
        "```python\n>>> f(1)\n2\n```",
        "",
        "- `x` (int): a\n  number",
        "\nSo:",
        "```python\nf(2)\n```",
    ]


def test_the_first_page_of_all_leads_here(pages):
    first = ROOT / "chapter_optimization" / "_templates" / "languages.html"
    assert 'href="guide/index.html"' in first.read_text(encoding="utf-8")
    assert "Add a rule" in pages["index"].get_text()


def test_the_pages_ask_for_nothing_from_outside_and_link_to_what_is_there(pages):
    for name, page in pages.items():
        for tag in page.select("script[src], img[src], link[href][rel=stylesheet]"):
            assert not (tag.get("src") or tag["href"]).startswith(("http", "//")), tag
        for link in page.select("article a[href]"):
            target, _, place = link["href"].partition("#")
            if not target.startswith(("http", "../ja", "../en")):
                assert target.removesuffix(".html") in {"", *pages}, (name, target)
                assert not place or pages[target.removesuffix(".html") or name].find(id=place), link
