"""model.fit with the callback: training unchanged bit for bit, and the first batch's loss."""

import importlib
import random
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tb_firstloss import errors
from tb_firstloss.capture.fingerprint import fingerprint_weights
from tb_firstloss.capture.fit import FirstLossCallback
from tb_firstloss.capture.keras.first_execution import capture_train_on_batch
from tb_firstloss.capture.options import Options
from tb_firstloss.capture.recorder import Recorder
from tests.helpers import fit_cases
from tests.helpers.fit_cases import CASES


def build(case):
    """Returns the case's job, built from the same seeds every time."""
    library = importlib.import_module(case.library)
    library.backend.clear_session()
    library.utils.set_random_seed(7)
    return case.make(library)


def fit(job, callbacks, epochs=2):
    history = job.model.fit(
        **{"batch_size": fit_cases.BATCH_SIZE, **job.data}
        if isinstance(job.data["x"], np.ndarray)
        else job.data,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    return history.history


def state_after(case, callbacks=()):
    """Trains twice, the second time without callbacks, and returns the whole state of training."""
    job = build(case)
    histories = [fit(job, list(callbacks))]
    if not job.reads_ahead:
        histories.append(fit(job, [], epochs=1))
    variables = job.model.optimizer.variables
    variables = variables() if callable(variables) else variables
    return {
        "histories": repr(histories),  # repr tells every bit of a float
        "weights": [w.tobytes() for w in job.model.get_weights()],
        "optimizer": [np.asarray(v).tobytes() for v in variables],
        "random streams": (random.random(), np.random.rand(), float(tf.random.uniform([]))),
        "batches": None if job.reads_ahead else list(job.consumed),
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_is_the_same_and_the_recording_is_as_expected(case, tmp_path):
    plain = state_after(case)
    first = FirstLossCallback(tmp_path, graph=False, profile=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        captured = state_after(case, [first])

    if not case.is_exact:
        del captured["histories"], plain["histories"]
    assert captured == plain
    ours = [str(w.message) for w in caught if issubclass(w.category, errors.FirstLossWarning)]
    case.expected.check_warnings(ours)
    case.expected.check(first.first_batch, tmp_path, build(case))


BY_NAME = {str(case): case for case in CASES}
LIBRARIES = pytest.mark.parametrize("library", ["keras", "tf_keras"])


def callback(tmp_path, **options):
    return FirstLossCallback(tmp_path, **{"graph": False, "profile": False, **options})


@LIBRARIES
def test_with_dropout_the_loss_is_the_one_that_a_step_returns(library, tmp_path):
    k = importlib.import_module(library)

    class Returning(k.Sequential):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                values = tf.reduce_mean((self(x, training=True) - y) ** 2, -1)
                loss = tf.reduce_mean(values)
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            return {"values": values, "loss": loss}

    def make(model_class):
        k.backend.clear_session()
        k.utils.set_random_seed(3)
        layers = [k.layers.Input((6,)), k.layers.Dropout(0.5), k.layers.Dense(3)]
        model = model_class(layers)
        model.compile("sgd", "mse")
        return model

    x, y, _, _ = fit_cases.numbers()
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(fit_cases.BATCH_SIZE)
    returning = make(Returning)
    returning.make_train_function()
    returned = returning.train_function(iter(batches))
    first = callback(tmp_path)
    make(k.Sequential).fit(batches, verbose=0, callbacks=[first])
    np.testing.assert_array_equal(first.first_batch.per_example, returned["values"].numpy())
    np.testing.assert_array_equal(first.first_batch.loss, returned["loss"].numpy())


def test_outputs_carry_names_weights_masks_and_reductions(tmp_path):
    fit(build(BY_NAME["keras-dict-of-losses"]), [first := callback(tmp_path / "two")])
    outputs = first.first_batch.outputs
    assert [(name, o.loss_weight) for name, o in outputs.items()] == [("a", 0.5), ("b", 2.0)]
    fit(build(BY_NAME["keras-sample-weight"]), [first := callback(tmp_path / "weight")])
    weights = fit_cases.numbers()[3][: fit_cases.BATCH_SIZE]
    np.testing.assert_array_equal(first.first_batch.sole_output.sample_weight, weights)
    fit(build(BY_NAME["keras-masked-sequence"]), [first := callback(tmp_path / "mask")])
    assert first.first_batch.sole_output.mask.dtype == bool
    assert first.first_batch.per_example.shape == (8, 4)
    assert first.first_batch.sole_output.reduction == "sum_over_batch_size"


@LIBRARIES
@pytest.mark.parametrize(
    "options", [{}, {"run_eagerly": True}, {"steps_per_execution": 2}], ids=str
)
def test_fit_leaves_the_model_with_the_attributes_of_a_plain_fit(library, options, tmp_path):
    k = importlib.import_module(library)
    plain, captured = fit_cases.regression(k, **options), fit_cases.regression(k, **options)
    fit(plain, [])
    fit(captured, [callback(tmp_path)])
    assert vars(captured.model).keys() == vars(plain.model).keys()
    for name in ("compute_loss", "train_step", "make_train_function"):
        assert name not in vars(captured.model)
    assert "scale_loss" not in vars(captured.model.optimizer)
    assert not hasattr(tf.GradientTape.gradient, "__wrapped__")
    assert not hasattr(k.losses.Loss.__call__, "__wrapped__")


class _StopsAt(keras.callbacks.Callback):
    def __init__(self, hook):
        super().__init__()
        setattr(self, hook, self._stop)

    def _stop(self, *_args, **_kwargs):
        raise KeyboardInterrupt


@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_train_batch_begin", "on_train_batch_end"])
def test_after_an_interrupted_fit_the_next_one_is_plain(hook, tmp_path):
    job = fit_cases.regression(keras)
    first = callback(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(job, [first, _StopsAt(hook)])
    recorded = first.first_batch
    fit(job, [])
    assert first.first_batch is recorded
    assert (recorded is not None) == (hook == "on_train_batch_end")
    assert type(job.model.train_function).__module__ != "tb_firstloss.capture.keras.first_execution"


def test_an_error_of_the_step_propagates_and_the_next_fit_is_the_first(tmp_path):
    job = fit_cases.regression(keras)
    good = job.data["y"]
    job.data["y"] = good[:, :2]
    first = callback(tmp_path)
    with pytest.raises(ValueError, match=r"(?i)shape|dimension"):
        fit(job, [first])
    assert first.first_batch is None
    assert not list(tmp_path.iterdir())
    job.data["y"] = good
    fit(job, [first])
    assert first.first_batch is not None


def test_the_first_of_two_fits_is_the_one_that_is_kept(tmp_path):
    job, first = fit_cases.regression(keras), callback(tmp_path)
    fit(job, [first])
    kept = first.first_batch
    fit(job, [first])
    assert first.first_batch is kept
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("loss", ["mae", "huber", "log_cosh"])
@pytest.mark.parametrize("epochs", [1, 2], ids="epochs={}".format)
def test_under_jit_the_reported_and_the_recorded_loss_keep_their_last_bits(epochs, loss, tmp_path):
    def train(callbacks):
        keras.utils.set_random_seed(3)
        hidden = keras.layers.Dense(64, "relu")
        model = keras.Sequential([keras.layers.Input((20,)), hidden, keras.layers.Dense(3)])
        model.compile("adam", loss, jit_compile=True)
        rng = np.random.default_rng(1)
        x, y = (rng.normal(size=(256, size)).astype(np.float32) for size in (20, 3))
        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(32).take(1 if epochs == 1 else 8)
        history = model.fit(batches, epochs=epochs, verbose=0, callbacks=callbacks).history
        state = [*model.get_weights(), *(v.numpy() for v in model.optimizer.variables)]
        return history["loss"], [array.tobytes() for array in state]

    first = callback(tmp_path)
    reported, state = train([])
    assert train([first]) == (reported, state)
    if epochs == 1:
        assert first.first_batch.loss == np.float32(reported[0])  # the mean over a single batch


def test_a_second_callback_on_a_trained_model_captures_its_own_first_batch(tmp_path):
    job, second = fit_cases.regression(keras), callback(tmp_path / "second")
    fit(job, [callback(tmp_path / "first")])
    values, total = job.expect()
    fit(job, [second])
    np.testing.assert_allclose(second.first_batch.per_example, values[0], rtol=2e-5)
    np.testing.assert_allclose(second.first_batch.loss, total, rtol=2e-5)


@pytest.mark.parametrize(
    "options", [{}, {"jit_compile": True}, {"steps_per_execution": 2}], ids=str
)
def test_the_step_is_traced_as_often_as_in_a_plain_fit(options, tmp_path):
    traces = []

    class Counting(keras.Sequential):
        def train_step(self, data):
            traces.append(1)
            return super().train_step(data)

    def count(callbacks):
        traces.clear()
        model = Counting([keras.layers.Input((6,)), keras.layers.Dense(3)])
        model.compile("adam", "mse", **options)
        x, y, _, _ = fit_cases.numbers(count=16)
        model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=callbacks)
        return len(traces)

    # Before Keras 3.7, a fit of several steps an execution is traced once more.
    more = fit_cases.KERAS < (3, 7) and "steps_per_execution" in options
    assert count([callback(tmp_path)]) == count([]) + more


@LIBRARIES
@pytest.mark.parametrize("ours_first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("profile_batch", [0, 1])
def test_tensorboards_callback_works_alongside(library, ours_first, profile_batch, tmp_path):
    k = importlib.import_module(library)
    job, first = fit_cases.regression(k), FirstLossCallback(tmp_path / "first_loss")
    tensorboard = k.callbacks.TensorBoard(tmp_path / "tensorboard", profile_batch=profile_batch)
    fit(job, [first, tensorboard] if ours_first else [tensorboard, first])
    assert first.first_batch is not None
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1
    owner = "tensorboard" if profile_batch else "first_loss"
    assert list((tmp_path / owner).rglob("*.xplane.pb"))


class _Restores(keras.callbacks.Callback):
    """Sets the optimizer, as BackupAndRestore does when it has a checkpoint."""

    def on_train_begin(self, logs=None):
        self.model.optimizer.iterations.assign(40)


@pytest.mark.parametrize("ours_first", [True, False], ids=["before", "after"])
def test_a_restored_fit_adopts_the_existing_recording(ours_first, tmp_path):
    earlier = callback(tmp_path)
    fit(fit_cases.regression(keras), [earlier])

    def resume(**options):
        first = callback(tmp_path, **options)
        callbacks = [first, _Restores()] if ours_first else [_Restores(), first]
        fit(fit_cases.regression(keras), callbacks)
        return first

    assert resume().first_batch.digest == earlier.first_batch.digest
    assert len(list(tmp_path.iterdir())) == 1
    assert resume(on_resume="record").first_batch.step == 40
    with pytest.raises(errors.ResumedRunError, match="40 batches"):
        resume(on_resume="error")
    with pytest.warns(errors.CaptureWarning, match="step 1 is not later"):
        assert resume(on_resume="record", step=1).first_batch is None
    with pytest.warns(errors.CaptureWarning, match="no recording of its first batch"):
        assert resume(tag="other").first_batch is None


def test_a_restored_fit_without_an_earlier_recording_raises_where_it_may(tmp_path):
    first = FirstLossCallback(tmp_path / "new", on_error="raise")
    with pytest.raises(errors.CaptureError, match="no recording of its first batch"):
        fit(fit_cases.regression(keras), [_Restores(), first])
    assert first.first_batch is None


@pytest.mark.skipif(
    fit_cases.KERAS < (3, 6), reason="BackupAndRestore restored neither epoch nor optimizer"
)
def test_backup_and_restore_is_noticed_anywhere_in_the_list(tmp_path):
    class Crash(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise RuntimeError("power cut")

    def run(*callbacks):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        fit(fit_cases.regression(keras), [backup, *callbacks])

    with pytest.raises(RuntimeError, match="power cut"):
        run(first := callback(tmp_path / "runs"), Crash())
    run(again := callback(tmp_path / "runs"))
    assert again.first_batch.digest == first.first_batch.digest
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["first_batch"]


def test_a_fit_that_begins_at_a_later_epoch_is_resumed(tmp_path):
    job = fit_cases.regression(keras)
    with pytest.raises(errors.ResumedRunError, match="epoch 1"):
        job.model.fit(
            **job.data,
            epochs=2,
            initial_epoch=1,
            verbose=0,
            callbacks=[callback(tmp_path, on_resume="error")],
        )


@LIBRARIES
def test_the_first_train_on_batch_is_captured_and_trains_the_same(library, tmp_path):
    def train(call):
        job = build(BY_NAME[f"{library}-function"])
        x, y = (job.data[name][:8] for name in "xy")
        results = [call(job.model.train_on_batch, (x, y)), job.model.train_on_batch(x, y)]
        return results, [w.tobytes() for w in job.model.get_weights()]

    recorder = Recorder(Options(logdir=tmp_path, graph=False, profile=False))
    captured = train(lambda method, args: capture_train_on_batch(recorder, method, args, {}))
    assert captured == train(lambda method, args: method(*args))
    values, _ = build(BY_NAME[f"{library}-function"]).expect()
    np.testing.assert_allclose(recorder.first_batch.per_example, values[0], rtol=2e-5)


def test_an_unwritable_logdir_is_one_warning_and_training_goes_on(tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(errors.CaptureWarning, match="file") as caught:
        fit(fit_cases.regression(keras), [first := callback(tmp_path / "file")])
    assert len(caught) == 1
    assert first.first_batch is not None
    assert first.run_dir is None
    with pytest.raises(errors.CaptureError):
        fit(fit_cases.regression(keras), [callback(tmp_path / "file", on_error="raise")])


def test_without_a_batch_nothing_is_recorded_and_the_model_is_untouched(tmp_path):
    model = fit_cases.regression(keras).model
    nothing = tf.data.Dataset.from_tensor_slices(fit_cases.numbers()[:2]).take(0).batch(8)
    first = callback(tmp_path)
    with pytest.warns(errors.CaptureWarning, match="no batch to train on") as caught:
        model.fit(nothing, verbose=0, callbacks=[first])
    assert sum(issubclass(w.category, errors.CaptureWarning) for w in caught) == 1
    assert first.first_batch is None
    assert not list(tmp_path.iterdir())


def test_another_backend_is_one_clear_error(tmp_path):
    code = f"import tb_firstloss.capture.fit as f; f.FirstLossCallback({str(tmp_path)!r})"
    environment = {"KERAS_BACKEND": "jax", "PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "ValueError: FirstLossCallback: Keras computes with jax" in result.stderr


def test_the_fingerprint_is_of_the_weights_before_training(tmp_path):
    job = fit_cases.regression(keras)
    expected = fingerprint_weights(job.model)
    fit(job, [first := callback(tmp_path, fingerprint=True)])
    assert first.first_batch.metadata["fingerprint"] == expected
    assert fingerprint_weights(job.model) != expected
