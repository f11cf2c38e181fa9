"""A coordinator with its cluster in one process: python -m tests.helpers.parameter_server LOGDIR.

It runs in a separate process because TensorFlow stays connected to the cluster until exit.
"""

import sys

import numpy as np
import tensorflow as tf

from tb_firstloss import FirstLoss
from tests.capture.distribution.test_workers import free_ports


def train(logdir, rows):
    ports = [f"localhost:{port}" for port in free_ports(3)]
    cluster = tf.train.ClusterSpec({"worker": ports[:2], "ps": ports[2:]})
    servers = [
        tf.distribute.Server(cluster, job_name=job, task_index=index, protocol="grpc")
        for job, index in (("worker", 0), ("worker", 1), ("ps", 0))
    ]
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, rpc_layer="grpc")
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        weight = tf.Variable(1.0)

    @tf.function
    def train_step(x):
        per_example = tf.reduce_sum(x, axis=1) * weight
        weight.assign_add(1.0)
        return {"per_example": per_example, "loss": tf.reduce_mean(per_example)}

    first = FirstLoss(logdir, strategy=strategy, on_error="raise")

    @first.wrap(loss="per_example", total="loss")
    def schedule(x):
        return coordinator.schedule(train_step, args=(x,))

    for start in range(0, 10, 5):
        schedule(rows[start : start + 5])
    coordinator.join()
    assert len(servers) == 3
    return float(weight.numpy())


if __name__ == "__main__":
    print("weight", train(sys.argv[1], np.arange(20, dtype=np.float32).reshape(10, 2)))
