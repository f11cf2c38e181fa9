"""What the first loss should be: expectations."""

from __future__ import annotations

import ast
import math
import operator
import reprlib
from collections.abc import Callable

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


def parse_expectation(expect: float | str) -> float:
    """Returns the number that an expectation stands for: 2.3, "2.3", "log(10)", "ln(10) + 0.5".

    Only numbers, ``+ - * /``, parentheses, log, ln, log2, log10, exp, sqrt, pi and e are known;
    log and ln are the natural logarithm. Nothing is evaluated as Python code.

    Raises:
        ValueError: Anything else, or a value that is not finite.
        TypeError: Neither a number nor text.
    """
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
