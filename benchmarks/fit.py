"""What FirstLossCallback costs in model.fit, against plain fit and Keras's TensorBoard callback.

    python benchmarks/fit.py                              # both tables
    python benchmarks/fit.py --only start --repetitions 3
    python benchmarks/fit.py --only steps

Start: from the call of fit until the second execution has finished, for a new convolutional
network each time; graph=False and profile=False, so that the capture alone is measured and
not the tracing that one may ask for. Steps: per step of a fit that goes on after its first batch,
for dense networks so small that every microsecond shows, on one thread. With one step an execution
two layers go on with a function that returns the logs alone, thirteen with the one that captured.

Each repetition runs all variants one after the other, in an order that turns; a ratio is the
median over the repetitions of variant / plain in the same repetition. Wall time is what one waits
for; CPU time, of all threads, says the same on a machine that does other work meanwhile.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from tb_firstloss.capture.fit import FirstLossCallback

Callbacks = Callable[[str], list[object]]

VARIANTS: dict[str, Callbacks] = {
    "plain": lambda _: [],
    "FirstLossCallback": lambda logdir: [FirstLossCallback(logdir, graph=False, profile=False)],
    "keras TensorBoard": lambda logdir: [
        keras.callbacks.TensorBoard(logdir, update_freq="batch", profile_batch=1)
    ],
}


def make_convolutional(**compile_options: object) -> keras.Model:
    """Returns a new network of twelve convolutions: images [batch, 32, 32, 3] → logits [10]."""
    keras.backend.clear_session()
    gc.collect()  # the previous model's garbage is not this one's cost
    layers: list[object] = [keras.Input((32, 32, 3))]
    for block in range(4):
        for _ in range(3):
            layers.append(keras.layers.Conv2D(16 * 2**block, 3, padding="same"))
            layers.append(keras.layers.BatchNormalization())
            layers.append(keras.layers.ReLU())
        layers.append(keras.layers.MaxPooling2D())
    layers += [keras.layers.Flatten(), keras.layers.Dense(10)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, **compile_options)
    return model


def make_dense(layers: int, **compile_options: object) -> keras.Model:
    """Returns a new network of small dense layers: [batch, 32] → logits [batch, 10]."""
    hidden = [keras.layers.Dense(64, "relu") for _ in range(layers - 1)]
    model = keras.Sequential([keras.Input((32,)), *hidden, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, **compile_options)
    return model


def make_batches(shape: tuple[int, ...], batch_size: int) -> tf.data.Dataset:
    """Returns an endless dataset of one batch of noise [batch, *shape] and labels [batch]."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, *shape)).astype("float32")
    labels = rng.integers(0, 10, batch_size)
    return tf.data.Dataset.from_tensors((images, labels)).cache().repeat()


Clocks = tuple[float, float]


def time_fit(model: keras.Model, batches: tf.data.Dataset, steps: int, callbacks: object) -> Clocks:
    """Returns wall seconds and CPU seconds of one fit."""
    wall, cpu = time.perf_counter(), time.process_time()
    model.fit(batches, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=callbacks)
    return time.perf_counter() - wall, time.process_time() - cpu


def compare_starts(repetitions: int, scratch: str) -> None:
    """Prints how much longer each variant takes until the second execution has finished."""
    print("| until the second execution has finished | plain s | wall ratio | CPU ratio |")
    print("|---|---|---|---|")
    batches = make_batches((32, 32, 3), 16)
    for jit, steps in ((False, 1), (True, 1), (False, 4)):
        times: dict[str, list[Clocks]] = {name: [] for name in VARIANTS}
        for repetition in range(-1, repetitions):  # the first one warms TensorFlow up
            for name in turned(list(VARIANTS), repetition):
                model = make_convolutional(jit_compile=jit, steps_per_execution=steps)
                callbacks = VARIANTS[name](tempfile.mkdtemp(dir=scratch))
                clocks = time_fit(model, batches, 2 * steps, callbacks)
                if repetition >= 0:
                    times[name].append(clocks)
        label = f"12 convolutions, jit_compile={jit}, steps_per_execution={steps}"
        print_ratios(label, times, unit=1)


def compare_steps(repetitions: int, scratch: str) -> None:
    """Prints how much longer a step takes once the first batch has been captured.

    Many short fits in turn, of 100 steps, resist a busy machine better than few long ones.
    """
    print("\n| after the first batch | plain µs a step | wall ratio | CPU ratio |")
    print("|---|---|---|---|")
    batches = make_batches((32,), 32)
    for layers, steps in itertools.product((2, 13), (1, 50)):
        fits = {}
        for name, make_callbacks in VARIANTS.items():
            model = make_dense(layers, steps_per_execution=steps)
            callbacks = make_callbacks(tempfile.mkdtemp(dir=scratch))
            # The function that goes on in this fit goes on in later ones.
            model.fit(batches, steps_per_epoch=2 * steps, verbose=0, callbacks=callbacks)
            fits[name] = (model, callbacks)
        times: dict[str, list[Clocks]] = {name: [] for name in fits}
        for repetition in range(repetitions):
            for name in turned(list(fits), repetition):
                model, callbacks = fits[name]
                times[name].append(time_fit(model, batches, 100, callbacks))
        print_ratios(f"{layers} dense layers, steps_per_execution={steps}", times, unit=100e-6)


def turned(names: list[str], by: int) -> list[str]:
    """Returns the names in an order that starts with another one each time."""
    by %= len(names)
    return names[by:] + names[:by]


def print_ratios(label: str, times: dict[str, list[Clocks]], *, unit: float) -> None:
    """Prints one table row a variant: medians, and quartiles, of the paired ratios."""
    plain = times.pop("plain")
    typical = statistics.median(wall for wall, _ in plain) / unit
    for name, clocks in times.items():
        cells = []
        for clock in range(2):
            ratios = [one[clock] / other[clock] for one, other in zip(clocks, plain, strict=True)]
            low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
            cells.append(f"{median:.3f} ({low:.3f} to {high:.3f})")
        print(f"| {label}: {name} | {typical:.3g} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Runs both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, help="instead of 7 starts, 100 step counts")
    parser.add_argument("--only", choices=("start", "steps"), help="one of the two tables")
    options = parser.parse_args()
    if options.only == "steps":
        # A step this small is otherwise mostly the hand-over between threads, and noise.
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.threading.set_intra_op_parallelism_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        if options.only != "steps":
            compare_starts(options.repetitions or 7, scratch)
        if options.only != "start":
            compare_steps(options.repetitions or 100, scratch)


if __name__ == "__main__":
    main()
