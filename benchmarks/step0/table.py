"""What `gpu_step0.py` prints: one row a configuration, then what failed or was left out."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from typing import Any

from step0.verdicts import Check

HEADERS = (
    "network, dtypes, compiler",
    "checks",
    "first loss",
    "step 0, recorded",
    "of which recording",
    "extra, of a further network",
    "warm step",
    "wrapped / bare",
    "kernels, step 0 and warm",
    "peak memory",
)


def format_table(facts: dict[str, Any], checks: dict[str, list[Check]]) -> Iterator[str]:
    """Yields the lines of the table."""
    yield row(HEADERS)
    yield row(["---"] * len(HEADERS))
    for name, parts in facts.items():
        made = [check for check in checks[name] if check.passed is not None]
        passed = f"{sum(check.passed is True for check in made)} of {len(made)}"
        yield row([name, passed, *format_numbers(parts["measure"])])


def format_numbers(measured: dict[str, Any]) -> list[str]:
    """Returns the cells of a configuration; empty where its process ended badly."""
    if "ended" in measured:
        return [""] * (len(HEADERS) - 2)
    cold, warm = measured["profile"], measured["warm_profile"]
    step, start = measured["step"], measured["first_step"]
    ratio = statistics.median(step["ratios"])
    peak = measured["peak_memory_bytes"]
    return [
        f"{measured['loss']:.6f}",
        f"{measured['first_call_seconds']:.2f} s",
        f"{measured['first_call_seconds'] - cold['seconds']:.2f} s",
        f"{start['extra_seconds']:+.2f} s ({start['extra_share']:+.0%})",
        f"{1e3 * warm['seconds']:.2f} ms",
        f"{ratio:.4f} of {1e3 * step['bare_seconds']:.2f} ms",
        f"{cold['kernel_count']}, {warm['kernel_count']}",
        "" if peak is None else f"{peak / 2**20:,.0f} MiB",
    ]


def format_machine(facts: dict[str, Any]) -> str:
    """Returns in one line what the measurements were made on."""
    machines = [
        parts["measure"]["machine"] for parts in facts.values() if "machine" in parts["measure"]
    ]
    if not machines:
        return "no measurement"
    machine = machines[0]
    versions = (f"{name} {version}" for name, version in machine["versions"].items())
    driver = f"driver {machine['driver']}, " if "driver" in machine else ""
    device = machine.get("gpu") or "a CPU"
    return f"On {device}, {driver}Python {machine['python']}, {', '.join(versions)}."


def format_rest(checks: dict[str, list[Check]]) -> Iterator[str]:
    """Yields a line for each reason why checks could not be made, and for each that failed."""
    left: dict[str, dict[str, None]] = {}
    for check in (check for of_one in checks.values() for check in of_one):
        if check.passed is None:
            left.setdefault(check.found, {})[check.name] = None
    for reason, names in left.items():
        yield f"not checked, {reason}: {', '.join(names)}"
    for name, of_one in checks.items():
        for check in of_one:
            if check.passed is False:
                yield f"FAILED: {name}: {check.name}: {check.found}"


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
