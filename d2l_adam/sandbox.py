"""Other people's code, run in processes of its own: limited in time, memory, files and network.

`run` starts one process a tab (`python -m d2l_adam.sandbox`). That imports the framework, and no code of a section; it
forks a process for each file, in which `d2l_adam.worker` runs the code, ends it where it does not end, and checks what
it answers.

So it is on Linux. Elsewhere a process cannot be forked (Windows), or may crash once a framework was imported (macOS):
there `run` starts such a process for each file, which runs the code itself. It is limited in time, and by nothing else.
"""

import contextlib
import ctypes
import faulthandler
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

#: Whether a process is forked for each file, and confined.
FORKS = sys.platform == "linux"
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
    does not end within `timeout` seconds is ended, one that takes more than `memory` bytes beside its framework fails
    (on Linux); the others go on. Results are dicts of `paths`, `notes` and `shapes`, or of `error`. `done` is called
    after each; `stop` ends it all.
    """
    results: list[dict[str, Any]] = []
    stop = stop or threading.Event()
    while len(results) < len(jobs) and not stop.is_set():
        todo = jobs[len(results) :]
        if not FORKS:  # a process for each file, and a new one where it has ended too soon
            todo = [job for job in todo if job["file"] == todo[0]["file"]]
        for answer in _started(tab, todo, cells, timeout, memory, stop):
            results.append(answer)
            done()
    return results


def unconfined() -> str:
    """In which way the code is not confined here, in words; empty if it is."""
    if not FORKS:
        return "the code ran without confinement, which there is on Linux only: it could do whatever you can"
    if not worker.landlock():
        return "the code ran without confinement by the kernel, which has no Landlock; only Python refused some things"
    return ""


def _started(tab, jobs, cells, timeout, memory, stop):
    """Start a process that imports the framework of a tab, for some jobs; yield its answers until it ends."""
    with tempfile.TemporaryDirectory(prefix="d2l_adam", ignore_cleanup_errors=True) as scratch:
        job, out = Path(scratch, "job.json"), Path(scratch, "out")
        given = {"tab": tab, "jobs": jobs, "cells": cells, "timeout": timeout, "memory": memory, "forks": FORKS}
        job.write_text(json.dumps(given))
        with Path(scratch, "err").open("w+b") as err, out.open("wb") as answers, out.open("rb") as lines:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "d2l_adam.sandbox", job],
                stdin=subprocess.DEVNULL,
                stdout=answers,
                stderr=err,
                env=_environment(scratch),
                start_new_session=True,
            )
            try:
                left, line, until = len(jobs), b"", None
                while left and not stop.is_set():
                    ended = process.poll() is not None
                    line += lines.readline()
                    if line.endswith(b"\n"):
                        if until is None and (refused := json.loads(line)):
                            yield from [refused] * left
                            return
                        if until is not None:
                            yield json.loads(line) if FORKS else _checked(line)
                            left -= 1
                        line, until = b"", time.monotonic() + timeout
                    elif ended and (FORKS or until is None):
                        err.seek(0)
                        why = err.read()[-500:].decode(errors="replace").strip().splitlines()[-1:]
                        why = why or ["no reason was given"]
                        yield from [{"error": f"{tab} cannot be used ({why[0]})", "unusable": True}] * left
                        return
                    elif ended:
                        yield {"error": _end(process.returncode)}
                        return
                    elif not FORKS and until is not None and (error := _too_much(scratch, until, timeout)):
                        yield {"error": error}
                        return
                    else:
                        time.sleep(0.02)
            finally:
                _end_process(process)


def _too_much(scratch, until, timeout):
    """Why the code of a file may not go on, if so."""
    if time.monotonic() > until:
        return f"it did not end within {timeout:g} seconds, and was ended"
    with contextlib.suppress(OSError):
        if any(Path(scratch, name).stat().st_size > _MOST for name in ("out", "work/out", "work/err")):
            return f"it printed more than {_MOST >> 20} MiB, and was ended"
    return None


def _end_process(process):
    if FORKS:  # it ends what it has started
        process.terminate()
    else:
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    process.wait()


def _environment(scratch):
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), "1")
    one |= {"MXNET_CPU_WORKER_NTHREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    here = {"PYTHONPATH": _ROOT, "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "agg", "TMPDIR": scratch}
    return os.environ | one | here


def main(file: str) -> None:
    """Work through the jobs in a file; print whether the framework is here, then each answer, as lines of JSON."""
    given = json.loads(Path(file).read_text())
    if given["forks"]:
        libc = ctypes.CDLL(None)
        libc.prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG: to end with who has started it
        libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans of orphans come to this process
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what frameworks print when they are imported is no answer
    try:
        module = protocol.load(given["tab"])
    except ImportError as error:
        out.write(json.dumps({"error": str(error), "unusable": True}) + "\n")
        return
    without_d2l = ""
    try:
        _ = module.d2l
    except (ImportError, AttributeError) as error:  # then what needs it says so
        without_d2l = str(error)
    out.write("{}\n")
    for name, group in itertools.groupby(given["jobs"], key=lambda job: job["file"]):
        cells = [optimizers.Cell(source, tuple(lines)) for source, lines in given["cells"][name]]
        todo = list(group)
        if not given["forks"]:
            # Should nobody be left to end this process, it ends.
            faulthandler.dump_traceback_later(2 * given["timeout"] * len(todo), exit=True)
            scratch = Path(file).with_name("work")
            scratch.mkdir()
            _move_into(str(scratch))
            _answer(module, todo, cells, without_d2l, out.fileno())
            todo = []
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
                        yield {"error": _end(os.waitstatus_to_exitcode(status))}
                        return
                    elif time.monotonic() > until or len(buffer) > _MOST:
                        yield {"error": f"it did not end within {given['timeout']:g} seconds, and was ended"}
                        return
                yield _checked(line)
        finally:
            _end_all(child)


def _child(module, jobs, cells, without_d2l, memory, scratch, writing):
    status = 1
    try:
        os.setsid()
        with contextlib.suppress(OSError):
            for descriptor in {*map(int, os.listdir("/proc/self/fd"))} - {0, 1, 2, writing}:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        _move_into(scratch)
        worker.confine(scratch, memory)
        worker.refuse(scratch)
        _answer(module, jobs, cells, without_d2l, writing)
        status = 0
    finally:
        os._exit(status)


def _move_into(scratch):
    """Let this process work in a folder, and print into files there."""
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(scratch, name), os.O_RDWR | os.O_CREAT), descriptor)
    os.chdir(scratch)
    homes = "HOME", "USERPROFILE", "TMPDIR", "TEMP", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "KERAS_HOME"
    os.environ |= dict.fromkeys(homes, scratch)
    tempfile.tempdir = scratch


def _answer(module, jobs, cells, without_d2l, writing):
    """Run the code of one file; write the answer to each job."""
    write, dumps = os.write, json.dumps  # as they are before the code of the section runs
    for job in jobs:
        line = dumps(worker.work(module, job, cells, without_d2l)).encode() + b"\n"
        while line:
            line = line[write(writing, line) :]


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


def _end(code):
    """Why a process has ended without an answer; as in `subprocess`, a signal is a negative code."""
    if code >= 0:
        return f"it ended its process, with status {code}"
    try:
        return f"its process was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"its process was ended by signal {-code}"


def _end_all(child):
    """End all that was started: also what has moved into a session of its own, where the kernel lists children."""
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)
    while True:
        children: list[str] = []
        with contextlib.suppress(OSError):
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for pid in map(int, children):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            ended, _ = os.waitpid(-1, 0 if children else os.WNOHANG)
        except ChildProcessError:
            return
        if not ended:
            return


if __name__ == "__main__":
    main(sys.argv[1])
