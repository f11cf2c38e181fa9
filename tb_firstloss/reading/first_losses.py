"""The recordings of a logdir, as a dict that shows itself as a table."""

from collections.abc import Iterator
from typing import Any

from tb_firstloss.first_batch import FirstBatch, tabulate
from tb_firstloss.loss_table import COLUMNS, LossTable, Row
from tb_firstloss.reading.tables import import_optional
from tb_firstloss.text import encodable, printable, width_of

_MOST_ROWS = 200


class FirstLosses(dict[str, FirstBatch]):
    """First batches by run name, with a table of them for prompts and notebooks."""

    def __repr__(self) -> str:
        rows, more = self._shown()
        texts = [(printable(table.label(row)), row.texts()) for _, table, row in rows]
        columns = [name for name in COLUMNS if name == "loss" or any(t[name] for _, t in texts)]
        lines = [["run", *columns], *([label, *(t[c] for c in columns)] for label, t in texts)]
        widths = [max(map(width_of, column)) for column in zip(*lines, strict=True)]
        return "\n".join([_align(line, widths) for line in lines] + more)

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: a table with histograms."""
        from tb_firstloss.notebook import rows_to_html  # only a notebook needs it

        rows, more = self._shown()
        return rows_to_html((table.label(row), row) for _, table, row in rows) + "".join(more)

    def to_pandas(self) -> Any:
        """Returns a DataFrame with a row per loss and output of each run, as the tables have them.

        Its columns are run, name, step, wall_time, loss, expected, count, mean, std, min, max,
        nonfinite_count and digest. What a row lacks is missing: NaN, or NA in the counts.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        pandas = import_optional("pandas")
        dtypes = {"step": "int64", "count": "Int64", "nonfinite_count": "Int64"}
        dtypes |= dict.fromkeys(("loss", "expected", "mean", "std", "min", "max"), "float64")
        names = ("run", "name", "step", "wall_time", "loss", "expected")
        columns = [*names, "count", "mean", "std", "min", "max", "nonfinite_count", "digest"]
        rows = [_facts(*row) for row in self._rows()]
        return pandas.DataFrame(rows, columns=columns).astype(dtypes)

    def _rows(self) -> Iterator[tuple[FirstBatch, LossTable, Row]]:
        for first in self.values():
            table = tabulate(first)
            for row in table.rows:
                yield first, table, row

    def _shown(self) -> tuple[list[tuple[FirstBatch, LossTable, Row]], list[str]]:
        """Returns the first rows, and a line about the others, if any."""
        rows = list(self._rows())
        more = len(rows) - _MOST_ROWS
        return rows[:_MOST_ROWS], [f"… and {more} more; .to_pandas() has all"] if more > 0 else []


def _facts(first: FirstBatch, table: LossTable, row: Row) -> dict[str, Any]:
    statistics = {} if row.output is None else vars(row.output.statistics)
    return {
        "run": encodable(table.run),
        "name": encodable(row.name),
        "step": table.step,
        "wall_time": first.wall_time,
        "loss": None if row.loss is None else float(row.loss.value),
        "expected": row.expected,
        **statistics,
        "digest": table.digest,
    }


def _align(line: list[str], widths: list[int]) -> str:
    (label, *cells), (width, *rest) = line, widths
    numbers = (cell.rjust(width) for cell, width in zip(cells, rest, strict=True))
    return "  ".join([label + " " * (width - width_of(label)), *numbers]).rstrip()
