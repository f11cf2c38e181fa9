"""Bytes to checked records, and on past damage.

A record is a little-endian uint64 length, a masked CRC32C of these eight bytes, the payload, and a
masked CRC32C of the payload. A record is returned only when both checksums match; everything
between two of them is reported as one `Damage`.

After damage the walk resumes, in this order of trust, at

1. the end that an intact header claims, when the file ends there or another header follows (and
   no frames inside lead exactly there: those were appended to a torn record);
2. the end given by the length field, or by the length that the header's checksum implies, when the
   payload's checksum confirms it;
3. the next complete record, unless the damaged one is found to enclose it: when up to
   `LOOKAHEAD_BYTES` further on a header stands behind a checksum that matches everything from the
   damaged header on, the walk resumes there.

What remains undecidable: complete frames inside a payload become records when the header around
them is damaged in length and checksum and the payload is damaged too or longer than
`LOOKAHEAD_BYTES`, or when the file ends inside that payload (a torn record that a writer has
appended to looks the same, and there the frames are real). And in a file made to be searched in
vain, the search ends after `Window.spend` bytes; only short records are found from there on.
"""

from __future__ import annotations

import dataclasses
import itertools
import struct
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from tb_firstloss import errors
from tb_firstloss.reading.files.open import Window
from tb_firstloss.reading.format import crc32c, extension

HEADER_BYTES = 12
FOOTER_BYTES = 4
FRAME_BYTES = HEADER_BYTES + FOOTER_BYTES

LARGEST_PAYLOAD = 2**31 - 1
"""A protocol buffer cannot be longer; a header that claims more counts as damaged."""

LOOKAHEAD_BYTES = 1 << 18
_ALWAYS_CHECKED = 1 << 10
"""Bytes of a payload that a search checks however much it has checked before (`Window.spend`)."""

_STEP_COST = 1 << 9
_SMALLEST_BLOCK, _LARGEST_BLOCK = 1 << 9, 1 << 16
_PIECE = 1 << 22

Kind = Literal["incomplete", "corrupt", "undecodable", "unreadable"]
Report = Callable[["Damage"], None]


@dataclasses.dataclass(frozen=True, order=True)
class Damage:
    """One stretch of an event file, or a whole file, that could not be read.

    Attributes:
        path: Event file.
        start: First damaged byte.
        end: Byte after the last damaged one.
        kind: "incomplete" for a record (or a recording) that was cut short, "corrupt" for bytes
            that no checksum confirms, "undecodable" for an intact record whose content breaks the
            format or a limit, "unreadable" for a file that cannot be opened or read.
        message: What was found, in one line.
        cause: The exception that it came from, if any.
    """

    path: str
    start: int
    end: int
    kind: Kind
    message: str
    cause: errors.ReadError | None = dataclasses.field(default=None, repr=False, compare=False)

    def error(self) -> errors.ReadError:
        """Returns the exception that stands for this damage."""
        if self.cause is not None:
            return self.cause
        classes: dict[str, type[errors.ReadError]] = {
            "undecodable": errors.UndecodableError,
            "unreadable": errors.EventFileError,
        }
        kind = classes.get(self.kind, errors.CorruptRecordError)
        return kind(str(self), path=self.path, start=self.start, end=self.end)

    def __str__(self) -> str:
        if self.kind == "unreadable":
            return self.message
        return f"{self.path}: bytes {self.start} to {self.end}: {self.message}"


class Record(NamedTuple):
    """An intact record: where it starts and ends in the file, and its payload."""

    start: int
    end: int
    payload: memoryview


def iter_records(window: Window, *, report: Report, start: int = 0) -> Iterator[Record]:
    """Yields every intact record from a position on and reports every gap.

    Args:
        window: Of the event file.
        report: Called with each gap, before the record that follows it is yielded.
        start: Byte to begin at.
    """
    position = start
    while position < window.size:
        record = read_record(window, position)
        if record is None:
            damage = assess(window, position)
            report(damage)
            position = damage.end
        else:
            position = record.end
            yield record


def read_record(window: Window, start: int) -> Record | None:
    """Returns the record that starts at a position, or None unless both its checksums match."""
    length = _read_length(window, start)
    if length is None:
        return None
    end = start + FRAME_BYTES + length
    if not _payload_matches(window, start, length):
        return None
    payload = window.view(start + HEADER_BYTES, end - FOOTER_BYTES)
    return Record(start, end, payload) if len(payload) == length else None


def is_cut_short(window: Window, start: int) -> bool:
    """Tells whether the file ends inside the record at a position, as far as its header tells."""
    if window.size - start < HEADER_BYTES:
        return True
    length = _read_length(window, start)
    return length is not None and start + FRAME_BYTES + length > window.size


def assess(window: Window, start: int) -> Damage:
    """Returns the damage at a position that holds no intact record; its end is where to resume."""
    size, length = window.size, _read_length(window, start)
    if length is None:
        end = _find_resumption(window, start)
        if size - start < HEADER_BYTES:
            message = f"the file ends inside a record's header ({size - start} of 12 bytes)"
            return Damage(window.path, start, size, "incomplete", message)
        message = "no intact record; the length's checksum does not match"
        return Damage(window.path, start, end, "corrupt", message)
    claimed = start + FRAME_BYTES + length
    if claimed > size:
        end = _find_frame(window, start + HEADER_BYTES)
        message = f"a record of {length} bytes was cut short: {size - start - HEADER_BYTES} remain"
        return Damage(window.path, start, end, "incomplete", message)
    message = f"the checksum of a record of {length} bytes does not match"
    if claimed == size or _read_length(window, claimed) is not None:
        end = _find_chain(window, start + HEADER_BYTES, claimed)
    else:
        end = _find_frame(window, start + HEADER_BYTES)
    return Damage(window.path, start, end, "corrupt", message)


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
    """Tells whether a payload of this length behind a header agrees with its checksum."""
    position = start + HEADER_BYTES
    end = position + length
    if end + FOOTER_BYTES > window.size:
        return False
    crc = 0
    if length > _PIECE:  # read a large payload into memory only once it is known to be intact
        while position + _PIECE < end:
            crc = crc32c.crc32c(window.view(position, position + _PIECE), crc)
            position += _PIECE
    tail = window.view(position, end + FOOTER_BYTES)
    if len(tail) != end + FOOTER_BYTES - position:
        return False
    (stored,) = struct.unpack("<I", tail[-FOOTER_BYTES:])
    return bool(crc32c.masked_crc32c(tail[:-FOOTER_BYTES], crc) == stored)


def _find_resumption(window: Window, start: int) -> int:
    """Returns where to resume after a damaged header."""
    header = window.view(start, start + HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return window.size
    length, checksum = struct.unpack("<QI", header)
    for candidate in (length, crc32c.length_of_masked_crc32c(checksum)):
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
    """Returns where frames that lead without a gap to the end start, or the end.

    A damaged payload's own frames cannot lead there: its checksum lies between. They are what a
    writer appended to a torn record.
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
    """Returns where the record around a found frame ends, or the frame when none is around it."""
    limit = found + LOOKAHEAD_BYTES
    ends = _iter_headers(window, found, limit)
    crc, position = 0, start + HEADER_BYTES
    for end in itertools.chain(ends, [window.size] if window.size <= limit else []):
        footer = end - FOOTER_BYTES
        if footer < position:
            continue
        if not window.spend(footer - position + _STEP_COST):
            break
        crc = crc32c.crc32c(window.view(position, footer), crc)
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
    fitting = np.flatnonzero(lengths <= largest)
    matching = crc32c.masked_crc32c_of_lengths(lengths[fitting]) == checksums[fitting]
    yield from map(int, fitting[matching])
