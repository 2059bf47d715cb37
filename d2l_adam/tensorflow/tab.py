"""What TensorFlow is as a tab."""

import itertools

from d2l_adam import contract
from d2l_adam.interrupt import deferred
from d2l_adam.rule import Rule
from d2l_adam.step import Step
from d2l_adam.tab import Tab
from d2l_adam.tensorflow.framework import tf
from d2l_adam.tensorflow.numbers import Number, word


class TensorFlow(Tab):
    """TensorFlow's variables; gradients are passed to a step.

    They lend no memory, as tensors that were read before share it, and are never to change. So the step of all
    parameters is one graph of the rule, which TensorFlow makes for each set of shapes and dtypes, and keeps.
    """

    name = module = "tensorflow"
    unfused = "graph"
    parameter_type, gradient_type = tf.Variable, tf.Tensor
    words = {name: word(getattr(tf, name)) for name in ("maximum", "sign", "sqrt", "square")}

    def kind(self, x):
        # A variable may have been made for values of any shape.
        return x.shape if x.shape.is_fully_defined() else x.read_value().shape, x.dtype.name, x.device

    def write(self, arrays, values):
        for x, value in zip(arrays, values, strict=True):
            x.assign(tf.cast(value, x.dtype), read_value=False)

    def float32(self, x):
        return tf.cast(x, tf.float32)

    def asnumpy(self, x):
        return x.numpy()

    def zeros(self, shape, dtype=None):
        return tf.Variable(tf.zeros(shape, dtype or tf.float32))

    def zeros_like(self, p):
        shape, dtype, device = self.kind(p)
        with tf.device(device):
            return self.zeros(shape, contract.state_dtype(dtype))

    def compute(self, step, rows, numbers, options, choice):
        if choice is False or not rows:
            return super().compute(step, rows, numbers, options, choice)
        calls = []
        for first in range(0, len(rows), _MANY):
            some = rows[first : first + _MANY]
            key = tuple(numbers), tuple((row.p.dtype, row.g.dtype, row.g.shape) for row in some)
            if key not in step.kernels:
                step.kernels[key] = _graph(step, *key)
            arguments = [tf.constant([float(x) for x in numbers.values()], tf.float64)]
            for p, g, state, _ in some:
                arguments += p.handle, g, *(x.handle for x in state)
            calls.append(_Call(step.kernels[key], arguments))
        return calls

    def dense(self, params, grads):
        """The gradients, every `tf.IndexedSlices` made dense: the values of duplicate rows summed."""
        grads = list(grads)
        for i, (p, g) in enumerate(zip(params, grads, strict=False)):
            if isinstance(p, tf.Variable) and isinstance(g, tf.IndexedSlices):
                grads[i] = _dense(i, p, g)
        return grads

    def step(self, rule):
        step = Step(self, rule)

        def one_step(params, grads, states, hyperparams):
            """Make one step in place, eagerly. `params` are `tf.Variable`s, `grads` their gradients.

            A gradient may be a `tf.IndexedSlices`: it is made dense first, the values of duplicate rows
            summed.
            """
            if not tf.executing_eagerly():
                raise TypeError(
                    "tensorflow: this step is for eager use. Its time step t is a Python number, which tf.function "
                    "would freeze at its first value while it traces the graph; call the step outside of tf.function"
                )
            params, grads = contract.listed(self, "params", params), contract.listed(self, "grads", grads)
            with deferred():  # TensorFlow's own operations may crash where they are interrupted
                step(params, grads, states, hyperparams)

        return self.documented(one_step, step.rule)

    def optimizer(self, rule, initial=None):
        from d2l_adam.tensorflow import native

        return native.made(Rule(rule, initial))

    def carried(self, params, optimizer):
        from d2l_adam.tensorflow import native

        return native.carried(params, optimizer)

    def parameter(self, x):
        return tf.Variable(x)

    def give(self, p, g):
        return tf.constant(g)

    def regression(self, w, b):
        w, b = params = [self.parameter(x) for x in (w, b)]

        def loss(X, y):
            return tf.reduce_mean((X @ w + b - y) ** 2 / 2)

        @tf.function(input_signature=[tf.TensorSpec((None, n), w.dtype) for n in (w.shape[0], 1)])
        def gradients(X, y):
            with tf.GradientTape() as tape:
                error = loss(X, y)
            return (tape.gradient(error, params),)

        return params, loss, gradients


#: So many parameters are in one graph, which takes 20 ms for each to be made, once.
_MANY = 50


class _Call:
    """A graph that makes a step, to be called once: interrupts are kept back from it."""

    zeroed = False

    def __init__(self, graph, arguments):
        self.graph, self.arguments, self.done = graph, arguments, False

    def run(self):
        if not self.done:
            # As `self.graph(*self.arguments)`, which looks at each argument once more: a step takes 3 times as long.
            tf.raw_ops.StatefulPartitionedCall(args=self.arguments, Tout=[], f=self.graph)
            self.done = True


def _graph(step, names, kinds):
    """A graph of the step of parameters of these kinds: it takes the numbers, then for each what holds its arrays."""
    width = len(step.rule.state)
    specs = [tf.TensorSpec((len(names),), tf.float64)]
    for _, dtype, shape in kinds:
        specs += tf.TensorSpec((), tf.resource), tf.TensorSpec(shape, dtype), *[tf.TensorSpec((), tf.resource)] * width

    def graph(given, *arrays):
        numbers, rest = dict(zip(names, map(Number, tf.unstack(given)), strict=True)), iter(arrays)
        for dtype, _, shape in kinds:
            full = tf.as_dtype(contract.state_dtype(dtype.name))
            p, g, *state = itertools.islice(rest, 2 + width)
            values = [tf.raw_ops.ReadVariableOp(resource=p, dtype=dtype)]
            values += [tf.raw_ops.ReadVariableOp(resource=x, dtype=full) for x in state]
            for x in values:
                x.set_shape(shape)
            old = tf.cast(values[0], full), *values[1:]
            new = contract.returned(TAB, step.rule, old, step.bound(old[0], tf.cast(g, full), *old[1:], **numbers))
            for x, value, before in zip((p, *state), new, values, strict=True):
                tf.raw_ops.AssignVariableOp(resource=x, value=tf.cast(value, before.dtype))

    return tf.function(graph, autograph=False).get_concrete_function(*specs)


def _dense(i, p, slices):
    values, rows, shape = tf.convert_to_tensor(slices.values), tf.convert_to_tensor(slices.indices), TAB.kind(p)[0]
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
    return summed(values, rows, shape[0], in_float32=values.dtype == p.dtype and p.dtype.name in contract.HALF)


def summed(values, rows, num_rows, in_float32):
    """The values of each row, those of duplicate rows summed."""
    return tf.math.unsorted_segment_sum(tf.cast(values, tf.float32) if in_float32 else values, rows, num_rows)


TAB = TensorFlow()
