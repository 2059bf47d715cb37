"""What holds for every test: plots need no screen, TensorFlow is quiet, Hypothesis is not timed."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import hypothesis
import nbformat
import pytest
from xdist.scheduler import LoadFileScheduling

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from frameworks import LEFT_OUT

import notebooks as script
import references
from d2l_adam import protocol
from d2l_adam.check import markdown
from d2l_adam.testing import tab  # noqa: F401  the fixture, as other test suites get it

ROOT = Path(__file__).parents[1]
#: What is for one framework only, or compares all of them: left out with it.
OF_ONE = {
    "mxnet": ["tests/test_gluon.py", "d2l_adam/mxnet"],
    "pytorch": ["tests/test_dtensor.py", "tests/test_gpu.py", "tests/test_torch_optim.py", "d2l_adam/torch"],
    "tensorflow": ["tests/test_keras.py", "d2l_adam/tensorflow"],
    "jax": ["tests/test_jax.py", "d2l_adam/jax"],
}
OF_ALL = [f"tests/test_{name}.py" for name in ("chapter", "check", "check_notebooks", "d2l", "platforms", "readme")]

OF_NOTEBOOKS = ["test_notebooks.py", "test_page.py"]

# The machines are small and noisy: no deadlines. The same examples each time: a failure can be run again.
hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("default")


def pytest_configure(config):
    # What a shell, or nohup, has started in the background ignores these, and so does all that it starts.
    with contextlib.suppress(ValueError, AttributeError):  # in another thread than the first; on Windows
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    config.addinivalue_line("markers", "needs(*tabs): run this test only where all of these were set up")
    ignored = OF_ALL if LEFT_OUT else []
    for name in LEFT_OUT:
        ignored = ignored + OF_ONE[name]
    config.option.ignore = [*(config.option.ignore or ()), *(str(ROOT / file) for file in ignored)]


class Files(LoadFileScheduling):
    """Each file in one process of pytest-xdist, and those that read the executed notebooks in the same."""

    def _split_scope(self, nodeid):
        file = super()._split_scope(nodeid)
        return "notebooks" if Path(file).name in OF_NOTEBOOKS else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Files(config, log)


def pytest_collection_modifyitems(config, items):
    """Leave out what is for a framework that was left out of the environment; what is there and broken still fails."""
    # What takes longest begins first, as --no-loadscope-reorder keeps this order.
    items.sort(key=lambda item: item.path.name not in OF_NOTEBOOKS)
    kept, deselected = [], []
    for item in items:
        mark = item.get_closest_marker("needs")
        names = {*mark.args} if mark else set()
        for value in item.callspec.params.values() if hasattr(item, "callspec") else ():
            for part in value if isinstance(value, tuple) else (value,):
                names |= {part} if isinstance(part, str) else set()
        (deselected if names & {*LEFT_OUT} else kept).append(item)
    if deselected:
        config.hook.pytest_deselected(items=deselected)
    items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Likewise for what a test imports in its course."""
    try:
        return (yield)
    except ModuleNotFoundError as error:
        left_out = {protocol.MODULE[name] for name in LEFT_OUT}
        if error.name in left_out or (error.name == "keras" and "tensorflow" in left_out):
            pytest.skip(f"{error.name} was left out of the environment")
        raise


def pytest_report_header():
    return [f"without {', '.join(LEFT_OUT)}, and what compares it with others"] if LEFT_OUT else []


@pytest.fixture(scope="session")
def notebooks(tmp_path_factory):
    """The folder of the chapter's notebooks, executed from a clean start by the command of `make run`.

    These are the English ones, and PyTorch's in Japanese, whose cells are the same but for their words. The others in
    Japanese, for pages, have the English outputs.
    """
    folder = tmp_path_factory.mktemp("notebooks")
    for arguments in (["--source", "adam_origin"], ["--source", "adam", "--tab", "pytorch"]):
        if "pytorch" in LEFT_OUT and "pytorch" in arguments:
            continue
        command = [sys.executable, script.__file__, *arguments, "--out", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    cells = markdown.read((references.FOLDER / "adam.md").read_text("utf-8"))
    for english in folder.rglob("adam_origin.ipynb"):
        japanese = english.with_name("adam.ipynb")
        if not japanese.exists():
            made = script.notebook(cells, english.parents[1].name, "ja")
            for cell, executed in zip(made.cells, nbformat.read(english, 4).cells, strict=True):
                cell.update({key: executed[key] for key in ("outputs", "execution_count") if key in executed})
            nbformat.write(made, japanese)
    return folder
