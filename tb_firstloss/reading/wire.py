"""Serialized Event protos to their values, field by field, without parsing what is not asked for.

Field numbers are those of tensorflow/core/util/event.proto and framework/summary.proto. As in every
protocol buffer parser, unknown fields, and known ones of another wire type, are passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple

Field = tuple[int, int, int, int]
"""Field number, wire type, and for lengths (wire type 2) and fixed widths the content's start and
end; for a varint its value and the position after it."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

ValueKind = Literal["simple_value", "image", "histo", "audio", "tensor"]
_VALUE_KINDS: dict[int, ValueKind] = {4: "image", 5: "histo", 6: "audio", 8: "tensor"}


class RawValue(NamedTuple):
    """One summary value, not yet decoded.

    Attributes:
        tag: As written.
        plugin_name: Of its metadata; None when it carries none.
        kind: Which field holds the content, or None when none does.
        start: First byte of the content in the payload.
        end: Byte after its last one.
    """

    tag: str
    plugin_name: str | None
    kind: ValueKind | None
    start: int
    end: int


class RawEvent(NamedTuple):
    """An event's head, and where its summary values lie in the payload."""

    wall_time: float
    step: int
    values: list[tuple[int, int]]


def parse_event(payload: memoryview) -> RawEvent:
    """Returns wall time, step and the byte ranges of the summary values of an Event.

    Raises:
        ValueError: The bytes are no protocol buffer.
    """
    wall_time, step = 0.0, 0
    values: list[tuple[int, int]] = []
    for number, kind, start, end in iter_fields(payload, 0, len(payload)):
        if number == 1 and kind == FIXED64:
            (wall_time,) = struct.unpack_from("<d", payload, start)
        elif number == 2 and kind == VARINT:
            step = start - (1 << 64) if start >> 63 else start
        elif number == 5 and kind == BYTES:
            values += [
                (first, last)
                for n, k, first, last in iter_fields(payload, start, end)
                if n == 1 and k == BYTES
            ]
    return RawEvent(wall_time, step, values)


def parse_value(payload: memoryview, start: int, end: int) -> RawValue:
    """Returns tag, plugin name and content range of the Summary.Value at a byte range.

    Raises:
        ValueError: The bytes are no protocol buffer, or a name is no UTF-8.
    """
    tag, plugin_name = "", None
    content: tuple[ValueKind | None, int, int] = (None, 0, 0)
    for number, kind, first, last in iter_fields(payload, start, end):
        if kind == FIXED32 and number == 2:
            content = ("simple_value", first, last)
        elif kind == BYTES and number == 1:
            tag = str(payload[first:last], "utf-8")
        elif kind == BYTES and number in _VALUE_KINDS:
            content = (_VALUE_KINDS[number], first, last)
        elif kind == BYTES and number == 9:
            plugin_name = _parse_plugin_name(payload, first, last)
    return RawValue(tag, plugin_name, *content)


def _parse_plugin_name(payload: memoryview, start: int, end: int) -> str:
    name = ""
    for number, kind, first, last in iter_fields(payload, start, end):
        if number == 1 and kind == BYTES:
            for n, k, name_start, name_end in iter_fields(payload, first, last):
                if n == 1 and k == BYTES:
                    name = str(payload[name_start:name_end], "utf-8")
    return name


def iter_fields(payload: memoryview, position: int, end: int) -> Iterator[Field]:
    """Yields the fields of the message at a byte range.

    Raises:
        ValueError: The bytes are no protocol buffer.
    """
    while position < end:
        key, position = _read_varint(payload, position, end)
        number, kind = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise ValueError(f"field number {number} at byte {position} of the record")
        if kind == VARINT:
            value, position = _read_varint(payload, position, end)
            yield number, kind, value, position
            continue
        start = position
        if kind == BYTES:
            length, start = _read_varint(payload, position, end)
            position = start + length
        elif kind in (FIXED32, FIXED64):
            position += 4 if kind == FIXED32 else 8
        else:  # groups (3 and 4) occur in no proto3 message
            raise ValueError(f"wire type {kind} at byte {position} of the record")
        if position > end:
            raise ValueError(
                f"a field of {position - start} bytes at byte {start} of the record, where "
                f"{end - start} remain"
            )
        yield number, kind, start, position


def _read_varint(payload: memoryview, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end:
        octet = payload[position]
        position += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
        if shift >= 70:
            break
    raise ValueError(f"a varint without end at byte {position} of the record")
