"""What was seen in a Keras training step → tensors that its function returns → arrays."""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tb_firstloss.arrays import Array
from tb_firstloss.capture.distribution import replicas
from tb_firstloss.capture.expectation import NOT_SEEN, Expectation
from tb_firstloss.capture.keras.expectation import infer_expectation, infer_step_expectation
from tb_firstloss.capture.keras.library import compiled_losses, is_librarys
from tb_firstloss.capture.keras.lineage import is_usable
from tb_firstloss.capture.keras.naming import Loss, NamedCall, name_calls, name_losses
from tb_firstloss.capture.keras.observe import LossCall, Observation
from tb_firstloss.capture.keras.recompute import recompute
from tb_firstloss.capture.step.result import Captured
from tb_firstloss.capture.step.values import add_up, count_rows, to_array, unique
from tb_firstloss.first_batch import OutputLoss

Tensors = dict[str, Any]
"""Tensors by name: "loss/0/1", a loss and one of its members by number; "0/values",
"0/sample_weight" and "0/mask" for each output."""


@dataclasses.dataclass(frozen=True)
class OutputFacts:
    """What is known of an output's loss when the step is traced, besides its tensors."""

    name: str
    reduction: str
    loss_weight: float | None = None


@dataclasses.dataclass
class StepFacts:
    """What is known of a step's losses when the step is traced, besides their tensors.

    Attributes:
        losses: Names of the losses, in the order of the tensors' numbers.
        outputs: In the order of the tensors' numbers.
        missing: What could not be captured, and why, one line each.
        unseen: Names of the losses among that.
        expectation: What the first losses should be, as far as the loss functions imply it.
    """

    losses: list[str] = dataclasses.field(default_factory=list)
    outputs: list[OutputFacts] = dataclasses.field(default_factory=list)
    missing: list[str] = dataclasses.field(default_factory=list)
    unseen: list[str] = dataclasses.field(default_factory=list)
    expectation: Expectation = NOT_SEEN


def gather(
    model: Any, seen: Observation, logs: Any = None, *, by_xla: bool = False
) -> tuple[StepFacts, Tensors]:
    """Picks the differentiated losses and their outputs from what was seen in a step.

    Args:
        model: The model.
        seen: What was seen.
        logs: What the step returned; its keys name losses.
        by_xla: Whether the step is traced to be compiled by XLA.
    """
    logged = [(str(k), value) for k, value in logs.items()] if isinstance(logs, Mapping) else []
    named = [*logged, *seen.updates]
    losses = name_losses(seen, logged)
    calls = name_calls(seen, losses, named, compiled_losses(model))
    kept = [*(total for total, _ in seen.totals), *(value for _, value in named)]

    def returned(tensor: Any) -> Any:
        """Returns a scalar that XLA keeps for the step; of anything else under XLA, a copy."""
        copies = by_xla and isinstance(tensor, tf.Tensor)
        is_kept = tensor.shape.rank == 0 and any(tensor is other for other in kept)
        return recompute(tensor) if copies and not is_kept else tensor

    facts, tensors = StepFacts(missing=list(seen.missing)), Tensors()
    for loss in losses:
        if loss.problem:
            facts.missing.append(f"the loss {loss.name!r}: {loss.problem}")
            facts.unseen.append(loss.name)
            continue
        for i, member in enumerate(loss.members):
            tensors[f"loss/{len(facts.losses)}/{i}"] = returned(member)
        facts.losses.append(loss.name)
    is_fixed = losses and not model.trainable_variables  # Keras itself warns of that
    if not seen.differentiated and not is_fixed:
        what = "a gradient of it, so it is what compute_loss returned" if losses else "the loss"
        only = "gradients with output_gradients= only" if seen.continues else "no gradient"
        facts.missing.append(
            f"{what}: the training step takes {only} where it can be seen; use "
            "self.compute_loss and tf.GradientTape in train_step, outside any inner tf.function"
        )
    outputs = [*_outputs_of_calls(calls, facts.missing)]
    outputs += _outputs_of_vectors(losses, calls, seen, {output.name for output, _ in outputs})
    for number, (output, fields) in enumerate(outputs):
        facts.outputs.append(output)
        for field, tensor in fields.items():
            if is_usable(tensor):
                tensors[f"{number}/{field}"] = returned(tensor)
    # A model may have no losses but those that it adds.
    has_none = seen.totals and not compiled_losses(model) and is_librarys(model.compute_loss)
    if not (calls or facts.outputs or facts.unseen or has_none):
        calls_none = "calls no Keras Loss, or calls it in an inner tf.function"
        facts.missing.append(
            "the loss per example: the training step "
            f"{'differentiates the value of no Keras Loss' if seen.calls else calls_none}; use "
            "self.compute_loss or a keras.losses.Loss in train_step"
        )
    facts.expectation = _expect(losses, calls, facts)
    return facts, tensors


def _outputs_of_calls(
    calls: Sequence[NamedCall], missing: list[str]
) -> Iterator[tuple[OutputFacts, Tensors]]:
    for named in calls:
        call = named.call
        if not is_usable(call.values) or call.values.shape.rank == 0:
            missing.append(f"the loss per example of {named.name!r}: {_why_no_values(call)}")
            continue
        facts = OutputFacts(named.name, _reduction(call), _loss_weight(named.loss_weight))
        yield facts, {name: getattr(call, name) for name in ("values", "sample_weight", "mask")}


def _outputs_of_vectors(
    losses: Sequence[Loss], calls: Sequence[NamedCall], seen: Observation, taken: set[str]
) -> Iterator[tuple[OutputFacts, Tensors]]:
    """Yields the differentiated tensors of rank 1 or more whose values no Loss call has."""
    for number, loss in enumerate(losses):
        of_calls = [total for total, inside in seen.totals if inside]
        of_calls += [named.call.result for named in calls if number in named.owners]
        for member in [] if loss.problem else loss.members:
            if member.shape.rank != 0 and not any(member is known for known in of_calls):
                yield OutputFacts(unique(loss.name, taken), "sum"), {"values": member}


def _expect(losses: Sequence[Loss], calls: Sequence[NamedCall], facts: StepFacts) -> Expectation:
    """Infers what the first losses should be."""
    outputs = {
        named.name: infer_expectation(named.call.loss, named.call.predicted_shape)
        for named in calls
        if any(output.name == named.name for output in facts.outputs)
    }
    of_calls = {loss for named in calls for loss in named.owners}
    others = [loss.name for number, loss in enumerate(losses) if number not in of_calls]
    return infer_step_expectation(outputs, others)


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
        outputs = {}
        for number, output in enumerate(self.facts.outputs):
            array, row_splits = to_array(tensors[f"{number}/values"])
            outputs[output.name] = OutputLoss(
                per_example=array,
                row_splits=row_splits,
                sample_weight=_side_array(tensors.get(f"{number}/sample_weight")),
                mask=_side_array(tensors.get(f"{number}/mask")),
                reduction=output.reduction,
                loss_weight=output.loss_weight,
            )
        return Captured(
            losses={name: _add_members(tensors, i) for i, name in enumerate(self.facts.losses)},
            outputs=outputs,
            replica_counts=count_rows(tensors["0/values"]) if outputs else (),
        )


def _add_members(tensors: Tensors, number: int) -> Array:
    """Returns a loss, [], from its members; each replica's is its share of the whole."""
    members = [tensor for name, tensor in tensors.items() if name.startswith(f"loss/{number}/")]
    sums = [add_up(to_array(member)[0]) for member in members]
    total: Array = functools.reduce(operator.add, map(tf.constant, sums)).numpy()
    return total


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


def _why_no_values(call: LossCall) -> str:
    if call.values is None:
        return f"{type(call.loss).__name__} reduces its values itself; let it return them"
    if not isinstance(call.values, (tf.Tensor, tf.RaggedTensor)):
        found = type(call.values).__name__
        return f"the loss function returns a value of type {found}; let it return a tensor"
    if is_usable(call.values):
        return "the loss function returns a scalar; let it return one value per example"
    return "it is computed inside a tf.function or tf.cond of the step, where it cannot be seen"


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
