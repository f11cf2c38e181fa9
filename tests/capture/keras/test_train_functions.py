"""Train functions that Keras did not make, was made to make again, or never calls."""

import functools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tb_firstloss import errors
from tb_firstloss.capture.fit import FirstLossCallback
from tb_firstloss.capture.loop import FirstLoss

RNG = np.random.default_rng(0)
X = RNG.random((40, 4), dtype=np.float32)
Y = X.sum(1, keepdims=True)

LIBRARIES = pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
WAYS = pytest.mark.parametrize(
    "options",
    [{}, {"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 2}],
    ids=["graph", "eager", "jit", "two steps"],
)


def make_model(library, depth=1, dropout=False, **options):
    library.utils.set_random_seed(1)
    layers = [library.layers.Dense(4, activation="tanh") for _ in range(depth)]
    layers += [library.layers.Dropout(0.5)] if dropout else []
    model = library.Sequential(
        [library.layers.Input((4,)), *layers, library.layers.Dense(1)], name="model"
    )
    model.compile("adam", "mse", **options)
    return model


def callback(tmp_path, name="runs", **options):
    return FirstLossCallback(tmp_path / name, graph=False, profile=False, **options)


def train(model, callbacks, **options):
    """Fits two epochs; returns what training has come to, and our warnings."""
    given = {"batch_size": 8, "epochs": 2, "verbose": 0, "shuffle": False, **options}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        history = model.fit(X, Y, callbacks=callbacks, **given).history
    ours = [str(w.message) for w in said if issubclass(w.category, errors.FirstLossWarning)]
    return (repr(history), [w.tobytes() for w in model.get_weights()]), ours


def perturb(model, calls, wrap=functools.wraps):
    """Puts a train function around the model's that trains at perturbed weights."""
    model.make_train_function()
    inner = model.train_function
    kernel = model.layers[0].kernel

    @wrap(inner)
    def train_function(iterator):
        calls.append(1)
        before = tf.identity(getattr(kernel, "value", kernel) if kernel_is_keras else kernel)
        kernel.assign(before * 1.1)
        logs = inner(iterator)
        kernel.assign_sub(before * 0.1)
        return logs

    kernel_is_keras = not isinstance(kernel, tf.Variable)
    model.train_function = train_function


def wrapping(library, hook, calls):
    """Returns a callback that wraps the train function once, in a hook."""

    class Wrapping(library.callbacks.Callback):
        def wrap(self, *_args, **_kwargs):
            if not calls:
                perturb(self.model, calls)

    made = Wrapping()
    setattr(made, hook, made.wrap)
    return made


@LIBRARIES
@WAYS
@pytest.mark.parametrize("wrap", [functools.wraps, lambda _: lambda f: f], ids=["wraps", "bare"])
def test_a_train_function_of_the_users_is_left_alone_with_one_warning(
    library, options, wrap, tmp_path
):
    found = []
    for ours in ([], [callback(tmp_path)]):
        model, calls = make_model(library, **options), []
        perturb(model, calls, wrap)
        state, said = train(model, ours)
        found.append((state, len(calls)))
    assert found[0] == found[1]
    assert len(said) == 1
    assert "model.train_function is not Keras's own" in said[0]
    assert not list(tmp_path.iterdir())


@LIBRARIES
@WAYS
@pytest.mark.parametrize(
    ("hook", "before"),
    [("on_train_begin", True), ("on_train_begin", False), ("on_epoch_begin", False)],
    ids=["before ours", "after ours", "in its first epoch"],
)
def test_a_train_function_around_keras_own_is_called_as_often_and_captured(
    library, options, hook, before, tmp_path
):
    found = []
    for ours in ([], [first := callback(tmp_path)]):
        model, calls = make_model(library, **options), []
        other = [wrapping(library, hook, calls)]
        state, said = train(model, other + ours if before else ours + other)
        found.append((state, len(calls)))
    assert found[0] == found[1]
    assert not said
    fresh = make_model(library, **options)
    kernel = fresh.layers[0].kernel
    kernel.assign(kernel * 1.1)
    expected = np.mean((Y[:8] - fresh(X[:8]).numpy()) ** 2)
    np.testing.assert_allclose(first.first_batch.loss, expected, rtol=1e-5)


def test_a_train_function_inside_a_tf_function_is_left_alone(tmp_path):
    """Only that of tf_keras can be called there: Keras 3's branches on a tensor in Python."""

    class Compiles(tf_keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            inner = self.model.train_function
            self.model.train_function = tf.function(lambda iterator: inner(iterator))

    def state(ours):
        return train(make_model(tf_keras), [*ours, Compiles()])

    plain, _ = state([])
    captured, said = state([callback(tmp_path)])
    assert captured == plain
    assert len(said) == 1
    assert "tf.function" in said[0]


@LIBRARIES
def test_a_model_that_a_callback_compiles_again_is_captured(library, tmp_path):
    class Compiles(library.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.compile("sgd", "mae")
            self.model.make_train_function()

    plain, _ = train(make_model(library), [Compiles()])
    captured, said = train(make_model(library), [first := callback(tmp_path), Compiles()])
    assert captured == plain
    assert not said
    expected = np.mean(np.abs(Y[:8] - make_model(library)(X[:8]).numpy()))
    np.testing.assert_allclose(first.first_batch.loss, expected, rtol=1e-5)


class BuildsItself(tf_keras.Model):
    def build(self, input_shape):
        self.dense = tf_keras.layers.Dense(1)
        self.dense.build(input_shape)
        self.built = True

    def call(self, inputs):
        return self.dense(inputs)


class ListsNothing(keras.Sequential):
    @property
    def trainable_variables(self):
        if not self.built:
            raise ValueError("no variables yet")
        return super().trainable_variables


UNBUILT = {
    "Sequential": lambda: tf_keras.Sequential([tf_keras.layers.Dense(3), tf_keras.layers.Dense(1)]),
    "subclass": BuildsItself,
    "Keras 3": lambda: ListsNothing([keras.layers.Dense(1)]),
}


@pytest.mark.parametrize("kind", UNBUILT)
@pytest.mark.parametrize("how", ["fit", "train_on_batch"])
@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}], ids=["graph", "eager"])
def test_a_model_that_its_first_batch_builds_is_captured(kind, how, options, tmp_path):
    def state(ours):
        library = keras if kind == "Keras 3" else tf_keras
        library.backend.clear_session()
        library.utils.set_random_seed(1)
        model = UNBUILT[kind]()
        model.compile("adam", "mse", **options)
        if how == "fit":
            recorder = callback(tmp_path, fingerprint=True) if ours else None
            train(model, [recorder] if ours else [])
        else:
            recorder = FirstLoss(tmp_path, graph=False, profile=False)
            step = recorder.wrap(model.train_on_batch) if ours else model.train_on_batch
            for k in range(0, 24, 8):
                step(X[k : k + 8], Y[k : k + 8])
        return [w.tobytes() for w in model.get_weights()], recorder

    plain, _ = state(ours=False)
    captured, recorder = state(ours=True)
    assert captured == plain
    assert [o.per_example.shape for o in recorder.first_batch.outputs.values()] == [(8,)]
    assert recorder.first_batch.loss is not None


@LIBRARIES
@pytest.mark.parametrize(
    ("options", "depth"),
    [
        ({}, 1),
        ({}, 13),  # with more variables, another function stays
        ({"run_eagerly": True}, 1),
        ({"jit_compile": True}, 1),
        ({"steps_per_execution": 2}, 1),
    ],
    ids=["graph", "large", "eager", "jit", "two steps"],
)
def test_every_fit_with_a_callback_of_its_own_is_captured(library, options, depth, tmp_path):
    sizes = [8, 12, 4]  # 12 leaves a last batch of 4
    models = [make_model(library, depth=depth, **options) for _ in range(2)]
    for number, size in enumerate(sizes):
        before = [np.mean((Y[:size] - models[0](X[:size]).numpy()) ** 2)]
        plain, _ = train(models[0], [], batch_size=size)
        first = callback(tmp_path, str(number))
        captured, said = train(models[1], [first], batch_size=size)
        assert captured == plain
        assert not said
        np.testing.assert_allclose(first.first_batch.loss, before[0], rtol=1e-5)
        assert len(first.first_batch.per_example) == size


@LIBRARIES
@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}, {"jit_compile": True}], ids=str)
@pytest.mark.parametrize("dropout", [False, True], ids=["", "dropout"])
def test_train_on_batch_of_a_trained_model_is_captured_or_says_why(
    library, options, dropout, tmp_path
):
    def state(wrap):
        model = make_model(library, dropout=dropout, **options)
        train(model, [], epochs=1)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            step = wrap(model.train_on_batch)
            logs = [step(X[k : k + 8], Y[k : k + 8]) for k in (0, 8, 16)]
        ours = [w for w in said if issubclass(w.category, errors.FirstLossWarning)]
        return (repr(logs), [w.tobytes() for w in model.get_weights()]), ours

    first = FirstLoss(tmp_path, graph=False, profile=False)
    plain, _ = state(lambda step: step)
    captured, said = state(first.wrap)
    if not ("jit_compile" in options and dropout and library is tf_keras):  # XLA draws anew
        assert captured == plain
    loss = None if first.first_batch is None else first.first_batch.loss
    assert (loss is None) == (len(said) == 1)
    # Only the dropout of tf_keras keeps its state in the function that draws.
    assert (loss is None) == (library is tf_keras and dropout and "run_eagerly" not in options)


@LIBRARIES
@WAYS
def test_two_callbacks_in_one_fit_both_record(library, options, tmp_path):
    plain, _ = train(make_model(library, **options), [])
    one, two = callback(tmp_path, "one"), callback(tmp_path, "two", tag="other", metadata={"a": 1})
    captured, said = train(make_model(library, **options), [one, two])
    assert captured == plain
    assert not said
    assert one.first_batch.losses == two.first_batch.losses
    assert one.first_batch.outputs.keys() == two.first_batch.outputs.keys()
    assert (tmp_path / "one/first_batch").is_dir()
    assert (tmp_path / "two/other").is_dir()


def test_one_callback_that_fails_keeps_no_other_from_recording(tmp_path):
    (tmp_path / "file").touch()
    bad, good = callback(tmp_path, "file"), callback(tmp_path, "good")
    _, said = train(make_model(keras), [bad, good])
    assert len(said) == 1
    assert good.run_dir is not None
    bad = callback(tmp_path, "file", on_error="raise")
    good = callback(tmp_path, "good")
    with pytest.raises(errors.CaptureError, match="file"):
        train(make_model(keras), [bad, good])
    assert good.run_dir is not None


def by_hand(model, callbacks):
    run = CALLBACK_LISTS[type(model).__module__.partition(".")[0]](
        callbacks, model=model, epochs=1, steps=3, verbose=0
    )
    run.on_train_begin()
    run.on_epoch_begin(0)
    for k in range(0, 24, 8):
        run.on_train_batch_begin(k // 8)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(X[k : k + 8]) - Y[k : k + 8]) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        run.on_train_batch_end(k // 8, {"loss": float(loss)})
    run.on_epoch_end(0, {})
    run.on_train_end()


CALLBACK_LISTS = {
    "keras": keras.callbacks.CallbackList,
    "tf_keras": tf_keras.callbacks.CallbackList,
}
NEVER = {
    "CallbackList": (by_hand, "was not called"),
    "evaluate": (lambda m, c: m.evaluate(X, Y, verbose=0, callbacks=c), "model.evaluate"),
    "predict": (lambda m, c: m.predict(X, verbose=0, callbacks=c), "model.predict"),
    "later epoch": (
        lambda m, c: m.fit(X, Y, epochs=3, initial_epoch=1, verbose=0, callbacks=c),
        "on_resume='record'",
    ),
    "no data": (
        lambda m, c: m.fit(
            tf.data.Dataset.from_tensor_slices((X, Y)).take(0).batch(8), verbose=0, callbacks=c
        ),
        "no batch",
    ),
}


@pytest.mark.parametrize("trained", [False, True], ids=["new", "trained"])
@pytest.mark.parametrize(
    ("library", "way"),
    [(keras, way) for way in NEVER]
    + [(tf_keras, way) for way in NEVER if way != "no data"],  # which is a ValueError there
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_training_that_ends_without_a_recording_has_had_one_warning(
    library, trained, way, tmp_path
):
    model = make_model(library)
    if trained:
        train(model, [])
    function = model.train_function
    call, reason = NEVER[way]
    with pytest.warns(errors.CaptureWarning) as said:
        call(model, [first := callback(tmp_path)])
    ours = [str(w.message) for w in said if issubclass(w.category, errors.FirstLossWarning)]
    assert [reason in text for text in ours] == [True]
    assert first.first_batch is None
    if function is not None or way in ("CallbackList", "evaluate", "predict"):
        assert model.train_function is function
    assert "make_train_function" not in vars(model)
    with pytest.raises(errors.CaptureError, match="first loss"):
        call(model, [callback(tmp_path, on_error="raise")])
    call(model, [first])  # said once
    train(model, [first])
    assert first.first_batch is not None or way == "later epoch"


def test_evaluation_during_training_is_no_reason_to_warn(tmp_path):
    class Evaluates(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.evaluate(X, Y, verbose=0)

    first = callback(tmp_path)
    _, said = train(make_model(keras), [Evaluates(), first], validation_data=(X, Y))
    assert not said
    assert first.first_batch is not None


@LIBRARIES
@pytest.mark.parametrize("way", ["a fit that ignores callbacks", "a list that never ends"])
def test_a_callback_that_sees_no_training_warns_at_its_end(library, way, tmp_path):
    class Model(library.Model):
        def fit(self, *args, callbacks=(), **options):
            if way == "a list that never ends":
                CALLBACK_LISTS[library.__name__](callbacks, model=self).on_train_begin()

    first = callback(tmp_path)
    Model().fit(X, Y, callbacks=[first])
    with pytest.warns(errors.CaptureWarning, match=r"no model\.fit trained on a batch") as said:
        first._recorder.end()  # as when it is collected, or when the process ends
    assert len(said) == 1
    assert said[0].filename == __file__


@LIBRARIES
def test_a_callback_records_after_a_fit_that_failed_and_one_without_it(library, tmp_path):
    class Fails(library.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            raise LookupError

    model, first = make_model(library), callback(tmp_path)
    with pytest.raises(LookupError):
        train(model, [first, Fails()])
    plain, said = train(model, [])
    assert not said
    assert first.first_batch is None
    control = make_model(library)
    assert plain == train(control, [])[0]
    assert train(model, [first]) == (train(control, [])[0], [])
    assert first.first_batch is not None


@LIBRARIES
def test_a_model_without_weights_is_recorded_without_advice_on_gradients(library, tmp_path):
    model = library.Sequential([library.layers.Input((4,)), library.layers.Rescaling(2.0)])
    model.compile("sgd", "mse")
    _, said = train(model, [first := callback(tmp_path)])
    expected = ((2 * X[:8] - Y[:8]) ** 2).mean()
    assert not said
    np.testing.assert_allclose(first.first_batch.loss, expected, rtol=1e-6)


@LIBRARIES
def test_the_class_in_place_of_an_instance_is_one_clear_error(library):
    with pytest.raises(TypeError, match=r"FirstLossCallback is a class; give an instance"):
        make_model(library).fit(X, Y, verbose=0, callbacks=[FirstLossCallback])
