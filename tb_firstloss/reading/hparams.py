"""The hyperparameters of each run, whichever writer wrote them for TensorBoard's HParams plugin."""

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import text_format
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
        trial_id: What runs of one trial have in common ("group" in TensorBoard), or None.
        status: "success", "failure" or "running" as the run said last, or None if it did not.
    """

    trial_id: str | None = None
    status: str | None = None


def read_hparams(
    path: str | os.PathLike[str], *, runs: Patterns = None
) -> dict[str, dict[str, Value]]:
    """Reads the hyperparameters of each run that has any.

    TensorFlow's HParams plugin, PyTorch, tensorboardX and Lightning write them alike, but not to
    the same place: PyTorch's and tensorboardX's ``add_hparams`` makes a run of its own for them.

    Args:
        path: A logdir, a run directory, an event file, a glob or a URL that fsspec knows.
        runs: Exact names or globs of the runs to read; None for all.

    Returns:
        A mapping from run names to `HParams`, which are dictionaries: every number is a float.
        Of several values, as after a restart, the first is taken, as TensorBoard does.

    Raises:
        FileNotFoundError: Nothing is at the path.
    """
    selection, report = Selection.of(runs, None, None), reporter("warn")
    return _read(path, selection, report)


def read_known(path: str) -> dict[str, dict[str, Value]]:
    """Returns every run's hyperparameters; damage of files that are read once more is no news."""
    return _read(path, Selection(), reporter("ignore"))


def columns_of(hparams: Mapping[str, Mapping[str, Any]], runs: Coded) -> dict[str, Array]:
    """Returns a column per hyperparameter for rows of these runs, masked or None without one.

    A run without any has those of the nearest run above it: Keras writes its scalars to runs called
    train and validation below that of the hyperparameters.
    """
    found = [_nearest(run, hparams) for run in runs.names]
    names = dict.fromkeys(name for values in found for name in values)
    return {f"hparams/{name}": _spread([v.get(name) for v in found], runs.codes) for name in names}


def _nearest(run: str, hparams: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    while run not in hparams and run not in ("", "."):
        run = run.rpartition("/")[0] or "."
    return hparams.get(run, {})


def _spread(values: list[Any], codes: npt.NDArray[np.int32]) -> Array:
    """Returns the values, one per run, for rows of these runs."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        numbers = np.array([math.nan if value is None else value for value in values], np.float64)
        return np.ma.array(numbers[codes], mask=np.array([v is None for v in values], bool)[codes])
    return np.array([*values, None], object)[codes]  # the None keeps lists from becoming rows


def _read(
    path: str | os.PathLike[str], selection: Selection, report: Report
) -> dict[str, dict[str, Value]]:
    found: dict[str, dict[str, Value]] = {}
    for run, paths in group_runs(find_event_files(path, report=report), selection):
        names = Names()
        for file in paths:
            with unreadable_reported(file, report), open_window(file) as window:
                for _ in iter_chunks(window, names, report=report):
                    pass
        hparams = _of_run(names, paths[0])
        if hparams is not None:
            found[run] = hparams
    return found


def _of_run(names: Names, path: str) -> HParams | None:
    """Returns the hyperparameters in the metadata of a run's tags, if there are any."""
    report = reporter("warn")
    found, started = HParams(), False
    for number, metadata in enumerate(names.metadata):
        if names.plugin_name_of(number) != "hparams":
            continue
        try:
            data = plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_content)
        except DecodeError as error:
            report(unreadable(path, f"{names.tags[number]}: hyperparameters not decoded ({error})"))
            continue
        if data.HasField("session_start_info") and not started:
            started = True
            found.update(_values(data.session_start_info.hparams))
            found.trial_id = data.session_start_info.group_name or None
        if data.HasField("session_end_info") and data.session_end_info.status:
            status = api_pb2.Status.Name(data.session_end_info.status)
            found.status = status.removeprefix("STATUS_").lower()
    return found if started else None


def _values(hparams: Mapping[str, Any]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for name, value in hparams.items():
        kind = value.WhichOneof("kind")
        if kind in ("bool_value", "number_value", "string_value"):
            values[name] = getattr(value, kind)
        elif kind in ("list_value", "struct_value"):
            values[name] = text_format.MessageToString(value, as_one_line=True)
    return dict(sorted(values.items()))
