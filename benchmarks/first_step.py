"""What recording loss, graph and profile adds to step 0, compared with other ways to get them.

    python benchmarks/first_step.py [--rounds 7] [--layers 12]

Compares two first steps of the same convolutional network, each with what runs along with it:

    loop             the first call of a plain tf.function train step
    loop, ours       the same step wrapped by FirstLoss: loss, graph and profile
    loop, by hand    tf.summary.trace_on(profiler=True), the step, tf.summary.trace_export
    loop, by hand, loss too     the same, and the loss by tf.summary.scalar and histogram
    fit              model.fit for one batch
    fit, ours        the same with FirstLossCallback
    fit, Keras       the same with keras.callbacks.TensorBoard(profile_batch=1)

Nothing traced, compiled or cached may be left from another measurement, so each one is a process of
its own. Times are from the call to its return, imports and network left out, everything that is
written included. One round measures all of them once, in an order that turns by one place a round;
printed are medians, and the median over rounds of the difference to the plain one of the same kind,
once as wall time and once as CPU time of all threads, which other work disturbs less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

BATCH, SIDE, CHANNELS, CLASSES = 32, 32, 32, 10
MEASUREMENTS = (
    "loop",
    "loop, ours",
    "loop, by hand",
    "loop, by hand, loss too",
    "fit",
    "fit, ours",
    "fit, Keras",
)


def make_model(layers):
    """Returns images [32, 32, 32, 3] → logits [32, 10] through convolutions of 32 channels."""
    import keras

    keras.utils.set_random_seed(0)
    convolutions = [
        keras.layers.Conv2D(CHANNELS, 3, padding="same", activation="relu") for _ in range(layers)
    ]
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            *convolutions,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(CLASSES),
        ]
    )


def make_train_step(model):
    """Returns the tf.function that trains the network on one batch and returns its losses [32]."""
    import keras
    import tensorflow as tf

    optimizer = keras.optimizers.Adam()
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            per_example = loss_fn(y, model(x, training=True))
            loss = tf.reduce_mean(per_example)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return per_example

    return train_step


def read_clocks():
    """Returns wall clock and CPU clock in seconds."""
    return time.perf_counter(), time.process_time()


def measure_loop(name, model, x, y, logdir):
    """Returns wall and CPU seconds of the train step's first call."""
    import tensorflow as tf

    from tb_firstloss import FirstLoss

    step = make_train_step(model)
    if name == "loop, ours":
        step = FirstLoss(logdir, on_error="raise").wrap(step)
    start = read_clocks()
    if name.startswith("loop, by hand"):
        with tf.summary.create_file_writer(logdir).as_default():
            tf.summary.trace_on(graph=True, profiler=True, profiler_outdir=logdir)
            losses = step(x, y).numpy()
            tf.summary.trace_export("step", step=0, profiler_outdir=logdir)
            if name.endswith("loss too"):
                tf.summary.scalar("loss", losses.mean(), step=0)
                tf.summary.histogram("losses", losses, step=0)
    else:
        step(x, y).numpy()
    return [now - then for now, then in zip(read_clocks(), start, strict=True)]


def measure_fit(name, model, x, y, logdir):
    """Returns wall and CPU seconds of a fit of one batch."""
    import keras
    import tensorflow as tf

    callbacks = []
    if name == "fit, ours":
        from tb_firstloss import FirstLossCallback

        callbacks.append(FirstLossCallback(logdir, on_error="raise"))
    elif name == "fit, Keras":
        callbacks.append(keras.callbacks.TensorBoard(logdir, profile_batch=1))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(), loss)
    batches = tf.data.Dataset.from_tensors((x, y))
    start = read_clocks()
    model.fit(batches, callbacks=callbacks, verbose=0)
    return [now - then for now, then in zip(read_clocks(), start, strict=True)]


def measure_here(name, layers):
    """Prints wall and CPU seconds of one measurement; it must be the first in this process."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(0)
    x = tf.random.normal([BATCH, SIDE, SIDE, 3])
    y = tf.random.uniform([BATCH], 0, CLASSES, tf.int32)
    measure = measure_loop if name.startswith("loop") else measure_fit
    with tempfile.TemporaryDirectory() as logdir:
        print(json.dumps(measure(name, make_model(layers), x, y, logdir)))


def measure_in_new_process(name, layers):
    """Returns wall and CPU seconds of one measurement."""
    quiet = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    command = [sys.executable, __file__, "--measure", name, "--layers", str(layers)]
    done = subprocess.run(command, env=quiet, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def print_table(rounds):
    """Prints one row a measurement, and the same as JSON."""
    print("| first step | wall | extra | extra / plain | CPU | extra | extra / plain |")
    print("|---|---|---|---|---|---|---|")
    result = {}
    for name in rounds[0]:
        plain = name.split(",", maxsplit=1)[0]
        row, result[name] = [], {}
        for clock, kind in enumerate(("wall", "cpu")):
            own = [r[name][clock] for r in rounds]
            bare = [r[plain][clock] for r in rounds]
            seconds = statistics.median(own)
            extra = statistics.median(o - b for o, b in zip(own, bare, strict=True))
            ratio = statistics.median(o / b - 1 for o, b in zip(own, bare, strict=True))
            result[name][kind] = {"seconds": seconds, "extra": extra, "ratio": ratio}
            row += [f"{seconds:.2f} s", f"{extra:+.2f} s", f"{ratio:+.1%}"]
        print(f"| {name} | {' | '.join(row)} |")
    print(json.dumps({"rounds": len(rounds), **result}))


def main():
    """Measures in turns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=MEASUREMENTS)
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure_here(options.measure, options.layers)
        return
    rounds = []
    for number in range(options.rounds):
        turn = number % len(options.only)
        order = [*options.only[turn:], *options.only[:turn]]
        times = {name: measure_in_new_process(name, options.layers) for name in order}
        rounds.append({name: times[name] for name in options.only})
    print_table(rounds)


if __name__ == "__main__":
    main()
