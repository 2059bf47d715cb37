"""What holds for every test: plots need no screen, TensorFlow is quiet, Hypothesis is not timed."""

import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import torch._dynamo  # noqa: F401  Triton, of PyTorch's GPU builds, crashes where it is loaded after TensorFlow

from d2l_adam.testing import tab  # noqa: F401  the fixture, as other test suites get it

# The machines are small and noisy: no deadlines. The same examples each time: a failure can be run again.
hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("default")


@pytest.fixture(scope="session")
def notebooks(tmp_path_factory):
    """The folder of the chapter's six notebooks, executed from a clean start by the command of `make run`."""
    folder = tmp_path_factory.mktemp("notebooks")
    script = Path(__file__).parents[1] / "chapter_optimization" / "notebooks.py"
    done = subprocess.run([sys.executable, script, "--out", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder
