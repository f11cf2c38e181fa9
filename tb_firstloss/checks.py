"""The verdict on a first loss: what it should be, and whether it is."""

from __future__ import annotations

import ast
import dataclasses
import math
import operator
import reprlib
from collections.abc import Callable, Mapping
from typing import Literal

from tb_firstloss.first_batch import FirstBatch

Kind = Literal["ok", "high", "low", "non-finite", "constant"]

_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "log": math.log,
    "ln": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "exp": math.exp,
    "sqrt": math.sqrt,
}
_CONSTANTS = {"pi": math.pi, "e": math.e}

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
        message: One sentence, with the usual causes of a finding.
    """

    kind: Kind
    compared: str
    value: float
    expected: float
    message: str
    parts: Mapping[str, Verdict] = dataclasses.field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.kind == "ok"

    def __str__(self) -> str:
        return self.message


def check(
    first_batch: FirstBatch, expect: float | str, *, rtol: float = 0.1, atol: float = 0.0
) -> Verdict:
    """Compares a first loss with what it should be.

    It compares the mean of the finite per-example values, because regularisers shift the total
    loss; the total loss unless there is exactly one output.

    Args:
        first_batch: What was captured.
        expect: A number, or an expression such as ``"log(10)"``; see `parse_expectation`.
        rtol: Allowed deviation as a share of the expectation.
        atol: Allowed deviation in units of the loss, added to that.

    Raises:
        ValueError: The expectation or a tolerance is unusable, or there is neither a single output
            nor a scalar loss.
        TypeError: The expectation is neither a number nor text.
    """
    expected = parse_expectation(expect)
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        check_tolerance(name, tolerance)
    compared, value = _compared_value(first_batch)
    kind, finding = _find(first_batch, value, expected, atol + rtol * abs(expected))
    if kind == "ok":
        message = f"{compared} {value:.6g} is as expected ({expected:.6g})"
    else:
        message = f"{compared} {value:.6g}, expected {expected:.6g}: {finding}"
        message += f". Usual causes: {_USUAL_CAUSES[kind]}"
    return Verdict(kind=kind, compared=compared, value=value, expected=expected, message=message)


def check_recorded(
    first_batch: FirstBatch, *, rtol: float = 0.1, atol: float = 0.0
) -> Verdict | None:
    """Compares a first loss, as `check` does, with the expectation recorded with it, if any."""
    expect = first_batch.metadata.get("expected_loss")
    return None if expect is None else check(first_batch, expect, rtol=rtol, atol=atol)


def check_tolerance(name: str, tolerance: float) -> None:
    """Raises ValueError unless a tolerance is a finite number of at least 0."""
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"{name}: {tolerance!r}; give a finite number of at least 0")


def _compared_value(first: FirstBatch) -> tuple[str, float]:
    if len(first.outputs) == 1:
        return "mean per-example loss", first.mean
    if first.loss is None:
        raise ValueError(
            f"{first.run}: {len(first.outputs)} outputs and no scalar loss, so no single value to "
            "compare; check outputs[name] yourself"
        )
    return "loss", float(first.loss)


def _find(first: FirstBatch, value: float, expected: float, allowed: float) -> tuple[Kind, str]:
    statistics = [output.statistics for output in first.outputs.values()]
    bad, count = sum(s.nonfinite_count for s in statistics), sum(s.count for s in statistics)
    if bad:
        return "non-finite", f"{bad} of {count} per-example values are NaN or infinite"
    if not math.isfinite(value):
        return "non-finite", "it is NaN or infinite"
    if first.loss is not None and not math.isfinite(float(first.loss)):
        return "non-finite", f"the total loss is {float(first.loss)}"
    for name, s in zip(first.outputs, statistics, strict=True):
        if s.count > 1 and s.min == s.max:
            return "constant", f"all {s.count} per-example values of {name!r} are equal"
    if abs(value - expected) <= allowed:
        return "ok", ""
    deviation = f"off by {abs(value - expected):.3g} (tolerance {allowed:.3g})"
    return ("high", deviation) if value > expected else ("low", deviation)


def parse_expectation(expect: float | str) -> float:
    """Returns the number that an expectation stands for: 2.3, "2.3", "log(10)", "ln(10) + 0.5".

    It knows numbers, ``+ - * /``, parentheses, log, ln, log2, log10, exp, sqrt, pi and e, and
    evaluates nothing as Python code. Both log and ln are the natural logarithm.

    Raises:
        ValueError: Anything else, or a value that is not finite.
        TypeError: Neither a number nor text.
    """
    if expect == "auto":
        raise ValueError(
            "expect: 'auto' is for FirstLossCallback and probe, which know the loss function and "
            "the number of classes; give a number or an expression such as 'log(10)'"
        )
    if isinstance(expect, bool) or not isinstance(expect, (int, float, str)):
        raise TypeError(f"expect: {expect!r} is neither a number nor an expression")
    try:
        value = (
            _evaluate(ast.parse(expect.strip(), mode="eval").body)
            if isinstance(expect, str)
            else float(expect)
        )
    except (SyntaxError, ArithmeticError, RecursionError, MemoryError, ValueError) as error:
        raise ValueError(
            f"expect: {reprlib.repr(expect)} cannot be worked out ({error})"
        ) from error
    if not math.isfinite(value):
        raise ValueError(f"expect: {reprlib.repr(expect)} is not a finite number")
    return value


def _evaluate(node: ast.AST) -> float:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return float(value)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_evaluate(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_evaluate(left), _evaluate(right))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](_evaluate(argument))
    raise ValueError("only numbers, + - * /, log, ln, log2, log10, exp, sqrt, pi and e are known")
