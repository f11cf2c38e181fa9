"""The Markdown report that TensorBoard's Text dashboard shows for a recording."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tb_firstloss.capture.window.step_trace import StepTrace
from tb_firstloss.first_batch import FirstBatch, tabulate
from tb_firstloss.loss_table import LossTable


def write_report(first: FirstBatch, trace: StepTrace) -> str:
    """Returns the report of a recording and of the window around its step, as Markdown."""
    rows = list(_loss_rows(tabulate(first)))
    rows += _trace_rows(trace, "tracing and compilation included")
    rows += [(key.replace("_", " "), str(value)) for key, value in first.metadata.items()]
    return f"## First batch: {first.run}, step {first.step}\n\n{_table(rows)}{_gaps(trace)}"


def write_warm_report(warm: StepTrace, first: StepTrace) -> str:
    """Returns the report of the warm step, next to step 0, as Markdown."""
    rows = _trace_rows(warm, "steady state")
    if warm.seconds and first.seconds:
        rows.append(("step 0", f"{first.seconds:.4g} s, {first.seconds / warm.seconds:.3g} times"))
    return f"## Warm step {warm.step}\n\n{_table(rows)}{_gaps(warm)}"


def _trace_rows(trace: StepTrace, what: str) -> list[tuple[str, str]]:
    rows = []
    if trace.seconds is not None:
        rows.append(("step wall time", f"{trace.seconds:.4g} s, {what}"))
    if trace.profile_bytes is not None:
        rows.append(("profile", f"{trace.profile_bytes:,} bytes"))
    return rows


def _table(rows: Iterable[tuple[str, str]]) -> str:
    lines = "\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in rows)
    return f"| | |\n|---|---|\n{lines}\n"


def _gaps(trace: StepTrace) -> str:
    text = ""
    if trace.missing:
        text += "\n**Not recorded**\n\n" + "\n".join(f"- {line}" for line in trace.missing) + "\n"
    if trace.warning is not None:
        text += f"\n**Warning**: {trace.warning}\n"
    return text


def _loss_rows(table: LossTable) -> Iterator[tuple[str, str]]:
    for loss in table.losses:
        yield loss.name, loss.kind if loss.value is None else f"{loss.value} ({loss.kind})"
    for output in table.outputs:
        s = output.statistics
        yield f"{output.name} per example", output.kind
        yield f"{output.name} mean, std", f"{s.mean:.6g}, {s.std:.4g}"
        yield f"{output.name} min, max", f"{s.min:.6g}, {s.max:.6g}"
        yield f"{output.name} non-finite", f"{s.nonfinite_count} of {s.count}"
    yield "digest", f"`{table.digest}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
