"""A wrapped tf.function is still one, for whoever looks at it or calls it by another way."""

import gc
import inspect
import subprocess
import sys
import weakref

import numpy as np
import pytest
import tensorflow as tf

from tb_firstloss import FirstLoss, read_first_loss
from tb_firstloss.errors import CaptureWarning
from tests.helpers.training import Linear, batches

PLAIN = {"graph": False, "profile": False}
ROWS = np.arange(20, dtype=np.float32).reshape(10, 2)


class Module(tf.Module):
    """A module with one weight and a step that is a tf.function with an input signature."""

    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(1.0)

    @tf.function(input_signature=[tf.TensorSpec([None], name="x")])
    def step(self, x):
        """Trains."""
        loss = tf.reduce_sum(x) * self.weight
        self.weight.assign_add(1.0)
        return loss


def square(x, *, power: int = 2):
    """Squares."""
    return x**power


@pytest.fixture
def first(tmp_path):
    return FirstLoss(tmp_path / "logs", on_error="raise", **PLAIN)


def test_it_has_every_attribute_of_the_tf_function_and_keeps_it(first):
    plain = tf.function(square)
    wrapped = first.wrap(plain)
    assert isinstance(wrapped, tf.types.experimental.PolymorphicFunction)
    assert isinstance(wrapped, type(plain))
    assert set(dir(plain)) <= set(dir(wrapped))
    wrapped.mine = 3
    assert plain.mine == 3
    assert (wrapped.__name__, wrapped.__doc__) == ("square", "Squares.")
    assert inspect.signature(wrapped) == inspect.signature(square)
    assert wrapped.__wrapped__ is plain
    assert inspect.unwrap(wrapped) is square
    assert wrapped(tf.constant(3.0)).numpy() == 9
    assert plain.experimental_get_tracing_count() == 1
    assert wrapped.experimental_get_tracing_count() == 1
    assert wrapped.get_concrete_function(tf.constant(2.0)) is plain.get_concrete_function(
        tf.constant(2.0)
    )
    assert "float32" in wrapped.pretty_printed_concrete_signatures()
    assert wrapped.experimental_get_compiler_ir is not None


@pytest.mark.parametrize("trained", [False, True], ids=["before", "after"])
def test_a_saved_model_has_it_as_an_attribute_and_as_a_signature(tmp_path, first, trained):
    module = Module()
    module.step = first.wrap(module.step)
    if trained:
        module.step(tf.ones([2]))
    tf.saved_model.save(module, tmp_path / "saved", signatures={"train": module.step})
    loaded = tf.saved_model.load(tmp_path / "saved")
    weight = 1.0 + trained
    assert loaded.step(tf.ones([2])).numpy() == 2 * weight
    assert loaded.signatures["train"](tf.ones([2]))["output_0"].numpy() == 2 * (weight + 1)


def test_the_function_of_a_loaded_model_can_be_wrapped_and_saved_again(tmp_path, first):
    tf.saved_model.save(Module(), tmp_path / "saved")
    loaded = tf.saved_model.load(tmp_path / "saved")
    loaded.step = first.wrap(loaded.step)
    assert loaded.step(tf.ones([2])).numpy() == 2
    assert first.first_batch.loss == 2
    tf.saved_model.save(loaded, tmp_path / "again")
    assert tf.saved_model.load(tmp_path / "again").step(tf.ones([2])).numpy() == 4


def test_a_checkpoint_of_the_module_is_restored(tmp_path, first):
    module = Module()
    module.step = first.wrap(module.step)
    module.step(tf.ones([2]))
    path = tf.train.Checkpoint(module=module).save(tmp_path / "checkpoint")
    other = Module()
    other.step = FirstLoss(tmp_path).wrap(other.step)
    tf.train.Checkpoint(module=other).restore(path).assert_consumed()
    assert other.weight.numpy() == 2


def test_a_decorated_method_is_bound_to_each_instance_and_recorded_once(first):
    class Trainer(Module):
        @first.wrap
        @tf.function
        def train(self, x):
            if not hasattr(self, "made"):
                self.made = tf.Variable(0.0)  # each instance may make variables, once
            return self.step(x)

    assert Trainer.train is Trainer.__dict__["train"]
    one, other = Trainer(), Trainer()
    assert one.train is one.train
    assert [one.train(tf.ones([2])).numpy() for _ in range(2)] == [2, 4]
    assert other.train(tf.ones([2])).numpy() == 2
    assert (one.weight.numpy(), other.weight.numpy()) == (3, 2)
    assert one.made is not other.made
    assert first.first_batch.loss == 2
    gone = weakref.ref(other)
    del other
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("decorated", [False, True], ids=["bound", "decorated"])
def test_the_fingerprint_has_the_weights_of_a_methods_instance(tmp_path, decorated):
    first = FirstLoss(tmp_path, fingerprint=True, on_error="raise", **PLAIN)

    class Trainer:
        def __init__(self):
            self.model = Module()

        def train(self, x):
            return self.model.weight * tf.reduce_sum(x)

        train = tf.function(train)
        if decorated:
            train = first.wrap(train)

    trainer = Trainer()
    step = trainer.train if decorated else first.wrap(trainer.train)
    step(tf.ones([2]))
    assert set(first.first_batch.metadata["fingerprint"]) == {"batch", "weights"}


def test_the_methods_of_two_instances_are_two_steps(tmp_path):
    first = FirstLoss(tmp_path, **PLAIN)
    modules = Module(), Module()
    steps = [first.wrap(module.step) for module in modules]
    steps[0](tf.ones([2]))
    with pytest.warns(CaptureWarning, match="is another step"):
        steps[1](tf.ones([2]))


def test_inside_another_tf_function_it_still_converts_python(tmp_path):
    first = FirstLoss(tmp_path, **PLAIN)

    @first.wrap
    @tf.function
    def inner(x):
        if x > 0:
            return x
        return -x

    with pytest.warns(CaptureWarning, match=r"is inside a tf\.function") as caught:
        for outer in tf.function(lambda x: inner(x)), tf.function(inner):
            assert outer(tf.constant(-3.0)).numpy() == 3
    assert len(caught) == 1
    assert inner.__wrapped__(tf.constant(-2.0)).numpy() == 2
    assert inner(tf.constant(-1.0)).numpy() == 1
    assert first.first_batch.loss == 1


def test_two_recorders_can_wrap_one_step(tmp_path):
    recorders = [FirstLoss(tmp_path, tag=tag, on_error="raise", **PLAIN) for tag in "ab"]
    step = recorders[1].wrap(recorders[0].wrap(tf.function(square)))
    assert [step(tf.constant(x)).numpy() for x in (2.0, 3.0)] == [4, 9]
    assert [first.first_batch.loss for first in recorders] == [4, 4]


def test_run_eagerly_it_is_recorded_too(first):
    model, plain = Linear("function"), Linear("eager")
    tf.config.run_functions_eagerly(True)
    try:
        step = first.wrap(model.step)
        for x, y in batches():
            step(x, y)
            plain.step(x, y)
    finally:
        tf.config.run_functions_eagerly(False)
    assert model.weight.numpy().tobytes() == plain.weight.numpy().tobytes()
    assert first.first_batch.count == 8


def train_replicas(strategy, wrap, *, jit_compile=None, in_function=False):
    """Trains with strategy.run called on a tf.function; returns the weight and the traces."""
    with strategy.scope():
        weight = tf.Variable(1.0, aggregation=tf.VariableAggregation.MEAN)

    def replica_step(x):
        loss = tf.reduce_sum(x) * weight / 4
        weight.assign_add(loss)
        return loss

    step = wrap(tf.function(replica_step, jit_compile=jit_compile))
    run = tf.function(strategy.run) if in_function else strategy.run
    dataset = tf.data.Dataset.from_tensor_slices(ROWS).batch(4)
    for x in strategy.experimental_distribute_dataset(dataset):
        run(step, args=(x,))
    return weight.numpy(), step.experimental_get_tracing_count()


@pytest.mark.parametrize(
    ("devices", "jit_compile"), [(1, None), (1, True), (2, None)], ids=["one", "one-jit", "two"]
)  # jit-compiled, TensorFlow cannot run two replicas on one host's CPUs
def test_strategy_run_of_it_records_the_whole_batch(first, devices, jit_compile):
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)])
    plain = train_replicas(strategy, lambda step: step, jit_compile=jit_compile)
    assert train_replicas(strategy, first.wrap, jit_compile=jit_compile) == plain
    assert first.first_batch.loss == ROWS[:4].sum() / 4


@pytest.mark.parametrize("strategy", ["one-device", "default"])
def test_strategy_run_of_it_with_one_replica_records_the_batch(first, strategy):
    strategy = {
        "one-device": lambda: tf.distribute.OneDeviceStrategy("CPU:1"),
        "default": tf.distribute.get_strategy,
    }[strategy]()
    plain = train_replicas(strategy, lambda step: step)
    assert train_replicas(strategy, first.wrap) == plain
    assert first.first_batch.loss == ROWS[:4].sum() / 4


def test_strategy_run_of_it_inside_a_tf_function_is_one_warning(tmp_path):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    plain = train_replicas(strategy, lambda step: step, in_function=True)
    first = FirstLoss(tmp_path, **PLAIN)
    with pytest.warns(CaptureWarning, match="is inside a tf") as caught:
        assert train_replicas(strategy, first.wrap, in_function=True) == plain
    assert len(caught) == 1


TYPED = """
from typing import Any
from tb_firstloss.capture.loop import FirstLoss

first = FirstLoss("runs")

@first.wrap(loss="a")
def step(x: int, *, y: str = "") -> float:
    return 0.0

def use(untyped: Any) -> None:
    first.wrap(untyped).get_concrete_function(untyped)(1)

reveal_type(step)
reveal_type(first.wrap(step, total=0))
step("no number")
"""


@pytest.mark.slow
def test_a_type_checker_sees_the_steps_signature(tmp_path):
    (tmp_path / "typed.py").write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--strict", str(tmp_path / "typed.py")]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert said.count('Revealed type is "def (x: int, *, y: str =) -> float"') == 2
    assert 'Argument 1 to "step" has incompatible type "str"; expected "int"' in said
    assert "Found 1 error" in said


def test_what_is_no_tf_function_is_wrapped_in_a_plain_one(tmp_path):
    concrete = tf.function(square).get_concrete_function(tf.TensorSpec([], tf.float32))
    for number, step in enumerate((square, concrete)):
        first = FirstLoss(tmp_path / str(number), on_error="raise", **PLAIN)
        wrapped = first.wrap(step)
        assert inspect.isfunction(wrapped)
        wrapped(tf.constant(3.0))
        assert read_first_loss(first.logdir).loss == 9
