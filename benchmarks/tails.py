"""What do bytes that are no records cost, and is what follows them still found?

    python benchmarks/tails.py [--json]

Each file holds one record, then zeros, random bytes or a hole, and in some cases one more record.
Time is wall time of `verify`; memory is what the process's peak grows by over reading the record
alone. The numbers go into docs/benchmarks.json under "tails".
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

MIB = 1 << 20
CASES = {
    "1 GiB of zeros": ("zeros", 1024, False),
    "1 GiB of random bytes": ("random", 1024, False),
    "a hole of 1 GiB, then a record": ("zeros", 1024, True),
    "a hole of 3 GiB, then a record": ("zeros", 3072, True),
}
COLUMNS = ["after the last intact record", "values read", "seconds", "peak MiB more"]


def write(path, kind, size, more):
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    def record(step):
        value = summary_pb2.Summary.Value(tag="loss", simple_value=4.0)
        event = event_pb2.Event(step=step, summary=summary_pb2.Summary(value=[value]))
        return event.SerializeToString()

    with path.open("wb") as file:
        writer = RecordWriter(file)
        writer.write(record(0))
        block = random.Random(1).randbytes(MIB)
        for _ in range(size if kind == "random" else 0):
            file.write(block)
        file.truncate(file.tell() + (0 if kind == "random" else size * MIB))
        file.seek(0, os.SEEK_END)
        if more:
            writer.write(record(1))


def peak():
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if "VmHWM" in line)


def measure(name):
    import tb_firstloss

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "events.out.tfevents.1.host")
        write(path, "zeros", 0, False)
        tb_firstloss.verify(path)
        before = peak()
        write(path, *CASES[name])
        start = time.perf_counter()
        tb_firstloss.verify(path)
        seconds = time.perf_counter() - start
        values = len(tb_firstloss.read_scalars(path, on_damage="ignore"))
        print(json.dumps([name, str(values), f"{seconds:.1f}", f"{peak() - before:.0f}"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the table's part of the docs")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        measure(options.case)
        return
    rows = []
    for name in CASES:
        command = [sys.executable, __file__, "--case", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    table = {
        "command": "benchmarks/tails.py",
        "machine": machine,
        "columns": COLUMNS,
        "rows": rows,
    }
    if options.json:
        print(json.dumps(table, indent=1))
        return
    for row in [COLUMNS, *rows]:
        print("  ".join(f"{cell:>32}" for cell in row))


if __name__ == "__main__":
    main()
