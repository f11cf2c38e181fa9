"""Step 0 on a GPU: what is recorded of it, whether it is right, and what it costs.

    python benchmarks/gpu_step0.py --require-gpu --json gpu.json     # some minutes on a GPU
    python benchmarks/gpu_step0.py --quick --only 'demo/*'           # small sizes, on any machine

Eight configurations: the demo's network (batches of 32) and a residual network of 18 layers
(batches of 256), each in float32 and mixed_float16, compiled by XLA or not. Each one is three
processes: the first records its very first step and a later one, and measures what that costs;
the other two train deterministically, with the recorders and without. Without a GPU the same runs
on the CPU in small sizes, and one line says which checks that leaves out.

The exit status is 1 if a check failed, among them that every process ended well and in time. The
table is Markdown; `--json` holds every number, and `--keep` the logdirs, for TensorBoard.
docs/profile.md says how to set a machine up and how to read the result.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import datetime as dt
import fnmatch
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from step0.table import format_machine, format_rest, format_table
from step0.verdicts import Check, judge

NAMES = [
    f"{network}/{policy}{jit}"
    for network in ("demo", "resnet")
    for policy in ("float32", "mixed_float16")
    for jit in ("", "/jit")
]
PARTS = ("measure", "train", "train again")


def run_part(part: str, name: str, options: argparse.Namespace) -> None:
    """Does one part of a configuration in this process, and prints its facts as JSON."""
    import tensorflow as tf
    from step0.measure import measure
    from step0.networks import Configuration
    from step0.training import train_deterministically

    quick = options.quick or not tf.config.list_physical_devices("GPU")
    configuration = Configuration.parse(name, quick=quick)
    if part == "measure":
        seconds = options.seconds if options.seconds is not None else 1 if quick else 6
        facts = measure(configuration, options.scratch, seconds=seconds)
        facts["quick"] = quick
    else:
        again = part == "train again"
        facts = train_deterministically(configuration, options.scratch, again=again)
    print(json.dumps(facts))


def start_part(part: str, name: str, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Runs one part in a separate process; returns its facts, or how it ended."""
    folder = scratch / name.replace("/", "-") / part.replace(" ", "-")
    folder.mkdir(parents=True)
    command = [sys.executable, __file__, "--part", part, "--only", name, "--scratch", folder]
    command += ["--quick"] * options.quick
    command += [] if options.seconds is None else ["--seconds", str(options.seconds)]
    # Two of them share the GPU, which TensorFlow would otherwise take whole.
    env = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_FORCE_GPU_ALLOW_GROWTH": "true", **os.environ}
    start = time.perf_counter()
    with (folder / "log").open("w+") as log:
        try:
            done = subprocess.run(
                command, env=env, stdout=subprocess.PIPE, stderr=log, timeout=options.limit
            )
            ended = "" if done.returncode == 0 else f"exit status {done.returncode}"
        except subprocess.TimeoutExpired:
            ended = f"not done after {options.limit:g} s"
        if ended:
            log.seek(0)
            return {"ended": f"{ended}: {last_words(log.read())}"}
    facts = json.loads(done.stdout.splitlines()[-1])
    return {**facts, "process_seconds": time.perf_counter() - start}


def last_words(log: str) -> str:
    """Returns the last line of a process's log that is not indented."""
    lines = [line for line in log.splitlines() if line.strip() and not line.startswith(" ")]
    return lines[-1] if lines else "it said nothing"


def run_configurations(
    names: list[str], options: argparse.Namespace, scratch: Path
) -> dict[str, dict[str, Any]]:
    """Returns the facts of every part by configuration.

    What is timed runs alone; the rest then shares the machine.
    """
    facts: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name in names:
        print(f"{name}: measure", file=sys.stderr)
        facts[name]["measure"] = start_part("measure", name, options, scratch)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        runs = {
            (name, part): pool.submit(start_part, part, name, options, scratch)
            for name in names
            for part in PARTS[1:]
        }
        for (name, part), run in runs.items():
            facts[name][part] = run.result()
            print(f"{name}: {part}", file=sys.stderr)
    return facts


def judge_configurations(facts: dict[str, Any], *, require_gpu: bool) -> dict[str, list[Check]]:
    checks = {}
    for name, parts in facts.items():
        checks[name] = judge(parts, name.split("/")[1])
        if require_gpu:
            device = parts["measure"].get("machine", {}).get("device")
            checks[name].append(Check("a GPU is there", str(device).startswith("GPU"), str(device)))
    return checks


def describe(
    names: list[str], facts: dict[str, Any], checks: dict[str, list[Check]]
) -> list[dict[str, Any]]:
    """Returns facts and checks of each configuration as JSON holds them."""
    return [
        {
            "configuration": name,
            "checks": [dataclasses.asdict(check) for check in checks[name]],
            **facts[name],
        }
        for name in names
    ]


@contextlib.contextmanager
def scratch_dir(keep: Path | None) -> Iterator[Path]:
    """A directory for everything that is recorded; a temporary one if it is not to be kept."""
    if keep is None:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
    else:
        keep.mkdir(parents=True)
        yield keep


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, also on a GPU")
    parser.add_argument("--only", default="*", metavar="GLOB", help="such as 'resnet/*/jit'")
    parser.add_argument("--require-gpu", action="store_true", help="fail if there is none")
    parser.add_argument("--seconds", type=float, help="for each timing (default: 6; quick: 1)")
    parser.add_argument("--limit", type=float, default=240, help="seconds a process may take (240)")
    parser.add_argument("--jobs", type=int, default=1, help="untimed processes at a time (1)")
    parser.add_argument("--json", type=Path, help="file to write every fact and check to")
    parser.add_argument("--keep", type=Path, help="new directory that keeps the logdirs")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Prints the table, and returns 1 if a check failed."""
    options = parse_arguments()
    if options.part:
        run_part(options.part, options.only, options)
        return 0
    names = fnmatch.filter(NAMES, options.only)
    if not names:
        print(f"--only {options.only}: none of {', '.join(NAMES)}", file=sys.stderr)
        return 2
    start = time.perf_counter()
    with scratch_dir(options.keep) as scratch:
        facts = run_configurations(names, options, scratch)
    checks = judge_configurations(facts, require_gpu=options.require_gpu)
    print(*format_table(facts, checks), "", format_machine(facts), *format_rest(checks), sep="\n")
    failed = any(check.passed is False for name in names for check in checks[name])
    if options.json:
        report = {
            "command": shlex.join(sys.argv),
            "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
            "seconds": time.perf_counter() - start,
            "passed": not failed,
            "configurations": describe(names, facts, checks),
        }
        options.json.write_text(json.dumps(report, indent=1))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
