"""The check of notebooks, of optimizers that are classes, and of plain fences."""

import json
import os
import time
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from sections import IMPORTS, fence, function, init, section

import notebooks as script
import references
from d2l_adam.__main__ import cli
from d2l_adam.check import check, definitions, markdown, notebooks

PAIR = ("pytorch", "tensorflow")
RULE_CELL = 5  # of the notebooks below


def notebook(tab, name, change=lambda text: text):
    """The notebook of one framework, as d2l publishes them: the tab's cells of a section, the output, and Colab's."""
    imports = IMPORTS[tab].replace("%matplotlib inline\n", "")
    given = "{'lr': 0.01, 't': 1}"
    cells = [
        ("markdown", f"# {name}"),
        ("code", "!pip install d2l==1.0.3\n"),
        ("code", f"%matplotlib inline\n{imports}"),
        ("code", init(tab, name)),
        ("code", f"# The rule\n\n{function(tab, name, change)}"),
        ("code", f"data_iter, feature_dim = d2l.get_data_ch11(batch_size=10)\nd2l.train_ch11({name}, None, {given})"),
        ("code", "%%bash\nls | wc -l"),
    ]
    made = []
    for kind, source in cells:
        cell = {"cell_type": kind, "metadata": {}, "source": source.splitlines(keepends=True)}
        image = {"data": {"image/svg+xml": ["<svg>"] * 9}, "metadata": {}, "output_type": "display_data"}
        made.append(cell | ({"execution_count": 1, "outputs": [image]} if kind == "code" else {}))
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1)


def published(folder, name, tabs=PAIR, **changes):
    """Notebooks in a folder for each framework."""
    files = {}
    for tab in tabs:
        files[tab] = folder / f"d2l-{tab}-notebooks" / "chapter_optimization" / f"{name}.ipynb"
        files[tab].parent.mkdir(parents=True, exist_ok=True)
        files[tab].write_text(notebook(tab, name, changes.get(tab, lambda text: text)))
    return files


def put(old, new):
    def change(text):
        assert old in text
        return text.replace(old, new, 1)

    return change


def run(*arguments):
    done = CliRunner().invoke(cli, ["check", *map(str, arguments)])
    assert "Traceback" not in done.output
    return done


def test_notebooks_that_agree_are_one_section(tmp_path):
    files = published(tmp_path, "adam", ("mxnet", *PAIR)) | {"": tmp_path / "sgd.md"}
    files[""].write_text(section("sgd", ("numpy",)))
    report = check(list(files.values()))
    assert {x.message for x in report.findings if x.file} == {
        "is in this tab only; there is no other to compare it with"
    }
    assert [(x.name, x.verdict.groups, x.verdict.matches_spec) for x in report.compared] == [
        ("adam", [["mxnet", *PAIR]], True),
        ("sgd", [["numpy"]], True),
    ]
    assert report.status == 0


def test_drift_between_notebooks_is_named_with_cell_and_line(tmp_path):
    files = published(tmp_path, "adam", tensorflow=put("\nt = t + 1", ""))
    [found] = (report := check(files.values())).of("drift")
    place = str(files["tensorflow"]), RULE_CELL, 3, "adam", "tensorflow"
    assert (found.file, found.cell, found.line, found.name, found.tab) == place
    assert found.causes == [("t never advanced",)]
    assert found.text().startswith(
        f"{files['tensorflow']}:cell 5:3  adam  tensorflow  differs from pytorch and the spec"
    )
    title = "title=drift adam tensorflow::cell 5, line 3%0Adiffers from"
    assert found.annotation().startswith(f"::error file={files['tensorflow']},line=1,{title}")
    [compared] = json.loads(json.dumps(report.as_dict()))["optimizers"]
    assert compared["files"] == {tab: str(file) for tab, file in files.items()}
    assert (compared["cells"], compared["lines"]) == (dict.fromkeys(PAIR, 5), dict.fromkeys(PAIR, 3))


def test_the_command_takes_folders_and_a_notebook_for_each_tab(tmp_path):
    files = published(tmp_path, "yogi", tensorflow=put("1e-3", "1e-6"))
    one, two = (file.rename(tmp_path / f"{'ab'[i]}.ipynb") for i, file in enumerate(files.values()))
    done = run("--tab", f"pytorch={one}", "--tab", f"tensorflow={two}")
    assert done.exit_code == 1, done.output
    assert f"{two}:cell 5:3  yogi  tensorflow  differs from pytorch and the spec" in done.stdout
    assert "behaves as: eps = 1e-06 instead of 0.001" in done.stdout
    assert "1 optimizer in 2 files: 1 drifted" in done.stdout
    done = run("--tab", f"pytorch={one}", "--tab", f"tensorflow={two}", "--tab", "pytorch")
    assert (done.exit_code, "is in this tab only" in done.stdout) == (0, True), done.output
    done = run(one)
    assert (done.exit_code, "a.ipynb  could not be read: its framework is not said" in done.stdout) == (2, True)
    assert run("--default-tab", "pytorch", one).exit_code == 0
    assert run().exit_code == 2


def test_the_tab_is_the_last_that_the_path_says():
    paths = {
        "pytorch/book/tensorflow/a.ipynb": "tensorflow",
        "pytorch/book/mxnet/a.ipynb": "mxnet",
        "b_pytorch.ipynb": "pytorch",
        "numpyro/b.ipynb": "",
        "pytorch/b.md": "",
    }
    assert notebooks.sections(map(Path, paths)) == {
        "pytorch/book/tensorflow/a.ipynb": {
            tab: Path(f"pytorch/book/{tab}/a.ipynb") for tab in ("tensorflow", "mxnet")
        },
        **{file: {tab: Path(file)} for file, tab in [*paths.items()][2:]},
    }


def test_a_notebook_may_name_the_tabs_of_its_cells_as_the_next_edition_does(tmp_path):
    source = [f"%%tab {tab}\n{IMPORTS[tab]}\n{function(tab, 'sgd')}" for tab in ("pytorch", "mxnet")]
    file = tmp_path / "sgd.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, source))), file)
    [compared] = (report := check([file])).compared
    assert (compared.verdict.groups, report.status) == ([["pytorch", "mxnet"]], 0)


def test_the_notebooks_of_the_chapter_have_no_drift(tmp_path):
    files = []
    source, language = next(iter(references.SOURCES.items()))
    cells = markdown.read((references.FOLDER / f"{source}.md").read_text("utf-8"))
    for tab in script.FRAMEWORKS:
        files.append(tmp_path / tab / "chapter_optimization" / f"{source}.ipynb")
        files[-1].parent.mkdir(parents=True)
        nbformat.write(script.notebook(cells, tab, language), files[-1])
    report = check(files)
    assert report.status == 0, [x.text() for x in report.findings]
    assert {(x.name, tuple(x.verdict.groups[0]), x.verdict.matches_spec) for x in report.compared} == {
        (rule, script.FRAMEWORKS, True) for rule in ("adam", "yogi")
    }
    assert len(report.compared) == 2


def cells(*cells, **more):
    return json.dumps({"cells": cells, "nbformat": 4} | more)


def code(source):
    return {"cell_type": "code", "source": source}


NO_FORMAT = "it is no notebook of format 4, as it has no list of cells; save it in Jupyter again"
HOSTILE = {
    "empty": ("", "it is no notebook (Expecting value"),
    "text": ("hello", "it is no notebook (Expecting value"),
    "cut": (cells(code("x = 1"))[:-9], "it is no notebook ("),
    "deep": ("[" * 1_000_000, "it is no notebook (maximum recursion"),
    "deep source": ('{"cells": ' + '{"a":' * 500_000, "it is no notebook (maximum recursion"),
    "digits": ('{"cells": [], "nbformat": ' + "9" * 100_000 + "}", "it is no notebook (Exceeds the limit"),
    "number": ("1e999", NO_FORMAT),
    "null": ("null", NO_FORMAT),
    "list": ("[[]]", NO_FORMAT),
    "cells of text": ('{"cells": "cells"}', NO_FORMAT),
    "format 3": ('{"nbformat": 3, "worksheets": [{"cells": []}]}', NO_FORMAT),
    "no source": (cells({"cell_type": "code"}), "the source of its cell 1 is no text"),
    "null source": (cells(code("x = 1"), code(None)), "the source of its cell 2 is no text"),
    "number as source": (cells(code(1e300)), "the source of its cell 1 is no text"),
    "dict as source": (cells(code({"a": "x"})), "the source of its cell 1 is no text"),
    "list in the source": (cells(code(["x = 1", ["y = 2"]])), "the source of its cell 1 is no text"),
    "cell of text": (cells("x = 1"), "the source of its cell 1 is no text"),
    "many cells": (cells(*[code("x = 1")] * 2001), "it has 2001 cells; 2000 is the most"),
    "much code": (cells(code("x = 1\n" * 200_000)), "its code has 1,200,000 characters; 1,048,576 is the most"),
    "large": ('{"cells": []}' + " " * (1 << 24), "has more than 16,777,216 characters"),
    "latin": (b'{"cells": [], "name": "\xff"}', "is no text in UTF-8"),
    "no Python": (cells(code("def adam(")), "this cell is no Python ('(' was never closed)"),
    "surrogate": (cells(code("x = '\ud800'")), "this cell is no Python ("),
    "many tabs": (cells(*(code(f"%%tab t{i}\nx = 1") for i in range(1999))), "it has 1999 tabs; 16 is the most"),
}


def test_a_hostile_notebook_is_a_finding_and_the_others_are_checked(tmp_path):
    folder = tmp_path / "numpy"
    folder.mkdir()
    for name, (content, _) in HOSTILE.items():
        (folder / f"{name}.ipynb").write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "good.ipynb").write_text(
        cells(
            {"cell_type": ["code"], "source": ""},
            code(IMPORTS["numpy"].splitlines(keepends=True)),
            code("%%html\n<p>"),
            code(f"{function('numpy', 'sgd')}\r\n"),
            metadata=None,
        )
    )
    began = time.monotonic()
    report = check(sorted(folder.iterdir()))
    assert time.monotonic() - began < 60
    assert [(Path(x.file).name, x.name) for x in report.compared] == [("good.ipynb", "sgd")]
    said = {Path(x.file).stem: x for x in report.of("unchecked")}
    assert said.keys() == HOSTILE.keys()
    assert len(report.of("unchecked")) == len(HOSTILE)
    for name, (_, words) in HOSTILE.items():
        assert words in said[name].message, said[name]
        assert said[name].message.startswith(("could not be read: ", "could not be checked: "))
    assert (said["no Python"].cell, said["no Python"].line) == (1, 1)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_what_is_no_file_is_said(tmp_path):
    os.mkfifo(tmp_path / "a.ipynb")
    (tmp_path / "b.ipynb").mkdir()
    report = check([tmp_path / name for name in ("a.ipynb", "b.ipynb", "c.ipynb")], default_tab="numpy")
    words = ("is no regular file", "it is a folder", "No such file")
    assert [word in x.message for word, x in zip(words, report.of("unchecked"), strict=True)] == [True] * 3


def test_lines_of_the_last_cell_are_its_own(tmp_path):
    """The number of a line has that of its cell in it, and Python takes it."""
    broken = "def sgd(params, grads, states, hyperparams):\n    raise ValueError('here')"
    file = tmp_path / "numpy.ipynb"
    file.write_text(cells(*[code("x = 1")] * (notebooks.MOST_CELLS - 1), code(broken)))
    [found] = check([file]).of("unchecked")
    assert found.message == f"could not be checked: ValueError: here (cell {notebooks.MOST_CELLS}, line 2)"
    assert (found.cell, found.line) == (notebooks.MOST_CELLS, 1)


# Classes

#: The same step of each framework's kind: as in *Deep Learning from Scratch*, and as in d2l's chapter 3.
SGD = {
    "numpy": """
class SGD:
    def __init__(self, lr=0.1):
        self.lr = lr

    def update(self, params, grads):
        for key in params.keys():
            params[key] -= self.lr * grads[key]
""",
    "pytorch": """
import torch

class SGD:
    def __init__(self, params, lr):
        self.params, self.lr = params, lr

    def step(self):
        with torch.no_grad():
            for p in self.params:
                p -= self.lr * p.grad
        self.zero_grad()

    def zero_grad(self):
        for p in self.params:
            p.grad.zero_()
""",
    "mxnet": """
class SGD:
    def __init__(self, params, lr):
        self.params, self.lr = params, lr

    def step(self, _):
        for p in self.params:
            p -= self.lr * p.grad
""",
    "tensorflow": """
class SGD:
    def __init__(self, learning_rate):
        self.learning_rate = learning_rate

    def apply_gradients(self, grads_and_vars):
        for grad, param in grads_and_vars:
            param.assign_sub(self.learning_rate * grad)
""",
}
ADAM = """
import numpy as np

class Adam:
    def __init__(self, lr=0.001, beta1=0.9, beta2=0.999):
        self.lr, self.beta1, self.beta2, self.iter, self.m, self.v = lr, beta1, beta2, 0, None, None

    def update(self, params, grads):
        if self.m is None:
            self.m, self.v = ({key: np.zeros_like(p) for key, p in params.items()} for _ in range(2))
        self.iter += 1
        lr = self.lr * np.sqrt(1.0 - self.beta2**self.iter) / (1.0 - self.beta1**self.iter)
        for key in params.keys():
            self.m[key] += (1 - self.beta1) * (grads[key] - self.m[key])
            self.v[key] += (1 - self.beta2) * (grads[key] ** 2 - self.v[key])
            params[key] = params[key] - lr * self.m[key] / (np.sqrt(self.v[key]) + 1e-7)
"""


def test_classes_are_compared_with_one_another_and_with_the_spec(tmp_path):
    file = tmp_path / "classes.md"
    slow = SGD["pytorch"].replace("self.lr * p.grad", "0.5 * self.lr * p.grad")
    other = "".join(fence(tab, text.replace("SGD", "Slow")) for tab, text in (SGD | {"pytorch": slow}).items())
    file.write_text("".join(fence(*x) for x in SGD.items()) + fence("numpy", ADAM) + other)
    report = check([file])
    sgd, adam, odd = report.compared
    assert [x.name for x in report.compared] == ["SGD", "Adam", "Slow"]
    assert (sgd.verdict.groups, sgd.verdict.rule, sgd.verdict.matches_spec) == ([list(SGD)], "sgd", True)
    words = {"eps = 1e-07 instead of 1e-06", "eps added before the bias is corrected (eps hat)"}
    assert words in map(set, adam.verdict.search.causes)
    assert (odd.verdict.groups[0], list(odd.verdict.odd)) == (["numpy", "mxnet", "tensorflow"], ["pytorch"])
    assert report.of("unchecked") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class SGD:\n    def step(self): pass", None),
        ("class SGD:\n    def update(self, key, value): pass", None),
        ("class Env:\n    def __init__(self, size): pass\n    def step(self, action): pass", None),
        (
            "class SGD:\n    def __init__(self, lr): pass\n    def update(self, params, grads): no()",
            "NameError: name 'no' is not defined (line 5)",
        ),
        (
            "class SGD:\n    def __init__(self, lr): raise TypeError('no')\n    def update(self, params, grads): pass",
            "TypeError: no (line 4)",
        ),
    ],
)
def test_a_class_that_is_no_optimizer_is_left_out_and_one_that_fails_says_why(text, words, tmp_path):
    file = tmp_path / "section.md"
    file.write_text(fence("numpy", text) + fence("numpy", function("numpy", "adam")))
    found = [x.message for x in check([file]).of("unchecked") if x.name == "SGD"]
    assert found == ([f"could not be checked: {words}"] if words else [])


def test_what_a_class_is_made_with():
    text = "class A(B):\n    def __init__(self, params, learning_rate=1, *, rho, eps=1): pass\n    def step(self): pass"
    section = definitions._class(definitions.parse(text).body[0])
    assert section.step == ("step", 0, {"lr": "learning_rate", "rho": "rho"})
    assert section.args == ("params", "states", "hyperparams")


# Plain fences


@pytest.mark.parametrize("opened", ["```python", "```{code-cell} ipython3", "```{python}"])
def test_plain_fences_are_read_if_asked_for(opened, tmp_path):
    file = tmp_path / "sgd.md"
    file.write_text(section("sgd", ("numpy",)).replace("```{.python .input}", opened))
    done = run(file)
    assert (done.exit_code, f"a fence {opened} is no cell" in done.stdout) == (2, True)
    done = run("--plain", "--json", file)
    [compared] = json.loads(done.stdout)["optimizers"]
    assert (done.exit_code, compared["groups"]) == (0, [["numpy"]])
