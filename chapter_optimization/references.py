"""What the chapter refers to, and d2lbook's marks turned into the plain Markdown of a notebook."""

import re
from pathlib import Path

from pybtex.database import Person, parse_file

FOLDER = Path(__file__).parent
BIBLIOGRAPHY = FOLDER / "references.bib"

#: The two sources of the section, named as in d2l's translated editions, and their languages.
SOURCES = {"adam": "ja", "adam_origin": "en"}

#: The number of this section in the book; its equations and tables are numbered within.
NUMBER = "12.10"

_BOOK = "https://d2l.ai/chapter_optimization"
#: The sections of the book that the chapter refers to: number, address and title.
SECTIONS = {
    "sec_sgd": ("12.4", f"{_BOOK}/sgd.html", {"en": "Stochastic Gradient Descent", "ja": "確率的勾配降下法"}),
    "sec_minibatch_sgd": (
        "12.5",
        f"{_BOOK}/minibatch-sgd.html",
        {"en": "Minibatch Stochastic Gradient Descent", "ja": "ミニバッチ確率的勾配降下法"},
    ),
    "sec_momentum": ("12.6", f"{_BOOK}/momentum.html", {"en": "Momentum", "ja": "モーメンタム法"}),
    "sec_adagrad": ("12.7", f"{_BOOK}/adagrad.html", {"en": "Adagrad", "ja": "Adagrad"}),
    "sec_rmsprop": ("12.8", f"{_BOOK}/rmsprop.html", {"en": "RMSProp", "ja": "RMSProp"}),
    "sec_scheduler": (
        "12.11",
        f"{_BOOK}/lr-scheduler.html",
        {"en": "Learning Rate Scheduling", "ja": "学習率のスケジューリング"},
    ),
}

#: The words around a number or a name, by language.
WORDS = {
    "en": {"section": "Section %s", "table": "Table %s", "and": " and ", "others": " et al.", "title": "References"},
    "ja": {"section": "%s 節", "table": "表 %s", "and": "・", "others": " ら", "title": "参考文献"},
}
# d2lbook's marks want spaces about them; Japanese brackets and stops have their own.
SPACES = re.compile(r"(?<=[\u3000-\u303f\uff00-\uffef]) +(?=\S)|(?<=[`$\])\w\0]) +(?=[\u3000-\u303f\uff00-\uffef])")
_EQUATION = re.compile(r"\$\$\n:eqlabel:`(\w+)`")
_TABLE = re.compile(r"^:(?!\w+:)(.+)\n\n((?:\|.*\n)+):label:`(\w+)`", re.MULTILINE)
_HEADING = re.compile(r"^#+ (.+)\n:label:`(\w+)`", re.MULTILINE)
_FOLD = re.compile(r"<!-- fold: ([^\n]+) -->\n\n(.*?)\n\n<!-- end fold -->", re.DOTALL)
_COMMENT = re.compile(r"^<!-- (?:alt|live|fold|end fold)\b.*-->\n*", re.MULTILINE)
_ALT = re.compile(r"^<!-- alt: (.+) -->$", re.MULTILINE)
_SLIDE_MARK = re.compile(
    r"(?P<code>(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`))"
    r"|\[(?P<a>\*\*|~~)(?P<square>.+?)(?P=a)\]|\((?P<b>\*\*|~~)(?P<round>.+?)(?P=b)\)",
    re.DOTALL,
)


def without_slide_marks(text: str) -> str:
    """Return a text without d2lbook's marks of what goes onto a slide; what they hold stays, and so does code."""
    return _SLIDE_MARK.sub(lambda match: match["code"] or match["square"] or match["round"], text)


def alternative(text: str) -> str | None:
    """Return the alternative text of the figure that follows a text, if that gives one."""
    match = _ALT.search(text)
    return match and match[1]


def plain(sources: list[str], language: str) -> list[str]:
    """Return the texts of a section with references resolved, and d2lbook's marks and those of the page taken out.

    What is to be folded is, if it is all within one text.
    Raises KeyError, with its name, for a label or a citation that is not there.
    """
    words, text = WORDS[language], "\n\n".join(sources)
    links = {label: f"[{words['section'] % n}]({url})" for label, (n, url, _) in SECTIONS.items()}
    links |= {label: f"[{title}](#{title.replace(' ', '-')})" for title, label in _HEADING.findall(text)}
    tables = {label: words["table"] % f"{NUMBER}.{i + 1}" for i, (_, _, label) in enumerate(_TABLE.findall(text))}
    numbers = {label: f"{NUMBER}.{i + 1}" for i, label in enumerate(_EQUATION.findall(text))}
    entries = parse_file(str(BIBLIOGRAPHY)).entries

    def cite(key, form):
        entry = entries[key]
        names = [_last(person) for person in entry.persons["author"]]
        name = words["and"].join(names) if len(names) < 3 else names[0] + words["others"]
        return f"[{form.format(name, entry.fields['year'])}]({entry.fields['url']})"

    def one(source):
        source = _TABLE.sub(lambda m: f"**{tables[m[3]]}.** {m[1]}\n\n{m[2]}", source)
        source = _EQUATION.sub(lambda m: rf"\tag{{{numbers[m[1]]}}}$$", source)
        source = re.sub(r":eqref:`(\w+)`", lambda m: f"({numbers[m[1]]})", source)
        source = re.sub(r"\n:label:`\w+`", "", source)
        source = re.sub(r":numref:`(\w+)`", lambda m: (links | tables)[m[1]], source)
        source = re.sub(r":cite:`([\w.]+)`", lambda m: cite(m[1], "({}, {})"), source)
        source = re.sub(r":citet:`([\w.]+)`", lambda m: cite(m[1], "{} ({})"), source)
        source = _FOLD.sub(r"<details><summary>\1</summary>\n\n\2\n\n</details>", source)
        return SPACES.sub("", without_slide_marks(_COMMENT.sub("", source))).strip()

    return [one(source) for source in sources]


def references(language: str) -> str:
    """Return the bibliography as Markdown."""
    lines = [f"## {WORDS[language]['title']}\n"]
    for entry in parse_file(str(BIBLIOGRAPHY)).entries.values():
        names = ", ".join(str(person) for person in entry.persons["author"])
        title, book = (re.sub("[{}]", "", entry.fields[field]) for field in ("title", "booktitle"))
        note = f" {entry.fields['note']}." if "note" in entry.fields else ""
        lines.append(f"* {names} ({entry.fields['year']}). [{title}]({entry.fields['url']}). *{book}*.{note}")
    return "\n".join(lines)


def _last(person: Person) -> str:
    return " ".join(person.prelast_names + person.last_names)
