"""What runs the code of a section: in a process that `d2l_adam.sandbox` has made for it, once the framework is there.

On Linux, before any of that code runs, the process gives up what it has no business with: to write outside of its
scratch folder, to open connections, to start processes, to take memory without end. Where the kernel can (Landlock:
files from Linux 5.13, TCP from 6.7), it enforces that; Python refuses the rest, and says what. This guards against
accidents, not against malice.
"""

import ast
import contextlib
import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from d2l_adam import drive, optimizers


def landlock() -> int:
    """Return which version of Landlock this Linux has; 0 without it. See its manual page, of section 7."""
    return max(0, ctypes.CDLL(None, use_errno=True).syscall(444, None, 0, 1))


def confine(scratch: str, memory: int) -> None:
    """Let this process, and what it starts, write below one folder only, open no connection, take so much memory.

    Linux only.
    """
    import resource  # which Windows has not

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: not to outlive who has started it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 26, 1 << 26))
    with contextlib.suppress(OSError):
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))
    version = landlock()  # each knows more kinds of access
    if not version:
        return
    write, create, move, truncate = 1 << 1, sum(1 << i for i in range(4, 13)), 1 << 13, 1 << 14
    files = write | create | (move if version > 1 else 0) | (truncate if version > 2 else 0)
    rules = (ctypes.c_uint64 * 2)(files, 0b11)  # to bind and to connect, by TCP
    ruleset = libc.syscall(444, rules, 16 if version > 3 else 8, 0)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    for path, allowed in ((scratch, files), (os.devnull, write)):
        opened = os.open(path, os.O_PATH)
        beneath = allowed.to_bytes(8, sys.byteorder) + opened.to_bytes(4, sys.byteorder)
        libc.syscall(445, ruleset, 1, beneath, 0)
        os.close(opened)
    libc.syscall(446, ruleset, 0)


def refuse(scratch: str) -> None:
    """Say clearly, from now on, what is refused; it cannot be taken back."""
    never = (
        "socket.",
        "subprocess.",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.spawn",
        "os.fork",
        "pty.spawn",
        "os.kill",
    )
    one = dict.fromkeys(("remove", "mkdir", "rmdir", "truncate", "chmod", "chown", "utime"), 1)
    paths = {f"os.{name}": number for name, number in (one | {"rename": 2, "link": 2, "symlink": 2}).items()}

    def hook(event, args):
        if event.startswith(never):
            raise PermissionError(f"{event} is not allowed while a section is checked")
        named = args[: paths.get(event, 0)]
        if event == "open" and (set(str(args[1] or "")) & set("wax+") or (args[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
            named = args[:1]
        for path in named:
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
    what = "".join(x if x.isprintable() else "?" for x in what[:300])
    return what + (f" (line {lines[-1]})" if lines else "")


def shapes(states: Any) -> Any:
    """The shapes of nested states, as far as they have any."""
    if isinstance(states, (tuple, list)):
        return [shapes(x) for x in states]
    return list(getattr(states, "shape", [type(states).__name__]))


def work(module: Any, job: dict[str, Any], cells: list[optimizers.Cell], without_d2l: str) -> dict[str, Any]:
    """Drive one optimizer of a section; return the paths and what is to be told, or the error that prevented it."""
    try:
        names = [job["name"], *filter(None, [job["init"]])]
        namespace = defined(cells, names, job["file"], without_d2l)
        trainer, init = namespace[job["name"]], namespace[job["init"]] if job["init"] else None
        its_shapes = shapes(init(drive.FEATURES)) if init else None
        found = drive.drive(module, trainer, init, job["runs"], job["passed"])
        answer: dict[str, Any] = {
            "paths": [path.tolist() for path in found.paths],
            "notes": found.notes,
            "shapes": its_shapes,
        }
    except BaseException as error:
        answer = {"error": said(error, job["file"])}
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    if printed := os.fstat(1).st_size:
        answer.setdefault("notes", []).append(f"prints ({printed} bytes)")
    for descriptor in (1, 2):  # not to leave the next one without room
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
    return answer
