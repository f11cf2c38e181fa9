"""What a wrapped step costs after step 0: the same tf.function, bare and wrapped, call by call.

    python benchmarks/overhead.py [--steps 20000] [--rounds 100]

Rounds alternate between the two, so a drift of the machine hits both. Printed are the median time
of a step, and the median over rounds of the ratio and of the difference. The last column times
the wrapper around a function that does nothing, where the cost is not lost in the noise of
TensorFlow's own threads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from tb_firstloss import FirstLoss


def make_step():
    """Returns a tf.function of a few small operations, some tens of microseconds a call."""
    weight = tf.Variable(tf.ones([8, 8]))

    @tf.function
    def step(x):
        loss = tf.reduce_mean(tf.matmul(x, weight) ** 2, axis=-1)
        weight.assign_sub(1e-6 * tf.matmul(x, x, transpose_a=True))
        return loss

    return step


def time_calls(step, x, count):
    """Returns seconds per call."""
    start = time.perf_counter()
    for _ in range(count):
        step(x)
    return (time.perf_counter() - start) / count


def measure_alone(x):
    """Returns what the wrapper adds to a call of a function that does nothing, in seconds."""

    def nothing(x):
        return x

    with tempfile.TemporaryDirectory() as logdir:
        wrapped = FirstLoss(logdir, graph=False, profile=False).wrap(nothing)
        wrapped(x)
        pairs = [(time_calls(nothing, x, 10**4), time_calls(wrapped, x, 10**4)) for _ in range(20)]
    return statistics.median(w - b for b, w in pairs)


def main():
    """Prints the table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    # One thread: a step this small is otherwise mostly the hand-over between threads, and noise.
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    x = tf.ones([16, 8])
    empty = measure_alone(x)
    bare = make_step()
    with tempfile.TemporaryDirectory() as logdir:
        wrapped = FirstLoss(logdir).wrap(bare)
        wrapped(x)
        per_round = max(1, options.steps // options.rounds)
        time_calls(bare, x, 1000)
        pairs = []
        for number in range(options.rounds):
            order = (bare, wrapped) if number % 2 else (wrapped, bare)
            times = {step: time_calls(step, x, per_round) for step in order}
            pairs.append((times[bare], times[wrapped]))
    result = {
        "steps": per_round * options.rounds,
        "bare_us": statistics.median(b for b, _ in pairs) * 1e6,
        "wrapped_us": statistics.median(w for _, w in pairs) * 1e6,
        "ratio": statistics.median(w / b for b, w in pairs),
        "ns_per_call": statistics.median(w - b for b, w in pairs) * 1e9,
        "ns_per_call_alone": empty * 1e9,
    }
    print(
        "| steps | bare | wrapped | ratio | difference | wrapper alone |\n|---|---|---|---|---|---|"
    )
    print(
        f"| {result['steps']:,} | {result['bare_us']:.1f} µs | {result['wrapped_us']:.1f} µs "
        f"| {result['ratio']:.4f} | {result['ns_per_call']:.0f} ns "
        f"| {result['ns_per_call_alone']:.0f} ns |"
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
