"""What do readers get out of damaged, odd and growing event files?

    python benchmarks/reliability.py [--quick]

Every reader reads the corpus of tests/helpers/damaged_files.py in processes that may crash or hang
without ending the benchmark. A value counts as recovered when tag, step and number are those of an
intact record, and as wrong when no intact record holds it. `--quick` takes every tenth file. The
second table plays what happens to the files of a running training.
"""

import argparse
import json
import random
import resource
import select
import subprocess
import sys
import tempfile
import threading
import warnings
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PATIENCE_SECONDS = 120
FILES_PER_SERVER = 40
"""Files that RustBoard serves at a time, each as a run: starting it costs more than reading."""


def corpus(quick):
    from tests.helpers.damaged_files import CASES

    return CASES[:: 10 if quick else 1]


def work(reader, first, last, quick):
    """Reads some files of the corpus and prints a line of JSON for each."""
    from benchmarks import peers
    from tests.helpers.damaged_files import FILE_NAME

    warnings.simplefilter("ignore")
    cases = corpus(quick)
    step = FILES_PER_SERVER if reader == "RustBoard" else 1
    with tempfile.TemporaryDirectory() as folder:
        for start in range(first, last, step):
            logdir, numbers = Path(folder) / str(start), range(start, min(start + step, last))
            for i in numbers:
                (logdir / f"run_{i}").mkdir(parents=True)
                (logdir / f"run_{i}" / FILE_NAME).write_bytes(cases[i].data)
            line = {}
            try:
                found = peers.READERS[reader](logdir)
            except Exception as error:  # noqa: BLE001  # whatever a reader raises is its result
                found, line = {}, {"raised": f"{type(error).__name__}: {error}"[:200]}
            for i in numbers:
                print(json.dumps({"case": i, "values": values(found, f"run_{i}"), **line}))
            print(json.dumps({"peak": peak_mib()}), flush=True)


def values(found, run):
    return [
        [tag, int(step), float(value)]
        for (name, tag), (steps, numbers) in found.items()
        if Path(name).name == run
        for step, value in zip(steps, numbers, strict=True)
    ]


def peak_mib():
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024


def spawn(reader, first, last, quick):
    """Returns the lines of a working process, and how it ended."""
    command = [sys.executable, __file__, "--work", reader, str(first), str(last)]
    process = subprocess.Popen(
        [*command, *(["--quick"] if quick else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    lines, ending = [], "crashed"
    while select.select([process.stdout], [], [], PATIENCE_SECONDS)[0]:
        text = process.stdout.readline()
        if not text:
            ending = "done" if process.wait() == 0 else "crashed"
            break
        lines.append(json.loads(text))
    else:
        ending = "hung"
        process.kill()
        process.wait()
    return lines, ending


def read_all(reader, count, quick):
    """Returns the values of each file, the files that ended a reader, and the peak memory."""
    found, failed, peaks, first = {}, {}, [0.0], 0
    pending = [(0, count)]
    while pending:
        first, last = pending.pop()
        lines, ending = spawn(reader, first, last, quick)
        peaks += [line["peak"] for line in lines if "peak" in line]
        got = {line["case"]: line for line in lines if "case" in line}
        # A server that crashed takes all its runs with it: only one at a time tells whose fault.
        blame = {i for i, line in got.items() if "RustBoard ended" in line.get("raised", "")}
        blame |= {i for i, line in got.items() if "RpcError" in line.get("raised", "")}
        if reader == "RustBoard" and blame and last - first > 1:
            got = {i: line for i, line in got.items() if i not in blame}
            pending += [(i, i + 1) for i in blame]
        elif blame:
            failed.update(dict.fromkeys(blame, "crashed"))
        found.update(got)
        if ending != "done":
            culprit = max(got, default=first - 1) + 1
            failed[culprit] = ending
            if culprit + 1 < last:
                pending.append((culprit + 1, last))
    return found, failed, max(peaks)


def judge(cases, found):
    """Returns values expected and recovered, files with a loss, and values that are wrong."""
    expected = recovered = short = wrong = 0
    for i, case in enumerate(cases):
        intact = Counter((tag, step, number) for tag, step, number in case.expected)
        ours = Counter(tuple(v) for v in found.get(i, {}).get("values", ()))
        expected += intact.total()
        both = (intact & ours).total()
        recovered += both
        short += both < intact.total()
        wrong += sum(n for value, n in ours.items() if value not in intact)
    return expected, recovered, short, wrong


def row(*cells):
    print("| " + " | ".join(str(c) for c in cells) + " |", flush=True)


def damage_table(quick):
    from benchmarks import peers

    cases = corpus(quick)
    row("reader", "files", "intact values recovered", "files that lost some", "values wrong")
    row(*["---"] * 5)
    endings = []
    for reader in peers.READERS:
        found, failed, peak = read_all(reader, len(cases), quick)
        expected, recovered, short, wrong = judge(cases, found)
        percent = f"{100 * recovered / expected:.2f} % of {expected:,}"
        row(reader, f"{len(cases):,}", percent, f"{short:,}", f"{wrong:,}")
        raised = sum("raised" in line and i not in failed for i, line in found.items())
        kinds = Counter(failed.values())
        endings.append((reader, kinds["crashed"], kinds["hung"], raised, f"{peak:.0f}"))
    print()
    row("reader", "crashes", "hangs", "exceptions", "peak memory, MiB")
    row(*["---"] * 5)
    for ending in endings:
        row(*ending)
    print()


def record(step):
    from tests.helpers.event_files import event, frame, simple

    return frame(event(simple("x", step), step=step))


def stories():
    """Yields a name, actions on a run directory, and the steps that a live reader should give."""
    rng = random.Random(0)
    name = "events.out.tfevents.1.host"
    data = b"".join(map(record, range(60)))
    cuts = sorted(rng.sample(range(1, len(data)), 40))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]

    def add(file, more):
        def action(run):
            with (run / file).open("ab") as growing:
                growing.write(more)

        return action

    def put(file, new):
        def action(run):
            (run / "new").write_bytes(new)
            (run / "new").replace(run / file)

        return action

    yield "grown in 41 writes", [add(name, piece) for piece in pieces], range(60)
    half = b"".join(map(record, range(30)))
    rest = b"".join(map(record, range(30, 60)))
    yield "replaced by a new file", [add(name, half), put(name, rest)], range(60)
    cut = [add(name, half), lambda run: (run / name).write_bytes(half[:-5]), add(name, record(30))]
    yield "last record cut off, then written on", cut, range(31)
    files = [add(f"events.out.tfevents.{i % 2}.host", record(i)) for i in range(60)]
    yield "two files growing in turn", files, range(60)
    flipped = bytearray(record(5))
    flipped[-6] ^= 4
    broken = [add(name, half), add(name, bytes(flipped)), add(name, rest)]
    yield "a damaged record in between", broken, range(60)


def live_ours(run, actions):
    import tb_firstloss

    remaining = iter(actions)

    class Script(threading.Event):
        def wait(self, timeout=None):  # called when nothing is new
            del timeout
            action = next(remaining, None)
            self.set() if action is None else action(run)

    stop = Script()
    data = tb_firstloss.follow(run, poll_seconds=0, on_damage="ignore", stop=stop)
    return [d.step for d in data]


def live_accumulator(run, actions):
    from benchmarks import peers

    accumulator = None
    for action in actions:
        action(run)
        if accumulator is None:
            from tensorboard.backend.event_processing import plugin_event_accumulator

            accumulator = plugin_event_accumulator.EventAccumulator(
                str(run), size_guidance={"tensors": 0}, tensor_size_guidance=peers.KEEP_ALL
            )
        accumulator.Reload()
    tags = accumulator.Tags()["tensors"]
    return [e.step for tag in tags for e in accumulator.Tensors(tag)]


def live_table():
    row("what happens to the file", "reader", "records", "lost", "twice")
    row(*["---"] * 5)
    for name, actions, expected in stories():
        for reader, read in (("tb_firstloss", live_ours), ("EventAccumulator", live_accumulator)):
            with tempfile.TemporaryDirectory() as folder:
                steps = Counter(read(Path(folder), list(actions)))
            lost = len(set(expected) - set(steps))
            row(name, reader, len(expected), lost, sum(n - 1 for n in steps.values()))
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="every tenth file")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        reader, first, last = options.work
        return work(reader, int(first), int(last), options.quick)

    from benchmarks import peers

    print(f"{peers.versions()}, Python {sys.version.split()[0]}\n")
    damage_table(options.quick)
    live_table()
    return None


if __name__ == "__main__":
    main()
