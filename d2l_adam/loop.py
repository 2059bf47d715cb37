"""A rule as one pass over memory: compiled by Numba from the spec's own function, for every framework on the processor.

Only `d2l_adam.fused` imports this module, when the first step is to be fused: it imports Numba.

The compiled code is kept on disk, where Numba keeps it: in `__pycache__` beside this file, in the folder that
`NUMBA_CACHE_DIR` names, or in the user's cache folder if neither can be written. It may be deleted at any time.
"""

import functools
import hashlib
import operator
from types import FunctionType
from typing import Any

import numba
import numpy
from llvmlite import binding as llvm
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from d2l_adam.spec import conditioned

types: Any = numba.types


class Element(types.Type):
    """An element of an array, as a rule sees it: a number that it meets is rounded to its dtype.

    So do the frameworks with a Python float that meets an array. Numba by itself has it the other way round, and
    would compute a float32 rule in double precision, of which the constants are.
    """

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(f"Element({dtype})")


@register_model(Element)
class _Model(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, dmm.lookup(fe_type.dtype).get_value_type())


def _plain(kind):
    return kind.dtype if isinstance(kind, Element) else kind


def _define(operation):
    @infer_global(operation)
    class _Typing(AbstractTemplate):
        def generic(self, args, kws):
            elements = [x for x in args if isinstance(x, Element)]
            if elements and all(isinstance(_plain(x), types.Number) for x in args):
                return signature(elements[0], *args)
            return None

    def lower(context, builder, sig, args):
        dtype = _plain(sig.return_type)
        args = [context.cast(builder, x, _plain(its), dtype) for x, its in zip(args, sig.args, strict=True)]
        return context.get_function(operation, signature(dtype, *[dtype] * len(args)))(builder, args)

    for of in ((Element, Element), (Element, types.Number), (types.Number, Element), (Element,)):
        lower_builtin(operation, *of)(lower)


for _operation in (operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.neg):
    _define(_operation)


@intrinsic
def _element(context, x):
    return Element(x)(x), lambda context, builder, sig, args: args[0]


@intrinsic
def _number(context, x):
    """An element as Numba's own number; a number as it is."""
    return _plain(x)(x), lambda context, builder, sig, args: args[0]


@intrinsic
def _pointer(context, address, like):
    pointer = types.CPointer(like.dtype)

    def generate(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(pointer))

    return pointer(address, like), generate


_jit = functools.partial(numba.njit, error_model="numpy")  # 0/0 is NaN, and no loop can raise


@_jit
def _sqrt(x):
    return _element(numpy.sqrt(_number(x)))


@_jit
def _square(x):
    return x * x


@_jit
def _sign(x):
    return _element(numpy.sign(_number(x)))


_conditioned: Any = _jit(conditioned)
_rule: Any = None  # what `compiled` puts in its place

#: So many elements are copied, stepped and zeroed while they are in the processor's cache.
_BLOCK = 4096


def _kernel(like, places, constants, scale, l2, decay, zero_grad, first, last):
    """Make the step of the elements from `first` to `last`, counted through all parameters.

    `places` are those of a `fused.Memory`; `like` is an array of its dtype.
    """
    begin = 0
    for k in range(0, len(places), 8):
        end = begin + places[k + 7]
        for at in range(max(first, begin), min(last, end), _BLOCK):
            size, offset = min(_BLOCK, last - at, end - at), (at - begin) * like.itemsize
            for x in range(k, k + 3):
                if places[x] != places[x + 3]:
                    old = numba.carray(_pointer(places[x] + offset, like), size)
                    new = numba.carray(_pointer(places[x + 3] + offset, like), size)
                    for i in range(size):
                        new[i] = old[i]
            p = numba.carray(_pointer(places[k + 3] + offset, like), size)
            v = numba.carray(_pointer(places[k + 4] + offset, like), size)
            s = numba.carray(_pointer(places[k + 5] + offset, like), size)
            g = numba.carray(_pointer(places[k + 6] + offset, like), size)
            for i in range(size):
                p_, g_ = _conditioned(_element(p[i]), _element(g[i]), scale, l2, decay)
                new = _rule(p_, g_, _element(v[i]), _element(s[i]), *constants)
                p[i], v[i], s[i] = _number(new[0]), _number(new[1]), _number(new[2])
            if zero_grad:
                for i in range(size):
                    g[i] = 0
        begin = end


@functools.cache
def compiled(rule: FunctionType, num_constants: int, dtype: str, *options: bool):
    """Return the kernel of a rule for arrays of a dtype: a function of what `_kernel` takes, that releases the GIL.

    `options` says which of scale, l2 and decay are given. Raises numba's errors where it cannot compile the rule.
    """
    words = {"sqrt": _sqrt, "square": _square, "sign": _sign}
    own = FunctionType(rule.__code__, words)
    kernel: Any = FunctionType(_kernel.__code__, globals() | {"_rule": _jit(own)})
    # Numba finds what it has compiled by this name. A file is of one signature on one kind of processor, so that
    # processes which start at once write the same into it.
    code = rule.__code__
    machine = numba.__version__, llvm.get_host_cpu_name(), sorted(llvm.get_host_cpu_features().items())
    what = num_constants, options, *((x.co_code, x.co_consts, x.co_names) for x in (code, conditioned.__code__))
    digest = hashlib.sha256(repr((what, machine)).encode())
    kernel.__qualname__ = f"{rule.__name__.strip('<>')}_{dtype}_{digest.hexdigest()[:12]}"
    kind = types.Array(getattr(types, dtype), 1, "C")
    given = [types.float64 if option else types.none for option in options]
    places = types.Array(types.int64, 1, "C")
    constants = types.UniTuple(types.float64, num_constants)
    sig = (kind, places, constants, *given, types.boolean, types.int64, types.int64)
    try:
        return _built(kernel, sig, cache=True)
    except Exception:  # a cache that cannot be written or read in some way only costs time; a bad rule fails again
        return _built(kernel, sig, cache=False)


def _built(kernel, sig, cache):
    dispatcher = _jit(kernel, nogil=True, cache=cache)
    dispatcher.compile(sig)
    return dispatcher
