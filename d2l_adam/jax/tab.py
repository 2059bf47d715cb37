"""What JAX is as a tab."""

import functools
import importlib

import numpy

from d2l_adam import contract
from d2l_adam.interrupt import deferred
from d2l_adam.jax.framework import jax, jnp
from d2l_adam.rule import Rule
from d2l_adam.step import Step, Values
from d2l_adam.tab import Tab


class JAX(Tab):
    """JAX's arrays, which cannot be written: a step replaces the entries of the lists that hold them.

    So they lend no memory; and nothing is donated, as whoever has kept an old array is to find it as it was. The step
    of all parameters is one function, which JAX compiles for each set of shapes and dtypes, and keeps; its numbers are
    arguments, in float64, which the step switches on for itself.
    """

    name = module = "jax"
    unfused = "jit"
    parameter_type = gradient_type = jax.Array
    words = {word: getattr(jnp, word) for word in ("maximum", "sign", "sqrt", "square")}

    def kind(self, x):
        return x.shape, x.dtype.name, None if isinstance(x, jax.core.Tracer) else frozenset(x.devices())

    def write(self, arrays, values):
        """Nothing: `replace` puts them where they belong."""

    def replace(self, params, states, parts):
        for part in parts:  # one
            self.put(params, states, part.values)

    def put(self, params, states, rows):
        """Put new arrays `[p, *state]` into the lists that hold those of each parameter; `params` may be a dict."""
        keys = list(params) if isinstance(params, dict) else range(len(params))
        for i, (key, (p, *state)) in enumerate(zip(keys, rows, strict=True)):
            params[key] = p
            if state:
                states[i] = Rule.book_shape(tuple(state))

    def fill(self, arrays, values):
        with jax.enable_x64(True):
            arrays[:] = [x.at[...].set(value) for x, value in zip(arrays, values, strict=True)]

    def asnumpy(self, x):
        return numpy.array(x)

    def zeros(self, shape, dtype=None):
        dtype = dtype or jnp.zeros(()).dtype
        with jax.enable_x64(True):
            return jnp.zeros(shape, dtype)

    def start(self, p, value):
        with jax.enable_x64(True):
            return jnp.full_like(p, value, dtype=contract.state_dtype(p.dtype.name))

    def zeros_like(self, p):
        return self.start(p, 0)

    def book_states(self, rule, feature_dim, dtype=None):
        return list(super().book_states(rule, feature_dim, dtype))  # a step replaces its entries

    def compute(self, step, rows, numbers, options, choice):
        if "jit" not in step.kernels:
            step.kernels["jit"] = jax.jit(functools.partial(_values, step))
        call, values = functools.partial(_values, step) if choice is False else step.kernels["jit"], []
        given = {name: float(x) for name, x in numbers.items()}  # traced as Python's numbers are, by value
        with deferred(), jax.enable_x64(True):
            for first in range(0, len(rows), _MANY):
                values += call(given, [(row.p, row.g, row.state) for row in rows[first : first + _MANY]])
        return [Values(self, [], values)] if rows else []

    def step(self, rule):
        step = Step(self, rule)

        def one_step(params, grads, states, hyperparams):
            """Make one step in place: the entries of the lists `params` and `states` are replaced by new arrays.

            `params` and `grads` hold `jax.Array`s of equal shape and dtype; arrays that were read before stay as they
            are. Returns `params`. A step is not for `jax.jit`, which would freeze `t`: it compiles itself.
            """
            refuse_fixed(params=params, states=states if step.rule.state else [])
            grads = contract.listed(self, "grads", grads)
            if any(isinstance(x, jax.core.Tracer) for x in (*params, *grads)):
                raise TypeError(
                    "jax: this step is called within jax.jit, jax.grad or the like, where its time step t, a Python "
                    "number, would be frozen; call it outside, where it compiles itself, or use tab.optimizer(rule)"
                )
            step(params, grads, states, hyperparams)
            return params

        return self.documented(one_step, step.rule)

    def optimizer(self, rule, initial=None):
        from d2l_adam.jax import native

        return native.made(Rule(rule, initial))

    def save(self, file, params, states, hyperparams=None, rule=None):
        """Do what every tab does; of an optimizer, `states` is its state, and `hyperparams` its constants.

        The state does not know them: left out, they are the rule's own. `params` may then be any tree.
        """
        from d2l_adam.jax import files

        files.save(file, params, states, hyperparams, rule)

    def load(self, file, params, states, hyperparams=None, rule=None, axes=None, convert=False):
        """Likewise; returns parameters and state: an optimizer's are new, the lists of a function have new entries."""
        from d2l_adam.jax import files

        return files.load(file, params, states, hyperparams, rule, axes, convert)

    def carried(self, params, optimizer):
        made = "a state that an optimizer of d2l_adam.jax has made"
        raise TypeError(f"jax: the optimizer is {type(optimizer)}; give {made}, or a list")

    def late(self, name):
        return importlib.import_module("d2l_adam.jax.d2l") if name == "d2l" else super().late(name)

    def parameter(self, x):
        with jax.enable_x64(True):
            return jnp.array(x)

    def give(self, p, g):
        return self.parameter(g)

    def regression(self, w, b):
        params = [self.parameter(x) for x in (w, b)]

        def loss(X, y):
            with jax.enable_x64(True):
                return _loss(params, X, y)

        def gradients(X, y):
            with jax.enable_x64(True):
                return (_gradients(params, X, y),)

        return params, loss, gradients


#: So many parameters are in one compiled function.
_MANY = 50


def _values(step, numbers, rows):
    """The new arrays `[p, *state]` of rows `(p, g, state)`."""
    values = []
    for p, g, state in rows:
        full = contract.state_dtype(p.dtype.name)
        old = p.astype(full), *state
        new = contract.returned(TAB, step.rule, old, step.bound(old[0], g.astype(full), *state, **numbers))
        values.append([value.astype(x.dtype) for x, value in zip((p, *state), new, strict=True)])
    return values


def refuse_fixed(**arguments):
    """Refuse what is no list: its entries could not be replaced."""
    for name, x in arguments.items():
        if not isinstance(x, list):
            kind = f"{type(x).__module__}.{type(x).__qualname__}"
            raise TypeError(f"jax: {name} is {kind}; give a list, with one entry a parameter, as these are replaced")


@jax.jit
def _loss(params, X, y):
    w, b = params
    return ((X @ w + b - y) ** 2 / 2).mean()


_gradients = jax.jit(jax.grad(_loss))

TAB = JAX()
