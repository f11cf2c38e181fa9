"""What holds a recorder can be copied; a copy records nothing that the original has recorded."""

import copy
import pickle
import warnings

import cloudpickle
import numpy as np
import pytest
import tensorflow as tf

from tb_firstloss import FirstLoss, read_first_losses

PLAIN = {"graph": False, "profile": False}
WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "cloudpickle": lambda value: pickle.loads(cloudpickle.dumps(value)),
}


def square(x):
    return x**2


class Trainer:
    """Holds a recorder next to what it trains."""

    def __init__(self, first):
        self.first = first
        self.offset = np.ones(2)

    def train(self, x):
        with self.first.trace():
            loss = tf.reduce_sum(x + self.offset)
        self.first.record(loss)


@pytest.fixture(params=WAYS)
def duplicate(request):
    return WAYS[request.param]


@pytest.mark.filterwarnings("ignore::tb_firstloss.errors.UnexpectedLossWarning")
def test_the_copy_of_an_unused_recorder_records_by_itself(tmp_path, duplicate):
    original = Trainer(FirstLoss(tmp_path, step=3, metadata={"a": [1]}, expect=4.0, **PLAIN))
    copied = Trainer(duplicate(original.first))
    copied.train(np.zeros(2))
    assert original.first.first_batch is None
    original.train(np.ones(2))
    found = read_first_losses(tmp_path)
    assert {run: (float(f.loss), f.step) for run, f in found.items()} == {
        "first_batch": (2, 3),
        "first_batch-2": (4, 3),
    }
    assert all(first.metadata["a"] == [1] for first in found.values())


def test_the_copy_of_a_used_recorder_has_the_recording_and_makes_no_other(tmp_path, duplicate):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    first = FirstLoss(tmp_path, warm_step=2, strategy=strategy)
    wrapped = first.wrap(lambda x: x)
    wrapped(tf.constant(2.0))
    copied = duplicate(first)
    wrapped = copied.wrap(lambda x: x)
    for _ in range(3):
        wrapped(tf.constant(5.0))
        copied.record(6.0)
        with copied.trace():
            pass
    assert copied.first_batch.digest == first.first_batch.digest
    assert (copied.run_dir, copied.tag, copied.logdir) == (first.run_dir, first.tag, first.logdir)
    assert [path.name for path in tmp_path.iterdir()] == ["first_batch"]


def test_a_copy_made_while_the_step_runs_shares_neither_turn_nor_directory(tmp_path, duplicate):
    first = FirstLoss(tmp_path, on_error="raise", **PLAIN)
    copies = []

    @first.wrap
    def step(x):
        copies.append(duplicate(first))
        return x

    step(2.0)
    copies[0].record(3.0)
    assert {run: float(f.loss) for run, f in read_first_losses(tmp_path).items()} == {
        "first_batch": 2,
        "first_batch-2": 3,
    }


def test_a_copy_between_trace_and_record_warns_of_nothing(tmp_path, duplicate):
    first = FirstLoss(tmp_path, on_error="raise", **PLAIN)
    with first.trace():
        pass
    copied = duplicate(first)
    first.record(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with copied.trace():
            copied.record(2.0)
        del copied
    assert list(read_first_losses(tmp_path)) == ["first_batch", "first_batch-2"]


def test_an_object_that_holds_recorder_and_wrapped_steps_is_copied_with_both(tmp_path):
    trainer = Trainer(FirstLoss(tmp_path, on_error="raise", **PLAIN))
    trainer.step = trainer.first.wrap(tf.function(square))
    copied = copy.deepcopy(trainer)
    copied.step(tf.constant(3.0))
    assert (trainer.first.first_batch, copied.first.first_batch.loss) == (None, 9)
