"""The process that `d2l_adam.check.sandbox` starts for a tab, and that the code of the sections runs in."""

import ast
import contextlib
import ctypes
import faulthandler
import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from d2l_adam import protocol
from d2l_adam.check import confinement, definitions, drive, sandbox


def main(file: str) -> None:
    """Work through the jobs in a file; print a line once the framework is imported, then each answer, as JSON."""
    given = json.loads(Path(file).read_text())
    if given["forks"]:
        libc = ctypes.CDLL(None)
        libc.prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG: to end with who has started it
        libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans of orphans come to this process
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what frameworks print when they are imported is no answer
    try:
        module = protocol.load(given["tab"])
    except ImportError as error:
        refused = json.dumps({"error": str(error), "unusable": True}).encode() + b"\n"
        out.write(b"imported\n" + refused * len(given["jobs"]))
        return
    given["without_d2l"] = ""
    try:
        _ = module.d2l
    except (ImportError, AttributeError) as error:  # then what needs it says so
        given["without_d2l"] = str(error)
    out.write(b"imported\n")
    for job in given["jobs"]:
        if given["forks"]:
            answer = _forked(module, job, given)
        else:  # should nobody be left to end this process, it ends
            faulthandler.dump_traceback_later(2 * given["timeout"], exit=True)
            scratch = Path(file).with_name("work")
            scratch.mkdir()
            answer = _answer(module, job, given, str(scratch))
        out.write(answer + b"\n")


def _forked(module, job, given):
    """Run the code of an optimizer in a process forked for it, which leaves the answer in a file."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = os.path.realpath(folder)
        child = os.fork()
        if not child:
            try:
                os.setsid()
                os.closerange(3, 1 << 16)
                confinement.confine(scratch, given["memory"])
                Path(scratch, "answer").write_bytes(_answer(module, job, given, scratch))
                os._exit(0)
            finally:
                os._exit(1)
        try:
            _, status = os.waitpid(child, 0)
        finally:
            _end_all(child)
        with contextlib.suppress(OSError):
            return Path(scratch, "answer").read_bytes().partition(b"\n")[0]
        return json.dumps({"error": sandbox.end(os.waitstatus_to_exitcode(status))}).encode()


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


def _answer(module, job, given, scratch):
    """Drive one optimizer of a section in a folder, which also has what it prints: the answer, as JSON.

    That is the path and what is to be told, or the error that prevented it.
    """
    dumps, answer = json.dumps, dict[str, Any]()  # as it is before that code runs
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(scratch, name), os.O_RDWR | os.O_CREAT), descriptor)
    os.chdir(scratch)
    homes = "HOME", "USERPROFILE", "TMPDIR", "TEMP", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "KERAS_HOME"
    os.environ |= dict.fromkeys(homes, scratch)
    tempfile.tempdir = scratch
    try:
        names = [job["name"], *filter(None, [job["init"]])]
        namespace = _defined(job["cells"], names, job["file"], given["without_d2l"])
        trainer, init = namespace[job["name"]], namespace[job["init"]] if job["init"] else None
        answer["shapes"] = init and _shapes(init(drive.FEATURES))
        path, answer["notes"] = drive.drive(module, trainer, init, job["runs"], job["passed"])
        answer["path"] = path.tolist()
    except BaseException as error:
        answer = {"error": _said(error, job["file"])}
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    if printed := os.fstat(1).st_size:
        answer.setdefault("notes", []).append(f"prints ({printed} bytes)")
    return dumps(answer).encode()


class _Missing:
    """Stands for what could not be imported or defined; every use says why."""

    def __init__(self, why):
        self.__dict__["_why"] = why

    def __getattr__(self, name):
        raise ImportError(self._why)

    def __call__(self, *args, **kwargs):
        raise ImportError(self._why)


def _defined(cells, names, file, without_d2l):
    """Run the definitions that some names need; what fails is missed only by what uses it."""
    namespace: dict[str, Any] = {"__name__": Path(file).stem, "__builtins__": __builtins__}
    for node in definitions.needed([definitions.parse(cell) for cell in cells], names):
        try:
            exec(compile(ast.Module([node], []), file, "exec"), namespace)
        except Exception as error:
            why = without_d2l if isinstance(error, ImportError) and "d2l" in ast.unparse(node) else ""
            for name in definitions.bound(node):
                namespace[name] = _Missing(f"{why or _said(error, file)}, at line {node.lineno}")
    return namespace


def _said(error, file):
    """What an error says, and on which line of the section it was raised."""
    if isinstance(error, SystemExit):
        return "it calls exit"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    name, words = type(error).__name__, " ".join(str(error).split())
    text = f"{name}: {words}" if words else name
    text = "".join(x if x.isprintable() else "?" for x in text[:300])
    return text + (f" (line {lines[-1]})" if lines else "")


def _shapes(states):
    """The shapes of nested states, as far as they have any."""
    if isinstance(states, (tuple, list)):
        return [_shapes(x) for x in states]
    return list(getattr(states, "shape", [type(states).__name__]))


if __name__ == "__main__":
    main(sys.argv[1])
