"""The memory of MXNet's arrays, asked of its C interface.

What a step asks of each array, its shape, dtype and device, takes 3.3 us by MXNet's Python, and 1.4 us so; 0.1 us where
it is known from before. A step of the chapter's two parameters asks it of eight arrays, and takes 24 us in all.
"""

import math
from ctypes import POINTER, byref, c_int, c_void_p
from itertools import cycle

import numpy

from d2l_adam import contract
from d2l_adam.fused.memory import OTHERWISE, Memory, columns
from d2l_adam.mxnet.framework import mxnet

_CPU = {mxnet.Context.devstr2type[name] for name in ("cpu", "cpu_pinned", "cpu_shared")}
_FULL = {mxnet.ndarray.ndarray._DTYPE_NP_TO_MX[numpy.dtype(name).type]: name for name in contract.FULL}
_ARRAYS = {mxnet.np.ndarray, mxnet.nd.NDArray}  # the latter in optimizers
_LIB = mxnet.base._LIB  # its functions return 0 if they succeed


def lend(params, grads, states):
    """The memory of these arrays, once nothing else reads or writes it."""
    arrays, addresses = columns(params, grads, states), []
    if not _ARRAYS.issuperset(map(type, arrays)):
        return OTHERWISE
    # What is still to be done may read and write the arrays. (To wait for the readers of one of them costs far more.)
    mxnet.nd.waitall()
    kind, place = _kinds(), c_void_p()
    get, to = _LIB.MXNDArrayGetData, byref(place)
    kinds = [kind(p) for p in params]
    _, dtype, device, _ = kinds[0]
    if dtype not in _FULL or device not in _CPU or any(x[1:] != kinds[0][1:] for x in kinds):
        return OTHERWISE
    sizes = [math.prod(shape) for shape, *_ in kinds]
    for x, like, size in zip(arrays, cycle(kinds), cycle(sizes), strict=False):
        if kind(x) != like or get(x.handle, to) or (size and not place.value):
            return OTHERWISE
        addresses.append(place.value or 0)
    return Memory(_FULL[dtype], addresses, sizes, (params, grads, states))


def _kinds():
    """Return a function that gives shape, dtype, kind and number of the device of an array, in MXNet's numbers."""
    ndim, dims, dtype, device, number = c_int(), POINTER(c_int)(), c_int(), c_int(), c_int()
    shape_to, dtype_to, device_to = (byref(ndim), byref(dims)), byref(dtype), (byref(device), byref(number))

    def kind(x):
        handle = x.handle
        kept = getattr(x, "__dict__", None)
        of, known = kept.get("_d2l_adam", (None, None)) if kept else (None, None)
        if of is not handle:
            if (
                _LIB.MXNDArrayGetShapeEx(handle, *shape_to)
                or _LIB.MXNDArrayGetDType(handle, dtype_to)
                or _LIB.MXNDArrayGetContext(handle, *device_to)
            ):
                return None, None, None, None
            known = tuple(dims[: ndim.value]), dtype.value, device.value, number.value
            if kept is not None:  # for a handle they never change
                kept["_d2l_adam"] = handle, known
        return known

    return kind
