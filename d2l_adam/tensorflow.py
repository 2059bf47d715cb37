"""The TensorFlow tab: the spec on `tf.Variable`, in the calling convention of `d2l.tensorflow` and of Keras."""

import functools
import itertools
import math
import operator
import sys
import weakref
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy

from d2l_adam import binding, checkpoint, contract, fused, imports, spec

imports.triton()
with imports.framework("tensorflow", pip="tensorflow"):
    import tensorflow as tf
    from tensorflow import sign, sqrt, square  # noqa: F401  the words of the spec
    from tensorflow.python.ops.gen_functional_ops import stateful_partitioned_call
    from tensorflow.python.ops.gen_resource_variable_ops import (
        assign_add_variable_op,
        assign_variable_op,
        read_variable_op,
    )
    from tensorflow.python.ops.resource_variable_ops import ResourceVariable
with imports.framework("keras", pip="keras"):
    import keras

_THIS = sys.modules[__name__]
NAME = "tensorflow"
PARAMETER, GRADIENT = tf.Variable, tf.Tensor


def kind(x):
    # A variable may have been made for values of any shape.
    return x.shape if x.shape.is_fully_defined() else x.read_value().shape, x.dtype.name, x.device


def writable(x):
    return True


def write(arrays, values):
    for x, value in zip(arrays, values, strict=True):
        x.assign(tf.cast(value, x.dtype), read_value=False)


fill = write


def float32(x):
    return tf.cast(x, tf.float32)


def asnumpy(x):
    return x.numpy()


def zeros(shape, dtype=None):
    make = tf.Variable if tf.distribute.has_strategy() else State
    return make(tf.zeros(shape, dtype or tf.float32))


parameter = tf.Variable


def give(p, g):
    return tf.constant(g)


class State(ResourceVariable):
    """A variable whose value is changed where it lies, in memory of NumPy's, until anybody else asks for its handle.

    All of TensorFlow needs the handle to read or to write it; then its tensors may share the memory, which are never
    to change, and each new value goes to another place, as that of any variable.
    """

    _place: "_Place | None" = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.shared = False

    @property
    def _handle(self):
        self.shared = True
        return self.own

    @_handle.setter
    def _handle(self, handle):
        self.own = handle

    def place(self):
        """Its memory, or None if it is shared."""
        if self._place is None and not self.shared and self.own.device == _CPU:
            place = _Place(self)
            place.array[...] = numpy.asarray(memoryview(read_variable_op(self.own, self.dtype)))
            assign_variable_op(self.own, place.lend())
            self._place, self.shared = place, place.lent() is None  # it was copied, for some reason
        return None if self.shared else self._place


class _Place:
    """Memory for a value of a variable, which can be lent to one tensor at a time."""

    __slots__ = "address", "array", "lent", "like"

    def __init__(self, x):
        dtype, shape = numpy.dtype(x.dtype.as_numpy_dtype), tuple(x.shape)
        size, aligned = math.prod(shape) * dtype.itemsize, 64  # otherwise TensorFlow would copy it
        memory = numpy.empty(size + aligned, numpy.uint8)
        start = -memory.__array_interface__["data"][0] % aligned
        self.array = memory[start : start + size].view(dtype).reshape(shape)
        self.address, self.like = _address(self.array), (shape, dtype)
        self.lent: Callable[[], Any] = lambda: None

    def lend(self):
        """A tensor in this memory; `lent()` is None again when the last that shares it is gone."""
        view = self.array.view()
        self.lent = weakref.ref(view)
        return tf.experimental.dlpack.from_dlpack(view.__dlpack__())


def num_threads():
    return tf.config.threading.get_intra_op_parallelism_threads() or sys.maxsize


_CPU = "/job:localhost/replica:0/task:0/device:CPU:0"
_FULL = {numpy.dtype(name): name for name in contract.FULL}
_ZEROS = numpy.zeros(1 << 16)
_ZERO = _ZEROS.__array_interface__["data"][0]


def lend(params, grads, states, adds):
    places: list[int] = []
    assigned: list[tuple] = []
    handles: list[Any] = []
    steps: list[Any] = []
    kept: list[Any] = [grads]
    dtype = numpy.dtype(params[0].dtype.as_numpy_dtype)
    if dtype not in _FULL or len({id(x) for x in itertools.chain(params, *states)}) < 3 * len(params):
        return None
    for p, g, pair in zip(params, grads, states, strict=True):
        if not (type(g) is tf.__internal__.EagerTensor and g.device == _CPU):
            return None
        gradient = numpy.asarray(memoryview(g))
        like, size, olds, news = (gradient.shape, dtype), gradient.size, [], []
        if gradient.dtype != dtype:
            return None
        for x in (p, *pair):
            if x is p and adds and size <= len(_ZEROS):  # its value need not be known
                new, step = x.__dict__.get("_d2l_step") or _step_of(x)
                address = _ZERO
                handles.append(x.handle)
                steps.append(step)
            elif x is not p and type(x) is State and (new := x.place()):
                address = new.address
            else:
                value = _value(x)
                kept.append(value)
                new, address = _next(x), _address(value)
                assigned.append((x, new))
            if new.like != like:
                return None
            olds.append(address)
            news.append(new.address)
        if size:
            places += *olds, *news, _address(gradient), size
    summed = []
    for first in range(0, len(handles), _MANY):
        some = handles[first : first + _MANY]
        summed.append((_sum(len(some), _FULL[dtype]), some + steps[first : first + _MANY]))
    return fused.Memory(_FULL[dtype], places, (summed, assigned, kept))


def _step_of(x):
    """Memory for what is to be added to a variable, and the tensor in it: made once, so that this looks at it once."""
    _plain(x)
    place = _Place(x)
    x.__dict__["_d2l_step"] = place, place.lend()
    return x.__dict__["_d2l_step"]


def _plain(x):
    if type(x) not in (ResourceVariable, State) or x.device != _CPU:
        raise TypeError


#: So many variables are added to in one call, which costs as much as two eager additions and little more for each.
_MANY = 50


@functools.cache
def _sum(number, dtype):
    """A graph that adds to so many variables, whichever they are: it takes their handles, then what to add to each.

    It captures none of these: it would keep them alive, and TensorFlow takes a small captured tensor for a constant.
    """

    def add(*args):
        for handle, step in zip(args[:number], args[number:], strict=True):
            assign_add_variable_op(handle, step)

    handles, steps = [tf.TensorSpec((), tf.resource)] * number, [tf.TensorSpec(None, dtype)] * number
    with tf.device(_CPU):
        return tf.function(add, autograph=False).get_concrete_function(*handles, *steps)


def _called(graph, args):
    """What a graph makes of tensors. As one operation of this thread it costs less than `graph(...)`, in others."""
    return stateful_partitioned_call(args, [x.dtype for x in graph.outputs], graph)


def _next(x):
    """Memory for the next value of a variable, as the last may be in use: the one before, if that is free."""
    _, before = x.__dict__.get("_d2l_adam", (None, None))
    return _Place(x) if before is None or before.lent() is not None else before


def stepped(arrays, zero_grad):
    summed, assigned, _ = arrays
    for graph, args in summed:
        _called(graph, args)
    for x, place in assigned:
        assign_variable_op(x.handle, place.lend())
        last, _ = x.__dict__.get("_d2l_adam", (None, None))
        x.__dict__["_d2l_adam"] = place, last


def _value(x):
    """The value of a variable, as an array that shares its memory."""
    _plain(x)
    return numpy.asarray(memoryview(read_variable_op(x.handle, x.dtype)))


def _address(array):
    return array.__array_interface__["data"][0]


def step(rule):
    """Return `rule` as one step on variables, in the convention of `d2l.tensorflow`."""
    bound = binding.bind(_THIS, rule)

    def one_step(params, grads, states, hyperparams):
        """Make one step in place, eagerly. `params` are `tf.Variable`s, `grads` their gradients.

        A gradient may be a `tf.IndexedSlices`: it is made dense first, the values of duplicate rows
        summed.
        """
        if not tf.executing_eagerly():
            raise TypeError(
                "tensorflow: this step is for eager use. Its time step t is a Python number, which tf.function would "
                "freeze at its first value while it traces the graph; call the step outside of tf.function"
            )
        params, grads = contract.listed(_THIS, "params", params), contract.listed(_THIS, "grads", grads)
        bound(params, grads, states, hyperparams)

    return one_step


def dense(params, grads):
    """The gradients, every `tf.IndexedSlices` made dense: the values of duplicate rows summed."""
    grads = list(grads)
    for i, (p, g) in enumerate(zip(params, grads, strict=False)):
        if isinstance(p, tf.Variable) and isinstance(g, tf.IndexedSlices):
            grads[i] = _dense(i, p, g)
    return grads


def _dense(i, p, slices):
    values, rows, shape = tf.convert_to_tensor(slices.values), tf.convert_to_tensor(slices.indices), kind(p)[0]
    if not (shape.rank and rows.dtype.is_integer and rows.shape.rank == 1 and values.shape == rows.shape + shape[1:]):
        raise ValueError(
            f"tensorflow: gradient of parameter {i} has values of shape {tuple(values.shape)} at rows of shape "
            f"{tuple(rows.shape)}, {rows.dtype.name}; parameter {i} has shape {tuple(shape)}; give a value for each row"
        )
    rows = tf.cast(rows, tf.int64)
    if len(rows) and not 0 <= tf.reduce_min(rows) <= tf.reduce_max(rows) < shape[0]:
        raise ValueError(
            f"tensorflow: gradient of parameter {i} has rows {tf.reduce_min(rows)} to {tf.reduce_max(rows)}; "
            f"parameter {i} has {shape[0]}, numbered from 0"
        )
    # Values of another dtype than the parameter's are refused as they are.
    return _summed(values, rows, shape[0], in_float32=values.dtype == p.dtype and p.dtype.name in contract.HALF)


def _summed(values, rows, num_rows, in_float32):
    return tf.math.unsorted_segment_sum(float32(values) if in_float32 else values, rows, num_rows)


def regression(w, b):
    """Linear regression from weights `w` and bias `b`: its parameters, `loss(X, y)` and `gradients(X, y)`."""
    w, b = params = [parameter(x) for x in (w, b)]

    def loss(X, y):
        return tf.reduce_mean((X @ w + b - y) ** 2 / 2)

    @tf.function(input_signature=[tf.TensorSpec((None, n), w.dtype) for n in (w.shape[0], 1)])
    def graph(X, y):
        with tf.GradientTape() as tape:
            error = loss(X, y)
        return tape.gradient(error, params)

    graph = graph.get_concrete_function()

    def gradients(X, y):
        return (_called(graph, [tf.constant(X), tf.constant(y), *graph.captured_inputs]),)

    return params, loss, gradients


_ARGUMENTS = """
Args:
    learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`, or a function
        without arguments that returns the value to use. A float is used in double precision.
        Defaults to `{learning_rate}`.
    beta_1: A float in [0, 1), the decay rate of the average of the gradient. Defaults to `{beta_1}`.
    beta_2: The same of its square. Defaults to `{beta_2}`.
    epsilon: A float, added to the root of the second average *after* the correction of its bias,
        as in the papers. `keras.optimizers.Adam` adds its `epsilon` (1e-7) before: that is the
        "epsilon hat" of Kingma and Ba, and stands for `epsilon * sqrt(1 - beta_2**t)` at step t. The
        default is the chapter's. Defaults to `{epsilon}`.
    amsgrad: Only False, as True is another rule. Defaults to False.
    **options: What every Keras optimizer takes: `weight_decay`, `clipnorm`, `clipvalue`,
        `global_clipnorm`, `use_ema`, `ema_momentum`, `ema_overwrite_frequency`,
        `loss_scale_factor`, `gradient_accumulation_steps`, `name`.

Variables of any shape, in float16, bfloat16, float32 or float64. The averages of float16 and bfloat16
variables are float32. A `tf.IndexedSlices` is made dense first, the values of duplicate rows summed:
each step moves all rows, as those whose gradient is zero have averages too.

To load a model that was saved with it, import `d2l_adam.tensorflow` first.
"""


@binding.native(_THIS, spec.adam, _ARGUMENTS)
@keras.saving.register_keras_serializable("d2l_adam")
class Adam(keras.optimizers.Optimizer):
    """Adam of the chapter as a `keras.optimizers.Optimizer`, for the TensorFlow backend.

    >>> import tensorflow as tf
    >>> from d2l_adam.tensorflow import Adam
    >>> weight = tf.Variable([1.0, 2.0])
    >>> optimizer = Adam(learning_rate=0.1)
    >>> with tf.GradientTape() as tape:
    ...     loss = tf.reduce_sum(weight**2)
    >>> optimizer.apply(tape.gradient(loss, [weight]), [weight])
    >>> weight.numpy().round(3)
    array([0.9, 1.9], dtype=float32)
    """

    def __init__(self, learning_rate=1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-6, amsgrad=False, **options):
        if keras.config.backend() != "tensorflow":
            raise ValueError(
                f"tensorflow: Keras runs on {keras.config.backend()} here; set the environment variable "
                "KERAS_BACKEND=tensorflow before it is imported"
            )
        if amsgrad:
            raise ValueError("tensorflow: amsgrad=True is another rule than this; leave it out, or False")
        numbers = {"t": 1, "lr": 0.0, "beta1": beta_1, "beta2": beta_2, "eps": epsilon}
        contract.numbers(_THIS, self.constants, numbers)
        contract.number(_THIS, "weight_decay", options.get("weight_decay") or 0)
        learning_rate = _checked(learning_rate)
        super().__init__(learning_rate, **options)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self._given_rate = learning_rate

    @property
    def learning_rate(self):
        """The learning rate: a variable of dtype `keras.config.floatx()`, or what the schedule says now."""
        return super().learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        learning_rate = _checked(learning_rate)
        keras.optimizers.Optimizer.learning_rate.fset(self, learning_rate)
        self._given_rate = learning_rate

    def _rate(self, learning_rate):
        """The learning rate in double precision: the number given, as long as the variable holds its rounding."""
        lr = tf.cast(learning_rate, tf.float64)
        if isinstance(self._given_rate, float):
            given = tf.constant(self._given_rate, tf.float64)
            lr = tf.where(lr == tf.cast(tf.cast(given, learning_rate.dtype), tf.float64), given, lr)
        return _Number.of(lr)

    def get_config(self):
        """Return the arguments of this optimizer, as `from_config` takes them."""
        config = super().get_config()
        if (
            isinstance(self._given_rate, float)
            and tf.cast(self._given_rate, self._learning_rate.dtype) == config["learning_rate"]
        ):
            config["learning_rate"] = self._given_rate  # the variable has rounded it
        return config | {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}

    def build(self, variables):
        """Make the averages of each variable, zeros; a second call does nothing."""
        if self.built:
            return
        for i, variable in enumerate(variables):
            dtype, known = keras.backend.standardize_dtype(variable.dtype), contract.HALF + contract.FULL
            if dtype not in known:
                raise TypeError(f"tensorflow: variable {i} is {dtype}; convert it to one of {', '.join(known)}")
            if None in tuple(variable.shape):
                raise ValueError(f"tensorflow: variable {i} has shape {tuple(variable.shape)}; give it a definite one")
        super().build(variables)
        self._averages = [(self._zeros(x, "momentum"), self._zeros(x, "velocity")) for x in variables]

    def _zeros(self, variable, name):
        value = variable.value if isinstance(variable, keras.Variable) else variable
        dtype = keras.backend.standardize_dtype(variable.dtype)
        with self._distribution_strategy.extended.colocate_vars_with(value):
            average = self.add_variable(
                shape=variable.shape,
                dtype="float32" if dtype in contract.HALF else dtype,
                name=f"{getattr(variable, 'path', variable.name).replace('/', '_').replace(':', '_')}_{name}",
            )
        if type(average._value) is ResourceVariable and tf.executing_eagerly():
            average._value = State(average._value, trainable=False, name=average.name)
        return average

    def averaging(self):
        """Return the constants of the rule but the learning rate."""
        return {"beta1": float(self.beta_1), "beta2": float(self.beta_2), "eps": float(self.epsilon)}

    def averages(self, variable):
        """Return the averages `(v, s)` of a variable that the optimizer was built for."""
        try:
            return self._averages[self._get_variable_index(variable)]
        except KeyError:
            raise ValueError(
                f"tensorflow: {variable.name} is none of the variables that the optimizer was built for; give those"
            ) from None

    def apply(self, grads, trainable_variables=None):
        """Make one step: check the gradients, make them dense, and go the way of every Keras optimizer."""
        grads = list(grads)
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        if variables and len(grads) != len(variables):
            raise ValueError(f"tensorflow: {len(variables)} variables, {len(grads)} gradients; give one for each")
        for i, (g, p) in enumerate(zip(grads, variables, strict=False)):
            if isinstance(g, tf.IndexedSlices):
                half = g.values.dtype.name in contract.HALF
                g = tf.cast(_summed(g.values, g.indices, p.shape[0], in_float32=half), g.values.dtype)
            g = grads[i] = g if g is None else tf.convert_to_tensor(g)
            if g is not None and not tf.TensorShape(p.shape).is_compatible_with(g.shape):
                shapes = f"has shape {tuple(g.shape)}, variable {i} has {tuple(p.shape)}"
                raise ValueError(f"tensorflow: gradient of variable {i} {shapes}; make them alike")
        halves = [p.name for p in variables if keras.backend.standardize_dtype(p.dtype) in contract.HALF]
        if halves and fused.choice() and tf.executing_eagerly():
            raise ValueError(
                f"tensorflow: this step cannot be fused: {halves[0]} is half precision; leave that choice at None"
            )
        super().apply(grads, None if trainable_variables is None else variables)

    def update_step(self, gradient, variable, learning_rate):
        """Make the step of one variable; called by `apply`."""
        v, s = (x.value for x in self.averages(variable))
        numbers = self.averaging() | {"t": _Number.of(self.iterations + 1), "lr": self._rate(learning_rate)}
        if tf.executing_eagerly() and fused.choice() is not False:  # in a graph, XLA may make it one pass
            p = variable.value if isinstance(variable, keras.Variable) else variable
            if memory := self.loop.memory([p], [gradient], [(v, s)]):
                self.loop.run([memory], numbers)
                return
            if fused.choice():
                raise ValueError(f"tensorflow: this step cannot be fused: {self.loop.why}; leave that choice at None")
        p, g = tf.cast(variable, v.dtype), tf.cast(gradient, v.dtype)
        new = self.kernel(p, g, tf.convert_to_tensor(v), tf.convert_to_tensor(s), **numbers)
        for x, value in zip((variable, v, s), new, strict=True):
            self.assign(x, value)


@binding.native(_THIS, spec.yogi, _ARGUMENTS)
@keras.saving.register_keras_serializable("d2l_adam")
class Yogi(Adam):
    """Yogi of the chapter as a `keras.optimizers.Optimizer`, for the TensorFlow backend.

    >>> import keras
    >>> from d2l_adam.tensorflow import Yogi
    >>> model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    >>> model.compile(optimizer=Yogi(learning_rate=0.01), loss="mse")
    """

    def __init__(self, learning_rate=1e-2, beta_1=0.9, beta_2=0.999, epsilon=1e-3, **options):
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **options)


def carried(params, optimizer):
    """Return what the variables `params` of an `Adam` or `Yogi` carry elsewhere."""
    if not isinstance(optimizer, Adam):
        raise TypeError(
            f"tensorflow: the optimizer is {type(optimizer)}; give an Adam or a Yogi of d2l_adam.tensorflow "
            "(where Keras has put it into a LossScaleOptimizer, that one's inner_optimizer)"
        )
    if not optimizer.built:
        raise ValueError(
            "tensorflow: the optimizer is not built; call optimizer.build(model.trainable_variables) first"
        )
    if optimizer.use_ema:
        raise ValueError("tensorflow: the file has no place for the averages of use_ema; save the model instead")
    accumulated = optimizer.gradient_accumulation_steps or 1
    calls = int(keras.ops.convert_to_numpy(optimizer._iterations))
    if calls % accumulated:
        raise ValueError(
            f"tensorflow: {calls % accumulated} of {accumulated} gradients are accumulated; save and load after a step"
        )

    def set_steps(steps):
        if steps:
            optimizer._iterations.assign(steps[0] * accumulated)

    return checkpoint.Carried(
        params=[[p.value if isinstance(p, keras.Variable) else p] for p in params],
        averages=lambda: [[tuple(x.value for x in optimizer.averages(p))] for p in params],
        steps=[calls // accumulated] * len(params),
        set_steps=set_steps,
        rule=optimizer.rule.__name__,
        constants=optimizer.averaging(),
        one_clock=True,
    )


def _checked(learning_rate):
    """A learning rate, in range if it is a number."""
    if isinstance(learning_rate, Real) and contract.number(_THIS, "lr", learning_rate) == 0:
        return 0.0  # also where it is negative by rounding
    return learning_rate


class _Number:
    """A number that a graph computes, kept in double precision until it meets an array."""

    def __init__(self, x):
        self.x = x

    @classmethod
    def of(cls, x):
        """`x` itself where it is known, as in eager use; else as such a number."""
        x = tf.cast(x, tf.float64)
        return x.numpy().item() if tf.executing_eagerly() else cls(x)


def _operators():
    for name in ("add", "sub", "mul", "truediv", "pow"):
        operation = getattr(operator, name)

        def method(self, other, operation=operation):
            if isinstance(other, tf.Tensor):
                return operation(tf.cast(self.x, other.dtype), other)
            return _Number(operation(self.x, other.x if isinstance(other, _Number) else other))

        def reflected(self, other, operation=operation):
            if isinstance(other, tf.Tensor):
                return operation(other, tf.cast(self.x, other.dtype))
            return _Number(operation(other, self.x))

        setattr(_Number, f"__{name}__", method)
        setattr(_Number, f"__r{name}__", reflected)


_operators()

binding.publish(_THIS)
