"""Runs benchmarks/gpu_step0.py where there is no GPU, and holds its judgement to its facts."""

import copy
import json
import math
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_digits

from tb_firstloss import read_first_loss
from tests.helpers.profiles import read_xspace, write_xspace

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GPU_CHECKS = ["device planes", "kernels", "device memory"]


def run_script(*options, **popen):
    command = [sys.executable, BENCHMARKS / "gpu_step0.py", "--quick", "--only", "demo/float32"]
    env = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*command, *options], env=env, capture_output=True, text=True, check=False, **popen
    )


@pytest.fixture(scope="module")
def step0():
    """The package in which the benchmark measures and judges."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import gpu_step0
        import step0.profiles
        import step0.table
        import step0.verdicts
    finally:
        sys.path.remove(str(BENCHMARKS))
    return SimpleNamespace(
        script=gpu_step0, profiles=step0.profiles, table=step0.table, verdicts=step0.verdicts
    )


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """One configuration measured in small sizes on the CPU: status, output, report, logdirs."""
    scratch = tmp_path_factory.mktemp("gpu_step0")
    keep, report = scratch / "keep", scratch / "report.json"
    done = run_script("--seconds", "0", "--jobs", "2", "--json", report, "--keep", keep)
    assert report.exists(), done.stderr[-3000:]
    return SimpleNamespace(
        status=done.returncode,
        printed=done.stdout,
        report=json.loads(report.read_text()),
        logdir=keep / "demo-float32" / "measure" / "logs",
    )


@pytest.fixture
def parts(outcome):
    """The facts of that configuration's processes, to be changed."""
    (configuration,) = outcome.report["configurations"]
    return copy.deepcopy(
        {part: configuration[part] for part in ("measure", "train", "train again")}
    )


def convolve(images, kernel, bias):
    windows = sliding_window_view(images, kernel.shape[:2], axis=(1, 2))
    return np.maximum(np.einsum("bhwcij,ijco->bhwo", windows, kernel) + bias, 0)


def losses_in_numpy():
    """The first losses of the demo's network, in float64, from weights drawn anew."""
    images, labels = load_digits(return_X_y=True)
    x, y = (images[:32] / 16).reshape(32, 8, 8, 1), labels[:32]
    rng, kernels = np.random.default_rng(0), []
    for shape in ((3, 3, 1, 16), (3, 3, 16, 32), (512, 10)):
        limit = np.sqrt(6 / (math.prod(shape[:-2]) * sum(shape[-2:])))
        kernels.append(rng.uniform(-limit, limit, shape))
    features = convolve(convolve(x, kernels[0], 0), kernels[1], 0).reshape(32, -1)
    logits = features @ kernels[2]
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(32), y]


@pytest.mark.slow
def test_on_a_cpu_every_check_that_can_be_made_passes(outcome):
    (configuration,) = outcome.report["configurations"]
    verdicts = {check["name"]: check["passed"] for check in configuration["checks"]}
    assert [name for name, passed in verdicts.items() if passed is None] == GPU_CHECKS
    assert [name for name, passed in verdicts.items() if passed is False] == []
    assert (outcome.status, outcome.report["passed"]) == (0, True)
    line = "not checked, without a GPU: device planes, kernels, device memory"
    assert outcome.printed.splitlines()[-1] == line


@pytest.mark.slow
def test_the_report_says_what_numpy_and_the_logdir_say(outcome, parts):
    measured = parts["measure"]
    assert measured["per_example"] == pytest.approx(losses_in_numpy(), rel=1e-5)
    recorded = read_first_loss(outcome.logdir / "first_batch")
    assert measured["per_example"] == recorded.per_example.tolist()
    assert measured["loss"] == recorded.loss
    for run, profile in ("first_batch", "profile"), ("first_batch-warm", "warm_profile"):
        (path,) = (outcome.logdir / run).rglob("*.xplane.pb")
        assert measured[profile]["bytes"] == path.stat().st_size
        assert measured[profile]["planes"] == [plane.name for plane in read_xspace(path).planes]
    assert measured["machine"]["device"] == "CPU:0"
    assert 0 < measured["profile"]["seconds"] < measured["first_call_seconds"]
    assert "| demo/float32 |" in outcome.printed


@pytest.mark.parametrize(
    ("options", "popen", "reason"),
    [
        (["--limit", "0.3"], {}, "not done after 0.3 s"),
        (
            [],
            {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))},
            "exit status",
        ),
    ],
    ids=["no time", "too little memory"],
)
def test_a_process_that_ends_badly_is_a_failed_check_and_exit_status_1(
    tmp_path, options, popen, reason
):
    done = run_script(*options, "--json", tmp_path / "report.json", **popen)
    assert done.returncode == 1, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    (configuration,) = report["configurations"]
    assert report["passed"] is False
    assert [check["passed"] for check in configuration["checks"]] == [False] * 3
    assert all(reason in check["found"] for check in configuration["checks"])
    assert done.stdout.count("FAILED: demo/float32: process: ") == 3
    assert done.stdout.count(reason) == 3


def nan_last(losses):
    return [*losses[:-1], math.nan]


CHANGES = {
    "another loss on disk": (
        lambda p: p["measure"].update(recorded_losses_are_the_steps=False),
        {"first loss recorded bit for bit"},
    ),
    "no graph": (lambda p: p["measure"].update(graph_bytes=[]), {"graph of step 0"}),
    "a warning": (lambda p: p["measure"].update(warnings=["no events"]), {"no warnings"}),
    "no step marker": (
        lambda p: p["measure"]["profile"].update(markers=0, step=None, seconds=0.0),
        {"profile: step marked once, with its time"},
    ),
    "two step markers": (
        lambda p: p["measure"]["warm_profile"].update(markers=2),
        {"warm_profile: step marked once, with its time"},
    ),
    "a warm step that traces": (
        lambda p: p["measure"]["warm_profile"]["shares"].update(tracing=0.1),
        {"the warm step traces nothing"},
    ),
    "another loss than the CPU's": (
        lambda p: p["measure"].update(per_example=[2.31] * 32),
        {"recorded: loss like the CPU's"},
    ),
    "NaN in the loss": (
        lambda p: p["train"]["loop recorded"].update(
            per_example=nan_last(p["train"]["loop recorded"]["per_example"])
        ),
        {"deterministic: loss like the CPU's", "same bits in another process"},
    ),
    "a slow wrapper": (
        lambda p: p["measure"]["step"].update(ratios=[1.02] * 20),
        {"step after step 0"},
    ),
    "another first loss in another process": (
        lambda p: p["train again"]["loop recorded"].update(first_loss="0"),
        {"same bits in another process"},
    ),
    "other weights after the loop": (
        lambda p: p["train again"]["loop"].update(weights="0"),
        {"loop unchanged"},
    ),
    "another history of fit": (
        lambda p: p["train again"]["fit"].update(losses=["0x1p+0", "0x1p+0"]),
        {"fit unchanged"},
    ),
}


def failed(checks):
    return {check.name for check in checks if check.passed is False}


@pytest.mark.slow
@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES)
def test_a_check_fails_on_the_fact_that_it_is_about(step0, parts, change, expected):
    parts["measure"]["step"]["ratios"] = [1.0] * 20
    assert failed(step0.verdicts.judge(parts, "float32")) == set()
    change(parts)
    assert failed(step0.verdicts.judge(parts, "float32")) == expected


@pytest.mark.slow
def test_a_gpu_without_planes_kernels_or_memory_fails(step0, parts):
    measured = parts["measure"]
    measured["machine"]["device"] = "GPU:0"
    profiles = ("profile", "warm_profile")
    expected = {f"{name}: {what}" for name in profiles for what in ("device planes", "kernels")}
    expected.add("device memory")
    assert failed(step0.verdicts.judge_device(measured)) == expected
    measured["peak_memory_bytes"] = 2**20
    for name in profiles:
        measured[name].update(device_events={"/device:GPU:0": 7}, kernel_count=3)
    checks = list(step0.verdicts.judge_device(measured))
    assert [check.passed for check in checks] == [True] * 5


@pytest.mark.slow
def test_what_cannot_run_deterministically_is_named_and_fails_nothing(step0, parts):
    parts["train"] = {"unsupported": "no deterministic MaxPoolGrad"}
    checks = step0.verdicts.judge(parts, "float32")
    left = [check.name for check in checks if "MaxPoolGrad" in check.found]
    assert left == ["same bits in another process", "loop unchanged", "fit unchanged"]
    lines = list(step0.table.format_rest({"demo/float32/jit": checks}))
    assert (
        f"not checked, under determinism: no deterministic MaxPoolGrad: {', '.join(left)}" in lines
    )


@pytest.mark.slow
@pytest.mark.parametrize(("device", "passed"), [("CPU:0", False), ("GPU:0", True)])
def test_a_gpu_can_be_required(step0, parts, device, passed):
    parts["measure"]["machine"]["device"] = device
    checks = step0.script.judge_configurations({"demo/float32": parts}, require_gpu=True)
    (check,) = [check for check in checks["demo/float32"] if check.name == "a GPU is there"]
    assert check.passed is passed


@pytest.mark.slow
def test_kernels_and_markers_are_those_of_the_profile(step0, outcome, tmp_path):
    (source,) = (outcome.logdir / "first_batch").rglob("*.xplane.pb")
    space = read_xspace(source)
    add_gpu_plane(space, {"a_kernel": 3, "another": 1})
    session = tmp_path / "plugins" / "profile" / "2026_01_01"
    session.mkdir(parents=True)
    write_xspace(space, session / "host.xplane.pb")
    found = step0.profiles.describe_profile(tmp_path)
    assert found["device_events"]["/device:GPU:0"] == 4
    assert {kernel["name"]: kernel["count"] for kernel in found["kernels"]} == {
        "a_kernel": 3,
        "another": 1,
    }
    assert found["kernels"][0] == {
        "name": "a_kernel",
        "operation": "conv",
        "count": 3,
        "microseconds": pytest.approx(6),
    }
    (host,) = [plane for plane in space.planes if plane.name == "/host:CPU"]
    assert step0.profiles.count_markers(host) == found["markers"] == 1
    host.lines.add().CopyFrom(marked_line(host))
    assert step0.profiles.count_markers(host) == 2
    for number, metadata in list(host.stat_metadata.items()):
        if metadata.name == "_r":  # without which the overview page finds no step
            del host.stat_metadata[number]
            host.stat_metadata[number].name = "another"
    assert step0.profiles.count_markers(host) == 0


def marked_line(plane):
    """A copy of the plane's line that has a step marker."""
    (number,) = [number for number, stat in plane.stat_metadata.items() if stat.name == "step_num"]
    (line,) = [
        line
        for line in plane.lines
        if any(stat.metadata_id == number for event in line.events for stat in event.stats)
    ]
    return line


def add_gpu_plane(space, kernels):
    """Adds a GPU's plane with kernels of 2 µs on one stream, as the profiler writes them."""
    plane = space.planes.add(name="/device:GPU:0", id=99)
    for number, name in enumerate(("kernel_details", "tf_op"), 1):
        plane.stat_metadata[number].id = number
        plane.stat_metadata[number].name = name
    line = plane.lines.add(id=7, name="Stream #7(Compute)")
    for number, (name, count) in enumerate(kernels.items(), 1):
        plane.event_metadata[number].id = number
        plane.event_metadata[number].name = name
        for _ in range(count):
            offset = 10**7 * len(line.events)
            event = line.events.add(metadata_id=number, offset_ps=offset, duration_ps=2 * 10**6)
            event.stats.add(metadata_id=1, str_value="regs:32 grid:1,1,1 block:128,1,1 occ_pct:50")
            event.stats.add(metadata_id=2, str_value="conv:Conv2D")


@pytest.mark.slow
def test_the_page_names_every_check_and_option(step0, parts):
    page = (BENCHMARKS.parent / "docs" / "profile.md").read_text().partition("\n## On a GPU\n")[2]
    parts["measure"]["machine"]["device"] = "GPU:0"
    checks = step0.script.judge_configurations({"demo/float32": parts}, require_gpu=True)
    section = page.partition("### What is checked")[2].partition("**Tolerances.**")[0]
    cells = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", section, re.MULTILINE)
    documented = {name for cell in cells[1:] for name in cell.split("; ")}
    assert documented == {check.name for check in checks["demo/float32"]}
    options = set(re.findall(r"--[a-z-]+", run_script("--help").stdout)) - {"--help"}
    assert options == set(re.findall(r"`(--[a-z-]+)", page)), "docs/profile.md: options"


@pytest.mark.parametrize("count", [3, 11, 20, 101])
def test_the_median_lies_outside_the_interval_once_in_a_thousand_at_most(step0, count):
    """By the exact chance that fewer than so many of the values lie below the true median."""
    low, median, high = step0.verdicts.median_interval(list(range(count, 0, -1)))
    assert (median, low + high) == ((count + 1) / 2, count + 1)

    def chance_above(rank):
        return sum(math.comb(count, below) for below in range(rank)) / 2**count

    assert low == 1 or chance_above(low) <= 0.0005
    assert chance_above(low + 1) > 0.0005
