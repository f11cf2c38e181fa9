"""What the facts of one configuration say: each check passed, failed, or could not be made."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Iterator
from typing import Any

TOLERANCES = {"float32": 1e-4, "float32 in TF32": 1e-2, "mixed_float16": 1e-2}
"""Largest difference of a loss from the CPU's in float32, as a share of the CPU's mean loss."""

MOST_EXTRA_PER_STEP = 0.01
NO_GPU = "without a GPU"
Facts = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Check:
    """One question to one configuration.

    Attributes:
        name: What is asked.
        passed: The answer; None if it could not be asked.
        found: What was found, or why it could not be asked.
    """

    name: str
    passed: bool | None
    found: str


def judge(parts: dict[str, Facts], policy: str) -> list[Check]:
    """Returns every check of one configuration.

    Args:
        parts: Facts of the processes "measure", "train" and "train again"; one that ended badly
            has only "ended", with the reason.
        policy: Its dtype policy.
    """
    checks = [
        Check(f"process: {part}", "ended" not in facts, facts.get("ended", "ended well"))
        for part, facts in parts.items()
    ]
    measured, *trained = (parts[part] for part in ("measure", "train", "train again"))
    if "ended" not in measured:
        checks += judge_recording(measured)
        checks += judge_profiles(measured)
        checks += judge_device(measured)
        tf32 = measured["machine"]["device"] != "CPU:0" and policy == "float32"
        kind = "float32 in TF32" if tf32 else policy
        checks.append(compare_with_cpu("recorded", measured["per_example"], measured["cpu"], kind))
        checks.append(judge_steps(measured["step"]))
    if any("ended" in facts for facts in trained):
        return checks
    checks += judge_trainings(*trained)
    if "loop recorded" in trained[0] and "ended" not in measured:
        losses = trained[0]["loop recorded"]["per_example"]
        checks.append(compare_with_cpu("deterministic", losses, measured["cpu"], policy))
    return checks


def judge_recording(facts: Facts) -> Iterator[Check]:
    same = facts["recorded_loss_is_the_steps"] and facts["recorded_losses_are_the_steps"]
    yield Check("first loss recorded bit for bit", same, f"loss {facts['loss']:.9g}")
    graph = sum(facts["graph_bytes"])
    yield Check("graph of step 0", graph > 0, f"{graph} bytes")
    said = "; ".join(facts["warnings"]) or "none"
    yield Check("no warnings", not facts["warnings"], said)


def judge_profiles(facts: Facts) -> Iterator[Check]:
    for name, number in ("profile", 0), ("warm_profile", facts["warm_step"]):
        profile = facts[name]
        found = f"{profile['markers']} markers, step {profile['step']}, {profile['seconds']:.4g} s"
        passed = (profile["markers"], profile["step"]) == (1, number) and profile["seconds"] > 0
        yield Check(f"{name}: step marked once, with its time", passed, found)
    tracing = [facts[name]["shares"].get("tracing", 0.0) for name in ("profile", "warm_profile")]
    found = f"tracing {tracing[0]:.4g} s at step 0, {tracing[1]:.4g} s at the warm step"
    yield Check("the warm step traces nothing", tracing[0] > 0 == tracing[1], found)


def judge_device(facts: Facts) -> Iterator[Check]:
    device = f"/device:{facts['machine']['device']}"
    names = ["device planes", "kernels", "device memory"]
    if device == "/device:CPU:0":
        yield from (Check(name, None, NO_GPU) for name in names)
        return
    for name in ("profile", "warm_profile"):
        profile = facts[name]
        events = profile["device_events"].get(device, 0)
        yield Check(f"{name}: device planes", events > 0, f"{events} events of {device}")
        count = profile["kernel_count"]
        yield Check(f"{name}: kernels", count > 0, f"{count} kernels")
    peaks = {"TensorFlow": facts["peak_memory_bytes"] or 0, **facts["profile"]["peak_bytes"]}
    found = ", ".join(f"{name} {peak / 2**20:.1f} MiB" for name, peak in peaks.items())
    yield Check("device memory", any(peaks.values()), found)


def compare_with_cpu(name: str, losses: list[float], cpu: Facts, kind: str) -> Check:
    """Compares losses per example with those of the CPU in float32, the worst of them."""
    expected = cpu["per_example"]
    mean = math.fsum(expected) / len(expected)
    differences = [abs(loss - other) for loss, other in zip(losses, expected, strict=True)]
    # max() would let a NaN pass, depending on its place.
    worst = math.inf if any(map(math.isnan, differences)) else max(differences) / mean
    found = f"{worst:.3g} of the mean loss; at most {TOLERANCES[kind]:g} ({kind})"
    on_cpu = cpu["device"].endswith("CPU:0")
    return Check(f"{name}: loss like the CPU's", on_cpu and worst <= TOLERANCES[kind], found)


def judge_steps(facts: Facts) -> Check:
    """Returns whether a wrapped step takes longer: chance would explain it in 1 of 1000 cases."""
    low, median, high = median_interval(facts["ratios"])
    found = f"wrapped / bare {median:.4f}, from {low:.4f} to {high:.4f} at 99.9 % confidence"
    return Check("step after step 0", low <= 1 + MOST_EXTRA_PER_STEP, found)


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """Returns bounds of the true median at 99.9 % confidence, around that of the sample.

    The bounds are values of the sample itself, by how many of n tosses of a coin show heads, so
    nothing is assumed of the distribution. Below 11 values they are the lowest and the highest.
    """
    ordered, count = sorted(values), len(values)
    tails = itertools.accumulate(math.comb(count, heads) / 2**count for heads in range(count // 2))
    cut = max(0, sum(tail <= 0.0005 for tail in tails) - 1)
    return ordered[cut], statistics.median(values), ordered[count - 1 - cut]


def judge_trainings(first: Facts, again: Facts) -> Iterator[Check]:
    names = ("same bits in another process", "loop unchanged", "fit unchanged")
    unsupported = first.get("unsupported") or again.get("unsupported")
    if unsupported:
        yield from (Check(name, None, f"under determinism: {unsupported}") for name in names)
        return
    once, twice = first["loop recorded"], again["loop recorded"]
    yield compare(names[0], once, twice, list(once))
    yield compare(names[1], once, again["loop"], ["losses", "weights"])
    keys = ["losses", "metrics", "weights", "optimizer"]
    yield compare(names[2], first["fit recorded"], again["fit"], keys)


def compare(name: str, one: Facts, other: Facts, keys: list[str]) -> Check:
    different = [key for key in keys if one[key] != other[key]]
    if different:
        return Check(name, False, f"different: {', '.join(different)}")
    return Check(name, True, f"equal bits: {', '.join(keys)}")
