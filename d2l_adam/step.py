"""One step of a rule on a framework's arrays: check, take memory, compute, write. All steps of all tabs are these."""

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy

from d2l_adam import contract, fused, spec
from d2l_adam import rule as rules
from d2l_adam.fused.memory import Memory, Refusal, Table, record
from d2l_adam.fused.threads import Pass
from d2l_adam.interrupt import deferred, finish
from d2l_adam.rule import Rule


class Lent(NamedTuple):
    """Memory that will be stepped, and what with."""

    memory: Memory
    table: Table
    kernel: Any


class Step:
    """A rule as a step in place, on the arrays of one tab.

    `step(params, grads, states, hyperparams)` makes one in d2l's convention; a native optimizer calls `prepare`, and
    runs the parts of all its groups once each of them is known to be right.
    """

    def __init__(self, tab: Any, rule: Any):
        self.tab, self.rule = tab, Rule(rule)
        words = rules.of_arrays(tab.words)
        self.bound, self.conditioned = self.rule.bound(words), rules.bound(spec.conditioned, words)
        self.defaults = {name: default for name, (default, *_) in self.rule.numbers.items()}
        self.record = record(self.rule)
        self.table: Table | None = None
        self.kernels: dict[tuple, Any] = {}
        self.uncompiled: Refusal | None = None

    def __call__(self, params, grads, states, hyperparams) -> None:
        """Make one step in place, all of it or nothing. `params` and `grads` are lists of arrays."""
        numbers = contract.numbers(self.tab, self.rule, hyperparams)
        tuples = contract.states(self.tab, self.rule, states, len(params))
        parts = self.prepare(params, grads, tuples, numbers, zero_grad=self.tab.zeroes_grads)

        def work():
            for part in parts:
                part.run()
            self.tab.replace(params, states, parts)
            if "t" in hyperparams:
                hyperparams["t"] = numbers["t"] + 1

        finish(work)

    def prepare(
        self,
        params,
        grads,
        states: list[tuple],
        numbers: Mapping[str, Any],
        options: Mapping[str, float] = {},
        choice: bool | None = None,
        name: Callable[[int], str] = str,
        zero_grad: bool = False,
    ) -> list:
        """Check everything, and compute what is not stepped in its memory; nothing is written yet.

        `states` are tuples of arrays, `options` those of `spec.conditioned`, `choice` is as in `set_fused` (None: what
        that says), `name(i)` is what an error calls parameter `i`. Returns the parts of the step: each has a `run()`,
        which may be cut off and called anew. The last sets the gradients to zero, if that is asked for.
        """
        tab, choice = self.tab, fused.choice() if choice is None else choice
        refusal = None
        if choice is not False:
            memory = self.lent(params, grads, states, options)
            if isinstance(memory, Lent):  # the usual case
                part = self.part(memory, numbers, options, zero_grad)
                return [part, Zeroing(tab, params)] if zero_grad and not part.zeroed else [part]
            refusal = memory
        lent: list[Lent] = []
        given = grads
        params, grads, states = self.plain(params, grads, states, name)
        rows = contract.rows(tab, self.rule.state, params, grads, states, name)
        if choice is not False and rows:
            kinds: dict[tuple, list] = {}  # of one dtype on one device
            for row in rows:
                kinds.setdefault(tab.kind(row.p)[1:], []).append(row)
            apart, refused = self._lent_apart([*kinds.values()], options)
            if not _overlap(apart):
                lent, rows = apart, [row for row, _ in refused]
                refusal = refused[0][1] if refused else refusal
        # Where two memories share a gradient, neither may set it to zero before the other has read it. Nor is a
        # gradient that was made dense the one that is to be zero.
        read_at = [at for x in lent for at in x.table.g_at]
        zeroing = zero_grad and len({*read_at}) == len(read_at) and all(map(operator.is_, grads, given))
        parts: list[Any] = [self.part(x, numbers, options, zeroing) for x in lent]
        if rows and choice:
            raise ValueError(
                f"{tab.name}: this step cannot be fused: {refusal and refusal.reason}; leave that choice at None"
            )
        parts += tab.compute(self, rows, numbers, options, choice)
        if zero_grad and not all(part.zeroed for part in parts):
            parts.append(Zeroing(tab, params))
        return parts

    def plain(self, params, grads, states, name) -> tuple:
        """Parameters, gradients and states as the rule takes them: dense, for one."""
        return params, self.tab.dense(params, grads), states

    def lent(self, params, grads, states, options=()) -> Lent | Refusal:
        """The memory of all these, if it may be stepped."""
        if not len(params) == len(grads) == len(states) or not params:
            return Refusal("there is not one gradient and one state for each parameter")
        width = len(self.rule.state)
        for state in states:
            if len(state) != width:
                return Refusal("a state has another number of arrays")
        memory = self.tab.lend(params, grads, states)
        if isinstance(memory, Refusal):
            return memory
        table = self.table  # read once, as another thread may replace it
        if not table or memory.addresses != table.addresses or memory.sizes != table.sizes:
            self.table = table = Table(memory, self.record, table)
        if table.twins:
            return Refusal("two of its arrays share memory")
        kernel = self.compiled(memory, options)
        return kernel if isinstance(kernel, Refusal) else Lent(memory, table, kernel)

    def _lent_apart(self, groups: list[list[contract.Row]], options) -> tuple[list[Lent], list[tuple]]:
        """The memory of each group of rows, or of each of its rows, and the rows that lend none, with the reason."""
        lent, refused = [], []
        for rows in groups:
            params, grads, states, _ = zip(*rows, strict=True)
            memory = self.lent(params, grads, states, options)
            if isinstance(memory, Lent):
                lent.append(memory)
            elif len(rows) == 1:
                refused.append((rows[0], memory))
            else:
                some, others = self._lent_apart([[row] for row in rows], options)
                lent += some
                refused += others
        return lent, refused

    def compiled(self, memory: Memory, options) -> Any:
        """The kernel for this memory and these options, with an array of the dtype that it is for."""
        dtype = memory.dtype
        key = dtype, *options
        if why := fused.missing():
            return Refusal(why)
        if self.uncompiled:
            return self.uncompiled
        if key not in self.kernels:
            from d2l_adam.fused import kernel  # it imports Numba

            try:
                self.kernels[key] = kernel.compiled(self.rule, dtype, tuple(options)), numpy.empty(0, dtype)
            except Exception as error:
                cause = str(error).partition("\n")[0]
                self.uncompiled = Refusal(f"Numba cannot compile the rule {self.rule.name} ({cause})")
                return self.uncompiled
        return self.kernels[key]

    def part(self, lent: Lent, numbers, options, zeroing) -> Any:
        """The step of this memory, to be run."""
        memory, table, (kernel, like) = lent
        constants = tuple(map(float, (self.defaults | numbers).values()))
        given = [options.get(name) for name in spec.OPTIONS] if options else _NO_OPTIONS
        zeroing = zeroing and table.apart
        arguments = like, table.array, constants, *given, zeroing
        return Pass(kernel, arguments, sum(table.sizes), self.tab, memory.arrays, zeroing)


def _overlap(several: list[Lent]) -> bool:
    """Whether one memory has an array that another writes."""
    written = [at for x in several for at in x.table.written]
    read = {at for x in several for at in x.table.g_at}
    return len({*written}) < len(written) or not read.isdisjoint(written)


_NO_OPTIONS = (None,) * len(spec.OPTIONS)


class Values:
    """New values, to be written into arrays."""

    zeroed = False

    def __init__(self, tab, arrays: list, values: list):
        self.tab, self.arrays, self.values = tab, arrays, values

    def run(self):
        with deferred(), self.tab.untracked():
            self.tab.write(self.arrays, self.values)


class Zeroing:
    """The gradients of parameters, to be set to zero."""

    def __init__(self, tab, params):
        self.tab, self.params = tab, params

    def run(self):
        with deferred(), self.tab.untracked():
            self.tab.zero(self.params)


def document(function: Any, rule: Rule, text: str) -> Any:
    """Name a function or a class after a rule, and let its docstring end with the rule's own."""
    equations = (rule.function.__doc__ or "").partition(">>>")[0]  # the example there is of the rule on plain numbers
    function.__doc__ = "\n\n".join(inspect.cleandoc(x or "") for x in (function.__doc__, text, equations)).strip()
    return function
