"""What is known of the run beside its loss: versions, devices, strategy, policies."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import tensorflow as tf

from tb_firstloss.capture.window import tensorflow_private


def describe_environment(strategy: tf.distribute.Strategy | None = None) -> dict[str, Any]:
    """Returns what the recording's metadata says of its environment; unknown keys are left out.

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
    for name in ("keras", "tf_keras"):
        # Only what training has imported: importing Keras here would cost seconds.
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            facts[name] = version
    facts.update(_dtype_policy())
    facts.update(_determinism())
    return facts


def _dtype_policy() -> dict[str, str]:
    keras = sys.modules.get("keras")
    if keras is None or not hasattr(keras, "mixed_precision"):
        return {}
    return {"dtype_policy": keras.mixed_precision.dtype_policy().name}


def _determinism() -> dict[str, bool]:
    known = tensorflow_private.op_determinism()
    return {} if known is None else {"op_determinism": known}
