"""One run's values: those asked for are decoded, damage is reported."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tb_firstloss.arrays import to_float64
from tb_firstloss.reading.damage import Report, undecodable
from tb_firstloss.reading.files.open import Window
from tb_firstloss.reading.format import wire
from tb_firstloss.reading.format.records import Record
from tb_firstloss.reading.format.rows import Chunk, Names, Rows, iter_chunks, scan_record
from tb_firstloss.reading.format.tensor_proto import TooLargeError
from tb_firstloss.reading.format.values import PLUGIN_NAMES, decode_content
from tb_firstloss.reading.restarts import Restarts, find_restarts
from tb_firstloss.reading.selection import RowFilter, Selection
from tb_firstloss.reading.tensor_datum import TensorDatum

_SMALL_TENSOR = 256
"""Bytes above which a serialized tensor is not a scalar: one number of rank 32 takes about 180."""

Columns = tuple[
    npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]
]
"""Tag number, step, wall_time and value of scalars, each [n]."""


class RunReader:
    """Reads one run, event file by event file in the order of writing.

    Attributes:
        tags: Tag by number, in order of occurrence.
        report: Called with damage once everything before it has been yielded.
    """

    def __init__(self, run: str, selection: Selection, report: Report) -> None:
        self._run = run
        self._names = Names()
        self._filter = RowFilter(selection, self._names)
        self._max_tensor_bytes = selection.max_tensor_bytes
        self._only_resumed = selection.keep == "resumed"
        self._restarts: dict[str, Restarts] = {}
        self._views = selection.views
        self.tags = self._names.tags
        self.report = report

    def prepare(self, paths: list[str]) -> None:
        """Finds what a restart has orphaned in the run's files, if that is to be left out."""
        if self._only_resumed:
            self._restarts = find_restarts(paths)

    def chunks(self, window: Window) -> Iterator[Chunk]:
        """Yields the chosen rows of an event file."""
        yield from map(self._choose, iter_chunks(window, self._names, report=self.report))

    def tensors(self, window: Window) -> Iterator[TensorDatum]:
        """Yields the chosen values of an event file."""
        for chunk in self.chunks(window):
            yield from self._decode(chunk)

    def tensors_of(self, record: Record, path: str) -> Iterator[TensorDatum]:
        """Yields the chosen values of one record of an event file."""
        for chunk in scan_record(record, path, self._names, report=self.report):
            yield from self._decode(self._choose(chunk))

    def scalars(self, window: Window) -> Iterator[tuple[Columns, float]]:
        """Yields the chosen scalars of an event file, and the share of it that has been read."""
        for chunk in self.chunks(window):
            yield self._decode_scalars(chunk), (chunk.base + len(chunk.data)) / window.size

    def _choose(self, chunk: Chunk) -> Chunk:
        rows = self._filter.apply(chunk.rows)
        if chunk.path in self._restarts:
            rows = self._restarts[chunk.path].without_orphans(rows)
        return chunk if rows is chunk.rows else chunk._replace(rows=rows)

    def _decode(self, chunk: Chunk) -> Iterator[TensorDatum]:
        """Yields the values of a chunk's rows."""
        rows, names, limit = chunk.rows, self._names, self._max_tensor_bytes
        floats = rows.bits.astype(np.uint32).view(np.float32)
        doubles = rows.bits.view(np.float64)
        each = zip(*(column.tolist() for column in rows.columns), strict=True)
        for i, row in enumerate(each):
            _, start, step, wall_time, _, _, size, tag, plugin, content_type = row
            if content_type in (wire.SIMPLE_VALUE, wire.FLOAT_SCALAR):
                value = np.asarray(floats[i])
            elif content_type == wire.DOUBLE_SCALAR:
                value = np.asarray(doubles[i])
            else:
                content = chunk.content(start, size)
                try:
                    value = decode_content(content, content_type, max_tensor_bytes=limit)
                    if not (self._views or value.flags.writeable):
                        value = value.copy()
                except (ValueError, MemoryError) as error:
                    self._report_undecodable(chunk, i, error)
                    continue
            plugin_name = names.plugin_names[plugin] or PLUGIN_NAMES.get(content_type, "")
            metadata = names.metadata[tag]
            yield TensorDatum(
                self._run, names.tags[tag], step, wall_time, plugin_name, value, metadata
            )

    def _report_undecodable(self, chunk: Chunk, row: int, error: Exception) -> None:
        start = int(chunk.rows.record_start[row])
        end = start + int(chunk.rows.record_size[row])
        reason = f"{self.tags[chunk.rows.tag[row]]}: {error}"
        too_large = isinstance(error, TooLargeError)
        self.report(undecodable(chunk.path, start, end, reason, too_large=too_large))

    def _decode_scalars(self, chunk: Chunk) -> Columns:
        """Returns the columns of the scalars among a chunk's rows."""
        rows = self._scalar_rows(chunk.rows)
        values = to_float64(rows.bits.astype(np.uint32).view(np.float32))
        doubles = rows.content_type == wire.DOUBLE_SCALAR
        if doubles.any():
            values[doubles] = rows.bits[doubles].view(np.float64)
        others = np.flatnonzero(rows.content_type == wire.TENSOR).tolist()
        if others:
            chunk, kept = chunk._replace(rows=rows), np.ones(len(rows), bool)
            for i in others:
                scalar = self._decode_scalar(chunk, i)
                kept[i] = scalar is not None
                values[i] = 0.0 if scalar is None else scalar
            rows, values = rows.take(kept), values[kept]
        return rows.tag, rows.step, rows.wall_time, values

    def _scalar_rows(self, rows: Rows) -> Rows:
        """Returns the rows that are scalars, or tensors that may be."""
        chosen = (rows.content_type <= wire.DOUBLE_SCALAR) | (
            (rows.content_type == wire.TENSOR) & (rows.size <= _SMALL_TENSOR)
        )
        allowed = np.array([name in ("", "scalars") for name in self._names.plugin_names])
        if not allowed.all():
            chosen &= allowed[rows.plugin_name] | (rows.content_type == wire.SIMPLE_VALUE)
        return rows if chosen.all() else rows.take(chosen)

    def _decode_scalar(self, chunk: Chunk, row: int) -> float | None:
        """Returns a small tensor's value, or None where it is not a real scalar."""
        content = chunk.content(int(chunk.rows.start[row]), int(chunk.rows.size[row]))
        try:
            value = decode_content(content, wire.TENSOR, max_tensor_bytes=self._max_tensor_bytes)
        except ValueError as error:
            self._report_undecodable(chunk, row, error)
            return None
        belongs = chunk.rows.plugin_name[row] != 0 or value.ndim == 0
        if not belongs or value.size != 1 or value.dtype.kind in "cOSU" or value.dtype.names:
            return None
        return float(value.reshape(()))
