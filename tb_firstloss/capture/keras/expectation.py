"""What the first loss should be, inferred from a Keras loss function."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tb_firstloss.capture.expectation import Expectation
from tb_firstloss.capture.keras.library import is_librarys, loss_options

_SOFTMAX = ("categorical_crossentropy", "sparse_categorical_crossentropy")
_SIGMOID = "binary_crossentropy"


def infer_expectation(loss: Any, predicted_shape: Sequence[int | None] | None) -> Expectation:
    """Infers the loss of an untrained network from its loss function.

    It is ln K for a softmax cross-entropy over K classes, whatever the labels and their smoothing,
    and ln 2 for a binary cross-entropy. Every other loss depends on the data. ``loss`` is a Loss of
    Keras 3 or tf_keras, or one of their functions.
    """
    function, options = _function_of(loss)
    name = getattr(function, "__name__", "")
    if name not in (*_SOFTMAX, _SIGMOID):
        called = getattr(loss, "name", None) or getattr(loss, "__name__", type(loss).__name__)
        return Expectation(
            None, f"no initial loss is known for {called}; only Keras cross-entropies are supported"
        )
    if name == _SIGMOID:
        return Expectation(math.log(2), f"{name}: ln 2")
    if options.get("ignore_class") is not None:
        return Expectation(None, f"{name} with ignore_class averages in examples whose loss is 0")
    try:
        classes = None if predicted_shape is None else predicted_shape[options.get("axis", -1)]
    except IndexError:
        classes = None
    if classes is None:
        return Expectation(None, f"{name}: the trace does not know the number of classes")
    if classes < 2:
        return Expectation(None, f"{name} over a single class is always 0")
    return Expectation(math.log(classes), f"{name}: ln {classes}")


def infer_step_expectation(
    outputs: Mapping[str, Expectation], other_losses: Sequence[str]
) -> Expectation:
    """Combines the expectations of a step's outputs, of which any may be unknown.

    ``other_losses`` names the losses that no output belongs to.
    """
    if len(outputs) == 1 and not other_losses:
        return next(iter(outputs.values()))
    known: Any = {name: each.value for name, each in outputs.items() if each.value is not None}
    unknown = {name: each.reason for name, each in outputs.items() if each.value is None}
    unknown.update((name, "it comes from no Keras Loss") for name in other_losses)
    rest = "; ".join(f"{name!r}: {reason}" for name, reason in unknown.items())
    if not known:
        return Expectation(None, rest or "the step has no values per example")
    reasons = (f"{name!r}: {outputs[name].reason}" for name in known)
    return Expectation(known, "; ".join(reasons), rest)


def _function_of(loss: Any) -> tuple[Any, Mapping[str, Any]]:
    """Returns the Keras function behind a loss, and its options; None for a custom loss."""
    if inspect.isfunction(loss):
        return (loss if is_librarys(loss) else None), {}
    function = getattr(loss, "fn", None)
    # A custom subclass may compute anything in its call method.
    if not (is_librarys(type(loss)) and inspect.isfunction(function) and is_librarys(function)):
        return None, {}
    return function, loss_options(loss)
