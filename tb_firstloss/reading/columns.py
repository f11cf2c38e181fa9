"""Scalars as columns, and the columns as pandas, Arrow, CSV or Parquet."""

import contextlib
import csv
import dataclasses
import importlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tb_firstloss import errors

_COLUMNS = ("run", "tag", "step", "wall_time", "value")


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
    """

    run_names: list[str]
    tag_names: list[str]
    run_codes: npt.NDArray[np.int32]
    tag_codes: npt.NDArray[np.int32]
    step: npt.NDArray[np.int64]
    wall_time: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.step)

    @cached_property
    def run(self) -> npt.NDArray[np.object_]:
        """Run name of each row, object array [n] of str."""
        return np.array([*self.run_names, None], object)[self.run_codes]

    @cached_property
    def tag(self) -> npt.NDArray[np.object_]:
        """Tag of each row, object array [n] of str."""
        return np.array([*self.tag_names, None], object)[self.tag_codes]

    def __repr__(self) -> str:
        return f"Scalars({len(self)} rows, {len(self.run_names)} runs, {len(self.tag_names)} tags)"

    def to_pandas(self) -> Any:
        """Returns a DataFrame of the five columns; run and tag are categorical.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        pandas = import_optional("pandas", "pandas")
        names = {
            "run": pandas.Categorical.from_codes(self.run_codes, self.run_names),
            "tag": pandas.Categorical.from_codes(self.tag_codes, self.tag_names),
        }
        return pandas.DataFrame({**names, **{c: getattr(self, c) for c in _COLUMNS[2:]}})

    def to_arrow(self) -> Any:
        """Returns a pyarrow Table of the five columns; run and tag are dictionary-encoded.

        Raises:
            MissingDependencyError: pyarrow is not installed.
        """
        arrow = import_optional("pyarrow", "arrow")
        columns = [
            arrow.DictionaryArray.from_arrays(codes, arrow.array(names, arrow.string()))
            for codes, names in ((self.run_codes, self.run_names), (self.tag_codes, self.tag_names))
        ]
        columns += [arrow.array(getattr(self, name)) for name in _COLUMNS[2:]]
        return arrow.table(columns, names=list(_COLUMNS))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes the five columns as CSV (UTF-8), whole or not at all.

        Numbers read back bit for bit; every NaN is "nan", as pandas and Arrow read it.
        """
        with _replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as f:
            writer = csv.writer(f)
            writer.writerow(_COLUMNS)
            writer.writerows(zip(*(getattr(self, c).tolist() for c in _COLUMNS), strict=True))

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Writes the five columns as Parquet, whole or not at all, and keeps every bit.

        Raises:
            MissingDependencyError: pyarrow is not installed.
        """
        parquet = import_optional("pyarrow.parquet", "arrow")
        with _replacing(path) as temporary:
            parquet.write_table(self.to_arrow(), temporary)


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
    """Returns the distinct names, and the codes of all parts, which point into them."""
    numbers: dict[str, int] = {}  # pandas and Arrow reject repeated categories
    found = []
    for names, codes in parts:
        table = [numbers.setdefault(name, len(numbers)) for name in names]
        same = table == list(range(len(table)))
        found.append(codes if same else np.array([*table, 0], np.int32)[codes])
    return list(numbers), _concatenate(found, np.int32)


def _concatenate(arrays: list[Any], dtype: Any) -> Any:
    return arrays[0] if len(arrays) == 1 else np.concatenate([np.zeros(0, dtype), *arrays])


def import_optional(module: str, extra: str) -> Any:
    """Returns a module that an extra of this package installs, or raises what names the extra."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise errors.MissingDependencyError(
            f"{package} is not installed; pip install 'tb-firstloss[{extra}]'"
        ) from None


@contextlib.contextmanager
def _replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a new file to write, which replaces the path once it is complete."""
    target = Path(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # as open() would have made it
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
