import contextlib

import numpy as np
import pytest
import tensorflow as tf

from tb_firstloss import FirstLoss, read_first_loss
from tb_firstloss.capture.distribution import replicas
from tb_firstloss.errors import CaptureError, CaptureWarning, LossNotFoundError

QUIET = {"graph": False, "profile": False, "on_error": "raise"}
ROWS = np.arange(20, dtype=np.float32).reshape(10, 2)


@pytest.fixture
def mirrored():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def train(strategy, logdir, replica_step, batch_size=4, returns=lambda values: values, **select):
    """Runs a wrapped loop under a strategy; returns its final weight and what was recorded."""
    with strategy.scope():
        weight = tf.Variable(1.0, aggregation=tf.VariableAggregation.MEAN)

    def step_of_one(x):
        per_example = tf.reduce_sum(x, axis=1) * weight
        weight.assign_add(tf.reduce_sum(per_example) / 8)
        return replica_step(per_example)

    @tf.function
    def train_step(x):
        return returns(strategy.run(step_of_one, args=(x,)))

    step = train_step
    if logdir is not None:
        step = FirstLoss(logdir, **QUIET).wrap(train_step, **select)
    batches = tf.data.Dataset.from_tensor_slices(ROWS).batch(batch_size)
    for x in strategy.experimental_distribute_dataset(batches):
        step(x)
    return weight.numpy(), None if logdir is None else read_first_loss(logdir)


@pytest.mark.parametrize("batch_size", [4, 5, 1], ids=["even", "uneven", "one-empty"])
def test_examples_are_in_replica_order_and_training_is_unchanged(tmp_path, mirrored, batch_size):
    plain, _ = train(mirrored, None, lambda values: values, batch_size)
    weight, first = train(mirrored, tmp_path, lambda values: values, batch_size)
    assert weight.tobytes() == plain.tobytes()
    assert first.per_example.tolist() == ROWS[:batch_size].sum(1).tolist()
    half = -(-batch_size // 2)
    assert first.metadata["replica_counts"] == [half, batch_size - half]
    assert first.metadata["replicas"] == 2
    assert "strategy" not in first.metadata  # neither given nor in scope


def test_the_strategy_in_scope_is_named(tmp_path, mirrored):
    with mirrored.scope():
        _, first = train(mirrored, tmp_path, lambda values: values)
    assert first.metadata["strategy"] == "MirroredStrategy"
    assert first.metadata["replicas"] == 2


def test_scalars_of_the_replicas_are_summed_as_training_reduces_them(tmp_path, mirrored):
    def share(values):
        return tf.reduce_sum(values) / 4

    def reduce(values):
        return values, mirrored.reduce("SUM", values, axis=None)

    _, first = train(mirrored, tmp_path, share, returns=reduce, loss=0)
    _, reduced = train(mirrored, tmp_path / "b", share, returns=reduce, loss=1)
    assert first.loss.tobytes() == reduced.loss.tobytes()
    assert first.loss == ROWS[:4].sum() / 4


def test_total_can_reduce_otherwise(tmp_path, mirrored):
    _, first = train(
        mirrored,
        tmp_path,
        lambda values: {"values": values, "mean": tf.reduce_mean(values)},
        loss="values",
        total=lambda result: mirrored.reduce("MEAN", result["mean"], axis=None),
    )
    assert first.loss == ROWS[:4].sum(1).mean()
    assert first.count == 4


def two_shares(values):
    return {"d": tf.reduce_sum(values) / 4, "g": -tf.reduce_sum(values) / 2}


@pytest.mark.parametrize(
    "select",
    [{}, {"total": ["d", "g"]}, {"total": {"d": "d", "g": lambda result: result["g"]}}],
    ids=["default", "list", "mapping"],
)
def test_each_of_several_losses_is_the_sum_of_its_shares(tmp_path, mirrored, select):
    _, first = train(mirrored, tmp_path, two_shares, **select)
    _, reduced = train(
        mirrored,
        tmp_path / "reduced",
        two_shares,
        returns=lambda shares: mirrored.reduce("SUM", shares, axis=None),
    )
    whole = ROWS[:4].sum()
    assert list(first.losses.items()) == [("d", whole / 4), ("g", -whole / 2)]
    assert first.digest == reduced.digest


def test_numbers_of_replicas_that_run_eagerly_are_shares_too(tmp_path, mirrored):
    def replica_step():
        number = int(tf.distribute.get_replica_context().replica_id_in_sync_group) + 1.0
        return {"d": number, "g": np.float16(2 * number)}

    first = FirstLoss(tmp_path, **QUIET)
    first.wrap(lambda: mirrored.run(replica_step))()
    assert {name: (loss.dtype, loss) for name, loss in first.first_batch.losses.items()} == {
        "d": (np.float64, 3),
        "g": (np.float16, 6),
    }


def test_a_tensor_that_is_differentiated_is_added_up_over_the_replicas(tmp_path, mirrored):
    _, first = train(
        mirrored,
        tmp_path,
        lambda values: {"a": values, "b": tf.reduce_sum(values)},
        batch_size=5,
        total=["a", "b"],
    )
    assert list(first.losses.items()) == [("a", ROWS[:5].sum()), ("b", ROWS[:5].sum())]
    assert first.per_example.tolist() == ROWS[:5].sum(1).tolist()
    assert first.metadata["replica_counts"] == [3, 2]


def per_replica(strategy, *values):
    return strategy.experimental_distribute_values_from_function(
        lambda context: values[context.replica_id_in_sync_group]
    )


def test_different_second_dimensions_become_ragged(tmp_path, mirrored):
    value = per_replica(mirrored, tf.ones([2, 1, 3]), tf.zeros([1, 2, 3]))
    FirstLoss(tmp_path, **QUIET).record(value)
    output = read_first_loss(tmp_path).outputs["loss"]
    assert output.per_example.shape == (4, 3)
    assert output.row_splits[0].tolist() == [0, 1, 2, 4]


def test_ragged_losses_are_joined(tmp_path, mirrored):
    parts = [[[1.0], [2.0, 3.0]], [[], [4.0]]]
    first = FirstLoss(tmp_path, **QUIET)
    first.record(per_replica(mirrored, *map(tf.ragged.constant, parts)))
    output = read_first_loss(tmp_path).outputs["loss"]
    back = tf.RaggedTensor.from_row_splits(output.per_example, output.row_splits[0])
    assert back.to_list() == parts[0] + parts[1]


@pytest.mark.parametrize(
    "shapes",
    [[(2,), (2, 3)], [(2, 3, 4), (2, 3, 5)], [(), (2,)]],
    ids=["rank", "third-dimension", "scalar-and-vector"],
)
def test_values_that_do_not_fit_together_are_an_error_with_their_shapes(tmp_path, mirrored, shapes):
    value = per_replica(mirrored, *map(tf.ones, shapes))
    with pytest.raises(LossNotFoundError) as caught:
        FirstLoss(tmp_path, **QUIET).record(value)
    assert all(f"float32{list(shape)}" in str(caught.value) for shape in shapes)


def test_different_dtypes_are_an_error(mirrored):
    parts = [(np.ones(2, np.float32), ()), (np.ones(2, np.float64), ())]
    with pytest.raises(LossNotFoundError, match=r"float32\[2\], float64\[2\]"):
        replicas.combine(parts)


@pytest.mark.parametrize("ragged_rank", [1, 2])
def test_row_splits_are_joined_at_every_level(ragged_rank):
    """Compared with tf.concat."""
    rows = [[[1.0], []], [], [[2.0, 3.0]]]
    parts = [
        tf.ragged.constant(rows[:2], ragged_rank=2),
        tf.ragged.constant(rows[2:], ragged_rank=2),
    ]
    if ragged_rank == 1:
        parts = [tf.ragged.constant([[1, 2], []]), tf.ragged.constant([[3]])]
    expected = tf.concat(parts, axis=0)
    values = [(p.flat_values.numpy(), tuple(s.numpy() for s in p.nested_row_splits)) for p in parts]
    flat, splits = replicas.combine(values)
    assert flat.tolist() == expected.flat_values.numpy().tolist()
    assert [s.tolist() for s in splits] == [s.numpy().tolist() for s in expected.nested_row_splits]


def test_a_mirrored_variable_is_one_value(tmp_path, mirrored):
    with mirrored.scope():
        variable = tf.Variable(3.0)
    FirstLoss(tmp_path, **QUIET).record(variable)
    assert read_first_loss(tmp_path).loss == 3


@pytest.mark.parametrize("other", [1, 0], ids=["fewer levels", "dense"])
def test_ragged_levels_that_differ_between_replicas_are_an_error(other):
    splits = (np.array([0, 2]), np.array([0, 1, 3]))
    parts = [(np.ones(3, np.float32), splits), (np.ones(2, np.float32), splits[:other])]
    with pytest.raises(LossNotFoundError, match=r"float32\[3\], float32\[2\]"):
        replicas.combine(parts)


def train_eagerly(strategy, logdir, caller, **options):
    """Trains with a recorder inside strategy.run, called eagerly; returns the final weight."""
    first = FirstLoss(logdir, strategy=strategy, graph=False, profile=False, **options)
    with strategy.scope():
        weight = tf.Variable(1.0, aggregation=tf.VariableAggregation.MEAN)

    def replica_step(x):
        with first.trace() if caller == "trace" else contextlib.nullcontext():
            loss = tf.reduce_sum(x) * weight / 4
            weight.assign_add(loss)
        if caller == "record":
            first.record(loss)
        return loss

    step = first.wrap(replica_step) if caller == "wrap" else replica_step
    dataset = tf.data.Dataset.from_tensor_slices(ROWS).batch(4)
    for x in strategy.experimental_distribute_dataset(dataset):
        strategy.run(step, args=(x,))
    return weight.numpy(), first


@pytest.mark.parametrize("caller", ["wrap", "record", "trace"])
def test_one_replicas_share_is_not_taken_for_the_loss(tmp_path, mirrored, caller):
    plain, _ = train_eagerly(mirrored, tmp_path, "nobody")
    with pytest.warns(CaptureWarning, match="wrap the function that calls strategy.run") as caught:
        weight, first = train_eagerly(mirrored, tmp_path, caller)
    assert len(caught) == 1
    assert weight.tobytes() == plain.tobytes()
    assert first.first_batch is None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CaptureError, match=r"is inside strategy\.run"):
        train_eagerly(mirrored, tmp_path, caller, on_error="raise")


@pytest.mark.parametrize("caller", ["wrap", "record"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: tf.distribute.MirroredStrategy(["CPU:0"]),
        lambda: tf.distribute.OneDeviceStrategy("CPU:1"),
        tf.distribute.get_strategy,
    ],
    ids=["mirrored", "one-device", "default"],
)
def test_the_only_replicas_loss_is_recorded(tmp_path, make, caller):
    _, first = train_eagerly(make(), tmp_path, caller, on_error="raise")
    assert first.first_batch.loss == ROWS[:4].sum() / 4
