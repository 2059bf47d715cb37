"""Other people's code, run in processes of its own: limited in time, memory, files and network.

`run` starts one process a tab, `python -m d2l_adam.check.worker`, and a new one where it has to be ended. That imports
the framework, and no code of a section; it forks a process for each optimizer, which runs the code.

So it is on Linux. Elsewhere a process cannot be forked (Windows), or may crash once a framework was imported (macOS):
there `run` starts such a process for each optimizer. It is limited in time, and by nothing else.
"""

import contextlib
import json
import os
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

from d2l_adam.check import confinement, drive

#: Whether a process is forked for each optimizer, and confined.
FORKS = sys.platform == "linux"
_ROOT = str(Path(__file__).parents[2])
_MOST = 1 << 26  # bytes that are printed


def run(
    tab: str,
    jobs: list[dict[str, Any]],
    timeout: float,
    memory: int,
    done: Callable[[], Any] = lambda: None,
    stop: threading.Event | None = None,
) -> list[dict[str, Any]]:
    """Drive optimizers of one tab: for each job the path it took, or the error that kept it from that.

    A job has `file`, `name`, `init`, `passed`, `runs` and the `cells` of the tab. A job that does not end within
    `timeout` seconds is ended, one that takes more than `memory` bytes beside its framework fails (on Linux); the
    others go on. Results are dicts of `path`, `notes` and `shapes`, or of `error`, and `unusable` if that is the
    tab's. `done` is called after each; `stop` ends it all.
    """
    results: list[dict[str, Any]] = []
    stop = stop or threading.Event()
    while len(results) < len(jobs) and not stop.is_set():
        todo = jobs[len(results) :] if FORKS else [jobs[len(results)]]
        given = {"tab": tab, "jobs": todo, "timeout": timeout, "memory": memory, "forks": FORKS}
        for answer in _started(given, stop):
            results.append(answer)
            done()
    return results


def unconfined() -> str:
    """In which way the code is not confined here, in words; empty if it is."""
    if not FORKS:
        return "the code ran without confinement, which there is on Linux only: it could do whatever you can"
    if not confinement.landlock():
        return "the code ran without confinement by the kernel, which has no Landlock; only Python refused some things"
    return ""


def end(code: int) -> str:
    """Why a process has ended without an answer; as in `subprocess`, a signal is a negative code."""
    if code >= 0:
        return f"it ended its process, with status {code}"
    known = {x.value: x.name for x in signal.Signals}
    return f"its process was ended by {known.get(-code, f'signal {-code}')}"


def _started(given, stop):
    """Start a process that imports the framework of a tab, for some jobs; yield its answers until it ends."""
    left, until = len(given["jobs"]), None
    with tempfile.TemporaryDirectory(prefix="d2l_adam", ignore_cleanup_errors=True) as scratch:
        job, out, err = (Path(scratch, name) for name in ("job.json", "out", "err"))
        job.write_text(json.dumps(given))
        with err.open("wb") as errors, out.open("wb") as written, out.open("rb") as lines:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "d2l_adam.check.worker", job],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=errors,
                env=_environment(scratch),
                start_new_session=True,
            )
            line = b""
            try:
                while left and not stop.is_set():
                    ended = process.poll() is not None  # asked first: what was written before is still there then
                    line += lines.readline()
                    if line.endswith(b"\n"):
                        if until:
                            yield _checked(line)
                            left -= 1
                        line, until = b"", time.monotonic() + given["timeout"]
                    elif ended and (FORKS or not until):
                        last = err.read_text(errors="replace").strip()[-500:].splitlines()[-1:]
                        error = f"{given['tab']} cannot be used ({last[0] if last else 'no reason was given'})"
                        yield from [{"error": error, "unusable": True}] * left
                        return
                    elif error := end(process.returncode) if ended else _too_much(scratch, until, given["timeout"]):
                        yield {"error": error}
                        return
                    else:
                        time.sleep(0.02)
            finally:
                _end_process(process)


def _too_much(scratch, until, timeout):
    """Why the code may not go on, if so."""
    if until and time.monotonic() > until:
        return f"it did not end within {timeout:g} seconds, and was ended"
    for name in () if FORKS else ("out", "work/out", "work/err"):  # else the kernel limits files
        with contextlib.suppress(OSError):
            if Path(scratch, name).stat().st_size > _MOST:
                return f"it printed more than {_MOST >> 20} MiB, and was ended"
    return None


def _checked(line):
    """An answer, if it is one: whatever runs in the process may have written it."""
    try:
        answer = json.loads(line)
        notes = [str(note)[:300] for note in answer.get("notes", ())]
        if "error" in answer:
            return {"error": str(answer["error"])[:1000], "notes": notes, "unusable": bool(answer.get("unusable"))}
        path = numpy.array(answer["path"], "float32")
        if path.shape == (len(drive.STEP), len(drive.REGIME)):
            return {"path": path, "notes": notes, "shapes": str(answer["shapes"])[:300]}
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        pass
    return {"error": "what it answers is no path"}


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
    own = {"PYTHONPATH": _ROOT, "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "agg", "TMPDIR": scratch}
    return os.environ | one | own
