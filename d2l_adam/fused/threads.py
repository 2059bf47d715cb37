"""How a kernel runs over many elements: in chunks, by the calling thread and by some beside it."""

import concurrent.futures
import contextlib
import functools
import itertools
import os
import time
from typing import Any

import numpy

from d2l_adam.interrupt import deferred

# A thread's start costs as much as stepping this many elements; a thread that got the other core late has fewer to do.
_CHUNK = 1 << 18


class Pass:
    """One pass over `total` elements, for which `run` calls `kernel(*arguments, first, last, done, number)`.

    `arrays` is what a tab has lent the memory of, and is told of; `zeroed` whether the gradients are set to zero.

    The kernel marks the chunk of that number as done, and does none again. So `run` may be interrupted (as the calling
    thread is, and no other), and goes on where it was when it is called again.
    """

    def __init__(self, kernel: Any, arguments: tuple, total: int, tab: Any, arrays: Any, zeroed: bool):
        self.kernel, self.arguments, self.tab, self.arrays, self.zeroed = kernel, arguments, tab, arrays, zeroed
        self.threads = num_threads(tab) if total > _CHUNK else 1
        self.chunks = _chunks(total, self.threads)
        self.rest = iter(self.chunks)
        self.working: list[None] = []  # one for each other thread that may have taken a chunk

    def run(self) -> None:
        """Finish the pass. No other thread is at work when this returns."""
        if self.threads > 1:
            try:
                if not self.tab.in_own_threads(self._help, self.threads):
                    with deferred():  # the locks of a pool that is interrupted stay locked
                        for _ in range(self.threads - 1):
                            _pool().submit(self._help)
            except RuntimeError:  # there are no more threads, or the interpreter is about to end
                pass
            for chunk in self.rest:
                self.kernel(*self.arguments, *chunk)
            while self.working:
                time.sleep(2e-5)
        for chunk in self.chunks:  # those that this thread had taken when it was interrupted
            self.kernel(*self.arguments, *chunk)
        self.tab.stepped(self.arrays, self.zeroed)

    def _help(self):
        self.working.append(None)
        try:
            for chunk in self.rest:
                self.kernel(*self.arguments, *chunk)
        finally:
            self.working.pop()


def _chunks(total, threads):
    """What the kernel is given for each chunk: half of what each thread has left, as that is read fastest."""
    if threads == 1:
        return [(0, total, numpy.zeros(1, numpy.bool_), 0)]
    ends = [0]
    while ends[-1] < total:
        ends.append(min(ends[-1] + max(_CHUNK, (total - ends[-1]) // (2 * threads)), total))
    done = numpy.zeros(len(ends), numpy.bool_)
    return [(first, last, done, number) for number, (first, last) in enumerate(itertools.pairwise(ends))]


def num_threads(tab: Any = None) -> int:
    """How many threads a step uses: what the framework is set to, and no more than the environment allows."""
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        with contextlib.suppress(ValueError):
            limits.append(int(os.environ.get(variable, "").partition(",")[0]))
    if tab and (limit := tab.num_threads()):
        limits.append(limit)
    return max(1, min(limits))


@functools.cache
def _pool():
    return concurrent.futures.ThreadPoolExecutor(os.cpu_count(), "d2l_adam")


if hasattr(os, "register_at_fork"):  # threads do not live on in a child
    os.register_at_fork(after_in_child=_pool.cache_clear)
