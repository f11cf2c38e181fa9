"""What the first loss should be: inferred from a loss function, and held against what it is."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tb_firstloss import checks
from tb_firstloss.capture.keras.library import LIBRARIES
from tb_firstloss.capture.notices import warn
from tb_firstloss.errors import (
    CaptureError,
    CaptureWarning,
    UnexpectedLossError,
    UnexpectedLossWarning,
)
from tb_firstloss.first_batch import FirstBatch

_SOFTMAX = ("categorical_crossentropy", "sparse_categorical_crossentropy")
_SIGMOID = ("binary_crossentropy",)


@dataclasses.dataclass(frozen=True)
class Expectation:
    """What the first loss should be.

    Attributes:
        value: Mean loss per example, or None where nothing is expected.
        reason: What was inferred from, or why nothing could be; "" when it was given.
    """

    value: float | None
    reason: str = ""

    def metadata(self) -> dict[str, Any]:
        """Returns what the recording says of it."""
        facts = {"expected_loss": self.value, "expected_from": self.reason}
        return {key: fact for key, fact in facts.items() if fact not in (None, "")}

    def judge(self, first: FirstBatch, *, where: str, on_error: str = "warn") -> None:
        """Warns when a first loss is not as expected, or when nothing could be inferred.

        Args:
            first: What was captured.
            where: Begin of the message.
            on_error: "raise" for exceptions instead of warnings.

        Raises:
            UnexpectedLossError: The loss is not as expected, and on_error is "raise".
            CaptureError: Nothing could be inferred, and on_error is "raise".
        """
        if first.loss is None and not first.outputs:
            return  # nothing was captured, and that has been said
        if self.value is None:
            if self.reason:
                _tell(f"{where}: expect='auto' expects nothing: {self.reason}", on_error)
            return
        try:
            verdict = checks.check(first, self.value)
        except ValueError as error:
            _tell(f"{where}: not compared with the expectation: {error}", on_error)
            return
        if not verdict.ok and on_error == "raise":
            raise UnexpectedLossError(f"{where}: {verdict}")
        if not verdict.ok:
            warn(f"{where}: {verdict}", UnexpectedLossWarning)


NOT_SEEN = Expectation(None, "the loss function was not seen")


def infer_expectation(loss: Any, predicted_shape: Sequence[int | None] | None) -> Expectation:
    """Infers the loss of a network that knows nothing yet, from its loss function.

    It is ln K for a softmax cross-entropy over K classes, whatever the labels and however they are
    smoothed, and ln 2 for a binary cross-entropy. Every other loss depends on the data.

    Args:
        loss: Loss of Keras 3 or tf_keras, or one of their loss functions.
        predicted_shape: Shape of ``y_pred``, such as (None, 10); None where it is not known.
    """
    function, options = _function_of(loss)
    name = getattr(function, "__name__", "")
    if name not in (*_SOFTMAX, *_SIGMOID):
        called = getattr(loss, "name", None) or getattr(loss, "__name__", type(loss).__name__)
        return Expectation(None, f"{called} is no cross-entropy of Keras, whose start is known")
    if name in _SIGMOID:
        return Expectation(math.log(2), f"{name}: ln 2")
    if options.get("ignore_class") is not None:
        return Expectation(None, f"{name} with ignore_class counts examples whose loss is 0")
    try:
        classes = None if predicted_shape is None else predicted_shape[options.get("axis", -1)]
    except IndexError:
        classes = None
    if classes is None:
        return Expectation(None, f"{name}: the number of classes is not known when it is traced")
    if classes < 2:
        return Expectation(None, f"{name} over a single class is always 0")
    return Expectation(math.log(classes), f"{name}: ln {classes}")


def infer_sole_expectation(
    losses: Sequence[tuple[Any, Sequence[int | None] | None]],
) -> Expectation:
    """Infers the expectation of a step from its losses and what they were called with."""
    if len(losses) == 1:
        return infer_expectation(*losses[0])
    return Expectation(None, f"the step has {len(losses)} losses; give the number for their total")


def _tell(message: str, on_error: str) -> None:
    if on_error == "raise":
        raise CaptureError(message)
    warn(message, CaptureWarning)


def _function_of(loss: Any) -> tuple[Any, Mapping[str, Any]]:
    """Returns the library's function that a loss stands for and its options; None for others."""
    if inspect.isfunction(loss):
        return (loss if _is_librarys(loss) else None), {}
    function = getattr(loss, "fn", None)
    # A subclass of the user's may compute anything in its call method.
    if not (_is_librarys(type(loss)) and inspect.isfunction(function) and _is_librarys(function)):
        return None, {}
    return function, getattr(loss, "_fn_kwargs", None) or {}


def _is_librarys(defined: Any) -> bool:
    return str(defined.__module__).partition(".")[0] in LIBRARIES
