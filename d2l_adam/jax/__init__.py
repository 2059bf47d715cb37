"""The JAX tab: the spec on `jax.Array`, in the calling convention of the book's next edition and of optax."""

from d2l_adam import spec
from d2l_adam.jax.framework import jax
from d2l_adam.jax.tab import TAB

from d2l_adam.jax.native import Adam, Yogi  # isort: skip  it needs what the tab has imported

__all__ = ["Adam", "Yogi", "jax"]

NAME = TAB.name
step, optimizer, like, init_states = TAB.step, TAB.optimizer, TAB.like, TAB.init_states
save, load = TAB.save, TAB.load
init_adam_states, init_momentum_states = TAB.init_adam_states, TAB.init_momentum_states
init_adagrad_states, init_rmsprop_states = TAB.init_adagrad_states, TAB.init_rmsprop_states
init_adadelta_states = TAB.init_adadelta_states
adam = TAB.step(spec.adam)
yogi = TAB.step(spec.yogi)
sgd = TAB.step(spec.sgd)
sgd_momentum = TAB.step(spec.sgd_momentum)
adagrad = TAB.step(spec.adagrad)
rmsprop = TAB.step(spec.rmsprop)
adadelta = TAB.step(spec.adadelta)


def __getattr__(name):
    return TAB.late(name)
