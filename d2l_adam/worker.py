"""The process in which the code of a tab runs (`python -m d2l_adam.worker JOB TELL`); `d2l_adam.sandbox` starts it.

Before any code of a section runs, the process gives up what that code has no business with: to write outside of its
scratch folder, to open connections, to start processes, to take memory without end. The kernel enforces it where it
can (Landlock, Linux 5.13 and later); Python says what was refused.
"""

import ast
import contextlib
import ctypes
import io
import json
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy

from d2l_adam import drive, optimizers, protocol


def confine(scratch: str) -> None:
    """Let this process write below one folder only, and open no connection. What it starts is bound by that, too."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL: not to outlive who has started it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 26, 1 << 26))
    # Landlock: see landlock(7). Each version knows more kinds of access.
    version = libc.syscall(444, None, 0, 1)
    if version < 1:
        return
    write, create, move, truncate = 1 << 1, sum(1 << i for i in range(4, 13)), 1 << 13, 1 << 14
    files = write | create | (move if version > 1 else 0) | (truncate if version > 2 else 0)
    rules = (ctypes.c_uint64 * 2)(files, 0b11)  # to bind and to connect, by TCP
    ruleset = libc.syscall(444, rules, 16 if version > 3 else 8, 0)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    for folder, allowed in ((scratch, files), ("/dev/null", write), ("/dev/shm", files)):
        with contextlib.suppress(OSError):
            opened = os.open(folder, os.O_PATH)
            beneath = allowed.to_bytes(8, sys.byteorder) + opened.to_bytes(4, sys.byteorder)
            libc.syscall(445, ruleset, 1, beneath, 0)
            os.close(opened)
    libc.syscall(446, ruleset, 0)


_REFUSED: tuple[str, ...] = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "pty.spawn",
)
_REFUSED += ("ctypes.dlopen", "os.kill", "signal.pthread_kill")
_PATHS: dict[str, int] = {
    "os.remove": 1,
    "os.rename": 2,
    "os.mkdir": 1,
    "os.rmdir": 1,
    "os.link": 2,
    "os.symlink": 2,
    "os.truncate": 1,
}
_PATHS |= {"os.chmod": 1, "os.chown": 1, "os.utime": 1, "shutil.rmtree": 1, "shutil.move": 2}


def refuse(scratch: str) -> None:
    """Say clearly, from now on, what is refused; it cannot be taken back."""

    def hook(event, args):
        if event.startswith(_REFUSED):
            raise PermissionError(f"{event} is not allowed while a section is checked")
        paths = args[: _PATHS.get(event, 0)]
        if event == "open" and (set(str(args[1] or "")) & set("wax+") or (args[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
            paths = args[:1]
        for path in paths:
            if isinstance(path, (str, bytes, os.PathLike)):
                path = os.path.realpath(os.fsdecode(path))
                if not path.startswith(scratch + os.sep) and path not in (scratch, os.devnull):
                    raise PermissionError(f"{event} of {path} is not allowed while a section is checked")

    sys.addaudithook(hook)


class Missing:
    """Stands for what could not be imported or defined; every use says why."""

    def __init__(self, why):
        self.__dict__["_why"] = why

    def __getattr__(self, name):
        raise ImportError(self._why)

    def __call__(self, *args, **kwargs):
        """Say why."""
        raise ImportError(self._why)


def defined(cells: list[optimizers.Cell], names: list[str], file: str, without_d2l: str = "") -> dict[str, Any]:
    """Run the definitions of a tab that some names need; what fails is missed only by what uses it."""
    namespace: dict[str, Any] = {"__name__": Path(file).stem, "__builtins__": __builtins__}
    for node in optimizers.needed([optimizers.parse(cell) for cell in cells], names):
        try:
            exec(compile(ast.Module([node], []), file, "exec"), namespace)
        except Exception as error:
            why = without_d2l if isinstance(error, ImportError) and "d2l" in ast.unparse(node) else ""
            for name in optimizers.bound(node):
                namespace[name] = Missing(f"{why or said(error, file)}, at line {node.lineno}")
    return namespace


def said(error: BaseException, file: str) -> str:
    """What an error says, and on which line of the section it was raised."""
    if isinstance(error, SystemExit):
        return "it calls exit"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    what = " ".join(str(error).split())
    what = f"{type(error).__name__}: {what}" if what else type(error).__name__
    return what[:300] + (f" (line {lines[-1]})" if lines else "")


def shapes(states: Any) -> Any:
    """The shapes of nested states."""
    return [shapes(x) for x in states] if isinstance(states, (tuple, list)) else list(states.shape)


def work(module: Any, job: dict[str, Any], namespace: dict[str, Any], result: Path) -> dict[str, Any]:
    """Drive one optimizer of a section; its paths go into the file `result`."""
    trainer, init = namespace[job["name"]], namespace[job["init"]] if job["init"] else None
    its_shapes = shapes(init(drive.FEATURES)) if init else None
    found = drive.drive(module, trainer, init, job["runs"], job["passed"])
    numpy.savez(result, *found.paths)
    return {"notes": found.notes, "shapes": its_shapes}


def main(file: str, tell: int) -> None:
    """Work through the jobs in a file; tell the end of each on the descriptor `tell`, as a line of JSON."""
    with open(file) as text:
        given = json.load(text)
    scratch, pipe = os.path.realpath(os.path.dirname(file)), os.fdopen(tell, "w", buffering=1)

    def report(**message):
        pipe.write(json.dumps(message) + "\n")

    confine(scratch)
    try:
        module = protocol.load(given["tab"])
    except ImportError as error:
        report(unusable=str(error))
        return
    without_d2l = ""
    try:
        _ = module.d2l
    except (ImportError, AttributeError) as error:
        without_d2l = str(error)
    os.chdir(scratch)
    refuse(scratch)
    taken = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if os.path.exists("/proc") else 0
    )
    if taken:
        resource.setrlimit(resource.RLIMIT_AS, (taken + given["memory"],) * 2)
    report(ready=True)
    for number, job in given["jobs"]:
        cells = [optimizers.Cell(source, tuple(lines)) for source, lines in given["cells"][job["file"]]]
        try:
            names = [job["name"], *filter(None, [job["init"]])]
            namespace = defined(cells, names, job["file"], without_d2l)
            answer = work(module, job, namespace, Path(scratch, f"{number}.npz"))
        except BaseException as error:
            answer = {"error": said(error, job["file"])}
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        if printed := os.fstat(1).st_size:
            answer.setdefault("notes", []).append(f"prints ({printed} bytes)")
        os.ftruncate(1, 0)  # not to leave the next one without room
        os.lseek(1, 0, os.SEEK_SET)
        report(number=number, **answer)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
    sys.stdout = io.StringIO()  # what is left unwritten is of no interest
    os._exit(0)
