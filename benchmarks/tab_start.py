"""What the First loss tab adds to TensorBoard's start: with and without its entry point, in pairs.

    python benchmarks/tab_start.py [--pairs 15] [--tensorflow]

Measured is the time from starting the process until it has answered which plugins there are. The
two take turns to go first. By default TensorBoard starts as where TensorFlow is not installed: a
shorter start has less noise, and the tab's share is the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import urllib.request

from tb_firstloss.cli.commands.open import serve

START = """
import sys
if not {tensorflow}:
    sys.modules["tensorflow"] = None
from tensorboard import default, main
entry_points = default._iter_entry_points
default._iter_entry_points = lambda group: [
    point for point in entry_points(group) if {tab} or point.name != "tb_firstloss"
]
main.run_main()
"""


def time_start(logdir, *, tab, tensorflow):
    """Returns the seconds until TensorBoard has answered for the first time."""
    code = START.format(tab=tab, tensorflow=tensorflow)
    start = time.perf_counter()
    with serve(logdir, "--port", "0", command=("-c", code)) as (address, _):
        with urllib.request.urlopen(f"{address}data/plugins_listing", timeout=60) as response:
            names = json.load(response)
        seconds = time.perf_counter() - start
    if ("tb_firstloss" in names) != tab:
        raise SystemExit("TensorBoard cannot find the tab: pip install --editable .")
    return seconds


def main():
    """Prints both medians and the median difference, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--tensorflow", action="store_true", help="let TensorBoard import it")
    options = parser.parse_args()
    pairs = []
    with tempfile.TemporaryDirectory() as logdir:
        for number in range(options.pairs):
            order = [False, True] if number % 2 else [True, False]
            seconds = {
                tab: time_start(logdir, tab=tab, tensorflow=options.tensorflow) for tab in order
            }
            pairs.append((seconds[False], seconds[True]))
    result = {
        "pairs": len(pairs),
        "without_seconds": round(statistics.median(w for w, _ in pairs), 3),
        "with_seconds": round(statistics.median(w for _, w in pairs), 3),
        "difference_seconds": round(statistics.median(b - a for a, b in pairs), 3),
    }
    print(
        f"without the tab {result['without_seconds']:.2f} s, with it "
        f"{result['with_seconds']:.2f} s; median difference {result['difference_seconds']:+.3f} s"
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
