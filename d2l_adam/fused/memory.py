"""The memory of arrays that a kernel may step, and what has to be known of it."""

import itertools
from typing import Any, NamedTuple

import numpy

from d2l_adam.rule import Rule


class Memory(NamedTuple):
    """Memory of parameters of one dtype, all of whose arrays are as the kernel takes them.

    `addresses` are those of `columns`, `sizes` the numbers of elements of the parameters. `arrays` are what has that
    memory: they live as long, and go to `Tab.stepped`. `device` is the GPU that it is on, if any.
    """

    dtype: str
    addresses: list[int]
    sizes: list[int]
    arrays: Any
    device: Any = None


class Refusal(NamedTuple):
    """Why memory is not lent."""

    reason: str


#: What is said where no more is known.
OTHERWISE = Refusal("it takes contiguous float32 or float64 arrays on the processor, each in its own memory")


def columns(params, grads, states) -> list:
    """All arrays of a step: the parameters, then each of their state arrays for all of them, then the gradients."""
    arrays = [*params]
    for column in zip(*states, strict=True):
        arrays += column
    arrays += grads
    return arrays


def record(rule: Rule) -> numpy.dtype:
    """What a kernel reads of one parameter."""
    names = ("p", *rule.state, "g")
    return numpy.dtype([*((f"{name}_at", numpy.int64) for name in names), ("size", numpy.int64)])


class Table:
    """What a kernel reads of memory, in `array`: as long as that stays as it is, it is made once.

    Of memory in which only the gradients are others than `before`, as after each backward pass, they alone are looked
    at anew.
    """

    def __init__(self, memory: Memory, record: numpy.dtype, before: "Table | None" = None):
        self.array: numpy.ndarray
        self.written: set[int]
        self.doubled: bool
        self.addresses, self.sizes = memory.addresses, memory.sizes
        number = len(self.sizes)
        self.g_at, written_at = self.addresses[-number:], self.addresses[:-number]
        if before and self.sizes == before.sizes and written_at == before.addresses[:-number]:
            self.array, self.written, self.doubled = before.array.copy(), before.written, before.doubled
            self.array["g_at"] = self.g_at
        else:
            rows = numpy.array(self.addresses + self.sizes, numpy.int64).reshape(-1, number).T
            self.array = rows.copy().view(record).reshape(number)
            full = [at for at, size in zip(written_at, itertools.cycle(self.sizes), strict=False) if size]
            self.written = {*full}
            self.doubled = len(self.written) < len(full)
        #: Whether some array would be written twice, or written and read as a gradient, perhaps as a view.
        self.twins = self.doubled or not self.written.isdisjoint(self.g_at)
        #: Whether no two gradients share memory.
        self.apart = len({*self.g_at}) == number
