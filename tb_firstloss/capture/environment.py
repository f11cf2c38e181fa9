"""Where the loss is computed: versions, devices, strategy, policies; and where it has no value."""

import sys
from typing import Any

import numpy as np
import tensorflow as tf

from tb_firstloss.capture.window import tensorflow_private

_INSIDE_FUNCTION = (
    "is inside a tf.function, where the loss of the first batch has no value yet: it records "
    "nothing and changes nothing there. Wrap the outermost call, which your Python loop "
    "makes; if the loop itself is in the tf.function, take one batch from the iterator, pass it to "
    "a wrapped step, and pass the iterator to the tf.function for the rest"
)
_NOT_EAGER = (
    "needs eager execution, which is off here (by disable_eager_execution, or in the scope of a "
    "tf.Graph), so the loss has no value: it records nothing and changes nothing. Train with eager "
    "execution, which is TensorFlow 2's default; a tf.function may do the work"
)
_IN_REPLICA = (
    "is inside strategy.run, where each replica has only its share of the loss; wrap the function "
    "that calls strategy.run"
)


def why_not_here() -> str | None:
    """Returns why the caller's place has no loss of the whole batch; None if it may have one."""
    if not tf.executing_eagerly():
        in_function = tf.compat.v1.executing_eagerly_outside_functions()
        return _INSIDE_FUNCTION if in_function else _NOT_EAGER
    if tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context():
        several = tf.distribute.get_strategy().num_replicas_in_sync > 1
        return _IN_REPLICA if several else None
    return None


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
