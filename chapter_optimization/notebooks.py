"""Make the chapter's notebooks, one a framework and language, and execute them from a clean start."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import references
from d2l_adam import TABS, protocol
from d2l_adam.check import markdown

console = Console(stderr=True)
FRAMEWORKS = tuple(tab for tab in TABS if tab != "numpy")
TIMEOUT = 100  # seconds for a cell; on a small machine the longest takes twenty


def notebook(cells: list[markdown.Cell], tab: str, language: str) -> nbformat.NotebookNode:
    """Return the notebook of one tab, ready to read; its references are the last cell.

    A code cell has the alternative text of its figure, which the text above it gives, as its metadata's `alt`.
    """
    cells = [cell.within(tab) for cell in cells if cell.of(tab)]
    texts = iter(references.plain([cell.source for cell in cells if cell.kind == "markdown"], language))
    new = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}
    made = [new[cell.kind](cell.source if cell.kind == "code" else next(texts)) for cell in cells]
    alt = None
    for cell, source in zip(made, cells, strict=True):
        if source.kind == "markdown":
            alt = references.alternative(source.source)
        elif alt:
            cell.metadata["alt"] = alt
    made.append(new["markdown"](references.references(language)))
    for i, cell in enumerate(made):
        cell.id = f"cell-{i}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def execute(job: tuple[Path, str, str], progress: Progress) -> str | None:
    """Execute the notebook of a `(file, tab, source)` and write it, outputs included. Return what failed, if any."""
    file, tab, source = job
    text = (references.FOLDER / f"{source}.md").read_text(encoding="utf-8")
    cells = markdown.read(text)
    lines = [cell.line for cell in cells if cell.of(tab)]
    file.parent.mkdir(parents=True, exist_ok=True)
    name = f"{tab}/{file.relative_to(file.parents[1])}"
    task = progress.add_task(name)
    at = [0]

    def started(cell, cell_index):
        at[0] = cell_index

    def executed(**_):
        progress.advance(task)

    # Rarely, a kernel and its client lose their connection, and both wait; then all is done anew, once, and with more
    # time, should it only have been slow.
    for last, timeout in ((False, TIMEOUT), (True, 5 * TIMEOUT)):
        nb, failure = notebook(cells, tab, references.SOURCES[source]), None
        progress.reset(task, total=sum(cell.cell_type == "code" for cell in nb.cells))
        client = NotebookClient(
            nb,
            timeout=timeout,
            kernel_name="python3",
            resources={"metadata": {"path": str(file.parent)}},
            on_cell_start=started,
            on_cell_executed=executed,
            # Else each kernel warns that others on this machine could listen. (Encrypted connections were lost.)
            extra_arguments=["--IPKernelApp.log_level=40"],
        )
        try:
            client.execute()
            break
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            cause = f"{error.ename}: {error.evalue}" if isinstance(error, CellExecutionError) else str(error)
            failure = f"{name}, cell {at[0] + 1} ({source}.md, line {lines[at[0]]}): {cause}"
            if last or isinstance(error, CellExecutionError):
                break
    nbformat.write(nb, file)
    return failure


@click.command()
@click.option("--tab", "tabs", multiple=True, type=click.Choice(FRAMEWORKS), help="Repeatable; default: all here.")
@click.option("--source", "sources", multiple=True, type=click.Choice(list(references.SOURCES)), help="Default: both.")
@click.option("--out", default="build/notebooks", show_default=True, type=click.Path(path_type=Path, file_okay=False))
def main(tabs, sources, out):
    """Execute the chapter's notebooks and leave them, with their outputs, in OUT/<tab>/chapter_optimization.

    Exits with 1 if a cell fails, and names notebook and cell; the outputs up to there are kept.
    """
    tabs = tabs or [tab for tab in FRAMEWORKS if tab in protocol.installed()]
    if absent := [tab for tab in tabs if tab not in protocol.installed()]:
        raise click.ClickException(f"{', '.join(absent)}: not installed; `python -m d2l_adam info` says how to")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # notes on processors and absent GPUs are no output of a cell
    jobs = [
        (out / tab / "chapter_optimization" / f"{source}.ipynb", tab, source)
        for tab in reversed(FRAMEWORKS)  # the slowest first, so that two run side by side to the end
        for source in references.SOURCES
        if tab in tabs and source in (sources or references.SOURCES)
    ]
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(max_workers=2) as pool:
        try:
            failures = list(pool.map(lambda job: execute(job, progress), jobs))
        except BaseException:  # an interrupt, too, leaves the rest undone
            pool.shutdown(cancel_futures=True)
            raise
    for failure in filter(None, failures):
        click.echo(failure, err=True)
    if any(failures):
        sys.exit(1)
    click.echo("Written: " + ", ".join(str(file) for file, _, _ in jobs))


if __name__ == "__main__":
    main()
