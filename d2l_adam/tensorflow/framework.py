"""TensorFlow and Keras, imported; or what is to be done."""

from d2l_adam import imports

imports.triton()
with imports.framework("tensorflow", pip="tensorflow"):
    import tensorflow as tf
with imports.framework("keras", pip="keras"):
    import keras

__all__ = ["keras", "tf"]
