"""The hyperparameters of each run, whichever writer wrote them for TensorBoard's HParams plugin."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

from tb_firstloss.arrays import Array
from tb_firstloss.reading.damage import Report, reporter, unreadable, unreadable_reported
from tb_firstloss.reading.files.find import find_event_files
from tb_firstloss.reading.files.open import open_window
from tb_firstloss.reading.format.rows import Names, iter_chunks
from tb_firstloss.reading.logdir import group_runs
from tb_firstloss.reading.selection import Patterns, Selection
from tb_firstloss.reading.tables import Coded

Value = bool | float | str


class HParams(dict[str, Value]):
    """Hyperparameters by name.

    Attributes:
        trial_id: What runs of one trial have in common, or None.
        status: "success", "failure" or "running" as the run said first, or None if it did not.
    """

    trial_id: str | None = None
    status: str | None = None


def read_hparams(
    path: str | os.PathLike[str], *, runs: Patterns = None
) -> dict[str, dict[str, Value]]:
    """Reads the hyperparameters of each run that has any, as `HParams`, which are dictionaries.

    TensorFlow, PyTorch, tensorboardX and Lightning write them alike, but ``add_hparams`` of PyTorch
    and tensorboardX makes a run of its own for them. Numbers are floats. Where a run says them
    several times, as after a restart, the first counts, as in TensorBoard. A DamageWarning
    says where they were left out: above 1 MiB, or above 64 MiB with the run's other metadata.

    Args:
        path: A logdir, a run directory, an event file, a glob or a URL that fsspec knows.
        runs: Exact names or globs of the runs to read; None for all.

    Raises:
        FileNotFoundError: Nothing is at the path.
    """
    return collect_hparams(path, runs, reporter("warn"))


def collect_hparams(
    path: str | os.PathLike[str], runs: Patterns, report: Report
) -> dict[str, dict[str, Value]]:
    """Does the same, and reports damage of the files, which callers may know of."""
    found: dict[str, dict[str, Value]] = {}
    files = find_event_files(path, report=report)
    for run, paths in group_runs(files, Selection.of(runs, None, None)):
        names = Names()
        for file in paths:
            with unreadable_reported(file, report), open_window(file) as window:
                for _ in iter_chunks(window, names, report=report):
                    pass
        hparams = _decode(names, paths[0])
        if hparams is not None:
            found[run] = hparams
    return found


def columns_of(hparams: Mapping[str, Mapping[str, Any]], runs: Coded) -> dict[str, Array]:
    """Returns an object column per hyperparameter for rows of these runs, with None for none.

    A run without any has those of the nearest run above it: Keras writes its scalars to runs called
    train and validation below that of the hyperparameters.
    """
    found = [_nearest(run, hparams) for run in runs.names]
    names = dict.fromkeys(name for values in found for name in values)
    return {
        f"hparams/{name}": np.array([*(v.get(name) for v in found), None], object)[runs.codes]
        for name in names
    }


def _nearest(run: str, hparams: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    while run not in hparams and run not in ("", "."):
        run = run.rpartition("/")[0] or "."
    return hparams.get(run, {})


def _decode(names: Names, path: str) -> HParams | None:
    """Returns the hyperparameters in the metadata of a run's tags, if there are any."""
    found, started = HParams(), False
    for number, metadata in enumerate(names.metadata):
        if names.plugin_name_of(number) != "hparams":
            continue
        if number in names.left_out:
            complaint = f"{names.tags[number]}: hyperparameters left out for their size"
            reporter("warn")(unreadable(path, complaint))
            continue
        try:
            data = plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_content)
        except DecodeError as error:
            complaint = f"{names.tags[number]}: hyperparameters not decoded ({error})"
            reporter("warn")(unreadable(path, complaint))
            continue
        if data.HasField("session_start_info") and not started:
            started = True
            found.trial_id = data.session_start_info.group_name or None
            for name, value in sorted(data.session_start_info.hparams.items()):
                kind = value.WhichOneof("kind") or "null_value"
                if kind != "null_value":  # a list or a struct, which no writer makes, is its text
                    content = getattr(value, kind)
                    plain = isinstance(content, bool | float | str)
                    found[name] = content if plain else " ".join(str(content).split())
        if data.HasField("session_end_info") and data.session_end_info.status:
            status = api_pb2.Status.Name(data.session_end_info.status)
            found.status = status.removeprefix("STATUS_").lower()
    return found if started else None
