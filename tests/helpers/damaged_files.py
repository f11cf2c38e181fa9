"""Damaged and odd event files, each with what an ideal reader gets out of it.

Every value is a scalar of its own tag, step and number, so that what a reader returns can be
compared with what is known to be intact. Values of the tag "embedded" lie in frames inside a
payload: no reader may return them.
"""

import dataclasses
import random
import struct
from collections.abc import Iterator

from tests.helpers.event_files import (
    event,
    floats,
    frame,
    header,
    scalar,
    shaped,
    simple,
    tensor,
    version,
)
from tests.helpers.fragments import MEMBERS, VECTOR, summary, text

Value = tuple[str, int, float]

FILE_NAME = "events.out.tfevents.1700000000.host"


@dataclasses.dataclass(frozen=True)
class Case:
    """A file, the values in its intact records, and where its first damage starts, if any.

    `framed` tells that every record is intact and the damage lies in what one of them holds.
    """

    name: str
    data: bytes
    expected: list[Value]
    start: int | None
    framed: bool = False


def _payload(i: int) -> bytes:
    make = simple if i % 3 == 0 else scalar
    return event(make(f"tag_{i % 4}", i + 0.5), step=i, wall_time=1.7e9 + i)


def _value(i: int) -> Value:
    return (f"tag_{i % 4}", i, i + 0.5)


COUNT = 8
FRAMES = [frame(version())] + [frame(_payload(i)) for i in range(1, COUNT)]
STARTS = [sum(map(len, FRAMES[:i])) for i in range(COUNT + 1)]
INTACT = b"".join(FRAMES)
VALUES = [_value(i) for i in range(1, COUNT)]


def _without(*lost: int) -> list[Value]:
    return [_value(i) for i in range(1, COUNT) if i not in lost]


def _truncated() -> Iterator[Case]:
    for size in range(STARTS[COUNT - 2], STARTS[COUNT]):
        whole = sum(start <= size for start in STARTS) - 1
        start = None if size in STARTS else STARTS[whole]
        yield Case(f"cut at {size}", INTACT[:size], _without(*range(whole, COUNT)), start)


def _flipped() -> Iterator[Case]:
    for i in (3, 4):
        for bit in range(8 * len(FRAMES[i])):
            data = bytearray(INTACT)
            data[STARTS[i] + bit // 8] ^= 1 << bit % 8
            yield Case(f"bit {bit} of record {i}", bytes(data), _without(i), STARTS[i])


def _zeroed() -> Iterator[Case]:
    for size in (1, 11, 12, 16, 500, 70_000):
        yield Case(f"tail of {size} zeros", INTACT + bytes(size), VALUES, STARTS[-1])
    holes = {
        "length": (STARTS[3], 8, (3,)),
        "header": (STARTS[3], 12, (3,)),
        "payload": (STARTS[3] + 12, 20, (3,)),
        "record": (STARTS[3], len(FRAMES[3]), (3,)),
        "end of one and header of the next": (STARTS[4] - 10, 22, (3, 4)),
        "three records": (STARTS[2] + 5, STARTS[5] - STARTS[2] - 8, (2, 3, 4)),
        "first record": (0, len(FRAMES[0]), ()),
    }
    for name, (at, size, lost) in holes.items():
        data = INTACT[:at] + bytes(size) + INTACT[at + size :]
        start = max(s for s in STARTS if s <= at)
        yield Case(f"zeros over the {name}", data, _without(*lost), start)


def _garbage() -> Iterator[Case]:
    rng = random.Random(7)
    for size in (1, 7, 12, 100, 5000):
        junk = rng.randbytes(size)
        for i in (0, 4, COUNT):
            data = INTACT[: STARTS[i]] + junk + INTACT[STARTS[i] :]
            yield Case(f"{size} bytes of garbage before record {i}", data, VALUES, STARTS[i])
    yield Case("nothing but garbage", rng.randbytes(3000), [], 0)
    yield Case("text", b"2024-01-01 loss=0.5 accuracy=0.9\n" * 40, [], 0)
    data = INTACT[: STARTS[2] + 3] + INTACT[STARTS[2] + 4 :]
    yield Case("one byte missing", data, _without(2), STARTS[2])
    data = INTACT[: STARTS[2] + 20] + b"x" + INTACT[STARTS[2] + 20 :]
    yield Case("one byte too many", data, _without(2), STARTS[2])


def _appended() -> Iterator[Case]:
    torn = frame(event(scalar("torn", 99.5), tensor("torn", floats([64], range(64))), step=99))
    for cut in range(1, len(torn), 3):
        data = INTACT[: STARTS[4]] + torn[:cut] + INTACT[STARTS[4] :]
        yield Case(f"torn at {cut}, then written on", data, VALUES, STARTS[4])


def _bombs() -> Iterator[Case]:
    for length in (10**6, 2**31 - 1, 2**31, 2**35, 2**62, 2**64 - 1):
        for i in (4, COUNT):
            data = INTACT[: STARTS[i]] + header(length) + INTACT[STARTS[i] :]
            yield Case(f"header of {length} bytes before record {i}", data, VALUES, STARTS[i])


def _content() -> Iterator[Case]:
    bad_values = {
        "shape of 2**28": tensor("bad", floats([2**14, 2**14], [1.0, 2.0])),
        "shape of 2**62": tensor("bad", floats([2**31, 2**31], [1.0])),
        "shape beyond int64": tensor("bad", floats([2**40, 2**40], [1.0])),
        "negative size": tensor("bad", floats([-1], [1.0])),
        "too few values": tensor("bad", floats([4], [1.0, 2.0])),
        "too many values": tensor("bad", floats([2], [1.0, 2.0, 3.0])),
        "no values": tensor("bad", floats([4], [])),
        "values in another field": tensor("bad", shaped(1, [1], int_val=[7])),
        "content of another size": tensor("bad", shaped(1, [3], tensor_content=b"12345")),
        "int8 of 300": tensor("bad", shaped(6, [2], int_val=[1, 300])),
        "unknown dtype": tensor("bad", shaped(99, [1], int_val=[1])),
        "two strings for three": tensor("bad", shaped(7, [3], string_val=[b"a", b"b"])),
    }
    for name, value in bad_values.items():
        yield _with_record(name, event(value, scalar("good", 0.25), step=50), [("good", 50, 0.25)])
    payload = event(simple("bad", 1.0), scalar("good", 0.25), step=50)
    bad_utf8 = payload.replace(b"bad", b"b\xff\xfe")
    yield _with_record("a tag that is no UTF-8", bad_utf8, [("good", 50, 0.25)])
    for name, payload in {
        "text for a proto": b"this is no protocol buffer",
        "a field beyond the record": b"\x2a\x7f" + bytes(8),
        "an endless varint": b"\x10" + b"\xff" * 11,
        "a group": b"\x0b\x0c",
    }.items():
        yield _with_record(name, payload, [])


def _merged() -> Iterator[Case]:
    """Records that no writer makes and protobuf understands, except for the last."""
    good = event(scalar("good", 0.25), step=50)
    number, part = MEMBERS["number"], text(8, VECTOR[:2])
    for name, payload in {
        "an old histogram after a number": summary(b"bad", number + text(3, b"h")) + good,
        "a graph after a summary": summary(b"bad") + text(4, b"graph") + good,
        "two summaries after a version": text(3, b"v") + text(5, b"") + good,
        "a tensor, a number, a histogram": good + summary(b"bad", part + number + text(3, b"")),
    }.items():
        case = _with_record(name, payload, [("good", 50, 0.25)])
        yield dataclasses.replace(case, start=None, framed=False)
    payload = summary(b"bad", part + text(8, VECTOR[2:])) + good
    yield _with_record("a tensor in parts", payload, [("good", 50, 0.25)])


def _with_record(name: str, payload: bytes, values: list[Value]) -> Case:
    data = INTACT[: STARTS[4]] + frame(payload) + INTACT[STARTS[4] :]
    expected = [*_without(*range(4, COUNT)), *values, *_without(1, 2, 3)]
    return Case(name, data, expected, STARTS[4], framed=True)


def _embedded() -> Iterator[Case]:
    inner = b"".join(frame(event(scalar("embedded", i), step=i)) for i in range(3))
    outer = frame(event(tensor("outer", shaped(7, [1], string_val=[inner + b"the end"])), step=60))
    data = INTACT[: STARTS[4]] + outer + INTACT[STARTS[4] :]
    yield Case("frames in a payload", data, VALUES, None)
    for bit in [*range(96), *range(96, 8 * len(outer), 11)]:
        damaged = bytearray(data)
        damaged[STARTS[4] + bit // 8] ^= 1 << bit % 8
        yield Case(f"bit {bit} of a record with frames in it", bytes(damaged), VALUES, STARTS[4])
    at = STARTS[4]
    for name, replacement in {
        "zeros": bytes(12),
        "ones": b"\xff" * 12,
        "another header": header(40),
        "garbage": random.Random(3).randbytes(12),
    }.items():
        if name != "another header":  # which cannot be told from a torn record
            damaged_header = data[:at] + replacement + data[at + 12 :]
            yield Case(f"{name} over a header with frames behind", damaged_header, VALUES, at)


def _odd() -> Iterator[Case]:
    yield Case("intact", INTACT, VALUES, None)
    yield Case("empty", b"", [], None)
    yield Case("a record of no bytes", frame(b"") + INTACT, VALUES, None)
    twice = INTACT + INTACT
    yield Case("written twice", twice, VALUES * 2, None)
    steps = [-(2**63), -1, 2**63 - 1]
    data = b"".join(frame(event(scalar("odd", s % 7), step=s)) for s in steps)
    yield Case("extreme steps", data, [("odd", s, float(s % 7)) for s in steps], None)
    times = [float("nan"), float("inf"), -float("inf"), -1.0, 0.0]
    data = b"".join(
        frame(event(scalar("odd", i), step=i, wall_time=t)) for i, t in enumerate(times)
    )
    expected = [("odd", i, float(i)) for i in range(len(times))]
    yield Case("odd wall times", data, expected, None)
    tags = ["", "x" * 70_000, "損失/κόστος", "a\x00b", "with space\n"]
    data = b"".join(frame(event(scalar(tag, 1.5), step=3)) for tag in tags)
    yield Case("odd tags", data, [(tag, 3, 1.5) for tag in tags], None)
    number = struct.unpack("<f", struct.pack("<f", 0.1))[0]
    several = event(*(simple(f"t{i}", 0.1) for i in range(300)), step=1)
    yield Case("300 values", frame(several), [(f"t{i}", 1, number) for i in range(300)], None)


def generate() -> Iterator[Case]:
    """Yields the same files every time."""
    for make in (
        _odd,
        _truncated,
        _flipped,
        _zeroed,
        _garbage,
        _appended,
        _bombs,
        _content,
        _merged,
        _embedded,
    ):
        yield from make()


CASES = list(generate())
