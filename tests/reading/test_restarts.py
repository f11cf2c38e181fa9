"""keep="resumed" against a model in plain Python, on generated histories of restarted runs."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto import event_pb2

import tb_firstloss
from tb_firstloss import errors
from tests.helpers.damaged_files import FILE_NAME
from tests.helpers.event_files import event, floats, scalar, shaped, simple, tensor, version, write


def session(step, status=event_pb2.SessionLog.START):
    log = event_pb2.SessionLog(status=status, checkpoint_path="model.ckpt")
    return event_pb2.Event(step=step, wall_time=9.0, session_log=log).SerializeToString()


def value(tag, step, number):
    made = scalar(tag, number) if tag == "new" else simple(tag, number)
    return event(made, step=step, wall_time=number)


def save(folder, files):
    """Writes a file per list of (tag, step), ("START", step) and ("STOP", step)."""
    number = 0
    for i, entries in enumerate(files):
        payloads = [version()]
        for tag, step in entries:
            number += 1
            if tag in ("START", "STOP"):
                payloads.append(session(step, event_pb2.SessionLog.SessionStatus.Value(tag)))
            elif tag == "histogram":
                payloads.append(event(tensor(tag, floats([2], [number] * 2)), step=step))
            else:
                payloads.append(value(tag, step, number))
        write(folder / f"{FILE_NAME}.{i}", *payloads)


def beginning(entries):
    """The step at which a file begins by its values: none if a START comes before them."""
    events = [(tag, step) for tag, step in entries if tag != "STOP"]
    if not events or events[0][0] == "START":
        return None
    steps = {}
    for tag, step in events:
        steps.setdefault(tag, []).append(step)
    steps.pop("START", None)
    return min((s[0] for s in steps.values() if len(set(s)) > 1), default=events[0][1])


def model(files):
    """What is left of a run's values after each of its restarts, one after the other."""
    kept, number = [], 0
    for entries in files:
        begins = beginning(entries)
        kept = [row for row in kept if begins is None or row[1] < begins]
        for tag, step in entries:
            number += 1
            if tag == "START":
                kept = [row for row in kept if row[1] < step]
            elif tag != "STOP":
                kept.append((tag, step, float(number)))
    return kept


def tensors(folder, **options):
    found = tb_firstloss.iter_tensors(folder, keep="resumed", on_damage="raise", **options)
    return [(d.tag, d.step, float(d.value.flat[0])) for d in found]


def columns(folder, **options):
    found = tb_firstloss.read_scalars(folder, keep="resumed", on_damage="raise", **options)
    return list(zip(found.tag, found.step.tolist(), found.value.tolist(), strict=True))


STEPS = st.integers(0, 12) | st.sampled_from([-(2**63), -3, 2**63 - 1])
TAGS = st.sampled_from(["new", "old", "histogram", "START", "STOP"])
HISTORIES = st.lists(st.lists(st.tuples(TAGS, STEPS), max_size=8), max_size=4)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(files=HISTORIES)
def test_both_readers_keep_what_the_model_keeps(engine, tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("run")
    save(folder, files)
    kept = model(files)
    assert tensors(folder) == kept
    assert columns(folder) == [row for row in kept if row[0] != "histogram"]
    # What is asked for never decides where a restart is.
    for options, wanted in (
        ({"tags": "old"}, lambda row: row[0] == "old"),
        ({"steps": range(2, 7)}, lambda row: 2 <= row[1] < 7),
    ):
        assert tensors(folder, **options) == list(filter(wanted, kept))


def growing(tag, *steps):
    return [(tag, step) for step in steps]


@pytest.mark.parametrize(
    ("files", "steps"),
    [
        ([growing("x", 0, 10, 20, 30), growing("x", 18, 28)], [0, 10, 18, 28]),
        ([growing("x", 0, 10, 20), growing("x", 20, 30)], [0, 10, 20, 30]),
        ([growing("x", 0, 10, 20), growing("x", 21, 31)], [0, 10, 20, 21, 31]),
        ([growing("x", 5, 3, 4, 3)], [5, 3, 4, 3]),
        ([growing("x", 0, 10, 20), [("START", 5), *growing("x", 15)]], [0, 15]),
        ([[*growing("x", 0, 10, 20), ("START", 15), *growing("x", 18)]], [0, 10, 18]),
        ([[("START", 0), *growing("x", 0, 10), ("STOP", 0)]], [0, 10]),
        ([growing("x", 0, 1), growing("x", 0, 1), growing("x", 0, 1, 2)], [0, 1, 2]),
        ([growing("x", 0, 9), [], growing("x", 5)], [0, 5]),
        ([growing("x", 0, 9), [("START", 5), *growing("histogram", 0), *growing("x", 6)]], [0, 6]),
    ],
    ids=[
        "file",
        "same step",
        "no restart",
        "unordered",
        "start in a file",
        "start",
        "first start",
        "twice",
        "empty file",
        "start and settings",
    ],
)
def test_orphans_are_dropped_and_nothing_else(engine, tmp_path, files, steps):
    save(tmp_path, files)
    assert [step for _, step, _ in columns(tmp_path)] == steps


@pytest.mark.parametrize("plugin_name", ["hparams", "graph_keras_model"])
def test_what_every_start_writes_at_step_0_is_no_restart_at_0(engine, tmp_path, plugin_name):
    stepless = tensor("at start", floats([], [0.0]), plugin_name=plugin_name)
    for i, step in enumerate((0, 10)):
        values = [event(stepless), *(event(simple("x", s), step=step + s) for s in range(20))]
        write(tmp_path / f"{FILE_NAME}.{i}", *values)
    assert [row[1] for row in columns(tmp_path, tags="x")] == [*range(10), *range(10, 30)]


@pytest.mark.parametrize(
    "settings_of_a_start",
    [
        tensor("args/text_summary", shaped(7, [1], string_val=[b"{}"]), plugin_name="text"),
        simple("hp_metric", -1.0),
    ],
    ids=["transformers", "lightning"],
)
def test_a_tag_of_one_step_is_no_restart(engine, tmp_path, settings_of_a_start):
    for i, steps in enumerate((range(1, 101), range(81, 121))):
        values = [event(simple("loss", i), step=step) for step in steps]
        write(tmp_path / f"{FILE_NAME}.{i}", version(), event(settings_of_a_start), *values)
    found = [(step, value) for _, step, value in columns(tmp_path, tags="loss")]
    assert found == [(step, float(step > 80)) for step in range(1, 121)]


def test_runs_restart_each_for_itself(engine, tmp_path):
    save(tmp_path / "a", [growing("x", 0, 1, 2), growing("x", 1)])
    save(tmp_path / "b", [growing("x", 0, 1, 2)])
    found = tb_firstloss.read_scalars(tmp_path, keep="resumed")
    assert list(zip(found.run, found.step.tolist(), strict=True)) == [
        *[("a", 0), ("a", 1)],
        *[("b", 0), ("b", 1), ("b", 2)],
    ]


def test_damage_is_reported_once_and_hides_no_restart(engine, tmp_path):
    save(tmp_path, [growing("x", 0, 10, 20), growing("x", 15)])
    _, second = sorted(tmp_path.iterdir())
    second.write_bytes(b"junk" * 9 + second.read_bytes() + b"cut")
    with pytest.warns(errors.DamageWarning) as caught:
        found = tb_firstloss.read_scalars(tmp_path, keep="resumed")
    assert found.step.tolist() == [0, 10, 15]
    assert len(caught) == 2
