"""Where the system is not this one: what macOS and Windows lack is hidden, in fresh interpreters."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sections import section
from test_check import adam, put, written

from d2l_adam.check import sandbox

ROOT = Path(__file__).parents[1]
LACKS = {
    "darwin": ["sched_getaffinity", "O_PATH"],
    "win32": ["fork", "setsid", "killpg", "sched_getaffinity", "register_at_fork", "O_PATH", "WNOHANG", "uname"],
}
# Python runs this when it starts, in the processes of the sandbox too. The frameworks may need what is hidden.
HIDE = """
import os, sys

import d2l_adam.__main__, d2l_adam.fused.kernel, d2l_adam.numpy, d2l_adam.plot, d2l_adam.torch
d2l_adam.torch.d2l
for name in [name for name in sys.modules if name.startswith("d2l_adam")]:
    del sys.modules[name]

system, lacks = {system!r}, {lacks!r}
for name in lacks:
    delattr(os, name)
if system == "win32":
    sys.modules["resource"] = None
sys.platform = system


def without_proc(event, args):
    if event in ("open", "os.listdir") and str(args[0]).startswith("/proc"):
        raise FileNotFoundError(args[0])


sys.addaudithook(without_proc)
"""
COMMANDS = """
import json, os, sys
from click.testing import CliRunner
from d2l_adam import testing
import d2l_adam.numpy, d2l_adam.torch
from d2l_adam.__main__ import cli

testing.assert_tabs_agree({"numpy": d2l_adam.numpy.adam, "pytorch": d2l_adam.torch.adam})
out = {}
for command in json.loads(sys.argv[1]):
    done = CliRunner().invoke(cli, command)
    out[command[0]] = done.exit_code, done.stdout, repr(done.exception)
print(json.dumps([sys.platform, hasattr(os, "fork"), out]))
"""


@pytest.mark.parametrize("system", LACKS)
def test_the_commands_work_on(system, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(system=system, lacks=LACKS[system]))
    files = written(
        tmp_path,
        drifts=section("adam", ("numpy", "pytorch"), {"pytorch": put("1e-6", "1e-5")})
        + section("sgd", ("numpy", "pytorch")),
        loops=adam("numpy", "while True: pass") + adam("numpy", "pass").replace("def adam", "def other"),
    )
    commands = [
        ["check", "--json", "--timeout", "5", *map(str, files)],
        ["run", "--tab", "numpy", "--num-epochs", "1", "--json"],
        ["bench", "--tab", "numpy", "--size", "chapter", "--seconds", "0.1", "--no-epochs", "--json"],
        ["render", "--tab", "pytorch"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    its_platform, forks, out = json.loads(done.stdout)
    assert (its_platform, forks) == (system, system != "win32")
    status, report, _ = out.pop("check")
    report = json.loads(report)
    assert (status, report["files"]) == (2, [str(file) for file in files])
    assert [x["message"] for x in report["findings"] if not x["file"]] == [sandbox.UNCONFINED]
    [drift] = [x for x in report["findings"] if x["kind"] == "drift"]
    assert (drift["tab"], drift["causes"]) == ("pytorch", [["eps = 1e-05 instead of 1e-06"]])
    [unchecked] = [x for x in report["findings"] if x["kind"] == "unchecked"]
    assert (unchecked["name"], unchecked["message"]) == (
        "adam",
        "could not be checked: it did not end within 5 seconds, and was ended",
    )
    assert {x["name"]: x["groups"] for x in report["optimizers"]} == {
        "adam": [["numpy"], ["pytorch"]],
        "other": [["numpy"]],
        "sgd": [["numpy", "pytorch"]],
    }
    for name, (status, _, exception) in out.items():
        assert (name, status, exception) == (name, 0, exception)
