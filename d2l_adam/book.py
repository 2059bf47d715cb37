"""The Markdown of d2l-style books: a section read as cells, and as the notebook of one tab.

d2lbook's own converter pins libraries of 2022; this reads the same cells from the same source, and
the tests hold the two against each other. What it knows:

    ```{.python .input}          a code cell; any other fence is part of the text
    #@tab pytorch, mxnet         the tabs of a code cell (or %%tab); `all`; without it, the default tab

    :begin_tab:`pytorch`         text of some tabs only, up to `:end_tab:`
"""

import re
from typing import NamedTuple

_FENCE = re.compile(r"^(?P<fence>```+|~~~+)[ \t]*(?P<info>.*)\n(?P<source>[\s\S]*?)\n(?P=fence)$", re.MULTILINE)
_CODE_TAB = re.compile(r"(?:# *@tab|%%tab) +([\w, ]+)")
_TEXT_TAB = re.compile(r"^:begin_tab:`(?P<tabs>[^`]*)`$\n(?P<source>[\s\S]*?)^:end_tab:$\n?", re.MULTILINE)


class Cell(NamedTuple):
    """A cell of a section: `kind` "code" or "markdown", its `tabs` (None: every one), its first `line` from 1."""

    kind: str
    tabs: tuple[str, ...] | None
    source: str
    line: int

    def of(self, tab: str) -> bool:
        """Whether the cell is in the notebook of a tab."""
        return self.tabs is None or tab in self.tabs


def read(text: str, default_tab: str = "mxnet") -> list[Cell]:
    """Read the source of a section as cells, in their order; the lines that name a tab are not part of them."""
    cells: list[Cell] = []
    start = 0
    for match in _FENCE.finditer(text):
        if ".input" in match["info"]:
            cells += _texts(text, start, match.start())
            cells.append(_code(match["source"], _line(text, match.start("source")), default_tab))
            start = match.end()
    return cells + _texts(text, start, len(text))


def _code(source, line, default_tab):
    tabs: tuple[str, ...] | None = (default_tab,)
    lines = source.split("\n")
    for i, text in enumerate(lines):
        if match := _CODE_TAB.search(text):
            tabs = _names(match[1])
            del lines[i]
            line += i == 0
            break
    source = "\n".join(lines)
    line += len(source) - len(source.lstrip("\n"))
    return Cell("code", None if tabs == ("all",) else tabs, source.strip("\n"), line)


def _texts(text, start, end):
    cells = []
    for match in _TEXT_TAB.finditer(text, start, end):
        cells += _text(text, start, match.start(), None)
        cells += _text(text, *match.span("source"), _names(match["tabs"]))
        start = match.end()
    return cells + _text(text, start, end, None)


def _text(text, start, end, tabs):
    source = text[start:end]
    before = len(source) - len(source.lstrip())
    return [Cell("markdown", tabs, source.strip(), _line(text, start + before))] if source.strip() else []


def _names(tabs):
    return tuple(name.strip() for name in tabs.split(","))


def _line(text, position):
    return text.count("\n", 0, position) + 1
