"""Train the chapter's run in two processes on each framework's own engine; it has to make the curve of one process.

    python chapter_optimization/distributed.py
    python chapter_optimization/distributed.py --tab pytorch --tab mxnet --rule yogi

Exits with 1 if a curve is farther from the float64 reference than a single process may be, or if an engine fails.
Everything runs on this machine's processor and its loopback interface.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy
import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

import d2l_adam
from d2l_adam import protocol, spec

FOLDER = Path(__file__).parent
PROCESSES = 2
#: The engines of each tab, as its worker calls them.
ENGINES = {"mxnet": ("server", "worker"), "pytorch": ("ddp", "zero", "fsdp"), "tensorflow": ("mirrored",)}

#: The signals that have asked this command to end. It does when no process is being started: none is left then.
stopped: list[int] = []

out, err = Console(), Console(stderr=True)


def commands(tab, engine, rule, curve, ports):
    """Return the command of each process of an engine, and what its environment has besides, by name."""
    worker = [str(FOLDER / f"distributed_{protocol.MODULE[tab]}.py"), "--engine", engine, "--rule", rule, str(curve)]
    if tab == "pytorch":
        torchrun = ["-P", "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
        # -P, as a torch.py in the current folder would be taken for PyTorch.
        return {"torchrun": ([sys.executable, *torchrun, "--nproc-per-node", str(PROCESSES), *worker], {})}
    if tab == "tensorflow":
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        tasks = [{"cluster": cluster, "task": {"type": "worker", "index": i}} for i in range(PROCESSES)]
        more = {f"worker {i}": {"TF_CONFIG": json.dumps(task)} for i, task in enumerate(tasks)}
    else:
        store = {"DMLC_PS_ROOT_URI": "127.0.0.1", "DMLC_PS_ROOT_PORT": str(ports[0]), "DMLC_INTERFACE": loopback()}
        store |= {"DMLC_NUM_SERVER": "1", "DMLC_NUM_WORKER": str(PROCESSES)}
        names = ["scheduler", "server", *(f"worker {i}" for i in range(PROCESSES))]
        more = {name: store | {"DMLC_ROLE": name.split()[0]} for name in names}
    return {name: ([sys.executable, *worker], environment) for name, environment in more.items()}


def loopback():
    """Return what this system calls the interface of 127.0.0.1: lo on Linux, lo0 on macOS, a sentence on Windows."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == "127.0.0.1" for each in addresses):
            return name
    raise OSError("no network interface has the address 127.0.0.1; switch the loopback interface on")


@contextlib.contextmanager
def free_ports(number):
    """Give that many free ports of the loopback interface, and on Linux keep other programs off them meanwhile."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            if sys.platform == "linux":
                # The frameworks share addresses; another program does not get one that is bound, but not listening.
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
        if sys.platform != "linux":  # elsewhere the frameworks might not get them, or what is sent to them
            stack.close()
        yield ports


def execute(processes, folder, limit):
    """Run processes side by side; RuntimeError with their last words if one fails or is late. None is left over."""
    common = {"CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": loopback(), "OMP_NUM_THREADS": "1"}
    common |= {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}  # last words in their order, and of the killed too
    environment = os.environ | common
    running: dict[str, psutil.Popen] = {}
    deadline = time.monotonic() + limit
    try:
        for name, (command, more) in processes.items():
            with open(folder / name, "wb") as output:
                streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
                running[name] = psutil.Popen(command, env=environment | more, **streams)
        late = True
        while late and time.monotonic() < deadline and not (stopped or any(p.poll() for p in running.values())):
            _, late = psutil.wait_procs(running.values(), timeout=0.1)
        codes = {name: process.poll() for name, process in running.items()}
    finally:
        for process in running.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                for each in [*process.children(recursive=True), process]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        each.kill()
        psutil.wait_procs(running.values())
    if stopped:
        sys.exit(128 + stopped[0])
    failed = [f"{name} ended with {code}" for name, code in codes.items() if code]
    if failed or late:
        words = [f"{name}: {line}" for name in processes for line in _lines(folder / name)[-15:]]
        raise RuntimeError("\n".join([*(failed or ["not done in time, and killed"]), *words]))


def _lines(file):
    return file.read_text(encoding="utf-8", errors="replace").splitlines()


@click.command()
@click.option("--tab", "tabs", multiple=True, type=click.Choice(list(ENGINES)), help="Repeatable; default: all here.")
@click.option("--rule", "rules", multiple=True, type=click.Choice(list(spec.SECTION)), help="Repeatable; default: all.")
@click.option("--limit", default=120.0, show_default=True, help="Seconds that an engine may take.")
def main(tabs, rules, limit):
    """Train in two processes with each framework, and compare with the reference."""
    tabs = tabs or [tab for tab in ENGINES if tab in protocol.installed()]
    if absent := [tab for tab in tabs or ENGINES if tab not in protocol.installed()]:
        raise click.ClickException(f"{', '.join(absent)}: not installed; `python -m d2l_adam info` says how to")
    tolerance = protocol.TOLERANCE["float32"]
    table = Table("tab", "engine", "rule", title=f"{PROCESSES} processes; allowed distance {tolerance:.0e}")
    for heading in ("largest distance", "s"):
        table.add_column(heading, justify="right")
    jobs = [(tab, engine, rule) for tab in tabs for engine in ENGINES[tab] for rule in rules or spec.SECTION]
    failures = []
    for tab, engine, rule in track(jobs, "training", console=err):
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, free_ports(PROCESSES) as ports:
            curve = Path(folder) / "curve.json"
            try:
                execute(commands(tab, engine, rule, curve, ports), Path(folder), limit)
                losses = json.loads(curve.read_text(encoding="utf-8"))
                reference = d2l_adam.train("numpy", rule, dtype="float64").losses
                distance = abs(numpy.subtract(losses, reference)).max()
                holds, shown = distance <= tolerance, f"{distance:.1e}"
                if not holds:
                    failures.append(f"{tab} {engine} {rule}: another curve than one process makes")
            except (RuntimeError, ValueError, OSError) as error:
                holds, shown = False, "failed"
                failures.append(f"{tab} {engine} {rule}: {error}")
        table.add_row(tab, engine, rule, shown if holds else f"[red]{shown}", f"{time.perf_counter() - began:.1f}")
    out.print(table)
    for failure in failures:
        err.print(failure, markup=False, soft_wrap=True)
    sys.exit(bool(failures))


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stopped.append(number))
    main()
