"""Show where step 0 spent its time, next to the warm step if there is one.

Examples::

  tb-firstloss profile runs/demo/first_batch
  tb-firstloss profile runs --json --top 20
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tb_firstloss.cli.arguments import add_shared
from tb_firstloss.cli.output import print_json, print_table
from tb_firstloss.errors import NoRecordingError, SeveralRecordingsError, some_of
from tb_firstloss.profiles.step_profile import Operation, StepProfile, find_profile, read_profile
from tb_firstloss.profiles.timeline import SHARES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "path", metavar="RUN", help="run directory, or logdir with a single profiled run"
    )
    add_shared(parser, "--json")
    parser.add_argument(
        "--top", type=int, default=10, metavar="N", help="operations to show (default: 10)"
    )


def run(options: argparse.Namespace) -> int:
    """Prints the profile of a run and of its warm step, side by side."""
    # xprof logs every conversion, some as errors, and reads this while it is imported.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if options.top < 0:
        raise ValueError(f"--top: {options.top} is negative; 0 shows no operations")
    profiles = [read_profile(path) for path in find_runs(Path(options.path))]
    if options.json:
        print_json([to_json(profile, options.top) for profile in profiles])
        return 0
    print_shares(profiles)
    if options.top and profiles[0].operations:
        print()
        print_operations(profiles, options.top)
    return 0


def find_runs(path: Path) -> list[Path]:
    """Returns the profiled run directory at or below a path and, if any, its warm step's."""
    if not find_profile(path):
        path = _only_run(path)
    path = path.resolve()
    warm = path.with_name(f"{path.name}-warm")
    return [path, warm] if warm.is_dir() and find_profile(warm) else [path]


def _only_run(logdir: Path) -> Path:
    profiled = {file.parents[3] for file in logdir.rglob("plugins/profile/*/*.xplane.pb")}
    warm = {run.with_name(f"{run.name}-warm") for run in profiled}
    found = sorted(profiled - warm)
    if not found:
        raise NoRecordingError(
            f"{logdir}: no profile (plugins/profile/*/*.xplane.pb) here or below; record with "
            "profile=True, the default",
            path=logdir,
        )
    if len(found) > 1:
        names = some_of([str(run.relative_to(logdir)) for run in found])
        raise SeveralRecordingsError(
            f"{logdir}: {len(found)} profiled runs ({names}); give one", path=logdir
        )
    return found[0]


def to_json(profile: StepProfile, top: int) -> dict[str, Any]:
    """Returns a profile as JSON holds it, with its most expensive operations."""
    return {**vars(profile), "operations": [vars(each) for each in profile.operations[:top]]}


def print_shares(profiles: Sequence[StepProfile]) -> None:
    """Prints step time, what it was spent on and peak memory, one column per profile."""
    times = ["" if p.step is None else _milliseconds(p.seconds) for p in profiles]
    rows = [["step time", *times, ""]]
    gaps = [p.seconds_between_steps for p in profiles]
    if any(gap is not None for gap in gaps):
        texts = ["not measured" if gap is None else _milliseconds(gap) for gap in gaps]
        meaning = "since the previous step: input, and whatever else the loop does"
        rows.insert(0, ["between steps", *texts, meaning])
    for name, meaning in SHARES.items():
        rows.append([name, *(_share(profile, name) for profile in profiles), meaning])
    allocators = sorted({name for profile in profiles for name in profile.peak_bytes})
    for name in allocators:
        peaks = [profile.peak_bytes.get(name) for profile in profiles]
        texts = ["" if peak is None else f"{peak / 2**20:,.1f} MiB" for peak in peaks]
        rows.append([f"peak memory, {name}", *texts, ""])
    if not allocators:
        rows.append(["peak memory", *("" for _ in profiles), "not tracked on this device"])
    print_table(["", *(_title(profile) for profile in profiles), ""], rows)
    if not any(p.seconds_between_steps or p.shares.get("input") for p in profiles):
        hint = "record with warm_step=N to measure the time between steps"
        print(f"\nWaiting for input outside the step is not in this profile; {hint}")


def print_operations(profiles: Sequence[StepProfile], top: int) -> None:
    """Prints the operations with most self time in the first profile, one column per profile."""
    first, *others = profiles
    # With a device, an operation has two times: to launch it on the host, and to run it.
    shows_place = any(operation.place != "Host" for operation in first.operations)
    rows = []
    for operation in first.operations[:top]:
        times = [_milliseconds(operation.self_seconds)]
        times += [_time_of(operation, other) for other in others]
        place = [operation.place.lower()] if shows_place else []
        rows.append([operation.name, *times, str(operation.count), *place, operation.kind])
    headers = [
        "self time" if profile.step is None else f"self time in {_title(profile)}"
        for profile in profiles
    ]
    print_table(["operation", *headers, "count", *["on"] * shows_place, "type"], rows)


def _time_of(operation: Operation, profile: StepProfile) -> str:
    same = [o for o in profile.operations if (o.name, o.place) == (operation.name, operation.place)]
    return _milliseconds(sum(o.self_seconds for o in same)) if same else ""


def _title(profile: StepProfile) -> str:
    if profile.step is None:
        return "no step marker"
    return f"step {profile.step}" + (", warm" if profile.run.endswith("-warm") else "")


def _share(profile: StepProfile, name: str) -> str:
    if not profile.seconds:
        return ""
    seconds = profile.shares[name]
    if name == "input" and not seconds:
        return "none inside"  # outside, a profile sees nothing
    return f"{_milliseconds(seconds)} {seconds / profile.seconds:4.0%}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.3f} ms"
