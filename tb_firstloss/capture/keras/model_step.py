"""The training step of a Keras model: what the recorder asks about it."""

import dataclasses
import json
import warnings
from typing import Any

import tensorflow as tf
from tensorboard.plugins.graph import keras_util

from tb_firstloss.capture.fingerprint import fingerprint_weights


@dataclasses.dataclass(frozen=True)
class ModelStep:
    """The `Step` of a Keras model.

    Attributes:
        model: The model.
        traced: Graph of one step; None before it is traced, and when it runs eagerly.
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
