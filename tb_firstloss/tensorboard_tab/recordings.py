"""Recordings from TensorBoard's data provider; each is read once, and a bad run hides no other."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from tensorboard.data import provider

from tb_firstloss import contract
from tb_firstloss.arrays import Array, describe
from tb_firstloss.errors import IncompleteRecordingError, ReadError, first_line
from tb_firstloss.first_batch import FirstBatch
from tb_firstloss.manifest import Facts, leave_out_above, named_tensors, parse
from tb_firstloss.tensorboard_tab import rows
from tb_firstloss.tensorboard_tab.files import RecordingFiles

MAX_ARRAY_BYTES = 32 * 2**20
"""Of larger arrays the tab reads no values, and shows the statistics in the manifest."""

_BYTES_PER_CALL = 64 * 2**20  # TensorBoard's data server refuses an answer above 256 MiB
_RUNS_PER_CALL = 128
_MANIFEST_BYTES = 2**14

_Reader = Callable[..., Any]
"""A data provider's ``read_tensors``, which still needs a ``run_tag_filter``."""

_Shown = tuple[str, str]
"""What the page shows of a run, as JSON, or else why that is nothing."""


class Recordings:
    """Every recording of any of TensorBoard's data providers."""

    def __init__(self, data_provider: provider.DataProvider, logdir: str | None = None) -> None:
        self._provider = data_provider
        self._files = RecordingFiles(logdir)
        self._read: dict[tuple[Any, ...], _Shown] = {}

    def to_json(self, context: Any, experiment_id: str) -> tuple[str, str]:
        """Returns a version and the JSON ``{"version", "recordings"}``, recordings sorted by run.

        A complete recording never changes, so only new ones are read.
        """
        listed = self._list(context, experiment_id)
        wanted = {run: (experiment_id, run, *sorted(tags.items())) for run, tags in listed.items()}
        missing = {run: listed[run] for run, key in wanted.items() if key not in self._read}
        for run, result in _read_runs(self._reader(context, experiment_id), missing):
            self._read[wanted[run]] = _show(result)
        self._read = {key: self._read[key] for key in wanted.values()}
        body = ",".join(self._texts({run: self._read[key] for run, key in wanted.items()}))
        version = hashlib.sha256(body.encode()).hexdigest()
        return version, f'{{"version": "{version}", "recordings": [{body}]}}'

    def _texts(self, read: dict[str, _Shown]) -> Iterator[str]:
        """Yields the JSON of every run; a file may know better why there is nothing to show."""
        paths = self._files.find()
        for run in sorted({*read, *paths}):
            text, problem = read.get(run, ("", ""))
            if not text and run in paths:
                problem = self._files.explain(paths[run]) or problem
            if text or problem:
                yield text or json.dumps({"run": run, "problem": problem})

    def read(self, context: Any, experiment_id: str, run: str) -> FirstBatch | str:
        """Returns one run's recording, or the reason why there is none."""
        listed = self._list(context, experiment_id)
        if run not in listed:
            return "no such run"
        return dict(_read_runs(self._reader(context, experiment_id), {run: listed[run]}))[run]

    def _list(self, context: Any, experiment_id: str) -> dict[str, dict[str, float]]:
        """Returns the wall times by tag of each run that has exact tensors."""
        listed = self._provider.list_tensors(
            context, experiment_id=experiment_id, plugin_name=contract.PLUGIN_NAME
        )
        return {run: {t: s.max_wall_time for t, s in tags.items()} for run, tags in listed.items()}

    def _reader(self, context: Any, experiment_id: str) -> _Reader:
        return functools.partial(
            self._provider.read_tensors,
            context,
            experiment_id=experiment_id,
            plugin_name=contract.PLUGIN_NAME,
            downsample=1,
        )


def _read_runs(
    read: _Reader, listed: dict[str, dict[str, float]]
) -> Iterator[tuple[str, FirstBatch | str]]:
    """Yields the recording of every run, or the reason why there is none."""
    wanted: dict[str, set[str]] = {}
    for run, found in listed.items():
        candidates = [tag for tag in found if contract.is_manifest(tag, contract.PLUGIN_NAME)]
        if candidates:
            wanted[run] = {min(candidates)}
        else:
            yield run, "no manifest (yet): the recording was cut short, or is being written"
    manifests: dict[str, Facts] = {}
    named, sizes = {}, {}
    for batch in _batches(wanted, dict.fromkeys(wanted, _MANIFEST_BYTES)):
        for run, tensors in _read_tensors(read, batch):
            facts = tensors if isinstance(tensors, str) else _parse(run, *tensors.values())
            if isinstance(facts, str):
                yield run, facts
                continue
            claims = named_tensors(facts)
            manifests[run], named[run], sizes[run] = facts, set(claims), sum(claims.values())
    for batch in _batches(named, sizes):
        for run, tensors in _read_tensors(read, batch):
            yield (
                run,
                tensors if isinstance(tensors, str) else _decode(run, manifests[run], tensors),
            )


def _read_tensors(
    read: _Reader, wanted: dict[str, set[str]]
) -> Iterator[tuple[str, dict[str, Array] | str]]:
    """Yields every run's tensors by tag; if a call fails, retries each half of the runs."""
    runs, tags = list(wanted), list(set().union(*wanted.values()))
    try:
        found = read(run_tag_filter=provider.RunTagFilter(runs=runs, tags=tags))
    except Exception as error:  # noqa: BLE001 - one bad run must not hide the others
        if len(runs) == 1:
            yield runs[0], f"TensorBoard cannot read it ({first_line(error)})"
            return
        for half in (runs[: len(runs) // 2], runs[len(runs) // 2 :]):
            yield from _read_tensors(read, {run: wanted[run] for run in half})
        return
    for run in runs:
        tensors = {tag: data[-1].numpy for tag, data in found.get(run, {}).items() if data}
        missing = wanted[run] - set(tensors)
        yield run, f"TensorBoard has lost {min(missing)}" if missing else tensors


def _batches(wanted: dict[str, set[str]], sizes: dict[str, int]) -> Iterator[dict[str, set[str]]]:
    """Yields the tags by run in groups for one call, small enough and of equal tags.

    A call reads every tag of every run, and TensorBoard fills a tensor whose only value stands for
    all: so each run is asked for nothing but what its own manifest names.
    """
    group: dict[str, set[str]] = {}
    total, tags = 0, set[str]()
    for run in sorted(wanted, key=lambda run: sorted(wanted[run])):
        full = total + sizes[run] > _BYTES_PER_CALL or len(group) == _RUNS_PER_CALL
        if group and (full or wanted[run] != tags):
            yield group
            group, total = {}, 0
        group[run] = tags = wanted[run]
        total += sizes[run]
    if group:
        yield group


def _parse(run: str, manifest: Array) -> Facts | str:
    if manifest.dtype != object or manifest.size != 1:
        return f"damaged: the manifest is {describe(manifest)} instead of one text"
    try:
        facts = parse(manifest.item(), run)
    except ReadError as error:
        return _say(run, error)
    leave_out_above(MAX_ARRAY_BYTES, facts)
    return facts


def _decode(run: str, manifest: Facts, tensors: dict[str, Array]) -> FirstBatch | str:
    try:
        return contract.decode(manifest, tensors, path=run, run=run)
    except ReadError as error:
        return _say(run, error)
    except Exception as error:  # noqa: BLE001 - one bad run must not hide the others
        return f"it cannot be decoded ({first_line(error)})"


def _show(result: FirstBatch | str) -> _Shown:
    if isinstance(result, str):
        return "", result
    try:
        return json.dumps(rows.to_json(result), allow_nan=False), ""
    except Exception as error:  # noqa: BLE001 - one bad run must not hide the others
        return "", f"it cannot be shown ({first_line(error)})"


def _say(run: str, error: ReadError) -> str:
    message = str(error).removeprefix(f"{run}: ")
    return f"damaged: {message}" if isinstance(error, IncompleteRecordingError) else message
