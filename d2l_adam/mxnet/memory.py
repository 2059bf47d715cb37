"""The memory of MXNet's arrays, asked of its C interface.

What a step asks of each array, its shape, dtype and device, takes 3.3 us by MXNet's Python, and 1.4 us so; 0.1 us where
it is known from before. A step of the chapter's two parameters asks it of eight arrays, and takes 24 us in all.
"""

import math
from ctypes import POINTER, byref, c_int, c_void_p

import numpy

from d2l_adam import contract
from d2l_adam.fused.memory import OTHERWISE, Memory
from d2l_adam.mxnet.framework import mxnet

_CPU = {mxnet.Context.devstr2type[name] for name in ("cpu", "cpu_pinned", "cpu_shared")}
_FULL = {mxnet.ndarray.ndarray._DTYPE_NP_TO_MX[numpy.dtype(name).type]: name for name in contract.FULL}
_ARRAYS = {mxnet.np.ndarray, mxnet.nd.NDArray}  # the latter in optimizers
_LIB = mxnet.base._LIB  # its functions return 0 if they succeed


def lend(params, grads, states):
    """The memory of these arrays, once nothing else reads or writes it."""
    if not _ARRAYS.issuperset(map(type, (*params, *grads))):
        return OTHERWISE
    # What is still to be done may read and write the arrays. (To wait for the readers of one of them costs far more.)
    mxnet.nd.waitall()
    rows = []
    kind, place = _kinds(), c_void_p()
    get, to = _LIB.MXNDArrayGetData, byref(place)
    _, dtype, device, _ = first = kind(params[0])
    if dtype not in _FULL or device not in _CPU:
        return OTHERWISE
    for p, g, state in zip(params, grads, states, strict=True):
        shape, *like = kind_of_p = kind(p)
        if (*like,) != first[1:] or kind(g, keep=False) != kind_of_p:
            return OTHERWISE
        for x in state:
            if type(x) not in _ARRAYS or kind(x) != kind_of_p:
                return OTHERWISE
        if 0 in shape:
            continue
        row = []
        for x in (p, *state, g):
            if get(x.handle, to) or not place.value:
                return OTHERWISE
            row.append(place.value)
        rows.append((*row, math.prod(shape)))
    return Memory(_FULL[dtype], rows, (params, grads, states))


def _kinds():
    """Return a function that gives shape, dtype, kind and number of the device of an array, in MXNet's numbers."""
    ndim, dims, dtype, device, number = c_int(), POINTER(c_int)(), c_int(), c_int(), c_int()
    shape_to, dtype_to, device_to = (byref(ndim), byref(dims)), byref(dtype), (byref(device), byref(number))

    def kind(x, keep=True):
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
            if keep and kept is not None:  # for a handle they never change; a gradient has another each time
                kept["_d2l_adam"] = handle, known
        return known

    return kind
