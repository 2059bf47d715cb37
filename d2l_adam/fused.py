"""Fused steps: which arrays are stepped in one pass over their memory, and in which threads.

`d2l_adam.loop` compiles the pass, and needs Numba. Where that is missing, or does not apply, a step is made with the
operations of the framework, as before.
"""

import concurrent.futures
import contextlib
import dis
import functools
import importlib
import inspect
import os
import time
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy

from d2l_adam import contract, spec

_choice: bool | None = {"0": False, "1": True}.get(os.environ.get("D2L_ADAM_FUSED", ""))


def set_fused(fused: bool | None) -> None:
    """Choose how the steps of this process are made, in every tab.

    None, as at the start: in one pass over memory wherever that is possible, else with the operations of the
    framework. False: always with these. True: in one pass, or it is an error that says why not. The environment
    variable `D2L_ADAM_FUSED` (0 or 1) chooses from outside.
    """
    if not (fused is None or isinstance(fused, bool)):
        raise ValueError(f"fused is {fused!r}; give True, False, or None for wherever it is possible")
    global _choice
    _choice = fused


def choice() -> bool | None:
    """What `set_fused` has chosen."""
    return _choice


@functools.cache
def missing() -> str | None:
    """Why no step can be fused here, or None."""
    try:
        loop: Any = importlib.import_module("d2l_adam.loop")
    except Exception as error:  # one made for another NumPy fails in its own ways
        absent = isinstance(error, ModuleNotFoundError) and error.name == "numba"
        return "Numba is not installed; pip install numba" if absent else f"Numba cannot be imported ({error})"
    return "NUMBA_DISABLE_JIT is set" if loop.numba.config.DISABLE_JIT else None


def facts() -> dict[str, Any]:
    """How steps are made here: `why` they are eager, or by which Numba, in how many threads, and kept where."""
    why = "set_fused(False), or D2L_ADAM_FUSED=0, has chosen so" if _choice is False else missing()
    if why:
        return {"why": why, "numba": None, "threads": None, "cache": None}
    loop: Any = importlib.import_module("d2l_adam.loop")
    kernel = loop.compiled(spec.adam, 5, "float32", False, False, False)
    return {"why": None, "numba": loop.numba.__version__, "threads": num_threads(), "cache": kernel.stats.cache_path}


class Memory(NamedTuple):
    """Memory that a kernel may step, of some parameters of one dtype.

    `places` has eight numbers for each: the addresses of p, v and s, those where their new values go (the same, or
    elsewhere), the address of the gradient, and the number of elements. `arrays` must live as long.
    """

    dtype: str
    places: list[int]
    arrays: tuple


class Table(NamedTuple):
    """What a step must know about `places`: as long as they stay as they are, it is found out once."""

    places: list[int]
    array: numpy.ndarray
    total: int  # the number of all elements
    twins: bool  # see `_twins`
    apart: bool  # whether no two gradients share memory


class Fused:
    """A rule on the memory of one tab's arrays: `take` what can be stepped so, then `run` it."""

    def __init__(self, tab: ModuleType, rule: FunctionType, constants: dict):
        self.tab, self.rule = tab, rule
        hooks = (vars(tab).get(name) for name in ("lend", "dense", "settle", "stepped"))
        self.lend, self.dense, self.settle, self.stepped = hooks
        self.defaults = {name: default for name, (default, *_) in constants.items()}
        self.kernels: dict[tuple, Any] = {}
        self.table = _tabled([])
        code = rule.__code__
        others = {*code.co_names, *code.co_freevars} - {*contract.WORDS}
        others |= {x.co_name for x in code.co_consts if isinstance(x, CodeType)}
        empty = inspect.Parameter.empty
        others |= {name for name, x in self.defaults.items() if x is not empty and not isinstance(x, (int, float))}
        self.adds = adds(rule, self.defaults)
        #: Why the rule cannot be compiled as it is meant, or None.
        self.unfit = f"the rule {rule.__name__} uses {', '.join(sorted(others))}" if others else None

    def take(self, params, grads, states, fused, options=(), name=str):
        """Check all rows; return the memory of those to `run`, and the others as `contract.arrays` gives them.

        `fused` is a choice as in `set_fused`; `options` names the keywords that `run` will be given, of `OPTIONS`.
        """
        tab, taken = self.tab, []
        params, grads = contract.listed(tab, "params", params), contract.listed(tab, "grads", grads)
        states = contract.listed(tab, "states", states)
        if fused is not False:
            if memory := self.memory(params, grads, states, options):  # the usual case
                return [memory], []
            if 1 < len(params) == len(grads) == len(states):
                rows = zip(params, grads, states, strict=True)
                taken = [self.memory([p], [g], [state], options) for p, g, state in rows]
            if _twins([place for memory in taken if memory for place in memory.places]):
                taken = []
        if self.dense:
            grads = self.dense(params, grads)
        rows = contract.arrays(tab, params, grads, states, name)
        rest = [row for i, row in enumerate(rows) if not (taken and taken[i])]
        if fused and rest:
            raise ValueError(f"{tab.NAME}: this step cannot be fused: {self.why}; leave that choice at None")
        return [memory for memory in taken if memory], rest

    def memory(self, params, grads, states, options=()):
        """The memory of all these, if it may be stepped; else None, and `why` says why not."""
        self.why = missing() or self.unfit
        if self.why:
            return None
        if self.lend is None:
            self.why = "this tab lends no memory"
            return None
        self.why = "it takes contiguous float32 or float64 arrays on the processor, each in its own memory"
        if self.settle:
            self.settle()
        try:
            if params and {*map(type, states)} <= {tuple, list}:
                memory = self.lend(params, grads, states, self.adds)
                if memory and not self._table(memory.places).twins and self._kernel(memory.dtype, options):
                    return memory
        except (AttributeError, BufferError, TypeError, ValueError):  # not as it should be: `contract.arrays` says what
            pass
        return None

    def _table(self, places):
        table = self.table  # read once, as another thread may replace it
        if places != table.places:
            self.table = table = _tabled(places)
        return table

    def _kernel(self, dtype, options):
        key = dtype, options
        if key not in self.kernels:
            loop: Any = importlib.import_module("d2l_adam.loop")
            if others := {*options} - {*OPTIONS}:
                self.why = f"it has no part for {', '.join(others)}"
                return None
            given = (name in options for name in OPTIONS)
            try:
                self._try()
                kernel = loop.compiled(self.rule, len(self.defaults), dtype, *given)
            except Exception as error:
                cause = str(error).partition("\n")[0]
                self.why = self.unfit = f"Numba cannot compile the rule {self.rule.__name__} ({cause})"
                return None
            self.kernels[key] = numpy.empty(0, dtype), kernel
        return self.kernels[key]

    def _try(self):
        """Call the rule on arrays, as a compiled rule would also take a single number for a new state."""
        x = numpy.ones(2)
        contract.returned(self.tab, self.rule, x, _tried(self.rule, self.defaults, x))

    def run(self, taken, numbers, zero_grad=False, **options):
        """Make the step in the memory taken; `numbers` are the constants of the rule.

        Returns whether the gradients were set to zero, if that was asked for: not if some share memory.
        """
        if not taken:
            return False
        constants = tuple(map(float, (self.defaults | numbers).values()))
        given = [options.get(name) for name in OPTIONS] if options else _NO_OPTIONS
        if zero_grad and len(taken) > 1:
            zero_grad = _tabled([place for memory in taken for place in memory.places]).apart
        for dtype, places, arrays in taken:
            like, kernel = self._kernel(dtype, tuple(options))
            table = self._table(places)
            zero_grad = zero_grad and table.apart
            try:
                in_threads(kernel, (like, table.array, constants, *given, zero_grad), table.total, self.tab)
            finally:  # also if the user has interrupted it
                if self.stepped:
                    self.stepped(arrays, zero_grad)
        return zero_grad


class _Parameter:
    """Stands for a parameter, of which a rule may take an array, or add one to it, once."""

    __array_ufunc__ = __bool__ = __eq__ = __hash__ = None  # type: ignore[assignment]

    def __add__(self, x):
        if type(self) is _Parameter and isinstance(x, numpy.ndarray):
            return _Moved()
        return NotImplemented

    __sub__ = __radd__ = __add__


class _Moved(_Parameter):
    pass


def adds(rule: FunctionType, defaults: dict[str, Any]) -> bool:
    """Whether a rule does nothing with a parameter but add to it, once, or take off it, what does not depend on it."""
    if any(instruction.opcode in (*dis.hasjrel, *dis.hasjabs) for instruction in dis.get_instructions(rule)):
        return False  # another branch may do something else
    try:
        p, v, s = _tried(rule, defaults, _Parameter())
        return type(p) is _Moved and isinstance(v, numpy.ndarray) and isinstance(s, numpy.ndarray)
    except Exception:  # it does something else
        return False


def _tried(rule, defaults, p):
    """What a rule returns for `p`, and arrays and numbers that stand for the others."""
    empty = inspect.Parameter.empty
    numbers = {name: 0.5 if x is empty else x for name, x in defaults.items()} | {"t": 2}
    rule, x = FunctionType(rule.__code__, {word: getattr(numpy, word) for word in contract.WORDS}), numpy.ones(2)
    with numpy.errstate(all="ignore"):
        return rule(p, x, x, x, **numbers)


def _tabled(places):
    read = places[6::8]
    array = numpy.array(places, numpy.int64)
    return Table(places, array, sum(places[7::8]), _twins(places), len({*read}) == len(read))


def _twins(places):
    """Whether some array is to be written twice, or written and read as a gradient, perhaps as a view."""
    written = {*places[3::8], *places[4::8], *places[5::8]}
    return len(written) * 8 < len(places) * 3 or not written.isdisjoint(places[6::8])


#: What an optimizer may do to a gradient and a parameter before the rule: see `spec.conditioned`.
OPTIONS = ("scale", "l2", "decay")
_NO_OPTIONS = (None,) * len(OPTIONS)

# A thread's start costs as much as stepping this many elements; a thread that got the other core late has fewer to do.
_CHUNK = 1 << 18


def _chunks(total, threads):
    """Where chunks begin and end: half of what each thread has left, as memory is read fastest in long stretches."""
    chunks, first = [], 0
    while first < total:
        last = min(first + max(_CHUNK, (total - first) // (2 * threads)), total)
        chunks.append((first, last))
        first = last
    return chunks


def in_threads(kernel, arguments, total, tab):
    """Run a kernel until it has run over all elements, in the calling thread and in some beside it."""
    if total <= _CHUNK or (threads := min(num_threads(tab), -(-total // _CHUNK))) == 1:
        kernel(*arguments, 0, total)
        return
    chunks = iter(_chunks(total, threads))
    working: list[None] = []

    def work():
        working.append(None)
        try:
            for first, last in chunks:
                kernel(*arguments, first, last)
        finally:
            working.pop()

    interrupted, done = None, False

    def work_in_its_own():  # where an error could not be raised
        nonlocal interrupted
        try:
            work()
        except BaseException as error:
            interrupted = error

    try:
        in_own_threads = getattr(tab, "in_own_threads", None)
        if not (in_own_threads and in_own_threads(work_in_its_own, threads)):
            for _ in range(threads - 1):
                _pool().submit(work)
    except RuntimeError:  # there are no more threads, or the interpreter is about to end
        pass
    except BaseException as error:
        interrupted = error
    while not done:  # whatever happens, the step is finished, and nobody writes any more when this returns
        try:
            work()
            while working:
                time.sleep(2e-5)
            done = True
        except BaseException as error:
            interrupted = error
    if interrupted:
        raise interrupted


def num_threads(tab: ModuleType | None = None) -> int:
    """How many threads a step uses: what the framework is set to, and no more than the environment allows."""
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        with contextlib.suppress(ValueError):
            limits.append(int(os.environ.get(variable, "").partition(",")[0]))
    if tab and hasattr(tab, "num_threads"):
        limits.append(tab.num_threads())
    return max(1, min(limits))


@functools.cache
def _pool():
    return concurrent.futures.ThreadPoolExecutor(os.cpu_count(), "d2l_adam")


if hasattr(os, "register_at_fork"):  # threads do not live on in a child
    os.register_at_fork(after_in_child=_pool.cache_clear)
