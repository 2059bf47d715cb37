"""What a check has found, as text, as JSON, and as annotations of GitHub's workflows."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from d2l_adam.check import notebooks
from d2l_adam.check.definitions import Definition
from d2l_adam.check.drift import Verdict, listed


class Finding(NamedTuple):
    """Something to tell of a section: `kind` is "drift", "unchecked" or "note"; all but the message may be empty."""

    kind: str
    file: str = ""
    line: int | None = None
    name: str = ""
    tab: str = ""
    message: str = ""
    #: Sets of changes of the right code, each of which makes what the tab does; None where no spec is known.
    causes: list[tuple[str, ...]] | None = None
    #: Whether the search for these was stopped before all changes had been tried.
    stopped: bool = False
    #: The number of the cell that the line is of, if the file is a notebook.
    cell: int | None = None

    def in_cell(self) -> "Finding":
        """The finding, the line of a notebook split into cell and line."""
        cell, line = divmod(self.line or 0, notebooks.CELL)
        return self._replace(cell=cell, line=line) if cell else self

    def text(self) -> str:
        """The finding as lines to read."""
        place = ":".join(str(x) for x in (self.file, self.cell and f"cell {self.cell}", self.line) if x)
        head = "  ".join(filter(None, (place, self.name, self.tab, self.message)))
        return "\n            ".join(filter(None, (shown(head), shown(self.behaves()))))

    def behaves(self) -> str:
        """What the tab behaves as, in words, if it can be told."""
        if self.causes is None:
            return ""
        others = f" ({len(self.causes) - 1} more ways to say it: --json)" if len(self.causes) > 1 else ""
        stopped = "; the search for more ways to say it was stopped" if self.causes and self.stopped else ""
        return f"behaves as: {_said(self.causes, self.stopped, 'the spec')}{others}{stopped}"

    def annotation(self) -> str:
        """The finding as a command of GitHub's workflows, which shows it beside the line of the file."""
        command = {"drift": "error", "unchecked": "warning", "note": "notice"}[self.kind]
        title = " ".join(filter(None, (self.kind, self.name, self.tab)))
        line = (not self.cell and self.line) or 1  # the lines of a notebook are not those of its file
        place = f"file={_escaped(self.file, True)},line={line}," if self.file else ""
        cell = self.cell and f"cell {self.cell}, line {self.line}"
        text = "%0A".join(_escaped(x) for x in (cell, self.message, self.behaves()) if x)
        return f"::{command} {place}title={_escaped(title, True)}::{text}"


def shown(text: str) -> str:
    """What others have written, in characters that can be printed, none of them a command of GitHub's workflows."""
    text = "".join(x if x.isprintable() else "?" for x in text)
    return re.sub(r"^(?=\s*::)|(?<=##)(?=\[)", "?", text)


def _said(causes, stopped, rule):
    """The first cause in words, or what is said where none was found."""
    if causes:
        return "; ".join(causes[0]) or f"{rule}, as far as rounding can tell"
    if stopped:
        return f"not known; the search was stopped before all changes of {rule} were tried"
    return f"no change of {rule} that is known here"


def _escaped(text, in_property=False):
    text = shown(text)
    for character in "%" + ":," * in_property:
        text = text.replace(character, f"%{ord(character):02X}")
    return text


@dataclass
class Optimizer:
    """An optimizer of a section: how its tabs define it, what came of it in each, and how they compare.

    `cells` are those of all tabs that the section has, `files` of what file each tab is, `runs` the hyperparameters of
    both runs.
    """

    file: str
    name: str
    definitions: dict[str, Definition]
    cells: dict[str, list[tuple[int, str]]]
    files: dict[str, str]
    runs: Sequence[dict[str, Any]]
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    verdict: Any = None

    def finding(self, kind: str, tab: str, message: str, *causes: Any) -> Finding:
        """Something to tell of it in a tab; where that does not define it, at the first definition."""
        where = tab if tab in self.definitions else next(iter(self.definitions))
        line = self.definitions[where].line
        return Finding(kind, self.files[where], line, self.name, tab, message, *causes).in_cell()

    def as_dict(self) -> dict[str, Any]:
        """Where it is and how its tabs compare, as plain values, for JSON."""
        found = {tab: self.finding("", tab, "") for tab in self.definitions}
        places = {key: {tab: getattr(x, key[:-1]) for tab, x in found.items()} for key in ("files", "cells", "lines")}
        return {"file": self.file, "name": self.name} | places | self.verdict.as_dict()


@dataclass
class Report:
    """What a check has found."""

    files: list[str]
    compared: list[Optimizer] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def of(self, kind: str) -> list[Finding]:
        """The findings of a kind."""
        return [x for x in self.findings if x.kind == kind]

    @property
    def status(self) -> int:
        """The exit status: 2 if something could not be checked, else 1 if there is drift, else 0."""
        return 2 if self.of("unchecked") else 1 if self.of("drift") else 0

    def margin(self) -> tuple[float, float | None]:
        """The largest distance that rounding made and the smallest of drift, as multiples of what is allowed."""
        verdicts = [x.verdict for x in self.compared]
        smallest = [x.smallest for x in verdicts if x.smallest is not None]
        return max((x.rounding for x in verdicts), default=0.0), min(smallest, default=None)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        rounding, smallest = self.margin()
        return {
            "status": self.status,
            "files": self.files,
            "optimizers": [x.as_dict() for x in self.compared],
            "findings": [x._asdict() for x in self.findings],
            "margin": {"largest_rounding": rounding, "smallest_drift": smallest},
        }

    def annotations(self) -> list[str]:
        """The findings as commands of GitHub's workflows."""
        return [x.annotation() for x in self.findings]


def told(verdict: Verdict) -> Iterator[Finding]:
    """Yield what a verdict says, of no file yet."""
    best = verdict.groups[0]
    others = listed([*best, *(["the spec"] if verdict.matches_spec else [])])
    doubt = "" if verdict.sure else "; which of them is right cannot be told"
    for tab, (far, search) in verdict.odd.items():
        causes = search.causes if verdict.rule else None
        message = f"differs from {others} {far}{doubt}"
        yield Finding("drift", tab=tab, message=message, causes=causes, stopped=search.stopped)
    if verdict.rule and not verdict.matches_spec:
        causes, stopped = verdict.search
        cause = _said(causes, stopped, "it")
        are, behave = ("is", "behaves") if len(best) == 1 else ("are", "behave")
        message = f"{listed(best)} {are} not {verdict.rule} of the spec, but {behave} as: {cause}"
        yield Finding("note", tab=best[0], message=message, stopped=stopped)
