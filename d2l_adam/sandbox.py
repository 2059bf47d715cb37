"""Other people's code, run in processes of its own: limited in time, memory, files and network.

`run` starts one process a tab (`python -m d2l_adam.sandbox`). That imports the framework, and no code of a section; it
forks a process for each file, in which `d2l_adam.worker` runs the code, ends it where it does not end, and checks what
it answers.
"""

import contextlib
import ctypes
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy

from d2l_adam import drive, optimizers, protocol, worker

_ROOT = str(Path(__file__).parents[1])
_MOST = 1 << 26  # bytes of an answer


def run(
    tab: str,
    jobs: list[dict[str, Any]],
    cells: dict[str, list[optimizers.Cell]],
    timeout: float,
    memory: int,
    done: Callable[[], Any] = lambda: None,
    stop: threading.Event | None = None,
) -> list[dict[str, Any]]:
    """Drive optimizers of one tab: for each job the paths it took, or the error that kept it from that.

    A job has `file`, `name`, `init`, `passed` and `runs`; `cells` are the cells of the tab in each file. A job that
    does not end within `timeout` seconds is ended, one that takes more than `memory` bytes beside its framework fails;
    the others go on. Results are dicts of `paths`, `notes` and `shapes`, or of `error`. `done` is called after each;
    `stop` ends it all.
    """
    results: list[dict[str, Any]] = []
    stop = stop or threading.Event()
    with tempfile.TemporaryDirectory(prefix="d2l_adam") as scratch:
        job, out = Path(scratch, "job.json"), Path(scratch, "out")
        job.write_text(json.dumps({"tab": tab, "jobs": jobs, "cells": cells, "timeout": timeout, "memory": memory}))
        with Path(scratch, "err").open("w+b") as err, out.open("wb") as answers, out.open("rb") as lines:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "d2l_adam.sandbox", job],
                stdin=subprocess.DEVNULL,
                stdout=answers,
                stderr=err,
                env=_environment(scratch),
                start_new_session=True,
            )
            line = b""
            while len(results) < len(jobs) and not stop.is_set():
                ended = process.poll() is not None
                line += lines.readline()
                if line.endswith(b"\n"):
                    results.append(json.loads(line))
                    line = b""
                    done()
                elif ended:
                    break
                else:
                    time.sleep(0.02)
            process.terminate()
            process.wait()
            err.seek(0)
            why = err.read()[-500:].decode(errors="replace").strip().splitlines()[-1:] or ["no reason was given"]
    error = {"error": f"{tab} cannot be used ({why[0]})", "unusable": True}
    return results + [error] * (len(jobs) - len(results))


def _environment(scratch):
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), "1")
    one |= {"MXNET_CPU_WORKER_NTHREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    here = {"PYTHONPATH": _ROOT, "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "agg", "TMPDIR": scratch}
    return os.environ | one | here


def main(file: str) -> None:
    """Work through the jobs in a file; print the answer to each, a line of JSON."""
    given = json.loads(Path(file).read_text())
    libc = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):
        libc.prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG: to end with who has started it
        libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans of orphans come to this process
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what frameworks print when they are imported is no answer
    try:
        module = protocol.load(given["tab"])
    except ImportError as error:
        for _ in given["jobs"]:
            out.write(json.dumps({"error": str(error), "unusable": True}) + "\n")
        return
    without_d2l = ""
    try:
        _ = module.d2l
    except (ImportError, AttributeError) as error:  # then what needs it says so
        without_d2l = str(error)
    for name, group in itertools.groupby(given["jobs"], key=lambda job: job["file"]):
        cells = [optimizers.Cell(source, tuple(lines)) for source, lines in given["cells"][name]]
        todo = list(group)
        while todo:
            for answer in _forked(module, todo, cells, without_d2l, given):
                out.write(json.dumps(answer) + "\n")
                todo = todo[1:]


def _forked(module, jobs, cells, without_d2l, given):
    """Fork a process for jobs of one file; yield its answers. If it ends or has to be ended, that is the last."""
    reading, writing = os.pipe()
    with tempfile.TemporaryDirectory() as scratch, os.fdopen(reading, "rb", buffering=0) as answers:
        child = os.fork()
        if not child:
            _child(module, jobs, cells, without_d2l, given["memory"], os.path.realpath(scratch), writing)
        os.close(writing)
        buffer = bytearray()
        try:
            for _ in jobs:
                until, line = time.monotonic() + given["timeout"], b""
                while not line:
                    ended, status = os.waitpid(child, os.WNOHANG)  # asked first: what it wrote is still there then
                    ready = select.select([answers], [], [], 0 if ended else 0.05)[0]
                    more = answers.read(1 << 16) if ready else b""
                    buffer += more
                    if b"\n" in more:
                        line, _, rest = bytes(buffer).partition(b"\n")
                        buffer = bytearray(rest)
                    elif ended and not more:
                        yield {"error": _end(status)}
                        return
                    elif time.monotonic() > until or len(buffer) > _MOST:
                        yield {"error": f"it did not end within {given['timeout']:g} seconds, and was ended"}
                        return
                yield _checked(line)
        finally:
            _end_all()


def _child(module, jobs, cells, without_d2l, memory, scratch, writing):
    status = 1
    try:
        os.setsid()
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(os.path.join(scratch, name), os.O_RDWR | os.O_CREAT), descriptor)
        keep = {0, 1, 2, writing}
        for descriptor in map(int, os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else ():
            if descriptor not in keep:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        os.chdir(scratch)
        os.environ |= dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "KERAS_HOME"), scratch)
        tempfile.tempdir = scratch
        write, dumps = os.write, json.dumps  # as they are before the code of the section runs
        worker.confine(scratch, memory)
        worker.refuse(scratch)
        for job in jobs:
            line = dumps(worker.work(module, job, cells, without_d2l)).encode() + b"\n"
            while line:
                line = line[write(writing, line) :]
        status = 0
    finally:
        os._exit(status)


def _checked(line):
    """An answer, if it is one: whatever runs in the process may have written it."""
    try:
        answer = json.loads(line)
        notes = [str(note)[:300] for note in answer.get("notes", ())]
        if "error" in answer:
            return {"error": str(answer["error"])[:1000], "notes": notes}
        paths = [numpy.array(path, "float32") for path in answer["paths"]]
        if [path.shape for path in paths] == [(steps + 1, len(drive.REGIME)) for steps in drive.STEPS]:
            return {"paths": [path.tolist() for path in paths], "notes": notes, "shapes": str(answer["shapes"])[:300]}
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        pass
    return {"error": "what it answers is no path"}


def _end(status):
    """Why a process has ended without an answer."""
    if not os.WIFSIGNALED(status):
        return f"it ended its process, with status {os.waitstatus_to_exitcode(status)}"
    number = os.WTERMSIG(status)
    try:
        return f"its process was ended by {signal.Signals(number).name}"
    except ValueError:
        return f"its process was ended by signal {number}"


def _end_all():
    """End all that was started: also what has moved into a session of its own."""
    while True:
        with contextlib.suppress(OSError, ValueError):
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            for child in map(int, children):
                os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


if __name__ == "__main__":
    main(sys.argv[1])
