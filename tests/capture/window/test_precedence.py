"""A step with a profiler or a trace of its own has them as without the recorder."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context as eager_context
from tensorflow.python.ops import summary_ops_v2
from tensorflow.python.profiler import profiler_v2
from tensorflow.python.profiler.internal import _pywrap_profiler
from tensorflow.python.profiler.profiler_v2 import start as start_imported

from tb_firstloss import FirstLoss, FirstLossCallback, iter_tensors, read_first_loss
from tb_firstloss.capture.window import graphs, profiler
from tests.helpers.profiles import events, read_xspace

LOCKS = (profiler_v2._profiler_lock, summary_ops_v2._current_trace_context_lock)
stop = tf.profiler.experimental.stop


@pytest.fixture(autouse=True)
def locks_are_back():
    yield
    assert (profiler_v2._profiler_lock, summary_ops_v2._current_trace_context_lock) == LOCKS
    assert not any(lock.locked() for lock in LOCKS)
    eager_context.context().disable_graph_collection()  # a trace of TensorFlow's leaves it on
    _pywrap_profiler.ProfilerSession().start("", {})  # raises if a session runs


def profiles(directory):
    return list(directory.rglob("*.xplane.pb"))


def report(run_dir):
    (text,) = [datum.value for datum in iter_tensors(run_dir) if datum.tag.endswith("/report")]
    return text.item().decode()


def in_thread(call):
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def with_profile(mine):
    with tf.profiler.experimental.Profile(mine):
        tf.sin(tf.ones([4]))


def start_and_stop(mine):
    tf.profiler.experimental.start(mine)
    tf.sin(tf.ones([4]))
    stop()


def trace_with_profiler(mine):
    tf.summary.trace_on(graph=True, profiler=True, profiler_outdir=mine)
    tf.sin(tf.ones([4]))


def export_profile(mine):
    with tf.summary.create_file_writer(mine).as_default():
        tf.summary.trace_export("mine", step=0)


PROFILERS = {
    "start": (tf.profiler.experimental.start, lambda mine: stop()),
    "imported": (start_imported, lambda mine: stop()),
    "both in the step": (start_and_stop, lambda mine: None),
    "Profile": (with_profile, lambda mine: None),
    "trace_on": (trace_with_profiler, export_profile),
    "thread": (
        lambda mine: in_thread(lambda: tf.profiler.experimental.start(mine)),
        lambda mine: in_thread(stop),
    ),
}


@pytest.mark.parametrize("warm", [False, True], ids=["first", "warm"])
@pytest.mark.parametrize("way", PROFILERS)
def test_a_profiler_that_the_step_starts_takes_precedence(tmp_path, way, warm, ours):
    begin, end = PROFILERS[way]
    mine, at, calls = str(tmp_path / "mine"), int(warm), []

    def step(x):
        if len(calls) == at:
            begin(mine)
        if len(calls) == at + 1:
            end(mine)
        calls.append(x)
        return tf.cos(x)

    first = FirstLoss(
        tmp_path / "logs", on_error="raise", graph=False, warm_step=1 if warm else None
    )
    wrapped = first.wrap(step)
    for _ in range(4):
        wrapped(tf.ones([4]))
    (profile,) = profiles(tmp_path / "mine")
    names = {event.name for event in events(read_xspace(profile))}
    assert any(name.endswith((": Sin", ": Cos")) for name in names)
    assert profiler.STEP_NAME not in names
    run = tmp_path / "logs" / ("first_batch-warm" if warm else "first_batch")
    assert profiles(run) == []
    assert profiler.TAKEN in report(run)
    assert [line for line in ours() if "profile" in line] == [
        f"{tmp_path}/logs/first_batch: {'step 1: ' if warm else ''}no {profiler.TAKEN}"
    ]
    assert read_first_loss(tmp_path / "logs").per_example.shape == (4,)


def test_stopping_a_profiler_that_the_step_has_not_started_fails_as_it_would(tmp_path):
    def step():
        with pytest.raises(tf.errors.UnavailableError):
            stop()
        return tf.constant(1.0)

    FirstLoss(tmp_path, on_error="raise").wrap(step)()
    assert profiler.TAKEN in report(tmp_path / "first_batch")


def test_a_profiler_from_before_that_the_step_stops_has_what_it_would_have(tmp_path):
    tf.profiler.experimental.start(str(tmp_path / "mine"))

    def step(x):
        y = tf.cos(x)
        stop()
        return y

    FirstLoss(tmp_path / "logs", on_error="raise").wrap(step)(tf.ones([4]))
    (profile,) = profiles(tmp_path / "mine")
    names = {event.name for event in events(read_xspace(profile))}
    assert any("cos" in name.lower() for name in names)
    assert profiler.STEP_NAME not in names
    assert profiler.BUSY in report(tmp_path / "logs" / "first_batch")


def test_a_step_that_raises_after_it_has_started_a_profiler_leaves_its_own_running(tmp_path):
    def step():
        tf.profiler.experimental.start(str(tmp_path / "mine"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        FirstLoss(tmp_path / "logs").wrap(step)()
    stop()
    assert len(profiles(tmp_path / "mine")) == 1
    assert list((tmp_path / "logs").iterdir()) == []


def graphs_of(directory):
    found = []
    for datum in iter_tensors(directory):
        if datum.plugin_name == "graph_run_metadata_graph":
            run_metadata = tf.compat.v1.RunMetadata.FromString(datum.value.item())
            found += [f.pre_optimization_graph for f in run_metadata.function_graphs]
    return [{node.op for node in graph.node} for graph in found]


def export(directory):
    with tf.summary.create_file_writer(str(directory)).as_default():
        tf.summary.trace_export("mine", step=0)


def traced(trace_on):
    """Trains three steps; the first turns the trace on between two functions, the third exports."""
    before, after = tf.function(lambda x: tf.sin(x) + 1), tf.function(lambda x: tf.cos(x) + 1)
    calls = []

    def step(x, directory):
        calls.append(x)
        if len(calls) == 3:
            export(directory)
            return x
        y = before(x)
        if len(calls) == 1:
            trace_on()
        return after(y)

    return step


@pytest.mark.parametrize("thread", [False, True], ids=["step", "thread"])
def test_a_trace_that_the_step_turns_on_has_what_it_would_have(tmp_path, thread, capfd, ours):
    def trace_on():
        in_thread(tf.summary.trace_on) if thread else tf.summary.trace_on()

    for name in ("plain", "wrapped"):
        step = traced(trace_on)
        if name == "wrapped":
            step = FirstLoss(tmp_path / "logs", on_error="raise", profile=False).wrap(step)
        for _ in range(3):
            step(tf.ones([4]), tmp_path / name)
    assert "already enabled" not in capfd.readouterr().err
    plain, wrapped = graphs_of(tmp_path / "plain"), graphs_of(tmp_path / "wrapped")
    assert wrapped == plain
    assert any("Cos" in operations for operations in wrapped)
    assert not any("Sin" in operations for operations in wrapped)
    assert ours() == [f"{tmp_path}/logs/first_batch: no {graphs.TAKEN}"]
    assert graphs.TAKEN in report(tmp_path / "logs/first_batch")


def test_exporting_a_trace_that_is_not_on_fails_as_it_would(tmp_path):
    def step():
        with pytest.raises(ValueError, match="Must enable trace before export"):
            export(tmp_path / "mine")
        tf.summary.trace_off()
        return tf.constant(1.0)

    FirstLoss(tmp_path / "logs", on_error="raise").wrap(step)()
    assert graphs.TAKEN in report(tmp_path / "logs/first_batch")


def test_a_step_that_traces_itself_completely_is_told_no_false_reason(tmp_path):
    function = tf.function(lambda x: tf.sin(x) + 1)

    def step(x):
        tf.summary.trace_on()
        y = function(x)
        export(tmp_path / "mine")
        return y

    FirstLoss(tmp_path / "logs", on_error="raise", profile=False).wrap(step)(tf.ones([4]))
    assert len(graphs_of(tmp_path / "mine")) > 0
    text = report(tmp_path / "logs/first_batch")
    assert graphs.TAKEN in text
    assert graphs.NO_GRAPH not in text


@pytest.mark.parametrize("order", [1, -1], ids=["recorder first", "TensorBoard first"])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_tensorboard_callback_profiles_its_batch(tmp_path, order, batch):
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    board = keras.callbacks.TensorBoard(tmp_path / "board", profile_batch=batch)
    first = FirstLossCallback(tmp_path / "logs", on_error="raise", warm_step=1)
    x, y = np.ones([24, 4]), np.ones([24, 1])
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[first, board][::order])
    assert len(profiles(tmp_path / "board")) == 1
    run = tmp_path / "logs" / ("first_batch" if batch == 1 else "first_batch-warm")
    assert profiles(run) == []
    assert profiler.BUSY in report(run)


def test_two_recorders_around_one_step_share_what_there_is_one_of(tmp_path):
    inner, outer = (FirstLoss(tmp_path / name, on_error="raise") for name in ("inner", "outer"))
    function = tf.function(lambda x: tf.sin(x) + 1)
    outer.wrap(inner.wrap(lambda x: function(x)))(tf.ones([4]))
    assert [len(profiles(tmp_path / name)) for name in ("inner", "outer")] == [0, 1]
    assert [len(graphs_of(tmp_path / name)) for name in ("inner", "outer")] == [0, 1]
    assert graphs.OTHER_TRACE in report(tmp_path / "inner/first_batch")
    assert profiler.BUSY in report(tmp_path / "inner/first_batch")


def test_the_graphs_of_step_0_are_not_kept_in_memory(tmp_path):
    first = FirstLoss(tmp_path, on_error="raise", warm_step=5)
    first.wrap(tf.function(lambda x: tf.sin(x) + 1))(tf.ones([4]))
    assert len(graphs_of(tmp_path)) == 1
    assert first._recorder._warm._first.run_metadata is None
    assert first._trace is None
