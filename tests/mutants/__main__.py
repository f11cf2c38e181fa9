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
import difflib
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
from typing import NamedTuple

import libcst
from mutmut.mutation.file_mutation import create_mutations

MODULES = [
    *(f"tb_firstloss/{name}.py" for name in ("arrays", "checks", "comparison", "contract")),
    "tb_firstloss/capture/step_result.py",
    *sorted(map(str, Path("tb_firstloss/reading/format").glob("*.py"))),
]
EQUIVALENT = Path(__file__).with_name("equivalent.txt")
MEMORY_BYTES = 12 << 30
"""Address space of a test run: a mutant may collect without end, and TensorFlow maps much."""

PYTEST = ("nice", sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")


class Mutant(NamedTuple):
    """A module's source with one change; the change is spelled as in `equivalent.txt`."""

    module: str
    line: int
    change: str
    code: str


def own_test(module: str) -> Path:
    """Returns where the tests mirror a module."""
    path = Path(module)
    return Path("tests", *path.parts[1:-1], f"test_{path.name}")


def mutations_of(module: str) -> list[tuple[str, libcst.Module, libcst.CSTNode, libcst.CSTNode]]:
    """Returns module, tree, node and replacement of each mutant; texts for people stay."""
    tree, found, _, _ = create_mutations(module, Path(module).read_text())
    return [
        (module, tree, each.original_node, each.mutated_node)
        for each in found
        if not (
            isinstance(each.original_node, libcst.SimpleString) and " " in each.original_node.value
        )
    ]


def make_mutant(
    module: str, tree: libcst.Module, node: libcst.CSTNode, replacement: libcst.CSTNode
) -> Mutant:
    """Returns the mutant that a replacement makes."""
    code = tree.deep_replace(node, replacement).code
    before, after = tree.code.splitlines(), code.splitlines()
    parts = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    _, first, end, start, stop = next(part for part in parts if part[0] != "equal")
    removed = [f"- {line.strip()}" for line in before[first:end]]
    added = [f"+ {line.strip()}" for line in after[start:stop]]
    return Mutant(module, first + 1, "\n".join([module, *removed, *added]), code)


def read_equivalent() -> dict[str, str]:
    """Returns the reasons of `equivalent.txt` by change; names what the modules no longer say."""
    reasons = {}
    for entry in filter(None, EQUIVALENT.read_text().strip().split("\n\n")):
        change, _, reasons[change] = entry.partition("\nbecause ")
        module, *lines = change.splitlines()
        source = {line.strip() for line in Path(module).read_text().splitlines()}
        for line in lines:
            if line.startswith("- ") and line[2:] not in source:
                print(f"{EQUIVALENT.name}: {module} no longer has the line: {line[2:]}")
    return reasons


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
    trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    modules = sorted({mutant.module for mutant in mutants})
    with tempfile.TemporaryDirectory() as folder:
        for number in range(jobs):
            for name in ("tb_firstloss", "tests"):
                skipped = shutil.ignore_patterns("__pycache__")
                shutil.copytree(name, Path(folder, str(number), name), ignore=skipped)
            trees.put(Path(shutil.copy("pyproject.toml", Path(folder, str(number)))).parent)
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
    reasons = read_equivalent()
    tested = [module for module in options.modules if own_test(module).exists()]
    mutations = [mutation for module in tested for mutation in mutations_of(module)]
    count = min(options.sample or len(mutations), len(mutations))
    sample = random.Random(options.seed).sample(mutations, count)
    mutants = sorted((make_mutant(*each) for each in sample), key=lambda m: (m.module, m.line))
    tried = [mutant for mutant in mutants if mutant.change not in reasons]
    outcomes = iter(try_all(tried, options.jobs))
    found: collections.Counter[str] = collections.Counter()
    for module, line, change, _ in mutants:
        reason = reasons.get(change)
        outcome = next(outcomes) if reason is None else "equivalent"
        found[outcome] += 1
        if outcome != "killed":
            because = "" if reason is None else f" because {reason}"
            print(f"{module}:{line}: {outcome}{because}{change.removeprefix(module)}\n", flush=True)
    figures = ", ".join(f"{number} {outcome}" for outcome, number in found.most_common())
    print(f"{count} of {len(mutations)} mutants: {figures}")
    return 1 if found["survived"] else 0


if __name__ == "__main__":
    sys.exit(main())
