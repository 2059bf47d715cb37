"""Sphinx's settings for the page of the section; page.py runs Sphinx, once for each language."""

from functools import partial
from importlib.resources import files

from docutils import nodes  # type: ignore[import-untyped]
from sphinxcontrib.bibtex.plugin import register_plugin
from sphinxcontrib.bibtex.style.referencing import BracketStyle, PersonStyle
from sphinxcontrib.bibtex.style.referencing.author_year import AuthorYearReferenceStyle

import references

#: The section's number in the book: 12.10.1 is its first heading, equation and table.
NUMBER = tuple(map(int, references.NUMBER.split(".")))
MATHJAX = files("sphinx-mathjax-offline") / "static" / "mathjax" / "tex-svg-full.js"

project = html_title = "Dive into Deep Learning"
extensions = ["myst_parser", "sphinxcontrib.bibtex", "sphinx_copybutton"]
templates_path = ["_templates"]
html_theme = "furo"
html_static_path = ["_static", str(MATHJAX)]
html_css_files = ["page.css", "live.css"]
html_sidebars = {"**": ["sidebar/brand.html", "sections.html"]}
html_show_copyright = html_show_sphinx = html_copy_source = html_use_index = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
copybutton_selector = "div.highlight-ipython3 pre"

myst_enable_extensions = ["attrs_block", "dollarmath"]
numfig = True
numfig_secnum_depth = 1
math_eqref_format = "({number})"

# One file that draws every formula with paths of its own: it loads no fonts and nothing else.
mathjax_path = MATHJAX.name
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"fontCache": "local"}}

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"


def _book(**person):
    """Citations as in the book: (Kingma and Ba, 2014)."""
    bracket = BracketStyle(left="(", right=")")
    return partial(
        AuthorYearReferenceStyle, bracket_textual=bracket, bracket_parenthetical=bracket, person=PersonStyle(**person)
    )


register_plugin("sphinxcontrib.bibtex.style.referencing", "book_en", _book())
register_plugin("sphinxcontrib.bibtex.style.referencing", "book_ja", _book(sep2="・", other="ら"))


def number(app, env):
    """Number the section as in the book; for Sphinx it is the first of a book of one section."""
    tables = [env.toc_secnumbers["adam"], *env.toc_fignumbers.get("adam", {}).values()]
    for numbers in tables:
        for key, value in numbers.items():
            numbers[key] = NUMBER + tuple(value[1:])
    for reference in env.tocs["adam"].findall(nodes.reference):
        reference["secnumber"] = NUMBER + tuple(reference["secnumber"][1:])
    return []


def setup(app):
    """Number the section; a single page needs no search."""
    app.connect("env-get-updated", number, priority=900)  # after Sphinx has numbered it
    app.connect("builder-inited", lambda app: setattr(app.builder, "search", False))
