"""Ctrl-C within a step: it is let through once the step is finished, its time step included, or before it has begun."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


def finish(work: Callable[[], object]) -> None:
    """Call `work` until it has returned, and raise an interrupt that came meanwhile after that.

    It may be cut off anywhere and called anew: so it must be right to do any part of it again. Costs nothing.
    """
    interrupt, finished = None, False
    while not finished:
        try:
            try:
                work()
                finished = True
            except KeyboardInterrupt as error:
                interrupt = error
        except KeyboardInterrupt as error:  # another, while the first was dealt with
            interrupt = error
    if interrupt:
        raise interrupt


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Keep an interrupt back for as long as this lasts: around work of which no part may be done again.

    Costs some microseconds. Only the main thread is ever interrupted.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    caught: list[tuple] = []
    signal.signal(signal.SIGINT, lambda *args: caught.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if caught:
            handler(*caught[-1])
