"""The chapter's training run by several processes in MXNet, each with its part of every batch.

The workers meet at the key-value store `dist_sync`: a server adds up what they push, and a scheduler brings them
together. `--engine` says where the optimizer is:

- `server`: the server has the optimizer and the state; the workers push gradients and pull parameters.
- `worker`: every worker has them; it pushes its gradient and pulls the sum.

By hand:

    export DMLC_PS_ROOT_URI=127.0.0.1 DMLC_PS_ROOT_PORT=4000 DMLC_NUM_SERVER=1 DMLC_NUM_WORKER=2
    for role in scheduler server worker worker; do
        DMLC_ROLE=$role python chapter_optimization/distributed_mxnet.py --engine worker curve.json &
    done; wait
"""

import os
import traceback

from d2l_adam import protocol
from d2l_adam.mxnet import mxnet  # in the server and in the scheduler, this import returns when all is done
from distributed_run import BATCH_SIZE, LR, options, steps, write

autograd, gluon, kvstore, np = mxnet.autograd, mxnet.gluon, mxnet.kvstore, mxnet.np


def main():
    """Train, as one of the workers."""
    given = options("server", "worker")
    store = kvstore.create("dist_sync")
    features, labels, weights, bias = protocol.start()
    net = gluon.nn.Dense(1, in_units=len(weights))
    net.initialize()
    net.weight.set_data(np.array(weights.T))
    net.bias.set_data(np.array(bias))
    rule = {"adam": "d2l_adam", "yogi": "yogi"}[given.rule]
    trainer = gluon.Trainer(
        net.collect_params(),
        rule,
        {"learning_rate": LR},
        kvstore=store,
        update_on_kvstore=given.engine == "server",
    )
    if given.engine == "worker":
        # The trainer pulls the first parameters in its first step, without waiting for them: the sum of the gradients
        # that it pulls right after could come in their place. Saving the states makes it pull them now.
        trainer.save_states(os.devnull)
    half_square = gluon.loss.L2Loss()
    features, labels = np.array(features), np.array(labels)
    curve = []
    for X, y, recorded in steps(store.rank, store.num_workers):
        with autograd.record():
            error = half_square(net(np.array(X)), np.array(y))
        error.backward()
        trainer.step(BATCH_SIZE)  # the gradients are summed, over rows and workers, and divided by this
        if recorded:
            curve.append(float(half_square(net(features), labels).mean()))
    write(given.curve, store.rank, curve)


if __name__ == "__main__":
    try:
        main()
    except Exception:
        traceback.print_exc()
        os._exit(1)  # at an ordinary exit MXNet would wait for the other workers, which wait for this one
