"""Fuzzes the compiled walk: hostile bytes with valid checksums, in memory without a spare byte.

    sh tests/reading/format/fuzz.sh 600  # builds with AddressSanitizer and runs this for 600 s

The reference reads every input too, and both must give the same rows, names and damage. Inputs are
event files of grammar-shaped parts, altered byte by byte; a failing seed is printed, for --seed.
"""

import argparse
import ctypes
import random
import time

import numpy as np

from tb_firstloss.reading.files.open import Window
from tb_firstloss.reading.format import extension, rows
from tests.helpers.damaged_files import CASES
from tests.helpers.event_files import event, floats, scalar, simple, tensor

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


def make_payload(rng):
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
        count += 1
    seconds = time.monotonic() - started
    print(f"{count:,} files in {seconds:.0f} s, seeds from {seed}: nothing found")


if __name__ == "__main__":
    main()
