"""One configuration on this machine's device: what step 0 left on disk, and what it cost."""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from step0 import networks, profiles
from step0.machine import describe_machine
from step0.networks import Configuration
from tb_firstloss import FirstLoss, iter_events, read_first_loss

WARM_STEP = 3
LEAST_ROUNDS, MOST_ROUNDS, MOST_PAIRS = 20, 200, 7
Step = Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]


def measure(configuration: Configuration, scratch: Path, *, seconds: float) -> dict[str, Any]:
    """Records this process's very first step, and measures what recording costs.

    Args:
        configuration: What to train.
        scratch: Where the recordings go.
        seconds: How long to go on with each of the two measurements of time.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        facts = record(configuration, scratch / "logs")
    messages = (str(w.message) for w in caught if w.category.__module__ == "tb_firstloss.errors")
    facts["warnings"] = list(messages)
    facts["cpu"] = train_on_cpu(configuration)
    facts["step"] = time_steps(configuration, scratch / "steps", seconds)
    facts["first_step"] = time_first_steps(configuration, scratch / "first", seconds)
    return facts


def record(configuration: Configuration, logdir: Path) -> dict[str, Any]:
    """Trains until the warm step is over, and returns what was recorded of it."""
    network = networks.make_network(configuration)
    step = compile_step(network, jit=configuration.jit)
    first = FirstLoss(logdir, warm_step=WARM_STEP, on_error="raise")
    wrapped = first.wrap(step, loss="per_example", total="loss")
    batches = list(networks.to_tensors(networks.load_batches(configuration)))
    start = time.perf_counter()
    result = {name: value.numpy() for name, value in wrapped(*batches[0]).items()}
    seconds = time.perf_counter() - start
    for x, y in batches[1:]:
        wrapped(x, y)
    memory = peak_memory()
    run_dir, warm_dir = logdir / "first_batch", logdir / "first_batch-warm"
    recorded = read_first_loss(run_dir)
    return {
        "machine": describe_machine(),
        "loss": float(result["loss"]),
        "per_example": result["per_example"].tolist(),
        "recorded_loss_is_the_steps": is_same(recorded.loss, result["loss"]),
        "recorded_losses_are_the_steps": is_same(recorded.per_example, result["per_example"]),
        "graph_bytes": [len(e.graph_def) for _, e in iter_events(run_dir) if e.graph_def],
        "first_call_seconds": seconds,
        "profile": profiles.describe_profile(run_dir),
        "warm_step": WARM_STEP,
        "warm_profile": profiles.describe_profile(warm_dir),
        "peak_memory_bytes": memory,
    }


def is_same(found: np.ndarray | None, expected: np.ndarray) -> bool:
    """Returns whether two arrays have the same dtype, shape and bits."""
    if found is None or (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return False
    return found.tobytes() == expected.tobytes()


def compile_step(network: keras.Model, *, jit: bool) -> Step:
    """Returns a new train step of a network as a tf.function."""
    return tf.function(networks.make_step(network), jit_compile=jit)


def peak_memory() -> int | None:
    """Returns the most bytes that the first GPU's allocator has given out; None without a GPU."""
    if not tf.config.list_logical_devices("GPU"):
        return None
    return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])


def train_on_cpu(configuration: Configuration) -> dict[str, Any]:
    """Returns the first loss as the CPU computes it: float32, eagerly, operation by operation."""
    with tf.device("/CPU:0"):
        network = networks.make_network(configuration, policy="float32")
        x, y = next(networks.to_tensors(networks.load_batches(configuration)[:1]))
        result = networks.make_step(network)(x, y)["per_example"]
    return {"device": result.device, "per_example": result.numpy().tolist()}


def time_steps(configuration: Configuration, scratch: Path, seconds: float) -> dict[str, Any]:
    """Returns the time of a step after step 0, bare and wrapped in turns."""
    network = networks.make_network(configuration)
    bare = compile_step(network, jit=configuration.jit)
    wrapped = FirstLoss(scratch, graph=False, profile=False).wrap(bare, loss="per_example")
    x, y = next(networks.to_tensors(networks.load_batches(configuration)[:1]))
    wrapped(x, y)
    time_calls(bare, x, y, 3)
    calls = max(1, round(0.02 / time_calls(bare, x, y, 3)))
    pairs: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(pairs) < LEAST_ROUNDS or (len(pairs) < MOST_ROUNDS and time.perf_counter() < end):
        order = (bare, wrapped) if len(pairs) % 2 else (wrapped, bare)
        times = {step: time_calls(step, x, y, calls) for step in order}
        pairs.append((times[bare], times[wrapped]))
    return {
        "calls_a_round": calls,
        "bare_seconds": statistics.median(bare for bare, _ in pairs),
        "ratios": [wrapped / bare for bare, wrapped in pairs],
    }


def time_calls(step: Step, x: tf.Tensor, y: tf.Tensor, count: int) -> float:
    """Returns seconds per call, until the device has finished the last one."""
    start = time.perf_counter()
    for _ in range(count):
        result = step(x, y)
    result["loss"].numpy()
    return (time.perf_counter() - start) / count


def time_first_steps(configuration: Configuration, scratch: Path, seconds: float) -> dict[str, Any]:
    """Returns pairs of first steps of new networks, plain and with everything recorded.

    This process has run such a step before, so libraries are loaded and kernels chosen; tracing
    and compilation are new each time.
    """
    x, y = next(networks.to_tensors(networks.load_batches(configuration)[:1]))
    pairs: list[list[float]] = []
    end = time.perf_counter() + seconds
    for number in range(MOST_PAIRS):
        times = {}
        for recorded in (number % 2 == 0, number % 2 == 1):
            keras.backend.clear_session()
            gc.collect()  # the previous network's garbage is not this one's cost
            step = compile_step(networks.make_network(configuration), jit=configuration.jit)
            if recorded:
                first = FirstLoss(scratch / str(number))
                step = first.wrap(step, loss="per_example", total="loss")
            times[recorded] = time_calls(step, x, y, 1)
        pairs.append([times[False], times[True]])
        if time.perf_counter() > end:
            break
    return {
        "pairs": pairs,
        "plain_seconds": statistics.median(plain for plain, _ in pairs),
        "extra_seconds": statistics.median(recorded - plain for plain, recorded in pairs),
        "extra_share": statistics.median(recorded / plain - 1 for plain, recorded in pairs),
    }
