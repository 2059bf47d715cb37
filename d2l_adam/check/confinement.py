"""What a process gives up before it runs the code of a section: all that it has no business with.

That is to write outside of its scratch folder, to open connections, to start processes, to take memory without end.
Where the kernel can (Landlock: files from Linux 5.13, TCP from 6.7), it enforces that; Python refuses the rest, and
says what. This guards against accidents, not against malice.
"""

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

#: The beginnings of Python's audit events that are refused.
_STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.spawn", "subprocess.")
_NEVER = (*_STARTS, "os.kill", "socket.")
#: How many paths, for which one has to be in the scratch folder, an event names first.
_PATHS = {f"os.{name}": 1 for name in ("remove", "mkdir", "rmdir", "truncate", "chmod", "chown", "utime")}
_PATHS |= {"os.rename": 2, "os.link": 2, "os.symlink": 2}


def landlock() -> int:
    """Return which version of Landlock this Linux has; 0 without it. See its manual page, of section 7."""
    return max(0, ctypes.CDLL(None, use_errno=True).syscall(444, None, 0, 1))


def confine(scratch: str, memory: int) -> None:
    """Let this process, and what it starts, write below one folder only, open no connection, take so much memory.

    It cannot be taken back. Linux only.
    """
    import resource  # which Windows has not

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: not to outlive who has started it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 26, 1 << 26))
    with contextlib.suppress(OSError):
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))
    _refuse(scratch)
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


def _refuse(scratch):
    """Say clearly, from now on, what is refused."""

    def hook(event, args):
        if event.startswith(_NEVER):
            raise PermissionError(f"{event} is not allowed while a section is checked")
        named = args[: _PATHS.get(event, 0)]
        if event == "open" and (set(str(args[1] or "")) & set("wax+") or (args[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
            named = args[:1]
        for path in named:
            if isinstance(path, (str, bytes, os.PathLike)):
                path = os.path.realpath(os.fsdecode(path))
                if not path.startswith(scratch + os.sep) and path not in (scratch, os.devnull):
                    raise PermissionError(f"{event} of {path} is not allowed while a section is checked")

    sys.addaudithook(hook)
