"""Serialized Event protos to their values, field by field, parsing only what is asked for.

Written by hand because protobuf's parser loses values: it turns a signalling NaN into a quiet
one, and refuses a whole record for one tag that is not UTF-8.

Field numbers are those of tensorflow/core/util/event.proto and framework/summary.proto. As in every
protocol buffer parser, unknown fields and known ones of another wire type are skipped, of equal
fields and of the members of a oneof the last one counts, and messages of one field are merged
(https://protobuf.dev/programming-guides/encoding/#last-one-wins). Unlike protobuf, this raises
ValueError for a value whose content is in several parts, and for groups, and looks into no field
that it has no use for. Nothing here allocates in proportion to what a message claims.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

Field = tuple[int, int, int, int]
"""Field number and wire type; then the content's start and end, or for a varint its value and the
position after it."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

NO_CONTENT, SIMPLE_VALUE, FLOAT_SCALAR, DOUBLE_SCALAR, TENSOR, HISTO, IMAGE, AUDIO = range(8)
"""Content types of a summary value. FLOAT_SCALAR and DOUBLE_SCALAR are tensors of rank 0."""

_CONTENT_FIELDS = {3: NO_CONTENT, 4: IMAGE, 5: HISTO, 6: AUDIO, 8: TENSOR}
"""Members of the oneof "value" besides simple_value; 3 is an obsolete histogram."""

_SESSION_LOG, _SESSION_START = 7, 1
"""A member of an event's oneof "what", and its status where a session starts."""

_SCALAR_FIELDS = {(4, BYTES), (5, BYTES), (5, FIXED32), (6, BYTES), (6, FIXED64)}
"""tensor_content, float_val and double_val: packed or not."""


class RawEvent(NamedTuple):
    """An event's head, the byte ranges of its summaries, and whether it starts a session."""

    wall_time: float
    step: int
    summaries: list[tuple[int, int]]
    starts_session: bool


class RawValue(NamedTuple):
    """One summary value, not yet decoded.

    Attributes:
        tag: As written, UTF-8.
        plugin_name: Of its metadata; empty when it names none.
        content_type: One of the content types above.
        start: First byte of the content in the payload.
        end: Byte after its last one.
        bits: A simple value's or scalar tensor's IEEE 754 bits, 32 or 64 of them.
        metadata: A serialized SummaryMetadata, or nothing.
    """

    tag: bytes
    plugin_name: bytes
    content_type: int
    start: int
    end: int
    bits: int
    metadata: bytes


class Metadata(NamedTuple):
    """What a SummaryMetadata says of a tag, besides its plugin's name.

    Attributes:
        display_name: What to call the tag; "" for its own name.
        description: Markdown.
        plugin_content: What the plugin stores for itself, usually a protocol buffer.
    """

    display_name: str = ""
    description: str = ""
    plugin_content: bytes = b""


def parse_event(payload: memoryview) -> RawEvent:
    """Returns what an Event says of itself, and where its summaries are."""
    wall_time, step, status = 0.0, 0, 0
    summaries: list[tuple[int, int]] = []
    for number, wire_type, start, end in iter_fields(payload, 0, len(payload)):
        if number == 1 and wire_type == FIXED64:
            (wall_time,) = struct.unpack_from("<d", payload, start)
        elif number == 2 and wire_type == VARINT:
            step = start - (1 << 64) if start >> 63 else start
        elif number == 5 and wire_type == BYTES:
            for _ in iter_fields(payload, start, end):
                pass
            summaries.append((start, end))
            status = 0
        elif number == _SESSION_LOG and wire_type == BYTES:
            summaries.clear()
            for field in iter_fields(payload, start, end):
                status = field[2] if field[:2] == (1, VARINT) else status
        elif 3 <= number <= 9 and wire_type == BYTES:  # another member of the oneof "what"
            summaries.clear()
            status = 0
    return RawEvent(wall_time, step, summaries, status == _SESSION_START)


def iter_value_ranges(payload: memoryview, event: RawEvent) -> Iterator[tuple[int, int]]:
    """Yields the byte range of each Summary.Value of an event."""
    for summary_start, summary_end in event.summaries:
        for number, wire_type, start, end in iter_fields(payload, summary_start, summary_end):
            if number == 1 and wire_type == BYTES:
                yield start, end


def parse_value(payload: memoryview, start: int, end: int) -> RawValue:
    """Returns tag, plugin name and content of the Summary.Value at a byte range."""
    tag = metadata = plugin_name = b""
    content, bits = (NO_CONTENT, 0, 0), 0
    for number, wire_type, first, last in iter_fields(payload, start, end):
        if number == 2 and wire_type == FIXED32:
            content = (SIMPLE_VALUE, first, last)
        elif wire_type != BYTES:
            continue
        elif number == 1:
            tag = bytes(payload[first:last])
        elif number == 9:
            metadata += payload[first:last]  # valid parts make a valid whole
            plugin_name = _parse_plugin_name(payload, first, last, plugin_name)
        elif number in _CONTENT_FIELDS:
            if content[0] == _CONTENT_FIELDS[number] != NO_CONTENT:
                raise ValueError(f"value in several parts at byte {first} of the record")
            content = (_CONTENT_FIELDS[number], first, last)
    content_type, first, last = content
    if content_type == SIMPLE_VALUE:
        (bits,) = struct.unpack_from("<I", payload, first)
    elif content_type == TENSOR:
        content_type, bits = _parse_scalar(payload, first, last)
    return RawValue(tag, plugin_name, content_type, first, last, bits, metadata)


def _parse_plugin_name(payload: memoryview, start: int, end: int, name: bytes) -> bytes:
    """Returns the plugin name in one part of a value's metadata, else that of earlier parts."""
    for metadata_field in iter_fields(payload, start, end):
        if metadata_field[:2] == (1, BYTES):
            for number, wire_type, first, last in iter_fields(payload, *metadata_field[2:]):
                if number == 1 and wire_type == BYTES:
                    name = bytes(payload[first:last])
    return name


def parse_metadata(serialized: bytes) -> Metadata:
    """Returns what a SummaryMetadata says besides its plugin's name."""
    view, texts, content = memoryview(serialized), {2: "", 3: ""}, b""
    for outer, outer_type, start, end in iter_fields(view, 0, len(view)):
        if outer in texts and outer_type == BYTES:
            texts[outer] = serialized[start:end].decode(errors="replace")
        elif (outer, outer_type) == (1, BYTES):
            for number, wire_type, first, last in iter_fields(view, start, end):
                if (number, wire_type) == (2, BYTES):
                    content = serialized[first:last]
    return Metadata(texts[2], texts[3], content)


def _parse_scalar(payload: memoryview, start: int, end: int) -> tuple[int, int]:
    """Returns a TensorProto's content type and bits: TENSOR and 0 unless it is a plain scalar.

    Float and double scalars fill event files, so they are recognised here, before any decoding.
    """
    dtype, found = 0, (0, 0, 0)
    try:
        for number, wire_type, first, last in iter_fields(payload, start, end):
            if number == 1 and wire_type == VARINT:
                dtype = first
            elif (number, wire_type) in _SCALAR_FIELDS and not found[0]:
                found = (number, first, last)
            elif number != 2 or wire_type != BYTES or first != last:  # not a shape without dims
                return TENSOR, 0
    except ValueError:
        return TENSOR, 0
    number, first, last = found
    bits = int.from_bytes(payload[first:last], "little") if last - first <= 8 else 0
    if dtype == 1 and number in (4, 5) and last - first == 4:
        return FLOAT_SCALAR, bits
    if dtype == 2 and number in (4, 6) and last - first == 8:
        return DOUBLE_SCALAR, bits
    return TENSOR, 0


def iter_fields(payload: memoryview, position: int, end: int) -> Iterator[Field]:
    """Yields the fields of the message at a byte range."""
    while position < end:
        key, position = read_varint(payload, position, end)
        number, wire_type = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise ValueError(f"invalid field number {number} at byte {position} of the record")
        if wire_type == VARINT:
            value, position = read_varint(payload, position, end)
            yield number, wire_type, value, position
            continue
        start = position
        if wire_type == BYTES:
            length, start = read_varint(payload, position, end)
            position = start + length
        elif wire_type in (FIXED32, FIXED64):
            position += 4 if wire_type == FIXED32 else 8
        else:  # groups (3 and 4) occur in no proto3 message
            raise ValueError(f"invalid wire type {wire_type} at byte {position} of the record")
        if position > end:
            raise ValueError(
                f"truncated field at byte {start} of the record: {end - start} of "
                f"{position - start} bytes left"
            )
        yield number, wire_type, start, position


def read_varint(payload: memoryview, position: int, end: int) -> tuple[int, int]:
    """Returns the varint at a position, and the position after it."""
    value = shift = 0
    while position < end and shift < 70:
        octet = payload[position]
        position += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
    raise ValueError(f"unterminated varint at byte {position} of the record")
