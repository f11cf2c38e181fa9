"""What is left of the first loss when training dies, and what keeping it costs.

    python benchmarks/durability.py                 # some minutes on two cores
    python benchmarks/durability.py --only matrix --json matrix.json
    python benchmarks/durability.py --only barrier --recordings 200 --logdir /mnt/disk

Matrix: every cell is a process that trains and really dies, by a signal, a failure or an exit, at a
chosen moment; its parent looks at what is on disk, and at how it died. Processes are forked from
one that has imported TensorFlow and run nothing of it. Next to tb_firstloss, tf.summary as people
use it: one scalar per step, and the writer left open. Exits with 1 if one promise is broken:

- once step 0 has returned, the first loss is there, complete and bit for bit;
- before that it is complete or absent, never wrong, and never absent without a word when training
  goes on.

It says nothing about power loss. Barrier: how long training waits for one recording without graph
and profile, from its values to the closed, synced and verified file, in new processes ("cold": the
first recording pays for imports and for what TensorFlow sets up) and in one ("warm"); next to it
what the same numbers cost with tf.summary alone, which promises nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from deaths import endings, training
from deaths.cells import Cell, broken_promise, find_recording, find_scalar, list_cells

from tb_firstloss import FirstLoss

PATIENCE_SECONDS = 300


def live(cell: Cell, folder: Path) -> None:
    """Trains in a forked process that dies on the way."""
    endings.prepare(folder / "log", PATIENCE_SECONDS)
    if cell.ending == "SIGXFSZ":
        endings.limit_file_size(int(cell.moment.rpartition(" ")[2]))
    plan = training.Plan(cell.moment, endings.ENDINGS.get(cell.ending, lambda: None))
    training.TRAININGS[cell.recorder, cell.way](str(folder / "logs"), plan)
    sys.exit(0)


def run_processes(bodies: dict[Path, Callable[[], None]], jobs: int) -> dict[Path, int]:
    """Runs each body in a process forked from this one; returns their statuses by folder."""
    running: dict[int, Path] = {}
    statuses: dict[Path, int] = {}
    for folder, body in bodies.items():
        while len(running) >= jobs:
            wait_for_one(running, statuses)
        sys.stdout.flush()
        with warnings.catch_warnings():
            # Python 3.12 warns of forking with threads; those that the imports start are idle.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            # What it raises ends the interpreter as in any script: nothing above catches it.
            body()
            sys.exit(0)
        running[child] = folder
    while running:
        wait_for_one(running, statuses)
    return statuses


def wait_for_one(running: dict[int, Path], statuses: dict[Path, int]) -> None:
    child, status = os.wait()
    statuses[running.pop(child)] = os.waitstatus_to_exitcode(status)


def judge(cell: Cell, status: int, folder: Path) -> Cell:
    """Returns the cell with what its process has left."""
    find = find_recording if cell.recorder == "tb_firstloss" else find_scalar
    found = find(folder / "logs")
    judged = dataclasses.replace(cell, ended=status, found=found)
    broken = broken_promise(judged, (folder / "log").read_text(errors="replace"))
    return dataclasses.replace(judged, broken=broken)


def measure_matrix(scratch: Path, jobs: int, *, quick: bool) -> list[Cell]:
    cells = {scratch / str(n): cell for n, cell in enumerate(list_cells(quick=quick))}
    bodies = {}
    for folder, cell in cells.items():
        folder.mkdir()
        bodies[folder] = lambda cell=cell, folder=folder: live(cell, folder)
    statuses = run_processes(bodies, jobs)
    return [judge(cell, statuses[folder], folder) for folder, cell in cells.items()]


def print_matrix(cells: list[Cell]) -> None:
    peers = (f"tf.summary {moment}" for moment in training.AFTER)
    row("training ends by", "way", "before step 0 returns", *training.AFTER, *peers)
    row(*["---"] * 7)
    for ending, way in itertools.product([*endings.ENDINGS, "SIGXFSZ", "none"], ("loop", "fit")):
        mine = [c for c in cells if (c.ending, c.way) == (ending, way)]
        ours = [c for c in mine if c.recorder == "tb_firstloss"]
        theirs = [c for c in mine if c.recorder != "tb_firstloss"]
        after = [summarize([c for c in ours if c.moment in (m, "never")]) for m in training.AFTER]
        peer = [summarize([c for c in theirs if c.moment in (m, "never")]) for m in training.AFTER]
        row(ending, way, summarize([c for c in ours if not c.returned]), *after, *peer)
    print()
    row("moment before step 0 returns", *endings.ENDINGS)
    row(*["---"] * (1 + len(endings.ENDINGS)))
    for moment in training.BEFORE:
        there = [c for c in cells if c.moment == moment]
        row(moment, *(summarize([c for c in there if c.ending == e]) for e in endings.ENDINGS))
    print()


def summarize(cells: list[Cell]) -> str:
    """Returns what was found in some cells, and whether a promise is broken there."""
    found = [c.found if c.found in ("complete", "absent") else "WRONG" for c in cells]
    counts = {what: found.count(what) for what in ("complete", "absent", "WRONG")}
    parts = [
        what if number == len(found) else f"{number} {what}"
        for what, number in counts.items()
        if number
    ]
    return ", ".join(parts) + (" (BROKEN)" if any(c.broken for c in cells) else "") or "-"


def record_durably(logdir: Path) -> Callable[[tf.Tensor, tf.Tensor], None]:
    """Returns what records a first batch as this package does."""
    first = FirstLoss(logdir, graph=False, profile=False)
    return lambda loss, per_example: first.record(per_example, total=loss) and None


def write_by_hand(logdir: Path) -> Callable[[tf.Tensor, tf.Tensor], None]:
    """Returns what writes the same numbers with tf.summary, and neither syncs nor looks at them."""

    def write(loss: tf.Tensor, per_example: tf.Tensor) -> None:
        writer = tf.summary.create_file_writer(str(logdir))
        with writer.as_default():
            tf.summary.scalar("loss", loss, step=0)
            tf.summary.scalar("loss_mean", tf.reduce_mean(per_example), step=0)
            tf.summary.scalar("loss_min", tf.reduce_min(per_example), step=0)
            tf.summary.scalar("loss_max", tf.reduce_max(per_example), step=0)
            tf.summary.histogram("loss_histogram", per_example, step=0)
        writer.close()

    return write


WAYS = {"tb_firstloss": record_durably, "tf.summary by hand": write_by_hand}


def time_recordings(way: str, logdir: Path, count: int, into: Path) -> None:
    """Records some first batches, and writes the seconds of each as JSON: wall, fsync, CPU."""
    endings.prepare(Path(f"{into}.log"), PATIENCE_SECONDS)
    step = training.make_step(training.Plan("never", lambda: None))
    for number in range(training.STEP_COUNT):
        loss, per_example = step(number)  # excludes what TensorFlow sets up for training
    times: list[tuple[float, float, float]] = []
    synced, fsync = 0.0, os.fsync

    def timed_fsync(descriptor: int) -> None:
        nonlocal synced
        start = time.perf_counter()
        fsync(descriptor)
        synced += time.perf_counter() - start

    os.fsync = timed_fsync
    for number in range(count):
        record, synced = WAYS[way](logdir / str(number)), 0.0
        start, cpu = time.perf_counter(), time.process_time()
        record(loss, per_example)
        times.append((time.perf_counter() - start, synced, time.process_time() - cpu))
    into.write_text(json.dumps(times))


def measure_barrier(scratch: Path, recordings: int) -> dict[str, list[list[float]]]:
    """Returns the seconds of each recording, cold and warm: wall, in fsync, CPU."""
    results = {}
    rounds = (("cold", 11, 1), ("warm", 1, recordings + 5))
    for way, (name, processes, count) in itertools.product(WAYS, rounds):
        bodies = {}
        for number in range(processes):
            folder = scratch / f"{way}-{name}-{number}"
            into = Path(f"{folder}.json")
            bodies[into] = lambda w=way, f=folder, n=count, i=into: time_recordings(w, f, n, i)
        run_processes(bodies, jobs=1)
        times = [json.loads(into.read_text()) for into in bodies]
        kept = [pair for one in times for pair in (one[5:] if count > 1 else one)]
        results[f"{way}, {name}"] = kept
    return results


def print_barrier(results: dict[str, list[list[float]]], scratch: Path) -> None:
    row("one recording", "count", "median ms", "quartiles", "of which fsync", "CPU time")
    row(*["---"] * 6)
    for name, times in results.items():
        wall, synced, cpu = ([1e3 * t for t in column] for column in zip(*times, strict=True))
        low, median, high = statistics.quantiles(wall, n=4)
        medians = (f"{statistics.median(column):.1f}" for column in (synced, cpu))
        row(name, len(times), f"{median:.1f}", f"{low:.1f} to {high:.1f}", *medians)
    disk = subprocess.run(["df", "-P", scratch], capture_output=True, text=True, check=True)
    print(f"\non {disk.stdout.split()[-6]}, load {os.getloadavg()[0]:.1f}\n")


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


@contextlib.contextmanager
def scratch_dir(parent: str | None) -> Iterator[Path]:
    """A directory that only the process that made it removes, and not the forked ones."""
    path, owner = Path(tempfile.mkdtemp(dir=parent)), os.getpid()
    try:
        yield path
    finally:
        if os.getpid() == owner:
            shutil.rmtree(path, ignore_errors=True)


def main() -> int:
    """Prints the tables, writes the same as JSON, and returns 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("matrix", "barrier"), help="one of the two")
    parser.add_argument("--quick", action="store_true", help="half of the cells")
    parser.add_argument("--logdir", help="directory to write in (default: a temporary one)")
    parser.add_argument("--recordings", type=int, default=100, help="warm ones to time")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    parser.add_argument("--json", type=Path, help="file to write every cell and every time to")
    options = parser.parse_args()
    cells: list[Cell] = []
    times: dict[str, list[list[float]]] = {}
    with scratch_dir(options.logdir) as scratch:
        if options.only != "matrix":
            times = measure_barrier(scratch, options.recordings)
            print_barrier(times, scratch)
        if options.only != "barrier":
            cells = measure_matrix(scratch, options.jobs, quick=options.quick)
            print_matrix(cells)
    if options.json:
        facts = {"matrix": [dataclasses.asdict(cell) for cell in cells], "barrier": times}
        options.json.write_text(json.dumps(facts, indent=1))
    broken = [cell for cell in cells if cell.broken]
    for cell in broken:
        print(f"BROKEN: {cell}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
