"""What a recorder asks about a step: one call of a custom loop's, or a Keras model's."""

import dataclasses
import inspect
import json
import warnings
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorboard.plugins.graph import keras_util

from tb_firstloss.capture.fingerprint import fingerprint_call, fingerprint_weights
from tb_firstloss.capture.window import graphs, tensorflow_private
from tb_firstloss.errors import CaptureError


@dataclasses.dataclass(frozen=True)
class ModelStep:
    """The training step of a Keras model.

    ``traced`` is the graph of one step; None before it is traced, and when it runs eagerly.
    """

    model: Any
    traced: tf.Graph | None = None

    def fingerprint(self) -> dict[str, str]:
        """Returns the digest of the weights; reading the batch would take it from training."""
        return fingerprint_weights(self.model)

    def graph(self) -> tf.Graph | None:
        """Returns the graph of the traced step."""
        return self.traced

    def layers(self) -> str | None:
        """Returns the model as the JSON text from which TensorBoard draws its conceptual graph.

        None for a model that is no graph of layers, such as a subclassed one: TensorBoard would
        list it and fail to draw it.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about layers that cannot be saved
                text = str(self.model.to_json())
            drawn = keras_util.keras_model_to_graph_def(json.loads(text))
        except Exception:  # noqa: BLE001 - from custom layers, or TensorBoard at an unknown format
            return None
        return text if drawn.node else None


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
    """One call of a custom loop's step; TensorFlow may have bound or cloned the one ``given``."""

    step_fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    given: Callable[..., Any]

    def fingerprint(self) -> dict[str, str]:
        """Returns digests of the batch and of the weights, as far as they can be seen."""
        return fingerprint_call(self.step_fn, self.args, self.kwargs)

    def graph(self) -> tf.Graph | None:
        """Returns the graph of the concrete function that the call has run."""
        return graphs.step_graph(self.step_fn, self.args, self.kwargs)

    def layers(self) -> None:
        """Returns None: the models that a step uses are not known."""


Step = ModelStep | StepCall
