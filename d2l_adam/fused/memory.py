"""The memory of arrays that a kernel may step, and what has to be known of it."""

from typing import Any, NamedTuple

import numpy

from d2l_adam.rule import Rule


class Memory(NamedTuple):
    """Memory of parameters of one dtype, all of whose arrays are as the kernel takes them.

    Each row has the addresses of a parameter, its state arrays and its gradient, and the number of elements. `arrays`
    are what has that memory: they live as long, and go to `Tab.stepped`. `device` is the GPU that it is on, if any.
    """

    dtype: str
    rows: list[tuple[int, ...]]
    arrays: Any
    device: Any = None


class Refusal(NamedTuple):
    """Why memory is not lent."""

    reason: str


#: What is said where no more is known.
OTHERWISE = Refusal("it takes contiguous float32 or float64 arrays on the processor, each in its own memory")


def record(rule: Rule) -> numpy.dtype:
    """A row as the kernel reads it."""
    names = ("p", *rule.state, "g")
    return numpy.dtype([*((f"{name}_at", numpy.int64) for name in names), ("size", numpy.int64)])


class Table:
    """The rows of a step: as long as they stay as they are, what is to be known of them is found out once."""

    def __init__(self, rows: list[tuple[int, ...]], record: numpy.dtype):
        self.rows, self.array = rows, numpy.array(rows, record)
        *written_at, g, size = zip(*rows, strict=True) if rows else [()] * len(record.names or ())
        written = set().union(*written_at)
        #: The number of all elements.
        self.total = sum(size)
        #: Whether some array would be written twice, or written and read as a gradient, perhaps as a view.
        self.twins = len(written) < len(rows) * len(written_at) or not written.isdisjoint(g)
        #: Whether no two gradients share memory.
        self.apart = len({*g}) == len(g)
