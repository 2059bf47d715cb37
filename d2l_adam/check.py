"""The check of sections: their optimizers, run in every tab and compared, and what is wrong with them named."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from d2l_adam import TABS, book, drift, drive, optimizers, sandbox


class Finding(NamedTuple):
    """Something to tell of a section: `kind` is "drift", "unchecked" or "note"; all but the message may be empty."""

    kind: str
    file: str
    line: int | None
    name: str
    tab: str
    message: str
    #: Sets of changes of the right code, each of which makes what the tab does; None where no spec is known.
    causes: list[tuple[str, ...]] | None = None
    #: Whether the search for these was stopped before all changes had been tried.
    stopped: bool = False

    def text(self) -> str:
        """The finding as lines to read."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        head = "  ".join(filter(None, (place, self.name, self.tab, self.message)))
        return "\n            ".join(filter(None, (head, self.behaves())))

    def behaves(self) -> str:
        """What the tab behaves as, in words, if it can be told."""
        if self.causes is None:
            return ""
        if not self.causes:
            return f"behaves as: {_unknown(self.stopped, 'the spec')}"
        others = f" ({len(self.causes) - 1} more ways to say it: --json)" if len(self.causes) > 1 else ""
        stopped = "; the search for more ways to say it was stopped" if self.stopped else ""
        return f"behaves as: {'; '.join(self.causes[0])}{others}{stopped}"


def _unknown(stopped, rule):
    """What is said where no cause was found."""
    if stopped:
        return f"not known; the search was stopped before all changes of {rule} were tried"
    return f"no change of {rule} that is known here"


@dataclass
class Compared:
    """An optimizer of a section, and how its tabs compare."""

    file: str
    name: str
    lines: dict[str, int]
    verdict: drift.Verdict


@dataclass
class Report:
    """What a check has found."""

    files: list[str] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def of(self, kind: str) -> list[Finding]:
        """The findings of a kind."""
        return [x for x in self.findings if x.kind == kind]

    @property
    def status(self) -> int:
        """The exit status: 1 if there is drift, 2 if something could not be checked, else 0."""
        return 1 if self.of("drift") else 2 if self.of("unchecked") else 0

    def margin(self) -> tuple[float, float | None]:
        """The largest distance that rounding made and the smallest of drift, as multiples of what is allowed."""
        verdicts = [x.verdict for x in self.compared]
        return (
            max((x.rounding for x in verdicts), default=0.0),
            min((x.smallest for x in verdicts if x.smallest is not None), default=None),
        )

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        rounding, smallest = self.margin()
        compared = []
        for x in self.compared:
            odd = {tab: far._asdict() | search._asdict() for tab, (far, search) in x.verdict.odd.items()}
            verdict = vars(x.verdict) | x.verdict.search._asdict() | {"odd": odd}
            del verdict["search"]
            compared.append({"file": x.file, "name": x.name, "lines": x.lines} | verdict)
        return {
            "status": self.status,
            "files": self.files,
            "optimizers": compared,
            "findings": [x._asdict() for x in self.findings],
            "margin": {"largest_rounding": rounding, "smallest_drift": smallest},
        }

    def annotations(self) -> list[str]:
        """The findings as commands of GitHub's workflows, which it shows beside the lines of the file."""
        kinds = {"drift": "error", "unchecked": "warning", "note": "notice"}
        lines = []
        for x in self.findings:
            title = " ".join(filter(None, (x.kind, x.name, x.tab)))
            place = f"file={_escaped(x.file, True)},line={x.line or 1}," if x.file else ""
            place += f"title={_escaped(title, True)}"
            text = _escaped("\n".join(filter(None, (x.message, x.behaves()))))
            lines.append(f"::{kinds[x.kind]} {place}::{text}")
        return lines


def _escaped(text, in_property=False):
    for character in "%\r\n" + ":," * in_property:
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def check(
    files: Sequence[Path],
    default_tab: str | None = None,
    tabs: Iterable[str] = (),
    timeout: float = 60.0,
    memory: float = 2.0,
    started: Callable[[int], Callable[[], Any]] = lambda number: lambda: None,
) -> Report:
    """Check sections of a d2l-style book, which runs their code: imports and functions, in a process for each tab.

    `default_tab` is that of cells without one; left out, the one of the book's `config.ini`, else mxnet. `tabs` limits
    the check to some. `timeout` is in seconds for an optimizer in a tab, `memory` in GiB beside the framework.
    `started(number)` is called with the number of drives; what it returns, after each.
    """
    report, sections = Report(), {}
    for file in dict.fromkeys(map(Path, files)):
        report.files.append(str(file))
        try:
            sections[str(file)] = section = optimizers.read(file, default_tab or book.default_tab(file) or "mxnet")
        except (OSError, ValueError, RecursionError) as error:
            report.findings.append(Finding("unchecked", str(file), None, "", "", f"could not be read: {error}"))
            continue
        for line, tab, what in section.unreadable:
            if not tabs or not tab or tab in tabs:
                report.findings.append(Finding("unchecked", str(file), line, "", tab, f"could not be checked: {what}"))
    _run(sections, tuple(tabs), timeout, int(memory * 2**30), started, report)
    if not report.compared and not report.findings:
        known = dict.fromkeys(tab for section in sections.values() for tab in section.cells)
        what = "no optimizer was found, a function (params, states, hyperparams)"
        if tabs and not {*tabs} & {*known}:
            what += f", and no tab {', '.join(tabs)}; there are {', '.join(known) or 'none'}"
        report.findings.append(Finding("unchecked", ", ".join(report.files), None, "", "", f"{what}; {book.READ}"))
    return report


def _run(sections, wanted, timeout, memory, started, report):
    jobs: dict[str, list[dict[str, Any]]] = {}
    found = {}
    for file, section in sections.items():
        for name, definitions in section.optimizers.items():
            its = {tab: x for tab, x in definitions.items() if not wanted or tab in wanted}
            values: dict[str, Any] = {}
            for key, value in (item for x in definitions.values() for item in x.hyperparams.items()):
                values[key] = values[key] if values.get(key) is not None else value
            runs = drive.settings([*values], values)
            found[file, name] = its, runs
            for tab, x in its.items():
                if x.passed is None:
                    how = f"takes ({', '.join(x.args)})" if x.args else "is not made by def"
                    what = f"could not be checked: it {how}; write it as def {name}(params, states, hyperparams)"
                    report.findings.append(Finding("unchecked", file, x.line, name, tab, what))
                    continue
                job = {"file": file, "name": name, "init": x.init, "passed": x.passed, "runs": runs}
                jobs.setdefault(tab, []).append(job)
    results: dict[tuple[str, str, str], dict[str, Any]] = {}
    done = started(sum(len(x) for tab, x in jobs.items() if tab in TABS))

    stop = threading.Event()

    def run(tab):
        cells = {file: section.cells[tab] for file, section in sections.items() if tab in section.cells}
        return sandbox.run(tab, jobs[tab], cells, timeout, memory, done, stop)

    known = [tab for tab in jobs if tab in TABS]
    for tab in jobs:
        if tab not in TABS:
            which = Counter(job["file"] for job in jobs[tab])
            for file, number in which.items():
                what = f"could not be checked: {number} optimizers; {_listed(TABS)} can be (see --tab)"
                report.findings.append(Finding("unchecked", file, None, "", tab, what))
    with ThreadPoolExecutor(max(1, len(known))) as pool:
        try:
            for tab, answers in zip(known, pool.map(run, known), strict=True):
                for job, answer in zip(jobs[tab], answers, strict=True):
                    results[job["file"], job["name"], tab] = answer
        except BaseException:  # an interrupt, too, ends the processes
            stop.set()
            raise
    if known and (note := sandbox.unconfined()):
        report.findings.append(Finding("note", "", None, "", "", note))
    for tab in known:
        if (answer := results[jobs[tab][0]["file"], jobs[tab][0]["name"], tab]).get("unusable"):
            for file in dict.fromkeys(job["file"] for job in jobs[tab]):
                what = f"could not be checked: {answer['error']}"
                report.findings.append(Finding("unchecked", file, None, "", tab, what))
    for (file, name), (its, runs) in found.items():
        ran = {tab: results[file, name, tab] for tab in its if (file, name, tab) in results}
        _compare(
            file, name, its, runs, ran, [tab for tab in sections[file].cells if not wanted or tab in wanted], report
        )


def _compare(file, name, its, runs, ran, all_tabs, report):
    def tell(kind, tab, message, line=None):
        line = line or (its[tab].line if tab in its else None)
        report.findings.append(Finding(kind, file, line, name, tab, message))

    for tab, answer in ran.items():
        if "error" in answer and not answer.get("unusable"):
            tell("unchecked", tab, f"could not be checked: {answer['error']}")
        for note in answer.get("notes", ()):
            tell("note", tab, note)
    paths = {tab: drift.Path(answer["paths"]) for tab, answer in ran.items() if "paths" in answer}
    if paths:
        verdict = drift.judge(name, paths, runs, {tab: its[tab].numbers for tab in paths})
        report.compared.append(Compared(file, name, {tab: its[tab].line for tab in its}, verdict))
        for finding in told(verdict):
            report.findings.append(finding._replace(file=file, line=its[finding.tab].line, name=name))
        if len(its) == 1:
            tell("note", next(iter(its)), "is in this tab only; there is no other to compare it with")
    _contract(name, its, ran, all_tabs, tell)


def told(verdict: drift.Verdict) -> Iterator[Finding]:
    """Yield what a verdict says, of no file yet."""
    best = verdict.groups[0]
    others = _listed([*best, *(["the spec"] if verdict.matches_spec else [])])
    doubt = "" if verdict.sure else "; which of them is right cannot be told"
    for tab, (far, search) in verdict.odd.items():
        message = f"differs from {others} {far}{doubt}"
        yield Finding("drift", "", None, "", tab, message, search.causes if verdict.rule else None, search.stopped)
    if verdict.rule and not verdict.matches_spec:
        causes, stopped = verdict.search
        what = "; ".join(causes[0]) if causes else _unknown(stopped, "it")
        verbs = ("is", "behaves") if len(best) == 1 else ("are", "behave")
        what = f"{verbs[0]} not {verdict.rule} of the spec, but {verbs[1]} as: {what}"
        yield Finding("note", "", None, "", best[0], f"{_listed(best)} {what}", None, stopped)


def _contract(name, its, ran, all_tabs, tell):
    """Tell what is no drift, but unlike between the tabs of a section."""
    for tab in all_tabs:
        if tab not in its and len(its) > 1:
            tell(
                "note", tab, f"is not defined in this tab; it is in {_listed(its)}", line=next(iter(its.values())).line
            )
    views: dict[str, Callable[[str], Any]] = {
        "takes {}": lambda tab: ", ".join(x for i, x in enumerate(its[tab].args) if not (its[tab].passed and i == 1)),
        "has states from {}": lambda tab: its[tab].init and f"{its[tab].init}({', '.join(its[tab].init_args)})",
        "starts from states of the shapes {}": lambda tab: ran.get(tab, {}).get("shapes"),
    }
    for words, view in views.items():
        seen = {tab: str(view(tab)) for tab in its if view(tab) is not None}
        if len({*seen.values()}) > 1:
            usual = Counter(seen.values()).most_common(1)[0][0]
            like = [tab for tab in seen if seen[tab] == usual]
            for tab in seen:
                if seen[tab] != usual:
                    tell("note", tab, f"{words.format(seen[tab])}; in {_listed(like)} it is {usual}")


def _listed(names):
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
