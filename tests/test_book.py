"""The reader of d2lbook's Markdown against d2lbook itself, which has an environment of its own."""

import subprocess
from pathlib import Path

import nbformat
import pytest

import references
from d2l_adam.check import markdown

ROOT = Path(__file__).parents[1]
CONFIG = """
[project]
name = adam
title = Adam
[build]
eval_notebook = False
notebooks = chapter_optimization/*.md
tabs = mxnet, pytorch, tensorflow
"""
# What the chapter does not use, but books do.
OTHER = """# Other
:label:`sec_other`

Text, and a fence that is no cell:

```bash
make run
```

```{.python .input}
%load_ext d2lbook.tab
tab.interact_select('mxnet', 'pytorch')
```

```{.python .input}
x = 1  # of the default tab
```

```{.python .input  n=3}
%%tab pytorch, tensorflow
x = 2

y = 3
```

:begin_tab:`mxnet, pytorch`
Two tabs. :numref:`sec_other`

* a list

:end_tab:

:begin_tab:`tensorflow`
The third.
:end_tab:

~~~{.python .input}
#@tab all

print(x)
~~~

```{.python .input}
%%tab all
def which(x):
    if tab.selected('mxnet'):
        x += 1
        x *= 2
    if tab.selected("pytorch", 'tensorflow'):
        x -= 1

    return x
```

```{.python .input}
#@tab mxnet, pytorch, tensorflow
if d2l.USE_MXNET:
    old = 1
if d2l.USE_PYTORCH:
    old = 2
print(old)
```

The end.
"""


@pytest.fixture(scope="module")
def by_d2lbook(tmp_path_factory):
    """Notebooks that the real d2lbook made, by tab and name."""
    d2lbook = ROOT / ".venv" / "d2lbook" / "bin" / "d2lbook"
    assert d2lbook.is_file(), "d2lbook is not installed; run: make setup-tests"
    folder = tmp_path_factory.mktemp("book")
    (folder / "chapter_optimization").mkdir()
    (folder / "config.ini").write_text(CONFIG)
    (folder / "index.md").write_text("# A Book\n")
    texts = {name: (references.FOLDER / f"{name}.md").read_text(encoding="utf-8") for name in references.SOURCES}
    for name, text in (texts | {"other": OTHER}).items():
        (folder / "chapter_optimization" / f"{name}.md").write_text(text, encoding="utf-8")
    made = {}
    for tab, output in (("mxnet", "eval"), ("pytorch", "eval_pytorch"), ("tensorflow", "eval_tensorflow")):
        subprocess.run([d2lbook, "build", "eval", "--tab", tab], cwd=folder, check=True, capture_output=True)
        for name in (*texts, "other"):
            file = folder / "_build" / output / "chapter_optimization" / f"{name}.ipynb"
            made[tab, name] = nbformat.read(file, as_version=4)
    return made


@pytest.mark.parametrize("name", [*references.SOURCES, "other"])
@pytest.mark.parametrize("tab", ["mxnet", "pytorch", "tensorflow"])
def test_d2lbook_makes_the_same_notebook(by_d2lbook, tab, name):
    text = OTHER if name == "other" else (references.FOLDER / f"{name}.md").read_text(encoding="utf-8")
    ours = [(cell.kind, cell.within(tab).source) for cell in markdown.read(text) if cell.of(tab)]
    # d2lbook leaves a line end after a text that tabs had to be cut from.
    theirs = [(cell.cell_type, cell.source.rstrip("\n")) for cell in by_d2lbook[tab, name].cells]
    # It also joins texts that only a tab's block separated; readers see no difference.
    assert join(ours) == join(theirs)
    assert [kind for kind, _ in ours].count("code") >= 2


def join(cells):
    joined = []
    for kind, source in cells:
        if joined and kind == joined[-1][0] == "markdown":
            joined[-1] = (kind, joined[-1][1] + "\n\n" + source)
        else:
            joined.append((kind, source))
    return joined


def test_lines_are_those_of_the_file():
    lines = OTHER.splitlines()
    for cell in markdown.read(OTHER):
        assert [lines[i - 1] for i in cell.lines] == cell.source.split("\n")
        assert cell.line == cell.lines[0]
        its = cell.within("pytorch")
        assert [lines[i - 1].strip() for i in its.lines] == [line.strip() for line in its.source.split("\n")]


def test_tabs():
    assert [cell.tabs for cell in markdown.read(OTHER, "pytorch")] == [
        None,
        ("pytorch",),
        ("pytorch", "tensorflow"),
        ("mxnet", "pytorch"),
        ("tensorflow",),
        None,
        None,
        ("mxnet", "pytorch", "tensorflow"),
        None,
    ]
    assert [cell.of("tensorflow") for cell in markdown.read(OTHER)] == [True, False, True, False] + [True] * 5


@pytest.mark.parametrize("text", ["", "\n\n", "no cells", "```{.python .input}\nnever closed"])
def test_odd_files_are_text(text):
    assert [(cell.kind, cell.source) for cell in markdown.read(text)] == ([("markdown", text)] if text.strip() else [])


def test_a_fence_that_is_never_closed_is_found():
    assert markdown.unread(OTHER)[0] == []
    assert markdown.unread(OTHER.replace("return x\n```", "return x"))[0] == []  # the next one closes it
    shown = "````\n```{.python .input}\nshown\n````\n"
    assert markdown.unread(f"{shown}```{{.python .input}}\nx = 1\n")[0] == [5]


def test_the_default_tab_is_the_first_of_the_book(tmp_path):
    section = tmp_path / "chapter" / "section.md"
    assert markdown.default_tab(section) is None
    (tmp_path / "config.ini").write_text("[build]\ntabs = PyTorch, mxnet\nx = %d\n")
    assert markdown.default_tab(section) == "pytorch"
    (tmp_path / "config.ini").write_text("nonsense")
    with pytest.raises(ValueError, match=r"config.ini cannot be read .* --default-tab"):
        markdown.default_tab(section)
