"""Which losses of a step are recorded, under which names, and what is said of the others."""

import contextlib
import importlib
import warnings

import numpy as np
import pytest
import tensorflow as tf

from tb_firstloss import FirstLoss, FirstLossCallback, read_first_loss
from tb_firstloss.errors import CaptureWarning, FirstLossWarning

X = np.random.default_rng(0).random((16, 4), dtype=np.float32)


@pytest.fixture(params=["keras", "tf_keras"])
def k(request):
    return importlib.import_module(request.param)


def make_model(k, step, attributes=None, class_attributes=None, **options):
    """Returns a compiled model with two layers, ``d`` of one unit and ``g`` of four.

    Its ``descend(tape, loss, layer)`` takes a gradient and updates the layer.
    """

    class Model(k.Model):
        def __init__(self):
            super().__init__()
            self.d, self.g = k.layers.Dense(1), k.layers.Dense(4)
            for name, value in (attributes or {}).items():
                setattr(self, name, value)

        def build(self, _):
            self.d.build((None, 4))
            self.g.build((None, 4))
            self.built = True

        def descend(self, tape, loss, layer):
            variables = layer.trainable_variables
            for gradient, variable in zip(tape.gradient(loss, variables), variables, strict=True):
                if gradient is not None:
                    variable.assign_sub(0.01 * gradient)

        train_step = step

    for name, value in (class_attributes or {}).items():
        setattr(Model, name, value)
    model = Model()
    model.build((None, 4))
    model.compile("sgd", **options)
    return model


@pytest.fixture(params=[False, True], ids=["graph", "eager"])
def fit(request, tmp_path, k):
    """Returns a function that fits a model with a given step; returns what was recorded and said.

    The step takes the model of `make_model` and a batch [8, 4].
    """

    def run(step, *, expect=None, attributes=None, class_attributes=None):
        model = make_model(k, step, attributes, class_attributes, run_eagerly=request.param)
        callback = FirstLossCallback(tmp_path, graph=False, profile=False, expect=expect)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", FirstLossWarning)
            model.fit(
                tf.data.Dataset.from_tensor_slices(X).batch(8), verbose=0, callbacks=[callback]
            )
        said = [str(w.message) for w in caught if issubclass(w.category, CaptureWarning)]
        with contextlib.suppress(FileNotFoundError):
            assert read_first_loss(tmp_path).digest == callback.first_batch.digest
        return callback.first_batch, said

    return run


def two_losses(model, x):
    with tf.GradientTape(persistent=True) as tape:
        d, g = tf.reduce_mean(model.d(x)), tf.reduce_sum(model.g(x))
    model.descend(tape, d, model.d)
    model.descend(tape, g, model.g)
    model.descend(tape, d, model.d)  # of a persistent tape, once more
    return d, g


def test_a_loss_is_named_by_its_key_in_the_logs_whatever_the_key(fit):
    def step(model, x):
        d, g = two_losses(model, x)
        return {"other": tf.constant(1.0), "g%2Floss": g, "d/loss": d, "d again": d}

    first, said = fit(step)
    assert list(first.losses) == ["d/loss", "g%2Floss"]
    assert first.loss is None
    assert len(said) == 1
    assert "without the loss per example: the training step calls no Keras Loss" in said[0]


def test_a_loss_is_named_by_the_metric_that_is_updated_with_it(fit, k):
    def step(model, x):
        d, g = two_losses(model, x)
        model.d_mean.update_state(d)
        model.g_mean.update_state(values=g)
        return {"d": model.d_mean.result(), "g": model.g_mean.result()}

    metrics = {"d_mean": k.metrics.Mean(name="critic"), "g_mean": k.metrics.Mean(name="painter")}
    first, _ = fit(step, attributes=metrics)
    assert list(first.losses) == ["critic", "painter"]


@pytest.mark.parametrize("logs", ["nothing", "metric"])
def test_two_losses_with_equal_claims_to_a_name_are_numbered(fit, k, logs):
    def step(model, x):
        d, g = two_losses(model, x)
        if logs == "nothing":
            return {"x": tf.constant(1.0)}
        model.mean.update_state(d)
        model.mean.update_state(g)
        return {"mean": model.mean.result()}

    first, _ = fit(step, attributes={"mean": k.metrics.Mean(name="mean")})
    assert list(first.losses) == ["loss_1", "loss_2"]


def test_a_log_that_is_the_mean_of_a_vector_names_its_loss(fit):
    def step(model, x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model.g(x) ** 2, -1)
        model.descend(tape, loss, model.g)
        return {"unrelated": tf.reduce_max(loss), "triplet": tf.reduce_mean(loss)}

    first, said = fit(step)
    assert not said
    (output,) = first.outputs.values()
    assert list(first.losses) == list(first.outputs) == ["triplet"]
    assert (output.per_example.shape, output.reduction) == ((8,), "sum")
    assert first.loss == pytest.approx(float(np.sum(output.per_example)), rel=1e-6)


def test_a_ragged_target_is_recorded_with_its_rows(fit):
    def step(model, x):
        with tf.GradientTape() as tape:
            loss = tf.RaggedTensor.from_row_splits(model.d(x)[:, 0] + 9.0, [0, 2, 8])
        model.descend(tape, loss, model.d)
        return {"x": tf.constant(1.0)}

    first, _ = fit(step)
    (output,) = first.outputs.values()
    assert output.row_splits[0].tolist() == [0, 2, 8]
    assert first.loss == pytest.approx(float(np.sum(output.per_example)), rel=1e-6)


def test_the_loss_of_a_list_is_the_sum_of_its_members(fit):
    def step(model, x):
        with tf.GradientTape() as tape:
            members = [tf.reduce_mean(model.d(x)), tf.constant(2.0), tf.reduce_sum(model.d(x), -1)]
        model.descend(tape, members, model.d)
        return {"a": members[0], "c": tf.reduce_sum(members[2])}

    first, _ = fit(step)
    assert list(first.losses) == ["loss"]
    values = first.outputs["loss"].per_example
    assert first.loss == pytest.approx(values.mean() + 2 + values.sum(), rel=1e-5)


@pytest.mark.parametrize("fit", [False], ids=["graph"], indirect=True)
def test_tf_gradients_is_a_gradient_too(fit):
    def step(model, x):
        loss = tf.reduce_mean(model.d(x))
        kernel = model.d.trainable_variables[0]
        kernel = (
            getattr(kernel, "value", kernel)
            if "keras.src.backend" in type(kernel).__module__
            else kernel
        )
        (gradient,) = tf.gradients(loss, [kernel])
        kernel.assign_sub(0.01 * gradient)
        return {"d_loss": loss}

    first, _ = fit(step)
    assert list(first.losses) == ["d_loss"]


def test_a_gradient_penalty_is_no_loss(fit):
    def step(model, x):
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(x)
                critic = tf.reduce_mean(model.d(x))
            penalty = tf.reduce_sum(inner.gradient(critic, x) ** 2)
            loss = critic + penalty
        model.descend(tape, loss, model.d)
        return {"critic": critic, "penalty": penalty, "d_loss": loss}

    first, _ = fit(step)
    assert list(first.losses) == ["d_loss"]


def test_what_is_differentiated_inside_a_gradient_is_no_loss(fit):
    """As tf.recompute_grad does, which computes a layer again when its gradient is taken."""

    def step(model, x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.recompute_grad(model.g)(x) ** 2)
        model.descend(tape, loss, model.g)
        return {"loss_of_g": loss}

    first, _ = fit(step)
    assert list(first.losses) == ["loss_of_g"]


def test_a_jacobian_is_no_loss(fit):
    def step(model, x):
        with tf.GradientTape(persistent=True) as tape:
            values = model.d(x)
            loss = tf.reduce_mean(values)
        model.descend(tape, loss, model.d)
        kernel = model.d.trainable_variables[0]
        jacobian = tape.jacobian(values, kernel)
        return {"d_loss": loss, "slope": tf.reduce_sum(jacobian)}

    first, said = fit(step)
    assert list(first.losses) == ["d_loss"]
    assert not [text for text in said if "without the loss '" in text]


def test_a_gradient_that_continues_another_is_no_loss(fit):
    def step(model, x):
        with tf.GradientTape() as lower:
            hidden = model.g(x)
        with tf.GradientTape() as upper:
            upper.watch(hidden)
            loss = tf.reduce_mean(model.d(hidden))
        variables = model.d.trainable_variables
        *gradients, passed = upper.gradient(loss, [*variables, hidden])
        for gradient, variable in zip(gradients, variables, strict=True):
            variable.assign_sub(0.01 * gradient)
        lower.gradient(hidden, model.g.trainable_variables, output_gradients=passed)
        return {"split_loss": loss}

    first, _ = fit(step)
    assert list(first.losses) == ["split_loss"]


def test_a_loss_inside_a_tf_function_of_the_step_is_named_in_one_warning(fit):
    @tf.function
    def train_d(model, x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model.d(x))
        model.descend(tape, loss, model.d)
        return loss

    def step(model, x):
        d = train_d(model, x)
        with tf.GradientTape() as tape:
            g = tf.reduce_mean(model.g(x))
        model.descend(tape, g, model.g)
        return {"d_loss": d, "g_loss": g}

    first, said = fit(step, expect=1.0)
    assert list(first.losses) == ["g_loss"]
    assert first.metadata["unseen_losses"] == ["loss_1"]
    assert len(said) == 2
    assert "recorded without the loss 'loss_1': it is computed in 'train_d'" in said[1]
    assert "not compared with the expectation" in said[0]
    assert "'loss_1' not captured" in said[0]


def test_a_loss_under_tf_cond_is_named_in_one_warning(fit, request):
    def step(model, x):
        def train():
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(model.d(x))
            model.descend(tape, loss, model.d)
            return loss

        return {"d_loss": tf.cond(tf.reduce_sum(x) > -1, train, lambda: tf.constant(0.0))}

    first, said = fit(step)
    assert len(said) == 1
    if "eager" in request.node.name:
        assert list(first.losses) == ["d_loss"]
        return
    assert not first.losses
    assert "recorded without the loss 'loss': it is computed in 'cond_true" in said[0]
    assert "traced before" not in said[0]


def test_what_is_no_float_is_no_loss(fit):
    def step(model, x):
        with tf.GradientTape() as tape:
            loss = tf.cast(tf.reduce_sum(model.d(x)), tf.int32)
        model.descend(tape, loss, model.d)
        return {"count": loss}

    first, said = fit(step)
    assert not first.losses
    assert len(said) == 1
    assert "without the loss 'count': it is int32, which has no gradient" in said[0]


def classifier(k):
    return k.losses.SparseCategoricalCrossentropy(from_logits=True, name="probe")


def test_only_what_goes_into_a_loss_is_an_output(fit, k, request):
    losses = {"only_logged": k.losses.MeanSquaredError(), "used": classifier(k)}

    def step(model, x):
        labels = tf.zeros([8], tf.int32)
        with tf.GradientTape() as tape:
            value = losses["used"](labels, model.g(x))
        model.descend(tape, value, model.g)
        logged = losses["only_logged"](x, model.g(x))
        return {"mse": logged, "probe_loss": value}

    first, said = fit(step, expect="auto")
    assert not [text for text in said if "expects nothing" in text]
    assert list(first.losses) == list(first.outputs) == ["probe_loss"]
    assert first.metadata["expected_loss"] == pytest.approx(np.log(4))


def test_auto_judges_what_it_knows_and_names_the_rest(fit, k):
    loss_fn = classifier(k)

    def step(model, x):
        with tf.GradientTape() as tape:
            contrast = tf.reduce_mean(model.d(x) ** 2)
        model.descend(tape, contrast, model.d)
        with tf.GradientTape() as tape:
            probe = loss_fn(tf.zeros([8], tf.int32), model.g(x))
        model.descend(tape, probe, model.g)
        return {"contrast": contrast, "probe": probe}

    first, said = fit(step, expect="auto")
    assert first.metadata["expected_loss"] == {"probe": pytest.approx(np.log(4))}
    assert [text.partition(": ")[2] for text in said] == [
        "expect='auto' expects nothing of 'contrast': it comes from no Keras Loss"
    ]


def test_calls_of_one_loss_object_are_told_apart_by_the_losses_they_go_into(fit, k, request):
    mse = k.losses.MeanSquaredError()

    def step(model, x):
        with tf.GradientTape() as tape:
            real, fake = mse(x, model.g(x)), mse(x, model.g(-x))
            total = real + fake
        model.descend(tape, total, model.g)
        with tf.GradientTape() as tape:
            other = mse(x, model.g(2 * x))
        model.descend(tape, other, model.g)
        return {"real_loss": real, "g_loss": total, "other_loss": other}

    first, said = fit(step)
    assert not said
    assert list(first.losses) == ["g_loss", "other_loss"]
    assert list(first.outputs) == ["g_loss/real_loss", "g_loss/mean_squared_error", "other_loss"]


def test_train_on_batch_records_every_loss_too(k, tmp_path):
    def step(model, data):
        d, g = two_losses(model, data[0] if isinstance(data, tuple) else data)
        return {"g_loss": g, "d_loss": d}

    k.utils.set_random_seed(5)
    plain = make_model(k, step)
    k.utils.set_random_seed(5)
    model = make_model(k, step)
    first = FirstLoss(tmp_path, graph=False, profile=False)
    train = first.wrap(model.train_on_batch)
    expected = plain.train_on_batch(X[:8], return_dict=True)
    with pytest.warns(
        CaptureWarning, match="^model.train_on_batch: .* recorded without the loss per"
    ):
        assert train(X[:8], return_dict=True) == expected
    assert list(first.first_batch.losses) == ["d_loss", "g_loss"]
    if k.__name__ == "tf_keras":  # Keras 3 returns what its metrics hold
        assert {name: float(loss) for name, loss in first.first_batch.losses.items()} == expected
    assert all(map(np.array_equal, model.get_weights(), plain.get_weights()))


def test_odd_keys_and_odd_metrics_stop_no_training(fit):
    class Odd:
        __slots__ = ()  # so that nothing can be put in front of update_state
        name = "odd"

        def update_state(self, value):
            return value

        def result(self):
            return 0.0

        def reset_state(self):
            pass

        reset_states = reset_state

    def step(model, x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model.d(x))
        model.descend(tape, loss, model.d)
        return {0: loss, 1: tf.constant(2.0)}

    first, _ = fit(step, class_attributes={"metrics": property(lambda _: [Odd()])})
    assert list(first.losses) == ["0"]


def test_a_list_of_several_dtypes_is_named_in_one_warning(fit):
    def step(model, x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model.d(x))
            members = [loss, tf.cast(loss, tf.float64)]
        model.descend(tape, members, model.d)
        return {"half": loss}

    first, said = fit(step)
    assert not first.losses
    assert "without the loss 'loss': its members have several dtypes" in said[0]


def test_a_gradient_in_a_function_traced_before_is_missed_with_a_warning(fit):
    variable = tf.Variable([1.0, 2.0, 3.0, 4.0])

    @tf.function(input_signature=[tf.TensorSpec([None, 4])])
    def descend(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(x * variable)
        variable.assign_sub(0.01 * tape.gradient(loss, variable))

    descend(tf.constant(X[:8]))

    def step(model, x):
        descend(x)
        return {"monitored": model.compute_loss(x)}

    compute_loss = {"compute_loss": lambda model, x: tf.reduce_mean(model.d(x))}
    first, said = fit(step, class_attributes=compute_loss)
    assert list(first.losses) == ["monitored"]
    assert sum("takes no gradient where it can be seen" in text for text in said) == 1
    assert "what compute_loss returned" in said[0]


def test_a_message_about_gradients_from_elsewhere_says_so(fit):
    def step(model, x):
        with tf.GradientTape() as tape:
            loss = model.d(x)
        variables = model.d.trainable_variables
        gradients = tape.gradient(loss, variables, output_gradients=tf.ones_like(loss))
        for gradient, variable in zip(gradients, variables, strict=True):
            variable.assign_sub(0.01 * gradient)
        return {"loss": tf.reduce_mean(loss)}

    first, said = fit(step)
    assert not first.losses
    assert len(said) == 1
    assert "gradients with output_gradients= only" in said[0]


def test_compiled_outputs_keep_their_names_beside_another_loss(k, tmp_path):
    penalty = k.losses.MeanAbsoluteError()

    class Model(k.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **options):
            total = super().compute_loss(x, y, y_pred, sample_weight, **options)
            return total + penalty(tf.zeros_like(y_pred["a"]), y_pred["a"])

    inputs = k.layers.Input((4,))
    outputs = {name: k.layers.Dense(1, name=name)(inputs) for name in "ab"}
    model = Model(inputs, outputs)
    model.compile("sgd", {"a": "mse", "b": "mse"}, loss_weights={"a": 1.0, "b": 3.0})
    first = FirstLossCallback(tmp_path, graph=False, profile=False)
    model.fit(X, dict.fromkeys("ab", X[:, :1]), batch_size=8, verbose=0, callbacks=[first])
    outputs = first.first_batch.outputs
    assert list(outputs) == ["a", "b", "loss/mean_absolute_error"]
    assert outputs["b"].loss_weight == 3.0


@pytest.mark.parametrize("k", ["keras"], indirect=True)  # tf_keras names outputs by itself
def test_outputs_without_names_of_their_own_are_named_alike(k, tmp_path):
    class Model(k.Model):
        def __init__(self):
            super().__init__()
            self.heads = [k.layers.Dense(1), k.layers.Dense(1)]

        def call(self, x):
            return [head(x) for head in self.heads]

    model = Model()
    model.compile("sgd", [k.losses.MeanSquaredError(), k.losses.MeanSquaredError()])
    first = FirstLossCallback(tmp_path, graph=False, profile=False)
    model.fit(X, [X[:, :1], X[:, 1:2]], batch_size=8, verbose=0, callbacks=[first])
    names = ["loss/mean_squared_error", "loss/mean_squared_error_2"]
    assert list(first.first_batch.outputs) == names


@pytest.mark.parametrize("k", ["tf_keras"], indirect=True)
def test_a_loss_that_an_optimizer_computes_and_scales_itself_is_unscaled(fit, k):
    optimizer = k.mixed_precision.LossScaleOptimizer(k.optimizers.SGD(), initial_scale=1024.0)
    variable = tf.Variable(0.0)

    def step(model, x):
        optimizer.minimize(lambda: variable + 3.0, [variable])
        return {"x": tf.reduce_mean(x)}

    first, _ = fit(step, attributes={"descends": optimizer})
    assert first.loss == 3.0


def test_naming_runs_no_custom_gradient_of_the_step_again(k, tmp_path):
    runs = []

    @tf.custom_gradient
    def clipped(x):
        def gradient(upstream):
            runs.append(float(tf.random.uniform([])))  # from TensorFlow's global stream
            return tf.clip_by_value(upstream, -1.0, 1.0)

        return tf.identity(x), gradient

    loss_of = k.losses.MeanSquaredError()

    def step(model, x):
        with tf.GradientTape(persistent=True) as tape:
            d = clipped(loss_of(x[:, :1], model.d(x)))
            g = clipped(loss_of(x, model.g(x)))
        model.descend(tape, d, model.d)
        model.descend(tape, g, model.g)
        return {"d": d, "g": g}

    def draws(callbacks):
        runs.clear()
        k.utils.set_random_seed(1)
        model = make_model(k, step, run_eagerly=True)
        batches = tf.data.Dataset.from_tensor_slices(X).batch(8)
        model.fit(batches, verbose=0, callbacks=callbacks)
        return list(runs)

    first = FirstLossCallback(tmp_path, graph=False, profile=False)
    assert draws([]) == draws([first])
    assert list(first.first_batch.losses) == ["d", "g"]
    assert len(first.first_batch.outputs) == 2


def test_auto_says_of_a_scalar_loss_that_it_has_no_values(k, tmp_path):
    model = k.Sequential([k.layers.Input((4,)), k.layers.Dense(1)])
    model.compile("sgd", lambda y, p: tf.reduce_mean(tf.abs(y - p)))
    first = FirstLossCallback(tmp_path, graph=False, profile=False, expect="auto")
    with pytest.warns(CaptureWarning) as said:
        model.fit(X, X[:, :1], batch_size=8, verbose=0, callbacks=[first])
    texts = [str(w.message) for w in said if issubclass(w.category, CaptureWarning)]
    assert not any("calls no Keras Loss" in text for text in texts)
