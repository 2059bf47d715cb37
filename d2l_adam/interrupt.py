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


try:
    # Without the conversions that `signal` wraps around them, which take 9 us: a fifth of an eager step of NumPy's.
    from _signal import getsignal as _get_handler  # type: ignore[import-not-found]
    from _signal import signal as _set_handler
except ImportError:
    _get_handler, _set_handler = signal.getsignal, signal.signal


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Keep an interrupt back for as long as this lasts: around work of which no part may be done again.

    So is what puts a mode on and off again, as of autograd's: its end may be cut off like all else, and it would stay.
    Only the main thread is ever interrupted.
    """
    handler = _get_handler(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    caught: list[tuple] = []
    _set_handler(signal.SIGINT, lambda *args: caught.append(args))
    try:
        yield
    finally:
        _set_handler(signal.SIGINT, handler)
        if caught:
            handler(*caught[-1])
