"""The chapter's training run by several processes in TensorFlow, each with its part of every batch.

MultiWorkerMirroredStrategy gives every process a copy of each variable; the Keras optimizer itself sums the
gradients of all processes before it applies them. Keras' own `fit` does not work with this strategy
(https://github.com/keras-team/keras/issues/20585), hence the loop.

By hand, one command for each process, `index` 0 and 1, at the same time:

    export TF_CONFIG='{"cluster": {"worker": ["127.0.0.1:4001", "127.0.0.1:4002"]},
                       "task": {"type": "worker", "index": 0}}'
    python chapter_optimization/distributed_tensorflow.py curve.json
"""

import tensorflow as tf

from d2l_adam import protocol
from d2l_adam import tensorflow as tab
from distributed_run import LR, options, steps, write


def main():
    """Train, as one of the processes that TF_CONFIG names."""
    given = options("mirrored")
    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else, as TensorFlow demands
    rank, processes = strategy.cluster_resolver.task_id, strategy.num_replicas_in_sync
    features, labels, weights, bias = protocol.start()
    with strategy.scope():  # the variables that are made here are kept equal; those of the state are, too
        w, b = params = [tf.Variable(weights), tf.Variable(bias)]
        optimizer = {"adam": tab.Adam, "yogi": tab.Yogi}[given.rule](learning_rate=LR)
        optimizer.build(params)

    def loss(X, y):
        return tf.reduce_mean((X @ w + b - y) ** 2 / 2)

    def part_of_step(X, y):
        with tf.GradientTape() as tape:
            error = loss(X, y) / processes  # the gradients are summed: their mean is that of the whole batch
        optimizer.apply(tape.gradient(error, params), params)

    @tf.function
    def step(X, y):
        strategy.run(part_of_step, args=(X, y))

    curve = []
    for X, y, recorded in steps(rank, processes):
        step(tf.constant(X), tf.constant(y))
        if recorded:
            curve.append(float(loss(features, labels)))
    write(given.curve, rank, curve)


if __name__ == "__main__":
    main()
