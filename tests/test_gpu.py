"""The script for a machine with a GPU, tried on the processor, so that it is fit when it comes to one."""

import json
import os
import subprocess
import sys

import gpu
import pytest

from d2l_adam.torch import Adam, Yogi, torch


@pytest.fixture
def at_work(monkeypatch):
    for name in ("DEVICE", "FORMS", "QUICK", "np", "oracle", "tab", "torch"):
        monkeypatch.setattr(gpu, name, None, raising=False)  # to be as before, afterwards
    gpu.work([], "cpu", quick=True)


def script(*args):
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, gpu.__file__, *args], capture_output=True, text=True, env=env)


def test_all_parts_pass_on_the_processor(tmp_path):
    done = script("--device", "cpu", "--quick", "--out", str(tmp_path / "gpu.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["torch"] == torch.__version__ and found["device"] == "cpu"
    assert found["parts"].keys() == gpu.PARTS.keys() - gpu.GPU_TESTS.keys()
    assert all(part["passed"] for part in found["parts"].values())
    assert "torch fused, ms" in found["parts"]["1e7"]["figures"]


def test_without_a_gpu_one_line_says_so():
    done = script()
    assert done.returncode == 2
    assert done.stdout.count("\n") == 1
    assert "sees no GPU here; `--device cpu --quick` tries" in done.stdout


@pytest.mark.parametrize(
    ("cls", "options"),
    [(torch.optim.Adam, {"eps": 1e-8}), (Adam, {"eps": 1e-5}), (Yogi, {}), (Adam, {"betas": (0.9, 0.9999)})],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("at_work")
def test_another_update_is_noticed(cls, options, dtype):
    params = gpu.parameters(dtype)
    optimizer = cls(params, lr=gpu.LR, **options)
    with pytest.raises(AssertionError, match=r"of what rounding allows|Not equal to tolerance"):
        gpu.follows_the_equations(
            "adam", params, optimizer.step, lambda p: (optimizer.state[p]["exp_avg"], optimizer.state[p]["exp_avg_sq"])
        )


@pytest.mark.usefixtures("at_work")
def test_a_part_that_fails_does_not_stop_the_others(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "PARTS", {"one": lambda: 1 / 0, "two": lambda: {"x": 2.0}})
    gpu.work(["one", "two"], "cpu", quick=True)
    one, two = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert one["one"]["error"] == "ZeroDivisionError: division by zero"
    assert two["two"]["passed"] and two["two"]["figures"] == {"x": 2.0}


def test_what_cannot_be_installed_is_named(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "NEEDED", ("numpy", "no_such_package"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert gpu.set_up().startswith("no_such_package missing, and pip could not install it (ERROR: No matching")
