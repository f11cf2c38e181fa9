"""Write scalars as CSV or Parquet.

The columns are run, tag, step, wall_time and value. Without -o, CSV goes to standard output.

Examples::

  tb-firstloss export runs -o scalars.parquet
  tb-firstloss export runs --run 'demo/*' --tag '*/loss' | head
"""

import argparse
import dataclasses
import shutil
import sys
import tempfile
from pathlib import Path

from tb_firstloss.cli.arguments import add_shared, name_below, note
from tb_firstloss.cli.exit_codes import FINDING
from tb_firstloss.cli.progress import reading_threads
from tb_firstloss.reading.columns import Scalars, join
from tb_firstloss.reading.scalars import read_scalars

FORMATS = ("csv", "parquet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_shared(parser, "paths")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="file to write (default: standard output)"
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="default: the ending of FILE's name, or csv"
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    add_shared(parser, "--run", "--tag", "--quiet")


def run(options: argparse.Namespace) -> int:
    """Writes the columns; exit code 1 when there is nothing to write."""
    kind = _choose_format(options)
    if options.output is not None and options.output.exists() and not options.force:
        raise FileExistsError(f"{options.output}: already exists; --force replaces it")
    columns = _read(options)
    if not columns:
        note(options, f"{', '.join(options.paths)}: nothing to export")
        return FINDING
    if options.output is None:
        _write_to_stdout(columns)
        return 0
    write = columns.to_csv if kind == "csv" else columns.to_parquet
    write(options.output)
    note(options, f"{options.output}: {len(columns)} rows")
    return 0


def _choose_format(options: argparse.Namespace) -> str:
    if options.output is None:
        if options.format == "parquet":
            raise ValueError("--format parquet: Parquet cannot be streamed; give -o FILE")
        return "csv"
    ending = options.output.suffix.lower().removeprefix(".")
    chosen: str | None = options.format or (ending if ending in FORMATS else None)
    if chosen is None:
        raise ValueError(f"{options.output}: not .csv or .parquet; give --format")
    return chosen


def _read(options: argparse.Namespace) -> Scalars:
    found = []
    with reading_threads("Reading", quiet=options.quiet) as threads:
        for path in options.paths:
            part = read_scalars(path, runs=options.runs, tags=options.tags, executor=threads)
            if len(options.paths) > 1:
                names = [name_below(path, run) for run in part.run_names]
                part = dataclasses.replace(part, run_names=names)
            found.append(part)
    return join(found)


def _write_to_stdout(columns: Scalars) -> None:
    sys.stdout.flush()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "columns.csv"
        columns.to_csv(path)
        with path.open("rb") as written:
            shutil.copyfileobj(written, sys.stdout.buffer)
    sys.stdout.buffer.flush()
