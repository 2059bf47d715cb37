"""Steps on a GPU: the rule as a kernel of Triton, which comes with PyTorch, launched once for all tensors.

The kernel is written by the rule itself: run on `Element`s, it leaves the operations that it makes as lines of code.
What it computes of numbers alone, such as `1 - beta2**t`, stays with Python, in double precision, and goes to the
kernel with the addresses.
"""

import functools
import importlib
import linecache
import warnings

import numpy

from d2l_adam import imports, spec
from d2l_adam import rule as rules
from d2l_adam.fused.memory import Refusal
from d2l_adam.interrupt import deferred
from d2l_adam.step import Step
from d2l_adam.torch.framework import torch

#: The elements that one program of the kernel steps, and the warps it has: the fastest of those tried on an H100.
BLOCK, WARPS = 1024, 8

# `call` has the numbers, then the rows of a `Table`; `blocks` has for each program its row, and its place in that.
_KERNEL = """
def kernel(call, blocks):
    block = blocks + 2 * tl.program_id(0)
    row, first = call + {numbers} + {width} * tl.load(block), {block} * tl.load(block + 1).to(tl.int64)
    at, left = tl.arange(0, {block}), tl.load(row + {width} - 1) - first
{head}
    if (left >= {block}) & (({places}) % 16 == 0):
{whole}
    else:
        inside = at < left
{part}
"""
_NUMBER = "number{0} = tl.load(call + {0}).to(tl.float64, bitcast=True).to(tl.{1})"
_PLACE = "{0}_at = tl.load(row + {1})"
_POINTER = "{0}_to = {2}{0}_at.to(tl.pointer_type(tl.{1})){3} + first + at"
_LOAD = "{0} = tl.load({0}_to{2}).to(tl.{1})"
_STORE = "tl.store({0}_to, {1}.to(tl.{2}){3})"


# How a kernel says it; `/` and `tl.sqrt` would be approximate in float32. The sign of NaN is 0, as in `torch.sign`.
_WORDS = {
    "{} / {}": "tl.div_rn({}, {})",
    "{} ** {}": "libdevice.pow({}, {})",
    "abs({})": "tl.abs({})",
    "maximum({}, {})": "tl.maximum({}, {}, tl.PropagateNan.ALL)",
    "sign({})": "tl.where({0} > 0, 1.0, 0.0) - tl.where({0} < 0, 1.0, 0.0)",
    "sqrt({})": "tl.sqrt_rn({})",
    "square({})": "{0} * {0}",
}
_EXACT = {"tl.div_rn": "tl.fdiv", "tl.sqrt_rn": "tl.sqrt"}  # in float64


class Trace:
    """What a rule does to elements, as lines of the kernel, and the numbers that meet one, as Python code."""

    def __init__(self):
        self.lines: list[str] = []
        self.numbers: list[str] = []

    def does(self, code, *operands):
        """What some code, such as "{} + {}", makes of operands: an element, or a number of numbers."""
        if all(x.is_number for x in operands if isinstance(x, Operand)):
            return Operand(self, f"({code.format(*(getattr(x, 'code', repr(x)) for x in operands))})", True)
        names = []
        for x in operands:
            if isinstance(x, Operand) and not x.is_number:
                names.append(x.code)
            else:
                names.append(f"number{len(self.numbers)}")
                self.numbers.append(getattr(x, "code", repr(x)))
        self.lines.append(f"x{len(self.lines)} = {_WORDS.get(code, code).format(*names)}")
        return Operand(self, f"x{len(self.lines) - 1}", False)

    def words(self):
        """The words of the spec, for operands."""

        def word(name):
            return lambda *args: self.does(f"{name}({', '.join(['{}'] * len(args))})", *args)

        return rules.of_arrays({name: word(name) for name in rules.WORDS})


class Operand:
    """An element of an array, or a number, as a rule meets it: it leaves what is done with it to its trace."""

    def __init__(self, trace: Trace, code: str, is_number: bool):
        self.trace, self.code, self.is_number = trace, code, is_number

    def __add__(self, other):
        return self.trace.does("{} + {}", self, other)

    def __radd__(self, other):
        return self.trace.does("{} + {}", other, self)

    def __sub__(self, other):
        return self.trace.does("{} - {}", self, other)

    def __rsub__(self, other):
        return self.trace.does("{} - {}", other, self)

    def __mul__(self, other):
        return self.trace.does("{} * {}", self, other)

    def __rmul__(self, other):
        return self.trace.does("{} * {}", other, self)

    def __truediv__(self, other):
        return self.trace.does("{} / {}", self, other)

    def __rtruediv__(self, other):
        return self.trace.does("{} / {}", other, self)

    def __pow__(self, other):
        return self.trace.does("{} ** {}", self, other)

    def __rpow__(self, other):
        return self.trace.does("{} ** {}", other, self)

    def __neg__(self):
        return self.trace.does("-{}", self)


class Kernel:
    """A rule, for tensors of one dtype and options of some names; compiled where it is launched first."""

    def __init__(self, step: Step, dtype: str, options: tuple[str, ...]):
        rule, trace = step.rule, Trace()
        words, names = trace.words(), ("p", *rule.state, "g")
        p, *state, g = (Operand(trace, name, False) for name in names)
        numbers, given = ({name: Operand(trace, name, True) for name in x} for x in (rule.numbers, options))
        p, g = rules.bound(spec.conditioned, words)(p, g, **given)
        new = rule.bound(words)(p, g, *state, **numbers)
        if len(new) != len(names) - 1 or not all(isinstance(x, Operand) and not x.is_number for x in new):
            raise TypeError(f"the rule {rule.name} does not return the parameter and its state")
        #: What the kernel takes beside the memory, from the numbers of a step and its options.
        self.numbers = eval(f"lambda {', '.join([*numbers, *given])}: [{', '.join(trace.numbers)}]", vars(spec) | {})
        full = "float64" if dtype == "float64" else "float32"
        dtypes = {name: dtype if name in "pg" else full for name in names}
        head = [_PLACE.format(name, i) for i, name in enumerate(names)]
        head += [_NUMBER.format(i, full) for i in range(len(trace.numbers))]
        parts = {"head": "\n".join(f"    {line}" for line in head), "places": " | ".join(f"{x}_at" for x in names)}
        for part, form, inside in (("whole", ("tl.multiple_of(", ", 16)"), ""), ("part", ("", ""), ", inside")):
            lines = [_POINTER.format(name, dtypes[name], *form) for name in names]
            lines += [_LOAD.format(name, full, inside) for name in names] + trace.lines
            lines += [_STORE.format(name, x.code, dtypes[name], inside) for name, x in zip(names, new, strict=False)]
            parts[part] = "\n".join(f"        {line}" for line in lines)
        source = _KERNEL.format(block=BLOCK, numbers=len(trace.numbers), width=len(names) + 1, **parts)
        for word, exact in _EXACT.items() if full == "float64" else ():
            source = source.replace(word, exact)
        self.launch = _jit(source, f"<{', '.join([rule.name, dtype, *options])}>")


def _jit(source, name):
    """The code as a kernel of Triton, which asks for its source."""
    import triton
    from triton import language as tl
    from triton.language.extra import libdevice

    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    namespace = {"__name__": __name__, "tl": tl, "libdevice": libdevice}
    exec(compile(source, name, "exec"), namespace)
    return triton.jit(namespace["kernel"])


@functools.cache
def missing() -> str | None:
    """Why no kernel can be made, or None; it is warned of once."""
    try:
        importlib.import_module("triton")
    except Exception as error:
        reason = imports.without_triton() or f"Triton cannot be imported ({error})"
        warnings.warn(f"pytorch: steps on a GPU are not fused: {reason}", stacklevel=2)
        return reason
    return None


@functools.lru_cache(maxsize=32)
def _blocks(sizes, device):
    """The row and the place in it of each program, on the GPU; `sizes` are those of the rows, as bytes."""
    numbers = -(-numpy.frombuffer(sizes, numpy.int64) // BLOCK)
    rows = numpy.repeat(numpy.arange(len(numbers)), numbers)
    places = numpy.arange(numbers.sum()) - numpy.repeat(numbers.cumsum() - numbers, numbers)
    return torch.from_numpy(numpy.stack([rows, places], axis=1).astype(numpy.int32)).to(device)


class Launch:
    """The step of many tensors, to be queued once: no part of it can be done again."""

    zeroed = done = False

    def __init__(self, tab, lent, numbers):
        self.tab, self.lent, self.numbers = tab, lent, numbers

    def run(self):
        (memory, table, kernel), device = self.lent, self.lent.memory.device
        if not self.done and any(table.sizes):
            with deferred(), torch.cuda.device(device):
                rows = table.array.view(numpy.int64)
                call = numpy.concatenate([numpy.array(self.numbers, numpy.float64).view(numpy.int64), rows])
                call = torch.from_numpy(call).to(device, non_blocking=True)
                blocks = _blocks(table.array["size"].tobytes(), device)
                kernel.launch[len(blocks),](call, blocks, num_warps=WARPS)
                self.done = True
        self.tab.stepped(memory.arrays, zeroed=False)


class TorchStep(Step):
    """A step of tensors, wherever they are."""

    def compiled(self, memory, options):
        if memory.device is None:
            return super().compiled(memory, options)
        if why := missing():
            return Refusal(why)
        key = memory.dtype, "gpu", *options
        if key not in self.kernels:
            try:
                self.kernels[key] = Kernel(self, memory.dtype, tuple(options))
            except TypeError as error:
                return Refusal(str(error))
        return self.kernels[key]

    def part(self, lent, numbers, options, zeroing):
        if lent.memory.device is None:
            return super().part(lent, numbers, options, zeroing)
        return Launch(self.tab, lent, lent.kernel.numbers(**self.defaults | numbers, **options))
