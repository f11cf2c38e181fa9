"""Trains on two workers, here on one machine, and records one first loss of both.

python two_workers.py; tb-firstloss show runs
"""

import json
import os
import socket
import subprocess
import sys


def start_workers():
    """Starts this file twice, with the TF_CONFIG that a cluster would set on each machine."""
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        hosts = [f"127.0.0.1:{each.getsockname()[1]}" for each in (one, other)]
    workers = []
    for index in range(2):
        config = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
        workers.append(subprocess.Popen([sys.executable, __file__], env=environment))
    return max(worker.wait() for worker in workers)


def train():
    """Trains as one of the workers: the same code on each."""
    import tensorflow as tf

    from tb_firstloss import FirstLoss

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        weight = tf.Variable(1.0)

    def replica_step(x):
        with tf.GradientTape() as tape:
            per_example = (x * weight - 1) ** 2
            loss = tf.reduce_sum(per_example) / 8  # this replica's share of the global mean
        gradient = tape.gradient(loss, weight)
        total = tf.distribute.get_replica_context().all_reduce("SUM", gradient)
        weight.assign_sub(0.01 * total)
        return per_example

    @tf.function
    def train_step(x):
        return strategy.run(replica_step, args=(x,))

    numbers = tf.data.Dataset.range(32).map(lambda x: tf.cast(x, tf.float32)).batch(8)
    first = FirstLoss("runs/workers", strategy=strategy)
    step = first.wrap(train_step)
    for x in strategy.experimental_distribute_dataset(numbers):
        step(x)
    print(f"worker {strategy.cluster_resolver.task_id}: {first.first_batch.per_example}")


if __name__ == "__main__":
    if "TF_CONFIG" in os.environ:
        train()
    else:
        sys.exit(start_workers())
