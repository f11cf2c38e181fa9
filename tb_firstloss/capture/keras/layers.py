"""The layers of a Keras model, as TensorBoard's Graphs dashboard draws them."""

from __future__ import annotations

import json
import warnings
from typing import Any

from tensorboard.plugins.graph import keras_util


def describe_layers(model: Any) -> str | None:
    """Returns a model as the JSON text from which TensorBoard draws its conceptual graph.

    None for a model that is no graph of layers, such as a subclassed one: TensorBoard would list
    it, and fail when it is selected.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layers that cannot be saved, which nobody asked
            text = str(model.to_json())
        drawn = keras_util.keras_model_to_graph_def(json.loads(text))
    except Exception:  # noqa: BLE001 - of the user's layers, or of TensorBoard at an unknown format
        return None
    return text if drawn.node else None
