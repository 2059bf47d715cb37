"""A rule as one pass over memory: compiled by Numba from the spec's own function, for every framework on the processor.

This module imports Numba, and is imported when the first step is to be fused. The compiled code is kept on disk, where
Numba keeps it: in `__pycache__` beside this file, in the folder that `NUMBA_CACHE_DIR` names, or in the user's cache
folder if neither can be written. It may be deleted at any time.
"""

import functools
import hashlib
import operator
from typing import Any

import numba
import numpy
from llvmlite import binding as llvm
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from d2l_adam import rule as rules
from d2l_adam import spec
from d2l_adam.fused.memory import record

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
    """Let an operation of Numba's take elements, and numbers beside them."""

    @infer_global(operation)
    class _Typing(AbstractTemplate):
        def generic(self, args, kws):
            elements = [x for x in args if isinstance(x, Element)]
            if elements and all(isinstance(_plain(x), types.Number) for x in args):
                return signature(elements[0], *args)
            return None

    def lower(context, builder, sig, args):
        dtype = _plain(sig.return_type)
        args = [context.cast(builder, x, _plain(kind), dtype) for x, kind in zip(args, sig.args, strict=True)]
        return context.get_function(operation, signature(dtype, *[dtype] * len(args)))(builder, args)

    for kinds in ((Element, Element), (Element, types.Number), (types.Number, Element), (Element,)):
        lower_builtin(operation, *kinds)(lower)


_WORDS = {"abs": abs} | {word: getattr(numpy, word) for word in rules.WORDS if word != "abs"}
for _operation in (operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.neg):
    _define(_operation)
for _operation in _WORDS.values():
    _define(_operation)


@intrinsic
def _element(context, x):
    return Element(x)(x), lambda context, builder, sig, args: args[0]


@intrinsic
def _number(context, x):
    """The number in an element; a rule that makes something else of one, such as a constant, is not compiled."""
    if not isinstance(x, Element):
        raise numba.TypingError(f"it returns {x}, not an array")
    return x.dtype(x), lambda context, builder, sig, args: args[0]


@intrinsic
def _pointer(context, address, like):
    pointer = types.CPointer(like.dtype)

    def generate(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(pointer))

    return pointer(address, like), generate


_jit = functools.partial(numba.njit, error_model="numpy")  # 0/0 is NaN, and no loop can raise

#: So many elements are stepped, and their gradients set to zero while they are in the processor's cache.
_BLOCK = 4096

# The pass, for a rule with the state {s0}, {s1}, ... : of the elements from `first` to `last`, counted through all
# parameters. `rows` are a `Table`'s, `like` is an array of their dtype; `done` is that of a `Pass`.
_KERNEL = """
def kernel(like, rows, constants, scale, l2, clip, decay, zero_grad, first, last, done, number):
    if done[number]:
        return
    begin = 0
    for row in rows:
        end = begin + row.size
        for at in range(max(first, begin), min(last, end), _BLOCK):
            size, offset = min(_BLOCK, last - at, end - at), (at - begin) * like.itemsize
            p = numba.carray(_pointer(row.p_at + offset, like), size)
            g = numba.carray(_pointer(row.g_at + offset, like), size)
{arrays}
            for i in range(size):
                p_, g_ = _conditioned(_element(p[i]), _element(g[i]), scale, l2, clip, decay)
                {new} = _rule(p_, g_, {elements}*constants)
                p[i] = _number(p_)
{writes}
            if zero_grad:
                for i in range(size):
                    g[i] = 0
        begin = end
    done[number] = True
"""


def _source(state):
    names = [f"s{i}" for i in range(len(state))]
    arrays = [
        f"            {x} = numba.carray(_pointer(row.{name}_at + offset, like), size)"
        for x, name in zip(names, state, strict=True)
    ]
    return _KERNEL.format(
        arrays="\n".join(arrays),
        new=", ".join(["p_", *(f"{x}_" for x in names)]),
        elements="".join(f"_element({x}[i]), " for x in names),
        writes="\n".join(f"                {x}[i] = _number({x}_)" for x in names),
    )


@functools.cache
def _conditioned():
    return _jit(rules.bound(spec.conditioned, _WORDS))


@functools.cache
def compiled(rule: rules.Rule, dtype: str, options: tuple[str, ...]) -> Any:
    """Return the kernel of a rule for arrays of a dtype, as `_KERNEL` has it, which releases the GIL.

    `options` names those of `spec.conditioned` that are given. Raises numba's errors where it cannot compile the rule.
    """
    namespace = globals() | {"_rule": _jit(rules.bound(rule.function, _WORDS)), "_conditioned": _conditioned()}
    exec(compile(_source(rule.state), __file__, "exec"), namespace)  # its cache asks for the file
    kernel: Any = namespace["kernel"]
    # Numba finds what it has compiled by this name. A file is of one signature on one kind of processor, so that
    # processes which start at once write the same into it.
    codes = rule.function.__code__, spec.conditioned.__code__
    machine = numba.__version__, llvm.get_host_cpu_name(), sorted(llvm.get_host_cpu_features().items())
    content = rule.state, [*rule.numbers], options, [(x.co_code, x.co_consts, x.co_names) for x in codes], machine
    digest = hashlib.sha256(repr(content).encode()).hexdigest()[:12]
    kernel.__qualname__ = f"{rule.name.strip('<>')}_{dtype}_{digest}"
    sig = (
        types.Array(getattr(types, dtype), 1, "C"),
        numba.from_dtype(record(rule))[::1],
        types.UniTuple(types.float64, len(rule.numbers)),
        *(types.float64 if name in options else types.none for name in spec.OPTIONS),
        *(types.boolean, types.int64, types.int64, types.boolean[::1], types.int64),
    )
    try:
        return _built(kernel, sig, cache=True)
    except Exception:  # a cache that cannot be written or read in some way only costs time; a bad rule fails again
        return _built(kernel, sig, cache=False)


def _built(kernel, sig, cache):
    dispatcher = _jit(kernel, nogil=True, cache=cache)
    dispatcher.compile(sig)
    return dispatcher
