"""The layers of a Keras model, as TensorBoard's Graphs dashboard draws them."""

from __future__ import annotations

import json
import warnings
from typing import Any

from tensorboard.plugins.graph import keras_util


def describe_layers(model: Any) -> str | None:
    """Returns a model as the JSON text from which TensorBoard draws its conceptual graph.

    None for a model that is no graph of layers, such as a subclassed one: TensorBoard would list
    it and fail to draw it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about layers that cannot be saved: nothing is saved
            text = str(model.to_json())
        drawn = keras_util.keras_model_to_graph_def(json.loads(text))
    except Exception:  # noqa: BLE001 - from custom layers, or TensorBoard at an unknown format
        return None
    return text if drawn.node else None
