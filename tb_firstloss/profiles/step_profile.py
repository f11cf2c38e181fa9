"""A step's profile in numbers, through xprof's converters: no browser and no TensorFlow."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tb_firstloss import errors
from tb_firstloss.profiles import timeline


@dataclasses.dataclass(frozen=True)
class Operation:
    """What one operation cost in a profile.

    Attributes:
        kind: Operation type: MatMul, Conv2D, …
        place: "Host" or "Device".
        self_seconds: Time in it, without the operations that it ran.
    """

    name: str
    kind: str
    place: str
    count: int
    self_seconds: float


@dataclasses.dataclass(frozen=True)
class StepProfile:
    """One profile, summarised.

    Attributes:
        run: Name of the run directory.
        step: Number of the profiled step; None if the profile has no step marker.
        seconds: Duration of the step; 0 without a step marker.
        shares: Seconds by the names of `timeline.SHARES`; they add up to ``seconds``.
        operations: All operations, the most expensive first.
        peak_bytes: Peak memory by allocator; empty where TensorFlow tracks none, as on CPUs.
        seconds_between_steps: From the previous step's return to this step; None unless it is a
            warm step. No profile shows it: waiting for input there is in no share.
    """

    run: str
    step: int | None
    seconds: float
    shares: dict[str, float]
    operations: list[Operation]
    peak_bytes: dict[str, int]
    seconds_between_steps: float | None = None


def read_profile(run_dir: str | os.PathLike[str]) -> StepProfile:
    """Reads the newest profile of a local run directory, below its ``plugins/profile``.

    Raises:
        FileNotFoundError: There is no such directory.
        NoRecordingError: There is no profile in it.
        UndecodableError: xprof cannot read the profile.
        MissingDependencyError: xprof is not installed.
    """
    path = Path(run_dir).expanduser()
    files = find_profile(path)
    if not files:
        raise errors.NoRecordingError(
            f"{path}: no profile in this run (plugins/profile/*/*.xplane.pb); record it with "
            "profile=True, the default",
            path=path,
        )
    try:
        profile = _read(path, files)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise errors.UndecodableError(
            f"{path}: damaged profile, or unexpected output from xprof ({error!r})", path=path
        ) from error
    from tb_firstloss import contract  # NumPy, which --help does without
    from tb_firstloss.reading.scalars import read_scalars

    # Other runs may lie below this one.
    found = read_scalars(path, runs=".", tags=f"*/{contract.SECONDS_BETWEEN_STEPS}", keep="last")
    seconds = found.value[found.step == profile.step].tolist()
    return dataclasses.replace(profile, seconds_between_steps=seconds[-1] if seconds else None)


def _read(path: Path, files: Sequence[Path]) -> StepProfile:
    # Converters write next to the profile and remove what a viewer has saved there.
    with tempfile.TemporaryDirectory() as directory:
        links = [str(Path(directory) / file.name) for file in files]
        for file, link in zip(files, links, strict=True):
            Path(link).symlink_to(file.resolve())
        step, seconds, shares = timeline.read_step(_convert("trace_viewer", links, path))
        operations = list(_operations(_convert("framework_op_stats", links, path)))
        peaks: dict[str, int] = {}
        for link in links:
            peaks.update(_peak_bytes(_convert("memory_profile", [link], path)))
    return StepProfile(
        run=path.resolve().name,
        step=step,
        seconds=seconds,
        shares=shares,
        operations=sorted(operations, key=lambda operation: -operation.self_seconds),
        peak_bytes=peaks,
    )


def find_profile(run_dir: Path) -> list[Path]:
    """Returns the files of the newest profile in an existing run directory, one per host."""
    if not run_dir.is_dir():
        raise FileNotFoundError(f"{run_dir}: no such directory")
    # Session names are dates, so the last one is the newest.
    for session in sorted(run_dir.glob("plugins/profile/*"), reverse=True):
        files = sorted(session.glob("*.xplane.pb"))
        if files:
            return files
    return []


def _convert(tool: str, files: Sequence[str], path: Path) -> Any:
    """Returns the output of one of xprof's converters for the files, decoded from JSON."""
    try:
        from xprof.convert import raw_to_tool_data
    except ImportError as error:
        raise errors.MissingDependencyError(
            f"{path}: reading a profile needs xprof ({error}): "
            "pip install tensorboard-plugin-profile"
        ) from error
    content, _ = raw_to_tool_data.xspace_to_tool_data(files, tool, {"use_saved_result": False})
    if content is None:
        raise ValueError(f"no output from {tool}")
    return json.loads(content) if content else {}


def _operations(tables: Any) -> Iterator[Operation]:
    """Yields the operations in the first of xprof's tables that has their times."""
    for table in tables:
        names = [column["id"] for column in table.get("cols", ())]
        if "total_self_time" not in names:
            continue
        for cells in table["rows"]:
            row = dict(zip(names, (cell.get("v") for cell in cells["c"]), strict=True))
            if row["type"] != "IDLE":
                yield Operation(
                    name=row["operation"],
                    kind=row["type"],
                    place=row["host_or_device"],
                    count=int(row["occurrences"]),
                    self_seconds=row["total_self_time"] / 1e6,
                )
        return


def _peak_bytes(memory: Any) -> dict[str, int]:
    peaks = {}
    for allocator, profile in memory.get("memoryProfilePerAllocator", {}).items():
        stats = profile.get("profileSummary", {}).get("peakStats", {})
        peaks[allocator] = int(stats.get("peakBytesInUse", 0))
    return peaks
