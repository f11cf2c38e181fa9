"""The training step of a Keras model: what the recorder asks about it."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tb_firstloss.capture.fingerprint import fingerprint_weights
from tb_firstloss.capture.keras.layers import describe_layers


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
        """Returns the JSON of the layers; None if they form no graph."""
        return describe_layers(self.model)
