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
import stat
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(r"(```+|~~~+)[ \t]*(.*)")
#: A fence of Python that is no cell of d2lbook, as Markdown, MyST and Quarto write it.
_PYTHON = re.compile(r"[{.]*(python|py|ipython|code-cell)\b", re.IGNORECASE)
#: What is read: said where something else was given.
READ = "check reads notebooks, .ipynb, and the ```{.python .input} cells of d2lbook's Markdown, .md; others by --plain"
#: How many characters a file may have.
MOST = 1 << 20
_CODE_TAB = re.compile(r"(?:# *@tab|%%tab) +([\w, ]+)")
_TEXT_TAB = re.compile(r":begin_tab:`([^`]*)`")
_IF, _OF_TAB = re.compile(r"\bif\b"), re.compile(r"tab\.selected|d2l\.USE_")


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
        """The source, with an empty line for each that the file has between."""
        texts = dict(zip(self.lines, self.source.split("\n"), strict=True))
        return "\n".join(texts.get(number, "") for number in range(self.line, self.lines[-1] + 1))

    def of(self, tab: str) -> bool:
        """Whether the cell is in the notebook of a tab."""
        return self.tabs is None or tab in self.tabs

    def within(self, tab: str) -> "Cell":
        """The cell as the notebook of a tab has it: without the lines that are of other tabs only.

        Lines in a branch of the tab are moved out by an indent, as d2lbook does.
        """
        if self.kind != "code":
            return self
        kept, inside, indent = [], None, 0
        for number, text in zip(self.lines, self.source.split("\n"), strict=True):
            own_indent = len(text) - len(text.lstrip())
            found = _IF.search(text)
            if found and _OF_TAB.search(text, found.end()):
                inside = f"'{tab}'" in text or f'"{tab}"' in text or f"d2l.USE_{tab.upper()}" in text
                indent = own_indent
                continue
            if text.strip() and own_indent <= indent:
                inside = None
            if inside is not False:
                kept.append((number, text[4:] if inside else text))
        return self._replace(source="\n".join(text for _, text in kept), lines=tuple(number for number, _ in kept))


def text_of(file: Path, most: int = MOST) -> str:
    """Return the text of a file. Raises OSError or ValueError if it cannot be read, or is too long."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise ValueError(f"{file} is no regular file")
    with file.open(encoding="utf-8-sig") as stream:
        try:
            text = stream.read(most + 1)
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is no text in UTF-8 ({error})") from None
    if len(text) > most:
        raise ValueError(f"{file} has more than {most:,} characters, the most that are read; split it")
    return text


def read(text: str, default_tab: str = "mxnet", plain: bool = False) -> list[Cell]:
    """Read the source of a section as cells, in their order; the lines that name a tab are not part of them.

    `plain` says whether any other fence of Python is a cell, too.
    """
    cells: list[Cell] = []
    lines, start = list(enumerate(text.split("\n"), 1)), 0
    for first, last, info in _fences(text.split("\n")):
        if ".input" in info or (plain and _PYTHON.match(info)):
            cells += _texts(lines[start:first])
            source = lines[first + 1 : last] or [(last + 1, "")]
            if not any("%load_ext d2lbook.tab" in line for _, line in source):  # the book's own switch of tabs
                cells.append(code(source, default_tab))
            start = last + 1
    return cells + _texts(lines[start:])


def unread(text: str) -> tuple[list[int], list[tuple[int, str]]]:
    """Return the lines of cells that are never closed, and lines and texts of fences of Python that are no cells."""
    lines = text.split("\n")
    fences = [*_fences(lines)]
    rest = {*range(len(lines))}.difference(*(range(first, last + 1) for first, last, _ in fences))
    opened = ((i, _FENCE.match(lines[i])) for i in sorted(rest))
    unclosed = [i + 1 for i, match in opened if match and match[2].startswith("{") and ".input" in match[2]]
    return unclosed, [(i + 1, lines[i]) for i, _, info in fences if ".input" not in info and _PYTHON.match(info)]


def _fences(lines):
    return _blocks(lines, lambda line: (match := _FENCE.match(line)) and match.groups())


def _blocks(lines, begun):
    """Yield the indices of the first and the last line of each block, and what the first says.

    `begun(line)` is the line that ends the block which a line begins, and what it says, or None.
    """
    last, done = {line: i for i, line in enumerate(lines)}, -1
    for i, line in enumerate(lines):
        block = begun(line) if i > done else None
        if block and last.get(block[0], -1) > i:
            done = lines.index(block[0], i + 1)
            yield i, done, block[1]


def default_tab(file: Path) -> str | None:
    """Return the default tab of the book that a file belongs to: of the nearest `config.ini` above it, if any."""
    for folder in file.resolve().parents:
        config = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            if (folder / "config.ini").exists():
                config.read_string(text_of(folder / "config.ini"))
        except (configparser.Error, OSError, ValueError) as error:
            cause = " ".join(str(error).split())
            raise ValueError(f"{folder / 'config.ini'} cannot be read ({cause}); give --default-tab") from None
        if tabs := config.get("build", "tabs", fallback=None):
            return _names(tabs.lower())[0]
    return None


def code(lines: list[tuple[int, str]], default_tab: str) -> Cell:
    """The cell of code that numbered lines are, of the tabs that one of them names."""
    tabs: tuple[str, ...] | None = (default_tab,)
    for i, (_, text) in enumerate(lines):
        if match := _CODE_TAB.search(text):
            tabs = _names(match[1])
            lines[i : i + 1] = [] if len(lines) > 1 else [(lines[i][0], "")]
            break
    return _cell("code", None if tabs == ("all",) else tabs, lines)


def _texts(lines):
    """The cells of text that numbered lines are."""
    parts, start = [], 0
    texts = [text for _, text in lines]
    for first, last, tabs in _blocks(texts, lambda x: (match := _TEXT_TAB.fullmatch(x)) and (":end_tab:", match[1])):
        parts += [(None, lines[start:first]), (_names(tabs), lines[first + 1 : last])]
        start = last + 1
    parts.append((None, lines[start:]))
    return [_cell("markdown", tabs, part) for tabs, part in parts if any(text.strip() for _, text in part)]


def _cell(kind, tabs, lines):
    """A cell of numbered lines, those at both ends left out that are empty."""
    full = [i for i, (_, text) in enumerate(lines) if text.strip()] or [0]
    lines = lines[full[0] : full[-1] + 1]
    source = "\n".join(text for _, text in lines)
    return Cell(kind, tabs, source.strip() if kind == "markdown" else source, tuple(number for number, _ in lines))


def _names(tabs):
    return tuple(name.strip() for name in tabs.split(","))
