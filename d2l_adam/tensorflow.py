"""The TensorFlow tab: the spec on `tf.Variable`, in the calling convention of `d2l.tensorflow`."""

import sys

from d2l_adam import binding

with binding.framework("tensorflow", pip="tensorflow"):
    import tensorflow as tf
    from tensorflow import sign, sqrt, square  # noqa: F401  the words of the spec

NAME = "tensorflow"
PARAMETER = tf.Variable
GRADIENT = tf.Tensor, tf.Variable


def kind(x):
    return x.shape, x.dtype.name, x.device


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
        params, grads = list(params), list(grads)
        for i, (p, g) in enumerate(zip(params, grads, strict=False)):
            if isinstance(p, tf.Variable) and isinstance(g, tf.IndexedSlices):
                grads[i] = _dense(i, p, g)
        bound(params, grads, states, hyperparams)

    return one_step


def _dense(i, p, slices):
    rows, shape = slices.indices, slices.values.shape
    if shape != (*rows.shape, *p.shape[1:]):
        raise ValueError(
            f"tensorflow: gradient of parameter {i} has values of shape {tuple(shape)} for {len(rows)} rows, "
            f"parameter {i} has shape {tuple(p.shape)}; make the rows alike"
        )
    if len(rows) and not 0 <= tf.reduce_min(rows) <= tf.reduce_max(rows) < p.shape[0]:
        raise ValueError(
            f"tensorflow: gradient of parameter {i} has rows {tf.reduce_min(rows)} to {tf.reduce_max(rows)}, "
            f"parameter {i} has {p.shape[0]}; give indices from 0 to {p.shape[0] - 1}"
        )
    values = float32(slices.values) if slices.values.dtype.name in binding.HALF else slices.values
    return tf.math.unsorted_segment_sum(values, rows, p.shape[0])


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


def __getattr__(name):
    return binding.publish(sys.modules[__name__], name)
