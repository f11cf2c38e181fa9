import contextlib
import copy
import gc
import importlib
import inspect
import logging
import multiprocessing
import re
import shutil
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import tensorflow as tf

from tb_firstloss import (
    FirstLoss,
    FirstLossCallback,
    iter_tensors,
    read_first_loss,
    read_first_losses,
)
from tb_firstloss.errors import (
    CaptureError,
    CaptureWarning,
    LossNotFoundError,
    UnexpectedLossWarning,
)
from tests.helpers.training import Linear, batches

PLAIN = {"graph": False, "profile": False}


def train(step, epochs=1):
    for _ in range(epochs):
        for x, y in batches():
            step(x, y)


def expected_per_example():
    """The first batch's squared errors at the initial weights, by NumPy."""
    x, y = next(iter(batches()))
    initial = Linear().weight.numpy()
    return (x.numpy() @ initial - y.numpy()) ** 2


@pytest.mark.parametrize("style", ["eager", "function", "jit"])
@pytest.mark.parametrize(
    ("returns", "select"),
    [
        (lambda per_example, _: per_example, {}),
        (lambda per_example, loss: (loss, per_example), {"loss": 1, "total": 0}),
        (lambda p, t: {"loss": t, "p": p}, {"loss": "p", "total": "loss"}),
        (lambda p, t: {"a": {"b": (p, t)}}, {"loss": lambda r: r["a"]["b"][0], "total": None}),
    ],
    ids=["per-example", "tuple", "dict", "nested"],
)
def test_the_first_call_is_recorded_as_training_computed_it(tmp_path, style, returns, select):
    plain, wrapped = Linear(style, returns), Linear(style, returns)
    first = FirstLoss(tmp_path, on_error="raise", **PLAIN)
    step = first.wrap(wrapped.step, **select)
    for x, y in batches():
        assert_same_structure(plain.step(x, y), step(x, y))
    assert wrapped.weight.numpy().tobytes() == plain.weight.numpy().tobytes()
    back = read_first_loss(tmp_path)
    np.testing.assert_allclose(back.per_example, expected_per_example(), rtol=1e-6)
    if select.get("total") is not None:
        np.testing.assert_allclose(back.loss, expected_per_example().mean(), rtol=1e-6)
    else:
        assert back.loss is None
    assert back.digest == first.first_batch.digest


def assert_same_structure(one, other):
    tf.nest.assert_same_structure(one, other)
    for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        assert a.dtype == b.dtype
        assert a.numpy().tobytes() == b.numpy().tobytes()


@pytest.mark.parametrize("style", ["eager", "function", "jit"])
def test_a_scalar_is_the_loss_without_per_example_values(tmp_path, style):
    model = Linear(style, lambda _, loss: loss)
    step = FirstLoss(tmp_path, on_error="raise", **PLAIN).wrap(model.step)
    train(step)
    back = read_first_loss(tmp_path)
    np.testing.assert_allclose(back.loss, expected_per_example().mean(), rtol=1e-6)
    with pytest.raises(ValueError, match="return the per-example loss"):
        _ = back.per_example


def test_the_loss_of_a_mapping_is_the_default(tmp_path):
    model = Linear("function", lambda per_example, _: {"loss": per_example, "lr": 0.1})
    train(FirstLoss(tmp_path, on_error="raise", **PLAIN).wrap(model.step))
    np.testing.assert_allclose(read_first_loss(tmp_path).per_example, expected_per_example(), 1e-6)


def test_the_caller_gets_the_very_object_that_the_step_returned(tmp_path):
    marker = {"loss": tf.constant(1.0)}
    assert FirstLoss(tmp_path, **PLAIN).wrap(lambda: marker)() is marker


def test_only_the_first_call_is_recorded(tmp_path):
    step = FirstLoss(tmp_path, on_error="raise", **PLAIN).wrap(lambda x: x)
    for value in (1.0, 2.0, 3.0):
        step(tf.constant(value))
    losses = [d.value for d in iter_tensors(tmp_path, tags="first_batch/loss")]
    assert losses == [1.0]


def test_it_is_a_decorator_with_and_without_options(tmp_path):
    first, second = FirstLoss(tmp_path, **PLAIN), FirstLoss(tmp_path, **PLAIN)

    @first.wrap
    def plain(x):
        return x

    @second.wrap(loss="mine")
    def with_options(x):
        return {"mine": x}

    plain(tf.constant(1.0))
    with_options(tf.constant(2.0))
    assert (first.first_batch.loss, second.first_batch.loss) == (1, 2)


def test_a_method_can_be_decorated(tmp_path):
    first = FirstLoss(tmp_path, **PLAIN)

    class Trainer:
        @first.wrap
        def step(self, x):
            return x + self.offset

        offset = 1.0

    assert Trainer().step(tf.constant(1.0)).numpy() == 2
    assert first.first_batch.loss == 2


@pytest.mark.parametrize("function", [False, True], ids=["eager", "function"])
def test_name_documentation_and_signature_are_kept(tmp_path, function):
    def my_step(x, *, training=True):
        """Trains."""
        return x

    step = tf.function(my_step) if function else my_step
    wrapped = FirstLoss(tmp_path).wrap(step)
    assert (wrapped.__name__, wrapped.__doc__) == ("my_step", "Trains.")
    assert inspect.signature(wrapped) == inspect.signature(my_step)
    assert wrapped.__wrapped__ is step
    assert hasattr(wrapped, "get_concrete_function") is function


def test_inside_a_tf_function_it_passes_through_and_warns_once(tmp_path):
    first = FirstLoss(tmp_path, **PLAIN)
    inner = first.wrap(lambda x: x * 2)

    @tf.function
    def outer(x):
        return inner(x) + inner(x)

    with pytest.warns(CaptureWarning, match="outermost call") as caught:
        assert outer(tf.constant(1.0)).numpy() == 4
    assert len(caught) == 1
    assert first.first_batch is None
    assert list(tmp_path.iterdir()) == []


def test_a_plain_step_inside_a_tf_function_still_gets_autograph(tmp_path):
    @FirstLoss(tmp_path, **PLAIN).wrap
    def inner(x):
        if x > 0:  # needs AutoGraph when x is symbolic
            return x
        return -x

    with pytest.warns(CaptureWarning, match="tf.function"):
        assert tf.function(inner)(tf.constant(-3.0)).numpy() == 3


def test_after_a_step_that_raises_the_next_call_is_the_first(tmp_path):
    first = FirstLoss(tmp_path, on_error="raise")

    @first.wrap
    def step(x):
        if x < 0:
            raise ZeroDivisionError("mine")
        return tf.constant(x)

    with pytest.raises(ZeroDivisionError, match="mine"):
        step(-1.0)
    assert first.run_dir is None
    assert list(tmp_path.iterdir()) == []
    step(5.0)
    assert read_first_loss(tmp_path).loss == 5


def test_ctrl_c_in_the_step_propagates(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FirstLoss(tmp_path).wrap(interrupted)()
    assert list(tmp_path.iterdir()) == []


def test_one_thread_captures_and_the_others_pass_through(tmp_path):
    first = FirstLoss(tmp_path, on_error="raise", **PLAIN)
    inside, release = threading.Event(), threading.Event()

    @first.wrap
    def step(x):
        if x == 1.0:
            inside.set()
            release.wait(30)
        return tf.constant(x)

    slow = threading.Thread(target=step, args=(1.0,))
    slow.start()
    inside.wait(30)
    assert step(2.0).numpy() == 2
    release.set()
    slow.join()
    assert first.first_batch.loss == 1
    assert [p.name for p in tmp_path.iterdir()] == ["first_batch"]


@pytest.mark.parametrize(
    ("make_result", "message"),
    [
        (lambda: None, "the step returned None; return the loss from the step"),
        (lambda: (), "a tuple with no items; return the loss from the step"),
        (lambda: {"acc": tf.constant(1)}, r"a mapping with 'acc': int32\[\]; return the loss"),
        (lambda: (tf.zeros([2]), 3), r"a tuple with \[0\]: float32\[2\], \[1\]: 3; say which"),
        (lambda: {"a": {"b": 1.0}}, "a mapping with 'a': a dict; say which"),
        (lambda: "text", "the step returned a str; return the loss"),
        (lambda: tf.constant(3), r"int32\[\], which has no gradient; return the float"),
        (lambda: tf.constant("text"), "tensor of string"),
        (lambda: {"loss": None}, "the loss is None"),
        (lambda: tf.constant(True), "dtype bool"),
        (lambda: tf.constant(1j), "dtype complex128"),
        (lambda: {"loss": {}}, "with no tensor in it"),
        (lambda: {"loss": [tf.zeros([2]), tf.zeros([])]}, "'1' is a scalar among several"),
    ],
    ids=[
        "none", "empty-tuple", "no-key", "tuple", "nested", "str", "integer", "string-tensor",
        "none-in-dict", "bool", "complex", "empty-mapping", "scalar-among-outputs",
    ],
)  # fmt: skip
def test_a_step_without_a_usable_loss_is_one_warning_and_training_goes_on(
    tmp_path, make_result, message
):
    result = make_result()
    step = FirstLoss(tmp_path, **PLAIN).wrap(lambda: result)
    with pytest.warns(CaptureWarning, match=message) as caught:
        assert step() is result
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert step() is result
    back = read_first_loss(tmp_path)
    assert (back.run, dict(back.losses), dict(back.outputs)) == ("first_batch-no-loss", {}, {})
    assert re.search(message, back.metadata["no_loss"])
    with pytest.raises(LossNotFoundError, match=message):
        FirstLoss(tmp_path, on_error="raise", **PLAIN).wrap(lambda: result)()


def test_a_step_without_a_loss_keeps_graph_profile_and_report_and_leaves_its_name_free(tmp_path):
    @tf.function
    def train_step(x, loss=None):
        weight.assign_add(tf.reduce_sum(x))
        return loss

    weight = tf.Variable(0.0)
    for run in "first_batch-no-loss", "first_batch-no-loss-2":
        first = FirstLoss(tmp_path, warm_step=1)
        step = first.wrap(train_step)
        with pytest.warns(CaptureWarning, match="the step returned None; return the loss"):
            step(tf.ones([3]))
        step(tf.ones([3]))
        assert first.run_dir == str(tmp_path / run)
        tags = {datum.tag for datum in iter_tensors(tmp_path / run)}
        assert {"first_batch/report", "first_batch/tensors/manifest"} <= tags
        assert any(d.plugin_name == "graph_run_metadata_graph" for d in iter_tensors(tmp_path))
        (report,) = [d.value for d in iter_tensors(tmp_path / run, tags="first_batch/report")]
        assert b"| no loss | the step returned None; return the loss" in report.item()
        for profiled in run, f"{run}-warm":
            assert len(list((tmp_path / profiled).rglob("*.xplane.pb"))) == 1
    corrected = FirstLoss(tmp_path, on_error="raise", **PLAIN)
    corrected.wrap(train_step)(tf.ones([3]), tf.constant(2.0))
    assert corrected.run_dir == str(tmp_path / "first_batch")
    assert list(read_first_losses(tmp_path)) == [
        "first_batch",
        "first_batch-no-loss",
        "first_batch-no-loss-2",
    ]


def test_a_recording_without_a_loss_is_not_restored_as_the_first_batch(tmp_path):
    first = FirstLoss(tmp_path, **PLAIN)
    with pytest.warns(CaptureWarning, match="returned None"):
        first.wrap(lambda: None)()
    path = tf.train.Checkpoint(first=first).save(tmp_path / "checkpoint")
    resumed = FirstLoss(tmp_path, **PLAIN)
    tf.train.Checkpoint(first=resumed).restore(path)
    resumed.wrap(lambda: 2.0)()
    assert (resumed.first_batch.run, resumed.first_batch.loss) == ("first_batch", 2)


@pytest.mark.parametrize(
    "selector", ["missing", 5, lambda r: r["missing"]], ids=["key", "index", "callable"]
)
def test_a_selector_that_finds_nothing_lists_what_was_returned(tmp_path, selector):
    step = FirstLoss(tmp_path, on_error="raise", **PLAIN).wrap(
        lambda: {"a": tf.zeros([3])}, loss=selector
    )
    with pytest.raises(LossNotFoundError, match=r"'a': float32\[3\]"):
        step()


def test_the_warning_points_at_the_callers_line(tmp_path):
    step = FirstLoss(tmp_path, **PLAIN).wrap(lambda: None)
    with pytest.warns(CaptureWarning) as caught:
        step()
    assert caught[0].filename == __file__


def test_record_without_a_window(tmp_path):
    first = FirstLoss(tmp_path, on_error="raise")
    for batch in range(3):
        first.record(tf.constant([batch, batch + 1.0]), total=tf.constant(7.0))
    back = read_first_loss(tmp_path)
    assert (back.per_example.tolist(), back.loss) == ([0, 1], 7)


def test_record_takes_several_outputs_by_name(tmp_path):
    FirstLoss(tmp_path, on_error="raise").record({"a": tf.zeros([2]), "b": {"c": tf.ones([3])}})
    outputs = read_first_loss(tmp_path).outputs
    assert {name: o.per_example.tolist() for name, o in outputs.items()} == {
        "a": [0, 0],
        "b/c": [1, 1, 1],
    }


def test_recording_a_symbolic_tensor_says_where_to_record(tmp_path):
    first = FirstLoss(tmp_path)
    leaked = []

    @tf.function
    def step(x):
        leaked.append(x)
        first.record(x)
        return x

    with pytest.warns(CaptureWarning, match="tf.function"):
        step(tf.constant(1.0))
    with pytest.warns(CaptureWarning, match="symbolic"):
        first.record(leaked[0])
    assert first.first_batch.loss is None


@pytest.mark.parametrize("where", ["inside", "after"])
def test_trace_and_record_in_a_loop_that_is_not_wrapped(tmp_path, where):
    first = FirstLoss(tmp_path, on_error="raise")
    model = Linear("function")
    for x, y in batches():
        with first.trace():
            loss = model.step(x, y)
            if where == "inside":
                first.record(loss)
        if where == "after":
            first.record(loss)
    np.testing.assert_allclose(read_first_loss(tmp_path).per_example, expected_per_example(), 1e-6)
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1


def test_trace_without_record_is_one_warning_and_a_recording_without_a_loss(tmp_path):
    first, plain, model = FirstLoss(tmp_path), Linear("function"), Linear("function")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for x, y in batches():
            plain.step(x, y)
            with first.trace():
                model.step(x, y)
    assert model.weight.numpy().tobytes() == plain.weight.numpy().tobytes()
    (warning,) = [w for w in caught if w.category is CaptureWarning]
    assert "trace() was left without record(loss); call it" in str(warning.message)
    first.record(2.0)
    back = read_first_loss(tmp_path)
    assert (back.run, dict(back.losses)) == ("first_batch-no-loss", {})
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1


def test_trace_without_record_raises_where_errors_are_wanted(tmp_path):
    first = FirstLoss(tmp_path, on_error="raise", **PLAIN)
    with first.trace():
        pass
    with pytest.raises(CaptureError, match="without record"), first.trace():
        raise AssertionError
    assert read_first_loss(tmp_path).loss is None


def test_the_trace_of_another_thread_does_not_take_record_away(tmp_path):
    first = FirstLoss(tmp_path, on_error="raise", **PLAIN)

    def other():
        with first.trace():
            pass

    with first.trace():
        pass
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    first.record(2.0)
    assert first.first_batch.loss == 2


def test_a_recorder_that_goes_after_trace_without_record_warns_of_the_line(tmp_path):
    first = FirstLoss(tmp_path, **PLAIN)
    line = inspect.currentframe().f_lineno + 1
    with first.trace():
        pass
    with pytest.warns(CaptureWarning, match="without record") as caught:
        del first
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, line)]


def test_a_recorder_with_a_loss_goes_without_a_word(tmp_path):
    first = FirstLoss(tmp_path, **PLAIN)
    with first.trace():
        pass
    first.record(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del first


def test_trace_without_record_is_said_at_the_end_of_the_process(tmp_path):
    script = f"""
from tb_firstloss import FirstLoss
first = FirstLoss({str(tmp_path)!r}, graph=False, profile=False)
with first.trace():
    pass
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.count("<string>:4: CaptureWarning: ") == 1
    assert done.stderr.count("without record(loss)") == 1


UNUSED = {
    "nothing wrapped": "",
    "the result of wrap not used": "first.wrap(step); step()",
    "no batch": "wrapped = first.wrap(step); [wrapped() for batch in ()]",
}


@pytest.mark.parametrize("loop", UNUSED.values(), ids=UNUSED)
def test_a_recorder_that_no_step_reaches_warns_once_at_its_end(tmp_path, loop):
    def step():
        return tf.constant(1.0)

    line = inspect.currentframe().f_lineno + 1
    names = {"step": step, "first": FirstLoss(tmp_path, **PLAIN)}
    exec(loop, names)
    with pytest.warns(CaptureWarning, match="step was never called; call what wrap") as caught:
        names.clear()
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, line)]
    assert not list(tmp_path.iterdir())


def test_a_step_that_raises_is_not_said_to_be_uncalled(tmp_path):
    def step():
        raise LookupError

    first = FirstLoss(tmp_path, **PLAIN)
    with pytest.raises(LookupError):
        first.wrap(step)()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first._recorder.end()


def test_a_copied_recorder_leaves_the_word_to_its_copy(tmp_path):
    first = FirstLoss(tmp_path, **PLAIN)
    second = copy.deepcopy(first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del first
    second.record(1.0)
    assert read_first_loss(tmp_path).loss == 1


def test_a_recorder_whose_logdir_is_gone_says_so_and_makes_no_other(tmp_path):
    first = FirstLoss(tmp_path / "logs", **PLAIN)
    with first.trace():
        pass
    shutil.rmtree(tmp_path / "logs")
    with pytest.warns(CaptureWarning, match="without record"):
        del first
    assert not list(tmp_path.iterdir())


def test_a_forked_process_says_nothing_and_moves_nothing(tmp_path):
    first = FirstLoss(tmp_path, **PLAIN)
    with first.trace():
        pass
    process = multiprocessing.get_context("fork").Process(target=first._recorder.end)
    process.start()
    process.join()
    assert process.exitcode == 0  # a warning would be an error here
    assert [path.name for path in tmp_path.iterdir()] == ["first_batch"]
    first.record(1.0)
    assert read_first_loss(tmp_path).run == "first_batch"


def test_the_tag_is_free_for_the_run_after_trace_without_record(tmp_path):
    script = f"""
from tb_firstloss import FirstLoss
first = FirstLoss({str(tmp_path)!r}, graph=False)
with first.trace():
    pass
"""
    subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["first_batch-no-loss"]
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1


@pytest.mark.parametrize("on_error", ["warn", "raise"])
@pytest.mark.parametrize("caller", ["wrap", "record", "trace"])
def test_inside_a_tf_function_it_warns_once_or_raises_each_time(
    tmp_path, caller, on_error, autograph_says
):
    first = FirstLoss(tmp_path, on_error=on_error, **PLAIN)
    step = first.wrap(tf.square) if caller == "wrap" else tf.square

    @tf.function
    def outer(x):
        with first.trace() if caller == "trace" else contextlib.nullcontext():
            loss = step(x)
        if caller == "record":
            first.record(loss)
        return loss

    if on_error == "raise":
        for _ in range(2):
            with pytest.raises(CaptureError, match=r"is inside a tf\.function"):
                outer(tf.constant(2.0))
        return
    line = inspect.currentframe().f_lineno + 2
    with pytest.warns(CaptureWarning, match=r"is inside a tf\.function") as caught:
        assert outer(tf.constant(2.0)).numpy() == 4
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, line)]
    assert first.first_batch is None
    assert not [text for text in autograph_says if "tb_firstloss" in text]


@pytest.fixture
def autograph_says():
    """What AutoGraph logs; of a function that it cannot convert, once in a process."""
    said, handler = [], logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    tf.get_logger().addHandler(handler)
    yield said
    tf.get_logger().removeHandler(handler)


def test_a_captured_step_may_be_called_inside_a_tf_function(tmp_path):
    first = FirstLoss(tmp_path, on_error="raise", **PLAIN)
    step = first.wrap(tf.square)
    step(2.0)

    @tf.function
    def outer(x):
        with first.trace():
            first.record(x)
            return step(x)

    assert outer(tf.constant(3.0)).numpy() == 9
    assert first.first_batch.loss == 4


def test_record_inside_a_tf_function_inside_trace_is_one_warning(tmp_path):
    def train():
        first = FirstLoss(tmp_path, **PLAIN)

        @tf.function
        def step(x):
            first.record(x)
            return x

        for _ in range(2):
            with first.trace():
                step(tf.constant(1.0))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train()
        gc.collect()
    assert len([w for w in caught if w.category is CaptureWarning]) == 1


WITHOUT_EAGER = """
import sys, numpy as np, tensorflow as tf
from tb_firstloss import FirstLoss
how, caller, on_error, logdir = sys.argv[1:]
if how == "off":
    tf.compat.v1.disable_eager_execution()
graph = tf.Graph()
with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
    first = FirstLoss(logdir, on_error=on_error, graph=False, profile=False)
    x = tf.compat.v1.placeholder(tf.float32)
    run = lambda value: session.run(x, {x: value})
    if caller == "wrap":
        run = first.wrap(run)
    for value in (1.0, 2.0):
        loss = run(value)
        if caller == "record":
            first.record(loss)
print(loss)
"""


@pytest.mark.parametrize("how", ["off", "graph"])
@pytest.mark.parametrize("caller", ["wrap", "record"])
@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_without_eager_execution_the_reason_says_so(tmp_path, how, caller, on_error):
    command = [sys.executable, "-c", WITHOUT_EAGER, how, caller, on_error, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == ("2.0\n" if on_error == "warn" else "")
    name = "CaptureWarning" if on_error == "warn" else "CaptureError"
    (said,) = [line for line in done.stderr.splitlines() if f"{name}: " in line]
    assert "needs eager execution, which is off here" in said
    assert "inside a tf.function" not in said


def test_warnings_of_a_thread_point_at_its_line(tmp_path):
    lines = []

    def loop():
        step = FirstLoss(tmp_path, **PLAIN).wrap(tf.function(lambda: None))
        lines.append(inspect.currentframe().f_lineno + 1)
        step()

    with pytest.warns(CaptureWarning) as caught:
        thread = threading.Thread(target=loop)
        thread.start()
        thread.join()
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, *lines)]


@pytest.mark.parametrize("library", ["keras", "tf_keras"])
def test_warnings_of_fit_point_at_the_line_that_called_it(tmp_path, library):
    k = importlib.import_module(library)
    model = k.Sequential([k.layers.Input((2,)), k.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((4, 2), np.float32), np.ones((4, 1), np.float32)
    first = FirstLossCallback(tmp_path, expect=99.0, **PLAIN)
    line = inspect.currentframe().f_lineno + 2
    with pytest.warns(UnexpectedLossWarning) as caught:
        model.fit(x, y, verbose=0, callbacks=[first])
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, line)]


def test_an_exception_in_trace_forgets_what_was_recorded(tmp_path):
    first = FirstLoss(tmp_path, on_error="raise")
    with pytest.raises(ZeroDivisionError), first.trace():
        first.record(tf.constant(1.0))
        raise ZeroDivisionError
    with first.trace():
        first.record(tf.constant(2.0))
    assert read_first_loss(tmp_path).loss == 2


def test_a_bad_record_inside_trace_is_one_warning_and_ends_it(tmp_path):
    first = FirstLoss(tmp_path, **PLAIN)
    with pytest.warns(CaptureWarning, match="not a tensor"), first.trace():
        first.record(None)
    first.record(tf.constant(2.0))
    assert first.first_batch.loss is None


def test_non_finite_values_are_captured_exactly_and_counted(tmp_path):
    bits = np.array([0x7FC00001, 0xFF800000, 0x3F800000, 0x80000000], np.uint32)
    step = FirstLoss(tmp_path, on_error="raise", **PLAIN).wrap(lambda x: x)
    step(tf.constant(bits.view(np.float32)))
    back = read_first_loss(tmp_path)
    assert back.per_example.view(np.uint32).tolist() == bits.tolist()
    scalars = {d.tag: d.value for d in iter_tensors(tmp_path) if d.plugin_name == "scalars"}
    assert scalars["first_batch/nonfinite_count"] == 2
    assert scalars["first_batch/loss_mean"] == 0.5
    (histogram,) = [d.value for d in iter_tensors(tmp_path) if d.plugin_name == "histograms"]
    assert histogram[:, 2].sum() == 2


def test_an_empty_loss_is_recorded_as_empty(tmp_path):
    step = FirstLoss(tmp_path, on_error="raise", **PLAIN).wrap(lambda x: x)
    step(tf.zeros([0, 3], tf.float16))
    back = read_first_loss(tmp_path)
    assert (back.per_example.shape, back.per_example.dtype, back.count) == ((0, 3), np.float16, 0)


def test_step_can_be_given_or_computed(tmp_path):
    counter = tf.Variable(41)
    FirstLoss(tmp_path / "a", step=7, on_error="raise").record(1.0)
    FirstLoss(tmp_path / "b", step=lambda: int(counter) + 1, on_error="raise").record(1.0)
    assert read_first_loss(tmp_path / "a").step == 7
    assert read_first_loss(tmp_path / "b").step == 42


def test_a_second_recorder_on_the_same_logdir_gets_its_own_directory(tmp_path):
    for value in (1.0, 2.0, 3.0):
        FirstLoss(tmp_path, on_error="raise").record(value)
    assert {p.name: float(read_first_loss(p).loss) for p in tmp_path.iterdir()} == {
        "first_batch": 1,
        "first_batch-2": 2,
        "first_batch-3": 3,
    }


def test_a_loss_above_max_tensor_bytes_is_left_out_with_one_warning(tmp_path):
    first = FirstLoss(tmp_path, max_tensor_bytes=100, **PLAIN)
    with pytest.warns(CaptureWarning, match="max_tensor_bytes=100") as caught:
        first.record(tf.range(100.0))
    assert len(caught) == 1
    back = read_first_loss(tmp_path)
    assert (back.mean, back.digest) == (49.5, first.first_batch.digest)


def test_the_users_summary_scopes_do_not_affect_the_recording(tmp_path):
    step = FirstLoss(tmp_path, on_error="raise", **PLAIN).wrap(lambda x: x)
    with tf.name_scope("mine"), tf.summary.record_if(False):
        step(tf.constant(1.0))
    assert read_first_loss(tmp_path).loss == 1


def test_the_users_default_writer_gets_nothing_of_the_recording(tmp_path):
    with tf.summary.create_file_writer(str(tmp_path / "mine")).as_default():
        FirstLoss(tmp_path / "recorded", on_error="raise").wrap(lambda x: x)(tf.constant(1.0))
        tf.summary.scalar("mine", 2.0, step=0)
    assert [d.tag for d in iter_tensors(tmp_path / "mine")] == ["mine"]


@pytest.mark.parametrize("trouble", ["file", "full-path-missing-permission"])
def test_a_logdir_that_cannot_be_written_is_one_warning(tmp_path, trouble):
    blocker = tmp_path / "blocker"
    blocker.write_text("")
    logdir = blocker if trouble == "file" else blocker / "below"
    step = FirstLoss(logdir, **PLAIN).wrap(lambda x: x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert step(tf.constant(3.0)).numpy() == 3
    (warning,) = [w for w in caught if issubclass(w.category, CaptureWarning)]
    assert str(blocker) in str(warning.message)
    assert blocker.read_text() == ""


def test_a_logdir_that_cannot_be_written_raises_when_asked(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CaptureError, match="file"):
        FirstLoss(tmp_path / "file", on_error="raise").record(1.0)


def test_a_loop_inside_a_tf_function_gets_a_warning_that_says_how(tmp_path):
    model = Linear()
    step = FirstLoss(tmp_path, **PLAIN).wrap(model.step)

    @tf.function
    def epoch(data):
        for x, y in data:
            step(x, y)

    with pytest.warns(CaptureWarning, match="take one batch from the iterator") as caught:
        epoch(batches())
    assert len(caught) == 1
    plain = Linear()
    for x, y in batches():
        plain.step(x, y)
    np.testing.assert_allclose(model.weight, plain.weight, rtol=1e-5)


def test_the_pattern_for_a_loop_inside_a_tf_function_records_and_loses_no_batch(tmp_path):
    model, plain = Linear(), Linear()
    step = FirstLoss(tmp_path, on_error="raise", **PLAIN).wrap(model.step)

    @tf.function
    def rest(iterator, model):
        for x, y in iterator:
            model.step(x, y)

    iterator = iter(batches())
    step(*next(iterator))
    rest(iterator, model)
    iterator = iter(batches())
    plain.step(*next(iterator))
    rest(iterator, plain)
    assert model.weight.numpy().tobytes() == plain.weight.numpy().tobytes()
    np.testing.assert_allclose(read_first_loss(tmp_path).per_example, expected_per_example(), 1e-6)


def test_record_takes_several_losses_by_name(tmp_path):
    first = FirstLoss(tmp_path, **PLAIN)
    first.record(tf.constant([1.0, 3.0]), total={"d": tf.constant(2.0), "g": tf.constant(4.0)})
    assert read_first_loss(tmp_path).losses == {"d": 2, "g": 4}
    other = FirstLoss(tmp_path / "other", **PLAIN)
    other.record({"d": tf.constant(2.0), "g": tf.constant(4.0)})
    back = read_first_loss(tmp_path / "other")
    assert (back.losses, dict(back.outputs)) == ({"d": 2, "g": 4}, {})
    tags = {d.tag: float(d.value) for d in iter_tensors(tmp_path / "other", tags="*/losses/?")}
    assert {tag: tags[tag] for tag in tags if "tensors" not in tag} == {
        "first_batch/losses/d": 2,
        "first_batch/losses/g": 4,
    }


@pytest.mark.parametrize("warm_step", [None, 2])
def test_a_second_step_of_one_recorder_is_named_in_one_warning(tmp_path, warm_step):
    options = {"graph": False, "profile": warm_step is not None, "warm_step": warm_step}
    first = FirstLoss(tmp_path, **options)

    @first.wrap
    def train_d(x):
        return x + 1

    @first.wrap
    def train_g(x):
        return x + 2

    assert train_d(1.0) == 2
    with pytest.warns(
        CaptureWarning, match="this recorder is for 'train_d', and 'train_g'"
    ) as caught:
        assert train_g(1.0) == 3
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in range(4):
            assert (train_g(float(x)), train_d(float(x))) == (x + 2, x + 1)
    assert first.first_batch.loss == 2
    # The other step's calls do not count towards the warm one.
    warm = tmp_path / "first_batch-warm"
    assert warm.exists() == (warm_step is not None)


def test_recorders_of_two_steps_record_one_loss_each(tmp_path):
    steps = {"d": lambda: {"d_loss": 1.0}, "g": lambda: {"g_loss": 2.0}}
    recorders = {tag: FirstLoss(tmp_path, tag=tag, **PLAIN) for tag in steps}
    wrapped = [recorders[tag].wrap(step) for tag, step in steps.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            for step in wrapped:
                step()
    found = [first.first_batch.losses for first in recorders.values()]
    assert found == [{"d_loss": 1}, {"g_loss": 2}]


def test_once_said_a_call_runs_no_function_but_the_users(tmp_path):
    first = FirstLoss(tmp_path, **PLAIN)
    steps = [first.wrap(lambda: 1.0), first.wrap(lambda: 2.0)]
    with pytest.warns(CaptureWarning, match="is another step"):
        for _ in range(2):
            for step in steps:
                step()
    called = []
    sys.setprofile(lambda frame, event, _: event == "call" and called.append(frame.f_code.co_name))
    try:
        for step in steps:
            step()
    finally:
        sys.setprofile(None)
    assert called == ["step", "<lambda>", "step", "<lambda>"]


@pytest.mark.parametrize("style", ["eager", "function", "jit"])
def test_a_step_with_two_losses_records_both_by_name(tmp_path, style):
    model = Linear(style, lambda p, t: {"d_loss": t, "g_loss": tf.reduce_sum(p), "p": p})
    first = FirstLoss(tmp_path, on_error="raise", **PLAIN)
    train(first.wrap(model.step, loss="p", total=["g_loss", "d_loss"]))
    expected = expected_per_example()
    losses = first.first_batch.losses
    assert list(losses) == ["g_loss", "d_loss"]
    np.testing.assert_allclose([*losses.values()], [expected.sum(), expected.mean()], rtol=1e-6)
    scalars = {d.tag for d in iter_tensors(tmp_path) if d.plugin_name == "scalars"}
    assert {"first_batch/losses/d_loss", "first_batch/losses/g_loss"} < scalars
    assert "first_batch/loss" not in scalars


def test_a_second_step_is_an_error_where_errors_are_wanted(tmp_path):
    first = FirstLoss(tmp_path, on_error="raise", **PLAIN)
    one, other = first.wrap(lambda: 1.0), first.wrap(lambda: 2.0)
    one()
    for _ in range(2):
        with pytest.raises(CaptureError, match="is another step"):
            other()
    assert one() == 1


def test_a_step_that_is_wrapped_anew_in_each_epoch_is_one_step(tmp_path):
    def make_step(rate):
        return tf.function(lambda x: x * rate)

    first = FirstLoss(tmp_path, **PLAIN)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CaptureWarning)
        for epoch in range(3):
            first.wrap(make_step(float(epoch)))(tf.constant(1.0))
    assert first.first_batch.loss == 0


@pytest.mark.parametrize("library", ["keras", "tf_keras"])
def test_train_on_batch_of_a_second_model_is_a_second_step(tmp_path, library):
    k = importlib.import_module(library)
    first = FirstLoss(tmp_path, **PLAIN)
    models = [k.Sequential([k.layers.Input((2,)), k.layers.Dense(1)]) for _ in range(2)]
    for model in models:
        model.compile("sgd", "mse")
    steps = [first.wrap(model.train_on_batch) for model in models]
    x, y = np.ones((4, 2), np.float32), np.ones((4, 1), np.float32)
    steps[0](x, y)
    with pytest.warns(CaptureWarning, match="'train_on_batch' is another step"):
        steps[1](x, y)
    steps[0](x, y)
    steps[1](x, y)
