"""A coordinator with its cluster in one process: python -m tests.helpers.parameter_server LOGDIR.

It runs in a separate process because TensorFlow stays connected to the cluster until exit.
"""

import json
import sys
import warnings

import numpy as np
import tensorflow as tf

from tb_firstloss import FirstLoss
from tests.capture.distribution.test_workers import free_ports


def start():
    """Starts two workers and a parameter server in this process; returns them and a coordinator."""
    ports = [f"localhost:{port}" for port in free_ports(3)]
    cluster = tf.train.ClusterSpec({"worker": ports[:2], "ps": ports[2:]})
    servers = [
        tf.distribute.Server(cluster, job_name=job, task_index=index, protocol="grpc")
        for job, index in (("worker", 0), ("worker", 1), ("ps", 0))
    ]
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, rpc_layer="grpc")
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    return servers, tf.distribute.coordinator.ClusterCoordinator(strategy)


def train(coordinator, how, logdir, rows):
    """Trains with the call to schedule wrapped, the scheduled step, both or neither."""
    with coordinator.strategy.scope():
        weight = tf.Variable(1.0)

    @tf.function
    def step(x):
        per_example = tf.reduce_sum(x, axis=1) * weight
        weight.assign_add(1.0)
        return {"per_example": per_example, "loss": tf.reduce_mean(per_example)}

    def schedule(*args):
        return coordinator.schedule(step, args=args)

    on_error = "warn" if how == "step" else "raise"
    first = FirstLoss(f"{logdir}/{how}", strategy=coordinator.strategy, on_error=on_error)
    if how in ("step", "both"):
        step = first.wrap(step, loss="per_example", total="loss")
    if how in ("call", "both"):
        schedule = first.wrap(schedule, loss="per_example", total="loss")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for start in range(0, 10, 5):
            schedule(rows[start : start + 5])
            coordinator.join()  # two workers in one process wait for each other
    said = [str(w.message) for w in caught if w.category.__module__.startswith("tb_firstloss")]
    return {"weight": float(weight.numpy()), "warnings": said}


if __name__ == "__main__":
    servers, coordinator = start()
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    for how in ("call", "step", "both", "neither"):
        print(json.dumps({how: train(coordinator, how, sys.argv[1], rows)}))
    assert len(servers) == 3
