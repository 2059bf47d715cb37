"""The notebooks, executed: nothing fails, every output is there, and says what the text says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import oracle
import pytest

import notebooks as script
import references
from d2l_adam.check import markdown

#: Those that the fixture `notebooks` executes.
JOBS = [*((tab, "adam_origin") for tab in script.FRAMEWORKS), ("pytorch", "adam")]


def read(folder, tab, source):
    return nbformat.read(folder / tab / "chapter_optimization" / f"{source}.ipynb", as_version=4)


def printed(nb):
    """What the cells of a notebook printed, in their order."""
    return "".join(
        output.text
        for cell in nb.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stdout"
    )


@pytest.mark.parametrize(("tab", "source"), JOBS)
def test_every_cell_ran_in_order_and_said_nothing_on_stderr(notebooks, tab, source):
    nb = read(notebooks, tab, source)
    nbformat.validate(nb)
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    cells = [cell for cell in markdown.read((references.FOLDER / f"{source}.md").read_text("utf-8")) if cell.of(tab)]
    assert [cell.source for cell in code] == [cell.source for cell in cells if cell.kind == "code"]


@pytest.mark.parametrize(("tab", "source"), JOBS)
def test_every_figure_and_the_slider_are_there(notebooks, tab, source):
    nb = read(notebooks, tab, source)
    for cell in nb.cells:
        if cell.cell_type != "code":
            continue
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        draws = re.search(r"plot\.draw|\.subplots\(|train(?:_concise)?_ch11", cell.source)
        assert ("image/svg+xml" in kinds) == bool(draws), cell.source
        assert not draws or len(cell.metadata["alt"]) > 20
        assert ("application/vnd.jupyter.widget-view+json" in kinds) == ("interact" in cell.source)
    assert nb.metadata.widgets
    figures = [o for c in nb.cells if c.cell_type == "code" for o in c.outputs if "image/svg+xml" in o.get("data", {})]
    assert len(figures) == 10


@pytest.mark.parametrize(("tab", "source"), JOBS)
def test_what_is_printed_is_what_the_text_says(notebooks, tab, source):
    text = printed(read(notebooks, tab, source))
    words = WORDS[source]
    assert re.findall(words["step"], text) == [
        ("100", "0.1000"),
        ("1", "0.1000"),
        ("0.01", "0.1000"),
        ("1e-06", "0.0500"),
    ]
    assert words["loss"].format(tab, oracle.curve("adam")[-1]) in text
    losses = [float(loss) for loss in re.findall(r"^loss: (\S+),", text, re.MULTILINE)]
    assert len(losses) == 4
    assert all(0.23 < loss < 0.26 for loss in losses)
    # One step at a gradient of the size of eps: half the learning rate, or the eps-hat form's share.
    hat = np.sqrt(1 - 0.999) / (1 - 0.9) * 0.1 / (np.sqrt(1 - 0.999) + 1)
    assert f"{words['share']}{0.5 if tab in ('pytorch', 'jax') else hat:.4f}" in text
    slips = re.findall(words["slip"], text, re.MULTILINE)
    adam, yogi = (f"{oracle.curve(rule)[-1]:.4f}" for rule in ("adam", "yogi"))
    assert slips == [(adam, adam), ("0.2423", adam), ("0.2458", yogi), (yogi, yogi)]
    assert float(re.search(words["differ"], text)[1]) < 1e-14
    # The rest is of plain numbers and of NumPy: tests/test_chapter.py runs it.
    assert len(re.findall("^C = ", text, re.MULTILINE)) == 5
    assert text.count("sgd_momentum") == 3
    assert text.count("AdamW") == 3
    assert "50.5627" in text


WORDS = {
    "adam_origin": {
        "step": r"gradient (\S+): step (\S+)",
        "loss": "{}: loss {:.6f} after 2 epochs",
        "share": "share of the learning rate: ",
        "slip": r"final loss (\S+) instead of (\S+)",
        "differ": r"differ by (\S+) at most",
    },
    "adam": {
        "step": r"勾配 (\S+)：歩幅 (\S+)",
        "loss": "{}：2 エポック後の損失は {:.6f}",
        "share": "学習率に対する割合：",
        "slip": r"最後の損失は (\S+)（正しくは (\S+)）",
        "differ": r"曲線の差は最大で (\S+)",
    },
}


@pytest.mark.needs("mxnet")
def test_references_are_for_reading(notebooks):
    japanese, english = ("\n".join(c.source for c in read(notebooks, "mxnet", s).cells) for s in references.SOURCES)
    assert "[12.6 節](https://d2l.ai/chapter_optimization/momentum.html)" in japanese
    assert "[Section 12.6](https://d2l.ai/chapter_optimization/momentum.html)" in english
    assert "[(Kingma and Ba, 2014)](https://arxiv.org/abs/1412.6980)" in english
    assert "**表 12.10.1.** " in japanese
    assert "**Table 12.10.1.** " in english
    assert "discuss.d2l.ai/t/358" in english
    assert "discuss.d2l.ai/t/1078" not in english


CELL = "\n```{{.python .input}}\n#@tab {}\n{}\n```\n"


SMALL = """
import sys, pathlib, notebooks, references
references.FOLDER, notebooks.TIMEOUT = pathlib.Path.cwd(), 10
notebooks.main(["--tab", "pytorch", "--source", "adam", "--out", "out"])
"""


@pytest.fixture
def small(tmp_path):
    """Run the script on a chapter of three cells, whose last is given."""

    def run(last):
        cells = "".join(CELL.format(*cell) for cell in (("all", "x = 1\nprint(x)"), ("pytorch", last)))
        (tmp_path / "adam.md").write_text(f"# Small\n{cells}")
        env = os.environ | {"PYTHONPATH": str(references.FOLDER)}
        done = subprocess.run([sys.executable, "-c", SMALL], cwd=tmp_path, env=env, capture_output=True, text=True)
        return done, tmp_path / "out/pytorch/chapter_optimization/adam.ipynb"

    return run


def test_a_cell_that_fails_fails_the_command_and_is_named(small):
    run, file = small("y = x + 1\ny / 0")
    assert run.returncode == 1
    assert "pytorch/chapter_optimization/adam.ipynb, cell 3 (adam.md, line 11): ZeroDivisionError" in run.stderr
    nb = nbformat.read(file, as_version=4)
    assert printed(nb) == "1\n"  # what ran before is kept, and the traceback too
    assert nb.cells[2].outputs[0].output_type == "error"


def test_a_kernel_that_dies_is_named(small):
    run, _ = small("import os; os._exit(3)")
    assert run.returncode == 1
    assert "adam.ipynb, cell 3 (adam.md, line 11): " in run.stderr


def test_a_notebook_whose_kernel_is_not_heard_of_is_made_once_more(small):
    once = "import pathlib, time\nif not (seen := pathlib.Path('seen')).exists():\n    seen.touch()\n    time.sleep(99)"
    run, file = small(f"{once}\nprint('done')")
    assert run.returncode == 0, run.stderr
    assert printed(nbformat.read(file, as_version=4)) == "1\ndone\n"


def test_a_notebook_runs_where_it_lies_and_from_a_clean_start(small):
    run, file = small("import os\nprint(os.getcwd())")
    assert run.returncode == 0
    assert printed(nbformat.read(file, as_version=4)) == f"1\n{file.parent}\n"


def test_the_script_explains_itself():
    script = Path(references.__file__).with_name("notebooks.py")
    run = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
    assert "OUT/<tab>/chapter_optimization" in run.stdout
