"""What the workers have in common: their command line, their part of each batch, their curve."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy

from d2l_adam import protocol

#: Those of `d2l_adam.train`; each process has its share of the batch.
LR, BATCH_SIZE = 0.01, 10


def options(*engines: str) -> argparse.Namespace:
    """Return what the command line of a worker says: `rule`, `engine` and the file for the `curve`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rule", choices=("adam", "yogi"), default="adam")
    parser.add_argument("--engine", choices=engines, default=engines[0])
    parser.add_argument("curve", type=Path, help="where the first process writes the loss curve, as JSON")
    return parser.parse_args()


def steps(rank: int, processes: int) -> Iterator[tuple[numpy.ndarray, numpy.ndarray, bool]]:
    """Yield features and labels of this process's part of each batch, and whether the loss is recorded after it.

    Together, the processes have the batches of `d2l_adam.train`. Each has as many rows as the others, so the
    mean of their gradients is the gradient of the whole batch.
    """
    features, labels, _, _ = protocol.start()
    for rows, epoch in protocol.batches(batch_size=BATCH_SIZE):
        part = numpy.split(rows, processes)[rank]
        yield features[part], labels[part], epoch is not None


def write(file: Path, rank: int, curve: list[float]) -> None:
    """Write the loss curve, if this is the first process; the others have the same one."""
    if rank == 0:
        file.write_text(json.dumps(curve), encoding="utf-8")
