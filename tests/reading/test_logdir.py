"""iter_tensors, iter_events and verify on real event files, whole and damaged."""

import warnings

import numpy as np
import pytest
import tensorflow as tf

import tb_firstloss
from tb_firstloss import errors
from tests.helpers import damaged_files
from tests.helpers.damaged_files import CASES, FILE_NAME, STARTS
from tests.helpers.event_files import event, floats, frame, simple, tensor, version, write


@pytest.fixture(scope="module")
def written_by_tensorflow(tmp_path_factory):
    """A logdir of two runs with every kind of summary that tf.summary writes."""
    logdir = tmp_path_factory.mktemp("logs")
    for run in ("a/train", "b"):
        writer = tf.summary.create_file_writer(str(logdir / run))
        with writer.as_default():
            for step in range(3):
                tf.summary.scalar("loss", step + 0.25, step=step)
                tf.summary.histogram("weights", tf.range(10.0), step=step, buckets=4)
            tf.summary.text("note", "héllo", step=0)
            tf.summary.image("image", tf.zeros([1, 2, 3, 3]), step=0)
            tf.summary.audio("audio", tf.zeros([1, 8, 1]), 8000, step=0)
            tf.summary.write("raw", tf.constant([[1, 2]], tf.int64), step=2**40)
        writer.close()
    return logdir


def values(data):
    return [f"{d.run} {d.tag} {d.step}" for d in data]


def scalars(path, **options):
    found = tb_firstloss.iter_tensors(path, **options)
    return [(d.tag, d.step, float(d.value)) for d in found if d.value.dtype == np.float32]


def test_values_equal_those_of_tensorflows_own_parser(engine, written_by_tensorflow):
    files = sorted(written_by_tensorflow.rglob("*tfevents*"))
    expected = []
    for path in files:
        run = path.parent.relative_to(written_by_tensorflow).as_posix()
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            parsed = tf.compat.v1.Event.FromString(record)
            expected += [
                (
                    run,
                    value.tag,
                    parsed.step,
                    parsed.wall_time,
                    value.metadata.plugin_data.plugin_name,
                    tf.make_ndarray(value.tensor),
                )
                for value in parsed.summary.value
            ]
    found = list(tb_firstloss.iter_tensors(written_by_tensorflow, on_damage="raise"))
    assert len(found) == len(expected) == 20
    for datum, (*head, array) in zip(found, expected, strict=True):
        assert [datum.run, datum.tag, datum.step, datum.wall_time, datum.plugin_name] == head
        assert (datum.value.dtype, datum.value.shape) == (array.dtype, array.shape)
        assert datum.value.tolist() == array.tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"runs": "b", "tags": "loss", "steps": 1}, ["b loss 1"]),
        ({"runs": "a/*", "tags": ["note", "raw"]}, ["a/train note 0", "a/train raw 1099511627776"]),
        ({"runs": ["b"], "tags": "l?ss", "steps": range(1, 3)}, ["b loss 1", "b loss 2"]),
        ({"tags": "loss", "steps": {0, 7}}, ["a/train loss 0", "b loss 0"]),
        ({"tags": "loss", "steps": range(0, 3, 2), "runs": "b"}, ["b loss 0", "b loss 2"]),
        ({"tags": []}, []),
        ({"steps": range(0)}, []),
    ],
    ids=["exact", "globs", "range", "set", "stride", "no tag", "no step"],
)
def test_what_was_not_asked_for_is_left_out(engine, written_by_tensorflow, options, expected):
    assert values(tb_firstloss.iter_tensors(written_by_tensorflow, **options)) == expected


def test_what_was_not_asked_for_is_not_decoded(engine, tmp_path):
    bad = tensor("bad", floats([4], [1, 2]))
    write(tmp_path / FILE_NAME, event(bad, simple("good", 1.5), step=3))
    assert scalars(tmp_path, tags="good", on_damage="raise") == [("good", 3, 1.5)]


def test_a_tag_with_glob_characters_is_found_by_name(engine, tmp_path):
    write(tmp_path / FILE_NAME, event(simple("w[0]", 1.0), simple("w0", 2.0)))
    assert scalars(tmp_path, tags="w[0]") == [("w[0]", 0, 1.0), ("w0", 0, 2.0)]


def test_every_file_of_the_corpus_gives_its_intact_values_and_reports_the_damage(engine, tmp_path):
    path = tmp_path / FILE_NAME
    for case in CASES:
        path.write_bytes(case.data)
        data = tb_firstloss.iter_tensors(path, on_damage="ignore")
        found = [(d.tag, d.step, float(d.value)) for d in data if d.tag != "outer"]
        assert found == case.expected, case.name
        damage = tb_firstloss.verify(path)
        starts = [d.start for d in damage]
        assert starts[:1] == ([] if case.start is None else [case.start]), case.name
        kinds = {"undecodable"} if case.framed else {"corrupt", "incomplete"}
        assert {d.kind for d in damage} <= kinds, case.name


def test_damage_is_a_warning_by_default_and_reading_goes_on(engine, tmp_path):
    data = bytearray(damaged_files.INTACT)
    data[STARTS[3] + 14] ^= 1
    (tmp_path / FILE_NAME).write_bytes(data)
    where = rf"tfevents.*bytes {STARTS[3]} to {STARTS[4]}: corrupt record: .*checksum"
    with pytest.warns(errors.DamageWarning, match=where) as caught:
        found = scalars(tmp_path)
    assert len(caught) == 1
    assert found == damaged_files.VALUES[:2] + damaged_files.VALUES[3:]


def test_a_file_full_of_damage_warns_ten_times(engine, tmp_path):
    bad = frame(event(tensor("bad", floats([4], [1, 2]))))
    (tmp_path / FILE_NAME).write_bytes(bad * 25)
    with pytest.warns(errors.DamageWarning) as caught:
        assert scalars(tmp_path) == []
    assert len(caught) == 10
    assert "verify() lists it" in str(caught[-1].message)
    assert len(tb_firstloss.verify(tmp_path)) == 25


def test_damage_can_raise_after_everything_before_it(engine, tmp_path):
    data = damaged_files.INTACT[: STARTS[4]] + b"junk" + damaged_files.INTACT[STARTS[4] :]
    path = tmp_path / FILE_NAME
    path.write_bytes(data)
    found = []
    with pytest.raises(errors.CorruptRecordError) as raised:
        found.extend(d.step for d in tb_firstloss.iter_tensors(tmp_path, on_damage="raise"))
    assert found == [1, 2, 3]
    assert (raised.value.path, raised.value.start, raised.value.end) == (
        str(path),
        STARTS[4],
        STARTS[4] + 4,
    )


@pytest.mark.parametrize(
    ("proto", "error"),
    [
        (floats([4], [1, 2]), errors.UndecodableError),
        (floats([1000], [1]), errors.TensorTooLargeError),
    ],
    ids=["undecodable", "too large"],
)
def test_a_bad_tensor_raises_its_own_error(engine, tmp_path, proto, error):
    write(tmp_path / FILE_NAME, version(), event(tensor("bad", proto)))
    data = tb_firstloss.iter_tensors(tmp_path, on_damage="raise", max_tensor_bytes=100)
    with pytest.raises(error, match=r"tfevents.*bytes \d+ to \d+: .*bad: ") as raised:
        list(data)
    assert raised.value.start == len(frame(version()))


def test_one_bad_file_and_run_hide_no_other(engine, tmp_path):
    write(tmp_path / "a" / FILE_NAME, event(simple("x", 1.0)))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / FILE_NAME).write_bytes(b"no event file at all")
    (tmp_path / "b" / "events.out.tfevents.2.gone").symlink_to(tmp_path / "nowhere")
    write(tmp_path / "b" / "events.out.tfevents.3.host", event(simple("x", 2.0)))
    write(tmp_path / "c" / FILE_NAME, event(simple("x", 3.0)))
    assert [v for *_, v in scalars(tmp_path, on_damage="ignore")] == [1.0, 2.0, 3.0]
    assert [d.kind for d in tb_firstloss.verify(tmp_path)] == ["corrupt", "unreadable"]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("all", [1.0, 2.0, 9.0, 3.0, 4.0]),
        ("first", [1.0, 2.0, 4.0]),
        ("last", [9.0, 3.0, 4.0]),
    ],
)
def test_of_values_written_twice_any_can_be_kept(engine, tmp_path, keep, expected):
    first = [event(simple("x", v), step=s) for v, s in ((1.0, 0), (2.0, 1), (9.0, 0))]
    write(tmp_path / "events.out.tfevents.1.host", *first)
    restarted = [event(simple("x", v), step=s) for v, s in ((3.0, 1), (4.0, 2))]
    write(tmp_path / "events.out.tfevents.2.host", *restarted)
    assert [v for *_, v in scalars(tmp_path, keep=keep)] == expected


def test_a_scalars_nan_payload_is_kept(engine, tmp_path):
    bits = np.array([0x7F800001], np.uint32)
    payload = event(simple("x", 1.0)).replace(np.float32(1.0).tobytes(), bits.tobytes())
    write(tmp_path / FILE_NAME, payload)
    (datum,) = tb_firstloss.iter_tensors(tmp_path)
    assert datum.value.view(np.uint32) == bits[0]


def test_events_come_whole_with_their_run(written_by_tensorflow):
    events = list(tb_firstloss.iter_events(written_by_tensorflow, runs="b"))
    assert {run for run, _ in events} == {"b"}
    assert events[0][1].file_version == "brain.Event:2"
    assert [e.summary.value[0].tag for _, e in events if e.step == 2] == ["loss", "weights"]
    assert [
        e.step for _, e in tb_firstloss.iter_events(written_by_tensorflow, runs="b", steps=2)
    ] == [2, 2]


def test_an_event_that_is_not_a_proto_hides_no_other(tmp_path):
    write(tmp_path / FILE_NAME, version(), b"\x2a\x7fno proto", event(simple("x", 1.0), step=5))
    with pytest.warns(errors.DamageWarning, match="cannot decode an intact record"):
        assert [e.step for _, e in tb_firstloss.iter_events(tmp_path)] == [0, 5]
    with pytest.raises(errors.UndecodableError):
        list(tb_firstloss.iter_events(tmp_path, on_damage="raise"))


def test_a_graph_and_run_metadata_are_events(tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path))

    @tf.function
    def step(x):
        return x + 1

    with writer.as_default(step=0):
        tf.summary.graph(step.get_concrete_function(tf.constant(1.0)).graph)
    writer.close()
    with tf.Graph().as_default():
        old = tf.compat.v1.summary.FileWriter(str(tmp_path), filename_suffix=".old")
        old.add_run_metadata(tf.compat.v1.RunMetadata(), "trace")
        old.add_session_log(tf.compat.v1.SessionLog(status=1), 3)
        old.close()
    kinds = [e.WhichOneof("what") for _, e in tb_firstloss.iter_events(tmp_path)]
    assert {"graph_def", "tagged_run_metadata", "session_log"} <= set(kinds)
    assert list(tb_firstloss.iter_tensors(tmp_path, on_damage="raise")) == []


@pytest.mark.parametrize(
    "read", [tb_firstloss.iter_tensors, tb_firstloss.iter_events, tb_firstloss.verify]
)
def test_a_missing_path_raises_at_once(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such file or directory"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"on_damage": "explode"}, ValueError),
        ({"keep": "some"}, ValueError),
        ({"steps": "0"}, TypeError),
        ({"steps": 1.5}, TypeError),
        ({"tags": [b"loss"]}, TypeError),
    ],
    ids=str,
)
def test_a_misused_option_raises_at_once(tmp_path, options, error):
    with pytest.raises(error, match=f"^{next(iter(options))}: "):
        tb_firstloss.iter_tensors(tmp_path, **options)


def test_an_empty_logdir_has_no_values_and_no_damage(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(tb_firstloss.iter_tensors(tmp_path)) == []
    assert tb_firstloss.verify(tmp_path) == []


@pytest.mark.slow
def test_a_hundred_thousand_tags(engine, tmp_path):
    batches = [
        event(*(simple(f"layer/{i}/loss", i) for i in range(first, first + 1000)), step=first)
        for first in range(0, 100_000, 1000)
    ]
    with tf.io.TFRecordWriter(str(tmp_path / FILE_NAME)) as writer:
        for payload in batches:
            writer.write(payload)
    found = tb_firstloss.read_scalars(tmp_path)
    assert (len(found), len(found.tag_names), found.tag[-1]) == (
        100_000,
        100_000,
        "layer/99999/loss",
    )
    assert scalars(tmp_path, tags="layer/777/loss") == [("layer/777/loss", 0, 777.0)]
