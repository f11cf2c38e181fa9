"""Framing and resynchronisation, against TensorFlow's writer and a corpus of damaged files."""

import gzip
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tb_firstloss import Damage, errors
from tb_firstloss.reading.files import open as files_open
from tb_firstloss.reading.files.open import Window
from tb_firstloss.reading.format import crc32c, records
from tests.helpers.damaged_files import CASES
from tests.helpers.event_files import frame, header


def read(data):
    """Returns payloads and damage, the file in memory."""
    damage = []
    window = Window("file", lambda offset, count: data[offset : offset + count], len(data))
    found = records.iter_records(window, report=damage.append)
    return [bytes(record.payload) for record in found], damage


PAYLOADS = [b"one", b"", b"three" * 50, b"4"]
DATA = b"".join(map(frame, PAYLOADS))
STARTS = [0, 19, 35, 301, 318]


def test_records_of_tensorflows_writer_are_read(engine, tmp_path):
    import tensorflow as tf

    payloads = [b"", b"x", random.Random(5).randbytes(300_000), b"last"]
    with tf.io.TFRecordWriter(str(tmp_path / "records")) as writer:
        for payload in payloads:
            writer.write(payload)
    assert read((tmp_path / "records").read_bytes()) == (payloads, [])


@pytest.mark.parametrize("missing", range(1, 17))
def test_truncated_last_record_is_incomplete_and_the_others_are_read(engine, missing):
    payloads, damage = read(DATA[:-missing])
    assert payloads == PAYLOADS[:3]
    assert [(d.start, d.end, d.kind) for d in damage] == [(301, len(DATA) - missing, "incomplete")]


def test_every_flipped_bit_costs_its_own_record_alone(engine):
    for bit in range(8 * len(DATA)):
        data = bytearray(DATA)
        data[bit // 8] ^= 1 << bit % 8
        lost = max(i for i in range(4) if STARTS[i] <= bit // 8)
        payloads, damage = read(bytes(data))
        assert payloads == PAYLOADS[:lost] + PAYLOADS[lost + 1 :], bit
        assert [(d.start, d.end, d.kind) for d in damage] == [
            (STARTS[lost], STARTS[lost + 1], "corrupt")
        ], bit


def test_no_record_of_the_corpus_is_altered_and_damage_starts_where_it_does(engine):
    intact = {case.name: case for case in CASES}
    for case in intact.values():
        payloads, damage = read(case.data)
        frames = b"".join(map(frame, payloads))
        gaps = sum(d.end - d.start for d in damage)
        assert len(frames) + gaps == len(case.data), case.name
        expected = None if case.framed or case.start is None else case.start
        assert (damage[0].start if damage else None) == expected, case.name


def test_a_length_beyond_what_a_protocol_buffer_holds_is_not_read(engine):
    asked = []

    def endless(offset, count):
        asked.append(count)
        return (header(2**33) + bytes(count))[:count] if offset == 0 else bytes(count)

    window = Window("sparse", endless, 2**34)
    assert records.read_record(window, 0) is None
    assert max(asked, default=0) <= 1 << 20


def test_a_large_payload_is_checked_before_it_is_held(engine, monkeypatch):
    monkeypatch.setattr(records, "_PIECE", 1000)
    payload = random.Random(2).randbytes(10_500)
    data = bytearray(frame(payload) + frame(b"next"))
    assert read(bytes(data)) == ([payload, b"next"], [])
    data[5000] ^= 1
    payloads, damage = read(bytes(data))
    assert payloads == [b"next"]
    assert [(d.start, d.end) for d in damage] == [(0, 10_516)]


@pytest.mark.parametrize("offset", [12, 13, 20, 100])
def test_frames_in_a_damaged_payload_are_not_records(engine, offset):
    inner = frame(b"inner") + frame(b"inner too")
    data = bytearray(frame(b"before") + frame(b"." * 100 + inner + b"end") + frame(b"after"))
    data[22 + offset] ^= 0xFF
    assert read(bytes(data))[0] == [b"before", b"after"]


@pytest.mark.parametrize("junk", [bytes(12), b"\xff" * 12, b"twelve bytes"])
def test_frames_after_a_lost_header_are_not_records(engine, junk):
    enclosing = frame(b"." * 100 + frame(b"inner") + b"end")
    data = frame(b"before") + junk + enclosing[12:] + frame(b"after")
    payloads, damage = read(data)
    assert payloads == [b"before", b"after"]
    assert [(d.start, d.end) for d in damage] == [(22, 22 + len(enclosing))]


@pytest.mark.parametrize("cut", range(1, 115))
def test_records_appended_to_a_torn_one_are_read(engine, cut):
    torn = frame(bytes(range(100)))[:cut]
    appended = [b"a" * 10, b"b" * 25, b"", b"c" * 33, b"d" * 80]
    data = frame(b"before") + torn + b"".join(map(frame, appended))
    payloads, damage = read(data)
    assert payloads == [b"before", *appended]
    assert (damage[0].start, damage[0].end) == (22, 22 + cut)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.binary(max_size=60), min_size=1, max_size=8),
    st.data(),
)
def test_whatever_overwrites_one_record_leaves_the_others(payloads, data):
    frames = [frame(p) for p in payloads]
    hit = data.draw(st.integers(0, len(frames) - 1))
    at = data.draw(st.integers(0, len(frames[hit]) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=len(frames[hit]) - at))
    damaged = frames[hit][:at] + junk + frames[hit][at + len(junk) :]
    found, damage = read(b"".join([*frames[:hit], damaged, *frames[hit + 1 :]]))
    if damaged == frames[hit]:
        assert (found, damage) == (payloads, [])
    else:
        start = sum(map(len, frames[:hit]))
        assert found == payloads[:hit] + payloads[hit + 1 :]
        assert [(d.start, d.end) for d in damage] == [(start, start + len(damaged))]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_accounted_for(junk):
    payloads, damage = read(junk + frame(b"behind"))
    assert payloads[-1] == b"behind"
    covered = sum(d.end - d.start for d in damage) + sum(len(frame(p)) for p in payloads)
    assert covered == len(junk) + 22


def test_damage_names_its_place_and_becomes_an_exception(engine):
    _, (damage,) = read(DATA[:-3])
    assert str(damage) == "file: bytes 301 to 315: truncated record: 2 of 5 bytes left"
    error = damage.error()
    assert isinstance(error, errors.CorruptRecordError)
    assert (error.path, error.start, error.end) == ("file", 301, 315)


def test_a_file_that_shrinks_while_it_is_read_ends_there(engine):
    window = Window("file", lambda offset, count: DATA[offset:35][:count], len(DATA))
    damage = []
    found = [bytes(r.payload) for r in records.iter_records(window, report=damage.append)]
    assert (found, damage) == (PAYLOADS[:2], [])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["nested headers", "frames between garbage", "frames behind lost headers"]
)
def test_a_file_made_to_be_searched_in_vain_ends_the_search(engine, name, monkeypatch):
    size = 25_000
    data = {
        "nested headers": b"".join(header((size - at) // 2 | 1) for at in range(0, size, 12)),
        "frames between garbage": (b"garbage garbage " + frame(b"x")) * (size // 33),
        "frames behind lost headers": (bytes(12) + frame(b"x")) * (size // 29),
    }[name]
    checked = []
    checksum = crc32c.crc32c

    def counting(piece, crc=0):
        checked.append(len(piece))
        return checksum(piece, crc)

    monkeypatch.setattr(files_open, "_EFFORT_PER_FILE", 1 << 16)
    monkeypatch.setattr(crc32c, "crc32c", counting)
    payloads, damage = read(data)
    assert sum(checked) < 100 * len(data)  # quadratic: 500 times as many and more
    assert len(payloads) == data.count(frame(b"x"))
    assert sum(d.end - d.start for d in damage) == len(data) - 17 * len(payloads)


def window_of(data):
    return Window("file", lambda offset, count: data[offset : offset + count], len(data))


HOLE = 24 << 20
RANDOM = random.Random(11).randbytes(1 << 16)


@pytest.mark.parametrize("after", [b"", frame(b"after")], ids=["to the end", "before a record"])
@pytest.mark.parametrize("kind", ["zeros", "garbage", "a header's claim"])
def test_what_is_lost_is_never_in_memory_as_a_whole(engine, kind, after):
    head = frame(b"before") + (header(HOLE + 99) if kind == "a header's claim" else b"")
    fill = RANDOM if kind == "garbage" else bytes(1 << 16)
    data = memoryview(head + fill * (HOLE >> 16) + after)
    asked = []

    def read(offset, count):
        asked.append(count)
        return bytes(data[offset : offset + count])

    damage = []
    found = records.iter_records(Window("file", read, len(data)), report=damage.append)
    payloads = [bytes(record.payload) for record in found]
    assert payloads == [b"before", b"after"][: 1 + bool(after)]
    assert damage[0].start == 22
    assert max(asked) < 5 << 20
    assert sum(asked) < 6 * len(data)


@pytest.mark.parametrize(
    ("word", "remedy", "content"),
    [
        ("gzip", "gunzip", gzip.compress(b"x" * 99)),
        ("zip", "unzip", b"PK\x03\x04" + bytes(99)),
        ("Zstandard", "unzstd", b"\x28\xb5\x2f\xfd" + bytes(99)),
        ("Git LFS", "git lfs pull", b"version https://git-lfs.github.com/spec/v1\noid sha256:0"),
        ("HTML", "download the file", b"<html><body>404</body></html>" * 4),
        ("HTML", "download the file", b"\xef\xbb\xbf\r\n <!DOCTYPE HTML>" + b" " * 99),
        ("XML", "download the file", b"<?xml version='1.0'?><Error>NoSuchKey</Error>"),
    ],
    ids=["gzip", "zip", "zstd", "LFS", "HTML", "HTML after blanks", "XML"],
)
def test_another_kind_of_file_is_named_with_what_to_do(engine, word, remedy, content):
    payloads, damage = read(content + frame(b"behind"))
    assert payloads == [b"behind"]
    assert [(d.start, d.end, d.kind) for d in damage] == [(0, len(content), "corrupt")]
    assert word in damage[0].message
    assert remedy in damage[0].message
    assert read(frame(b"first") + content)[1][0].message == "corrupt header: no valid length"


@pytest.mark.parametrize("before", [0, 7, 40], ids="at {}".format)
@pytest.mark.parametrize("size", range(20))
def test_a_record_is_cut_short_while_bytes_of_it_are_missing(engine, before, size):
    data = bytes(before) + frame(b"abc")[:size]
    assert records.is_cut_short(window_of(data), before) == (size < 19)


def test_a_whole_record_or_a_damaged_header_is_not_cut_short(engine):
    assert not records.is_cut_short(window_of(frame(b"abc") + b"more"), 0)
    assert not records.is_cut_short(window_of(b"\xff" * 12), 0)
    assert not records.is_cut_short(window_of(frame(b"abc")[:10] + b"\0\0"), 0)
    assert records.is_cut_short(window_of(b"\xff" * 11), 0)


def test_a_record_has_its_place_in_the_file(engine):
    data = b"".join(map(frame, PAYLOADS))
    found = list(records.iter_records(window_of(data), report=pytest.fail))
    assert [(r.start, r.end) for r in found] == list(itertools.pairwise(STARTS))
    for record in found:
        again = records.read_record(window_of(data), record.start)
        assert (again.start, again.end, bytes(again.payload)) == (
            record.start,
            record.end,
            bytes(record.payload),
        )
        assert records.read_record(window_of(data), record.start + 1) is None
        assert records.read_record(window_of(data[: record.end - 1]), record.start) is None


def test_a_gap_is_reported_before_the_record_after_it(engine):
    damage = []
    data = b"x" * 30 + frame(b"one") + b"y" * 30 + frame(b"two")
    known = [
        (bytes(record.payload), [(d.start, d.end, d.kind) for d in damage])
        for record in records.iter_records(window_of(data), report=damage.append)
    ]
    gaps = [(0, 30, "corrupt"), (49, 79, "corrupt")]
    assert known == [(b"one", gaps[:1]), (b"two", gaps)]


@pytest.mark.parametrize("size", range(1, 12))
def test_less_than_a_header_is_an_incomplete_record(engine, size):
    payloads, damage = read(frame(b"one") + b"\xff" * size)
    assert payloads == [b"one"]
    assert [(d.start, d.end, d.kind) for d in damage] == [(19, 19 + size, "incomplete")]


def test_a_damaged_payload_ends_where_its_header_says_if_a_header_follows(engine):
    torn = frame(b"." * 40)
    damaged = bytearray(torn)
    damaged[20] ^= 1
    payloads, damage = read(bytes(damaged) + frame(b"next")[:-1])
    assert payloads == []
    assert [(d.start, d.end, d.kind) for d in damage] == [
        (0, 56, "corrupt"),
        (56, 75, "incomplete"),
    ]


@pytest.mark.parametrize("before", [b"", frame(b"before")], ids=["first", "later"])
def test_a_record_torn_in_its_payload_ends_at_the_next_frame(engine, before):
    torn = frame(b"." * 40)[:30]
    payloads, damage = read(before + torn + b"junk" + frame(b"next") + b"junk" * 9)
    assert payloads == ([b"before"] if before else []) + [b"next"]
    start = len(before)
    assert [(d.start, d.end) for d in damage] == [
        (start, start + 34),
        (start + 54, start + 54 + 36),
    ]


@pytest.mark.parametrize("field", [slice(0, 8), slice(8, 12)], ids=["length", "checksum"])
def test_one_damaged_field_of_a_header_is_recovered_from_the_other(engine, field):
    payload = b"." * 10 + frame(b"inner") + b"." * 10
    damaged = bytearray(frame(payload))
    damaged[field] = bytes(field.stop - field.start)
    for behind in b"", b"zz", frame(b"next"):
        _, damage = read(bytes(damaged) + behind)
        assert (damage[0].start, damage[0].end, damage[0].kind) == (0, len(damaged), "corrupt")


def test_a_payload_is_at_most_as_long_as_a_protocol_buffer(engine):
    """In a sparse file that holds nothing but the header."""

    def sparse(length):
        head = header(length)
        data = lambda at, count: (head[at:] + bytes(count))[:count]  # noqa: E731
        return Window("sparse", data, 12 + 100)

    assert records.is_cut_short(sparse(2**31 - 1), 0)
    assert not records.is_cut_short(sparse(2**31), 0)


def test_a_header_whose_payload_cannot_fit_is_no_header(engine):
    data = b"?" * 20 + header(1000) + b"?" * 20 + frame(b"found") + b"?" * 20
    payloads, damage = read(data)
    assert payloads == [b"found"]
    assert [(d.start, d.end) for d in damage] == [(0, 52), (73, 93)]


@pytest.mark.parametrize("gap", [500, 512, 524, 2048, 2560, 70_000])
def test_a_frame_is_found_wherever_it_lies_in_the_blocks_of_a_search(engine, gap):
    for shift in range(-13, 14, 1 if gap < 1000 else 6):
        payloads, damage = read(b"?" * (gap + shift) + frame(b"found"))
        assert payloads == [b"found"]
        assert [(d.start, d.end) for d in damage] == [(0, gap + shift)]


@pytest.mark.parametrize(("beyond", "found"), [(0, [b"after"]), (1, [b"inner", b"after"])])
def test_frames_after_a_lost_header_are_records_beyond_the_lookahead(engine, beyond, found):
    inner = frame(b"inner")
    # The next record's header starts at the last byte of the lookahead, or after it.
    filling = bytes(records.LOOKAHEAD_BYTES - 5 - len(inner) + beyond)
    data = b"lost  header" + frame(inner + filling)[12:] + frame(b"after")
    assert read(data)[0] == found


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("incomplete", errors.CorruptRecordError),
        ("corrupt", errors.CorruptRecordError),
        ("undecodable", errors.UndecodableError),
        ("unreadable", errors.EventFileError),
    ],
)
def test_each_kind_of_damage_becomes_its_exception(kind, error):
    raised = Damage("path", 3, 5, kind, "what was found").error()
    assert type(raised) is error
    assert (raised.path, raised.start, raised.end) == ("path", 3, 5)
    assert str(raised).endswith("what was found")
    assert ("bytes 3 to 5" in str(raised)) == (kind != "unreadable")


def test_damage_that_came_from_an_exception_gives_it_back():
    cause = errors.TensorTooLargeError("too large", path="path")
    damage = Damage("path", 3, 5, "undecodable", "too large", cause)
    assert damage.error() is cause
    assert damage == Damage("path", 3, 5, "undecodable", "too large")
