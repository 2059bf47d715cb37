"""The guide as static HTML, with a reference of every public name: python chapter_optimization/guide.py.

The pages are those of the folder guide, beside this file; the reference is made of the docstrings. Sphinx and MyST make
HTML of both, with a search that needs no server.
"""

import importlib
import inspect
import re
import shutil
import types
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
from sphinx.application import Sphinx

from d2l_adam import protocol

HERE = Path(__file__).resolve().parent
#: The modules of the reference, beside those of the tabs that are installed.
MODULES = ("d2l_adam", "d2l_adam.spec", "d2l_adam.testing", "d2l_adam.check")
MATHJAX = files("sphinx-mathjax-offline") / "static" / "mathjax" / "tex-svg-full.js"
SETTINGS = {
    "project": "d2l_adam",
    "html_title": "d2l_adam",
    "html_theme": "furo",
    "extensions": ["myst_parser", "sphinx_copybutton"],
    "myst_enable_extensions": ["dollarmath", "amsmath"],
    "html_static_path": [str(MATHJAX)],
    "mathjax_path": MATHJAX.name,
    "mathjax3_config": {"options": {"enableMenu": False}, "svg": {"fontCache": "local"}},  # it loads no fonts then
    **dict.fromkeys(("html_show_copyright", "html_show_sphinx", "html_copy_source", "html_use_index"), False),
}
#: An argument in a docstring, as `lr (float): the learning rate` or `**options: what the base class takes`.
ARGUMENT = re.compile(r"    ([*\w]+)( \(.*?\))?: (.*)")


def public(module: types.ModuleType) -> dict[str, Any]:
    """Return the public names of a module, with what is theirs: functions and classes of this project, in its order."""
    exported = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
    return {
        name: x
        for name, x in (exported | vars(module)).items()
        if not name.startswith("_") and callable(x) and str(x.__module__).startswith("d2l_adam")
    }


def markdown(docstring: str) -> str:
    """A docstring as MyST: its arguments as a list, its examples and what is set off in fences."""
    lines: list[str] = []
    arguments, fence = False, ""
    for line in [*docstring.splitlines(), ""]:
        starts, indented = line.startswith(">>> ") and not fence, line.startswith("    ") and not arguments
        if fence and not (line if fence == "example" else line.startswith("    ") or not line):
            while not lines[-1]:
                lines.pop()
            lines.append("```\n")
            fence = ""
        if line == "Args:":
            arguments, line = True, ""
        elif arguments and (match := ARGUMENT.fullmatch(line)):
            line = f"- `{match[1]}`{match[2] or ''}: {match[3]}"
        elif arguments and line.startswith("        "):
            line = line[6:]
        elif arguments and line:
            arguments, line = False, f"\n{line}"
        elif (starts or indented) and not fence:
            lines.append("```python")
            fence = "example" if starts else "code"
        lines.append(line.removeprefix("    ") if fence == "code" else line)
    text = "\n".join(lines).rstrip()
    return f"{text}\n```" if fence else text


def signature(name: str, function: Any) -> str:
    """How something is called, an argument a line where it is long."""
    arguments: list[str] = []
    for argument in inspect.signature(function).parameters.values():
        if argument.kind is argument.KEYWORD_ONLY and not any(x.startswith("*") for x in arguments):
            arguments.append("*")
        arguments.append(re.sub(r"<function (\S+) at .*>", r"\1", str(argument)))
    line = f"{name}({', '.join(arguments)})"
    return line if len(line) <= 80 else "\n".join([f"{name}(", *(f"    {x}," for x in arguments), ")"])


def reference(module: types.ModuleType) -> str:
    """The page of a module: what it is, and its public names with their signatures and docstrings."""
    parts = [f"# {module.__name__}", markdown(inspect.getdoc(module) or "")]
    for name, x in public(module).items():
        parts += [f"## {name}", f"```python\n{signature(name, x)}\n```", markdown(inspect.getdoc(x) or "")]
    return "\n\n".join(parts) + "\n"


@click.command()
@click.option("--out", default="build/html", show_default=True, type=click.Path(path_type=Path), help="For the pages.")
def main(out):
    """Build the guide, guide/index.html, from its sources and the docstrings."""
    scratch = HERE.parent / "build" / "guide"
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(HERE / "guide", scratch)
    names = [*MODULES, *(f"d2l_adam.{protocol.MODULE[tab]}" for tab in protocol.installed())]
    for name in names:
        (scratch / f"{name}.md").write_text(reference(importlib.import_module(name)), encoding="utf-8")
    tree = "\n".join(names)
    (scratch / "api.md").write_text(f"# Reference\n\n```{{toctree}}\n:maxdepth: 2\n\n{tree}\n```\n", encoding="utf-8")
    click.echo(f"building {out / 'guide' / 'index.html'}")
    html = str(out / "guide")
    app = Sphinx(
        scratch, None, html, scratch / "doctrees", "html", SETTINGS, status=None, freshenv=True, warningiserror=True
    )
    app.build(force_all=True)
    if app.statuscode:
        raise click.ClickException(f"Sphinx refused the guide; its reasons stand above, its lines are of {scratch}")


if __name__ == "__main__":
    main()
