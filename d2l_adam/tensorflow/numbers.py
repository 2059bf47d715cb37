"""Numbers that a TensorFlow graph computes, such as `1 - beta2**t`: in double precision until they meet an array."""

import operator

from d2l_adam.tensorflow.framework import tf


class Number:
    """A number of a graph; `x` is a tensor in float64."""

    def __init__(self, x):
        self.x = tf.cast(x, tf.float64)

    def __neg__(self):
        return Number(-self.x)

    def __abs__(self):
        return Number(abs(self.x))


def _operators():
    for name in ("add", "sub", "mul", "truediv", "pow"):
        operation = getattr(operator, name)

        def method(self, other, operation=operation):
            if isinstance(other, tf.Tensor):
                return operation(tf.cast(self.x, other.dtype), other)
            return Number(operation(self.x, other.x if isinstance(other, Number) else other))

        def reflected(self, other, operation=operation):
            if isinstance(other, tf.Tensor):
                return operation(other, tf.cast(self.x, other.dtype))
            return Number(operation(other, self.x))

        setattr(Number, f"__{name}__", method)
        setattr(Number, f"__r{name}__", reflected)


_operators()


def word(function):
    """Return a word of TensorFlow's that takes such numbers, too."""

    def of_numbers_too(*args):
        dtype = next((x.dtype for x in args if isinstance(x, tf.Tensor)), None)
        if dtype is None:
            return Number(function(*(x.x if isinstance(x, Number) else tf.constant(x, tf.float64) for x in args)))
        return function(*(tf.cast(x.x if isinstance(x, Number) else x, dtype) for x in args))

    return of_numbers_too
