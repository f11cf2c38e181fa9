"""Values taken out of a step that XLA compiles, without changing what it computes."""

import numpy as np
import pytest
import tensorflow as tf

from tb_firstloss.capture.recompute import recompute

PREDICTED, TARGET = np.random.default_rng(0).normal(size=(2, 5, 32, 128)).astype(np.float32)


def absolute(target, predicted):
    return tf.reduce_mean(tf.abs(predicted - target), -1)


def with_branches(target, predicted):
    error = predicted - target
    error = tf.cond(tf.reduce_sum(error) > 0, lambda: error * 2, lambda: -error)
    return tf.reduce_mean(tf.abs(error), -1)


def with_assertion(target, predicted):
    with tf.control_dependencies([tf.debugging.assert_all_finite(predicted, "not finite")]):
        return absolute(target, tf.identity(predicted))


LOSSES = pytest.mark.parametrize("loss", [absolute, with_branches, with_assertion])


def compiled(loss, take):
    """Returns the mean loss of five batches in a compiled step, and what it gives beside it."""

    @tf.function(jit_compile=True)
    def step(target, predicted):
        predicted = predicted * 0.5
        values = loss(target, predicted)
        return tf.reduce_sum(values) / 32, take(values, predicted)

    totals, taken = zip(*map(step, TARGET, PREDICTED), strict=True)
    return np.array(totals).tobytes(), np.array(taken)


@LOSSES
def test_the_total_keeps_its_bits_and_the_values_are_the_formulas(loss):
    plain, _ = compiled(loss, lambda values, predicted: 0)
    total, values = compiled(loss, lambda values, predicted: recompute(values, [predicted]))
    assert total == plain
    expected = [
        loss(target, predicted * 0.5) for target, predicted in zip(TARGET, PREDICTED, strict=True)
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_returning_the_values_themselves_would_change_the_total():
    plain, _ = compiled(absolute, lambda values, predicted: 0)
    total, _ = compiled(absolute, lambda values, predicted: values)
    assert total != plain


def test_what_keeps_a_state_is_not_run_twice():
    with tf.Graph().as_default():
        predicted = tf.constant(PREDICTED[0])
        beside = absolute(TARGET[0], predicted) + tf.random.uniform([32])
        assert recompute(beside, [predicted]) is not beside
        between = absolute(TARGET[0], tf.random.shuffle(predicted))
        assert recompute(between, [predicted]) is between


def test_values_that_do_not_come_from_the_predictions_are_returned_as_they_are():
    with tf.Graph().as_default():
        predicted, other = tf.constant(PREDICTED[0]), tf.constant(PREDICTED[0])
        values = absolute(TARGET[0], other)
        assert recompute(values, [predicted]) is values
        assert recompute(values, []) is values
        assert recompute(values, [values]) is values
