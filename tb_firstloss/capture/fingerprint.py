"""Digests of the batch and of the weights: they show what differs between two runs."""

import contextlib
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tb_firstloss.arrays import describe
from tb_firstloss.capture.distribution import replicas
from tb_firstloss.capture.window import tensorflow_private


def fingerprint_call(
    step_fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, str]:
    """Returns digests of what a step is about to train on, as far as it can be seen.

    The batch is every tensor and array among the arguments; an iterator is left alone, since
    reading it would take a batch from training. The weights are those of the models and modules
    among the arguments, of the method's owner, and of whatever the step's code refers to. Every
    byte is read and hashed once: about a second per GB.

    Returns:
        SHA-256 (hex) under "batch" and "weights"; a key is absent where nothing was seen.
    """
    found = {
        "batch": _digest(_tensors((args, kwargs))),
        "weights": _digest(_weights([*args, *kwargs.values(), *_referred_to(step_fn)])),
    }
    return {name: digest for name, digest in found.items() if digest is not None}


def fingerprint_weights(model: Any) -> dict[str, str]:
    """Returns the digest of a model's weights under "weights"; {} for a model without weights."""
    digest = _digest(_weights([model]))
    return {} if digest is None else {"weights": digest}


def _digest(values: Iterator[Any]) -> str | None:
    """Hashes dtype, shape and bytes of each value in order; returns None for no values."""
    sha, empty = hashlib.sha256(), True
    for value in values:
        array = np.asarray(value)
        # The bytes of an array of strings are pointers.
        content = array.tobytes() if array.dtype != object else repr(array.tolist()).encode()
        sha.update(describe(array).encode() + b"\n" + content)
        empty = False
    return None if empty else sha.hexdigest()


def _tensors(structure: Any) -> Iterator[Any]:
    for leaf in tf.nest.flatten(structure):
        for part in replicas.local_values(leaf):
            if isinstance(part, tf.RaggedTensor):
                yield from (part.flat_values, *part.nested_row_splits)
            elif isinstance(part, (tf.Tensor, np.ndarray)):
                yield part


def _weights(objects: Sequence[Any]) -> Iterator[Any]:
    seen: set[int] = set()
    for candidate in objects:
        # Only models, layers and modules have trainable_variables; optimizers and metrics do not.
        try:
            variables = candidate.trainable_variables or ()
        except Exception:  # noqa: BLE001 - it has none, or the first batch will create them
            continue
        for variable in variables:
            if id(variable) not in seen:
                seen.add(id(variable))
                yield variable


def _referred_to(step_fn: Callable[..., Any]) -> list[Any]:
    """Returns the objects that a step refers to: its owner, and what its code names."""
    function = getattr(step_fn, "python_function", step_fn)
    owner = tensorflow_private.owner_of(step_fn)
    found = [] if owner is None else [owner, *getattr(owner, "__dict__", {}).values()]
    with contextlib.suppress(TypeError, ValueError):
        variables = inspect.getclosurevars(inspect.unwrap(function))
        named = {**variables.globals, **variables.nonlocals}
        found += [named[name] for name in sorted(named)]
    return found
