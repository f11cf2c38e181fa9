"""Which losses a step differentiates, what each Loss call goes into, and what they are called."""

import dataclasses
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tb_firstloss.capture.keras.library import CompiledLoss
from tb_firstloss.capture.keras.lineage import find_contributions, is_made_from, is_usable
from tb_firstloss.capture.keras.observe import LossCall, Observation, are_same
from tb_firstloss.capture.step.values import unique

Named = list[tuple[str, Any]]
"""Names that the user gave, each with its value: the step's logs, what it updates metrics with."""


@dataclasses.dataclass
class Loss:
    """A loss of the step: its name, unique there, and the tensors whose elements add up to it."""

    name: str
    members: list[Any]

    @property
    def problem(self) -> str:
        """Why the step cannot return it; "" if it can."""
        found = next(filter(None, map(_problem_of, self.members)), "")
        if not found and len({member.dtype for member in self.members}) > 1:
            found = "its members have several dtypes; cast them to one"
        return found


@dataclasses.dataclass
class NamedCall:
    """A call of a Keras Loss that a loss is made of, and its name, unique in the step.

    Attributes:
        loss_weight: The model's weight of the compiled loss, or None.
        owners: Numbers of the losses that it goes into; empty if that is unknown.
    """

    name: str
    call: LossCall
    loss_weight: Any
    owners: list[int]


def name_losses(seen: Observation, logs: Named) -> list[Loss]:
    """Returns the losses that a step differentiates, in the order of their gradients.

    If no gradient is seen, what ``compute_loss`` returned is the loss. A name is, in this order:
    the key of the logs under which the step returns the loss or its mean; the name of the metric
    that it updates with it; "loss", for the only loss or that of ``compute_loss``; "loss_1",
    "loss_2" … Where two losses have equal claims to a name, neither gets it.
    """
    found = seen.differentiated or [[total] for total, _ in seen.totals[:1]]

    def usual(members: list[Any]) -> str | None:
        of_compute_loss = any(members[0] is total for total, _ in seen.totals)
        return "loss" if len(found) == 1 or of_compute_loss else None

    rules: list[Callable[[list[Any]], str | None]] = [
        lambda members: _name_of(members, logs, operator.is_),
        lambda members: _name_of(members, logs, is_made_from),
        lambda members: _name_of(members, seen.updates, is_made_from),
        usual,
    ]
    names: list[str | None] = [None] * len(found)
    for rule in rules:
        claims = [rule(found[i]) if name is None else None for i, name in enumerate(names)]
        for i, claim in enumerate(claims):
            if claim is not None and claim not in names and claims.count(claim) == 1:
                names[i] = claim
    numbered = (name for k in itertools.count(1) if (name := f"loss_{k}") not in names)
    return [
        Loss(next(numbered) if name is None else name, members)
        for name, members in zip(names, found, strict=True)
    ]


def _name_of(
    members: Sequence[Any], named: Named, matches: Callable[[Any, Any], bool]
) -> str | None:
    if len(members) != 1:
        return None
    return next((name for name, value in named if matches(value, members[0])), None)


def _problem_of(member: Any) -> str:
    if not isinstance(member, (tf.Tensor, tf.RaggedTensor)):
        return f"its type is {type(member).__name__}; differentiate a dense tensor"
    if not is_usable(member):
        function = getattr(getattr(member, "graph", None), "name", "an inner function")
        return (
            f"it is computed in {function!r}, a tf.function or tf.cond of the step, where its "
            "value cannot be seen; compute it and take its gradient in train_step itself"
        )
    if not member.dtype.is_floating:
        return f"it is {member.dtype.name}, which has no gradient; differentiate a float"
    return ""


def name_calls(
    seen: Observation, losses: Sequence[Loss], named: Named, compiled: Sequence[CompiledLoss]
) -> list[NamedCall]:
    """Returns the Loss calls that the losses are made of, in order.

    A compiled loss that ``compute_loss`` calls has the model's name for that output. Another call
    has the name of the loss that it goes into; where several calls do, after a slash its own: the
    name that the user gave its value, else the Loss's. A call that goes into no loss is left out.
    """
    of_model: dict[int, CompiledLoss] = {}
    for _, calls in seen.totals:
        rest = iter(calls)  # what overrides compute_loss may call other losses in between
        found = [next((c for c in rest if c.loss is entry.loss), None) for entry in compiled]
        if None not in found:
            of_model.update(zip(map(id, found), compiled, strict=True))
    pairs = zip(seen.calls, _find_owners(seen, losses), strict=True)
    owned = [(call, owner) for call, owner in pairs if owner is not None]
    taken: set[str] = set()
    names = [entry.name for entry in compiled]  # Keras takes a Loss's for an unnamed output's
    result = []
    for call, owner in owned:
        entry = of_model.get(id(call))
        given = _name_of([call.result], named, is_made_from)
        own = entry.name if entry else given or str(getattr(call.loss, "name", None) or "loss")
        siblings = [other for other, others in owned if owner and others[:1] == owner[:1]]
        if owner and (entry is None or names.count(entry.name) > 1):
            name = losses[owner[0]].name
            own = name if len(siblings) == 1 or own == name else f"{name}/{own}"
        elif owner and own in taken:  # compute_loss was called for several losses
            own = f"{losses[owner[0]].name}/{own}"
        result.append(NamedCall(unique(own, taken), call, entry and entry.weight, owner))
    return result


def _find_owners(seen: Observation, losses: Sequence[Loss]) -> list[list[int] | None]:
    """Returns for each call the losses that it goes into: [] where unknown, None for none."""
    if not losses:
        return [[] for _ in seen.calls]
    of_model = [total for total, inside in seen.totals if len(inside) == len(seen.calls)]
    if seen.tape is not None and len(losses) == 1 and are_same(losses[0].members, of_model):
        return [[0] for _ in seen.calls]
    if seen.has_custom_gradients:  # the tape would run them again
        return [[] for _ in seen.calls]
    contributions = find_contributions(
        [call.result for call in seen.calls], [loss.members for loss in losses], seen.tape
    )
    hidden = any(loss.problem for loss in losses)
    return [
        found or (None if is_usable(call.result) and not hidden else [])
        for call, found in zip(seen.calls, contributions, strict=True)
    ]
