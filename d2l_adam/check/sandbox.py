"""Other people's code, in a process for each file and tab: `python -m d2l_adam.check.worker`.

Bubblewrap (Linux) takes from it the network, other processes, and all files but the system's and a scratch folder in
memory, and ends all that it starts; without bubblewrap it is a plain process. Either way it has little of the
environment, a deadline, and limits of its own. What it answers is read as data: it can forge its own results only.
"""

import contextlib
import functools
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy

from d2l_adam.check import drive

CURE = "on Linux, bubblewrap confines it (apt install bubblewrap; try bwrap --unshare-all --ro-bind / / true)"
UNCONFINED = f"the code ran unconfined and could do whatever you can; {CURE}"
_ROOT = str(Path(__file__).parents[2])
_IMPORT = 300.0  # seconds for a framework to be imported
_LONGEST = 1 << 22  # bytes of an answer
_SYSTEM = "/bin", "/etc", "/gnu", "/lib", "/lib64", "/nix", "/opt", "/sys", "/usr"  # what is read of it
_SCRATCH = 1 << 28  # bytes of a folder that can be written
_KEPT = "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "SYSTEMROOT"
_FIXED = dict.fromkeys(("OMP_NUM_THREADS", "MXNET_CPU_WORKER_NTHREADS", "TF_NUM_INTRAOP_THREADS"), "1")
_FIXED |= {"CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg", "PYTHONDONTWRITEBYTECODE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
_FOLDERS = "HOME", "KERAS_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR", "TEMP", "TMPDIR", "USERPROFILE"


@functools.cache
def bubblewrap() -> tuple[str, ...]:
    """Return the command that confines another; nothing where it does not work."""
    needed = {sys.prefix, sys.base_prefix, *filter(os.path.exists, sys.path)} - {"/", "/tmp", os.getcwd(), _ROOT}
    needed |= {str(Path(__file__).parents[1])}  # of a clone no more than the package
    needed |= {*map(os.path.realpath, needed), *_SYSTEM}
    for size in (["--size", str(_SCRATCH)], []):  # which an old one has not
        command = ["bwrap", "--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--proc", "/proc"]
        command += [*size, "--tmpfs", "/dev", "--dir", "/dev/shm", *size, "--tmpfs", "/tmp"]
        command += [x for path in sorted(needed) for x in ("--ro-bind-try", path, path)]
        command += ["--remount-ro", "/proc", "--remount-ro", "/", "--chdir", "/tmp"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run([*command, sys.executable, "-c", ""], capture_output=True, timeout=60, check=False)
            if sys.platform == "linux" and done.returncode == 0:
                return tuple(command)
    return ()


def run(
    given: dict[str, Any], confinement: Iterable[str], done: Callable[[], Any], stop: threading.Event
) -> list[dict[str, Any]]:
    """Drive optimizers of one file in one tab: for each job the path it took, or the error that kept it from that.

    `given` are `file`, `tab`, its `cells`, each with its first line, and the `jobs`: `name`, `init`, `passed`, `runs`;
    the seconds that a job may take (`timeout`), after which the others go on, and the bytes beside its framework
    (`memory`, on Linux). Results have `path`, `notes` and `shapes`, or `error`, and `unusable` if that is the tab's.
    `confinement` is of `bubblewrap`, or empty. `done` is called after each; `stop` ends it all.
    """
    results: list[dict[str, Any]] = []
    while len(results) < len(given["jobs"]) and not stop.is_set():
        for answer in _answers(given | {"jobs": given["jobs"][len(results) :]}, [*confinement], stop):
            results.append(answer)
            done()
    return results


def _answers(given, confinement, stop):
    """Start a process for some jobs; yield its answers until one is missing."""
    number, timeout = len(given["jobs"]), given["timeout"]
    folder = tempfile.TemporaryDirectory(prefix="d2l_adam", ignore_cleanup_errors=True)
    with tempfile.TemporaryFile() as job, tempfile.TemporaryFile() as errors:
        job.write(json.dumps(given | {"confined": bool(confinement)}).encode())
        job.seek(0)
        where: dict[str, Any] = {"stdin": job, "stdout": subprocess.PIPE, "stderr": errors, "cwd": folder.name}
        command = [*confinement, sys.executable, "-P", "-m", "d2l_adam.check.worker"]
        environment = _environment("/tmp" if confinement else folder.name)
        process = subprocess.Popen(command, env=environment, start_new_session=True, **where)
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        reader = threading.Thread(target=_read, args=(process.stdout, number + 1, lines), daemon=True)
        try:
            reader.start()
            cause = _next(process, reader, lines, _IMPORT, stop)
            if isinstance(cause, str):
                errors.seek(0)
                last = errors.read().decode(errors="replace").strip()[-500:].splitlines() or ["it says nothing"]
                cause = json.dumps(f"{given['tab']} cannot be used ({cause}; {last[-1]})")
            if cause := json.loads(cause):
                yield from [{"error": cause, "unusable": True}] * number
                return
            for _ in range(number):
                line = _next(process, reader, lines, timeout, stop)
                yield {"error": line} if isinstance(line, str) else _checked(line)
                if isinstance(line, str):
                    return
        finally:
            with contextlib.suppress(OSError, AttributeError):  # Windows has no groups
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
            try:
                folder.cleanup()
            except RecursionError:  # folders in folders in folders
                subprocess.run(["rm", "-rf", folder.name], check=False)


def _read(stream, number, lines):
    """Hand on so many lines, none of which is too long."""
    with stream:
        for _ in range(number):
            line = stream.readline(_LONGEST)
            if not line.endswith(b"\n"):
                return
            lines.put(line)


def _next(process, reader, lines, timeout, stop):
    """The next line of a process, as bytes, or in words why there is none."""
    until = time.monotonic() + timeout
    while time.monotonic() < until and not stop.is_set():
        ended = process.poll() is not None and not reader.is_alive()
        with contextlib.suppress(queue.Empty):
            return lines.get(timeout=0 if ended else 0.05)
        if ended:
            return _end(process.returncode)
    return f"it did not end within {timeout:g} seconds, and was ended"


def _end(code):
    """Why a process has ended: a signal is a negative code, or, as bubblewrap says it, one from 128 on."""
    number = -code if code < 0 else code - 128
    if number <= 0:
        return f"it ended its process, with status {code}"
    known = {x.value: x.name for x in signal.Signals}
    return f"its process was ended by {known.get(number, f'signal {number}')}"


def _checked(line):
    """An answer, if it is one: whatever runs in the process may have written it."""
    with contextlib.suppress(Exception):
        answer = json.loads(line)
        notes = [str(note)[:300] for note in answer.get("notes", ())[:9]]
        if "error" in answer:
            return {"error": str(answer["error"])[:1000], "notes": notes}
        path = numpy.array(answer["path"], "float32")
        if path.shape == (len(drive.STEP), len(drive.REGIME)):
            return {"path": path, "notes": notes, "shapes": str(answer["shapes"])[:300]}
    return {"error": "what it answers is no path"}


def _environment(scratch):
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    path = os.pathsep.join(filter(None, (_ROOT, kept.get("PYTHONPATH"))))
    return kept | dict.fromkeys(_FOLDERS, scratch) | _FIXED | {"PYTHONPATH": path}
