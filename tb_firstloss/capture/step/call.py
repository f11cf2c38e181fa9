"""One call of a custom loop's step: what it trains on, and the graph that it runs."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Protocol

import tensorflow as tf

from tb_firstloss.capture import fingerprint
from tb_firstloss.capture.window import graphs, tensorflow_private
from tb_firstloss.errors import CaptureError


class Step(Protocol):
    """What a recorder asks about the step that it records."""

    def fingerprint(self) -> dict[str, str]:
        """Returns digests of what the step is about to train on."""

    def graph(self) -> tf.Graph | None:
        """Returns the graph that the step has run, without tracing it again; None without one."""

    def layers(self) -> str | None:
        """Returns the JSON of the Keras model's layers; None without such a model."""


def is_same_step(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Returns whether two functions are one step, or made anew from one piece of code."""
    return one is other or _origin_of(one) == _origin_of(other)


def _origin_of(step_fn: Callable[..., Any]) -> tuple[Any, int]:
    function = getattr(step_fn, "python_function", step_fn)
    plain = inspect.unwrap(function)
    return getattr(plain, "__code__", plain), id(tensorflow_private.owner_of(step_fn))


def second_step(recorded: Callable[..., Any], other: Callable[..., Any]) -> CaptureError:
    """Returns the error that a recorder's second step is not recorded."""
    names = [repr(getattr(step, "__name__", type(step).__name__)) for step in (recorded, other)]
    return CaptureError(
        f"this recorder is for {names[0]}, and {names[1]} is another step; give each step a "
        "FirstLoss with a tag of its own, or let one step return all losses"
    )


@dataclasses.dataclass(frozen=True)
class StepCall:
    """One call of a step: the `Step` of a custom loop.

    Attributes:
        step_fn: What is called.
        given: The step that the user has given; another where TensorFlow has bound or cloned it.
    """

    step_fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    given: Callable[..., Any]

    def fingerprint(self) -> dict[str, str]:
        """Returns digests of the batch and of the weights, as far as they can be seen."""
        return fingerprint.fingerprint_call(self.step_fn, self.args, self.kwargs)

    def graph(self) -> tf.Graph | None:
        """Returns the graph of the concrete function that the call has run."""
        return graphs.step_graph(self.step_fn, self.args, self.kwargs)

    def layers(self) -> None:
        """Returns None: the models that a step uses are not known."""
