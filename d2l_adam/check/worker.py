"""The process that `d2l_adam.check.sandbox` starts for a file and a tab, and that the code of the file runs in."""

import ast
import contextlib
import faulthandler
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from d2l_adam import protocol
from d2l_adam.check import definitions, drive, notebooks


def main() -> None:
    """Read jobs, as JSON; print why the framework cannot be imported, or "", then each answer, a line of JSON."""
    given, dumps = json.loads(sys.stdin.buffer.read()), json.dumps
    answers = os.fdopen(os.dup(1), "wb")
    if given["confined"]:  # files for devices, whose modes root could change
        Path("/dev/null").touch()
        Path("/dev/urandom").write_bytes(os.urandom(1 << 16))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what frameworks print when they are imported is no answer

    def write(answer):
        answers.write(dumps(answer).encode() + b"\n")
        answers.flush()

    try:
        module, without_d2l = protocol.load(given["tab"]), ""
    except ImportError as error:
        write(str(error))
        return
    try:
        sys.modules.setdefault(f"d2l.{module.TAB.module}", module.d2l)  # that of JAX is ours
    except (ImportError, AttributeError) as error:  # then what needs it says so
        without_d2l = str(error)
    write("")
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), descriptor)
    # Should nobody be left to end this process, it ends.
    faulthandler.dump_traceback_later((given["timeout"] + 1) * (len(given["jobs"]) + 1), exit=True)
    with contextlib.suppress(ImportError):  # Windows has no limits
        _limit(given)
    statements = definitions.statements([definitions.parse(source, line) for line, source in given["cells"]])
    for job in given["jobs"]:
        for descriptor in (1, 2):
            os.ftruncate(descriptor, os.lseek(descriptor, 0, os.SEEK_SET))
        write(_answer(module, given["file"], job, statements, without_d2l))


def _limit(given):
    """Limit what this process may take: it cannot be taken back."""
    import resource

    limits = {"CORE": 0, "FSIZE": 1 << 24, "NOFILE": 128}  # all files together, in memory too, no more than 2 GiB
    limits["CPU"] = int(time.process_time() + 2 * given["timeout"] * len(given["jobs"])) + 1
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits["AS"] = pages * resource.getpagesize() + given["memory"]
    if given["confined"]:  # else all that the user runs counts
        limits["NPROC"] = 1024
    for name, limit in limits.items():
        with contextlib.suppress(ValueError, OSError):  # it is lower already
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))


def _answer(module, file, job, statements, without_d2l):
    """Drive one optimizer: the path and what is to be told, or the error that prevented it."""
    answer = dict[str, Any]()
    try:
        namespace = _defined(statements, {job["name"], job["init"]}, file, without_d2l) | {None: None}
        trainer, init = namespace[job["name"]], namespace[job["init"]]
        if job["step"]:
            trainer, init = drive.as_function(module, trainer, job["step"], job["passed"])
        answer["shapes"] = init and _shapes(init(drive.FEATURES))
        path, answer["notes"] = drive.drive(module, trainer, init, job["runs"], job["passed"])
        answer["path"] = path.tolist()
    except BaseException as error:
        answer = {"error": _said(error, file)}
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        if printed := os.fstat(1).st_size:
            answer.setdefault("notes", []).append(f"prints ({printed} bytes)")
    return answer


class _Missing:
    """Stands for what could not be imported or defined; every use says why."""

    def __init__(self, why):
        self._why = why

    def __call__(self, *args, **kwargs):
        raise ImportError(self._why)

    __getattr__ = __call__


def _defined(statements, names, file, without_d2l):
    """Run the definitions that some names need; what fails is missed only by what uses it."""
    namespace: dict[str, Any] = {"__name__": Path(file).stem, "__builtins__": __builtins__}
    for node, bound, _ in definitions.needed(statements, names):
        try:
            exec(compile(ast.Module([node], []), file, "exec"), namespace)
        except Exception as error:
            why = without_d2l if isinstance(error, ImportError) and "d2l" in ast.unparse(node) else ""
            for name in bound:
                namespace[name] = _Missing(f"{why or _said(error, file)}, at {notebooks.place(node.lineno)}")
    return namespace


def _said(error, file):
    """What an error says, and on which line of the section it was raised."""
    if isinstance(error, SystemExit):
        return "it calls exit"
    lines = [frame.lineno or 0 for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    name, words = type(error).__name__, " ".join(str(error).split())
    text = f"{name}: {words}" if words else name
    text = "".join(x if x.isprintable() else "?" for x in text[:300])
    return text + (f" ({notebooks.place(lines[-1])})" if lines else "")


def _shapes(states):
    """The shapes of nested states, as far as they have any."""
    if isinstance(states, (tuple, list)):
        return [_shapes(x) for x in states]
    return list(getattr(states, "shape", [type(states).__name__]))


if __name__ == "__main__":
    main()
