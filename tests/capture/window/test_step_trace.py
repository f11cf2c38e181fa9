"""The step-0 window: what it writes, and that it leaves TensorFlow as it was."""

import logging
import re
import subprocess
import sys
import threading

import pytest
import tensorflow as tf
from tensorboard.plugins.graph import graph_util
from tensorflow.python.eager import context as eager_context
from tensorflow.python.ops import summary_ops_v2
from tensorflow.python.profiler import profiler_v2
from tensorflow.python.profiler.internal import _pywrap_profiler

from tb_firstloss import FirstLoss, iter_events, iter_tensors, read_first_loss
from tb_firstloss.capture.window import graphs, profiler
from tests.helpers.profiles import events, marked_steps, read_xspace, write_xspace
from tests.helpers.training import Linear, batches


def train(step, epochs=1):
    for _ in range(epochs):
        for x, y in batches():
            step(x, y)


def assert_nothing_is_left():
    """No trace, no profiler, and no graphs collected, however many functions follow."""
    assert summary_ops_v2._current_trace_context is None
    assert profiler_v2._profiler is None
    for number in range(20):
        tf.function(lambda x, number=number: x + number)(1.0)
    left = eager_context.context().export_run_metadata()
    assert not left.function_graphs
    assert not left.partition_graphs
    session = _pywrap_profiler.ProfilerSession()
    session.start("", {})  # raises if a session runs anywhere in the process


def written_graphs(run_dir):
    """Returns the run's GraphDef, and those of the trace under the recorder's tag."""
    run_graph = None
    for _, event in iter_events(run_dir):
        if event.graph_def:
            run_graph = tf.compat.v1.GraphDef.FromString(event.graph_def)
    traced = []
    for datum in iter_tensors(run_dir):
        if datum.plugin_name == "graph_run_metadata_graph":
            run_metadata = tf.compat.v1.RunMetadata.FromString(datum.value.item())
            traced += [f.pre_optimization_graph for f in run_metadata.function_graphs]
    return run_graph, traced


def operations(graph):
    return {node.op for node in graph.node}


def report(run_dir):
    (text,) = [d.value for d in iter_tensors(run_dir) if d.tag.endswith("/report")]
    return text.item().decode()


def event_names(profile):
    return {event.name for event in events(read_xspace(profile))}


def profiles(directory):
    return sorted(directory.rglob("*.xplane.pb"))


@pytest.mark.parametrize("style", ["eager", "function", "jit"])
def test_the_profile_holds_exactly_the_one_marked_step(tmp_path, style):
    first = FirstLoss(tmp_path, step=7, on_error="raise")
    train(first.wrap(Linear(style).step))
    (path,) = profiles(tmp_path)
    ((name, step, milliseconds),) = marked_steps(path)
    assert (name, step) == ("train 7", 7)
    assert 0 < milliseconds < 60_000
    assert "train" in event_names(path)
    assert_nothing_is_left()


@pytest.mark.parametrize(("style", "traced"), [("function", 1), ("jit", 0)])
def test_a_function_gives_one_readable_graph(tmp_path, style, traced):
    first = FirstLoss(tmp_path, on_error="raise")
    train(first.wrap(Linear(style).step))
    run_graph, trace_graphs = written_graphs(tmp_path)
    assert {"MatMul", "Mean", "AssignSubVariableOp"} <= operations(run_graph)
    # XLA compiles the step before TensorFlow would collect its graph.
    assert len(trace_graphs) == traced
    for graph in trace_graphs:
        assert {"MatMul", "Mean", "AssignSubVariableOp"} <= operations(graph)
        assert graph_util.merge_graph_defs([graph]).node
    assert "Not recorded" not in report(tmp_path)


def make_step_with_variables():
    """Returns a tf.function that creates its variables when it is first called."""
    layer = []

    @tf.function
    def step(x, y):
        if not layer:
            layer.append(tf.Variable(tf.random.normal([4]) * 0.1))
            layer.append(tf.Variable(tf.zeros([])))
        with tf.GradientTape() as tape:
            loss = (tf.linalg.matvec(x, layer[0]) + layer[1] - y) ** 2
        for variable, gradient in zip(layer, tape.gradient(loss, layer), strict=True):
            variable.assign_sub(0.1 * gradient)
        return loss

    return step


def test_initializers_of_variables_created_in_the_step_do_not_hide_it(tmp_path):
    step = make_step_with_variables()
    train(FirstLoss(tmp_path, on_error="raise").wrap(step))
    _, (graph,) = written_graphs(tmp_path)
    assert {"MatMul", "AssignSubVariableOp"} <= operations(graph)
    assert "RandomStandardNormal" not in operations(graph)


@pytest.mark.parametrize(
    "make_step",
    [lambda: Linear("function").step, make_step_with_variables],
    ids=["plain", "variables"],
)
def test_asking_for_the_graph_traces_nothing(tmp_path, make_step):
    plain, wrapped = make_step(), make_step()
    x, y = next(iter(batches()))
    for step in plain, wrapped:
        step(x[:3], y[:3])  # so that there are two signatures to choose from
    plain(x, y)
    FirstLoss(tmp_path, on_error="raise").wrap(wrapped)(x, y)
    counts = [step.experimental_get_tracing_count() for step in (plain, wrapped)]
    assert counts[0] == counts[1]
    run_graph, _ = written_graphs(tmp_path)
    assert [n.attr["shape"].shape.dim[0].size for n in run_graph.node if n.name == "x"] == [8]


def test_a_function_called_before_still_gives_its_graph(tmp_path):
    step = Linear("function").step
    train(step)
    train(FirstLoss(tmp_path, on_error="raise").wrap(step))
    run_graph, trace_graphs = written_graphs(tmp_path)
    assert "AssignSubVariableOp" in operations(run_graph)
    assert trace_graphs == []


def test_an_eager_step_has_no_graph_and_one_log_line_says_why(tmp_path, ours):
    train(FirstLoss(tmp_path, on_error="raise").wrap(Linear("eager").step))
    assert written_graphs(tmp_path) == (None, [])
    assert ours() == [f"{tmp_path}/first_batch: no {graphs.NO_GRAPH}"]
    assert graphs.NO_GRAPH in report(tmp_path)


def test_functions_run_eagerly_have_no_graph(tmp_path):
    tf.config.run_functions_eagerly(True)
    try:
        train(FirstLoss(tmp_path, on_error="raise").wrap(Linear("function").step))
    finally:
        tf.config.run_functions_eagerly(False)
    assert written_graphs(tmp_path) == (None, [])
    assert graphs.NO_GRAPH in report(tmp_path)


def test_the_trace_finds_functions_inside_a_plain_step(tmp_path):
    inner = Linear("function").step
    train(FirstLoss(tmp_path / "new", on_error="raise").wrap(lambda x, y: inner(x, y)))
    run_graph, (graph,) = written_graphs(tmp_path / "new")
    assert run_graph is None
    assert "AssignSubVariableOp" in operations(graph)
    train(FirstLoss(tmp_path / "old", on_error="raise").wrap(lambda x, y: inner(x, y)))
    assert graphs.NO_GRAPH in report(tmp_path / "old")


def test_the_report_says_why_a_step_has_no_graph(tmp_path):
    class Step:
        def __call__(self, x):
            return x

        def experimental_get_tracing_count(self):
            raise NotImplementedError("not today")

    FirstLoss(tmp_path, on_error="raise").wrap(Step())(tf.constant(1.0))
    assert "graph: NotImplementedError: not today" in report(tmp_path)
    assert read_first_loss(tmp_path).loss == 1


def test_the_report_of_a_loss_without_a_window_says_what_is_missing(tmp_path):
    FirstLoss(tmp_path, on_error="raise", warm_step=2).record(1.0)
    assert "graph, profile, warm profile: record() was called without trace()" in report(tmp_path)


def test_a_thousand_further_functions_are_not_collected(tmp_path):
    train(FirstLoss(tmp_path, on_error="raise").wrap(Linear("function").step))
    for number in range(1000):
        tf.function(lambda x, number=number: x + number, autograph=False)(1.0)
    left = eager_context.context().export_run_metadata()
    assert left.ByteSize() == 0


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, StopIteration])
@pytest.mark.parametrize("way", ["wrap", "trace"])
def test_a_step_that_raises_leaves_nothing_behind(tmp_path, error, way):
    first = FirstLoss(tmp_path, on_error="raise")
    inner = Linear("function").step

    def step(x, y):
        inner(x, y)
        raise error

    x, y = next(iter(batches()))
    with pytest.raises(error):
        if way == "wrap":
            first.wrap(step)(x, y)
        else:
            with first.trace():
                step(x, y)
    assert_nothing_is_left()
    assert list(tmp_path.iterdir()) == []


def test_a_logdir_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").write_text("")
    step = FirstLoss(tmp_path / "file").wrap(Linear("function").step)
    with pytest.warns(UserWarning, match="file"):
        train(step)
    assert_nothing_is_left()


def test_a_run_directory_that_vanishes_is_one_warning(tmp_path):
    first = FirstLoss(tmp_path)

    def step(x):
        run_dir = tmp_path / "first_batch"
        run_dir.rmdir()
        run_dir.write_text("in the way")
        return x

    with pytest.warns(UserWarning, match=str(tmp_path)) as caught:
        first.wrap(step)(tf.constant(1.0))
    assert len(caught) == 1
    assert first.first_batch.loss == 1
    assert_nothing_is_left()


@pytest.mark.parametrize("whose", ["python", "native"])
def test_a_running_profiler_is_left_alone(tmp_path, whose, caplog, capfd):
    mine = tmp_path / "mine"
    if whose == "python":
        tf.profiler.experimental.start(str(mine))
        session = profiler_v2._profiler
    else:
        session = _pywrap_profiler.ProfilerSession()
        session.start(str(mine), {})
    before = capfd.readouterr()
    train(FirstLoss(tmp_path / "recorded", on_error="raise").wrap(Linear("function").step))
    assert "Another profiler" not in before.err + capfd.readouterr().err
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path}/recorded/first_batch: no {profiler.BUSY}"
    ]
    assert profiles(tmp_path / "recorded") == []
    assert profiler_v2._profiler is (session if whose == "python" else None)
    session.export_to_tb()  # the user's session has gone on, and has everything
    profiler_v2._profiler = None
    assert len(profiles(mine)) == 1
    run_graph, _ = written_graphs(tmp_path / "recorded")
    assert run_graph is not None
    del session
    assert_nothing_is_left()


def test_the_users_trace_is_left_alone_and_misses_nothing(tmp_path, ours):
    tf.summary.trace_on(graph=True)
    train(FirstLoss(tmp_path / "recorded", on_error="raise").wrap(Linear("function").step))
    assert ours() == [
        f"{tmp_path}/recorded/first_batch: no graph trace: tf.summary.trace_on is already on, and "
        "was left alone"
    ]
    with tf.summary.create_file_writer(str(tmp_path / "mine")).as_default():
        tf.summary.trace_export("mine", step=0)
    eager_context.context().disable_graph_collection()
    _, trace_graphs = written_graphs(tmp_path / "mine")
    assert any("AssignSubVariableOp" in operations(graph) for graph in trace_graphs)
    run_graph, trace_graphs = written_graphs(tmp_path / "recorded")
    assert ("AssignSubVariableOp" in operations(run_graph), trace_graphs) == (True, [])
    assert_nothing_is_left()


def test_graphs_that_an_earlier_trace_still_collects_are_not_the_steps(tmp_path):
    tf.summary.trace_on(graph=True)
    with tf.summary.create_file_writer(str(tmp_path / "mine")).as_default():
        tf.summary.trace_export("mine", step=0)  # leaves the collection on
    tf.function(lambda x: tf.sin(x) + tf.cos(x))(1.0)
    inner = Linear("function").step
    train(FirstLoss(tmp_path / "recorded", on_error="raise").wrap(lambda x, y: inner(x, y)))
    _, (graph,) = written_graphs(tmp_path / "recorded")
    assert "Sin" not in operations(graph)
    assert_nothing_is_left()


def test_a_later_trace_of_the_user_works_as_usual(tmp_path, capfd):
    train(FirstLoss(tmp_path / "recorded", on_error="raise").wrap(Linear("function").step))
    with tf.summary.create_file_writer(str(tmp_path / "mine")).as_default():
        tf.summary.trace_on(graph=True)
        tf.function(lambda x: tf.sin(x) + 1)(1.0)
        tf.summary.trace_export("mine", step=0)
    eager_context.context().disable_graph_collection()
    assert "already" not in capfd.readouterr().err
    _, (graph,) = written_graphs(tmp_path / "mine")
    assert "Sin" in operations(graph)


def test_two_profiles_in_one_second_have_separate_directories(tmp_path):
    for _ in range(2):
        FirstLoss(tmp_path, on_error="raise", graph=False).wrap(lambda x: x)(tf.constant(1.0))
    assert [[len(marked_steps(path)) for path in profiles(run)] for run in tmp_path.iterdir()] == [
        [1],
        [1],
    ]


def test_the_options_reach_the_profiler(tmp_path, monkeypatch):
    # TensorFlow 2.21 ignores the options, so a test can only see that they are passed.
    given, start = [], tf.profiler.experimental.start

    def watched_start(logdir, options=None):
        given.append(options)
        start(logdir, options)

    monkeypatch.setattr(tf.profiler.experimental, "start", watched_start)
    options = tf.profiler.experimental.ProfilerOptions(python_tracer_level=1)
    for number, profile in enumerate([options, True]):
        first = FirstLoss(tmp_path / str(number), on_error="raise", graph=False, profile=profile)
        first.wrap(lambda x: x)(tf.constant(1.0))
    assert given == [options, None]
    assert [len(marked_steps(path)) for path in profiles(tmp_path)] == [1, 1]


def test_without_graph_and_profile_neither_is_written_nor_reported_missing(tmp_path, ours):
    first = FirstLoss(tmp_path, on_error="raise", graph=False, profile=False)
    train(first.wrap(Linear("function").step))
    assert written_graphs(tmp_path) == (None, [])
    assert profiles(tmp_path) == []
    assert ours() == []
    assert "step wall time" in report(tmp_path)


def test_the_size_of_the_profile_is_logged_and_reported(tmp_path, caplog):
    caplog.set_level(logging.INFO, "tb_firstloss")
    train(FirstLoss(tmp_path, on_error="raise").wrap(Linear("function").step))
    size = f"{profiles(tmp_path)[0].stat().st_size:,} bytes"
    assert size in caplog.text
    assert size in report(tmp_path)


@pytest.mark.parametrize("way", ["wrap", "trace"])
def test_the_warm_step_is_profiled_into_a_separate_run(tmp_path, way):
    first = FirstLoss(tmp_path, on_error="raise", warm_step=2, step=10)
    model = Linear("function")
    step = first.wrap(model.step)
    calls = []
    for x, y in batches(count=5):
        if way == "wrap":
            step(x, y)
        else:
            with first.trace():
                first.record(model.step(x, y))
        calls.append([path.parents[3].name for path in profiles(tmp_path)])
    both = ["first_batch", "first_batch-warm"]
    assert calls == [["first_batch"], ["first_batch"], both, both, both]
    steps = [marked_steps(path) for path in profiles(tmp_path)]
    assert [[(name, number) for name, number, _ in marked] for marked in steps] == [
        [("train 10", 10)],
        [("train 12", 12)],
    ]
    (_, _, cold), (_, _, warm) = steps[0] + steps[1]
    assert warm < cold
    assert "Warm step 12" in report(tmp_path / "first_batch-warm")
    assert_nothing_is_left()
    assert read_first_loss(tmp_path).step == 10  # the warm run is no recording


def test_after_the_warm_step_a_call_goes_straight_through(tmp_path):
    first = FirstLoss(tmp_path, on_error="raise", graph=False, warm_step=1)
    seen = []

    @first.wrap
    def step(x):
        frame = sys._getframe(1)
        seen.append(frame.f_code.co_name)
        return x

    for _ in range(4):
        step(tf.constant(1.0))
    assert seen == ["_capture", "_later_call", "step", "step"]


def test_after_a_warm_step_that_raises_the_next_one_is_the_warm_step(tmp_path):
    first = FirstLoss(tmp_path, on_error="raise", graph=False, warm_step=1)

    @first.wrap
    def step(x):
        if x < 0:
            raise ZeroDivisionError
        return tf.constant(x)

    step(1.0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            step(-1.0)
        assert_nothing_is_left()
        assert [run.name for run in tmp_path.iterdir()] == ["first_batch"]
    step(1.0)
    assert len(profiles(tmp_path / "first_batch-warm")) == 1


def test_steps_of_several_threads_count_together(tmp_path):
    first = FirstLoss(tmp_path, on_error="raise", graph=False, warm_step=40)
    step = first.wrap(lambda x: x)
    step(tf.constant(1.0))
    threads = [
        threading.Thread(target=lambda: [step(1.0) for _ in range(10)], daemon=True)
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not (tmp_path / "first_batch-warm").exists()
    for _ in range(10):
        step(tf.constant(1.0))
    (path,) = profiles(tmp_path / "first_batch-warm")
    assert [number for _, number, _ in marked_steps(path)] == [40]


def test_a_busy_profiler_at_the_warm_step_is_reported_and_ends_the_wait(tmp_path, ours):
    first = FirstLoss(tmp_path, on_error="raise", graph=False, warm_step=1)
    step = first.wrap(lambda x: x)
    step(tf.constant(1.0))
    tf.profiler.experimental.start(str(tmp_path / "mine"))
    step(tf.constant(1.0))
    tf.profiler.experimental.stop(save=False)
    assert ours() == [f"{tmp_path}/first_batch: step 1: no {profiler.BUSY}"]
    assert profiler.BUSY in report(tmp_path / "first_batch-warm")
    assert_nothing_is_left()


def test_planes_are_read_from_a_real_profile(tmp_path):
    train(FirstLoss(tmp_path, on_error="raise").wrap(Linear("jit").step))
    (path,) = profiles(tmp_path)
    expected = [plane.name for plane in read_xspace(path).planes]
    assert profiler.plane_names(path.read_bytes()) == expected
    assert "/host:CPU" in expected


def test_a_profile_without_the_plane_of_a_gpu_is_noticed(tmp_path):
    train(FirstLoss(tmp_path, on_error="raise", graph=False).wrap(Linear("function").step))
    run_dir = str(tmp_path / "first_batch")
    cpu, gpu = (
        tf.config.LogicalDevice(name=f"/device:{name}:0", device_type=name)
        for name in ("CPU", "GPU")
    )
    assert profiler.lacks_device_plane(run_dir, [cpu, gpu])
    assert not profiler.lacks_device_plane(run_dir, [cpu])
    assert not profiler.lacks_device_plane(str(tmp_path), [gpu])  # no profile, so nothing to say
    (path,) = profiles(tmp_path)
    space = read_xspace(path)
    space.planes.add(name="/device:GPU:0 (NVIDIA)")
    write_xspace(space, path)
    assert not profiler.lacks_device_plane(run_dir, [cpu, gpu])


def test_a_damaged_profile_is_not_a_protocol_buffer():
    with pytest.raises(ValueError, match="unterminated varint"):
        profiler.plane_names(b"\x0a\xff\xff")


SCRIPT = """
import sys, tensorflow as tf
from tb_firstloss import FirstLoss
x = tf.ones([4])
def step(x):
    return x * 2
step = tf.function(step)
if sys.argv[1] == "wrapped":
    step = FirstLoss(sys.argv[2], on_error="raise", warm_step=1).wrap(step)
for _ in range(3):
    step(x)
"""


PROFILER_LINE = re.compile(r"(I\d{4}|\d{4}-\d\d-\d\d) .*(profiler_session|save_profile)\.cc:\d+\] ")


@pytest.mark.slow
def test_the_terminal_shows_nothing_more_than_that_tensorflow_profiles(tmp_path):
    def lines(mode):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, mode, str(tmp_path)],
            env={"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == ""
        return done.stderr.splitlines()

    def said(lines):
        # Times and process ids differ; the text and its place in TensorFlow do not.
        return sorted({line.rpartition("] ")[2] for line in lines})

    wrapped = lines("wrapped")
    profiler = [line for line in wrapped if PROFILER_LINE.match(line)]
    assert said(line for line in wrapped if line not in profiler) == said(lines("plain"))
    # TensorFlow's native code says at level INFO that it starts, stops and saves; two profiles.
    assert 1 <= len(said(profiler)) <= len(profiler) <= 10
    assert len(profiles(tmp_path)) == 2


def test_the_window_waits_for_the_devices(tmp_path):
    matrix = tf.random.normal([2000, 2000])
    step = FirstLoss(tmp_path, on_error="raise", graph=False).wrap(
        tf.function(lambda: tf.reduce_sum(matrix @ matrix @ matrix))
    )
    tf.config.experimental.set_synchronous_execution(False)  # so that the call returns at once
    try:
        step()
    finally:
        tf.config.experimental.set_synchronous_execution(True)
    found = list(events(read_xspace(profiles(tmp_path)[0])))
    (marker,) = [event for event in found if event.name == "train"]
    products = [event for event in found if "matmul" in event.name.lower()]
    assert len(products) == 2
    assert all(marker.start <= event.start < event.end <= marker.end for event in products)
