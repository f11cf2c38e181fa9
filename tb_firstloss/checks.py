"""The verdict on a first loss: what it should be, and whether it is."""

import dataclasses
import math
import os
import reprlib
from collections.abc import Mapping
from typing import Literal

from tb_firstloss.arithmetic import evaluate
from tb_firstloss.arrays import Array
from tb_firstloss.errors import some_of
from tb_firstloss.first_batch import FirstBatch, OutputLoss
from tb_firstloss.reading.recordings import first_batch_of

Kind = Literal["ok", "high", "low", "non-finite", "constant"]

_WORST_FIRST: tuple[Kind, ...] = ("non-finite", "constant", "high", "low", "ok")

_USUAL_CAUSES: dict[Kind, str] = {
    "high": "initial weights that are too large, inputs that are not normalised, or logits taken "
    "for probabilities",
    "low": "weights that are already trained, labels that leak into the inputs, a batch of few "
    "classes, or padding that counts as examples",
    "non-finite": "NaN in the inputs, log(0) or a division by 0 in the loss, or float16 overflow",
    "constant": "outputs that do not depend on the inputs: a last layer that starts at zero, dead "
    "activations, or one example repeated through the batch",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a first loss is what was expected.

    Attributes:
        kind: "ok", "high" or "low"; whatever the expectation, "non-finite" if any value is NaN or
            infinite, and "constant" if several per-example values are all equal.
        compared: What was compared: "mean per-example loss", or "loss" unless there is one output.
        value: Its value, which may be NaN or infinite.
        expected: What it was compared with.
        message: One sentence, with the usual causes of a finding; of several, one per finding.
        parts: With expectations by name, the verdict on each, and all of the above but the message
            is the worst one's; else empty.
    """

    kind: Kind
    compared: str
    value: float
    expected: float
    message: str
    parts: Mapping[str, "Verdict"] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.kind == "ok"

    def __str__(self) -> str:
        return self.message

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: a row per part, and the message."""
        from tb_firstloss.notebook import table_to_html  # only a notebook needs it

        parts = (self.parts or {self.compared: self}).items()
        rows = [(name, f"{v.value:.6g}", f"{v.expected:.6g}", v.kind) for name, v in parts]
        columns = ("", "value", "expected", "verdict")
        return table_to_html(columns, rows, title=self.kind, note=self.message)


def check(
    first_batch: FirstBatch | str | os.PathLike[str],
    expect: float | str | Mapping[str, float | str],
    *,
    rtol: float = 0.1,
    atol: float = 0.0,
) -> Verdict:
    """Compares a first loss with what it should be.

    A single expectation is about the mean of the only output's finite per-example values, because
    regularisers shift the total loss; without exactly one output, it is about the only loss. Of
    several losses, a mapping says what each should be; losses and outputs that it does not name
    are not examined. A name is an output's if there is one of that name, else a loss's.

    Args:
        first_batch: What was captured, or where `read_first_loss` finds it.
        expect: A number, an expression such as ``"log(10)"`` (see `parse_expectation`), or a
            mapping from names of losses and outputs to numbers and expressions.
        rtol: Allowed deviation as a share of the expectation.
        atol: Allowed deviation in units of the loss, added to that.

    Raises:
        ValueError: The expectation or a tolerance is unusable, a name is unknown, or a single
            expectation meets several losses, or several outputs without a loss.
        TypeError: The expectation is neither a number nor text nor a mapping of these.
        ReadError, FileNotFoundError: As from `read_first_loss`, of a path.
    """
    expected = parse_expectations(expect)
    check_tolerances(rtol, atol)
    first_batch = first_batch_of(first_batch)
    if not isinstance(expected, dict):
        return _judge(_sole_subject(first_batch, expected), expected, atol + rtol * abs(expected))
    return _sum_up(
        {
            name: _judge(_subject_named(first_batch, name), each, atol + rtol * abs(each))
            for name, each in expected.items()
        }
    )


def check_recorded(
    first_batch: FirstBatch, *, rtol: float = 0.1, atol: float = 0.0
) -> Verdict | None:
    """Compares a first loss, as `check` does, with the expectation recorded with it, if any."""
    recorded = first_batch.metadata.get("expected_loss")
    if recorded is None:
        return None
    try:
        expect = parse_expectations(recorded, where="metadata['expected_loss']")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{first_batch.run}: {error}") from error
    return check(first_batch, expect, rtol=rtol, atol=atol)


def check_tolerances(rtol: float, atol: float) -> None:
    """Raises ValueError unless both tolerances are finite numbers of at least 0."""
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise ValueError(f"{name}: {tolerance!r}; give a finite number of at least 0")


def values_by_name(first: FirstBatch) -> dict[str, float]:
    """Returns what can be expected of a first batch, by name: an output's mean, else a loss."""
    means = {name: output.statistics.mean for name, output in first.outputs.items()}
    return {name: float(loss) for name, loss in first.losses.items()} | means


@dataclasses.dataclass(frozen=True)
class _Subject:
    """What an expectation is about, and whose values it concerns."""

    compared: str
    value: float
    losses: Mapping[str, Array]
    outputs: Mapping[str, OutputLoss]


def _sole_subject(first: FirstBatch, expected: float) -> _Subject:
    if len(first.losses) <= 1 and not first.metadata.get("unseen_losses"):
        if len(first.outputs) == 1:
            return _Subject("mean per-example loss", first.mean, first.losses, first.outputs)
        if first.loss is not None:
            return _Subject("loss", float(first.loss), first.losses, first.outputs)
    names = list(values_by_name(first))
    if not names:
        raise ValueError(f"{first.run}: neither a loss nor an output to compare")
    hint = f"give a mapping such as {{{names[0]!r}: {expected:.4g}}}"
    raise ValueError(f"{first.run}: {_name_several(first)}; {hint}")


def _name_several(first: FirstBatch) -> str:
    unseen = first.metadata.get("unseen_losses") or []
    unseen = unseen if isinstance(unseen, list) else [unseen]
    losses = [repr(name) for name in first.losses]
    losses += [f"{reprlib.repr(name)} not captured" for name in unseen]
    if not losses:
        return f"several outputs ({some_of(list(map(repr, first.outputs)))}) and no loss"
    return f"{'several losses' if len(losses) > 1 else 'a loss'} ({some_of(losses)})"


def _subject_named(first: FirstBatch, name: str) -> _Subject:
    values = values_by_name(first)
    if name not in values:
        known = some_of(list(map(repr, values))) or "none"
        raise ValueError(f"{first.run}: no loss or output is named {name!r}; known: {known}")
    losses = {name: first.losses[name]} if name in first.losses else {}
    outputs = {name: first.outputs[name]} if name in first.outputs else {}
    compared = f"mean per-example loss of {name!r}" if outputs else f"loss {name!r}"
    return _Subject(compared, values[name], losses, outputs)


def _judge(subject: _Subject, expected: float, allowed: float) -> Verdict:
    compared, value = subject.compared, subject.value
    kind, finding = _find(subject, expected, allowed)
    if kind == "ok":
        message = f"{compared} {value:.6g} is as expected ({expected:.6g})"
    else:
        message = f"{compared} {value:.6g}, expected {expected:.6g}: {finding}. {_causes(kind)}"
    return Verdict(kind=kind, compared=compared, value=value, expected=expected, message=message)


def _find(subject: _Subject, expected: float, allowed: float) -> tuple[Kind, str]:
    value = subject.value
    statistics = [output.statistics for output in subject.outputs.values()]
    bad, count = sum(s.nonfinite_count for s in statistics), sum(s.count for s in statistics)
    if bad:
        return "non-finite", f"{bad} of {count} per-example values are NaN or infinite"
    if not math.isfinite(value):
        return "non-finite", "it is NaN or infinite"
    for loss in subject.losses.values():
        if not math.isfinite(float(loss)):
            return "non-finite", f"the total loss is {float(loss)}"
    for name, output in subject.outputs.items():
        s = output.statistics
        if s.count > 1 and s.min == s.max:
            return "constant", f"all {s.count} per-example values of {name!r} are equal"
    if abs(value - expected) <= allowed:
        return "ok", ""
    deviation = f"off by {abs(value - expected):.3g} (tolerance {allowed:.3g})"
    return ("high", deviation) if value > expected else ("low", deviation)


def _causes(kind: Kind) -> str:
    return f"Usual causes: {_USUAL_CAUSES[kind]}"


def _sum_up(parts: dict[str, Verdict]) -> Verdict:
    """Returns the verdict on several: the worst, with a message about every finding."""
    verdicts = sorted(parts.values(), key=lambda part: _WORST_FIRST.index(part.kind))
    worst = verdicts[0]
    if len(parts) == 1:
        return dataclasses.replace(worst, parts=parts)
    if worst.ok:
        each = (f"{part.compared} {part.value:.6g} ({part.expected:.6g})" for part in verdicts)
        return dataclasses.replace(worst, message=f"as expected: {', '.join(each)}", parts=parts)
    sentences: list[str] = []
    for kind in dict.fromkeys(part.kind for part in verdicts if not part.ok):
        of_kind = (part.message for part in verdicts if part.kind == kind)
        sentences += [message.removesuffix(f". {_causes(kind)}") for message in of_kind]
        sentences.append(_causes(kind))  # once for all of its kind
    later = (sentence[0].upper() + sentence[1:] for sentence in sentences[1:])
    return dataclasses.replace(worst, message=". ".join([sentences[0], *later]), parts=parts)


def parse_expectations(
    expect: float | str | Mapping[str, float | str], *, where: str = "expect"
) -> float | dict[str, float]:
    """Returns the number that an expectation of `check` stands for; of a mapping, one per name.

    ``where`` begins an error's message.

    Raises:
        ValueError: The mapping is empty, or one of the expectations is unusable.
        TypeError: A name is not text, or an expectation neither a number nor text.
    """
    if not isinstance(expect, Mapping):
        return parse_expectation(expect, where=where)
    if not expect:
        raise ValueError(f"{where}: an empty mapping; name at least one loss or output")
    expected = {}
    for name, each in expect.items():
        if not isinstance(name, str):
            raise TypeError(f"{where}: {name!r} is not the name of a loss or output")
        if each == "auto":
            raise ValueError(
                f"{where}[{name!r}]: 'auto' is for the whole step; give a number or an expression "
                "such as 'log(10)'"
            )
        expected[name] = parse_expectation(each, where=f"{where}[{name!r}]")
    return expected


def parse_expectation(expect: float | str, *, where: str = "expect") -> float:
    """Returns the number that an expectation stands for: 2.3, "2.3", "log(10)", "ln(10) + 0.5".

    It knows numbers, ``+ - * /``, parentheses, log, ln, log2, log10, exp, sqrt, pi and e, and
    evaluates nothing as Python code. Both log and ln are the natural logarithm. ``where`` begins
    an error's message.

    Raises:
        ValueError: Anything else, or a value that is not finite.
        TypeError: Neither a number nor text.
    """
    if isinstance(expect, bool) or not isinstance(expect, (int, float, str)):
        raise TypeError(f"{where}: {reprlib.repr(expect)} is neither a number nor an expression")
    if expect == "auto":
        raise ValueError(
            f"{where}: 'auto' is for FirstLossCallback and probe, which know the loss function and "
            "the number of classes; give a number or an expression such as 'log(10)'"
        )
    try:
        value = evaluate(expect) if isinstance(expect, str) else float(expect)
    except (OverflowError, ValueError) as error:
        raise ValueError(
            f"{where}: {reprlib.repr(expect)} cannot be worked out ({error})"
        ) from error
    if not math.isfinite(value):
        raise ValueError(f"{where}: {reprlib.repr(expect)} is not a finite number")
    return value
