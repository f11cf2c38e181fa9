"""A step's profile in the terminal; every number is checked against another reader's."""

import json
import re
import subprocess
import sys
import time

import keras
import pytest
import tensorflow as tf
from xprof.convert import raw_to_tool_data

from tb_firstloss import (
    FirstLoss,
    FirstLossCallback,
    iter_tensors,
    read_first_losses,
    read_scalars,
)
from tb_firstloss.cli import main
from tb_firstloss.profiles import timeline
from tb_firstloss.profiles.step_profile import read_profile
from tests.helpers.profiles import events, marked_steps, read_xspace, write_xspace
from tests.helpers.training import Linear, batches


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """A profiled run of a tf.function step, with its warm step."""
    directory = tmp_path_factory.mktemp("logs")
    step = FirstLoss(directory, on_error="raise", warm_step=2).wrap(Linear("function").step)
    for x, y in batches():
        step(x, y)
    return directory


@pytest.fixture
def edited(logdir, tmp_path):
    """Copies the profile of step 0 after a change to its XSpace proto."""

    def edit(change):
        (source,) = (logdir / "first_batch").rglob("*.xplane.pb")
        space = read_xspace(source)
        change(space)
        session = tmp_path / "plugins" / "profile" / "2026_01_01"
        session.mkdir(parents=True)
        write_xspace(space, session / "host.xplane.pb")
        return tmp_path

    return edit


def spans(run_dir):
    """Start and end in seconds of the events by name, from TensorFlow's proto."""
    found = {}
    (path,) = run_dir.rglob("*.xplane.pb")
    for event in events(read_xspace(path)):
        found.setdefault(event.name, []).append((event.start / 1e12, event.end / 1e12))
    return found


def test_step_time_and_number_are_those_of_the_overview_page(logdir):
    for run, number in ("first_batch", 0), ("first_batch-warm", 2):
        profile = read_profile(logdir / run)
        (path,) = (logdir / run).rglob("*.xplane.pb")
        ((_, step, milliseconds),) = marked_steps(path)
        assert (profile.run, profile.step) == (run, step) == (run, number)
        assert profile.seconds == pytest.approx(milliseconds / 1e3)


def test_shares_add_up_and_are_the_markers_in_the_profile(logdir):
    profile = read_profile(logdir / "first_batch")
    assert list(profile.shares) == list(timeline.SHARES)
    assert sum(profile.shares.values()) == pytest.approx(profile.seconds)
    found = spans(logdir / "first_batch")
    ((start, end),) = found["tf.function-graph_building"]
    assert profile.shares["tracing"] == pytest.approx(end - start, rel=1e-3)
    assert profile.shares["input"] == 0
    assert profile.shares["compute"] > 0
    # From each call of a function or an operation until its kernel runs.
    calls = [s for name, v in found.items() if name.startswith("EagerLocalExecute") for s, _ in v]
    kernels = [start for start, _ in found["EagerKernelExecute"]]
    waits = [kernel - call for call, kernel in zip(sorted(calls), sorted(kernels), strict=True)]
    assert profile.shares["compilation"] == pytest.approx(sum(waits), rel=1e-3)


def test_a_warm_step_traces_nothing(logdir):
    cold, warm = (read_profile(logdir / run) for run in ("first_batch", "first_batch-warm"))
    assert cold.shares["tracing"] > 0.1 * cold.seconds
    assert warm.shares["tracing"] == 0
    assert warm.seconds < cold.seconds


def test_compilation_by_xla_is_counted(tmp_path):
    step = FirstLoss(tmp_path, on_error="raise", graph=False).wrap(Linear("jit").step)
    for x, y in batches():
        step(x, y)
    profile = read_profile(tmp_path / "first_batch")
    (compiled,) = spans(tmp_path)["CpuCompiler::RunBackend"]
    assert profile.shares["compilation"] >= compiled[1] - compiled[0] > 0


def test_input_inside_the_step_is_counted(tmp_path):
    def slow(x, y):
        tf.py_function(lambda: time.sleep(0.2), [], [])
        return x, y

    iterator = iter(batches().map(slow))
    step = Linear("function").step
    first = FirstLoss(tmp_path, on_error="raise", graph=False)
    first.wrap(tf.function(lambda: step(*next(iterator))))()
    profile = read_profile(tmp_path / "first_batch")
    assert 0.15 < profile.shares["input"] < profile.seconds


def paused(data, seconds):
    """Yields the data, each a while after it was asked for."""
    for each in data:
        time.sleep(seconds)
        yield each


@pytest.mark.parametrize("style", ["eager", "function", "jit"])
@pytest.mark.parametrize("warm_step", [1, 3])
def test_waiting_for_input_outside_the_step_is_measured(tmp_path, style, warm_step):
    first = FirstLoss(tmp_path, on_error="raise", graph=False, warm_step=warm_step)
    step, clock = first.wrap(Linear(style).step), []
    for x, y in paused(batches(count=5), 0.1):
        began = time.perf_counter()
        step(x, y)
        clock.append((began, time.perf_counter()))
    between = clock[warm_step][0] - clock[warm_step - 1][1]  # as the loop itself sees it
    assert between > 0.1
    profile = read_profile(tmp_path / "first_batch-warm")
    assert profile.seconds_between_steps == pytest.approx(between, abs=0.02)
    assert profile.shares["input"] == 0
    assert read_profile(tmp_path / "first_batch").seconds_between_steps is None


def test_a_step_that_raises_ends_the_time_between_steps(tmp_path):
    @FirstLoss(tmp_path, on_error="raise", graph=False, warm_step=1).wrap
    def step(x):
        if x < 0:
            time.sleep(1)
            raise ZeroDivisionError
        return tf.constant(x)

    step(1.0)
    with pytest.raises(ZeroDivisionError):
        step(-1.0)
    time.sleep(0.1)
    step(1.0)
    assert 0.1 < read_profile(tmp_path / "first_batch-warm").seconds_between_steps < 0.6


class Pause(keras.callbacks.Callback):
    """Lets fit wait after each execution."""

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.1)


@pytest.mark.parametrize(("warm_step", "steps"), [(1, 1), (1, 4), (2, 1)])
def test_fit_waits_for_input_inside_its_step_and_for_callbacks_between_steps(
    tmp_path, warm_step, steps
):
    def slow(x, y):
        tf.py_function(lambda: time.sleep(0.2), [], [])
        return x, y

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=steps)
    callback = FirstLossCallback(tmp_path, on_error="raise", graph=False, warm_step=warm_step)
    data = batches(count=4 * steps).map(slow)
    model.fit(data, epochs=1, verbose=0, callbacks=[callback, Pause()])
    profile = read_profile(tmp_path / "first_batch-warm")
    assert 0.1 < profile.seconds_between_steps < 0.3  # 4 steps take 0.8 s
    if warm_step == 2:  # after step 0, which takes long, a batch is ready
        assert profile.shares["input"] > 0.05


def test_the_time_between_steps_is_printed_and_reported(tmp_path, capsys):
    step = FirstLoss(tmp_path, on_error="raise", warm_step=2).wrap(Linear("function").step)
    for x, y in paused(batches(), 0.1):
        step(x, y)
    (seconds,) = read_scalars(tmp_path, runs="*-warm").value
    assert 0.1 < seconds < 0.5
    assert main(["profile", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"^between steps +not measured +{seconds * 1e3:.3f} ms", printed, re.M)
    assert "input 0.000" not in re.sub(" +", " ", printed)
    assert "outside the step" not in printed
    (report,) = iter_tensors(tmp_path, runs="*-warm", tags="*/report")
    assert f"| {seconds:.4g} s: input and whatever else" in report.value.item().decode()
    assert main(["profile", str(tmp_path), "--json"]) == 0
    gaps = [profile["seconds_between_steps"] for profile in json.loads(capsys.readouterr().out)]
    assert gaps == [None, seconds]
    assert main(["tags", str(tmp_path)]) == 0
    assert "first_batch/seconds_between_steps" in capsys.readouterr().out
    assert list(read_first_losses(tmp_path)) == ["first_batch"]


def test_a_profile_of_step_0_alone_says_what_it_cannot_show(tmp_path, capsys):
    FirstLoss(tmp_path, on_error="raise").wrap(Linear("function").step)(*next(iter(batches())))
    assert main(["profile", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "Waiting for input outside the step is not in this profile" in printed
    assert re.search(r"^input +none inside +waiting", printed, re.M)
    assert "between steps " not in printed


def test_operations_are_sorted_by_self_time(logdir):
    operations = read_profile(logdir / "first_batch").operations
    times = [operation.self_seconds for operation in operations]
    assert times == sorted(times, reverse=True)
    names = {operation.name for operation in operations}
    assert {"MatVec/MatMul", "AssignSubVariableOp"} <= names
    assert "IDLE" not in names
    ((start, end),) = spans(logdir / "first_batch")["AssignSubVariableOp:AssignSubVariableOp"]
    (assign,) = [o for o in operations if o.name == "AssignSubVariableOp"]
    assert assign.count == 1
    assert assign.self_seconds == pytest.approx(end - start, rel=1e-6, abs=1e-9)


def add_gpu(space, *, line_name="Stream #7(Compute)"):
    """Adds kernels of 3 ms in all, in the middle of the tracing and right after the step's end."""
    (host,) = [plane for plane in space.planes if plane.name == "/host:CPU"]
    (line, marker), = [
        (line, event)
        for line in host.lines
        for event in line.events
        if host.event_metadata[event.metadata_id].name == "train"
    ]  # fmt: skip
    marker.duration_ps += 10 * 10**9
    gpu = space.planes.add(name="/device:GPU:0", id=9)
    gpu.event_metadata[1].id, gpu.event_metadata[1].name = 1, "kernel"
    gpu.stat_metadata[1].id, gpu.stat_metadata[1].name = 1, "tf_op"
    stream = gpu.lines.add(id=1, name=line_name, timestamp_ns=line.timestamp_ns)
    end = marker.offset_ps + marker.duration_ps
    for before_end, milliseconds in (8, 2), (4, 1), (-5, 1):
        kernel = stream.events.add(
            metadata_id=1,
            offset_ps=end - before_end * 10**9,
            duration_ps=milliseconds * 10**9,
        )
        kernel.stats.add(metadata_id=1, str_value="MatVec/MatMul:MatMul")


def test_kernels_of_a_gpu_count_as_compute(edited, logdir):
    before, after = read_profile(logdir / "first_batch"), read_profile(edited(add_gpu))
    assert after.shares["compute"] - before.shares["compute"] == pytest.approx(3e-3, rel=1e-3)


@pytest.mark.parametrize(
    "line", ["Steps", "XLA Modules", "TensorFlow Ops", "Framework Ops", "TensorFlow Name Scope"]
)
def test_lines_derived_from_kernels_are_not_counted_again(edited, logdir, line):
    before = read_profile(logdir / "first_batch").shares["compute"]
    after = read_profile(edited(lambda space: add_gpu(space, line_name=line))).shares["compute"]
    assert after == pytest.approx(before, rel=1e-3)


def test_an_operations_times_on_gpu_and_host_are_separate(edited, logdir, capsys):
    run = edited(add_gpu)
    assert main(["profile", str(logdir)]) == 0
    assert not re.search(r"count +on +type", capsys.readouterr().out)
    assert main(["profile", str(run), "--top", "100"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"count +on +type", printed)
    (device,) = re.findall(r"MatVec/MatMul +([\d.]+) ms +(\d+) +device +MatMul", printed)
    assert device == ("4.000", "3")
    assert len(re.findall(r"MatVec/MatMul +[\d.]+ ms +1 +host +", printed)) == 1


def add_allocation(space):
    """Adds what TensorFlow's GPU allocator logs when it allocates."""
    (host,) = [plane for plane in space.planes if plane.name == "/host:CPU"]
    facts = {
        "allocator_name": "GPU_0_bfc",
        "bytes_allocated": 3 * 2**20,
        "bytes_available": 2**30,
        "peak_bytes_in_use": 5 * 2**20,
        "requested_bytes": 2**20,
        "allocation_bytes": 2**20,
    }
    name = max(host.event_metadata) + 1
    host.event_metadata[name].id, host.event_metadata[name].name = name, "MemoryAllocation"
    event = host.lines[0].events.add(metadata_id=name, offset_ps=1, duration_ps=0)
    for number, (key, value) in enumerate(facts.items(), max(host.stat_metadata, default=0) + 1):
        host.stat_metadata[number].id, host.stat_metadata[number].name = number, key
        stat = event.stats.add(metadata_id=number)
        if isinstance(value, str):
            stat.str_value = value
        else:
            stat.int64_value = value


def test_peak_memory_is_the_steps_and_only_of_allocators_that_track_it(edited, logdir, capsys):
    assert read_profile(logdir / "first_batch").peak_bytes == {}
    run = edited(add_allocation)
    assert read_profile(run).peak_bytes == {"GPU_0_bfc": 3 * 2**20}
    assert main(["profile", str(run)]) == 0
    assert "peak memory, GPU_0_bfc" in capsys.readouterr().out


def test_a_profile_without_a_step_marker_says_so(edited, capsys):
    def remove_marker(space):
        for plane in space.planes:
            for metadata in plane.event_metadata.values():
                if metadata.name == "train":
                    metadata.name = "something"
            for stat in plane.stat_metadata.values():
                if stat.name in ("step_num", "_r"):
                    stat.name = "other"

    run = edited(remove_marker)
    profile = read_profile(run)
    assert (profile.step, profile.seconds, profile.shares) == (None, 0, {})
    assert main(["profile", str(run)]) == 0
    assert "no step marker" in capsys.readouterr().out


def test_the_table_has_both_steps_side_by_side(logdir, capsys):
    assert main(["profile", str(logdir), "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cold, warm = (read_profile(logdir / run) for run in ("first_batch", "first_batch-warm"))
    (row,) = [line for line in lines if line.startswith("step time")]
    assert row.split()[2::2] == [f"{p.seconds * 1e3:,.3f}" for p in (cold, warm)]
    assert any("step 0" in line and "step 2, warm" in line for line in lines)
    shown = [o.name for o in cold.operations if any(line.startswith(o.name) for line in lines)]
    assert shown == [o.name for o in cold.operations[:2]]


def test_json_has_the_same_numbers(logdir, capsys):
    assert main(["profile", str(logdir / "first_batch"), "--json", "--top", "1"]) == 0
    printed = json.loads(capsys.readouterr().out)
    expected = [read_profile(logdir / run) for run in ("first_batch", "first_batch-warm")]
    assert [p["run"] for p in printed] == ["first_batch", "first_batch-warm"]
    assert [p["shares"] for p in printed] == [p.shares for p in expected]
    assert [len(p["operations"]) for p in printed] == [1, 1]
    assert printed[0]["operations"][0]["self_seconds"] == expected[0].operations[0].self_seconds


def test_reading_keeps_what_viewers_have_saved_next_to_the_profile(logdir):
    (path,) = (logdir / "first_batch").rglob("*.xplane.pb")
    raw_to_tool_data.xspace_to_tool_data([str(path)], "framework_op_stats", {})
    before = {file: file.stat().st_mtime_ns for file in path.parent.iterdir()}
    assert len(before) > 1
    assert main(["profile", str(logdir), "--json"]) == 0
    assert {file: file.stat().st_mtime_ns for file in path.parent.iterdir()} == before


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (None, 2, "no such directory"),
        ({}, 1, "no profile"),
        ({"plugins/profile/a/host.xplane.pb": b"\x0a\xff\xff\x01rest"}, 2, "damaged"),
        (
            {"a/plugins/profile/x/h.xplane.pb": b"", "b/plugins/profile/x/h.xplane.pb": b""},
            2,
            "2 profiled runs (a, b); give one",
        ),
    ],
    ids=["nothing", "unprofiled", "damaged", "several"],
)
def test_a_failure_is_one_line(tmp_path, capsys, content, code, message):
    root = tmp_path / "logs"
    if content is not None:
        root.mkdir()
    for name, profile in (content or {}).items():
        path = root / name
        path.parent.mkdir(parents=True)
        path.write_bytes(profile)
    assert main(["profile", str(root)]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert message in said.err
    assert str(root) in said.err


@pytest.mark.slow
def test_it_needs_no_tensorflow_and_prints_nothing_on_stderr(logdir):
    code = (
        "import sys; from tb_firstloss.cli import main; code = main(sys.argv[1:])\n"
        "print({n.split('.')[0] for n in sys.modules} & {'tensorflow', 'keras', 'jax'})\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "profile", str(logdir)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stderr, done.stdout.splitlines()[-1]) == ("", "set()")


@pytest.mark.slow
def test_without_xprof_it_says_what_to_install(logdir):
    code = (
        "import sys; sys.modules['xprof'] = None\n"
        "from tb_firstloss.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "profile", str(logdir)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install tensorboard-plugin-profile" in done.stderr
    assert done.stderr.count("\n") == 1
