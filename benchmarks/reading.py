"""How fast event files are read, by us, EventAccumulator, tbparse, RustBoard and a bare C pass.

    python benchmarks/reading.py [--quick] [--repeats 5] [--peer-repeats 1]

Every measurement is the first pass of a fresh process, timed from after the imports to the
last value in an array; the file is in the page cache. The tables give medians. A ratio is the
median over pairs: ours runs before and after each measurement of a peer, so that a machine that
slows down meanwhile slows down both. The slow peers take over a minute a pass, so their repeats are
set apart. Of the bare C pass and ours, both the first pass and the best of five are given.
`--quick` uses a tenth of the data.
"""

import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

TAGS = 10
NAME = "events.out.tfevents.1700000000.host"


def frame(payload):
    from tb_firstloss.reading.format import crc32c

    head = struct.pack("<Q", len(payload))
    parts = (head, crc32c.masked_crc32c(head), payload, crc32c.masked_crc32c(payload))
    return struct.pack(f"<8sI{len(payload)}sI", *parts)


def make_scalars(path, count):
    """Writes scalars as tf.summary.scalar does, over ten tags."""
    from tensorboard.compat.proto import event_pb2

    path.parent.mkdir(parents=True, exist_ok=True)
    event = event_pb2.Event()
    value = event.summary.value.add()
    value.metadata.plugin_data.plugin_name = "scalars"
    value.metadata.data_class = 1
    value.tensor.dtype = 1
    value.tensor.tensor_shape.SetInParent()
    value.tensor.float_val.append(0.0)
    with path.open("wb") as file:
        file.write(frame(event_pb2.Event(file_version="brain.Event:2").SerializeToString()))
        for i in range(count):
            event.step, event.wall_time = i // TAGS, 1.7e9 + i
            value.tag, value.tensor.float_val[0] = f"metrics/loss_{i % TAGS}", i * 0.5
            file.write(frame(event.SerializeToString()))


def make_histograms(path, scalars, histograms):
    from tensorboard.compat.proto import event_pb2

    make_scalars(path, scalars)
    rows = struct.pack("<90d", *range(90))
    with path.open("ab") as file:
        for i in range(histograms):
            event = event_pb2.Event(step=i // TAGS, wall_time=1.7e9 + i)
            value = event.summary.value.add(tag=f"weights_{i % TAGS}")
            value.metadata.plugin_data.plugin_name = "histograms"
            value.tensor.dtype = 2
            value.tensor.tensor_shape.dim.add(size=30)
            value.tensor.tensor_shape.dim.add(size=3)
            value.tensor.tensor_content = rows
            file.write(frame(event.SerializeToString()))


def make_fleet(logdir, runs, events):
    """Makes runs that each hold a recording and a training log; the logs are links to one file."""
    from tb_firstloss.contract import FILE_SUFFIX
    from tests.reading.test_recordings import frames

    train = logdir.parent / f"train_{events}"
    make_scalars(train, events)
    for i in range(runs):
        (logdir / f"run_{i:04}" / "train").mkdir(parents=True)
        os.link(train, logdir / f"run_{i:04}" / "train" / NAME)
        folder = logdir / f"run_{i:04}" / "first_batch"
        folder.mkdir()
        (folder / (NAME + FILE_SUFFIX)).write_bytes(b"".join(frames(first_batch(i))))


def first_batch(seed):
    """A recording as most training loops make it: the loss and 64 values per example."""
    import numpy as np

    from tb_firstloss import FirstBatch, OutputLoss

    rng = np.random.default_rng(seed)
    values = rng.random(64, np.float32)
    return FirstBatch(
        run="first_batch",
        step=0,
        wall_time=1.7e9,
        losses={"loss": values.mean().reshape(())},
        outputs={"loss": OutputLoss(per_example=values)},
    )


def ours_scalars(path):
    from tb_firstloss import read_scalars

    return len(read_scalars(path.parent))


def ours_tensors(path):
    from tb_firstloss import iter_tensors

    return len(list(iter_tensors(path.parent)))


def ours_first_losses(logdir):
    from tb_firstloss import read_first_losses

    return len(read_first_losses(logdir))


def peer_scalars(name):
    def read(path):
        from benchmarks import peers

        options = {"last_step": path_count(path) // TAGS - 1} if name == "RustBoard" else {}
        found = peers.READERS[name](path.parent, **options)
        return sum(len(steps) for steps, _ in found.values())

    return read


def path_count(path):
    return int(path.parent.name.split("_")[1])


def accumulator_tensors(path):
    from tensorboard.backend.event_processing import plugin_event_accumulator
    from tensorboard.util import tensor_util

    from benchmarks import peers

    accumulator = plugin_event_accumulator.EventAccumulator(
        str(path), size_guidance={"tensors": 0}, tensor_size_guidance=peers.KEEP_ALL
    )
    accumulator.Reload()
    arrays = [
        tensor_util.make_ndarray(event.tensor_proto)
        for tag in accumulator.Tags()["tensors"]
        for event in accumulator.Tensors(tag)
    ]
    return len(arrays)


def peer_first_losses(name):
    """The recorded loss of each run, from a reader that is given the logdir."""

    def read(logdir):
        from benchmarks import peers

        runs = int(logdir.name.split("_")[1])
        options = {"last_step": 0, "runs": 2 * runs} if name == "RustBoard" else {}
        found = peers.READERS[name](logdir, **options)
        losses = [v for (_, tag), v in found.items() if tag == "first_batch/loss"]
        return len(losses)

    return read


WORK = {
    "scalars": ours_scalars,
    "scalars RustBoard": peer_scalars("RustBoard"),
    "scalars EventAccumulator": peer_scalars("EventAccumulator"),
    "scalars tbparse": peer_scalars("tbparse"),
    "tensors": ours_tensors,
    "tensors EventAccumulator": accumulator_tensors,
    "fleet": ours_first_losses,
    "fleet RustBoard": peer_first_losses("RustBoard"),
    "fleet EventAccumulator": peer_first_losses("EventAccumulator"),
}

IMPORTS = {
    "": "import tb_firstloss.reading.scalars, tb_firstloss.reading.recordings",
    "RustBoard": "import grpc, numpy, tensorboard.data.proto.data_provider_pb2_grpc",
    "EventAccumulator": "from tensorboard.compat import tf; tf.__version__",
    "tbparse": "import tbparse",
}


def run_one(name, path, passes):
    """Runs one piece of work in this process and prints seconds, peak memory and a count."""
    import resource

    exec(IMPORTS[name.partition(" ")[2]], {})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(int(passes)):
        started = time.perf_counter()
        count = WORK[name](Path(path))
        seconds.append(time.perf_counter() - started)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if len(seconds) == 1:
            grown = peak - before
    found = {"seconds": seconds[0], "best": min(seconds), "grown_mb": grown / 1024}
    print(json.dumps({**found, "count": count}))


def run_fresh(name, path, expected, passes=1):
    """Returns what `run_one` finds in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", name, str(path), str(passes)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)},
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["count"] == expected, (name, found["count"], expected)
    return found


def measure(name, path, expected, repeats):
    """Returns the median seconds over fresh processes."""
    runs = [run_fresh(name, path, expected) for _ in range(repeats)]
    return statistics.median(run["seconds"] for run in runs)


def measure_peer(name, path, expected, ours, repeats):
    """Returns a peer's median seconds, and the median of its ratios to ours around it.

    Args:
        name: The peer's piece of work.
        path: What it reads.
        expected: Its count of values.
        ours: Our piece of work, path and count; the ratio is that of the seconds per count.
        repeats: How often to run the peer.
    """
    seconds, ratios = [], []
    for _ in range(repeats):
        before = run_fresh(*ours)["seconds"]
        seconds.append(run_fresh(name, path, expected)["seconds"])
        mean = (before + run_fresh(*ours)["seconds"]) / 2
        ratios.append((seconds[-1] / expected) / (mean / ours[2]))
    return statistics.median(seconds), statistics.median(ratios)


def against_bare_c(path, folder, count, repeats):
    """Returns the times of five passes, ours and bare C's, in each of several processes."""
    program = folder / "bare_scan"
    subprocess.run(
        [os.environ.get("CC", "cc"), "-O3", "-o", program, ROOT / "benchmarks" / "bare_scan.c"],
        check=True,
    )
    ours, bare = [], []
    for _ in range(repeats):
        ours.append(run_fresh("scalars", path, count, passes=5))
        done = subprocess.run([program, path], capture_output=True, text=True, check=True)
        first, best, _ = done.stdout.split()
        bare.append({"seconds": float(first), "best": float(best)})
    return ours, bare


def cold_start(path, repeats):
    """Returns the median extra seconds of `show` over importing NumPy and the protos."""

    def once(arguments):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=ROOT)
        return time.perf_counter() - started

    imports = ["-c", "import numpy, tensorboard.compat.proto.event_pb2"]
    show = ["-m", "tb_firstloss", "show", str(path)]
    pairs = [(once(imports), once(show)) for _ in range(3 * repeats)]
    return statistics.median(b - a for a, b in pairs)


def line(*cells):
    print("| " + " | ".join(str(c) for c in cells) + " |", flush=True)


def scalars_table(folder, scale, repeats, peer_repeats):
    count = 1_000_000 // scale
    path = folder / f"scalars_{count}" / NAME
    make_scalars(path, count)
    runs, bare_runs = against_bare_c(path, folder, count, repeats)
    grown, columns = max(run["grown_mb"] for run in runs), count * 32 / 2**20
    line(f"{count:,} scalars, 10 tags → columns", "seconds", "ratio to ours")
    line("---", "---", "---")
    for key, which in (("best", "best of five passes"), ("seconds", "first pass")):
        ours, bare = (statistics.median(run[key] for run in made) for made in (runs, bare_runs))
        line(f"tb_firstloss, {which} of a process", f"{ours:.3f}", "")
        ratio = statistics.median(b[key] / a[key] for a, b in zip(runs, bare_runs, strict=True))
        line(f"bare C, {which} of a process", f"{bare:.3f}", f"{ratio:.2f}")
    for name in ("RustBoard", "EventAccumulator", "tbparse"):
        times = repeats if name == "RustBoard" else peer_repeats
        ours = ("scalars", path, count)
        seconds, ratio = measure_peer(f"scalars {name}", path, count, ours, times)
        line(f"{name} (median of {times})", f"{seconds:.2f}", f"{ratio:.0f}")
    print(f"\npeak memory over the imports: {grown:.0f} MiB, of which columns {columns:.0f} MiB\n")


def tensors_table(folder, scale, repeats, peer_repeats):
    scalars, histograms = 100_000 // scale, 20_000 // scale
    path = folder / f"tensors_{scalars + histograms}" / NAME
    make_histograms(path, scalars, histograms)
    ours = ("tensors", path, scalars + histograms)
    seconds = measure(*ours, repeats)
    peer, ratio = measure_peer("tensors EventAccumulator", *ours[1:], ours, peer_repeats)
    line(f"{scalars:,} scalars and {histograms:,} histograms → arrays", "seconds", "ratio to ours")
    line("---", "---", "---")
    line("tb_firstloss", f"{seconds:.3f}", "")
    line(f"EventAccumulator (median of {peer_repeats})", f"{peer:.2f}", f"{ratio:.1f}")
    print()


def fleet_table(folder, scale, repeats, peer_repeats):
    runs, few, events = 1000 // scale, 20, 5000
    line("first loss of each run, given the logdir", "runs", "µs a run", "ratio to ours")
    line("---", "---", "---", "---")
    logdirs = {}
    for n, length in ((runs, events), (runs, 10 * events), (few, events)):
        logdirs[n, length] = folder / f"fleet_{n}_{length}"
        make_fleet(logdirs[n, length], n, length)
    ours = ("fleet", logdirs[runs, events], runs)
    line("tb_firstloss", runs, f"{measure(*ours, repeats) / runs * 1e6:.0f}", "")
    longer, ratio = measure_peer("fleet", logdirs[runs, 10 * events], runs, ours, repeats)
    micros = f"{longer / runs * 1e6:.0f}"
    line("… with ten times the events in train", runs, micros, f"{ratio:.2f}")
    rust, ratio = measure_peer("fleet RustBoard", *ours[1:], ours, peer_repeats)
    line("RustBoard", runs, f"{rust / runs * 1e6:.0f}", f"{ratio:.0f}")
    slow, ratio = measure_peer(
        "fleet EventAccumulator", logdirs[few, events], few, ours, peer_repeats
    )
    line("EventAccumulator", few, f"{slow / few * 1e6:.0f}", f"{ratio:.0f}")
    print()
    one = logdirs[few, events] / "run_0000" / "first_batch"
    print(f"`tb-firstloss show` on one run: {cold_start(one, repeats):.3f} s over the imports\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the data")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer-repeats", type=int, default=1, help="of the slow peers")
    parser.add_argument("--only", choices=["scalars", "tensors", "fleet"])
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return run_one(*options.one)

    from benchmarks import peers
    from tb_firstloss import reading

    print(f"{peers.versions()}, Python {sys.version.split()[0]}, {os.cpu_count()} cores")
    load = f"load {os.getloadavg()[0]:.1f} before the start"
    print(f"tb_firstloss.reading.compiled: {reading.compiled}; {load}\n")
    tables = {"scalars": scalars_table, "tensors": tensors_table, "fleet": fleet_table}
    folder = Path(tempfile.mkdtemp(prefix="tb_firstloss_reading_"))
    try:
        for name, table in tables.items():
            if options.only in (None, name):
                scale = 10 if options.quick else 1
                table(folder, scale, options.repeats, options.peer_repeats)
    finally:
        shutil.rmtree(folder)
    return None


if __name__ == "__main__":
    main()
