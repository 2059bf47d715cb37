"""The section as static HTML, in Japanese and in English: python chapter_optimization/page.py.

Each source becomes MyST Markdown, the cells of the tabs side by side and with the outputs of the executed
notebooks, and a live figure where a comment such as <!-- live: run --> stands (live.py); Sphinx, MyST and furo
make the pages of it (conf.py, _static, _templates).
"""

import hashlib
import itertools
import re
import shutil
from base64 import b64decode
from operator import itemgetter
from pathlib import Path

import click
import nbformat
from sphinx.cmd.build import build_main

import live
import references
from d2l_adam.check import markdown

HERE = Path(__file__).resolve().parent
TABS = {"mxnet": "MXNet", "pytorch": "PyTorch", "tensorflow": "TensorFlow", "jax": "JAX"}
FILES = {language: file for file, language in references.SOURCES.items()}
WORDS = {
    "ja": {
        "alt": "上のコードが描いた図",
        "widget": "スライダーはノートブックの中で動きます。",
        "live": "このページでは、{numref}`live-run` のスライダーを動かしてみてください。",
        "nothing": "このフレームワークでは何もありません。",
        "figure": "図 %s",
    },
    "en": {
        "alt": "Figure drawn by the code above",
        "widget": "The slider is in the notebook.",
        "live": "On this page, move the sliders of {numref}`live-run`.",
        "nothing": "Nothing here for this framework.",
        "figure": "Figure %s",
    },
}
CODE = re.compile(
    r"^(?P<fence>```+|~~~+)[\s\S]*?^(?P=fence)[ \t]*$"
    r"|(?P<role>:\w+:`[^`\n]*`)"
    r"|(?P<ticks>`+)(?!`)[\s\S]*?(?<!`)(?P=ticks)(?!`)",
    re.MULTILINE,
)
EQUATION = re.compile(r"(?<=\$\$)\s*:eqlabel:`([^`]+)`")
TABLE = re.compile(r"^:(?!\w+:)(.+)\n\s*\n?((?:.*\|.*\n)+)\s*?(?:\n?:label:`([^`]+)`)?$", re.MULTILINE)
HEADING = re.compile(r"^(#+ .*)(?:\n+:label:`([^`]+)`)?$", re.MULTILINE)
ROLE = re.compile(r":(\w+):`([^`\n]*)`")
ROLES = {"numref": "numref", "eqref": "eq", "cite": "cite:p", "citet": "cite:t"}
WIDE = re.compile(r'<svg[^>]* width="[4-9]\d\d')  # 400 points and more: figures of several panels
FOLD = re.compile(r"^<!-- fold: (.*) -->$", re.MULTILINE)
LIVE = re.compile(r"^<!-- live: (.*?) -->$", re.MULTILINE)
IMAGES = {"image/svg+xml": "svg", "image/png": "png"}
WIDGET = "application/vnd.jupyter.widget-view+json"


def block(info, body):
    """A directive in a fence that is longer than those within."""
    fence = "`" * (2 + max(map(len, re.findall("`+", body)), default=1))
    return f"{fence}{info}\n{body}\n{fence}"


def myst(text, language):
    """The prose of a source in MyST's words; code stays as it is, and so do the lines that name tabs."""
    kept: list[str] = []

    def keep(match):
        if match["role"]:
            return match[0]
        kept.append(match[0])
        return f"\0{len(kept) - 1}\0"

    def role(match):
        name, key = match.groups()
        if name == "begin_tab":
            return match[0]
        if name == "numref" and key in references.SECTIONS:
            number, url, titles = references.SECTIONS[key]
            return f'[{references.WORDS[language]["section"] % number}]({url} "{titles[language]}")'
        if name not in ROLES:
            raise click.ClickException(f"{FILES[language]}.md: a page has no place for {match[0]}")
        return f"{{{ROLES[name]}}}`{key}`"

    def table(match):
        name = f":name: {match[3]}\n" if match[3] else ""
        return block(f"{{table}} {match[1]}", f"{name}\n{match[2]}")

    parts = itertools.count(1)
    text = CODE.sub(keep, text)
    text = references.without_slide_marks(text)
    text = references.SPACES.sub("", text)
    text = EQUATION.sub(r" (\1)", text)
    text = TABLE.sub(table, text)
    text = HEADING.sub(lambda match: f"\n{{#{match[2] or f'part-{next(parts)}'}}}\n{match[1]}\n", text)
    text = ROLE.sub(role, text)
    text = FOLD.sub(r'<details class="fold"><summary>\1</summary>', text).replace("<!-- end fold -->", "</details>")
    text = re.sub("\0(\\d+)\0", lambda match: kept[int(match[1])], text)
    return LIVE.sub(lambda match: live_figure(match[1], language), text)


def live_figure(name, language):
    """The place of a live figure: a picture, which live.js puts itself before, and the caption of both."""
    if name not in live.FIGURES:
        raise click.ClickException(
            f"{FILES[language]}.md: there is no live figure {name!r}; known: {', '.join(live.FIGURES)}"
        )
    texts = live.TEXTS[language]["figures"][name]
    options = f":alt: {texts['picture']}\n:figclass: live live-{name}\n:name: live-{name}"
    return block(f"{{figure}} live-{name}.svg", f"{options}\n\n{texts['caption']}")


def figure(svg):
    """A figure without the date and the random names that Matplotlib gives it: the same picture is the same text."""
    names: dict[str, str] = {}
    svg = re.sub(r"<dc:date>.*?</dc:date>", "", svg)
    return re.sub(r'(?<=["#_])[mph]?[0-9a-f]{10}\b', lambda match: names.setdefault(match[0], f"n{len(names)}"), svg)


def kind_of(output):
    """The kind of an output, the best that a page can show, and what it holds."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    for kind in (WIDGET, *IMAGES, "text/html"):
        if kind in data and (kind != "text/html" or "<table" in data[kind]):
            return kind, data[kind]
    return "text/plain", data.get("text/plain", "") + "\n" * (output.output_type != "stream")


def outputs(cell, words, folder):
    """What a code cell printed and drew, as MyST; its images become files of the folder."""
    parts = []
    for kind, group in itertools.groupby(map(kind_of, cell.outputs), itemgetter(0)):
        contents = [content for _, content in group]
        if kind == "text/plain":
            text = re.sub(r"\x1b\[[\d;]*m|.*\r(?!\n)", "", "".join(contents)).strip("\n")
            parts += [block("{code-block} text", text)] if text.strip() else []
        elif kind == WIDGET:
            parts.append(f"{{.widget}}\n{words['widget']}")
        elif kind == "text/html":
            parts += [block("{raw} html", content) for content in contents]
        else:
            alt = " ".join(cell.metadata.get("alt", words["alt"]).split())
            for content in contents:
                data = figure(content).encode() if kind == "image/svg+xml" else b64decode(content)
                file = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.{IMAGES[kind]}"
                file.write_bytes(data)
                wide = "wide" if WIDE.search(content) else "narrow"
                parts.append(block(f"{{image}} {file.name}", f":alt: {alt}\n:class: {wide}"))
    return [block("{container} output", "\n\n".join(parts))] if parts else []


def executed(cells, tab, file):
    """The cells of a tab, each with its place in the section and as executed in the notebook."""
    if not file.exists():
        raise click.ClickException(
            f"{file} is missing; make it with `make run`, or say with --notebooks where the notebooks are"
        )
    notebook = nbformat.read(file, 4)
    places = [place for place, cell in enumerate(cells) if cell.of(tab)]
    ran = [(cell.cell_type, cell.source if cell.cell_type == "code" else "") for cell in notebook.cells[: len(places)]]
    if ran != [(cells[at].kind, cells[at].source if cells[at].kind == "code" else "") for at in places]:
        raise click.ClickException(
            f"{file} has other cells than the section; save your own under another name, then make it anew: make run"
        )
    for place, cell in zip(places, notebook.cells, strict=False):
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            raise click.ClickException(f"{file}: a cell failed:\n{cell.source}")
        yield place, cell


def page(text, language, notebooks, folder):
    """The section as one page of MyST: what differs between the tabs becomes a group of panels."""
    words = WORDS[language]
    if "run" in LIVE.findall(text):
        words = words | {"widget": words["live"]}
    cells = markdown.read(myst(text, language))
    shown: dict[tuple[int, str], str] = {}
    tabs = [tab for tab in TABS if (notebooks / tab).is_dir()] or list(TABS)  # what was not made at all is left out
    for tab in tabs:
        file = notebooks / tab / "chapter_optimization" / f"{FILES[language]}.ipynb"
        for place, cell in executed(cells, tab, file):
            source = cells[place].source
            if cell.cell_type == "code":
                source = "\n\n".join([block("{code-block} ipython3", source), *outputs(cell, words, folder)])
            shown[place, tab] = source

    parts = []
    for _, group in itertools.groupby(range(len(cells)), lambda place: "tabs" if cells[place].tabs else place):
        places = list(group)
        panels = {tab: "\n\n".join(shown[at, tab] for at in places if (at, tab) in shown) for tab in tabs}
        if len(set(panels.values())) == 1:
            parts.append(panels[tabs[0]])
            continue
        parts.append(
            block(
                "{container} tabs",
                "\n\n".join(
                    block(f"{{container}} tab {tab}", f"{{.tab-name}}\n{TABS[tab]}\n\n{panel or words['nothing']}")
                    for tab, panel in panels.items()
                ),
            )
        )
    if "{figure} live-" in "".join(parts):
        files = ("live-data.js", "live.js")
        parts.append(block("{raw} html", "\n".join(f'<script src="_static/{file}"></script>' for file in files)))
    if "{cite:" in "".join(parts):
        parts.append(block(f"{{rubric}} {references.WORDS[language]['title']}", ":heading-level: 2\n:name: references"))
        parts.append(block("{bibliography}", ""))
    return "\n\n".join(parts) + "\n"


@click.command()
@click.option("--notebooks", default="build/notebooks", show_default=True, type=click.Path(path_type=Path))
@click.option("--out", default="build/html", show_default=True, type=click.Path(path_type=Path), help="For the pages.")
@click.option("--sources", default=HERE, type=click.Path(path_type=Path), help="Holds adam.md and adam_origin.md.")
@click.option("--scratch", default=HERE.parent / "build" / "page", type=click.Path(path_type=Path), help="Made anew.")
def main(notebooks, out, sources, scratch):
    """Build the pages of the section, ja/adam.html and en/adam.html, from its sources and executed notebooks."""
    shutil.rmtree(scratch, ignore_errors=True)
    curves: dict[str, dict[str, list[float]]] = {}
    for language, source in FILES.items():
        click.echo(f"{language}: reading {source}.md and its notebooks")
        folder = scratch / language
        folder.mkdir(parents=True)
        text = (sources / f"{source}.md").read_text(encoding="utf-8")
        (folder / "adam.md").write_text(page(text, language, notebooks, folder), encoding="utf-8")
        for name in LIVE.findall(text):
            curves = curves or live.measured(tab for tab in TABS if (notebooks / tab).is_dir())
            live.picture(name, language, curves, folder / f"live-{name}.svg")
        (folder / "index.md").write_text("# Dive into Deep Learning\n\n```{toctree}\n:numbered:\nadam\n```\n")
        shutil.copy(HERE / "references.bib", folder)
    for language, words in references.WORDS.items():
        click.echo(f"{language}: building {out / language / 'adam.html'}")
        if (out / language / "adam.html").exists():
            shutil.rmtree(out / language)  # figures have new names when they change
        options = [f"language={language}", f"bibtex_reference_style=book_{language}"]
        options += [f"numfig_format.{kind}={words[kind]}" for kind in ("section", "table")]
        options.append(f"numfig_format.figure={WORDS[language]['figure']}")
        arguments = [argument for option in options for argument in ("-D", option)]
        folders = ["-c", HERE, "-d", scratch / "doctrees" / language, scratch / language, out / language]
        if build_main(["-b", "html", "-E", "-a", "-q", "-n", "-W", *arguments, *map(str, folders)]):
            raise click.ClickException(
                f"Sphinx refused the page; its reasons stand above, its lines are those of {scratch}"
            )
        shutil.copy(HERE / "_templates" / "section.html", out / language / "index.html")
        if curves:
            script = live.script(curves, language)
            (out / language / "_static" / "live-data.js").write_text(script, encoding="utf-8")
    shutil.copy(HERE / "_templates" / "languages.html", out / "index.html")
    click.echo(f"open {out / 'index.html'}")


if __name__ == "__main__":
    main()
