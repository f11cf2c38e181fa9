"""The field walk, against protobuf's parser."""

import itertools
import struct

import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto import event_pb2

from tb_firstloss.reading.format import wire
from tests.helpers.event_files import event, floats, scalar, simple, tensor
from tests.helpers.fragments import EVENT_FIELDS, MEMBERS, METADATA, field, text

finite = st.floats(allow_nan=False, width=32)
values = st.lists(
    st.one_of(
        st.builds(simple, st.text(), finite),
        st.builds(scalar, st.text(), finite, plugin_name=st.sampled_from(["", "scalars", "ü"])),
        st.builds(tensor, st.text(), st.just(floats([2], [1, 2]))),
    ),
    max_size=5,
)


def walk(payload):
    view = memoryview(payload)
    raw = wire.parse_event(view)
    found = [wire.parse_value(view, a, b) for a, b in wire.iter_value_ranges(view, raw)]
    return raw, found


@settings(max_examples=150, deadline=None)
@given(values, st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))
def test_events_read_as_tensorflow_parses_them(made, step, wall_time):
    payload = event(*made, step=step, wall_time=wall_time)
    parsed = tf.compat.v1.Event.FromString(payload)
    raw, found = walk(payload)
    assert (raw.step, raw.wall_time) == (parsed.step, parsed.wall_time) == (step, wall_time)
    assert [(v.tag.decode(), v.plugin_name.decode(), payload[v.start : v.end]) for v in found] == [
        (
            value.tag,
            value.metadata.plugin_data.plugin_name,
            value.tensor.SerializeToString()
            if value.HasField("tensor")
            else struct.pack("<f", value.simple_value),
        )
        for value in parsed.summary.value
    ]


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=40))
@example(b"\x09" + bytes(7))
@example(b"\x2a\x02\x0a\x01")
@example(b"\x10" + b"\xff" * 9 + b"\x01")
def test_what_protobuf_parses_is_never_refused(payload):
    try:
        parsed = event_pb2.Event.FromString(payload)
    except DecodeError:
        return  # stricter than the walk: it also looks into fields that hold no value
    try:
        raw, _ = walk(payload)
    except ValueError as error:
        # Groups: older than proto3, and in no event file.
        assert "wire type" in str(error) or "field number" in str(error)
        return
    assert raw.step == parsed.step


@pytest.mark.parametrize(
    ("proto", "content_type"),
    [
        (floats([], [1.5]), wire.FLOAT_SCALAR),
        (floats([1], [1.5]), wire.TENSOR),
        (floats([], [1.5, 2.5]), wire.TENSOR),
        (floats([], []), wire.TENSOR),
    ],
    ids=["scalar", "vector", "two values", "no value"],
)
def test_only_plain_scalars_are_recognised(proto, content_type):
    _, (value,) = walk(event(tensor("t", proto)))
    assert value.content_type == content_type


def test_every_encoding_of_a_scalar_gives_its_bits():
    one = tf.make_tensor_proto(1.5).SerializeToString()
    packed = b"\x08\x01\x12\x00\x2a\x04" + bytes.fromhex("0000c03f")
    unpacked = b"\x08\x01\x12\x00\x2d" + bytes.fromhex("0000c03f")
    whole = b"\x08\x01\x12\x00\x22\x04" + bytes.fromhex("0000c03f")
    for proto in (one, packed, unpacked, whole):
        value = b"\x0a\x01t\x42" + bytes([len(proto)]) + proto
        summary = b"\x0a" + bytes([len(value)]) + value
        _, (found,) = walk(b"\x2a" + bytes([len(summary)]) + summary)
        assert (found.content_type, found.bits) == (wire.FLOAT_SCALAR, 0x3FC00000)


def parse_one(*fields):
    """Parses a Summary.Value of these fields, inside an event."""
    summary = field(1, wire.BYTES, b"".join(fields))
    _, (value,) = walk(field(5, wire.BYTES, summary))
    return value


FLOAT, DOUBLE = struct.pack("<f", 1.5), struct.pack("<d", 1.5)


@pytest.mark.parametrize(
    ("parts", "content_type", "bits"),
    [
        ([(1, 0, b"\1"), (5, 2, FLOAT)], wire.FLOAT_SCALAR, FLOAT),
        ([(1, 0, b"\1"), (2, 2), (5, 5, FLOAT)], wire.FLOAT_SCALAR, FLOAT),
        ([(5, 5, FLOAT), (1, 0, b"\1")], wire.FLOAT_SCALAR, FLOAT),
        ([(1, 0, b"\1"), (4, 2, FLOAT)], wire.FLOAT_SCALAR, FLOAT),
        ([(1, 0, b"\2"), (6, 2, DOUBLE)], wire.DOUBLE_SCALAR, DOUBLE),
        ([(1, 0, b"\2"), (6, 1, DOUBLE)], wire.DOUBLE_SCALAR, DOUBLE),
        ([(1, 0, b"\2"), (4, 2, DOUBLE)], wire.DOUBLE_SCALAR, DOUBLE),
        ([(1, 0, b"\1"), (4, 2, DOUBLE)], wire.TENSOR, b""),
        ([(1, 0, b"\1"), (6, 1, DOUBLE)], wire.TENSOR, b""),
        ([(1, 0, b"\1"), (6, 2, FLOAT)], wire.TENSOR, b""),
        ([(1, 0, b"\2"), (4, 2, FLOAT)], wire.TENSOR, b""),
        ([(1, 0, b"\2"), (5, 5, FLOAT)], wire.TENSOR, b""),
        ([(1, 0, b"\3"), (5, 5, FLOAT)], wire.TENSOR, b""),
        ([(1, 0, b"\3"), (4, 2, DOUBLE)], wire.TENSOR, b""),
        ([(5, 5, FLOAT)], wire.TENSOR, b""),
        ([(1, 0, b"\1")], wire.TENSOR, b""),
        ([(1, 0, b"\1"), (5, 2, FLOAT * 2)], wire.TENSOR, b""),
        ([(1, 0, b"\1"), (4, 2, FLOAT * 3)], wire.TENSOR, b""),
        ([(1, 0, b"\1"), (5, 5, FLOAT), (5, 5, FLOAT)], wire.TENSOR, b""),
        ([(1, 0, b"\1"), (2, 2, b"\x12\0"), (5, 5, FLOAT)], wire.TENSOR, b""),
        ([(1, 0, b"\1"), (3, 0, b"\1"), (5, 5, FLOAT)], wire.TENSOR, b""),
        ([(1, 0, b"\1"), (5, 5, FLOAT), (7, 0, b"\1")], wire.TENSOR, b""),
        ([(1, 0, b"\1"), (5, 5, FLOAT), (2, 0, b"\0")], wire.TENSOR, b""),
        ([(1, 0, b"\1"), (5, 5, FLOAT), (2, 3)], wire.TENSOR, b""),
    ],
)
def test_a_scalar_is_one_float_or_double_of_its_dtype_and_no_dimension(parts, content_type, bits):
    proto = b"".join(field(*part) for part in parts)
    _, _, found, start, end, found_bits, _ = parse_one(field(8, wire.BYTES, proto))
    assert (found, found_bits) == (content_type, int.from_bytes(bits, "little"))
    assert end - start == len(proto)


@pytest.mark.parametrize(
    ("number", "content_type"),
    [(4, wire.IMAGE), (5, wire.HISTO), (6, wire.AUDIO), (7, wire.NO_CONTENT)],
)
def test_content_of_another_kind_is_found_undecoded(number, content_type):
    value = parse_one(field(1, wire.BYTES, b"tag"), field(number, wire.BYTES, b"content"))
    tag, plugin_name, found, start, end, bits, _ = value
    assert (tag, plugin_name, found, bits) == (b"tag", b"", content_type, 0)
    assert end - start == (0 if content_type == wire.NO_CONTENT else 7)


def test_the_last_of_equal_fields_counts_and_unknown_ones_are_skipped():
    metadata = field(9, wire.BYTES, field(1, wire.BYTES, field(1, wire.BYTES, b"plugin")))
    nothing = field(9, wire.BYTES, field(2, wire.BYTES, b"display name"))
    number = struct.pack("<f", 0.5)
    tag, plugin_name, content_type, _, _, bits, _ = parse_one(
        field(1, wire.BYTES, b"first"),
        field(1, wire.BYTES, b"last"),
        field(1, wire.VARINT, b"\1"),
        nothing,
        metadata,
        field(9, wire.VARINT, b"\1"),
        field(2, wire.BYTES, b"not a number"),
        field(2, wire.FIXED32, number),
        field(15, wire.FIXED64, bytes(8)),
    )
    assert (tag, plugin_name, content_type) == (b"last", b"plugin", wire.SIMPLE_VALUE)
    assert bits == int.from_bytes(number, "little")


def test_a_plugin_name_is_the_name_in_the_plugin_data_alone():
    misplaced = field(2, wire.BYTES, field(1, wire.BYTES, b"summary description"))
    inner = field(2, wire.BYTES, b"content") + field(1, wire.VARINT, b"\1")
    data = field(1, wire.BYTES, field(1, wire.BYTES, b"plugin") + inner)
    assert parse_one(field(9, wire.BYTES, data + misplaced)).plugin_name == b"plugin"
    assert parse_one(field(9, wire.BYTES, misplaced)).plugin_name == b""


def test_an_event_has_the_values_of_all_its_summaries():
    one, two = (field(1, wire.BYTES, field(1, wire.BYTES, tag)) for tag in (b"one", b"two"))
    other = field(2, wire.BYTES, b"no value") + field(1, wire.VARINT, b"\1")
    payload = field(5, wire.BYTES, one + other) + field(5, wire.BYTES, two + one)
    payload += field(5, wire.VARINT, b"\1") + field(1, wire.FIXED32, bytes(4))
    raw, found = walk(payload)
    assert [value.tag for value in found] == [b"one", b"two", b"one"]
    assert (raw.wall_time, raw.step) == (0.0, 0)


@pytest.mark.parametrize(
    "message",
    [
        field(5, wire.BYTES, b"\x0a\x01"),
        b"\x05" + bytes(4),
        b"\x80\x80\x80\x80\x10\0",
        b"\x0b",
        b"\x0c",
        b"\x0e",
        b"\x0f",
        b"\x0d" + bytes(3),
        b"\x09" + bytes(7),
        b"\x0a\x02x",
        b"\x0a",
        b"\x08",
        b"\x08\x80",
        b"\x08" + b"\xff" * 10 + b"\1",
        b"\x0a" + b"\xff" * 9 + b"\1",
    ],
    ids=[
        "summary", "field number 0", "field number 2**29", "group", "end of group", "wire type 6",
        "wire type 7", "fixed32 cut short", "fixed64 cut short", "bytes cut short", "no length",
        "no varint", "varint cut short", "varint of 11 bytes", "length of 2**64 - 1",
    ],
)  # fmt: skip
def test_what_is_not_a_protocol_buffer_is_refused(message):
    with pytest.raises(ValueError, match="of the record"):
        wire.parse_event(memoryview(message))


@pytest.mark.parametrize(
    "message",
    [
        b"\xf8\xff\xff\xff\x0f\0",
        b"\x0d" + bytes(4),
        b"\x09" + bytes(8),
        b"\x0a\x01x",
        b"\x0a\0",
        b"\x08" + b"\xff" * 9 + b"\1",
    ],
    ids=["field number 2**29 - 1", "fixed32", "fixed64", "bytes", "no bytes", "varint"],
)
def test_fields_that_end_with_the_message_are_read(message):
    assert len(list(wire.iter_fields(memoryview(message), 0, len(message)))) == 1


def test_a_range_ends_the_fields_and_varints_in_it():
    payload = memoryview(b"\x08\x05\x08\x81\x01")
    assert list(wire.iter_fields(payload, 0, 2)) == [(1, wire.VARINT, 5, 2)]
    assert list(wire.iter_fields(payload, 2, 5)) == [(1, wire.VARINT, 129, 5)]
    with pytest.raises(ValueError, match="of the record"):
        list(wire.iter_fields(payload, 2, 4))


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**35, 2**63, 2**64 - 1])
def test_a_varint_has_seven_bits_per_byte_lowest_first(number):
    spelled = bytearray()
    rest = number
    while rest > 127:
        spelled.append(rest % 128 + 128)
        rest //= 128
    spelled.append(rest)
    assert wire.read_varint(memoryview(b"x" + spelled + b"x"), 1, 1 + len(spelled)) == (
        number,
        1 + len(spelled),
    )


def test_a_varint_beyond_64_bits_keeps_the_lowest_64():
    assert wire.read_varint(memoryview(b"\xff" * 9 + b"\x7f"), 0, 10) == (2**64 - 1, 10)


def test_a_step_is_signed():
    for step, spelled in (-1, b"\xff" * 9 + b"\1"), (-(2**63), b"\x80" * 9 + b"\1"):
        assert wire.parse_event(memoryview(b"\x10" + spelled)).step == step
    assert wire.parse_event(memoryview(b"\x10" + b"\xff" * 8 + b"\x7f")).step == 2**63 - 1


ONEOF = {2: "simple_value", 4: "image", 5: "histo", 6: "audio", 8: "tensor"}


def walked(payload):
    """Returns what `shown` does, from the walk."""
    view = memoryview(payload)
    raw = wire.parse_event(view)
    found = [wire.parse_value(view, a, b) for a, b in wire.iter_value_ranges(view, raw)]
    return (
        raw.step,
        raw.wall_time,
        [
            (v.tag, v.plugin_name, payload[v.start : v.end])
            for v in found
            if v.content_type != wire.NO_CONTENT
        ],
    )


def shown(payload):
    """Returns an event's step, wall time and values, as protobuf understands it."""
    parsed = event_pb2.Event.FromString(payload)
    values = []
    for value in parsed.summary.value:
        name = value.WhichOneof("value")
        content = getattr(value, name) if name else None
        if name == "simple_value":
            content = struct.pack("<f", content)
        elif name in ONEOF.values():
            content = content.SerializeToString()
        else:  # nothing that anybody shows
            continue
        plugin_name = value.metadata.plugin_data.plugin_name
        values.append((value.tag.encode(), plugin_name.encode(), content))
    return parsed.step, parsed.wall_time, values


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_last_member_of_a_values_oneof_counts_and_none_is_merged(size):
    for names in itertools.product(MEMBERS, repeat=size):
        payload = text(5, text(1, b"".join(MEMBERS[name] for name in names) + text(1, b"tag")))
        numbers = [MEMBERS[n][0] >> 3 for n in names if "another type" not in n]
        if any(a == b > 3 for a, b in itertools.pairwise(numbers)):
            with pytest.raises(ValueError, match="value in several parts at byte"):
                walked(payload)
        else:
            assert walked(payload) == shown(payload), names


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_parts_of_a_values_metadata_are_merged(size):
    for names in itertools.product(METADATA, repeat=size):
        parts = b"".join(METADATA[name] for name in names)
        for value in (MEMBERS["number"] + parts, parts + MEMBERS["vector"]):
            payload = text(5, text(1, text(1, b"tag") + value))
            assert walked(payload) == shown(payload), names


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_last_member_of_an_events_oneof_counts_and_summaries_are_merged(size):
    for names in itertools.product(EVENT_FIELDS, repeat=size):
        payload = b"".join(EVENT_FIELDS[name] for name in names)
        assert walked(payload) == shown(payload), names
