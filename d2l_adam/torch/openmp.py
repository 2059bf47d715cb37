"""A kernel in the threads of PyTorch's own OpenMP.

After an operation they look for more work some milliseconds long, and other threads would have to wait for them: with
threads of Python's, a step of 1,000,000 parameters takes 1.15 times as long, one of 10,000,000 1.2 times.
"""

import ctypes
import os

from d2l_adam.interrupt import deferred
from d2l_adam.torch.framework import torch


def _parallel():
    """OpenMP's entry to its threads, in the library that PyTorch has loaded; None where there is none such."""
    try:
        return ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError):
        return None


_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_entry = {"parallel": _parallel()}
if hasattr(os, "register_at_fork"):  # the threads do not live on in a child, but OpenMP would wait for them
    os.register_at_fork(after_in_child=_entry.clear)


def run(work, threads):
    """Call `work()` in so many threads, this one among them; return whether that is possible here."""
    parallel = _entry.get("parallel")
    if parallel:
        with deferred():  # an interrupt could not get out of a function that C has called
            parallel(_CALLBACK(lambda _: work()), None, ctypes.c_uint(threads), ctypes.c_uint(0))
    return bool(parallel)
