"""Where a profiled step's time went, from the events of xprof's trace viewer."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

SHARES = {
    "tracing": "Python functions into graphs",
    "compilation": "graph optimization, kernel set-up, XLA",
    "input": "waiting for the next batch inside the step",
    "compute": "operations",
    "other": "Python, and whatever else",
}
"""Where a step's time goes; a moment in several of these counts for the first."""

_COMPILER = re.compile(r"Compil(e|er|ation)\b|Compiler::")
_COMPUTE = re.compile(
    r"EagerKernelExecute|ExecutorState::Process|FunctionRun|KernelAndDeviceFunc::Run"
)

# Lines that xprof derives from a device's streams: they also span the gaps between kernels.
_DERIVED_LINE = re.compile(
    r"(Steps|XLA Modules|(Framework|TensorFlow) (Name Scope|Ops)|Source code)\b"
)
_DEVICE = re.compile(r"/device:")

_Span = tuple[float, float]


def read_step(trace: Any) -> tuple[int | None, float, dict[str, float]]:
    """Returns the first marked step of a trace in the Trace Event Format, times in microseconds.

    Returns:
        Its number, duration in seconds, and seconds by the names of `SHARES`; without a marked
        step None, 0 and {}.
    """
    events = [event for event in trace["traceEvents"] if event]
    devices = {event["pid"] for event in events if _names(event, "process", _DEVICE)}
    derived = {_thread(event) for event in events if _names(event, "thread", _DERIVED_LINE)}
    spans = [e for e in events if e.get("ph") == "X" and _thread(e) not in derived]
    markers = [e for e in spans if "step_num" in e.get("args", {}) and e["pid"] not in devices]
    if not markers:
        return None, 0.0, {}
    marker = min(markers, key=lambda event: float(event["ts"]))
    step = _span(marker)
    classified: dict[str, list[_Span]] = {name: [] for name in SHARES}
    for name, span in _classify(spans, devices):
        start, end = max(span[0], step[0]), min(span[1], step[1])
        if start < end:
            classified[name].append((start, end))
    classified["other"] = [step]
    return int(marker["args"]["step_num"]), (step[1] - step[0]) / 1e6, dict(_divide(classified))


def _classify(events: Iterable[Any], devices: set[int]) -> Iterator[tuple[str, _Span]]:
    """Yields an event's share, if it has one, and its time."""
    preparing: dict[tuple[int, int], _Span] = {}
    for event in sorted(events, key=lambda event: float(event["ts"])):
        name, span, thread = str(event["name"]), _span(event), _thread(event)
        if event["pid"] in devices:
            yield "compute", span
        elif name == "tf.function-graph_building":
            yield "tracing", span
        elif _COMPILER.search(name):
            yield "compilation", span
        elif "IteratorGetNext" in name:
            yield "input", span
        elif name.startswith("EagerLocalExecute"):
            preparing[thread] = span
        elif _COMPUTE.search(name):
            yield "compute", span
            # Before its kernel runs, an execution optimizes the graph, places it and makes kernels.
            start, end = preparing.pop(thread, (span[0], span[0]))
            if name == "EagerKernelExecute" and start < span[0] < end:
                yield "compilation", (start, span[0])


def _divide(classified: dict[str, list[_Span]]) -> Iterator[tuple[str, float]]:
    """Yields each share's seconds, without those that an earlier share has taken."""
    taken: list[_Span] = []
    covered = 0.0
    for name in SHARES:
        taken = _union(taken + classified[name])
        total = sum(end - start for start, end in taken)
        yield name, (total - covered) / 1e6
        covered = total


def _union(spans: list[_Span]) -> list[_Span]:
    merged: list[_Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _names(event: Any, what: str, pattern: re.Pattern[str]) -> bool:
    """Returns whether an event gives a process or thread a name of this pattern."""
    if event.get("name") != f"{what}_name":
        return False
    return pattern.match(str(event["args"]["name"])) is not None


def _thread(event: Any) -> tuple[Any, Any]:
    return event["pid"], event.get("tid")


def _span(event: Any) -> _Span:
    start = float(event["ts"])
    return start, start + float(event.get("dur", 0))
