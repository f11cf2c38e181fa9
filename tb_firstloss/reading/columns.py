"""Scalars as columns: joined, sorted, made wide, next to hyperparameters, and taken elsewhere."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tb_firstloss.errors import some_of
from tb_firstloss.reading import tables
from tb_firstloss.reading.damage import reporter
from tb_firstloss.reading.hparams import collect_hparams, columns_of
from tb_firstloss.reading.tables import Coded, Columns
from tb_firstloss.text import printable

PathLike = str | os.PathLike[str]
Beside = bool | Mapping[str, Mapping[str, Any]]
_NUMBERS = ("step", "wall_time", "value")
_MOST_SHOWN = 20
_MOST_CELLS = 1 << 27


@dataclasses.dataclass(frozen=True, eq=False)
class Scalars:
    """Scalars of many runs and tags, as columns of equal length n, run by run in file order.

    Attributes:
        run_names: Runs, sorted; run_codes point into them.
        tag_names: Tags, in order of first occurrence; tag_codes point into them.
        run_codes: int32 [n].
        tag_codes: int32 [n].
        step: int64 [n].
        wall_time: float64 [n], seconds since the Unix epoch.
        value: float64 [n]. It holds every float, half, bfloat16, bool and up to 32-bit integer
            exactly; 64-bit integers beyond 2**53 are rounded (`iter_tensors` gives them exactly).
        source: The path that was read, or None.
    """

    run_names: list[str]
    tag_names: list[str]
    run_codes: npt.NDArray[np.int32]
    tag_codes: npt.NDArray[np.int32]
    step: npt.NDArray[np.int64]
    wall_time: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]
    source: str | None = None

    def __len__(self) -> int:
        return len(self.step)

    @cached_property
    def run(self) -> npt.NDArray[np.object_]:
        """Run name of each row, object array [n] of str."""
        return Coded(self.run_names, self.run_codes).values()

    @cached_property
    def tag(self) -> npt.NDArray[np.object_]:
        """Tag of each row, object array [n] of str."""
        return Coded(self.tag_names, self.tag_codes).values()

    def __repr__(self) -> str:
        return f"Scalars({len(self)} rows, {len(self.run_names)} runs, {len(self.tag_names)} tags)"

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: the first rows."""
        from tb_firstloss.notebook import table_to_html  # only a notebook needs it

        first = self._take(np.arange(min(len(self), _MOST_SHOWN)))
        numbers = (getattr(first, name).tolist() for name in _NUMBERS)
        rows = zip(first.run, first.tag, *numbers, strict=True)
        more = len(self) - len(first)
        note = f"… and {more} more; .to_pandas() has all" if more else ""
        return table_to_html(("run", "tag", *_NUMBERS), rows, title=repr(self), note=note)

    def sorted(self) -> "Scalars":
        """Returns the rows by run, tag and step; those that agree in all three in file order."""
        return self._take(self._order())

    def last(self) -> "Scalars":
        """Returns the row of the highest step per run and tag, sorted by run and tag.

        If several have that step, it is the last one written.
        """
        order = self._order()
        ends = np.roll(group_starts(self.run_codes[order], self.tag_codes[order]), -1)
        return self._take(order[ends])

    def to_pandas(self, *, pivot: bool = False, hparams: Beside = False) -> Any:
        """Returns a DataFrame of the five columns; run and tag are categorical.

        Args:
            pivot: Returns one row per run and step instead, sorted, with both as the index, and a
                float64 column per tag; NaN where a tag has no value. A tag that is called like
                another column becomes ``tag/<name>``, and once more where that is a tag too.
            hparams: Adds a column ``hparams/<name>`` per hyperparameter, with those of the row's
                run, else of the nearest run above it; NaN or None where it has none. True reads
                them from where the scalars came from; a mapping from run names is taken as it is.

        Raises:
            MissingDependencyError: pandas is not installed.
            ValueError: With pivot, several values have the same run, tag and step; read them with
                keep="first" or keep="last". Or rows times tags are more than 2**27.
        """
        frame = tables.to_pandas(self._columns(pivot, hparams))
        return frame.set_index(["run", "step"]) if pivot else frame

    def to_arrow(self, *, pivot: bool = False, hparams: Beside = False) -> Any:
        """Returns what `to_pandas` does as a pyarrow Table, with nulls for what is missing.

        Run and tag are dictionary-encoded; a wide table begins with run and step. Without pyarrow,
        this and what builds on it raise MissingDependencyError.
        """
        return tables.to_arrow(self._columns(pivot, hparams))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Returns the five columns as an Arrow stream, which polars, DuckDB and pyarrow take.

        See https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html.
        """
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def to_csv(self, path: PathLike, *, pivot: bool = False, hparams: Beside = False) -> None:
        """Writes the columns of `to_arrow` as CSV (UTF-8), whole or not at all.

        Numbers read back bit for bit; every NaN is "nan", as pandas and Arrow read it, and what is
        missing is empty.
        """
        tables.to_csv(self._columns(pivot, hparams), path)

    def to_parquet(self, path: PathLike, *, pivot: bool = False, hparams: Beside = False) -> None:
        """Writes the table of `to_arrow` as Parquet, whole or not at all, and keeps every bit."""
        tables.to_parquet(self._columns(pivot, hparams), path)

    def _columns(self, pivot: bool, hparams: Beside) -> Columns:
        if hparams is True:
            if self.source is None:
                raise ValueError("hparams=True: nothing says where they are; give a mapping by run")
            hparams = collect_hparams(self.source, None, reporter("ignore"))
        beside = hparams or {}
        if pivot:
            return self._wide(beside)
        run, tag = Coded(self.run_names, self.run_codes), Coded(self.tag_names, self.tag_codes)
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return {"run": run, "tag": tag, **numbers, **columns_of(beside, run)}

    def _wide(self, hparams: Mapping[str, Mapping[str, Any]]) -> Columns:
        """Returns a row per run and step, and a column per tag."""
        order = np.lexsort((self.step, self.run_codes))
        run, step = self.run_codes[order], self.step[order]
        first = group_starts(run, step)
        row = np.empty(len(self), np.intp)
        row[order] = np.cumsum(first) - 1
        run, step = run[first], step[first]
        by_tag = np.lexsort((row, self.tag_codes))
        again = by_tag[~group_starts(self.tag_codes[by_tag], row[by_tag])]
        if len(again):
            some = self._take(again[:100])
            each = zip(some.run, some.tag, some.step, strict=True)
            names = dict.fromkeys(f"{run} {tag} at step {step}" for run, tag, step in each)
            shown = printable(some_of(list(names), 3))
            advice = "read with keep='last' or 'first' (on the command line --keep last)"
            raise ValueError(f"pivot: several values of {shown}; {advice}")
        if len(step) * len(self.tag_names) > _MOST_CELLS:
            size = f"{len(step)} rows and {len(self.tag_names)} tags, above {_MOST_CELLS} cells"
            raise ValueError(f"pivot: {size}; choose fewer with tags= (on the command line --tag)")
        keys = Coded(self.run_names, run)
        columns: Columns = {"run": keys.values(), "step": step, **columns_of(hparams, keys)}
        tags = set(self.tag_names)
        bounds = np.searchsorted(self.tag_codes[by_tag], np.arange(len(self.tag_names) + 1))
        for tag, start, end in zip(self.tag_names, bounds, bounds[1:], strict=False):
            column = np.ma.array(np.full(len(step), np.nan), mask=True)
            column[row[by_tag[start:end]]] = self.value[by_tag[start:end]]
            name = tag
            while name in columns or (name != tag and name in tags):
                name = f"tag/{name}"
            columns[name] = column
        return columns

    def _order(self) -> npt.NDArray[np.intp]:
        run, tag = _ranks(self.run_names)[self.run_codes], _ranks(self.tag_names)[self.tag_codes]
        return np.lexsort((self.step, tag, run))

    def _take(self, rows: npt.NDArray[np.intp]) -> "Scalars":
        taken = {name: getattr(self, name)[rows] for name in ("run_codes", "tag_codes", *_NUMBERS)}
        return dataclasses.replace(join([dataclasses.replace(self, **taken)]), source=self.source)


def join(parts: Sequence[Scalars]) -> Scalars:
    """Returns the rows of several as one; runs, and tags, of one name become one."""
    run_names, run_codes = _renumber([(part.run_names, part.run_codes) for part in parts])
    tag_names, tag_codes = _renumber([(part.tag_names, part.tag_codes) for part in parts])
    columns = {
        name: _concatenate([getattr(part, name) for part in parts], dtype)
        for name, dtype in (("step", np.int64), ("wall_time", np.float64), ("value", np.float64))
    }
    return Scalars(run_names, tag_names, run_codes, tag_codes, **columns)


def _renumber(
    parts: list[tuple[list[str], npt.NDArray[np.int32]]],
) -> tuple[list[str], npt.NDArray[np.int32]]:
    """Returns the distinct names that have rows, and the codes of all parts for them."""
    numbers: dict[str, int] = {}  # pandas and Arrow reject repeated categories
    found = []
    for names, codes in parts:
        table = [numbers.setdefault(name, len(numbers)) for name in names]
        same = table == list(range(len(table)))
        found.append(codes if same else np.array([*table, 0], np.int32)[codes])
    return _used(list(numbers), _concatenate(found, np.int32))


def _used(
    names: list[str], codes: npt.NDArray[np.int32]
) -> tuple[list[str], npt.NDArray[np.int32]]:
    """Returns the names that codes point to, and the codes renumbered to them."""
    used = np.bincount(codes, minlength=len(names)) > 0
    if used.all():
        return names, codes
    numbers = np.cumsum(used, dtype=np.int32) - 1
    return [name for name, kept in zip(names, used, strict=True) if kept], numbers[codes]


def _ranks(names: list[str]) -> npt.NDArray[np.int32]:
    """Returns the place of each name among the sorted ones."""
    ranks = np.empty(len(names), np.int32)
    ranks[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names), dtype=np.int32)
    return ranks


def group_starts(*columns: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Returns where rows, which are in order, begin that differ from the row in front of them."""
    starts = np.zeros(len(columns[0]), bool)
    starts[:1] = True
    for column in columns:
        starts[1:] |= column[1:] != column[:-1]
    return starts


def _concatenate(arrays: list[Any], dtype: Any) -> Any:
    return arrays[0] if len(arrays) == 1 else np.concatenate([np.zeros(0, dtype), *arrays])
