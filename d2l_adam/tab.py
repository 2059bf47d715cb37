"""What a framework has to say of itself, to be a tab: a subclass of `Tab`, and its public names in a module."""

import contextlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from d2l_adam import checkpoint, contract, dialects, imports
from d2l_adam.fused.memory import Memory, Refusal
from d2l_adam.interrupt import deferred
from d2l_adam.rule import Rule
from d2l_adam.step import Step, Values, document


class Tab:
    """A framework. What has no default here is what it must say."""

    #: d2l's name of the tab, as in `#@tab pytorch`, and that of its module, `d2l_adam.torch`.
    name: str
    module: str
    #: The types of what is written, and of what is only read.
    parameter_type: Any
    gradient_type: Any
    #: The words of the spec, for arrays of this framework.
    words: Mapping[str, Callable]
    #: How a step is made where it is not fused.
    unfused = "eager"
    #: Whether a step sets the gradients to zero, as in `d2l.torch`.
    zeroes_grads = False

    # Arrays

    def kind(self, x) -> tuple[Any, Any, Any]:
        """Shape, name of the dtype and device of an array."""
        raise NotImplementedError

    def writable(self, x) -> bool:
        """Whether `x` can be written in place, element by element."""
        return True

    def write(self, arrays: list, values: list) -> None:
        """Copy each value into its array, rounded to the dtype of that."""
        raise NotImplementedError

    def replace(self, params: list, states: Any, parts: list) -> None:
        """Put the new arrays of a step into its lists, where a framework's arrays cannot be written."""

    def fill(self, arrays: list, values: list) -> None:
        """The same, from `numpy.ndarray`s; or put new arrays into the list, where they cannot be written."""
        self.write(arrays, values)

    def float32(self, x):
        """`x` in float32."""
        raise NotImplementedError

    def asnumpy(self, x):
        """A copy of `x` as a `numpy.ndarray`."""
        raise NotImplementedError

    def zeros(self, shape, dtype: str | None = None):
        """A state array: zeros of that dtype, or of the framework's default."""
        raise NotImplementedError

    def zeros_like(self, p):
        """A state array for a parameter: of its shape and device, in float32 for half precision."""
        raise NotImplementedError

    def start(self, p, value: float):
        """A state array for a parameter, each element of it `value`."""
        x = self.zeros_like(p)
        if value:
            self.write([x], [x + value])
        return x

    def untracked(self) -> contextlib.AbstractContextManager:
        """A context for what a step does with the framework's operations: autograd does not see it."""
        return contextlib.nullcontext()

    def dense(self, params, grads) -> list:
        """The gradients, those that are sparse made dense."""
        return grads

    def zero(self, params) -> None:
        """Set the gradients of parameters to zero, where a step does so."""

    def compute(self, step: Step, rows: list[contract.Row], numbers, options, choice) -> list:
        """Compute a step of rows by the framework's operations; return what is left to do: objects with a `run()`."""
        arrays: list[Any] = []
        values: list[Any] = []
        with deferred(), self.untracked():
            for p, g, state, half in rows:
                old = (p, *state)
                if half:
                    p, g = self.float32(p), self.float32(g)
                if options:
                    p, g = step.conditioned(p, g, **options)
                arrays += old
                values += contract.returned(self, step.rule, old, step.bound(p, g, *state, **numbers))
        return [Values(self, arrays, values)] if arrays else []

    # Memory

    def lend(self, params, grads, states) -> Memory | Refusal:
        """The memory of these arrays, for a kernel to step; `states` are tuples."""
        return Refusal(f"{self.name} lends no memory")

    def stepped(self, arrays: Any, zeroed: bool) -> None:
        """Tell the framework that the memory of `arrays` was stepped, and the gradients set to zero or not."""

    def num_threads(self) -> int | None:
        """The number of threads that the framework is set to."""
        return None

    def in_own_threads(self, work: Callable[[], None], threads: int) -> bool:
        """Call `work()` in the framework's threads; return whether it has some."""
        return False

    # The chapter

    def parameter(self, x):
        """A parameter to be trained, its value that of a `numpy.ndarray`."""
        raise NotImplementedError

    def give(self, p, g):
        """Make a `numpy.ndarray` the gradient of `p`; return it where a step is passed the gradients."""
        raise NotImplementedError

    def regression(self, w, b) -> tuple[list, Callable, Callable]:
        """Linear regression from weights `w` and bias `b`: its parameters, `loss(X, y)` and `gradients(X, y)`.

        The latter returns what a step is passed between parameters and states: nothing where it reads `p.grad`.
        """
        raise NotImplementedError

    def late(self, name: str) -> ModuleType:
        """What a tab's module imports when first asked for: `d2l`, the book's own, which brings pandas and more."""
        if name == "d2l":
            return imports.d2l(self)
        raise AttributeError(f"module 'd2l_adam.{self.module}' has no attribute {name!r}")

    # What every tab has

    def step(self, rule: Any) -> Callable[..., None]:
        """Return any rule as one step in d2l's calling convention, with the docstring of `one_step` below.

        `rule` is a function, or a name of the spec's. Raises TypeError for what is no rule.
        """
        step = Step(self, rule)

        def one_step(params, grads, states, hyperparams):
            """Make one step in place. `params` and `grads` are lists of arrays of equal shape and dtype."""
            params, grads = contract.listed(self, "params", params), contract.listed(self, "grads", grads)
            step(params, grads, states, hyperparams)

        return self.documented(one_step, step.rule)

    def documented(self, one_step: Any, rule: Rule) -> Any:
        """Give a step the name and the docstring of its rule."""
        one_step.__module__, one_step.__name__, one_step.__qualname__ = f"d2l_adam.{self.module}", rule.name, rule.name
        return document(one_step, rule, _described(rule))

    def optimizer(self, rule: Any, initial: Mapping[str, float] | None = None) -> type:
        """Return any rule as a class of the framework's own optimizers; `initial` is as in `init_states`."""
        raise TypeError(f"{self.name} has no optimizers of its own; use step(rule)")

    def like(self, name: str) -> type:
        """Return a class of this framework's optimizers that makes the steps of another library's, with its defaults.

        `name` is that one's import path, such as "keras.optimizers.Adam"; `python -m d2l_adam dialects` prints all.
        Raises ValueError for an unknown name, and lists those near it.
        """
        return self.optimizer(dialects.find(name).rule)

    def carried(self, params: list, optimizer: Any) -> checkpoint.Carried:
        """What of a native optimizer goes into a file."""
        raise TypeError(f"{self.name}: states is {type(optimizer)}; give a list, with the state of each parameter")

    def init_states(self, rule: Any, params: Any, initial: Mapping[str, float] | None = None) -> Any:
        """Return the state of any rule in the book's shape: None, a bare array or a tuple for each parameter.

        They have the shape, dtype and device of the parameter (float32 for float16 and bfloat16). For a rule without
        state, None. `initial` says where they start, by their names in the rule, such as `{"s": 1e-6}`; default: 0.
        """
        rule, states = Rule(rule, initial), []
        for i, p in enumerate(contract.listed(self, "params", params)):
            contract.parameter(self, i, p)
            states.append(rule.book_shape(tuple(self.start(p, rule.initial[name]) for name in rule.state)))
        return states if rule.state else None

    def init_adam_states(self, feature_dim, dtype=None):
        """Return the zero state `((v_w, s_w), (v_b, s_b))` of the chapter's linear regression.

        `v_w` and `s_w` have shape `(feature_dim, 1)`, `v_b` and `s_b` have shape `(1,)`. `dtype` is
        "float32" or "float64"; left out, the framework's default. The state of a float16 or
        bfloat16 parameter is float32. Raises ValueError for another `feature_dim` or `dtype`.
        """
        return self.book_states("adam", feature_dim, dtype)

    def init_momentum_states(self, feature_dim, dtype=None):
        """Return the zero state `(v_w, v_b)` of `sgd_momentum`; all else as in `init_adam_states`."""
        return self.book_states("sgd_momentum", feature_dim, dtype)

    def init_adagrad_states(self, feature_dim, dtype=None):
        """Return the zero state `(s_w, s_b)` of `adagrad`; all else as in `init_adam_states`."""
        return self.book_states("adagrad", feature_dim, dtype)

    def init_rmsprop_states(self, feature_dim, dtype=None):
        """Return the zero state `(s_w, s_b)` of `rmsprop`; all else as in `init_adam_states`."""
        return self.book_states("rmsprop", feature_dim, dtype)

    def init_adadelta_states(self, feature_dim, dtype=None):
        """Return the zero state `((s_w, delta_w), (s_b, delta_b))` of `adadelta`; all else as in `init_adam_states`."""
        return self.book_states("adadelta", feature_dim, dtype)

    def book_states(self, rule, feature_dim, dtype=None):
        """The zero state of any rule for the chapter's linear regression; all else as in `init_adam_states`."""
        contract.feature_dim(self, feature_dim, dtype)
        weight, bias = (tuple(self.zeros(shape, dtype) for _ in Rule(rule).state) for shape in ((feature_dim, 1), (1,)))
        return Rule.book_shape(weight), Rule.book_shape(bias)

    def save(self, file, params, states, hyperparams=None, rule=None):
        """Write parameters, their state and the time step to `file`, for any tab to `load`.

        `params` is a list, or a dict with a name for each, such as `dict(model.named_parameters())`. `states`
        and `hyperparams` are those of the chapter's functions; `rule`, a name of the spec's or a function, is noted
        with them if given. Or `states` is a native optimizer of this tab, or one of the framework's own that
        `python -m d2l_adam dialects` has; for Gluon its Trainer. The file says which it is.

        The file is replaced as a whole: even if the process is killed, the old one or the new one is there.
        Raises ValueError or TypeError with cause and cure, OSError if the file cannot be written.
        """
        checkpoint.save(self, file, params, states, hyperparams, rule)

    def load(self, file, params, states, hyperparams=None, rule=None, axes=None, convert=False):
        """Read what `save` wrote, in this tab or in another, into the parameters and the state that are here.

        The arguments are those of `save`. Parameters are matched by name if `params` is a dict, else by
        position. `axes` may give, for a name (or a position), the order in which the axes of the array in the
        file become those here: the weight of a dense layer is `(in, out)` in Keras, `(out, in)` in PyTorch
        and Gluon, and `axes={"weight": (1, 0)}` carries it over; Keras' convolution by (3, 2, 0, 1).

        An optimizer of another rule, or with other constants, is refused, as its next step would be another: continue
        with `like`. With `convert=True` it takes the arrays, if they are of the same names.

        Raises FileNotFoundError, or ValueError or TypeError with cause and cure, if the file is truncated,
        altered or of another kind, or if names, shapes, dtypes, rule or constants are others than here.
        Then nothing has changed.
        """
        checkpoint.load(self, file, params, states, hyperparams, rule, axes, convert)


def _described(rule):
    *first, last = [f"`{name}`" for name in rule.constants] or ["nothing else"]
    names = f"{', '.join(first)} and {last}" if first else last
    return _STEP.format(states=_STATES.format(contract.shape(rule.state)) if rule.state else _NO_STATES, names=names)


_NO_STATES = "`states` is None, as this rule has no state."
_STATES = """`states` holds for each parameter {}, of its shape and dtype (float32 for a float16
    or bfloat16 parameter). No two of these arrays may share memory: one array given twice is refused,
    views that overlap are not noticed."""
_STEP = """
    {states} `hyperparams` is d2l's dict: the time step
    `t`, counted from 1 and advanced by one in place (only a rule that reads it needs it), and what has no default or
    is to differ from it, of {names}.

    Raises ValueError, TypeError or KeyError with cause and cure; then nothing has changed. An interrupt is let through
    after the step. A NaN or infinite gradient makes its own coordinate of the parameter NaN and touches no other.

    The rule, as it stands in its function:
    """
