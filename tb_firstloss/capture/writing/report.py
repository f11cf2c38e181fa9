"""The Markdown report that TensorBoard's Text dashboard shows for a recording."""

from collections.abc import Iterable, Sequence

from tb_firstloss.capture.window.step_trace import StepTrace
from tb_firstloss.first_batch import FirstBatch, tabulate
from tb_firstloss.loss_table import COLUMNS, LossTable


def write_report(first: FirstBatch, trace: StepTrace, run_dir: str = "") -> str:
    """Returns the report of a recording and of the window around its step, as Markdown.

    The end of the run directory is its heading, as a run's name alone is the same in many logdirs.
    """
    run = "/".join(run_dir.rstrip("/").split("/")[-2:]) or first.run
    table = tabulate(first)
    facts = [
        ("digest", f"`{table.digest}`"),
        *_trace_rows(trace, "tracing and compilation included"),
    ]
    facts += [(key.replace("_", " "), str(value)) for key, value in first.metadata.items()]
    return (
        f"## {run}: first batch, step {first.step}\n\n{_losses(table)}\n{_table(facts)}"
        f"{_gaps(trace)}"
    )


def write_warm_report(warm: StepTrace, first: StepTrace, seconds_between: float) -> str:
    """Returns the report of the warm step, next to step 0, as Markdown."""
    rows = _trace_rows(warm, "steady state")
    loop = "input and whatever else the loop does"
    rows.append(("since the previous step", f"{seconds_between:.4g} s: {loop}"))
    if warm.seconds and first.seconds:
        rows.append(("step 0", f"{first.seconds:.4g} s, {first.seconds / warm.seconds:.3g} times"))
    return f"## Warm step {warm.step}\n\n{_table(rows)}{_gaps(warm)}"


def _trace_rows(trace: StepTrace, what: str) -> list[tuple[str, str]]:
    rows = []
    if trace.seconds is not None:
        rows.append(("step wall time", f"{trace.seconds:.4g} s, {what}"))
    if trace.profile_bytes is not None:
        rows.append(("profile", f"{trace.profile_bytes:,} bytes"))
    if trace.barrier:
        parts = [f"{part} {seconds:.3g} s" for part, seconds in trace.barrier.items()]
        rows.append(("values on disk after", ", ".join(parts)))
    return rows


def _table(rows: Iterable[Sequence[str]], headings: Sequence[str] = ("fact", "value")) -> str:
    lines = [headings, ["---"] * len(headings), *([_cell(text) for text in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _gaps(trace: StepTrace) -> str:
    text = ""
    if trace.missing:
        text += "\n**Not recorded**\n\n" + "\n".join(f"- {line}" for line in trace.missing) + "\n"
    if trace.warning is not None:
        text += f"\n**Warning**: {trace.warning}\n"
    return text


def _losses(table: LossTable) -> str:
    if not (table.losses or table.outputs):
        return "**No loss** was captured.\n"
    rows = [(row, row.texts()) for row in table.rows]
    shown = [name for name in COLUMNS if any(texts[name] for _, texts in rows)]
    cells = []
    for row, texts in rows:
        if row.loss is not None:
            texts["loss"] = f"{row.loss.value} ({row.loss.kind})"
        cells.append([row.name, *(texts[name] for name in shown), row.kind])
    return _table(cells, ("", *shown, "per example"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
