"""How the frameworks and the book's own `d2l` are imported: by their present-day names, or with a cure.

MXNet and d2l were pinned to others' versions years ago. What they miss since is lent to them while
they are being imported and taken away after: no installed file is touched, and NumPy and
`sys.modules` are left as they were.
"""

import contextlib
import importlib
import math
import os
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy

from d2l_adam import data


@contextlib.contextmanager
def framework(name: str, pip: str, apt: str = "see its own notes on installation") -> Iterator[None]:
    """Around the import of a framework: say how to install it where it is missing, or what is broken."""
    try:
        yield
    except Exception as error:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"{name} is not installed; pip install {pip}", name=name) from None
        cure = apt if isinstance(error, OSError) else f"reinstall it: pip install {pip}"
        raise ImportError(f"{name} is installed but cannot be imported ({error}); {cure}", name=name) from error


def triton() -> None:
    """Settle who loads Triton, PyTorch's compiler for GPUs: called after PyTorch, and before TensorFlow, is imported.

    Loaded after TensorFlow, it ends the process by a segmentation fault; the other order works. So it is loaded now
    if PyTorch is there to use it, and TensorFlow is not. Else it counts as not installed: PyTorch goes on without it.
    """
    loaded = sys.modules.get("tensorflow")
    if "torch" in sys.modules and not loaded:
        with contextlib.suppress(Exception):  # PyTorch too goes on without it, if it cannot be imported
            importlib.import_module("triton")
    elif (loaded or find_spec("tensorflow")) and find_spec("triton"):
        modules: dict[str, Any] = sys.modules
        modules.setdefault("triton", None)  # which `import` takes for missing


def without_triton() -> str | None:
    """Why PyTorch has to do without Triton, which is installed, or None."""
    if "triton" in sys.modules and sys.modules["triton"] is None:
        return "TensorFlow was imported first, and Triton would crash after it; import torch before tensorflow"
    return None


_VALUES = {"bool": bool, "NaN": math.nan, "NAN": math.nan, "Inf": math.inf, "PINF": math.inf, "NINF": -math.inf}
_VALUES |= {"PZERO": 0.0, "NZERO": -0.0}


@contextlib.contextmanager
def numpy_for_mxnet() -> Iterator[None]:
    """While MXNet is imported, answer it (and nobody else) for the names that NumPy has since dropped.

    What an import without these names has left, half of MXNet, is taken away before, and its own use of what is
    deprecated today is no warning to anybody who imports it.
    """
    if "mxnet" not in sys.modules:
        _take("mxnet")
    names: Any = numpy
    own = names.__getattr__

    def lend(name):
        if not sys._getframe(1).f_globals.get("__name__", "").startswith("mxnet.") or name.startswith("__"):
            return own(name)
        if name in _VALUES:
            return _VALUES[name]
        try:
            return own(name)
        except AttributeError as error:
            message = str(error)

        def dropped(*args, **kwargs):
            raise AttributeError(message)

        return dropped

    names.__getattr__ = lend
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        names.__getattr__ = own


@contextlib.contextmanager
def hidden(variable: str) -> Iterator[str | None]:
    """Take a variable out of the environment for a while; what it was is given."""
    value = os.environ.pop(variable, None)
    try:
        yield value
    finally:
        if value is not None:
            os.environ[variable] = value


#: What there is of d2l 1.0.3, the last; asked of the list, as d2l itself may not be installed.
_D2L = ("d2l.mxnet", "d2l.torch", "d2l.tensorflow", "d2l.jax")


def d2l(tab: Any) -> ModuleType:
    """Import the d2l module of a tab, such as `d2l.torch`, its airfoil data taken from the checked file."""
    name = f"d2l.{tab.module}"
    if name not in _D2L:
        raise AttributeError(f"{tab.name}: there is no {name}; d2l 1.0.3 has {', '.join(_D2L)}")
    try:
        with _torchvision() if name == "d2l.torch" and name not in sys.modules else contextlib.nullcontext():
            d2l: Any = importlib.import_module(name)
    except Exception as error:
        raise ImportError(
            f"{tab.name}: {name} cannot be imported ({error}); pip install --no-deps d2l==1.0.3 "
            "&& pip install ipython matplotlib matplotlib-inline pandas requests scipy",
            name=name,
        ) from error
    if d2l.download.__module__ == name:
        its_own = d2l.download

        def download(url, *args, **kwargs):
            """d2l's own, but for the airfoil table: that is read here, never fetched over plain http."""
            return str(data.path()) if url == "airfoil" else its_own(url, *args, **kwargs)

        d2l.download = download
    return d2l


@contextlib.contextmanager
def _torchvision():
    """Lend d2l.torch a stand-in for torchvision, which the chapter never uses, if there is no working one."""
    before = {name: sys.modules[name] for name in sys.modules if name.split(".")[0] == "torchvision"}
    try:
        importlib.import_module("torchvision.transforms")
    except Exception as error:  # a torchvision built for another torch fails in many ways
        reason = str(error)
    else:
        yield
        return
    _take("torchvision")
    stand_in, transforms = (_absent(name, reason) for name in ("torchvision", "torchvision.transforms"))
    stand_in.transforms = transforms
    sys.modules |= {"torchvision": stand_in, "torchvision.transforms": transforms}
    try:
        yield
    finally:
        _take("torchvision")
        sys.modules |= before


def _absent(package, reason):
    """A module of which all that is asked for is refused."""

    def refuse(name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(
            f"{package}.{name}: there is no working torchvision here ({reason}); "
            "pip install the torchvision that belongs to your torch",
            name="torchvision",
        )

    module: Any = ModuleType(package)
    module.__getattr__ = refuse
    return module


def _take(package):
    """Take a package and all of its modules out of `sys.modules`."""
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]
