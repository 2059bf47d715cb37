"""What the chapter takes from `d2l`, whose module for JAX has none of it: data, the two training loops, and figures."""

import sys
import time

import numpy
from flax import nnx
from matplotlib import pyplot as plt

from d2l_adam import data
from d2l_adam.jax.framework import jax, jnp

__all__ = ["get_data_ch11", "plt", "train_ch11", "train_concise_ch11", "zeros"]

zeros = jnp.zeros


class _Batches:
    """Minibatches of some rows, in a new order each time."""

    def __init__(self, features, labels, batch_size):
        self.features, self.labels, self.batch_size = features, labels, batch_size

    def __len__(self):
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self):
        order = numpy.random.permutation(len(self.labels))
        for first in range(0, len(order), self.batch_size):
            rows = order[first : first + self.batch_size]
            yield self.features[rows], self.labels[rows]


def get_data_ch11(batch_size=10, n=1500):
    """Return the first `n` rows of the airfoil data in minibatches `(X, y)`, and the number of features."""
    features, labels = (x[:n].astype("float32") for x in data.airfoil())
    return _Batches(features, labels.reshape(-1), batch_size), features.shape[1]


def _loss(net, X, y):
    return ((net(X).reshape(y.shape) - y) ** 2 / 2).mean()


def _train(step, loss, data_iter, num_epochs):
    """Make the steps; draw and return the loss over all rows, and the seconds up to it, at each multiple of 200."""
    seconds, losses, epochs, seen = [], [], [], 0
    for _ in range(num_epochs):
        for X, y in data_iter:
            began = time.perf_counter()
            step(X, y)
            seconds.append(time.perf_counter() - began)
            before, seen = seen, seen + len(X)
            if seen // 200 > before // 200:
                epochs.append(seen / len(data_iter.labels))
                losses.append(float(loss(data_iter.features, data_iter.labels)))
    if "ipykernel" in sys.modules:  # in a notebook, as vectors, as d2l does
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg")
    axes = plt.subplots(figsize=(3.5, 2.5))[1]
    axes.plot(epochs, losses)
    axes.set(xlabel="epoch", ylabel="loss", xlim=[0, num_epochs], ylim=[0.22, 0.35])
    axes.grid()
    print(f"loss: {losses[-1]:.3f}, {sum(seconds) / num_epochs:.3f} sec/epoch")
    return numpy.cumsum(seconds).tolist(), losses


def train_ch11(trainer_fn, states, hyperparams, data_iter, feature_dim, num_epochs=2):
    """Train linear regression with a function of the chapter; return the seconds so far, and the losses."""
    params = [jnp.asarray(numpy.random.normal(scale=0.01, size=(feature_dim, 1)), "float32"), jnp.zeros(1)]

    def loss(params, X, y):
        return _loss(lambda X: X @ params[0] + params[1], X, y)

    compute, gradients = jax.jit(loss), jax.jit(jax.grad(loss))

    def step(X, y):
        nonlocal params
        params = list(trainer_fn(params, gradients(params, X, y), states, hyperparams))

    return _train(step, lambda X, y: compute(params, X, y), data_iter, num_epochs)


def train_concise_ch11(trainer_fn, hyperparams, data_iter, num_epochs=4):
    """Train a dense layer of flax with an optimizer of optax, made by `trainer_fn(**hyperparams)`."""
    init = nnx.initializers.normal(0.01)
    net = nnx.Linear(data_iter.features.shape[1], 1, kernel_init=init, rngs=nnx.Rngs(numpy.random.randint(2**31)))
    optimizer = nnx.Optimizer(net, trainer_fn(**hyperparams), wrt=nnx.Param)
    update = nnx.jit(lambda net, optimizer, X, y: optimizer.update(net, nnx.grad(_loss)(net, X, y)))
    compute = nnx.jit(_loss)
    _train(lambda X, y: update(net, optimizer, X, y), lambda X, y: compute(net, X, y), data_iter, num_epochs)
