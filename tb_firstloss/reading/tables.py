"""Columns of names and numbers as pandas, Arrow, CSV or Parquet."""

import contextlib
import csv
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tb_firstloss import errors
from tb_firstloss.arrays import Array
from tb_firstloss.text import encodable

_OPEN_FILES = ("/dev/fd/", "/dev/std", "/proc/self/fd/")


class Coded(NamedTuple):
    """A column of names, most of which repeat: codes, int32 [n], point into the distinct names."""

    names: list[str]
    codes: npt.NDArray[np.int32]

    def values(self) -> npt.NDArray[np.object_]:
        """Returns the name in each row, object array [n] of str."""
        return np.array([*self.names, None], object)[self.codes]


Columns = dict[str, Coded | Array]
"""Columns by name, all [n]; what a row lacks is masked, or None in an object array."""


def to_pandas(columns: Columns) -> Any:
    """Returns a DataFrame, with names as categories, and NaN or None for what is missing."""
    pandas = import_optional("pandas")

    def convert(column: Coded | Array) -> Any:
        if isinstance(column, Coded):
            return pandas.Categorical.from_codes(column.codes, column.names)
        if column.dtype == object:
            return pandas.Series(column).infer_objects()
        return column.filled(np.nan) if isinstance(column, np.ma.MaskedArray) else column

    return pandas.DataFrame({name: convert(column) for name, column in columns.items()})


def to_arrow(columns: Columns) -> Any:
    """Returns a pyarrow Table, with names as dictionaries, and nulls for what is missing."""
    arrow = import_optional("pyarrow")

    def convert(column: Coded | Array) -> Any:
        if isinstance(column, Coded):
            names = arrow.array(map(encodable, column.names), arrow.string())
            return arrow.DictionaryArray.from_arrays(column.codes, names)
        if column.dtype != object:
            mask = column.mask if isinstance(column, np.ma.MaskedArray) else None
            return arrow.array(np.ma.getdata(column), mask=mask)
        values = [encodable(value) if isinstance(value, str) else value for value in column]
        try:
            return arrow.array(values)
        except arrow.ArrowException:  # numbers and text in one column
            return arrow.array([None if value is None else str(value) for value in values])

    return arrow.table(list(map(convert, columns.values())), names=list(map(encodable, columns)))


def to_csv(columns: Columns, path: str | os.PathLike[str]) -> None:
    """Writes CSV (UTF-8), whole or not at all; what is missing is empty."""
    lists = [
        (column.values() if isinstance(column, Coded) else column).tolist()
        for column in columns.values()
    ]
    with (
        _replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*lists, strict=True))


def to_parquet(columns: Columns, path: str | os.PathLike[str]) -> None:
    """Writes Parquet, whole or not at all."""
    parquet = import_optional("pyarrow.parquet")
    with _replacing(path) as temporary:
        parquet.write_table(to_arrow(columns), temporary)


def import_optional(module: str) -> Any:
    """Returns a module of a package that is not required, or raises what names the package."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise errors.MissingDependencyError(
            f"{package} is not installed; pip install {package}"
        ) from None


def is_written_into(path: Path) -> bool:
    """Returns whether a path keeps what it is: a pipe, a device, or a file that is open already."""
    return path.exists() and (not path.is_file() or str(path).startswith(_OPEN_FILES))


@contextlib.contextmanager
def _replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a new file to write, which replaces the path's content once it is complete.

    A link stays one, and so does what is written into; a file keeps its mode.
    """
    target = Path(path)
    special = is_written_into(target)
    if not special:
        target = Path(os.path.realpath(target))
    where = None if special else target.parent
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=where)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        if special:
            with temporary.open("rb") as whole, target.open("ab") as out:
                shutil.copyfileobj(whole, out)
            return
        umask = os.umask(0)
        os.umask(umask)  # open() gives a new file what it leaves
        temporary.chmod(target.stat().st_mode & 0o7777 if target.exists() else 0o666 & ~umask)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
