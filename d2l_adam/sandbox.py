"""Other people's code, run in a process of its own for each tab: limited in time, memory, files and network."""

import contextlib
import json
import os
import select
import signal
import site
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy

from d2l_adam import optimizers

#: So long may it take to import a framework, in seconds.
IMPORT = 180.0
_ROOT = str(Path(__file__).parents[1])


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
    does not end within `timeout` seconds, or takes more than `memory` bytes beside its framework, is ended; the
    others go on in a new process. Results are dicts of `paths`, `notes` and `shapes`, or of `error`. `done` is called
    after each; `stop` ends it all.
    """
    results: list[dict[str, Any]] = [{"error": "it was not run"} for _ in jobs]
    todo = list(enumerate(jobs))
    while todo and not (stop and stop.is_set()):
        with tempfile.TemporaryDirectory(prefix="d2l_adam") as scratch:
            given = {"tab": tab, "memory": memory, "jobs": todo, "cells": cells}
            for number, answer in _attempt(given, scratch, timeout, stop):
                if number is None:  # it did not come so far as to run any code of the section
                    for number, _ in todo:
                        results[number] = answer
                        done()
                    return results
                if "error" not in answer:
                    with numpy.load(Path(scratch, f"{number}.npz"), allow_pickle=False) as file:
                        answer["paths"] = list(file.values())
                results[number] = answer
                done()
                todo = todo[1:]
    return results


def _attempt(given, scratch, timeout, stop) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """Start a process and yield what it answers; if it ends or has to be ended, that is the last answer."""
    job = Path(scratch, "job.json")
    job.write_text(json.dumps(given))
    reading, writing = os.pipe()
    with open(reading) as answers, Path(scratch, "out").open("wb") as out, Path(scratch, "err").open("w+b") as err:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "d2l_adam.worker", job, str(writing)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=_environment(scratch),
            pass_fds=[writing],
            start_new_session=True,
        )
        os.close(writing)
        try:
            lines = _lines(answers, process, stop)
            message = lines(IMPORT)
            if not message.get("ready"):
                why = message.get("unusable") or f"{given['tab']} cannot be imported: {_end(message, IMPORT, err)}"
                yield None, {"error": why, "unusable": True}
                return
            for number, _ in given["jobs"]:
                message = lines(timeout)
                if message.pop("number", None) != number:
                    yield number, {"error": _end(message, timeout, err)}
                    return
                yield number, message
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _lines(answers, process, stop):
    """A function that waits for the next answer; `{"ended": status}`, or None for the status, if there is none."""
    descriptor, buffer = answers.fileno(), b""

    def next_line(seconds):
        nonlocal buffer
        until = time.monotonic() + seconds
        while b"\n" not in buffer:
            ended = process.poll() is not None
            if select.select([descriptor], [], [], 0 if ended else 0.05)[0]:
                more = os.read(descriptor, 1 << 16)
                buffer += more
                if more:
                    continue
                ended = True
            if ended:
                return {"ended": process.wait()}
            if time.monotonic() > until or (stop and stop.is_set()):
                return {"ended": None}
        line, _, buffer = buffer.partition(b"\n")
        try:
            message = json.loads(line)
            return message if isinstance(message, dict) else {"ended": None}
        except ValueError:
            return {"ended": None}

    return next_line


def _end(message, seconds, err):
    """Why there was no answer."""
    status = message.get("ended")
    if status is None:
        return f"it did not end within {seconds:g} seconds, and was ended"
    err.seek(0)
    last = err.read()[-2000:].decode(errors="replace").strip().splitlines()[-1:] or [""]
    if status < 0:
        return f"its process was ended by {signal.Signals(-status).name} {last[0][:200]}".rstrip()
    return f"it ended its process, with status {status}"


def _environment(scratch):
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), "1")
    folders = dict.fromkeys(
        ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "KERAS_HOME", "IPYTHONDIR"), scratch
    )
    return (
        os.environ
        | one
        | folders
        | {
            "PYTHONPATH": _ROOT,
            "PYTHONUSERBASE": site.getuserbase(),  # which HOME would move
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "MPLBACKEND": "agg",
            "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", scratch),
            "CUDA_VISIBLE_DEVICES": "",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "MXNET_CPU_WORKER_NTHREADS": "1",
        }
    )
