"""Rules as `keras.optimizers.Optimizer`s, for the TensorFlow backend."""

import functools
from collections.abc import Mapping
from numbers import Real

from d2l_adam import checkpoint, contract, fused, native, spec
from d2l_adam.interrupt import deferred
from d2l_adam.rule import Rule
from d2l_adam.step import Step
from d2l_adam.tensorflow.framework import keras, tf
from d2l_adam.tensorflow.numbers import Number
from d2l_adam.tensorflow.tab import TAB, summed

_TEXT = """
    **options: What every Keras optimizer takes: `weight_decay`, `clipnorm`, `clipvalue`,
        `global_clipnorm`, `use_ema`, `ema_momentum`, `ema_overwrite_frequency`,
        `loss_scale_factor`, `gradient_accumulation_steps`, `name`.

The learning rate may also be a `keras.optimizers.schedules.LearningRateSchedule`, or a function
without arguments that returns the value to use. A float is used in double precision.

Variables of any shape, in float16, bfloat16, float32 or float64. The state of float16 and bfloat16
variables is float32. A `tf.IndexedSlices` is made dense first, the values of duplicate rows summed:
each step moves all rows, as those whose gradient is zero have averages too.

To load a model that was saved with it, make the class (or import `d2l_adam.tensorflow`, which has Adam and Yogi) first.
"""


class RuleOptimizer(native.OfRule, keras.optimizers.Optimizer):
    """The steps of a rule, as Keras asks for them."""

    #: What the variables of a state are called, where that is not its name in the rule.
    state_names: Mapping[str, str] = {}

    def __init__(self, *args, **kwargs):
        given = self.__signature__.bind(*args, **kwargs)
        given.apply_defaults()
        learning_rate, options = given.arguments.pop("learning_rate"), given.arguments.pop("options", {})
        self._configure(learning_rate, given.arguments, options)

    def _configure(self, learning_rate, constants, options):
        if keras.config.backend() != "tensorflow":
            raise ValueError(
                f"tensorflow: Keras runs on {keras.config.backend()} here; set the environment variable "
                "KERAS_BACKEND=tensorflow before it is imported"
            )
        contract.numbers(TAB, self.rule, {"t": 1, "lr": 0.0, **constants})
        contract.number(TAB, "weight_decay", options.get("weight_decay") or 0)
        learning_rate = _checked(learning_rate)
        super().__init__(learning_rate, **options)
        for name, value in constants.items():
            setattr(self, self.names.get(name, name), value)
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
        return _number(lr)

    def get_config(self):
        """Return the arguments of this optimizer, as `from_config` takes them."""
        config = super().get_config()
        if (
            isinstance(self._given_rate, float)
            and tf.cast(self._given_rate, self._learning_rate.dtype) == config["learning_rate"]
        ):
            config["learning_rate"] = self._given_rate  # the variable has rounded it
        for name in native.constants(self):
            name = self.names.get(name, name)
            config[name] = getattr(self, name)
        return config

    def build(self, variables):
        """Make the state of each variable, as it starts; a second call does nothing."""
        if self.built:
            return
        for i, variable in enumerate(variables):
            dtype, known = keras.backend.standardize_dtype(variable.dtype), contract.HALF + contract.FULL
            if dtype not in known:
                raise TypeError(f"tensorflow: variable {i} is {dtype}; convert it to one of {', '.join(known)}")
            if None in tuple(variable.shape):
                raise ValueError(f"tensorflow: variable {i} has shape {tuple(variable.shape)}; give it a definite one")
        super().build(variables)
        self._states = [tuple(self._start(x, name) for name in self.rule.state) for x in variables]

    def _start(self, variable, name):
        path = getattr(variable, "path", variable.name).replace("/", "_").replace(":", "_")
        with self._distribution_strategy.extended.colocate_vars_with(_variable(variable)):
            return self.add_variable(
                shape=variable.shape,
                dtype=contract.state_dtype(keras.backend.standardize_dtype(variable.dtype)),
                name=f"{path}_{self.state_names.get(name, name)}",
                initializer=lambda shape, dtype: tf.fill(shape, tf.constant(self.rule.initial[name], dtype)),
            )

    def state(self, variable):
        """Return the state of a variable that the optimizer was built for, a tuple of `keras.Variable`s."""
        return self._states[_index(self, variable)]

    def apply(self, grads, trainable_variables=None):
        """Make one step: check the gradients, make them dense, and go the way of every Keras optimizer."""
        grads = list(grads)
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        if variables and len(grads) != len(variables):
            raise ValueError(f"tensorflow: {len(variables)} variables, {len(grads)} gradients; give one for each")
        for i, (g, p) in enumerate(zip(grads, variables, strict=False)):
            if isinstance(g, tf.IndexedSlices):
                half = g.values.dtype.name in contract.HALF
                g = tf.cast(summed(g.values, g.indices, p.shape[0], in_float32=half), g.values.dtype)
            g = grads[i] = g if g is None else tf.convert_to_tensor(g)
            if g is not None and not tf.TensorShape(p.shape).is_compatible_with(g.shape):
                shapes = f"has shape {tuple(g.shape)}, variable {i} has {tuple(p.shape)}"
                raise ValueError(f"tensorflow: gradient of variable {i} {shapes}; make them alike")
        if not tf.executing_eagerly():
            super().apply(grads, None if trainable_variables is None else variables)
            return
        if fused.choice():
            raise ValueError(
                "tensorflow: this step cannot be fused: tensorflow lends no memory; leave that choice at None"
            )
        with deferred():
            super().apply(grads, None if trainable_variables is None else variables)

    def _apply_weight_decay(self, variables):
        if "weight_decay" not in self.rule.constants:  # else the rule itself does so
            super()._apply_weight_decay(variables)

    def update_step(self, gradient, variable, learning_rate):
        """Make the step of one variable; called by `apply`."""
        state = tuple(x.value for x in self.state(variable))
        numbers = native.constants(self) | {"t": _number(self.iterations + 1), "lr": self._rate(learning_rate)}
        if "weight_decay" in numbers and not self._use_weight_decay(variable):
            numbers["weight_decay"] = 0.0
        dtype = contract.state_dtype(keras.backend.standardize_dtype(variable.dtype))
        gradient = tf.cast(gradient, dtype)
        if tf.executing_eagerly():
            for part in self.rule_step.prepare([_variable(variable)], [gradient], [state], numbers):
                part.run()
            return
        values = self.rule_step.bound(
            tf.cast(tf.convert_to_tensor(variable), dtype), gradient, *map(tf.convert_to_tensor, state), **numbers
        )
        for x, value in zip((variable, *state), values, strict=True):
            self.assign(x, value)


_ADAM = """
    amsgrad (bool): with Adam, take the largest second moment so far, as `keras.optimizers.Adam` does, `epsilon` where
        that has it (default: False)
"""
_EPSILON = """
`keras.optimizers.Adam` adds its `epsilon` (1e-7) before the bias is corrected: that is the "epsilon hat" of Kingma and
Ba, and stands for `epsilon * sqrt(1 - beta_2**t)` at step t. Here it is added after that, as in the papers; the default
is the chapter's.
"""


@keras.saving.register_keras_serializable("d2l_adam")
class Adam(RuleOptimizer):
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

    rule_step = Step(TAB, spec.adam)
    amsgrad_step: Step | None = Step(TAB, spec.amsgrad_hat)
    names = {"beta1": "beta_1", "beta2": "beta_2", "eps": "epsilon"}
    state_names = {"v": "momentum", "s": "velocity", "x": "velocity_hat"}

    def __init__(self, learning_rate=1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-6, amsgrad=False, **options):
        self._configure(learning_rate, {"beta1": beta_1, "beta2": beta_2, "eps": epsilon}, options)
        if amsgrad:
            self._take_amsgrad()

    def get_config(self):
        """Return the arguments of this optimizer, as `from_config` takes them."""
        config = super().get_config()
        return config | {"amsgrad": True} if self.rule_step is self.amsgrad_step else config


@keras.saving.register_keras_serializable("d2l_adam")
class Yogi(Adam):
    """Yogi of the chapter as a `keras.optimizers.Optimizer`, for the TensorFlow backend.

    >>> import keras
    >>> from d2l_adam.tensorflow import Yogi
    >>> model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    >>> model.compile(optimizer=Yogi(learning_rate=0.01), loss="mse")
    """

    rule_step = Step(TAB, spec.yogi)
    amsgrad_step = None

    def __init__(self, learning_rate=1e-2, beta_1=0.9, beta_2=0.999, epsilon=1e-3, **options):
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **options)


for _class in (Adam, Yogi):
    native.describe(_class, "learning_rate", _ADAM.rstrip() + _TEXT + _EPSILON)


def made(rule: Rule) -> type:
    """Return a class of optimizers of a rule, which Keras knows by the name of the rule when it loads a model."""
    name = rule.dialect or f"rule_{rule.name}" + "".join(f" {x} {start}" for x, start in rule.initial.items() if start)
    return keras.saving.register_keras_serializable("d2l_adam", name)(_made(rule))


@functools.cache
def _made(rule):
    return native.made(RuleOptimizer, TAB, rule, "learning_rate", (), {"options": {}}, _TEXT)


def carried(params: list, optimizer: keras.optimizers.Optimizer) -> checkpoint.Carried:
    """Return what the variables `params` of an optimizer of this module, or of Keras, carry elsewhere."""
    if isinstance(optimizer, RuleOptimizer):
        rule, constants, state = optimizer.rule, native.constants(optimizer), optimizer.state
    else:
        make = (
            "an Adam or a Yogi of d2l_adam.tensorflow (where Keras has put it into a LossScaleOptimizer, that one's "
            "inner_optimizer)"
        )
        given = optimizer.get_config() if isinstance(optimizer, keras.optimizers.Optimizer) else {}
        harmless = {*keras.optimizers.Optimizer(0.0).get_config(), "initial_accumulator_value"}
        row, constants = native.of_library(TAB, optimizer, "keras.optimizers", given, harmless, make)
        rule = row.rule

        def state(variable):
            i = _index(optimizer, variable)
            return tuple(getattr(optimizer, name)[i] for name in row.state.values())

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
        params=[[_variable(p)] for p in params],
        states=lambda: [[tuple(x.value for x in state(p))] for p in params],
        steps=[calls // accumulated] * len(params),
        set_steps=set_steps,
        rule=rule,
        constants=constants,
        one_clock=True,
    )


def _index(optimizer, variable):
    try:
        return optimizer._get_variable_index(variable)
    except KeyError:
        raise ValueError(
            f"tensorflow: {variable.name} is none of the variables that the optimizer was built for; give those"
        ) from None


def _variable(x):
    """TensorFlow's variable of a Keras one."""
    return x.value if isinstance(x, keras.Variable) else x


def _checked(learning_rate):
    """A learning rate, in range if it is a number."""
    if isinstance(learning_rate, Real) and contract.number(TAB, "lr", learning_rate) == 0:
        return 0.0  # also where it is negative by rounding
    return learning_rate


def _number(x):
    """A number where it is known, as in eager use; else one that the graph computes."""
    return tf.cast(x, tf.float64).numpy().item() if tf.executing_eagerly() else Number(x)
