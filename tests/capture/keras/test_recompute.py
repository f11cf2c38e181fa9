"""Values taken out of a step that XLA compiles, whose results keep their bits."""

import numpy as np
import pytest
import tensorflow as tf

from tb_firstloss.capture.keras.recompute import recompute

PREDICTED, TARGET = np.random.default_rng(0).normal(size=(2, 5, 32, 128)).astype(np.float32)


def absolute(target, predicted):
    return tf.reduce_mean(tf.abs(predicted - target), -1)


def with_branches(target, predicted):
    error = predicted - target
    error = tf.cond(tf.reduce_sum(error) > 0, lambda: error * 2, lambda: -error)
    return tf.reduce_mean(tf.abs(error), -1)


def with_assertions(target, predicted):
    predicted = tf.debugging.check_numerics(predicted, "not finite")
    with tf.control_dependencies([tf.debugging.assert_all_finite(predicted, "not finite")]):
        return absolute(target, tf.identity(predicted))


def with_loop(target, predicted):
    """A shape that XLA knows when it compiles, and the trace does not."""
    count = tf.shape(predicted)[0]
    _, scaled = tf.while_loop(
        lambda i, _: i < 3,
        lambda i, scaled: (i + 1, tf.reshape(scaled, [count, 128]) * 1.01),
        (0, predicted),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, 128])),
        maximum_iterations=3,
    )
    return absolute(target, scaled)


LOSSES = pytest.mark.parametrize(
    "loss",
    [absolute, with_branches, with_assertions, with_loop, tf.function(absolute)],
    ids=["plain", "branches", "assertions", "loop", "tf.function"],
)


def compiled(loss, take):
    """Returns the bytes of five batches' mean losses and gradients, and the values taken."""
    batch = tf.TensorSpec([None, 128])

    @tf.function(jit_compile=True, input_signature=[batch, batch])
    def step(target, predicted):
        with tf.GradientTape() as tape:
            tape.watch(predicted)
            values = loss(target, predicted * 0.5)
            total = tf.reduce_sum(values) / 32
        return (total, tape.gradient(total, predicted)), take(values)

    trained, taken = zip(*map(step, TARGET, PREDICTED), strict=True)
    return [part.numpy().tobytes() for parts in trained for part in parts], np.array(taken)


@LOSSES
def test_the_total_keeps_its_bits_and_the_values_are_the_formulas(loss):
    plain, _ = compiled(loss, lambda values: 0)
    total, values = compiled(loss, recompute)
    assert total == plain
    expected = [
        loss(target, predicted * 0.5) for target, predicted in zip(TARGET, PREDICTED, strict=True)
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_returning_the_values_themselves_would_change_the_total():
    plain, _ = compiled(absolute, lambda values: 0)
    total, _ = compiled(absolute, lambda values: values)
    assert total != plain


def test_the_copy_is_simplified_with_the_last_layer_as_the_step_is():
    """XLA turns log(exp(x)) into x; computed separately, it is infinite where exp(x) is 0."""

    def loss(target, predicted):
        probabilities = tf.exp(400 * predicted)
        return tf.reduce_mean(tf.math.log(probabilities) - target, -1)

    _, values = compiled(loss, recompute)
    assert np.isfinite(values).all()


def test_what_keeps_a_state_or_is_a_product_is_not_run_twice():
    with tf.Graph().as_default() as graph:
        predicted = tf.matmul(tf.compat.v1.placeholder(tf.float32, [32, 4]), tf.ones([4, 128]))
        noisy = absolute(TARGET[0], tf.random.shuffle(predicted) + tf.random.uniform([32, 128]))
        assert recompute(noisy) is not noisy
        types = [operation.type for operation in graph.get_operations()]
        assert types.count("Mean") == 2
        for single in ("MatMul", "RandomShuffle", "RandomUniform"):
            assert types.count(single) == 1


def test_there_is_nothing_to_copy_of_an_argument_a_product_or_integers():
    with tf.Graph().as_default():
        argument = tf.compat.v1.placeholder(tf.float32, [4, 4])
        product = tf.matmul(argument, argument)
        labels = tf.cast(tf.compat.v1.placeholder(tf.int64, [4]) > 2, tf.float32)
        for values in (argument, product, labels):
            assert recompute(values) is values
