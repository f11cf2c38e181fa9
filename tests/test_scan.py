"""The compiled walk against the reference, over every damaged and odd file."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tb_firstloss import reading
from tb_firstloss.reading import extension, scan
from tb_firstloss.reading.source import Window
from tests.damaged_files import CASES, INTACT
from tests.event_files import event, floats, frame, scalar, simple, tensor

COMPILED = extension.scan


def rows_of(data, *, compiled):
    """Returns all that a scan gives: rows, names and damage."""
    extension.scan = COMPILED if compiled else None
    try:
        names, damage = scan.Names(), []
        window = Window("file", lambda offset, count: data[offset : offset + count], len(data))
        chunks = list(scan.iter_chunks(window, names, report=damage.append))
    finally:
        extension.scan = COMPILED
    for chunk in chunks:
        for row in chunk.rows:
            assert len(chunk.content(int(row["start"]), int(row["size"]))) == row["size"]
    rows = [row.tobytes() for chunk in chunks for row in chunk.rows]
    return rows, names.tags, names.plugin_names, [str(d) for d in damage]


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
    names = scan.Names()
    (chunk,) = scan.iter_chunks(window, names, report=pytest.fail)
    (row,) = chunk.rows
    assert names.tags == ["loss"]
    assert (row["step"], row["wall_time"], row["record_start"]) == (7, 3.25, 16)
    assert row["record_size"] == len(payload) + 16
    assert data[row["start"] : row["start"] + row["size"]] == np.float32(0.5).tobytes()
    assert row["start"] == 16 + 12 + payload.index(np.float32(0.5).tobytes())


def test_a_plugin_name_is_remembered_for_the_values_that_leave_it_out(engine):
    named = scalar("t", 1.0, plugin_name="first")
    renamed = scalar("t", 1.0, plugin_name="second")
    bare = scalar("t", 1.0, plugin_name="")
    other = scalar("other", 1.0, plugin_name="first")
    values = [other, bare, named, bare, renamed]
    data = b"".join(frame(event(v, step=i)) for i, v in enumerate(values))
    window = Window("file", lambda offset, count: data[offset : offset + count], len(data))
    names = scan.Names()
    rows = np.concatenate([c.rows for c in scan.iter_chunks(window, names, report=pytest.fail)])
    found = [names.plugin_names[n] for n in rows["plugin_name"]]
    assert found == ["first", "", "first", "first", "first"]


def test_many_tags_and_blocks_smaller_than_a_record(engine):
    tags = [f"{i:x}" * (1 + i % 50) for i in range(3000)]
    data = b"".join(frame(event(simple(tag, i), step=i)) for i, tag in enumerate(tags))
    data += frame(event(simple("long " * 60_000, 1.0)))
    window = Window("file", lambda offset, count: data[offset : offset + count], len(data))
    names = scan.Names()
    rows = np.concatenate([c.rows for c in scan.iter_chunks(window, names, report=pytest.fail)])
    assert [names.tags[n] for n in rows["tag"]] == [*tags, "long " * 60_000]
    assert len(names.tags) == len(set(tags)) + 1


@pytest.mark.slow
def test_a_record_of_countless_values_is_read_in_bounded_memory():
    script = """
import resource
from tb_firstloss.reading import scan
from tb_firstloss.reading.source import Window
from tests.event_files import simple
value = simple("", 1.0).SerializeToString()
entry = b"\\x0a" + bytes([len(value)]) + value
summary = entry * 300_000
size, n = b"", len(summary)
while n: size, n = size + bytes([n & 127 | 128 * (n > 127)]), n >> 7
from tb_firstloss.reading import crc32c
payload = b"\\x2a" + size + summary
import struct
head = struct.pack("<Q", len(payload))
data = head + struct.pack("<I", crc32c.masked_crc32c(head)) + payload
data += struct.pack("<I", crc32c.masked_crc32c(payload))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20),) * 2)
window = Window("file", lambda offset, count: data[offset : offset + count], len(data))
print(sum(len(c.rows) for c in scan.iter_chunks(window, scan.Names(), report=print)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "300000\n", "")


def test_without_the_extension_reading_says_so_and_works(tmp_path):
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
        timeout=120,
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
