"""Numbers that a TensorFlow graph computes, such as `1 - beta2**t`: in double precision until they meet an array."""

from numpy.lib.mixins import NDArrayOperatorsMixin

from d2l_adam.tensorflow.framework import tf


class Number(NDArrayOperatorsMixin):
    """A number of a graph; `x` is a tensor in float64."""

    def __init__(self, x):
        self.x = tf.cast(x, tf.float64)

    def __array_ufunc__(self, ufunc, method, *inputs):
        """Do what each of Python's operators asks for, by NumPy's name of it."""
        name = {"power": "pow", "absolute": "abs"}.get(ufunc.__name__, ufunc.__name__)
        return word(getattr(tf, name))(*inputs)


def word(function):
    """Return a function of TensorFlow's that takes such numbers, too."""

    def of_numbers_too(*args):
        dtype = next((x.dtype for x in args if isinstance(x, tf.Tensor)), None)
        if dtype is None:
            return Number(function(*(x.x if isinstance(x, Number) else tf.constant(x, tf.float64) for x in args)))
        return function(*(tf.cast(x.x if isinstance(x, Number) else x, dtype) for x in args))

    return of_numbers_too
