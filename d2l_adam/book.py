"""The book's own package `d2l`, and MXNet, on today's NumPy and without torchvision.

Both were pinned years ago. What they miss is lent to them while they are being imported and taken
away after: no installed file is touched, and NumPy and `sys.modules` are left as they were.
"""

import contextlib
import importlib
import math
import sys
import types
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy

from d2l_adam import data

_VALUES = {"bool": bool, "NaN": math.nan, "NAN": math.nan, "Inf": math.inf, "PINF": math.inf, "NINF": -math.inf}
_VALUES |= {"PZERO": 0.0, "NZERO": -0.0}


@contextlib.contextmanager
def numpy_for_mxnet() -> Iterator[None]:
    """While MXNet is imported, answer it (and nobody else) for the names that NumPy has since dropped."""
    names: Any = numpy
    own = names.__getattr__

    def lend(name):
        try:
            return own(name)
        except AttributeError as error:
            asks = sys._getframe(1).f_globals.get("__name__", "")
            if not asks.startswith("mxnet.") or name.startswith("__"):
                raise
            message = str(error)

            def dropped(*args, **kwargs):
                raise AttributeError(message)

            return _VALUES.get(name, dropped)

    if "mxnet" not in sys.modules:
        _forget("mxnet")  # what an earlier attempt without this help left half imported
    names.__getattr__ = lend
    try:
        yield
    finally:
        names.__getattr__ = own


def load(tab):
    """Import the d2l module of a tab, such as `d2l.torch`, its airfoil data taken from a checked file."""
    name = tab.__name__.rpartition(".")[2]
    try:
        with _torchvision() if name == "torch" else contextlib.nullcontext():
            d2l: Any = importlib.import_module(f"d2l.{name}")
    except ImportError as error:
        if error.name == f"d2l.{name}" and find_spec("d2l"):
            raise AttributeError(f"{tab.NAME}: d2l has no {name} tab") from None
        raise ImportError(
            f"{tab.NAME}: d2l cannot be imported ({error}). pip install --no-deps d2l==1.0.3 "
            "&& pip install ipython matplotlib matplotlib-inline pandas requests scipy",
            name="d2l",
        ) from error
    if not hasattr(d2l, "_download"):
        d2l._download = d2l.download

        def download(url, *args, **kwargs):
            """d2l's own, but for the airfoil table: that is read here, never fetched over plain http."""
            return str(data.path()) if url == "airfoil" else d2l._download(url, *args, **kwargs)

        d2l.download = download
    return d2l


@contextlib.contextmanager
def _torchvision():
    """Lend d2l.torch a stand-in for torchvision, which the chapter never uses, if there is no working one."""
    try:
        importlib.import_module("torchvision.transforms")
        yield
        return
    except Exception as error:  # a torchvision built for another torch fails in many ways
        reason = error
    _forget("torchvision")
    stand_in = _Absent("torchvision", reason)
    sys.modules |= {"torchvision": stand_in, "torchvision.transforms": stand_in.transforms}
    try:
        yield
    finally:
        _forget("torchvision")


class _Absent(types.ModuleType):
    def __init__(self, name, reason):
        super().__init__(name)
        self.__dict__["_reason"] = reason
        if name == "torchvision":
            self.transforms = _Absent("torchvision.transforms", reason)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(
            f"{self.__name__}.{name}: there is no working torchvision here ({self._reason}); "
            "pip install the torchvision that belongs to your torch",
            name="torchvision",
        )


def _forget(package):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]
