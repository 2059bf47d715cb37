"""Write the cells that are rendered from the spec into the sources of the chapter (`make cells`)."""

import re

import references
from d2l_adam import spec
from d2l_adam.check import markdown
from d2l_adam.render import NAMES, render


def rendered(cell: markdown.Cell) -> str | None:
    """Return what a cell has to be, if it defines functions that are rendered from the spec."""
    names = re.findall(r"^def (\w+)\(", cell.source, re.MULTILINE)
    rules = [name.removesuffix("_rule") for name in names]
    if cell.kind != "code" or not names:
        return None
    if cell.tabs is None:
        return render("all", *rules).rstrip() if names != rules and set(rules) <= set(spec.SECTION) else None
    return render(cell.tabs[0], *names).rstrip() if set(names) <= set(NAMES) else None


def refreshed(text: str) -> str:
    """Return the source of a section, its rendered cells brought up to date."""
    lines = text.split("\n")
    for cell in reversed(markdown.read(text)):
        if (source := rendered(cell)) is not None:
            lines[cell.line - 1 : cell.line - 1 + cell.source.count("\n") + 1] = source.split("\n")
    return "\n".join(lines)


if __name__ == "__main__":
    for name in references.SOURCES:
        file = references.FOLDER / f"{name}.md"
        before = file.read_text(encoding="utf-8")
        after = refreshed(before)
        if after != before:  # what did not change keeps its time, and the notebooks stay as they are
            file.write_text(after, encoding="utf-8")
        print(f"{file.name}: {'brought up to date' if after != before else 'up to date'}")
