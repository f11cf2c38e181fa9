"""One pass over an event file: records to rows that say where each value lies.

The reference walks record by record, in Python. Where the extension `_scan` is built it takes the
regular stretches and stops at whatever it does not expect, which the reference then reads: rows and
reports are the same with and without it.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tb_firstloss.reading.damage import Report, undecodable
from tb_firstloss.reading.files.open import Window
from tb_firstloss.reading.format import extension, records, wire
from tb_firstloss.reading.format.records import Record

_SMALLEST_VALUE = 4
"""Bytes of the shortest summary value that has any content."""

ROWS_PER_CHUNK = 1 << 14

_LARGEST_METADATA, _MOST_METADATA = 1 << 20, 1 << 26
"""Bytes of one tag's metadata, and of those of a run's tags together; larger ones are left out."""


@dataclasses.dataclass(eq=False, slots=True)
class Rows:
    """Summary values, one per row, as columns of equal length n; `_scan.pyx` declares the same."""

    record_start: npt.NDArray[np.int64]  # in the file, of the value's record
    start: npt.NDArray[np.int64]  # in the file, of its content
    step: npt.NDArray[np.int64]
    wall_time: npt.NDArray[np.float64]  # seconds since the Unix epoch
    bits: npt.NDArray[np.uint64]  # IEEE 754, of a scalar; else 0
    record_size: npt.NDArray[np.int32]  # bytes of the record
    size: npt.NDArray[np.int32]  # bytes of the content
    tag: npt.NDArray[np.int32]  # number of the tag in the run's `Names`
    plugin_name: npt.NDArray[np.int32]  # number of the plugin name there
    content_type: npt.NDArray[np.int32]  # as in `wire.RawValue`

    @classmethod
    def of(cls, rows: list[tuple[Any, ...]]) -> "Rows":
        """Returns the columns of rows given as tuples."""
        return cls(*map(np.array, zip(*rows, strict=True), _DTYPES))

    def __len__(self) -> int:
        return len(self.step)

    @property
    def columns(self) -> list[npt.NDArray[Any]]:
        """All columns, in the order above."""
        return [getattr(self, name) for name in self.__slots__]

    def take(self, chosen: npt.NDArray[np.bool_]) -> "Rows":
        """Returns the rows that a boolean mask [n] chooses."""
        return Rows(*(column[chosen] for column in self.columns))


_DTYPES = list(map(np.dtype, ["i8"] * 3 + ["f8", "u8"] + ["i4"] * 5))
_ROW_BYTES = sum(dtype.itemsize for dtype in _DTYPES)


class Names:
    """Tags and plugin names of one run, numbered in order of occurrence.

    A tag's metadata is that of its first value which names a plugin, else that of its first value;
    later values may omit it.

    Attributes:
        tags: Tag by number.
        metadata: A tag's metadata by its number.
        left_out: Numbers of the tags whose metadata was too large to keep.
        plugin_names: Plugin name by number; number 0 is the empty one.
        index: The extension's copy, or None without the extension.
    """

    def __init__(self) -> None:
        self.tags: list[str] = []
        self.metadata: list[wire.Metadata] = []
        self.left_out: set[int] = set()
        self.plugin_names: list[str] = [""]
        self.index = None if extension.scan is None else extension.scan.Index()
        self._tag_numbers: dict[bytes, int] = {}
        self._plugin_numbers: dict[bytes, int] = {b"": 0}
        self._plugin_of_tag: list[int] = []
        self._room = _MOST_METADATA

    def number(self, tag: bytes, plugin_name: bytes, metadata: bytes = b"") -> tuple[int, int]:
        """Returns the numbers of a value's tag and of its plugin name, both of them UTF-8."""
        number = self._tag_numbers.get(tag, -1)
        plugin = self._plugin_numbers.get(plugin_name, -1)
        if number < 0 or plugin < 0 or (plugin and not self._plugin_of_tag[number]):
            number = self._learn(tag, plugin_name, metadata)
        return number, self._plugin_of_tag[number]

    def plugin_name_of(self, number: int) -> str:
        """Returns the plugin name of the tag of a number."""
        return self.plugin_names[self._plugin_of_tag[number]]

    def _learn(self, tag: bytes, plugin_name: bytes, metadata: bytes) -> int:
        tag_text, plugin_text = tag.decode(), plugin_name.decode()
        plugin = self._plugin_numbers.setdefault(plugin_name, len(self.plugin_names))
        if plugin == len(self.plugin_names):
            self.plugin_names.append(plugin_text)
        number = self._tag_numbers.setdefault(tag, len(self.tags))
        if number == len(self.tags):
            self.tags.append(tag_text)
            self.metadata.append(wire.Metadata())
            self._plugin_of_tag.append(0)
        if not self._plugin_of_tag[number]:
            self._plugin_of_tag[number] = plugin
            if len(metadata) <= min(_LARGEST_METADATA, self._room):
                self._room -= len(metadata)
                self.metadata[number] = wire.parse_metadata(metadata)
                self.left_out.discard(number)
            else:
                self.left_out.add(number)
        if self.index is not None:
            plugin = self._plugin_of_tag[number]
            self.index.put(tag, number, self.plugin_names[plugin].encode(), plugin)
        return number


class Chunk(NamedTuple):
    """Rows of neighbouring records, and the bytes they lie in.

    Attributes:
        path: Event file.
        rows: In file order; positions count from the start of the file.
        base: Position of the first byte of data.
        data: Every byte that the rows refer to.
        session_start: Step at which a session starts in front of the rows, or None.
    """

    path: str
    rows: Rows
    base: int
    data: memoryview
    session_start: int | None = None

    def content(self, start: int, size: int) -> memoryview:
        """Returns the bytes of a row's content."""
        return self.data[start - self.base : start - self.base + size]


def iter_chunks(window: Window, names: Names, *, report: Report) -> Iterator[Chunk]:
    """Yields every value of an event file, in chunks; extends its run's names.

    Damage is reported once everything before it has been yielded.
    """
    position, refilled = 0, False
    while position < window.size:
        if names.index is not None:
            block = window.block(position, refill=refilled)
            rows, size, more = _scan_block(block, position, names)
            if len(rows):
                yield Chunk(window.path, rows, position, block)
            position += size
            if size or (more and not refilled):
                refilled = more
                continue
        refilled = False
        record = records.read_record(window, position)
        if record is not None:
            yield from scan_record(record, window.path, names, report=report)
            position = record.end
        else:
            damage = records.assess(window, position)
            report(damage)
            position = damage.end


def _scan_block(block: memoryview, position: int, names: Names) -> tuple[Rows, int, bool]:
    """Returns a block's first rows, their records' bytes, and whether it ends inside a record."""
    capacity = min(ROWS_PER_CHUNK, len(block) // _SMALLEST_VALUE + 1)
    memory = np.empty(capacity * _ROW_BYTES, np.uint8)
    scan = extension.scan.scan_block
    count, size, more = scan(block, position, names.index, names.number, memory)
    columns: list[npt.NDArray[Any]] = []
    start = 0
    for dtype in _DTYPES:
        columns.append(np.ndarray((count,), dtype, memory, start))
        start += capacity * dtype.itemsize
    return Rows(*columns), size, more


def scan_record(record: Record, path: str, names: Names, *, report: Report) -> Iterator[Chunk]:
    """Yields the values of one intact record; one that cannot be parsed hides no other."""
    base = record.start + records.HEADER_BYTES
    rows: list[tuple[Any, ...]] = []
    failures: list[ValueError] = []
    try:
        event = wire.parse_event(record.payload)
        if event.starts_session:
            nothing = Rows(*(np.empty(0, dtype) for dtype in _DTYPES))
            yield Chunk(path, nothing, base, record.payload, event.step)
        for start, end in wire.iter_value_ranges(record.payload, event):
            try:
                value = wire.parse_value(record.payload, start, end)
                tag, plugin_name = names.number(value.tag, value.plugin_name, value.metadata)
            except ValueError as error:
                failures.append(error)
                continue
            if value.content_type == wire.NO_CONTENT:
                continue
            sizes = record.end - record.start, value.end - value.start
            numbers = tag, plugin_name, value.content_type
            head = record.start, base + value.start, event.step, event.wall_time, value.bits
            rows.append((*head, *sizes, *numbers))
            if len(rows) == ROWS_PER_CHUNK:
                yield Chunk(path, Rows.of(rows), base, record.payload)
                rows.clear()
    except ValueError as error:
        failures.append(error)
    if rows:
        yield Chunk(path, Rows.of(rows), base, record.payload)
    if failures:
        more = f" (and {len(failures) - 1} more values)" if len(failures) > 1 else ""
        report(undecodable(path, record.start, record.end, f"{failures[0]}{more}"))
