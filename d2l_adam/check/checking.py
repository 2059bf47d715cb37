"""The check of sections: their optimizers, run in every tab and compared, and what is wrong with them named."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from d2l_adam import TABS
from d2l_adam.check import definitions, drift, drive, markdown, notebooks, sandbox
from d2l_adam.check.drift import listed
from d2l_adam.check.report import Finding, Optimizer, Report, told


def check(
    files: Sequence[Path],
    default_tab: str | None = None,
    tabs: Iterable[str] = (),
    timeout: float = 60.0,
    memory: float = 2.0,
    confine: str = "auto",
    started: Callable[[int], Callable[[], Any]] = lambda number: lambda: None,
    of_tabs: Mapping[str, Path] | None = None,
    plain: bool = False,
) -> Report:
    """Check sections of a d2l-style book, which runs their code, in a process for each file and tab.

    `default_tab` is that of cells without one; left out, the one of the book's `config.ini`, else mxnet. `tabs` limits
    the check to some. `timeout` is in seconds for an optimizer in a tab, `memory` in GiB beside the framework.
    `confine` is "auto" for bubblewrap where it works, "off", or "required", which raises ValueError where it does not.
    `started(number)` is called with the number of drives; what it returns, after each. `of_tabs` are notebooks of one
    section, by tab; of others, the path says the tab. `plain` says whether any fence of Python in Markdown is a cell.
    """
    wanted, confinement = tuple(tabs), () if confine == "off" else sandbox.bubblewrap()
    if confine == "required" and not confinement:
        raise ValueError(f"nothing was run, as the code cannot be confined here; {sandbox.CURE}")
    grouped = notebooks.sections(dict.fromkeys(map(Path, files)))
    if of_tabs:
        grouped[str(next(iter(of_tabs.values())))] = {**of_tabs}
    report = Report([str(file) for section in grouped.values() for file in section.values()])

    def unchecked(file, line, tab, cause, how="could not be checked"):
        report.findings.append(Finding("unchecked", str(file), line, "", tab, f"{how}: {cause}").in_cell())

    sections = {}
    for name, files_of in grouped.items():
        sections[name] = section = definitions.Section({}, {}, [])
        for of_tab, path in files_of.items():
            try:
                part = definitions.read(path, of_tab or default_tab, plain)
            except Exception as error:  # whatever is wrong with a file, the others are checked
                unchecked(path, None, of_tab, _why(error), "could not be read")
                continue
            section.add(part, path)
            for line, tab, cause in part.unreadable:
                if not wanted or not tab or tab in wanted:
                    unchecked(path, line, tab, cause)
    optimizers = [x for file, section in sections.items() for x in _optimizers(file, section, wanted)]
    jobs: dict[tuple[str, str], list[Optimizer]] = {}
    for x in optimizers:
        for tab, definition in x.definitions.items():
            if definition.passed is not None:
                jobs.setdefault((x.file, tab), []).append(x)
                continue
            how = f"takes ({', '.join(definition.args)})" if definition.args else "is not made by def"
            cause = f"it {how}; write it as def {x.name}(params, states, hyperparams)"
            report.findings.append(x.finding("unchecked", tab, f"could not be checked: {cause}"))
    for file, tab in [key for key in jobs if key[1] not in TABS]:
        drives = jobs.pop((file, tab))
        unchecked(drives[0].files[tab], None, tab, f"{len(drives)} optimizers; {listed(TABS)} can be (see --tab)")
    _drive(jobs, timeout, int(memory * 2**30), confinement, started)
    if jobs and not confinement:
        report.findings.append(Finding("note", message=sandbox.UNCONFINED))
    for (_, tab), drives in jobs.items():
        for cause in dict.fromkeys(x.answers[tab]["error"] for x in drives if x.answers[tab].get("unusable")):
            unchecked(drives[0].files[tab], None, tab, cause)
    for x in optimizers:
        try:
            _compare(x, report)
        except Exception as error:
            report.findings.append(x.finding("unchecked", "", f"could not be compared: {_why(error)}"))
    if not report.compared and not report.findings:
        message = "no optimizer was found, a function (params, states, hyperparams)"
        known = dict.fromkeys(tab for section in sections.values() for tab in section.cells)
        if wanted and not {*wanted} & {*known}:
            message += f", and no tab {', '.join(wanted)}; there are {', '.join(known) or 'none'}"
        report.findings.append(Finding("unchecked", ", ".join(report.files), message=f"{message}; {markdown.READ}"))
    return report


def _optimizers(file, section, wanted):
    """Yield the optimizers of a section, in the tabs that are wanted."""
    for name, in_tabs in section.optimizers.items():
        values: dict[str, Any] = {}
        for definition in in_tabs.values():
            for key, value in {"lr": None, **definition.hyperparams}.items():
                values[key] = values[key] if values.get(key) is not None else value
        cells = {tab: x for tab, x in section.cells.items() if not wanted or tab in wanted}
        chosen = {tab: x for tab, x in in_tabs.items() if tab in cells}
        yield Optimizer(file, name, chosen, cells, section.files, drive.settings([*values], values))


def _why(error):
    """Why something could not be done."""
    return str(error) if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}"


def _drive(jobs, timeout, memory, confinement, started):
    """Drive the optimizers of each file and tab, some processes side by side; each gets its answers."""
    done, stop = started(sum(map(len, jobs.values()))), threading.Event()

    def run(key):
        file, tab = key
        given = {"file": file, "tab": tab, "cells": jobs[key][0].cells[tab], "timeout": timeout, "memory": memory}
        given["jobs"] = [
            {"name": x.name, "runs": x.runs, "init": made.init, "passed": made.passed, "step": made.step}
            for x, made in ((x, x.definitions[tab]) for x in jobs[key])
        ]
        try:
            return sandbox.run(given, confinement, done, stop)
        except Exception as error:  # no file, no process, no memory
            return [{"error": _why(error), "unusable": True}] * len(given["jobs"])

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            for key, answers in zip(jobs, pool.map(run, jobs), strict=True):
                for x, answer in zip(jobs[key], answers, strict=True):
                    x.answers[key[1]] = answer
        except BaseException:  # an interrupt, too, ends the processes
            stop.set()
            raise


def _compare(x, report):
    """Add to a report how the tabs of an optimizer compare."""
    for tab, answer in x.answers.items():
        if "error" in answer and not answer.get("unusable"):
            report.findings.append(x.finding("unchecked", tab, f"could not be checked: {answer['error']}"))
        report.findings += [x.finding("note", tab, note) for note in answer.get("notes", ())]
    paths = {tab: drift.Path(answer["path"]) for tab, answer in x.answers.items() if "path" in answer}
    if paths and all(path.hollow for path in paths.values()):
        cause = "could not be compared: nearly all is NaN or infinite"
        report.findings += [x.finding("unchecked", tab, cause) for tab in paths]
    elif paths:
        x.verdict = drift.judge(x.name.lower(), paths, x.runs, {tab: x.definitions[tab].numbers for tab in paths})
        report.compared.append(x)
        for said in told(x.verdict):
            report.findings.append(x.finding(said.kind, said.tab, said.message, said.causes, said.stopped))
        if len(x.definitions) == 1:
            report.findings.append(
                x.finding("note", *x.definitions, "is in this tab only; there is no other to compare it with")
            )
    report.findings += [x.finding("note", tab, message) for tab, message in _unlike(x)]


def _unlike(x) -> Iterator[tuple[str, str]]:
    """Yield what is no drift, but unlike between the tabs of a section."""
    if len(x.definitions) > 1:
        for tab in x.cells:
            if tab not in x.definitions:
                yield tab, f"is not defined in this tab; it is in {listed([*x.definitions])}"
    takes, has, starts = {}, {}, {}
    for tab, definition in x.definitions.items():
        takes[tab] = ", ".join(arg for i, arg in enumerate(definition.args) if not (definition.passed and i == 1))
        if definition.init:
            has[tab] = f"{definition.init}({', '.join(definition.init_args)})"
        if "shapes" in x.answers.get(tab, ()):
            starts[tab] = x.answers[tab]["shapes"]
    views = {"takes": takes, "has states from": has, "starts from states of the shapes": starts}
    for words, seen in views.items():
        for usual, _ in Counter(seen.values()).most_common(1):
            like = listed([tab for tab in seen if seen[tab] == usual])
            for tab, text in seen.items():
                if text != usual:
                    yield tab, f"{words} {text}; in {like} it is {usual}"
