"""Bytes to checked records, and on past damage.

A record is a little-endian uint64 length, a masked CRC32C of these eight bytes, the payload, and a
masked CRC32C of the payload. Only records whose two checksums match are returned; each gap between
them is reported as one `Damage`.

After damage the walk resumes, in this order of trust, at

1. the end that an intact header claims, if the file ends there or another header follows (and
   no frames inside lead exactly there: a writer appended those to a torn record);
2. the end given by the length field, or by the length that the header's checksum implies, if the
   payload's checksum confirms it;
3. the next complete record, unless the damaged one turns out to enclose it: if, up to
   `LOOKAHEAD_BYTES` further on, a header follows a checksum that matches everything since the
   damaged header, the walk resumes at that header.

Two cases stay undecidable. Complete frames inside a payload become records if their enclosing
header is damaged in length and checksum and the payload is damaged too or longer than
`LOOKAHEAD_BYTES`, or if the file ends inside that payload: a torn record that a writer has appended
to looks the same, and there the frames are real. And in a file made to be searched in vain, the
search ends after `Window.spend` bytes; from there on only short records are found.
"""

import itertools
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tb_firstloss.reading.damage import Damage, Report
from tb_firstloss.reading.files.open import Window
from tb_firstloss.reading.format import crc32c, extension

HEADER_BYTES = 12
FOOTER_BYTES = 4
FRAME_BYTES = HEADER_BYTES + FOOTER_BYTES

LARGEST_PAYLOAD = 2**31 - 1
"""Longest possible protocol buffer; a header that claims more counts as damaged."""

_OTHER_FORMATS = {
    (b"\x1f\x8b\x08",): "a gzip file; decompress it first (gunzip)",
    (b"\x28\xb5\x2f\xfd",): "a Zstandard file; decompress it first (unzstd)",
    (b"pk\x03\x04",): "a zip archive; extract it first (unzip)",
    (b"version https://git-lfs",): "a Git LFS pointer; fetch what it points to (git lfs pull)",
    (b"<!doctype", b"<html", b"<?xml"): "an HTML or XML page; download the file itself",
}
"""What is often named like an event file, by its first bytes in lower case."""

LOOKAHEAD_BYTES = 1 << 18
_ALWAYS_CHECKED = 1 << 10
"""Bytes of a payload that a search checks even after its effort is spent (`Window.spend`)."""

_STEP_COST = 1 << 9
_SMALLEST_BLOCK, _LARGEST_BLOCK = 1 << 9, 1 << 16
_PIECE = 1 << 22


class Record(NamedTuple):
    """An intact record: where it starts and ends in the file, and its payload."""

    start: int
    end: int
    payload: memoryview


def iter_records(
    window: Window, position: int = 0, *, report: Report, grows: bool = False
) -> Iterator[Record]:
    """Yields every intact record from a position on, and reports each gap before the next record.

    In a file that ``grows``, what has nothing intact after it may be half written: it is no gap.
    """
    while position < window.size:
        record = read_record(window, position)
        if record is not None:
            position = record.end
            yield record
            continue
        if grows and is_cut_short(window, position):
            return
        damage = assess(window, position)
        if grows and damage.end >= window.size:
            return
        report(damage)
        position = damage.end


def read_record(window: Window, start: int) -> Record | None:
    """Returns the record at a position, or None unless both its checksums match."""
    length = _read_length(window, start)
    if length is None:
        return None
    end = start + FRAME_BYTES + length
    if not _payload_matches(window, start, length):
        return None
    payload = window.view(start + HEADER_BYTES, end - FOOTER_BYTES)
    return Record(start, end, payload) if len(payload) == length else None


def is_cut_short(window: Window, start: int) -> bool:
    """Returns whether the file ends inside the header at a position, or before its record does."""
    if window.size - start < HEADER_BYTES:
        return True
    length = _read_length(window, start)
    return length is not None and start + FRAME_BYTES + length > window.size


def assess(window: Window, start: int) -> Damage:
    """Returns the damage at a position without an intact record; its end is where to resume."""
    size, length = window.size, _read_length(window, start)
    if length is None:
        if size - start < HEADER_BYTES:
            message = f"truncated header: {size - start} of {HEADER_BYTES} bytes left"
            return Damage(window.path, start, size, "incomplete", message, is_cut=True)
        what = _name_format(window) if start == 0 else None
        message = f"this is {what}" if what else "corrupt header: no valid length"
        return Damage(window.path, start, _find_resumption(window, start), "corrupt", message)
    claimed = start + FRAME_BYTES + length
    if claimed > size:
        left, whole = size - start - HEADER_BYTES, length + FOOTER_BYTES
        message = f"truncated record: {left} of {whole} bytes left"
        end = _find_frame(window, start + HEADER_BYTES)
        return Damage(window.path, start, end, "incomplete", message, is_cut=end == size)
    message = f"corrupt record: its {length} bytes do not match their checksum"
    if claimed == size or _read_length(window, claimed) is not None:
        end = _find_chain(window, start + HEADER_BYTES, claimed)
    else:
        end = _find_frame(window, start + HEADER_BYTES)
    return Damage(window.path, start, end, "corrupt", message)


def _name_format(window: Window) -> str | None:
    """Returns what else a file is, and what to do with it, where its first bytes say so."""
    head = bytes(window.view(0, 64)).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((what for begins, what in _OTHER_FORMATS.items() if head.startswith(begins)), None)


def _read_length(window: Window, start: int) -> int | None:
    """Returns the length that an intact header at a position claims, or None."""
    header = window.view(start, start + HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return None
    length, checksum = struct.unpack("<QI", header)
    if length > LARGEST_PAYLOAD or crc32c.masked_crc32c(header[:8]) != checksum:
        return None
    return int(length)


def _payload_matches(window: Window, start: int, length: int) -> bool:
    """Returns whether a payload of this length after a header matches its checksum."""
    position = start + HEADER_BYTES
    end = position + length
    if end + FOOTER_BYTES > window.size:
        return False
    last = max(position, end - _PIECE)
    crc = _crc_of(window, position, last)
    tail = window.view(last, end + FOOTER_BYTES)
    if len(tail) != end + FOOTER_BYTES - last:
        return False
    crc = crc32c.masked_crc32c(tail[:-FOOTER_BYTES], crc)
    return tail[-FOOTER_BYTES:] == struct.pack("<I", crc)


def _crc_of(window: Window, start: int, end: int, crc: int = 0) -> int:
    """Returns the CRC32C of a range, read piece by piece, after that of what precedes it."""
    for position in range(start, end, _PIECE):
        crc = crc32c.crc32c(window.view(position, min(position + _PIECE, end)), crc)
    return crc


def _find_resumption(window: Window, start: int) -> int:
    """Returns where to resume after a damaged header."""
    header = window.view(start, start + HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return window.size
    length, checksum = struct.unpack("<QI", header)
    # Twelve zeros are a hole rather than a length or a checksum.
    claims = (length, crc32c.length_of_masked_crc32c(checksum)) if any(header) else ()
    for candidate in claims:
        if (
            candidate <= LARGEST_PAYLOAD
            and start + FRAME_BYTES + candidate <= window.size
            and window.spend(candidate)
            and _payload_matches(window, start, candidate)
        ):
            return int(start + FRAME_BYTES + candidate)
    found = _find_frame(window, start + 1)
    return _find_enclosing_end(window, start, found)


def _find_frame(window: Window, start: int, stop: int | None = None) -> int:
    """Returns where the first complete record from start to stop begins, or stop."""
    stop = window.size if stop is None else stop
    for position in _iter_headers(window, start, stop):
        length = _read_length(window, position)
        if length is None or (length > _ALWAYS_CHECKED and not window.spend(length)):
            continue
        if _payload_matches(window, position, length):
            return position
    return stop


def _find_chain(window: Window, start: int, end: int) -> int:
    """Returns where frames start that lead to the end without a gap, or the end.

    Frames inside the damaged payload cannot lead there, since its checksum lies between: a writer
    appended these to a torn record.
    """
    position = start
    while position < end:
        first = position = _find_frame(window, position, end)
        while position < end and (record := read_record(window, position)) is not None:
            position = record.end
        if position == end:
            return first
        position += 1
    return end


def _find_enclosing_end(window: Window, start: int, found: int) -> int:
    """Returns where the record that encloses a found frame ends, or the frame if none does."""
    if found >= window.size or found - start > FRAME_BYTES + LARGEST_PAYLOAD:
        return found
    limit = found + LOOKAHEAD_BYTES
    ends = _iter_headers(window, found, limit)
    crc, position = 0, start + HEADER_BYTES
    for end in itertools.chain(ends, [window.size] if window.size <= limit else []):
        footer = end - FOOTER_BYTES
        if footer < position:
            continue
        if not window.spend(footer - position + _STEP_COST):
            break
        crc = _crc_of(window, position, footer, crc)
        position = footer
        if window.view(footer, end) == struct.pack("<I", crc32c.mask(crc)):
            return end
    return found


def _iter_headers(window: Window, start: int, stop: int) -> Iterator[int]:
    """Yields each position from start to stop that holds an intact header of a fitting length."""
    stop, size = min(stop, window.size), _SMALLEST_BLOCK
    while start < stop:
        block = window.view(start, min(start + size, stop) + HEADER_BYTES - 1)
        if len(block) < HEADER_BYTES:
            return
        largest = min(LARGEST_PAYLOAD, window.size - start)
        for position in _find_headers(block, largest):
            yield start + position
        start += len(block) - HEADER_BYTES + 1
        size = min(4 * size, _LARGEST_BLOCK)


def _find_headers(block: memoryview, largest: int) -> Iterator[int]:
    if extension.scan is not None:
        position = extension.scan.find_header(block, largest, 0)
        while position >= 0:
            yield position
            position = extension.scan.find_header(block, largest, position + 1)
        return
    count = len(block) - HEADER_BYTES + 1
    lengths = np.ndarray((count,), "<u8", block, strides=(1,))
    checksums = np.ndarray((count,), "<u4", block, offset=8, strides=(1,))
    fitting = np.flatnonzero((lengths <= largest) & ((lengths != 0) | (checksums != 0)))
    matching = crc32c.masked_crc32c_of_lengths(lengths[fitting]) == checksums[fitting]
    yield from map(int, fitting[matching])
