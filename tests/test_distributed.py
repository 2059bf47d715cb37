"""The chapter's run in two processes: the curve of one, on every engine; and what happens when a process fails."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import oracle
import psutil
import pytest
from click.testing import CliRunner

import distributed
from d2l_adam import protocol
from distributed import ENGINES, execute
from distributed_run import steps

SCRIPT = Path(__file__).parents[1] / "chapter_optimization" / "distributed.py"
MARK = "D2L_ADAM_TEST_OF_DISTRIBUTED"


def left(mark):
    """The processes that have `mark` in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            found += [process.pid] * (process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            continue
    return found


def assert_curves_of_one(tab, status, printed, said):
    assert status == 0, said
    rows = re.findall(r"│ (\w+) +│ (\w+) +│ (\w+) │ +(\S+) │ +([\d.]+) │", printed)
    assert [row[:3] for row in rows] == [(tab, engine, "yogi") for engine in ENGINES[tab]]
    assert all(0 < float(row[3]) <= protocol.TOLERANCE["float32"] for row in rows)
    assert not left(tab)


@pytest.mark.parametrize("tab", ["mxnet", "tensorflow"])
def test_two_processes_make_the_curve_of_one_on_every_engine(tab):
    command = [sys.executable, SCRIPT, "--tab", tab, "--rule", "yogi"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, MARK: tab})
    assert_curves_of_one(tab, done.returncode, done.stdout, done.stderr)


#: A worker that tells whether its process group outlives its end. The group's threads, that is: they are in it.
WATCHED = """
import sys
import weakref
from torch import distributed
import distributed_torch

def destroy():
    group = weakref.ref(distributed.group.WORLD)
    destroy_process_group()
    # As one piece, as the other process writes into the same file.
    sys.stdout.write(f"A process group is {'left' if group() else 'gone'}\\n")

destroy_process_group, distributed.destroy_process_group = distributed.destroy_process_group, destroy
distributed_torch.main()
"""


@pytest.mark.needs("pytorch")
def test_they_do_in_pytorch_and_no_thread_of_a_process_group_lives_on_while_python_ends(tmp_path, monkeypatch):
    """One that still holds a tensor then would abort the process: now and then only, so what it needs is looked for."""
    watched, said = tmp_path / "watched.py", []
    watched.write_text(WATCHED)
    worker = str(SCRIPT.with_name("distributed_torch.py"))

    def execute_watched(processes, folder, limit):
        ((command, more),) = processes.values()
        command = [str(watched) if part == worker else part for part in command]
        execute({"torchrun": (command, more | {"PYTHONPATH": os.pathsep.join(sys.path)})}, folder, limit)
        said.append(re.findall(r"A process group is \w+", (folder / "torchrun").read_text()))

    monkeypatch.setenv(MARK, "pytorch")
    monkeypatch.setattr(distributed, "execute", execute_watched)
    done = CliRunner().invoke(distributed.main, ["--tab", "pytorch", "--rule", "yogi"])
    assert_curves_of_one("pytorch", done.exit_code, done.stdout, done.stderr)
    assert said == [["A process group is gone"] * 2] * len(ENGINES["pytorch"])


def test_together_the_processes_have_the_batches_of_one():
    whole = [rows for rows, _ in protocol.batches()]
    features, labels, _, _ = protocol.start()
    for rows, *parts in zip(whole, steps(0, 2), steps(1, 2), strict=True):
        np.testing.assert_array_equal(np.concatenate([X for X, _, _ in parts]), features[rows])
        np.testing.assert_array_equal(np.concatenate([y for _, y, _ in parts]), labels[rows])
    assert sum(recorded for *_, recorded in steps(1, 5)) == len(oracle.curve("adam"))


WAIT = "import time; print('waiting', flush=True); time.sleep(600)"


def test_a_process_that_fails_ends_the_others_at_once(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # Python would keep `first` back until it ends
    code = "import sys; print('first'); sys.exit('the last words')"
    commands = {
        "worker 0": ([sys.executable, "-c", WAIT], {}),
        "worker 1": ([sys.executable, "-c", code], {MARK: "fails"}),
    }
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=r"(?s)worker 1 ended with 1\n.*worker 1: first\nworker 1: the last words"):
        execute(commands, tmp_path, limit=60)
    assert time.monotonic() - began < 30
    assert not left("fails")


def test_a_process_that_is_late_is_killed_with_its_children(tmp_path):
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAIT!r}])"
    with pytest.raises(RuntimeError, match="not done in time, and killed"):
        execute({"worker": ([sys.executable, "-c", child], {MARK: "late"})}, tmp_path, limit=2)
    assert not left("late")


@pytest.mark.needs("mxnet")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_when_the_command_is_ended_no_process_is_left(number):
    command = [sys.executable, SCRIPT, "--tab", "mxnet"]
    environment = {**os.environ, MARK: number.name}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        while len(left(number.name)) < 4 and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    assert not left(number.name)


@pytest.mark.needs("tensorflow")
def test_a_curve_that_is_another_fails(tmp_path):
    """With a copy of the scripts in which the second process sees other rows."""
    folder = tmp_path / "chapter_optimization"
    folder.mkdir()
    for file in SCRIPT.parent.glob("distributed*.py"):
        text = file.read_text()
        (folder / file.name).write_text(
            text.replace("numpy.split(rows, processes)[rank]", "rows[: len(rows) // processes]")
        )
    command = [sys.executable, folder / SCRIPT.name, "--tab", "tensorflow", "--rule", "adam"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "tensorflow mirrored adam: another curve than one process makes" in done.stderr


def invoke(monkeypatch, installed, *arguments):
    """The command where only `installed` are, and nothing is really trained: its result, and what it would train."""
    trained = []

    def execute(processes, folder, limit):
        trained.append([*processes])
        raise RuntimeError("not trained")

    monkeypatch.setattr(protocol, "installed", lambda: ("numpy", *installed))
    monkeypatch.setattr(distributed, "execute", execute)
    return CliRunner().invoke(distributed.main, arguments), trained


def test_what_is_not_installed_is_left_out(monkeypatch):
    done, trained = invoke(monkeypatch, ["tensorflow"], "--rule", "adam")
    assert (done.exit_code, trained) == (1, [["worker 0", "worker 1"]])
    assert "tensorflow mirrored adam: not trained" in done.stderr


@pytest.mark.parametrize(
    ("installed", "arguments", "absent"),
    [
        (["pytorch"], ["--tab", "pytorch", "--tab", "mxnet"], "mxnet"),
        ([], [], "mxnet, pytorch, tensorflow"),
    ],
)
def test_what_is_asked_for_has_to_be_installed(monkeypatch, installed, arguments, absent):
    done, trained = invoke(monkeypatch, installed, *arguments)
    assert (done.exit_code, done.stdout, trained) == (1, "", [])
    assert done.stderr == f"Error: {absent}: not installed; `python -m d2l_adam info` says how to\n"


@pytest.mark.parametrize("name", ["lo", "lo0", "Loopback Pseudo-Interface 1"])
def test_the_loopback_interface_is_found_by_its_address(monkeypatch, name):
    class Address:
        def __init__(self, address):
            self.address = address

    there = {"en0": [Address("127.0.0.2")], name: [Address("::1"), Address("127.0.0.1")]}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: there)
    assert distributed.loopback() == name
    del there[name]
    with pytest.raises(OSError, match="switch the loopback interface on"):
        distributed.loopback()


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_ports_are_kept_where_the_frameworks_get_them_all_the_same(monkeypatch, platform):
    if platform == "win32":
        monkeypatch.delattr(socket, "SO_REUSEPORT")
    kept = platform == "linux" == sys.platform
    monkeypatch.setattr(sys, "platform", platform)
    with distributed.free_ports(2) as ports:
        assert len({*ports}) == 2
        for port in ports:
            with socket.socket() as other:
                if kept:
                    with pytest.raises(OSError, match="in use"):
                        other.bind(("127.0.0.1", port))
                else:
                    other.bind(("127.0.0.1", port))
