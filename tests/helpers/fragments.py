"""Fields of events and summary values, encoded by hand, to be put together in any order."""

import struct

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def field(number: int, wire_type: int, content: bytes = b"") -> bytes:
    """Returns a field of a number up to 15; a content of bytes has less than 2**14 of them."""
    if wire_type == BYTES and len(content) > 127:
        content = bytes([len(content) & 127 | 128, len(content) >> 7]) + content
    elif wire_type == BYTES:
        content = bytes([len(content)]) + content
    return bytes([number << 3 | wire_type]) + content


def text(number: int, content: bytes) -> bytes:
    return field(number, BYTES, content)


FLOAT, DOUBLE = struct.pack("<f", 1.5), struct.pack("<d", 2.5)
SCALAR = b"\x08\x01\x12\x00" + text(5, FLOAT)
VECTOR = b"\x08\x01" + text(2, text(2, b"\x08\x02")) + text(4, FLOAT * 2)

MEMBERS = {
    "number": field(2, FIXED32, FLOAT),
    "another number": field(2, FIXED32, FLOAT[::-1]),
    "old histogram": text(3, b"h"),
    "image": text(4, b"\x08\x01\x10\x02"),
    "histogram": text(5, field(1, FIXED64, DOUBLE)),
    "audio": text(6, field(1, FIXED32, FLOAT)),
    "scalar": text(8, SCALAR),
    "vector": text(8, VECTOR),
    "empty tensor": text(8, b""),
    "number of another type": field(2, VARINT, b"\x05"),
    "tensor of another type": field(8, VARINT, b"\x05"),
}
"""Fields of a summary value; all but the last two are members of its oneof."""

METADATA = {
    "a plugin": text(9, text(1, text(1, b"mine"))),
    "another plugin": text(9, text(1, text(1, b"yours"))),
    "plugin content": text(9, text(1, text(2, b"content"))),
    "no plugin name": text(9, text(1, text(1, b""))),
    "two plugins": text(9, text(1, text(1, b"mine")) + text(1, text(1, b"third"))),
    "display name": text(9, text(2, b"shown")),
    "nothing": text(9, b""),
    "another type": field(9, VARINT, b"\x01"),
}


def summary(tag: bytes, value: bytes = MEMBERS["number"]) -> bytes:
    """Returns an event's field: a summary of one value."""
    return text(5, text(1, text(1, tag) + value))


EVENT_FIELDS = {
    "a": summary(b"a"),
    "b": summary(b"b", MEMBERS["vector"]),
    "empty summary": text(5, b""),
    "version": text(3, b"brain.Event:2"),
    "graph": text(4, b"graph"),
    "log": text(6, b""),
    "session": text(7, b"\x08\x01"),
    "run metadata": text(8, b""),
    "meta graph": text(9, b"graph"),
    "source": text(10, b""),
    "step": field(2, VARINT, b"\x05"),
    "another step": field(2, VARINT, b"\xff" * 9 + b"\x01"),
    "time": field(1, FIXED64, DOUBLE),
    "graph of another type": field(4, VARINT, b"\x01"),
    "summary of another type": field(5, FIXED32, FLOAT),
}
