"""Optimizers of other libraries as they stand there, driven over gradients that are given."""

import importlib

import numpy as np

from d2l_adam import dialects, protocol

#: What has no default there.
GIVEN = {"lr": 0.01, "momentum": 0.9}


def given(dialect):
    """The constants that have to be given, by their names in the rule."""
    return {x: GIVEN[x] for x, constant in dialect.rule.constants.items() if constant.default is None}


def path(name, start, grads, **constants):
    """The parameter after each step of the library's own optimizer, with its own defaults for what is not given."""
    dialect = dialects.TABLE[name]
    constants = given(dialect) | constants
    arguments = {dialect.constants[x]: value for x, value in constants.items()} | dialect.options
    module, _, cls = dialect.path.rpartition(".")
    if module == "mxnet.optimizer":
        protocol.load("mxnet")  # which imports it as it has to be
    make = getattr(importlib.import_module(module), cls)
    drive = {"keras.optimizers": _keras, "mxnet.optimizer": _mxnet, "optax": _optax}.get(module, _torch)
    return np.array(list(drive(lambda *args: make(*args, **arguments), start, grads)))


def _torch(make, start, grads):
    import torch

    old = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # NAdam keeps a product of its momenta in it
    try:
        p = torch.nn.Parameter(torch.tensor(start))
        optimizer = make([p])
        for g in grads:
            p.grad = torch.tensor(g)
            optimizer.step()
            yield p.detach().numpy().copy()
    finally:
        torch.set_default_dtype(old)


def _keras(make, start, grads):
    import keras

    old = keras.config.floatx()
    keras.config.set_floatx("float64")  # in which it keeps the learning rate
    try:
        p, optimizer = keras.Variable(start, dtype="float64"), make()
        for g in grads:
            optimizer.apply([keras.ops.convert_to_tensor(g, "float64")], [p])
            yield p.numpy()
    finally:
        keras.config.set_floatx(old)


def _mxnet(make, start, grads):
    import mxnet

    p, optimizer = mxnet.nd.array(start, dtype=start.dtype), make()
    state = optimizer.create_state_multi_precision(0, p)
    for g in grads:
        optimizer.update_multi_precision(0, p, mxnet.nd.array(g, dtype=g.dtype), state)
        yield p.asnumpy()


def _optax(make, start, grads):
    import jax
    import optax

    with jax.enable_x64(True):
        p, optimizer = jax.numpy.asarray(start), make()
        state = optimizer.init(p)
        step = jax.jit(optimizer.update)
        for g in grads:
            updates, state = step(jax.numpy.asarray(g), state, p)
            p = optax.apply_updates(p, updates)
            yield np.asarray(p)
