"""Write scalars as CSV or Parquet.

The columns are run, tag, step, wall_time and value; with --wide they are run, step and one per tag.
Without -o, CSV goes to standard output.

Examples::

  tb-firstloss export runs -o scalars.parquet
  tb-firstloss export runs --run 'demo/*' --tag '*/loss' --steps 0:1000 | head
  tb-firstloss export runs --last --wide --hparams
"""

import argparse
import dataclasses
import shutil
import sys
import tempfile
from pathlib import Path
from typing import get_args

from tb_firstloss.cli.arguments import add_shared, name_of, note
from tb_firstloss.cli.exit_codes import FINDING
from tb_firstloss.cli.progress import reading_threads
from tb_firstloss.reading.columns import Scalars, join
from tb_firstloss.reading.damage import reporter
from tb_firstloss.reading.hparams import Value, collect_hparams
from tb_firstloss.reading.scalars import read_scalars
from tb_firstloss.reading.selection import Keep
from tb_firstloss.reading.tables import is_written_into

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
    parser.add_argument("--wide", action="store_true", help="a row per run and step")
    parser.add_argument(
        "--hparams", action="store_true", help="add each run's hyperparameters, hparams/NAME"
    )
    parser.add_argument(
        "--keep",
        choices=get_args(Keep),
        default="all",
        help="of values of one run, tag and step; resumed: none that a restart orphaned "
        "(default: all)",
    )
    parser.add_argument(
        "--last", action="store_true", help="only the value of each tag's highest step"
    )
    add_shared(parser, "--steps", "--run", "--tag", "--quiet")


def run(options: argparse.Namespace) -> int:
    """Writes the columns; exit code 1 when there is nothing to write."""
    kind = _choose_format(options)
    output = options.output
    if output and output.exists() and not (options.force or is_written_into(output)):
        raise FileExistsError(f"{output}: already exists; --force replaces it")
    columns = _read(options)
    if not columns:
        note(options, f"{', '.join(options.paths)}: nothing to export")
        return FINDING
    if options.output is None:
        _write_to_stdout(columns, options)
        return 0
    write = columns.to_csv if kind == "csv" else columns.to_parquet
    write(options.output, pivot=options.wide, hparams=_hparams(options))
    note(options, f"{options.output}: {len(columns)} {'values' if options.wide else 'rows'}")
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
            part = read_scalars(
                path,
                runs=options.runs,
                tags=options.tags,
                steps=options.steps,
                keep=options.keep,
                executor=threads,
            )
            names = [name_of(options, path, run) for run in part.run_names]
            found.append(dataclasses.replace(part, run_names=names))
    columns = join(found)
    return columns.last() if options.last else columns


def _hparams(options: argparse.Namespace) -> dict[str, dict[str, Value]] | bool:
    return options.hparams and {
        name_of(options, path, run): values
        for path in options.paths
        for run, values in collect_hparams(path, None, reporter("ignore")).items()
    }


def _write_to_stdout(columns: Scalars, options: argparse.Namespace) -> None:
    sys.stdout.flush()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "columns.csv"
        columns.to_csv(path, pivot=options.wide, hparams=_hparams(options))
        with path.open("rb") as written:
            shutil.copyfileobj(written, sys.stdout.buffer)
    sys.stdout.buffer.flush()
