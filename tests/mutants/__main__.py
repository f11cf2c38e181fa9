"""Mutation testing: does a module's own test file notice when the module is changed?

    python -m tests.mutants --sample 80 --seed 0 [module ...]

mutmut makes the mutants: one operator, constant, argument, assignment or branch changed at a time.
A random sample of them is tried with ``pytest -x`` on the module's own test file, in copies of the
package below the temporary directory, so the working tree never holds a mutant. Survivors are
printed as diffs and make the exit code 1. A mutant whose tests time out counts as noticed.

`equivalent.txt` lists the mutants that no test can kill. An entry is a survivor as printed here
(module, removed and added lines) and a line that begins with "because"; a blank line ends it.
"""

import argparse
import collections
import concurrent.futures
import os
import queue
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.mutants import changes
from tests.mutants.changes import Mutant

MODULES = [
    *(f"tb_firstloss/{name}.py" for name in ("arrays", "checks", "comparison", "contract")),
    "tb_firstloss/arithmetic.py",
    "tb_firstloss/capture/step/result.py",
    *sorted(map(str, Path("tb_firstloss/reading/format").glob("*.py"))),
]
MEMORY_BYTES = 12 << 30
"""Address space of a test run: a mutant may collect without end, and TensorFlow maps much."""

PYTEST = ("nice", sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")


def own_test(module: str) -> Path:
    """Returns where the tests mirror a module."""
    path = Path(module)
    return Path("tests", *path.parts[1:-1], f"test_{path.name}")


def copy_trees(folder: str, count: int) -> "queue.SimpleQueue[Path]":
    """Returns this many copies of the package and its tests, for one test run at a time each."""
    trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for number in range(count):
        tree = Path(folder, str(number))
        for name in ("tb_firstloss", "tests"):
            shutil.copytree(name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy("pyproject.toml", tree)
        trees.put(tree)
    return trees


def try_code(
    trees: "queue.SimpleQueue[Path]", module: str, code: str, timeout: float | None = None
) -> tuple[str, float]:
    """Runs a module's own tests on other code: "survived", "killed" or "timed out", and seconds."""
    tree, start = trees.get(), time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*PYTEST, "--hypothesis-seed=0", str(own_test(module))]
    original, quiet = (tree / module).read_text(), subprocess.DEVNULL
    (tree / module).write_text(code)
    try:
        failed = subprocess.run(
            command, cwd=tree, env=environment, timeout=timeout, stdout=quiet, stderr=quiet
        ).returncode
    except subprocess.TimeoutExpired:
        return "timed out", time.monotonic() - start
    finally:
        (tree / module).write_text(original)
        trees.put(tree)
    return "killed" if failed else "survived", time.monotonic() - start


def try_all(mutants: list[Mutant], jobs: int) -> Iterator[str]:
    """Yields what becomes of each mutant; refuses tests that fail on the unchanged module."""
    modules = sorted({mutant.module for mutant in mutants})
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    with tempfile.TemporaryDirectory() as folder:
        trees = copy_trees(folder, jobs)
        try:
            plain = pool.map(lambda name: try_code(trees, name, Path(name).read_text()), modules)
            seconds = {}
            for module, (outcome, seconds[module]) in zip(modules, plain, strict=True):
                if outcome != "survived":
                    sys.exit(f"{own_test(module)} fails without a mutant")
            yield from pool.map(
                lambda m: try_code(trees, m.module, m.code, 30 + 5 * seconds[m.module])[0], mutants
            )
        finally:
            pool.shutdown(cancel_futures=True)


def main() -> int:
    """Tries a sample and prints what its tests did not notice."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("modules", nargs="*", default=MODULES)
    parser.add_argument("--sample", type=int, default=80, help="number of mutants; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    reasons = changes.read_equivalent()
    tested = [module for module in options.modules if own_test(module).exists()]
    known = [change for module in tested for change in changes.find_changes(module)]
    count = min(options.sample or len(known), len(known))
    mutants = sorted(map(changes.apply, random.Random(options.seed).sample(known, count)))
    outcomes = try_all([mutant for mutant in mutants if mutant.change not in reasons], options.jobs)
    found: collections.Counter[str] = collections.Counter()
    for module, line, change, _ in mutants:
        reason = reasons.get(change)
        outcome = next(outcomes) if reason is None else "equivalent"
        found[outcome] += 1
        if outcome != "killed":
            because = "" if reason is None else f" because {reason}"
            print(f"{module}:{line}: {outcome}{because}{change.removeprefix(module)}\n", flush=True)
    figures = ", ".join(f"{number} {outcome}" for outcome, number in found.most_common())
    print(f"{count} of {len(known)} mutants: {figures}")
    return 1 if found["survived"] else 0


if __name__ == "__main__":
    sys.exit(main())
