"""The field walk, against protobuf's parser."""

import struct

import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto import event_pb2

from tb_firstloss.reading.format import wire
from tests.helpers.event_files import event, floats, scalar, simple, tensor

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
