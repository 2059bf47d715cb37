"""The notebooks of d2l-style books: files of one framework each, read as the cells of its tab.

A part of the path says which that is, such as pytorch/adam.ipynb, d2l-pytorch-notebooks/adam.ipynb, adam_pytorch.ipynb.
Notebooks whose paths differ in nothing else are the tabs of one section.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from d2l_adam import TABS
from d2l_adam.check import markdown

#: How many characters a notebook may have, with its figures, and how many cells.
MOST, MOST_CELLS = 1 << 24, 2000
#: Lines of cell 3 are counted from 3 * CELL on: no cell has as many.
CELL = markdown.MOST
_TAB = re.compile(rf"(?<![^\W_])(?:{'|'.join(TABS)})(?![^\W_])")
#: What IPython does not run as Python.
_NO_PYTHON = re.compile(r"\s*%%(?!tab|time|capture|prun)")


def sections(files: Iterable[Path]) -> dict[str, dict[str, Path]]:
    """Return files by section, named after its first file, and by tab: "" is for one whose path does not say it."""
    found: dict[str, dict[str, Path]] = {}
    for file in map(str, files):
        *_, match = [None, *_TAB.finditer(file)] if file.lower().endswith(".ipynb") else [None]
        key = f"{file[: match.start()]}*{file[match.end() :]}" if match else file
        found.setdefault(key, {})[match[0] if match else ""] = Path(file)
    return {str(next(iter(section.values()))): section for section in found.values()}


def read(file: Path, tab: str) -> list[markdown.Cell]:
    """Read the code of a notebook, of a tab or "". Raises OSError or ValueError if it is none, or its tab is not said.

    Lines are counted in each cell, the number of the cell added `CELL` times.
    """
    text, found, size = markdown.text_of(file, MOST), [], 0
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no notebook ({error})") from None
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise ValueError("it is no notebook of format 4, as it has no list of cells; save it in Jupyter again")
    if len(cells) > MOST_CELLS:
        raise ValueError(f"it has {len(cells)} cells; {MOST_CELLS} is the most that are read")
    for number, cell in enumerate(cells, 1):
        source = cell.get("source") if isinstance(cell, dict) else None
        parts: list[Any] = source if isinstance(source, list) else [source]
        if not all(isinstance(part, str) for part in parts):
            raise ValueError(f"it is no notebook: the source of its cell {number} is no text")
        source = "".join(parts).replace("\r\n", "\n").replace("\r", "\n")
        if cell.get("cell_type") == "code" and source.strip() and not _NO_PYTHON.match(source):
            found.append(markdown.code(list(enumerate(source.split("\n"), number * CELL + 1)), tab))
            size += len(source)
    if size >= markdown.MOST:
        raise ValueError(f"its code has {size:,} characters; {markdown.MOST:,} is the most that are read")
    if any(cell.tabs == ("",) for cell in found):
        raise ValueError("its framework is not said; move it to a folder named after it, or give --tab pytorch=FILE")
    return found


def place(line: int) -> str:
    """A line, and in a notebook the cell, in words."""
    cell, line = divmod(line, CELL)
    return f"cell {cell}, line {line}" if cell else f"line {line}"
