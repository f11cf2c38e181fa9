"""Fuzzes the compiled walk: hostile bytes with valid checksums, in memory without a spare byte.

    sh tests/reading/format/fuzz.sh 600  # builds with AddressSanitizer and runs this for 600 s

The reference reads every input too, and both must give the same rows, names and damage. Of each
record that protobuf parses, they must give protobuf's values, or damage. Inputs are event files of
grammar-shaped parts, altered byte by byte; a failing seed is printed, for --seed.
"""

import argparse
import ctypes
import random
import struct
import time
import types

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto import event_pb2, summary_pb2

from tb_firstloss.reading.files.open import Window
from tb_firstloss.reading.format import extension, records, rows, wire
from tb_firstloss.reading.format.tensor_proto import decode_tensor
from tests.helpers.damaged_files import CASES
from tests.helpers.event_files import event, floats, scalar, shaped, simple, tensor
from tests.helpers.fragments import (
    EVENT_FIELDS,
    FLOAT,
    MEMBERS,
    METADATA,
    VARINT,
    VECTOR,
    field,
    text,
)

COMPILED = extension.scan
LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p
LIBC.malloc.argtypes = [ctypes.c_size_t]
LIBC.free.argtypes = [ctypes.c_void_p]

INTERESTING = [0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x12, 0x2A, 0x42, 0x4A, 0x15, 0x08]


def masked(data):
    """The checksum by the extension: the definition is too slow to fuzz with."""
    crc = COMPILED.crc32c(data)
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def frame(payload):
    head = len(payload).to_bytes(8, "little")
    return head + masked(head) + payload + masked(payload)


PARTS = {
    "event": [*EVENT_FIELDS.values()],
    "value": [*MEMBERS.values(), *METADATA.values(), text(1, b"a"), text(1, b"d"), text(7, b"n")],
    "tensor": [
        VECTOR,
        *(field(1, VARINT, bytes([dtype])) for dtype in (1, 2, 4, 6, 7, 9, 10, 14, 19, 29)),
        *(text(2, text(2, b"\x08" + bytes([size]))) for size in range(4)),
        text(2, b""),
        *(text(number, FLOAT * size) for number in (4, 5, 8, 13) for size in range(3)),
        *(text(number, bytes([size] * size)) for number in (7, 8, 10, 11) for size in range(4)),
        *(field(number, VARINT, b"\x80\x02") for number in (3, 4, 5, 7, 8, 10, 13, 16)),
        shaped(6, [2], int_val=[127, -128]).SerializeToString(),
        shaped(7, [2], string_val=[b"a"]).SerializeToString(),
    ],
}


def some(rng, parts):
    return b"".join(rng.choice(PARTS[parts]) for _ in range(rng.randrange(6)))


def make_odd_payload(rng):
    """Fields in any order and number: what no writer makes, and protobuf understands."""
    tensor_of_parts = text(8, some(rng, "tensor")) if rng.randrange(2) else b""
    value = text(1, b"a") + some(rng, "value") + tensor_of_parts + some(rng, "value")
    summary = b"".join(text(1, value) for _ in range(rng.randrange(3)))
    return some(rng, "event") + text(5, summary) + (some(rng, "event") if rng.randrange(2) else b"")


def make_payload(rng):
    if rng.randrange(2):
        return make_odd_payload(rng)
    values = [
        rng.choice(
            [
                scalar("a" * rng.randrange(20), rng.random()),
                simple("b", 1.0),
                tensor("c", floats([2], [1, 2]), plugin_name="p" * rng.randrange(4)),
                tensor("d", floats([], [1] * rng.randrange(3))),
            ]
        )
        for _ in range(rng.randrange(5))
    ]
    return event(*values, step=rng.choice([0, -1, 2**62]), wall_time=rng.random())


def alter(rng, data):
    data = bytearray(data)
    for _ in range(rng.randrange(4)):
        if not data:
            break
        at = rng.randrange(len(data))
        action = rng.randrange(4)
        if action == 0:
            data[at] = rng.choice(INTERESTING)
        elif action == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif action == 2:
            del data[at : at + rng.randrange(1, 9)]
        else:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
    return bytes(data)


def make_file(rng):
    if rng.randrange(4) == 0:
        return alter(rng, rng.choice(CASES).data)
    # Few payloads, many records: the compiled walk takes a short cut where a layout repeats.
    payloads = [make_payload(rng) for _ in range(rng.choice([1, 2, 8]))]
    records = [frame(alter(rng, rng.choice(payloads))) for _ in range(rng.randrange(1, 12))]
    data = b"".join(records)
    return alter(rng, data) if rng.randrange(3) == 0 else data


def read(data, *, compiled):
    """Returns everything a scan yields, each block in memory of exactly its size."""
    extension.scan = COMPILED if compiled else None
    blocks = []

    def fetch(offset, count):
        piece = data[offset : offset + count]
        blocks.append(LIBC.malloc(max(len(piece), 1)))
        ctypes.memmove(blocks[-1], piece, len(piece))
        exact = (ctypes.c_ubyte * len(piece)).from_address(blocks[-1])
        return memoryview(exact).cast("B")

    try:
        names, damage = rows.Names(), []
        chunks = rows.iter_chunks(Window("f", fetch, len(data)), names, report=damage.append)
        joined = b"".join(np.rec.fromarrays(chunk.rows.columns).tobytes() for chunk in chunks)
        return joined, names.tags, names.plugin_names, [str(d) for d in damage]
    finally:
        extension.scan = COMPILED
        for block in blocks:
            LIBC.free(block)


def outcome(content):
    """Returns an array as something that equals itself, or None where it is refused."""
    try:
        array = decode_tensor(content, max_tensor_bytes=1 << 20)
    except ValueError:
        return None
    values = array.tolist() if array.dtype == object else array.tobytes()
    return array.dtype, array.shape, values


def shown(value):
    """Returns what protobuf has of a value's content, or None where nobody shows it."""
    name = value.WhichOneof("value")
    if name == "simple_value":
        return "number", struct.pack("<f", value.simple_value)
    if name == "tensor":
        value.tensor.DiscardUnknownFields()
        return name, outcome(value.tensor.SerializeToString())
    if name in ("histo", "image", "audio"):
        return name, getattr(value, name).SerializeToString(deterministic=True)
    return None


def found(row, content):
    """Returns the same of a row; None for a tensor that is refused."""
    if row.content_type == wire.SIMPLE_VALUE:
        quiet = struct.unpack("<f", content)[0]  # as protobuf's floats are
        assert content == row.bits.to_bytes(4, "little")
        return "number", struct.pack("<f", quiet)
    if row.content_type in (wire.FLOAT_SCALAR, wire.DOUBLE_SCALAR, wire.TENSOR):
        array = outcome(content)
        if row.content_type != wire.TENSOR:
            assert array[1:] == ((), row.bits.to_bytes(len(array[2]), "little"))
        return "tensor", array
    name = {wire.HISTO: "histo", wire.IMAGE: "image", wire.AUDIO: "audio"}[row.content_type]
    message = getattr(summary_pb2.Summary.Value(), name)
    message.MergeFromString(bytes(content))
    return name, message.SerializeToString(deterministic=True)


def differs_from_protobuf(payload):
    """Returns whether a record's values are others than protobuf's, without any damage."""
    try:
        parsed = event_pb2.Event.FromString(payload)
    except DecodeError:  # protobuf loses the whole record
        return False
    expected, plugin_names = [], {}
    for value in parsed.summary.value:
        name = plugin_names.get(value.tag) or value.metadata.plugin_data.plugin_name
        plugin_names[value.tag] = name
        if (content := shown(value)) is not None:
            time_bits = struct.pack("<d", parsed.wall_time)
            expected.append([value.tag, name, parsed.step, time_bits, *content])
    data, names, damage = frame(payload), rows.Names(), []
    window = Window("f", lambda offset, count: data[offset : offset + count], len(data))
    ours = []
    for chunk in rows.iter_chunks(window, names, report=damage.append):
        for values in zip(*(column.tolist() for column in chunk.rows.columns), strict=True):
            row = types.SimpleNamespace(**dict(zip(rows.Rows.__slots__, values, strict=True)))
            tag, plugin_name = names.tags[row.tag], names.plugin_names[row.plugin_name]
            content = found(row, chunk.content(row.start, row.size))
            time_bits = struct.pack("<d", row.wall_time)
            ours.append([tag, plugin_name, row.step, time_bits, *content])
    if damage:  # a value that is lost may have named its tag's plugin
        kept = [[tag, *rest] for tag, _, *rest in expected]
        return any([tag, *rest] not in kept for tag, _, *rest in ours if rest[-1] is not None)
    refused = [row[:-1] for row in ours if row[-1] is None]
    expected = [[*row[:-1], None] if row[:-1] in refused else row for row in expected]
    ours = [[*row[:-1], None] if row[:-1] in refused else row for row in ours]
    return ours != expected


def payloads_of(data):
    window = Window("f", lambda offset, count: data[offset : offset + count], len(data))
    return [bytes(r.payload) for r in records.iter_records(window, report=lambda damage: None)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    if COMPILED is None:
        raise SystemExit("the extension is not built: there is nothing to fuzz")
    started, count = time.monotonic(), 0
    seed = int(time.time()) if options.seed is None else options.seed
    while count == 0 or (options.seed is None and time.monotonic() < started + options.seconds):
        data = make_file(random.Random(seed + count))
        COMPILED.use_hardware(bool(count % 2))
        rows.ROWS_PER_CHUNK = 1 << (seed + count) % 15
        if read(data, compiled=True) != read(data, compiled=False):
            raise SystemExit(f"the walks differ: python {__file__} --seed {seed + count}")
        if any(map(differs_from_protobuf, payloads_of(data))):
            raise SystemExit(f"protobuf differs: python {__file__} --seed {seed + count}")
        count += 1
    seconds = time.monotonic() - started
    print(f"{count:,} files in {seconds:.0f} s, seeds from {seed}: nothing found")


if __name__ == "__main__":
    main()
