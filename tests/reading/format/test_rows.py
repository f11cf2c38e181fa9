"""The compiled walk against the reference, over every damaged and odd file."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto import event_pb2, summary_pb2

from tb_firstloss import reading
from tb_firstloss.reading.files.open import Window
from tb_firstloss.reading.format import extension, rows
from tests.helpers.damaged_files import CASES, INTACT
from tests.helpers.event_files import event, floats, frame, scalar, simple, tensor
from tests.helpers.fragments import EVENT_FIELDS, MEMBERS, METADATA, text

COMPILED = extension.scan


def rows_of(data, *, compiled):
    """Returns everything a scan yields: rows, names and damage."""
    extension.scan = COMPILED if compiled else None
    try:
        names, damage = rows.Names(), []
        window = Window("file", lambda offset, count: data[offset : offset + count], len(data))
        chunks = list(rows.iter_chunks(window, names, report=damage.append))
    finally:
        extension.scan = COMPILED
    for chunk in chunks:
        for start, size in zip(chunk.rows.start.tolist(), chunk.rows.size.tolist(), strict=True):
            assert len(chunk.content(start, size)) == size
    # As bytes, a NaN equals itself; chunks may end elsewhere.
    joined = b"".join(np.rec.fromarrays(chunk.rows.columns).tobytes() for chunk in chunks)
    starts = [(chunk.base, chunk.session_start) for chunk in chunks]
    starts = [start for start in starts if start[1] is not None]
    return joined, names.tags, names.plugin_names, names.metadata, starts, [str(d) for d in damage]


def test_both_walks_agree_on_every_file_of_the_corpus():
    assert reading.compiled == (COMPILED is not None)
    for case in CASES:
        assert rows_of(case.data, compiled=True) == rows_of(case.data, compiled=False), case.name


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_both_walks_agree_on_altered_protos_behind_valid_checksums(data):
    values = [scalar("a", 1.0), simple("b", 2.0), tensor("c", floats([2], [1, 2]), plugin_name="p")]
    payload = bytearray(event(*values, step=-3, wall_time=5.0))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(payload)))
    whole = frame(bytes(payload)) + INTACT + frame(bytes(payload[:cut]))
    assert rows_of(whole, compiled=True) == rows_of(whole, compiled=False)


def test_a_row_says_where_its_value_lies(engine):
    payload = event(simple("loss", 0.5), step=7, wall_time=3.25)
    data = frame(b"") + frame(payload)
    window = Window("file", lambda offset, count: data[offset : offset + count], len(data))
    names = rows.Names()
    (chunk,) = rows.iter_chunks(window, names, report=pytest.fail)
    ((record_start, start, step, wall_time, bits, record_size, size, *_),) = zip(
        *chunk.rows.columns, strict=True
    )
    assert names.tags == ["loss"]
    assert (step, wall_time, record_start) == (7, 3.25, 16)
    assert record_size == len(payload) + 16
    assert data[start : start + size] == np.float32(0.5).tobytes()
    assert start == 16 + 12 + payload.index(np.float32(0.5).tobytes())
    assert bits == np.float32(0.5).view(np.uint32)


def test_a_plugin_name_holds_for_values_that_omit_it(engine):
    named = scalar("t", 1.0, plugin_name="first")
    renamed = scalar("t", 1.0, plugin_name="second")
    bare = scalar("t", 1.0, plugin_name="")
    other = scalar("other", 1.0, plugin_name="first")
    values = [other, bare, named, bare, renamed]
    data = b"".join(frame(event(v, step=i)) for i, v in enumerate(values))
    window = Window("file", lambda offset, count: data[offset : offset + count], len(data))
    names = rows.Names()
    chunks = rows.iter_chunks(window, names, report=pytest.fail)
    found = [names.plugin_names[n] for chunk in chunks for n in chunk.rows.plugin_name]
    assert found == ["first", "", "first", "first", "first"]


def described(tag, description, plugin_name="", content=b""):
    made = scalar(tag, 1.0, plugin_name=plugin_name)
    made.metadata.summary_description = description
    made.metadata.display_name = description.upper()
    made.metadata.plugin_data.content = content
    return made


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([described("t", "a", "p", b"1"), described("t", "b", "p", b"2")], ("A", "a", b"1")),
        ([described("t", "a"), described("t", "b", "p", b"2")], ("B", "b", b"2")),
        ([scalar("t", 1.0, plugin_name=""), described("t", "b", "p")], ("B", "b", b"")),
        ([described("u", "b", "p"), described("t", "a"), simple("t", 1.0)], ("A", "a", b"")),
        ([described("t", "a" * 2**20, "p")], ("", "", b"")),
    ],
    ids=["first", "first with a plugin", "late", "without a plugin", "too large"],
)
def test_a_tags_metadata_is_that_of_the_value_that_names_its_plugin(engine, values, expected):
    data = b"".join(frame(event(value, step=i)) for i, value in enumerate(values))
    window = Window("file", lambda offset, count: data[offset : offset + count], len(data))
    names = rows.Names()
    assert len(list(rows.iter_chunks(window, names, report=pytest.fail)))
    assert names.metadata[names.tags.index("t")] == expected


def test_metadata_of_many_tags_is_bounded_together(engine):
    names = rows.Names()
    description = "x" * ((1 << 20) - 16)
    made = summary_pb2.SummaryMetadata(summary_description=description).SerializeToString()
    for i in range(70):
        names.number(b"%d" % i, b"", made)
    kept = [len(metadata.description) for metadata in names.metadata]
    assert kept == [len(description)] * 64 + [0] * 6
    assert names.left_out == set(range(64, 70))


def test_metadata_in_several_fields_is_merged_as_protobuf_does(engine):
    whole = described("t", "a", "p", b"1")
    later = summary_pb2.SummaryMetadata(display_name="later")
    later.plugin_data.content = b"2"
    field = delimited(b"\x4a", later.SerializeToString())
    value = delimited(b"\x0a", whole.SerializeToString() + field)
    expected = summary_pb2.Summary.FromString(value).value[0].metadata
    window = [event(simple("x", 0.0)), delimited(b"\x2a", value)]
    data = b"".join(map(frame, window))
    names = rows.Names()
    window = Window("file", lambda offset, count: data[offset : offset + count], len(data))
    assert sum(len(c.rows) for c in rows.iter_chunks(window, names, report=pytest.fail)) == 2
    assert names.metadata[1] == (
        expected.display_name,
        expected.summary_description,
        expected.plugin_data.content,
    )
    assert names.plugin_name_of(1) == expected.plugin_data.plugin_name


@pytest.mark.parametrize("status", event_pb2.SessionLog.SessionStatus.values())
def test_a_session_start_is_a_chunk_without_rows(engine, status):
    log = event_pb2.Event(step=5, session_log=event_pb2.SessionLog(status=status, msg="m"))
    values = [event(simple("x", 0.0), step=i) for i in range(3)]
    data = b"".join(map(frame, [*values, log.SerializeToString(), *values]))
    window = Window("file", lambda offset, count: data[offset : offset + count], len(data))
    chunks = list(rows.iter_chunks(window, rows.Names(), report=pytest.fail))
    starts = [(c.session_start, len(c.rows)) for c in chunks if c.session_start is not None]
    assert starts == ([(5, 0)] if status == event_pb2.SessionLog.START else [])
    assert sum(len(chunk.rows) for chunk in chunks) == 6


@pytest.mark.parametrize("room", [1, 2, 3, 4])
def test_both_walks_agree_when_a_record_does_not_fit_into_a_chunk(monkeypatch, room):
    monkeypatch.setattr(rows, "ROWS_PER_CHUNK", room)
    bare = scalar("t", 1.0, plugin_name="")
    late = [bare, simple("u", 1.0), scalar("t", 2.0, plugin_name="named too late for the first")]
    data = b"".join(frame(event(*values)) for values in ([simple("u", 0.0)], late, late[::-1]))
    assert rows_of(data, compiled=True) == rows_of(data, compiled=False)


@pytest.mark.parametrize(
    "fields", [MEMBERS, METADATA, EVENT_FIELDS], ids=["value", "meta", "event"]
)
@pytest.mark.parametrize("size", [2, 3])
def test_both_walks_agree_on_fields_in_any_order(fields, size):
    for names in itertools.product(fields, repeat=size):
        parts = b"".join(fields[name] for name in names)
        if fields is not EVENT_FIELDS:
            parts = text(5, text(1, text(1, b"late") + parts) + text(1, text(1, b"tag") + parts))
        usual = EVENT_FIELDS["a"] + EVENT_FIELDS["step"]
        data = b"".join(map(frame, [usual, parts, usual, parts + usual, usual + parts, usual]))
        assert rows_of(data, compiled=True) == rows_of(data, compiled=False), names


def delimited(key, content):
    """A field of a protocol buffer, with a length below 2**14."""
    size = len(content)
    return key + bytes([size] if size < 128 else [size & 127 | 128, size >> 7]) + content


HEAD = b"\x0a\x01t"  # the tag
METADATA = b"\x4a\x0b\x0a\x09\x0a\x07scalars"
NUMBER = np.float32(0.25).tobytes()
TENSOR = b"\x42\x0a\x08\x01\x12\x00\x2a\x04" + NUMBER
REPEATED = HEAD + TENSOR + METADATA
LAYOUTS = {
    "another number": REPEATED.replace(NUMBER, np.float32(-3.5).tobytes()),
    "double under the float's length": REPEATED.replace(b"\x08\x01", b"\x08\x02"),
    "unpacked": HEAD + b"\x42\x09\x08\x01\x12\x00\x2d" + NUMBER + METADATA,
    "rank 1": HEAD + b"\x42\x0e\x08\x01\x12\x04\x12\x02\x08\x01\x2a\x04" + NUMBER + METADATA,
    "another plugin": REPEATED.replace(b"scalars", b"scalarz"),
    "no plugin": HEAD + TENSOR,
    "metadata first": HEAD + METADATA + TENSOR,
    "tag last": TENSOR + METADATA + HEAD,
    "another tag at the end": REPEATED + b"\x0a\x01u",
    "the same tag at the end": REPEATED + HEAD,
    "simple value": HEAD + b"\x15" + NUMBER,
    "simple value and a tensor": REPEATED + b"\x15" + NUMBER,
    "one byte missing": REPEATED[:-1],
    "one byte more": REPEATED + b"\x00",
    "longer than what is remembered": REPEATED + b"\x7a\x7f" + bytes(127),
    "nothing but the tag": HEAD,
    "empty": b"",
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("usual", ["another number", "no plugin", "simple value"])
def test_both_walks_agree_when_a_repeated_layout_changes(layout, usual):
    usual = LAYOUTS[usual]
    values = [usual] * 4 + [layout, layout, usual, layout, usual]
    events = [
        b"\x10" + bytes([step]) + delimited(b"\x2a", delimited(b"\x0a", value))
        for step, value in enumerate(values)
    ]
    data = b"".join(map(frame, events))
    assert rows_of(data, compiled=True) == rows_of(data, compiled=False)


def test_many_tags_and_blocks_smaller_than_a_record(engine):
    tags = [f"{i:x}" * (1 + i % 50) for i in range(3000)]
    data = b"".join(frame(event(simple(tag, i), step=i)) for i, tag in enumerate(tags))
    data += frame(event(simple("long " * 60_000, 1.0)))
    window = Window("file", lambda offset, count: data[offset : offset + count], len(data))
    names = rows.Names()
    chunks = rows.iter_chunks(window, names, report=pytest.fail)
    found = [names.tags[n] for chunk in chunks for n in chunk.rows.tag]
    assert found == [*tags, "long " * 60_000]
    assert len(names.tags) == len(set(tags)) + 1


@pytest.mark.slow
def test_a_record_of_countless_values_is_read_in_bounded_memory():
    script = """
import resource
from tb_firstloss.reading.format import crc32c, rows
from tb_firstloss.reading.files.open import Window
from tests.helpers.event_files import simple
value = simple("", 1.0).SerializeToString()
entry = b"\\x0a" + bytes([len(value)]) + value
summary = entry * 300_000
size, n = b"", len(summary)
while n: size, n = size + bytes([n & 127 | 128 * (n > 127)]), n >> 7
payload = b"\\x2a" + size + summary
import struct
head = struct.pack("<Q", len(payload))
data = head + struct.pack("<I", crc32c.masked_crc32c(head)) + payload
data += struct.pack("<I", crc32c.masked_crc32c(payload))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20),) * 2)
window = Window("file", lambda offset, count: data[offset : offset + count], len(data))
print(sum(len(c.rows) for c in rows.iter_chunks(window, rows.Names(), report=print)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "300000\n", "")


def test_reading_works_without_the_extension_and_says_so(tmp_path):
    (tmp_path / "events.out.tfevents.1.host").write_bytes(INTACT)
    script = (
        "import sys, tb_firstloss, tb_firstloss.reading\n"
        "found = tb_firstloss.read_scalars(sys.argv[1])\n"
        "print(tb_firstloss.reading.compiled, len(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TB_FIRSTLOSS_PURE_PYTHON": "1"},
    )
    assert done.stdout == "False 7\n"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=6))
@example("é損😀".encode())
@example(b"\xed\xa0\x80")
@example(b"\xc0\x80")
@example(b"\xf4\x90\x80\x80")
@example(b"\xe0\x9f\xbf")
def test_both_walks_agree_on_what_is_a_name(tag):
    payload = event(simple("123456", 1.0), simple("next", 2.0))
    payload = payload.replace(b"\x06123456", b"\x06" + tag.ljust(6, b"."))
    data = frame(payload) + INTACT
    assert rows_of(data, compiled=True) == rows_of(data, compiled=False)
