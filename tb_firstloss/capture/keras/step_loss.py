"""What was seen in a Keras training step → tensors that its function returns → arrays."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import tensorflow as tf

from tb_firstloss.arrays import Array
from tb_firstloss.capture import step_result
from tb_firstloss.capture.distribution import replicas
from tb_firstloss.capture.expectation import NOT_SEEN, Expectation
from tb_firstloss.capture.keras.expectation import infer_sole_expectation
from tb_firstloss.capture.keras.library import compiled_losses, is_librarys
from tb_firstloss.capture.keras.observe import LossCall, Observation
from tb_firstloss.capture.keras.recompute import recompute
from tb_firstloss.capture.step_result import Captured
from tb_firstloss.first_batch import OutputLoss

Tensors = dict[str, Any]
"""Tensors by name: "loss", and "0/values", "0/sample_weight", "0/mask" for each output."""


@dataclasses.dataclass(frozen=True)
class OutputFacts:
    """What is known of an output's loss when the step is traced, besides its tensors."""

    name: str
    reduction: str | None
    loss_weight: float | None


@dataclasses.dataclass(frozen=True)
class StepFacts:
    """What is known of a step's loss when the step is traced, besides its tensors.

    Attributes:
        outputs: In the order of the tensors' numbers.
        missing: What could not be captured, and why, one line each.
        expectation: What the first loss should be, as far as the loss function implies it.
    """

    outputs: list[OutputFacts]
    missing: list[str]
    expectation: Expectation = NOT_SEEN


def gather(model: Any, seen: Observation, *, by_xla: bool = False) -> tuple[StepFacts, Tensors]:
    """Picks the differentiated loss and its outputs from what was seen in a step.

    ``by_xla`` says that the step is traced to be compiled by XLA.
    """
    missing = list(seen.missing)
    tensors: Tensors = {}
    loss = _pick_loss(seen, missing)
    if loss is not None:
        tensors["loss"] = loss
    calls = seen.totals[0][1] if seen.totals else seen.calls
    entries = _match(calls, compiled_losses(model))
    outputs: list[OutputFacts] = []
    for call, (name, weight) in zip(calls, entries, strict=True):
        if not _is_usable(call.values) or call.values.shape.rank == 0:
            missing.append(f"the loss per example of {name!r}: {_why_no_values(call)}")
            continue
        for field in ("values", "sample_weight", "mask"):
            tensor = getattr(call, field)
            if _is_usable(tensor):
                copies = by_xla and isinstance(tensor, tf.Tensor)
                tensors[f"{len(outputs)}/{field}"] = recompute(tensor) if copies else tensor
        outputs.append(OutputFacts(name, _reduction(call), _loss_weight(weight)))
    # A model may have no losses but those that it adds.
    has_none = seen.totals and not compiled_losses(model) and is_librarys(model.compute_loss)
    if not calls and not has_none:
        missing.append(
            "the loss per example: the training step calls no Keras Loss, or calls it in "
            "an inner tf.function; use self.compute_loss or a keras.losses.Loss in train_step"
        )
    losses = [(call.loss, call.predicted_shape) for call in calls]
    return StepFacts(outputs, missing, infer_sole_expectation(losses)), tensors


@dataclasses.dataclass(frozen=True)
class StepTensors:
    """What one executed step returned.

    Attributes:
        facts: What is known of the tensors.
        tensors: With several replicas, each has a value per replica. None where the step had been
            traced without them.
    """

    facts: StepFacts
    tensors: Tensors | None

    def captured(self) -> Captured:
        """Turns the tensors into arrays, in the dtypes of training."""
        tensors = self.tensors
        if tensors is None:
            return Captured()
        outputs: dict[str, OutputLoss] = {}
        taken: set[str] = set()
        for number, output in enumerate(self.facts.outputs):
            array, row_splits = step_result.to_array(tensors[f"{number}/values"])
            outputs[step_result.unique(output.name, taken)] = OutputLoss(
                per_example=array,
                row_splits=row_splits,
                sample_weight=_side_array(tensors.get(f"{number}/sample_weight")),
                mask=_side_array(tensors.get(f"{number}/mask")),
                reduction=output.reduction,
                loss_weight=output.loss_weight,
            )
        loss = tensors.get("loss")  # of each replica, its share of the whole
        losses = {}
        if loss is not None:
            array, row_splits = step_result.to_array(loss)
            losses["loss"] = step_result.add_up(array)
            if array.ndim and not outputs:
                outputs["loss"] = OutputLoss(
                    per_example=array, row_splits=row_splits, reduction="sum"
                )
        return Captured(
            losses=losses,
            outputs=outputs,
            replica_counts=step_result.count_rows(tensors["0/values"]) if outputs else (),
        )


def has_seeded_random_ops(graph: tf.Graph) -> bool:
    """Returns whether a graph has random operations that keep a state and follow a seed.

    ``tf.random.*`` and the Dropout of tf_keras draw from a state inside the tf.function that holds
    them; the same step traced into a second function draws the same numbers again.
    """
    definition = graph.as_graph_def()
    functions = (function.node_def for function in definition.library.function)
    for node in itertools.chain(definition.node, *functions):
        if "seed2" in node.attr and (node.attr["seed"].i or node.attr["seed2"].i):
            return True
    return False


def _pick_loss(seen: Observation, missing: list[str]) -> Any:
    """Returns the tensor that the step differentiates, or None and a line in ``missing``."""
    found = [tensor for tensor in seen.differentiated if _is_usable(tensor)]
    totals = [total for total, _ in seen.totals if _is_usable(total)]
    if len(found) == 1:
        return found[0]
    if not found and totals:
        return totals[0]  # nothing to train, or a gradient taken in a way that no hook sees
    for tensor in found:
        if any(tensor is total for total in totals):
            return tensor
    if found:
        missing.append(
            f"the loss: the training step differentiates {len(found)} losses and none of them is "
            "what compute_loss returned; the loss per example is recorded for each of them"
        )
    else:
        missing.append(
            "the loss: the training step takes no gradient where it can be seen; use "
            "self.compute_loss and tf.GradientTape in train_step, outside any inner tf.function"
        )
    return None


def _is_usable(value: Any) -> bool:
    """Returns whether a value is a tensor that the function being traced can return.

    What an inner tf.function or tf.cond of the step computes belongs to another graph.
    """
    if isinstance(value, tf.RaggedTensor):
        return _is_usable(value.flat_values)
    if not isinstance(value, tf.Tensor):
        return False
    if tf.is_symbolic_tensor(value):
        return bool(value.graph is tf.compat.v1.get_default_graph())
    return bool(tf.executing_eagerly())


def _why_no_values(call: LossCall) -> str:
    if call.values is None:
        return f"{type(call.loss).__name__} reduces its values itself; let it return them"
    if not isinstance(call.values, (tf.Tensor, tf.RaggedTensor)):
        return f"it is a {type(call.values).__name__}, not a tensor"
    if _is_usable(call.values):
        return "the loss function returns a scalar; let it return one value per example"
    return "it is computed inside a tf.function or tf.cond of the step, where it cannot be seen"


def _match(calls: list[LossCall], compiled: list[Any]) -> list[tuple[str, Any]]:
    """Returns name and loss weight of each call: the model's, if the calls are of its losses."""
    if len(calls) == len(compiled) and all(
        call.loss is entry.loss for call, entry in zip(calls, compiled, strict=True)
    ):
        return [(entry.name, entry.weight) for entry in compiled]
    return [(str(getattr(call.loss, "name", None) or "loss"), None) for call in calls]


def _reduction(call: LossCall) -> str:
    name = "none" if call.reduction is None else str(call.reduction)
    return "sum_over_batch_size" if name == "auto" else name  # what tf_keras makes of "auto"


def _loss_weight(weight: Any) -> float | None:
    try:
        return None if weight is None else float(weight)
    except (TypeError, ValueError):
        return None  # a tensor or variable, whose value a trace does not know


def _side_array(value: Any) -> Array | None:
    if value is None:
        return None
    parts = [
        np.asarray(part.flat_values if isinstance(part, tf.RaggedTensor) else part)
        for part in replicas.local_values(value)
    ]
    if parts[0].ndim == 0:
        return parts[0]  # one weight for all examples
    return replicas.combine([(part, ()) for part in parts])[0]
