"""The MXNet tab: the spec on `mxnet.np.ndarray`, in the calling convention of `d2l.mxnet` and of Gluon.

Importing it turns on MXNet's NumPy semantics (`npx.set_np()`), as the chapter's first cell does, and
registers the optimizers "yogi" and "d2l_adam".
"""

import sys

from d2l_adam import spec
from d2l_adam.mxnet.framework import mxnet, role
from d2l_adam.mxnet.tab import TAB

from d2l_adam.mxnet.native import Adam, Yogi  # isort: skip  it needs what the tab has imported

__all__ = ["Adam", "Yogi", "mxnet"]

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


if role in ("server", "scheduler"):  # until the workers are done; then, as after `import mxnet`, there is no more to do
    mxnet.kvstore.KVStoreServer(mxnet.kvstore.create("dist")).run()
    sys.exit()
