"""Training jobs for model.fit in every style that the callback supports, and what to expect.

Each case builds its job anew from the same seeds, and claims one of five outcomes: the classes
from `Expectation` on.
"""

import dataclasses
import importlib.metadata
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tb_firstloss.capture.keras.train_function import _MANY_VARIABLES
from tb_firstloss.reading.recordings import read_first_loss

KERAS = tuple(int(part) for part in importlib.metadata.version("keras").split(".")[:2])

BATCH_SIZE = 8
BATCH_COUNT = 3  # and the last one is half a batch


@dataclasses.dataclass
class Job:
    """A model, what it is fitted on, and the formula of its first batch's loss.

    ``expect`` returns the values per example of each output, in order, and the loss. It
    computes them in NumPy from the model's present weights, not with Keras's losses.
    """

    model: Any
    data: dict[str, Any]
    expect: Callable[[], tuple[list[np.ndarray], Any]] | None = None
    consumed: list[int] = dataclasses.field(default_factory=list)
    reads_ahead: bool = False


class Expectation:
    """What a case claims of its recording, and the warnings that the fit gives."""

    def __init__(self, *warnings):
        self._warnings = warnings

    def check_warnings(self, messages):
        """Asserts that there are exactly the expected warnings, in order."""
        for message, text in zip(messages, self._warnings, strict=True):
            assert text in message

    def check(self, first_batch, logdir, job):
        """Asserts what the case claims of the recording, given a job with its initial weights."""
        raise NotImplementedError


class FollowsFormula(Expectation):
    """The loss and the values per example of every output are those of the job's formula."""

    def check(self, first_batch, logdir, job):
        assert read_first_loss(logdir).digest == first_batch.digest
        per_example, loss = job.expect()
        outputs = first_batch.outputs.values()
        for output, values in zip(outputs, per_example, strict=True):
            np.testing.assert_allclose(output.per_example, values, rtol=2e-5)
        np.testing.assert_allclose(first_batch.loss, loss, rtol=2e-5)


class LossFollowsFormula(FollowsFormula):
    """The loss is the formula's; no values per example are recorded, as a warning may say."""

    def check(self, first_batch, logdir, job):
        assert not first_batch.outputs
        super().check(first_batch, logdir, job)


class RecordedWithoutFormula(Expectation):
    """A loss and one output are recorded.

    Random numbers, statistics of the batch or 16-bit floats rule out a formula.
    """

    def check(self, first_batch, logdir, job):
        assert read_first_loss(logdir).digest == first_batch.digest
        assert len(first_batch.outputs) == 1
        assert first_batch.loss is not None


class RecordedWithoutLoss(Expectation):
    """The batch is recorded, but neither a loss nor values per example; a warning says why."""

    def check(self, first_batch, logdir, job):
        assert read_first_loss(logdir).digest == first_batch.digest
        assert not first_batch.outputs
        assert first_batch.loss is None


class NotRecorded(Expectation):
    """Nothing is captured; a warning says why."""

    def check(self, first_batch, logdir, job):
        assert first_batch is None


@dataclasses.dataclass(frozen=True)
class Case:
    """A way to train, and what is claimed of its recording.

    ``since`` is the first version of Keras 3 that can train this way, ``exact_since`` the first
    whose reported loss is equal to its last bit: earlier ones add it up in another order when the
    step returns more.
    """

    name: str
    library: str
    make: Callable[[Any], Job]
    expected: Expectation = dataclasses.field(default_factory=FollowsFormula)
    since: tuple[int, int] = (3, 0)
    exact_since: tuple[int, int] = (3, 0)

    @property
    def is_exact(self):
        return self.library != "keras" or self.exact_since <= KERAS

    def __str__(self):
        return f"{self.library}-{self.name}"


def numbers(seed=0, count=20):
    """Inputs [20, 6] float32, regression targets [20, 3], classes [20], weights [20]."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 6)).astype("float32")
    y = rng.normal(size=(count, 3)).astype("float32")
    return x, y, rng.integers(0, 3, count), rng.uniform(0.2, 2, count).astype("float32")


def first(*arrays):
    return [array[:BATCH_SIZE] for array in arrays]


def squared_error(target, predicted):
    return np.mean((np.asarray(predicted, "float64") - target) ** 2, axis=-1)


def huber(target, predicted):
    error = np.abs(np.asarray(predicted, "float64") - target)
    return np.mean(np.where(error <= 1, error**2 / 2, error - 0.5), axis=-1)


def squared_error_in_a_loop(target, predicted):
    """Squared error of 1.01**3 times the prediction, in a shape that only XLA knows."""
    count = tf.shape(predicted)[0]
    _, scaled = tf.while_loop(
        lambda i, _: i < 3,
        lambda i, scaled: (i + 1, tf.reshape(scaled, [count, 3]) * 1.01),
        (0, predicted),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, 3])),
        maximum_iterations=3,
    )
    return tf.reduce_mean(tf.square(scaled - target), -1)


def cross_entropy(labels, logits):
    logits = np.asarray(logits, "float64")
    log_sum = np.log(np.sum(np.exp(logits - logits.max(-1, keepdims=True)), -1))
    picked = np.take_along_axis(logits, np.asarray(labels)[..., None], -1)[..., 0]
    return log_sum + logits.max(-1) - picked


def dense(k, *, extra=(), regularizer=None):
    hidden = k.layers.Dense(5, activation="tanh", kernel_regularizer=regularizer)
    return k.Sequential([k.layers.Input((6,)), hidden, *extra, k.layers.Dense(3)])


def regression(k, *, extra=(), loss="mse", formula=squared_error, weighted=False, **options):
    """The plain job: mean squared error on NumPy arrays."""
    x, y, _, w = numbers()
    model = dense(k, extra=[layer(k) for layer in extra])
    model.compile(optimizer=k.optimizers.Adam(0.01), loss=loss, metrics=["mae"], **options)
    data = {"x": x, "y": y, **({"sample_weight": w} if weighted else {})}

    def expect():
        bx, by, bw = first(x, y, w)
        values = formula(by, model(bx))
        return [values], np.mean(values * bw if weighted else values)

    return Job(model, data, expect)


def classes(k, **options):
    x, _, labels, _ = numbers()
    model = dense(k)
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="sgd", loss=loss, metrics=["accuracy"], **options)
    weights = {0: 0.5, 1: 1.0, 2: 3.0}

    def expect():
        bx, labels_ = first(x, labels)
        values = cross_entropy(labels_, model(bx))
        return [values], np.mean(values * [weights[c] for c in labels_])

    return Job(model, {"x": x, "y": labels, "class_weight": weights}, expect)


def two_outputs(k, *, loss, loss_weights=None, as_dict=False, used=("a", "b"), **options):
    x, y, _, _ = numbers()
    inputs = k.layers.Input((6,))
    hidden = k.layers.Dense(5, activation="tanh")(inputs)
    heads = {name: k.layers.Dense(3, name=name)(hidden) for name in ("a", "b")}
    model = k.Model(inputs, heads if as_dict else list(heads.values()))
    model.compile(optimizer="sgd", loss=loss, loss_weights=loss_weights, **options)
    targets = {"a": y, "b": -y}
    weights = loss_weights.values() if as_dict else loss_weights or (1, 1)
    factors = dict(zip(("a", "b"), weights, strict=True))

    def expect():
        predicted = model(x[:BATCH_SIZE])
        predicted = predicted if as_dict else dict(zip(("a", "b"), predicted, strict=True))
        values = {n: squared_error(targets[n][:BATCH_SIZE], predicted[n]) for n in used}
        return list(values.values()), sum(factors[n] * np.mean(values[n]) for n in used)

    return Job(model, {"x": x, "y": targets if as_dict else list(targets.values())}, expect)


def regularized(k):
    job = regression(k)
    x, y, _, _ = numbers()
    job.model = dense(k, regularizer=k.regularizers.L2(0.1))
    job.model.compile(optimizer="sgd", loss="mse")

    def expect():
        bx, by = first(x, y)
        values = squared_error(by, job.model(bx))
        return [values], np.mean(values) + 0.1 * np.sum(job.model.get_weights()[0] ** 2)

    job.expect = expect
    return job


def added_loss_only(k):
    class Activity(k.layers.Layer):
        def call(self, x):
            self.add_loss(tf.reduce_mean(x**2))
            return x

    x, _, _, _ = numbers()
    model = dense(k, extra=[Activity()])
    model.compile(optimizer="sgd")

    def expect():
        hidden = np.tanh(x[:BATCH_SIZE] @ model.get_weights()[0] + model.get_weights()[1])
        return [], np.mean(hidden**2)

    return Job(model, {"x": x}, expect)


def masked_sequence(k, rank=2, **options):
    rng = np.random.default_rng(0)
    shape = (20, 4, 6) if rank == 2 else (20, 2, 4, 6)
    x = rng.normal(size=shape).astype("float32")
    x[..., 2:, :] *= rng.integers(0, 2, (*shape[:-2], 1, 1))
    y = rng.integers(0, 3, shape[:-1])
    masking = [k.layers.Masking()] if rank == 2 else []
    model = k.Sequential([k.layers.Input(shape[1:]), *masking, k.layers.Dense(3)])
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, **options)

    def expect():
        values = cross_entropy(y[:BATCH_SIZE], model(x[:BATCH_SIZE]))
        mask = np.any(x[:BATCH_SIZE] != 0, -1) if rank == 2 else np.ones(values.shape)
        return [values], np.sum(values * mask) / np.sum(mask)

    return Job(model, {"x": x, "y": y}, expect)


def reduced(k, reduction):
    job = regression(k, loss=k.losses.MeanSquaredError(reduction=reduction), weighted=True)
    x, y, _, w = numbers()

    def expect():
        bx, by, bw = first(x, y, w)
        values = squared_error(by, job.model(bx))
        weighted = values * bw
        total = {
            "sum": np.sum(weighted),
            "none": np.sum(weighted),
            "mean_with_sample_weight": np.sum(weighted) / np.sum(bw, dtype="float64"),
        }
        return [values], total[reduction]

    job.expect = expect
    return job


def loss_object(k, kind):
    class Twice(k.losses.Loss):
        def call(self, y_true, y_pred):
            inner = k.losses.MeanSquaredError(reduction="none")
            return 2.0 * inner(y_true, y_pred)  # a Loss inside a Loss

    def twice(y_true, y_pred):
        return 2.0 * tf.reduce_mean((y_pred - y_true) ** 2, -1)

    job = regression(k, loss=Twice() if kind == "class" else twice)
    plain = job.expect
    job.expect = lambda: ([2 * plain()[0][0]], 2 * plain()[1])
    return job


def custom_train_step(k, kind):
    """A custom train_step; ``kind`` says how it computes its loss."""
    loss_fn = k.losses.MeanSquaredError()

    class Model(k.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                predicted = self(x, training=True)
                if kind == "custom loss":
                    loss = loss_fn(y, predicted)
                elif kind == "no Loss":
                    loss = tf.reduce_mean((y - predicted) ** 2)
                else:
                    loss = self.compute_loss(x=x, y=y, y_pred=predicted)
                if kind == "penalty":
                    loss = loss + 0.1 * tf.reduce_sum(self.trainable_variables[0] ** 2)
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            return {"loss": loss}

        if kind == "tf.function":
            train_step = tf.function(train_step)

    x, y, _, _ = numbers()
    inputs = k.layers.Input((6,))
    model = Model(inputs, k.layers.Dense(3)(k.layers.Dense(5, activation="tanh")(inputs)))
    model.compile("sgd", "mse")

    def expect():
        bx, by = first(x, y)
        values = squared_error(by, model(bx))
        penalty = 0.1 * np.sum(model.get_weights()[0] ** 2) if kind == "penalty" else 0
        return [] if kind == "no Loss" else [values], np.mean(values) + penalty

    return Job(model, {"x": x, "y": y}, expect)


def custom_compute_loss(k):
    class Model(k.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **_):
            return 3.0 * super().compute_loss(x, y, y_pred, sample_weight)

    x, y, _, _ = numbers()
    inputs = k.layers.Input((6,))
    model = Model(inputs, k.layers.Dense(3)(inputs))
    model.compile("sgd", "mse")

    def expect():
        bx, by = first(x, y)
        values = squared_error(by, model(bx))
        return [values], 3 * np.mean(values)

    return Job(model, {"x": x, "y": y}, expect)


def custom_make_train_function(k):
    class Model(k.Sequential):
        def make_train_function(self, force=False):
            super().make_train_function(force)
            return self.train_function

    x, y, _, _ = numbers()
    model = Model([k.layers.Input((6,)), k.layers.Dense(3)])
    model.compile("sgd", "mse")
    return Job(model, {"x": x, "y": y})


def mixed(k, dtype, **options):
    before = k.mixed_precision.global_policy() if k.__name__ == "tf_keras" else None
    k.mixed_precision.set_global_policy(dtype)
    try:
        job = regression(k, **options)
    finally:
        k.mixed_precision.set_global_policy(before or "float32")
    return job


def noisy(k, **options):
    """Draws with ``tf.random``, seeded per graph: the function that draws holds the state."""

    class Noise(k.layers.Layer):
        def call(self, x):
            return x + tf.random.normal(tf.shape(x), stddev=0.1)

    return regression(k, extra=[lambda _: Noise()], **options)


def dropout(k, **options):
    return regression(k, extra=[lambda k: k.layers.Dropout(0.4)], **options)


def from_source(k, source):
    """The same batches from a dataset, a generator or a PyDataset, which notes what is read.

    Threads read a dataset and a generator ahead, so their position after a fit is left to chance;
    the next fit continues the generator from there.
    """
    job = regression(k)
    x, y, _, _ = numbers()
    parts = [(x[i : i + BATCH_SIZE], y[i : i + BATCH_SIZE]) for i in range(0, 20, BATCH_SIZE)]
    consumed = job.consumed

    def give():
        yield from itertools.cycle(parts)

    if source == "dataset":
        signature = (tf.TensorSpec([None, 6]), tf.TensorSpec([None, 3]))
        job.data = {"x": tf.data.Dataset.from_generator(give, output_signature=signature)}
        job.data["steps_per_epoch"] = BATCH_COUNT
    elif source == "generator":
        job.data = {"x": give(), "steps_per_epoch": BATCH_COUNT}
        job.reads_ahead = True
    else:

        class Parts(k.utils.PyDataset if hasattr(k.utils, "PyDataset") else k.utils.Sequence):
            def __len__(self):
                return len(parts)

            def __getitem__(self, number):
                consumed.append(number)
                return parts[number]

        job.data = {"x": Parts()}
    return job


def on_one_device(k):
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        return regression(k)


def on_two_devices(k):
    # The collectives of several strategies in one process disturb each other.
    reduction = tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=reduction)
    with strategy.scope():
        return regression(k)


def gradient_accumulation(k):
    job = regression(k)
    job.model.compile(k.optimizers.Adam(0.01, gradient_accumulation_steps=2), "mse")
    return job


DEEP = [lambda k: k.layers.Dense(5, activation="tanh")] * (_MANY_VARIABLES // 2)


def case(name, library, make, *args, **options):
    """Returns a case; options are the job's, except those that are fields of `Case`."""
    facts = {f.name for f in dataclasses.fields(Case)} & options.keys()
    given = {fact: options.pop(fact) for fact in facts}

    def make_job(k):
        return make(k, *args, **options)

    return Case(name, library, make_job, **given)


def both(name, make, *args, **options):
    return [case(name, library, make, *args, **options) for library in ("keras", "tf_keras")]


CASES = [
    *both("function", regression),
    *both("eager", regression, run_eagerly=True),
    *both("jit", regression, jit_compile=True),
    *both("several-steps", regression, steps_per_execution=2),
    *both("several-steps-eager", regression, steps_per_execution=2, run_eagerly=True),
    *both("more-steps-than-batches", regression, steps_per_execution=8),
    # Many variables: the capturing function is kept.
    *both("deep", regression, extra=DEEP),
    *both("deep-jit", regression, extra=DEEP, jit_compile=True),
    # Losses that XLA sums over classes and examples in one fused reduction.
    *both("huber-jit", regression, loss="huber", jit_compile=True, formula=huber),
    *both("sample-weight-jit", regression, weighted=True, jit_compile=True),
    *both("class-weight-jit", classes, jit_compile=True),
    *both("masked-sequence-jit", masked_sequence, jit_compile=True),
    *both("shared-loss-jit", two_outputs, loss="mse", jit_compile=True),
    *both(
        "mixed-float16-jit",
        mixed,
        "mixed_float16",
        jit_compile=True,
        expected=RecordedWithoutFormula(),
    ),
    *both(
        "loop-in-loss-jit",
        regression,
        loss=squared_error_in_a_loop,
        formula=lambda target, predicted: squared_error(target, 1.01**3 * predicted),
        jit_compile=True,
    ),
    # Not in tf_keras, whose plain fits already differ: XLA ignores the seeds of tf.random.
    case("dropout-jit", "keras", dropout, jit_compile=True, expected=RecordedWithoutFormula()),
    case("several-steps-jit", "keras", regression, steps_per_execution=2, jit_compile=True),
    *both("sample-weight", regression, weighted=True),
    *both("class-weight", classes),
    *both(
        "list-of-losses",
        two_outputs,
        loss=["mse", "mse"],
        loss_weights=[1.0, 0.3],
        exact_since=(3, 6),
    ),
    case(
        "dict-of-losses",
        "keras",
        two_outputs,
        loss={"a": "mse", "b": "mse"},
        loss_weights={"a": 0.5, "b": 2.0},
        as_dict=True,
        exact_since=(3, 6),
    ),
    *both("shared-loss", two_outputs, loss="mse"),
    *both("a-loss-of-none", two_outputs, loss=[None, "mse"], used=("b",), since=(3, 7)),
    *both("regularized", regularized),
    *both("added-loss-only", added_loss_only, expected=LossFollowsFormula()),
    *both("masked-sequence", masked_sequence),
    *both("rank-3", masked_sequence, rank=3),
    *both("sum", reduced, "sum"),
    *both("no-reduction", reduced, "none"),
    case("mean-with-sample-weight", "keras", reduced, "mean_with_sample_weight", since=(3, 7)),
    *both("loss-class", loss_object, "class"),
    *both("loss-function", loss_object, "function"),
    *both("custom-train-step", custom_train_step, "compute_loss"),
    *both("custom-train-step-with-penalty", custom_train_step, "penalty"),
    *both("custom-train-step-custom-loss", custom_train_step, "custom loss"),
    case(
        "custom-train-step-no-loss-object",
        "keras",
        custom_train_step,
        "no Loss",
        expected=LossFollowsFormula(
            "without the loss per example: the training step calls no Keras Loss"
        ),
    ),
    case(
        "train-step-as-tf-function",
        "keras",
        custom_train_step,
        "tf.function",
        expected=RecordedWithoutLoss(
            "without the loss 'loss': it is computed in 'train_step', a tf.function"
        ),
    ),
    *both("custom-compute-loss", custom_compute_loss),
    *both(
        "custom-make-train-function",
        custom_make_train_function,
        expected=NotRecorded("a custom make_train_function"),
    ),
    *both("mixed-float16", mixed, "mixed_float16", expected=RecordedWithoutFormula()),
    *both("mixed-bfloat16", mixed, "mixed_bfloat16", expected=RecordedWithoutFormula()),
    *both("dropout", dropout, expected=RecordedWithoutFormula()),
    *both(
        "dropout-several-steps", dropout, steps_per_execution=2, expected=RecordedWithoutFormula()
    ),
    *both("noise", noisy, expected=RecordedWithoutFormula()),
    case(
        "noise-several-steps",
        "tf_keras",
        noisy,
        steps_per_execution=2,
        expected=RecordedWithoutFormula(),
    ),
    case(
        "noise-several-steps",
        "keras",
        noisy,
        steps_per_execution=2,
        expected=RecordedWithoutLoss("draws seeded numbers with tf.random"),
    ),
    *both(
        "batch-normalization",
        regression,
        extra=[lambda k: k.layers.BatchNormalization()],
        expected=RecordedWithoutFormula(),
    ),
    *both("dataset", from_source, "dataset"),
    *both("generator", from_source, "generator"),
    *both("py-dataset", from_source, "PyDataset"),
    *both("one-device", on_one_device),
    # Earlier versions took the mean on each replica, yet summed the gradients.
    *both("two-devices", on_two_devices, since=(3, 7)),
    case("gradient-accumulation", "keras", gradient_accumulation, since=(3, 3)),
]
CASES = [case for case in CASES if case.library != "keras" or case.since <= KERAS]
