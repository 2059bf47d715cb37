"""The Markdown of d2l-style books: a section read as cells, and as the notebook of one tab.

d2lbook's own converter pins libraries of 2022; this reads the same cells from the same source, and
the tests hold the two against each other. What it knows:

    ```{.python .input}          a code cell; any other fence is part of the text
    #@tab pytorch, mxnet         the tabs of a code cell (or %%tab); `all`; without it, the default tab
    if tab.selected('mxnet'):    lines of some tabs only, in a code cell of several (or `if d2l.USE_MXNET:`)

    :begin_tab:`pytorch`         text of some tabs only, up to `:end_tab:`

The default tab is the first of `tabs` in the book's `config.ini`.
"""

import configparser
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(r"^(?P<fence>```+|~~~+)[ \t]*(?P<info>.*)\n(?P<source>[\s\S]*?)\n(?P=fence)$", re.MULTILINE)
_OPENED = re.compile(r"^(```+|~~~+)[ \t]*\{.*\.input.*$", re.MULTILINE)
#: A fence of Python that is no cell of d2lbook, as Markdown, MyST and Quarto write it.
_PYTHON = re.compile(r"[{.]*(python|py|ipython|code-cell)\b", re.IGNORECASE)
#: What is read: said where something else was given.
READ = "check reads the ```{.python .input} cells of d2lbook's Markdown, .md files, and nothing else"
_CODE_TAB = re.compile(r"(?:# *@tab|%%tab) +([\w, ]+)")
_TEXT_TAB = re.compile(r"^:begin_tab:`(?P<tabs>[^`]*)`$\n(?P<source>[\s\S]*?)^:end_tab:$\n?", re.MULTILINE)
_BRANCH = re.compile(r"\bif\b.*(?:tab\.selected|d2l\.USE_)")


class Cell(NamedTuple):
    """A cell of a section: `kind` "code" or "markdown", its `tabs` (None: every one), the number of each line, from 1.

    The lines of `source` follow one another in the file, unless a line that names a tab was between them.
    """

    kind: str
    tabs: tuple[str, ...] | None
    source: str
    lines: tuple[int, ...]

    @property
    def line(self) -> int:
        """The number of the first line."""
        return self.lines[0]

    @property
    def in_place(self) -> str:
        """The source after so many empty lines that each line has the number that it has in the file."""
        lines = [""] * max(self.lines, default=0)
        for number, text in zip(self.lines, self.source.split("\n"), strict=False):
            lines[number - 1] = text
        return "\n".join(lines)

    def of(self, tab: str) -> bool:
        """Whether the cell is in the notebook of a tab."""
        return self.tabs is None or tab in self.tabs

    def within(self, tab: str) -> "Cell":
        """The cell as the notebook of a tab has it: without the lines that are of other tabs only.

        Lines in a branch of the tab are moved out by an indent, as d2lbook does.
        """
        if self.kind != "code" or not _BRANCH.search(self.source):
            return self
        kept, inside, indent = [], None, 0
        for number, text in zip(self.lines, self.source.split("\n"), strict=True):
            own_indent = len(text) - len(text.lstrip())
            if _BRANCH.search(text):
                inside = f"'{tab}'" in text or f'"{tab}"' in text or f"d2l.USE_{tab.upper()}" in text
                indent = own_indent
                continue
            if text.strip() and own_indent <= indent:
                inside = None
            if inside is not False:
                kept.append((number, text[4:] if inside else text))
        return self._replace(source="\n".join(text for _, text in kept), lines=tuple(number for number, _ in kept))


def read(text: str, default_tab: str = "mxnet") -> list[Cell]:
    """Read the source of a section as cells, in their order; the lines that name a tab are not part of them."""
    cells: list[Cell] = []
    start = 0
    for match in _FENCE.finditer(text):
        if ".input" in match["info"]:
            cells += _texts(text, start, match.start())
            if "%load_ext d2lbook.tab" not in match["source"]:  # the book's own switch of tabs
                cells.append(_code(_lines(text, *match.span("source")), default_tab))
            start = match.end()
    return cells + _texts(text, start, len(text))


def unclosed(text: str) -> Iterator[int]:
    """Yield the lines on which a fence of a code cell is opened that is never closed."""
    rest = _FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), text)
    for match in _OPENED.finditer(rest):
        yield rest.count("\n", 0, match.start()) + 1


def unread(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the first line of each fence of Python that is no cell."""
    for match in _FENCE.finditer(text):
        if ".input" not in match["info"] and _PYTHON.match(match["info"]):
            yield _lines(text, *match.span())[0]


def default_tab(file: Path) -> str | None:
    """Return the default tab of the book that a file belongs to: of the nearest `config.ini` above it, if any."""
    for folder in file.resolve().parents:
        config = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            config.read(folder / "config.ini", encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            cause = " ".join(str(error).split())
            raise ValueError(f"{folder / 'config.ini'} cannot be read ({cause}); give --default-tab") from None
        if tabs := config.get("build", "tabs", fallback=None):
            return _names(tabs.lower())[0]
    return None


def _code(lines, default_tab):
    tabs: tuple[str, ...] | None = (default_tab,)
    for i, (_, text) in enumerate(lines):
        if match := _CODE_TAB.search(text):
            tabs = _names(match[1])
            lines[i : i + 1] = [] if len(lines) > 1 else [(lines[i][0], "")]
            break
    return _cell("code", None if tabs == ("all",) else tabs, lines)


def _texts(text, start, end):
    cells = []
    for match in _TEXT_TAB.finditer(text, start, end):
        cells += [(None, start, match.start()), (_names(match["tabs"]), *match.span("source"))]
        start = match.end()
    cells.append((None, start, end))
    return [_cell("markdown", tabs, _lines(text, *span)) for tabs, *span in cells if text[slice(*span)].strip()]


def _cell(kind, tabs, lines):
    """A cell of numbered lines, those at both ends left out that are empty."""
    full = [i for i, (_, text) in enumerate(lines) if text.strip()] or [0]
    lines = lines[full[0] : full[-1] + 1]
    source = "\n".join(text for _, text in lines)
    return Cell(kind, tabs, source.strip() if kind == "markdown" else source, tuple(number for number, _ in lines))


def _names(tabs):
    return tuple(name.strip() for name in tabs.split(","))


def _lines(text, start, end):
    """The lines from one position in a text to another, each with its number."""
    return list(enumerate(text[start:end].split("\n"), text.count("\n", 0, start) + 1))
