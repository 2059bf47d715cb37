"""The command line: `python -m d2l_adam`, also installed as `d2l-adam`."""

import contextlib
import csv
import io
import json
import math
import os
import platform
import signal
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import click
import numpy
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, track
from rich.table import Table

from d2l_adam import TABS, __version__, data, fused, protocol, spec
from d2l_adam import bench as benching
from d2l_adam import check as checking
from d2l_adam import render as rendering
from d2l_adam.check.report import shown
from d2l_adam.dialects import TABLE

out, err = Console(), Console(stderr=True)
_TABS = click.option(
    "--tab", "tabs", multiple=True, type=click.Choice(TABS), help="Repeatable; default: all that are here."
)
_RULES = click.option(
    "--rule", "rules", multiple=True, type=click.Choice(list(spec.SECTION)), help="Repeatable; default: all."
)
_REPEATABLE = "Repeatable; default: some sizes and models."
_PATH = click.Path(path_type=Path, file_okay=False)


def _writable(context, parameter, folder):
    """Refuse, before the work, a folder in which nothing can be written."""
    there = next(x for x in (folder.absolute(), *folder.absolute().parents) if x.exists())
    with tempfile.TemporaryFile(dir=there):
        return folder


_FOLDER = click.option("--out", "folder", default="build", type=_PATH, callback=_writable, help="For files.")


def _json(text):
    return click.option("--json", "as_json", is_flag=True, help=text)


class _Finite(click.FloatRange):
    """A number in a range, which NaN is not."""

    def convert(self, value, parameter, context):
        """Convert it, or say what is wrong with it."""
        number = super().convert(value, parameter, context)
        return self.fail(f"{value} is no number.", parameter, context) if math.isnan(number) else number


@contextlib.contextmanager
def _printing():
    """Let whoever reads what is printed stop reading, as `head` does."""
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # which rich makes of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _table(left, right, rows, title=None, justify="left"):
    """Print a table with columns to the left and, for numbers, to the right."""
    table = Table(*left, title=title, title_justify=justify)
    for heading in right:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    out.print(table)


@click.group(context_settings={"show_default": True})
@click.version_option(__version__, package_name="d2l_adam")
def cli():
    """Adam and Yogi of "Dive into Deep Learning": one spec, run by MXNet, PyTorch, TensorFlow, JAX and NumPy."""
    # TensorFlow's notes on processors and absent GPUs would bury the table; what fails still raises.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@cli.command()
@_TABS
@_RULES
@click.option("--lr", default=0.01, help="Learning rate.")
@click.option("--batch-size", default=10, help="Examples a step.")
@click.option("--num-epochs", default=2, help="Passes over the 1500 rows.")
@click.option("--seed", default=0, help="Draws the first weights and the order of the rows.")
@click.option("--dtype", default="float32", type=click.Choice(list(protocol.TOLERANCE)))
@_FOLDER
@_json("Print JSON, the curves included, instead of the table.")
def run(tabs, rules, folder, as_json, **settings):
    """Train in every framework and compare the loss curves.

    Writes curves.svg, curves.png and curves.csv. Exits with 1 if a curve leaves the tolerance of
    the parity protocol (1e-6 in float32, 1e-14 in float64) or if a framework does not work.

    \b
    Example: d2l-adam run --tab pytorch --tab tensorflow --rule yogi --lr 0.02
    """
    here, broken = protocol.installed(), {}
    absent = [tab for tab in TABS if not tabs and tab not in here]
    for tab in tabs or here:
        try:
            protocol.load(tab)
        except ImportError as error:
            broken[tab] = str(error)
    curves = protocol.compare(
        [tab for tab in tabs or here if tab not in broken],
        rules or spec.SECTION,
        lambda jobs: track(jobs, "training", console=err, disable=as_json),
        **settings,
    )
    tolerance = protocol.TOLERANCE[settings["dtype"]]
    holds = not broken and all(curve["max_distance"] <= tolerance for curve in curves)
    files = _write(curves, tolerance, folder)
    with _printing():
        if as_json:
            _print_json(settings | {"tolerance": tolerance, "holds": holds, "broken": broken, "curves": curves})
        else:
            _print(curves, tolerance, settings["dtype"])
            for tab in absent:
                click.echo(f"{tab}: not installed, left out; see d2l-adam info")
            click.echo(f"Written: {', '.join(map(str, files))}")
    for tab, cause in broken.items():
        click.echo(f"{tab}: {cause}", err=True)
    sys.exit(0 if holds else 1)


def _write(curves, tolerance, folder):
    from d2l_adam import plot

    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "curves.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("tab", "rule", "epoch", "loss", "distance"))
        for curve in curves:
            for point in zip(curve["epochs"], curve["losses"], curve["distances"], strict=True):
                writer.writerow((curve["tab"], curve["rule"], *map(repr, point)))
    return [*plot.save(plot.draw(curves, tolerance), folder / "curves"), table]


def _print_json(result):
    text = json.dumps(result, ensure_ascii=False).encode(errors="replace")  # a file may have a name that is no text
    plain = json.loads(text, parse_constant=lambda constant: None)  # JSON has no NaN
    click.echo(json.dumps(plain, allow_nan=False))


def _print(curves, tolerance, dtype):
    rows = []
    for curve in curves:
        distance = f"{curve['max_distance']:.1e}"
        if not curve["max_distance"] <= tolerance:
            distance = f"[red]{distance} TOO FAR"
        elif curve["tab"] == "numpy":
            distance = "reference"
        loss, seconds = f"{curve['final_loss']:.6f}", f"{curve['seconds_per_epoch']:.3f}"
        rows.append((curve["tab"], curve["rule"], loss, distance, seconds))
    title = f"Loss curves in {dtype}; allowed distance {tolerance:.0e}"
    _table(("tab", "rule"), ("final loss", "largest distance", "s/epoch"), rows, title, justify="center")


@cli.command()
@_json("Print JSON instead of the table.")
def info(as_json):
    """Say which frameworks are here and how to install the others, how steps are made, and whether the data are sound.

    Every framework is really imported, and makes a step, so this takes some seconds. Exits with 1 if the data
    file is missing or damaged, or if an installed framework does not work.

    \b
    Example: d2l-adam info --json
    """
    frameworks, sound = {}, True
    for tab in track(TABS, "importing", console=err, disable=as_json):
        package = protocol.MODULE[tab]
        row = frameworks[tab] = {"version": None, "d2l": None, "step": None, "note": ""}
        try:
            module = protocol.load(tab)
            row["step"], row["note"] = _how_it_steps(module)
            row["version"] = sys.modules[package].__version__
            with contextlib.suppress(AttributeError):  # a tab that the book has not
                row["d2l"] = version("d2l") if module.d2l.__name__.startswith("d2l.") else "ours"
        except ImportError as error:
            row["note"] = str(error)
            sound &= find_spec(package) is None or row["version"] is not None
    steps = fused.facts()
    table: dict[str, str | None] = {"file": None, "checksum": "holds"}
    try:
        table["file"] = str(data.path())
    except (OSError, ValueError) as error:
        table["checksum"], sound = str(error), False
    with _printing():
        if as_json:
            _print_json(
                {"d2l_adam": __version__, "frameworks": frameworks, "steps": steps, "data": table, "sound": sound}
            )
        else:
            click.echo(f"d2l_adam {__version__}, Python {platform.python_version()}")
            rows = []
            for tab, row in frameworks.items():
                cells = [row[key] or "-" for key in ("version", "d2l", "step")]
                rows.append((tab, *cells, escape(row["note"] or "")))
            _table(("tab", "version", "d2l", "steps", "note"), (), rows)
            threads = f"up to {steps['threads']} threads; compiled code is kept in {steps['cache']}"
            how = f"fused by Numba {steps['numba']} for float32 and float64 on the processor, {threads}"
            if steps["why"]:
                how = f"eager; {steps['why']}"
            click.echo(f"steps: {how}")
            click.echo(f"data: {table['file'] or '-'}; checksum: {table['checksum']}")
    sys.exit(0 if sound else 1)


def _how_it_steps(module):
    choice = fused.choice()
    if choice is False:
        return "eager", ""
    X, y, w, b = (numpy.ones(shape, "float32") for shape in ((2, 5), (2, 1), (5, 1), (1,)))
    params, _, gradients = module.TAB.regression(w, b)
    fused.set_fused(True)
    try:
        module.adam(params, *gradients(X, y), module.init_adam_states(5, "float32"), {"lr": 0.01, "t": 1})
    except ValueError as error:
        return module.TAB.unfused, str(error)
    finally:
        fused.set_fused(choice)
    return "fused", ""


@cli.command()
@_TABS
@click.option("--size", "sizes", multiple=True, type=click.Choice(list(benching.SIZES)), help=_REPEATABLE)
@click.option("--model", "models", multiple=True, type=click.Choice(list(benching.MODELS)), help=_REPEATABLE)
@_RULES
@click.option("--seconds", default=5.0, help="For each tab and size, about.")
@click.option("--epochs/--no-epochs", default=True, help="Time epochs of the chapter's training.")
@_FOLDER
@_json("Print JSON, every turn included, instead of the tables.")
def bench(tabs, sizes, models, rules, seconds, epochs, folder, as_json):
    """Time steps of the native optimizers, and in NumPy of the functions, beside the framework's own Adam.

    The parameters are of the sizes and of the shapes of the models that are named; by default: chapter, mlp, resnet50,
    1e7 and, but for JAX, 1000 x 1000 (gpt2 needs 8 GB of memory, 1e8 7 GB). Writes bench.svg, bench.png and bench.json.
    Takes about five minutes; the fewer, the less. A ratio is how often our time fits into the other's, with its
    quartiles.

    \b
    Example: d2l-adam bench --tab pytorch --model mlp --size 1e7 --no-epochs
    """
    from d2l_adam import plot

    tabs = tabs or protocol.installed()
    jobs = [(tab, size) for tab in tabs for size in (*sizes, *models) or benching.default(tab)]
    jobs += [(tab, None) for tab in tabs if epochs and tab in benching.EPOCH_GOALS]
    result: dict = {"machine": benching.machine(), "cases": [], "epochs": {}}
    for tab, size in track(jobs, "measuring", console=err, disable=as_json):
        if size:
            result["cases"].append(benching.measure(tab, size, rules or tuple(spec.SECTION), seconds))
        else:
            result["epochs"][tab] = benching.epochs(tab)
    result["ratios"] = benching.ratios(result)
    folder.mkdir(parents=True, exist_ok=True)
    files = [*plot.save(plot.draw_steps(result["ratios"]), folder / "bench"), folder / "bench.json"]
    files[-1].write_text(json.dumps(result))
    with _printing():
        if as_json:
            _print_json(result)
        else:
            _print_bench(result)
            click.echo(f"Written: {', '.join(map(str, files))}")


def _print_bench(result):
    on = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in on["versions"].items())
    click.echo(f"{on['processor']}, {on['cores']} cores, {on['threads']} threads; {on['system']}")
    click.echo(f"Python {on['python']}; {versions}; {on['date']}")
    ratio_of = {(x["at"], x["ours"]): x for x in result["ratios"]}
    rows = []
    for at, contestants, _ in benching.cases(result):
        for x in contestants:
            ratio, row = ratio_of.get((at, x["name"])), [at, x["name"], _duration(x["seconds"])]
            if ratio:
                figure = f"{ratio['ratio']:.2f}" if ratio["met"] else f"[red]{ratio['ratio']:.2f}"
                goal = "-" if ratio["goal"] is None else f"{ratio['goal']:.1f}"
                row += [figure, f"{ratio['low']:.2f}-{ratio['high']:.2f}", goal]
            memory = "" if x.get("memory") is None else f"{x['memory'] / 2**20:,.0f}"
            rows.append([*row, *[""] * (6 - len(row)), memory])
    title = (
        "Times of a step, and of an epoch; how often ours fits into the last; the memory that a step takes for a while"
    )
    _table(("", ""), ("time", "ratio", "quartiles", "goal", "MiB"), rows, title)


def _duration(seconds):
    return f"{seconds * 1e6:,.0f} us" if seconds < 1e-2 else f"{seconds * 1e3:,.1f} ms"


_OF_RENDER = "all: the rule that all tabs share; javascript: a function of numbers, for a browser."


@cli.command()
@click.option("--tab", required=True, type=click.Choice(rendering.TABS), help=_OF_RENDER)
@click.argument("names", nargs=-1, type=click.Choice(rendering.NAMES))
def render(tab, names):
    """Print functions of the book as the reader of a tab sees them, rendered from the spec.

    NAMES are the book's optimizers and their init_..._states; without any, the chapter's: init_adam_states, adam
    and yogi. The code needs only its framework. As a rule, `adam` is named adam_rule:
    rule(p, g, v, s, t, lr, ...) -> (p, v, s).

    \b
    Example: d2l-adam render --tab pytorch adam
    """
    click.echo(rendering.render(tab, *names), nl=False)


@cli.command()
@_json("Print JSON, which also has what each calls its constants and its state, instead of the table.")
def dialects(as_json):
    """Print which rule the optimizers of other libraries are, with which defaults and from which start.

    `tab.like(NAME)` is a class of the tab's own framework that makes the steps of the one of that name.

    \b
    Example: d2l-adam dialects --json
    """
    rows = [x.as_dict() for x in TABLE.values()]
    with _printing():
        if as_json:
            _print_json(rows)
            return
        for x in rows:
            given = [f"{name}={'?' if value is None else f'{value:g}'}" for name, value in x["defaults"].items()]
            start = [f"{name} from {value:g}" for name, value in x["initial"].items() if value]
            click.echo(f"{x['name']:<39} {x['rule']}({', '.join(given)}){', ' * bool(start)}{', '.join(start)}")


@cli.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--default-tab", help="Of cells without a tab; default: the first of the book's config.ini, else mxnet.")
@click.option(
    "--tab", "tabs", multiple=True, help="Check these tabs only; or TAB=FILE, the notebook of a tab. Repeatable."
)
@click.option("--plain", is_flag=True, help="Read ```python fences of Markdown, and the like, too.")
@click.option("--timeout", default=60.0, type=_Finite(1, 86400), help="Seconds for an optimizer in a tab.")
@click.option("--memory", default=2.0, type=_Finite(0.1, 1024), help="GiB for the code of a tab, beside its framework.")
@click.option(
    "--confine",
    default="auto",
    type=click.Choice(["required", "auto", "off"]),
    help="Whether bubblewrap has to confine the code, does where it works, or does not.",
)
@_json("Print JSON instead.")
@click.option("--github", is_flag=True, help="Print annotations that GitHub shows beside the lines, instead.")
def check(files, default_tab, tabs, plain, timeout, memory, confine, as_json, github):
    """Compare the tabs of sections of a d2l-style book: which optimizer has drifted in which tab, and how.

    FILES are d2lbook's Markdown, of which the ```{.python .input} cells are read, or notebooks, whose tabs their paths
    say, such as pytorch/adam.ipynb. Checking a file RUNS ITS CODE: functions and what these need, each tab in a process
    of its own, which bubblewrap, on Linux, keeps from the network and from all files but those of a scratch folder; no
    cell that trains is run. Every function (params, states, hyperparams) or (params, grads, states, hyperparams) that a
    section defines, and every class with a step() or an update(params, grads), is driven through the same gradients in
    every tab. A tab that moves elsewhere than the others, by more than rounding explains, has drifted; what makes its
    path, put into the spec, is named.

    Exits with 2 if something could not be checked, else with 1 if there is drift, else with 0.

    \b
    Examples: d2l-adam check chapter_optimization/*.md
              d2l-adam check --default-tab pytorch --tab pytorch --tab tensorflow adam.md
              d2l-adam check notebooks/*/adam.ipynb
              d2l-adam check --tab pytorch=a.ipynb --tab tensorflow=b.ipynb
    """
    of_tabs = {tab: Path(file) for tab, equals, file in (x.partition("=") for x in tabs) if equals}
    tabs, quiet = [x for x in tabs if "=" not in x], as_json or github
    if not files and not of_tabs:
        raise click.UsageError("Missing argument 'FILES...', or --tab TAB=FILE.")
    if not quiet:
        err.print(f"Running the code of {_count(len(files) + len(of_tabs), 'file')}, each tab in a process of its own.")
    with Progress(console=err, disable=quiet, transient=True) as progress:

        def started(number):
            task = progress.add_task("driving", total=number)
            return lambda: progress.advance(task)

        report = checking.check(files, default_tab, tabs, timeout, memory, confine, started, of_tabs, plain)
    with _printing():
        if as_json:
            _print_json(report.as_dict())
        elif github:
            for line in report.annotations():
                click.echo(line)
        else:
            _print_check(report)
    sys.exit(report.status)


@cli.command()
@click.argument("names", nargs=-1, required=True)
@_json("Print JSON instead.")
def identify(names, as_json):
    """Say which rule optimizers are, with which constants, and of which library's dialect.

    NAMES are import paths, file.py:Class, or a module's, module.*; of PyTorch, Keras, MXNet or optax, or a class with
    update(params, grads). Arguments may stand in brackets. Each is IMPORTED AND RUN in this process, unconfined. It is
    driven through the gradients of `check` and compared with the table of `dialects`, also with its own constants, then
    with changes of the nearest rule.

    Exits with 2 if one could not be driven, with 1 if one is none of these, else with 0.

    \b
    Examples: d2l-adam identify torch.optim.Adam 'torch.optim.SGD(momentum=0.5)' mine.py:Adam
              d2l-adam identify 'keras.optimizers.*'
    """
    from d2l_adam.check import identify as identifying

    found = []
    with _printing():
        for name in (x for pattern in names for x in identifying.names(pattern)):
            found.append(identifying.identify(name))
            if not as_json:
                click.echo(shown(found[-1].text()))
        if as_json:
            _print_json([x._asdict() for x in found])
        elif versions := dict.fromkeys(f"{x.name.partition('.')[0]} {x.version}" for x in found if x.version):
            click.echo(f"Versions: {', '.join(versions)}")
    sys.exit(2 if any(x.error for x in found) else int(any(x.step is not None for x in found)))


def _print_check(report):
    rows = []
    top = os.path.commonpath([os.path.dirname(os.path.abspath(x.file)) for x in report.compared] or ["/"])
    for x in report.compared:
        agree, differ = x.verdict.groups[0], list(x.verdict.odd)
        matches = "-" if x.verdict.rule is None else "the same" if x.verdict.matches_spec else "another"
        agree = "-" if len(x.definitions) == 1 else ", ".join(agree)
        row = os.path.relpath(x.file, top), x.name, agree, ", ".join(differ) or "-", matches
        rows.append([escape(shown(text)) for text in row])
    if rows:
        _table(("section", "optimizer", "agree", "differ", "spec"), (), rows)
    for kind, colour in (("drift", "red"), ("unchecked", "yellow"), ("note", None)):
        for x in report.of(kind):
            click.secho(x.text(), fg=colour)
    if report.compared:
        rounding, smallest = report.margin()
        drift = f"; the smallest drift is {smallest:,.0f} times that" if smallest is not None else ""
        click.echo(f"Rounding took equal tabs {rounding:.2f} of the allowed distance apart{drift}.")
    drifted = len({(x.file, x.name) for x in report.of("drift")})
    checked = f"{_count(len(report.compared), 'optimizer')} in {_count(len(report.files), 'file')}: {drifted} drifted"
    unchecked, notes = (len(report.of(kind)) for kind in ("unchecked", "note"))
    click.echo(f"{checked}, {unchecked} could not be checked, {_count(notes, 'note')}.")


def _count(number, noun):
    return f"{number} {noun}{'s' * (number != 1)}"


def main():
    """Run the command line; an error of the user's is one line and exit status 2, an interrupt 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for what its encoding lacks
    for name in ("SIGHUP", "SIGTERM"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_DFL:
            signal.signal(getattr(signal, name), lambda number, frame: sys.exit(128 + number))
    try:
        status = cli(standalone_mode=False)
    except click.Abort:
        status = 130
    except (click.ClickException, ValueError, OSError) as error:
        text, status = io.StringIO(), 2
        (error if isinstance(error, click.ClickException) else click.ClickException(str(error))).show(text)
        click.echo("\n".join(map(shown, text.getvalue().splitlines())), err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
