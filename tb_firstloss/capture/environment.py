"""Where the loss was computed: versions, devices, strategy, policies."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import tensorflow as tf

from tb_firstloss.capture.window import tensorflow_private


def describe_environment(strategy: tf.distribute.Strategy | None = None) -> dict[str, Any]:
    """Returns the environment for a recording's metadata; what is unknown is left out.

    Args:
        strategy: Distribution strategy of the training loop; None for the one in scope.
    """
    strategy = strategy or tf.distribute.get_strategy()
    facts: dict[str, Any] = {
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "devices": [device.name for device in tf.config.list_logical_devices()],
        "replicas": strategy.num_replicas_in_sync,
    }
    if not tensorflow_private.is_default_strategy(strategy):
        facts["strategy"] = type(strategy).__name__
    for library in ("keras", "tf_keras"):
        # Only what training has imported: importing Keras here would cost seconds.
        version = getattr(sys.modules.get(library), "__version__", None)
        if version is not None:
            facts[library] = version
    keras = sys.modules.get("keras")
    if hasattr(keras, "mixed_precision"):
        facts["dtype_policy"] = keras.mixed_precision.dtype_policy().name  # type: ignore[union-attr]
    deterministic = tensorflow_private.op_determinism()
    if deterministic is not None:
        facts["op_determinism"] = deterministic
    return facts
