"""The TensorFlow tab: the spec on `tf.Variable`, in the calling convention of `d2l.tensorflow`."""

import sys

from d2l_adam import binding, checks, imports

with imports.framework("tensorflow", pip="tensorflow"):
    import tensorflow as tf
    from tensorflow import sign, sqrt, square  # noqa: F401  the words of the spec

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


def float32(x):
    return tf.cast(x, tf.float32)


def asnumpy(x):
    return x.numpy()


def zeros(shape, dtype=None):
    return tf.Variable(tf.zeros(shape, dtype or tf.float32))


def step(rule):
    """Return `rule` as one step on variables, in the convention of `d2l.tensorflow`."""
    bound = binding.bind(sys.modules[__name__], rule)

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
        this = sys.modules[__name__]
        params, grads = checks.listed(this, "params", params), list(checks.listed(this, "grads", grads))
        for i, (p, g) in enumerate(zip(params, grads, strict=False)):
            if isinstance(p, tf.Variable) and isinstance(g, tf.IndexedSlices):
                grads[i] = _dense(i, p, g)
        bound(params, grads, states, hyperparams)

    return one_step


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
    if values.dtype == p.dtype and p.dtype.name in checks.HALF:  # of another dtype, they are refused as they are
        values = float32(values)
    return tf.math.unsorted_segment_sum(values, rows, shape[0])


def regression(w, b):
    """Linear regression from weights `w` and bias `b`: its parameters, `loss(X, y)` and `gradients(X, y)`."""
    w, b = params = [tf.Variable(x) for x in (w, b)]

    def loss(X, y):
        return tf.reduce_mean((X @ w + b - y) ** 2 / 2)

    def gradients(X, y):
        with tf.GradientTape() as tape:
            error = loss(tf.constant(X), tf.constant(y))
        return (tape.gradient(error, params),)

    return params, loss, gradients


binding.publish(sys.modules[__name__])
