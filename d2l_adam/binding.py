"""The interpreter behind every tab: a rule of the spec, bound to one framework's arrays.

A tab is a module of this package with these names. `bind` and `publish` use all of them but the last six:
`save` and `load` need `asnumpy`, `fill` and, for native optimizers, `carried`; `d2l_adam.train` needs
`regression`, `d2l_adam.drive` needs `parameter` and `give`. `publish` adds `init_adam_states`, the rules, `save`,
`load` and `d2l`:

| name | what it is |
|---|---|
| `NAME` | d2l's name of the tab, as in `#@tab pytorch` |
| `sqrt`, `square`, `sign` | the words of the spec, for this framework's arrays |
| `PARAMETER`, `GRADIENT` | the type (or tuple of types) of what is written, and of what is only read |
| `kind(x)` | `(shape, name of the dtype, device)` |
| `writable(x)` | whether `x` can be written in place, element by element |
| `write(arrays, values)` | copies each value into its array, rounded to the dtype of the array |
| `untracked()` | a context for what a step does with the framework's operations: autograd does not see it |
| `float32(x)` | `x` in float32 |
| `zeros(shape, dtype)` | a state: zeros of that dtype (a name, or None for the framework's default) |
| `lend(params, grads, states, adds)` | the memory of these, a `fused.Memory`, or None; `adds` is that of the rule |
| `settle()` | waits for what may still read or write any array |
| `stepped(arrays, zero_grad)` | tells the framework that the memory has been stepped, and the gradients zeroed or not |
| `num_threads()` | the limit of threads that the framework is set to |
| `in_own_threads(work, threads)` | calls `work()` in the framework's threads, and returns True; False if it cannot |
| `step(rule)` | `bind`, in d2l's calling convention for this framework |
| `asnumpy(x)` | a copy of `x` as a `numpy.ndarray` |
| `fill(arrays, values)` | as `write`, from `numpy.ndarray`s |
| `carried(params, optimizer)` | what of a native optimizer goes into a file: a `checkpoint.Carried` |
| `parameter(x)` | a parameter to be trained, its value that of a `numpy.ndarray` |
| `give(p, g)` | makes a `numpy.ndarray` the gradient of `p`; returns it where a step is passed the gradients |
| `regression(w, b)` | the chapter's model: its parameters, `loss(X, y)` and `gradients(X, y)` |
"""

import contextlib
import inspect
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

from d2l_adam import checkpoint, contract, fused, imports, spec


def kernel(tab: ModuleType, rule: Any) -> Callable[..., tuple[Any, Any, Any]]:
    """Return `rule` itself, its words replaced by those of the tab: the one place where maths meets a framework."""
    words = {word: getattr(tab, word) for word in contract.WORDS}
    bound = FunctionType(rule.__code__, rule.__globals__ | words, rule.__name__, rule.__defaults__, rule.__closure__)
    bound.__kwdefaults__ = rule.__kwdefaults__
    return bound


def bind(tab: ModuleType, rule: FunctionType) -> Callable[..., bool]:
    """Return `rule` as a function `(params, grads, states, hyperparams)` that steps in place.

    All inputs are checked and all new values computed before the first one is written, but for those of
    arrays that are stepped in their memory (`d2l_adam.fused`). Parameters in float16 and bfloat16 are computed
    in float32, where their state lives, and rounded once. Raises TypeError if `rule` is not a function of
    `p, g, v, s, t` and constants.
    """
    constants = contract.constants(tab, rule)
    bound, loop = kernel(tab, rule), fused.Fused(tab, rule, constants)
    untracked = vars(tab).get("untracked", contextlib.nullcontext)

    def step(params, grads, states, hyperparams, zero_grad=False):
        """Make one step in place. `params` and `grads` are lists of arrays of equal shape and dtype.

        Returns whether it has set all gradients to zero, as `zero_grad` asks for: it costs least in the same pass.
        """
        numbers = contract.numbers(tab, constants, hyperparams)
        taken, rows = loop.take(params, grads, states, fused.choice())
        with untracked() if rows else _NOTHING:
            arrays: list[Any] = []
            values: list[Any] = []
            for p, g, v, s, half in rows:
                arrays += p, v, s
                if half:
                    p, g = tab.float32(p), tab.float32(g)
                new = contract.returned(tab, rule, g, bound(p, g, v, s, **numbers))
                # A rule may hand on an old value, which must not change while the others are written.
                values += [1 * y if y is p or y is v or y is s else y for y in new]
            zeroed = loop.run(taken, numbers, zero_grad)
            tab.write(arrays, values)
        hyperparams["t"] = numbers["t"] + 1
        return zeroed and not rows

    return step


def publish(tab: ModuleType) -> None:
    """Give a tab what all tabs have in common: `init_adam_states`, each rule of the spec, and `d2l`."""

    def init_adam_states(feature_dim, dtype=None):
        """Return the zero state `((v_w, s_w), (v_b, s_b))` of the chapter's linear regression.

        `v_w` and `s_w` have shape `(feature_dim, 1)`, `v_b` and `s_b` have shape `(1,)`. `dtype` is
        "float32" or "float64"; left out, the framework's default. The state of a float16 or
        bfloat16 parameter is float32. Raises ValueError for another `feature_dim` or `dtype`.
        """
        contract.feature_dim(tab, feature_dim, dtype)
        return tuple((tab.zeros(shape, dtype), tab.zeros(shape, dtype)) for shape in ((feature_dim, 1), (1,)))

    functions: dict[str, Any] = {"init_adam_states": init_adam_states}
    for name, rule in spec.RULES.items():
        functions[name] = step = tab.step(rule)
        step.__doc__ = _document(rule, step.__doc__, _STEP)
    functions |= {"save": _with_tab(tab, checkpoint.save), "load": _with_tab(tab, checkpoint.load)}
    for name, function in functions.items():
        function.__module__, function.__name__, function.__qualname__ = tab.__name__, name, name
    vars(tab).update(functions, __getattr__=lambda name: _late(tab, name))


def native(tab: ModuleType, rule: Any, arguments: str) -> Callable[[Any], Any]:
    """Make a class of a framework's own optimizers one of `rule`: its `kernel`, `loop`, `constants`, docstring.

    `arguments` is how that framework documents them, with `{lr}` and such for the defaults of the class.
    """

    def decorate(cls):
        cls.rule, cls.constants = staticmethod(rule), contract.constants(tab, rule)
        cls.kernel, cls.loop = staticmethod(kernel(tab, rule)), fused.Fused(tab, rule, cls.constants)
        defaults = {name: x.default for name, x in inspect.signature(cls).parameters.items()} | vars(cls)
        cls.__doc__ = _document(rule, cls.__doc__, arguments.format(**defaults), _NATIVE)
        return cls

    return decorate


_NOTHING = contextlib.nullcontext()


def _document(rule, *texts):
    equations = (rule.__doc__ or "").partition(">>>")[0]  # the example there is of the rule on plain numbers
    return "\n\n".join(inspect.cleandoc(text or "") for text in (*texts, equations))


_NATIVE = "The rule, as it stands in `d2l_adam.spec`:"


def _with_tab(tab, function) -> Any:
    def with_tab(*args, **kwargs):
        return function(tab, *args, **kwargs)

    with_tab.__doc__ = function.__doc__
    vars(with_tab)["__signature__"] = inspect.Signature(list(inspect.signature(function).parameters.values())[1:])
    return with_tab


_STEP = """
    `states` holds a pair `(v, s)` for each parameter, of its shape and dtype (float32 for a float16
    or bfloat16 parameter). No two of these arrays may share memory: one array given twice is refused,
    views that overlap are not noticed. `hyperparams` is d2l's dict: the learning rate `lr`, the time
    step `t`, counted from 1 and advanced by one in place, and whichever of `beta1`, `beta2` and `eps`
    is to differ from the rule's default.

    Raises ValueError, TypeError or KeyError with cause and cure; then nothing has changed. A NaN or
    infinite gradient makes its own coordinate of the parameter NaN and touches no other.

    The rule, as it stands in `d2l_adam.spec`:
    """


def _late(tab, name):
    if name == "d2l":  # imported when first asked for: it brings pandas and more
        return imports.d2l(tab)
    raise AttributeError(f"module {tab.__name__!r} has no attribute {name!r}")
