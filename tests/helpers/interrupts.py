"""Interrupts training at random moments, again and again, and prints what each trial has left.

One JSON line per trial: its number, whether the interrupt came, what is wrong, if anything, and
what TensorFlow has broken: exceptions can strike inside its own code too, with and without us.

    python -m tests.helpers.interrupts WAY MOMENT FIRST END
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.ops import summary_ops_v2
from tensorflow.python.profiler import profiler_v2
from tensorflow.python.profiler.internal import _pywrap_profiler

import tb_firstloss
from tb_firstloss import FirstLoss, FirstLossCallback, read_first_losses, verify

PACKAGE = str(Path(tb_firstloss.__file__).parent) + os.sep
LOCKS = (profiler_v2._profiler_lock, summary_ops_v2._current_trace_context_lock)
X, Y = np.ones([8, 4], np.float32), np.ones([8, 1], np.float32)


class InterruptedTrainingError(KeyboardInterrupt):
    """What the signal's handler raises."""


def interrupt(number, frame):
    raise InterruptedTrainingError


class Loop:
    """A custom loop; one call of `train` is one step."""

    def __init__(self, logdir, *, function=False, warm=False, trace=False, profile=True):
        self.weights = tf.Variable(tf.ones([4, 1]))
        self.first = None
        step = tf.function(self.step, reduce_retracing=True) if function else self.step
        if logdir is not None:
            options = {"warm_step": 1} if warm else {}
            self.first = FirstLoss(logdir, graph=profile, profile=profile, **options)
            self.wrapped = self.traced if trace else self.first.wrap(step)
        else:
            self.wrapped = step
        self.inner = step
        self.x = tf.constant(X)
        if warm:
            self.wrapped(self.x)

    def step(self, x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((x @ self.weights) ** 2, axis=1)
        self.weights.assign_sub(0.01 * tape.gradient(loss, self.weights))
        return loss

    def traced(self, x):
        with self.first.trace():
            loss = self.inner(x)
            self.first.record(loss)

    def train(self):
        self.wrapped(self.x)


class Fit:
    """Keras's fit of one batch."""

    def __init__(self, logdir):
        import keras

        self.model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
        self.model.compile("sgd", "mse")
        self.first = None if logdir is None else FirstLossCallback(logdir)

    def train(self):
        callbacks = [self.first] if self.first is not None else []
        self.model.fit(X, Y, batch_size=8, verbose=0, callbacks=callbacks)


WAYS = {
    "eager": Loop,
    "function": lambda logdir: Loop(logdir, function=True),
    "trace and record": lambda logdir: Loop(logdir, trace=True),
    "no profile": lambda logdir: Loop(logdir, function=True, profile=False),
    "warm step": lambda logdir: Loop(logdir, function=True, warm=True),
    "fit": Fit,
}


class AtTime:
    """Interrupts after a random time, up to the whole time of a training step."""

    def __init__(self, seconds, calls):
        self.seconds = seconds

    def __enter__(self):
        signal.setitimer(signal.ITIMER_REAL, max(1e-6, random.random() * self.seconds))

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)


class InPackage:
    """Interrupts a moment after a random function of the package has been entered."""

    def __init__(self, seconds, calls):
        self.left = random.randint(1, max(1, calls))

    def __enter__(self):
        sys.setprofile(self.count)

    def __exit__(self, *_):
        sys.setprofile(None)
        signal.setitimer(signal.ITIMER_REAL, 0)

    def count(self, frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self.left -= 1
            if self.left == 0:
                sys.setprofile(None)
                signal.setitimer(signal.ITIMER_REAL, random.choice([1e-5, 3e-5, 1e-4]))


MOMENTS = {"time": AtTime, "package": InPackage}


def measure(make, logdir):
    """Returns the seconds of an undisturbed step, and how often it calls the package."""
    trained = []
    for number in range(3):
        training = make(logdir and f"{logdir}/measured{number}")
        start = time.perf_counter()
        training.train()
        trained.append(time.perf_counter() - start)
    counter = InPackage(0, 0)
    counter.left = 10**9
    training = make(logdir and f"{logdir}/counted")
    sys.setprofile(counter.count)
    training.train()
    sys.setprofile(None)
    return min(trained) * 1.1, 10**9 - counter.left


def left_behind(handlers):
    """Names what is not as it was before the training."""
    left = []
    if (profiler_v2._profiler_lock, summary_ops_v2._current_trace_context_lock) != LOCKS:
        left.append("a lock's stand-in")
    if any(lock.locked() for lock in LOCKS):
        return [*left, "a lock is held"]
    if profiler_v2._profiler is not None:
        left.append("a profiler")
    else:
        try:
            _pywrap_profiler.ProfilerSession().start("", {})
        except tf.errors.AlreadyExistsError:
            left.append("a native profiler")
    if summary_ops_v2._current_trace_context is not None:
        left.append("a trace")
    tf.function(lambda x: x + 1, autograph=False)(1.0)
    if context.context().export_run_metadata().function_graphs:
        left.append("graph collection")
    if tf.summary.should_record_summaries() or tf.summary.experimental.get_step() is not None:
        left.append("a default writer")
    if {n: signal.getsignal(n) for n in signal.valid_signals()} != handlers:
        left.append("a signal handler")
    return left


def unrecorded(first, logdir):
    """Names what is wrong with the recording, once training has gone on."""
    found = dict(read_first_losses(logdir))
    wrong = [f"damage: {damage.message}" for damage in verify(logdir)]
    if len(found) != 1:
        wrong.append(f"recordings: {sorted(found)}")
    elif first.first_batch is None or first.first_batch.digest != found.popitem()[1].digest:
        wrong.append("the recording is another one")
    wrong += [f"empty: {path.name}" for path in Path(logdir).iterdir() if not any(path.iterdir())]
    return wrong


def trial(make, moment, logdir, handlers):
    training = make(logdir)
    if hasattr(training, "model"):
        training.model.make_train_function()
    came = False
    try:
        with moment:
            training.train()
    except InterruptedTrainingError:
        came = True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if context.context().device_name or not tf.executing_eagerly():
        return {"came": came, "wrong": [], "broken": "a scope of TensorFlow's is left"}
    wrong = left_behind(handlers)
    try:
        for _ in range(2):
            training.train()
    except Exception as error:
        raised_in = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        if came and not raised_in[-1].startswith(PACKAGE):
            return {"came": came, "wrong": wrong, "broken": repr(error)[:200]}
        raise
    wrong += [f"then {what}" for what in left_behind(handlers)]
    if training.first is not None:
        wrong += unrecorded(training.first, logdir)
    return {"came": came, "wrong": wrong}


def main(way, moment, first, end):
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, interrupt)
    make, without = WAYS[way.removeprefix("control: ")], way.startswith("control: ")
    handlers = {n: signal.getsignal(n) for n in signal.valid_signals()}
    root = tempfile.mkdtemp()
    seconds, calls = measure(make, None if without else root)
    for number in range(int(first), int(end)):
        random.seed(f"{way} {moment} {number}")
        logdir = None if without else f"{root}/{number}"
        print(json.dumps({"begins": number}), flush=True)
        done = trial(make, MOMENTS[moment](seconds, calls), logdir, handlers)
        print(json.dumps({"number": number, **done}), flush=True)
        if done["wrong"] or "broken" in done:
            break  # what is left would be found again
        shutil.rmtree(logdir or root, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
