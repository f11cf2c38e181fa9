"""Several workers that run the same loop: they agree, exchange their values, and one writes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tb_firstloss.arrays import Array, describe
from tb_firstloss.capture.distribution import replicas
from tb_firstloss.capture.step_result import Captured
from tb_firstloss.capture.writing import packed
from tb_firstloss.errors import CaptureError, LossNotFoundError
from tb_firstloss.first_batch import FirstBatch, OutputLoss

_RECORDS, _DECLINES, _FAILED = 1, 0, 2
"""What a worker says before anything of varying size is exchanged."""


def worker_count(strategy: tf.distribute.Strategy) -> int:
    """Returns how many processes run the same loop under a strategy."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    cluster = strategy.cluster_resolver.cluster_spec()
    return sum(int(cluster.num_tasks(job)) for job in ("chief", "worker") if job in cluster.jobs)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Tells whether this process is the one that writes."""
    return bool(strategy.extended.should_save_summary)


def check_strategy_is_known(strategy: tf.distribute.Strategy) -> None:
    """Makes sure that a worker of several does not take itself for the only one.

    Raises:
        CaptureError: TF_CONFIG names several workers, and no strategy was given or is in scope.
    """
    cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    count = sum(len(cluster.get(job, ())) for job in ("chief", "worker"))
    if count > 1 and worker_count(strategy) == 1 and "ps" not in cluster:
        raise CaptureError(
            f"TF_CONFIG names {count} workers, but their strategy is not known here: give "
            "FirstLoss(…, strategy=strategy), or call the step in strategy.scope()"
        )


def agree(
    select: Callable[[], Captured],
    strategy: tf.distribute.Strategy,
    *,
    declines: bool = False,
    may_be_reduced: bool = True,
) -> Captured | None:
    """Returns the values of all workers, the same on each of them; None if all decline.

    Args:
        select: Gives this worker's own values.
        strategy: A MultiWorkerMirroredStrategy.
        declines: Whether this worker records nothing.
        may_be_reduced: Whether training may have combined the workers' losses already; otherwise
            each is a share, even if all are equal.

    Raises:
        CaptureError: Some worker cannot record, or they disagree; on every worker alike.
    """
    own, failure = None, None
    try:
        own = None if declines else _pack(select())
    except Exception as error:  # noqa: BLE001 - the others wait; raised when they know
        failure = error
    try:
        found = exchange(own, strategy, failed=failure is not None)
    except CaptureError:
        if failure is not None:
            raise failure from None
        raise
    if found is None:
        return None
    loss, outputs = merge(found, may_be_reduced=may_be_reduced)
    counts = [count for worker in found for count in worker.metadata["replica_counts"]]
    return Captured(loss, outputs, tuple(counts))


def _pack(captured: Captured) -> FirstBatch:
    counts = list(captured.replica_counts)
    for output in captured.outputs.values():
        counts = counts or [replicas.row_count((output.per_example, output.row_splits))]  # type: ignore[arg-type]
    return FirstBatch(
        run="worker",
        step=0,
        wall_time=time.time(),
        loss=captured.loss,
        outputs=captured.outputs,
        metadata={"replica_counts": counts},
    )


def exchange(
    first: FirstBatch | None, strategy: tf.distribute.Strategy, *, failed: bool = False
) -> tuple[FirstBatch, ...] | None:
    """Gives every worker the first batch of all of them, in worker order.

    All workers have to call it, once each, at the same point of their loop. They first exchange a
    vector of fixed size (what each wants, and how many bytes it has), so that all take the same
    branch and no collective meets another of a different size; then the padded bytes.

    Args:
        first: This worker's own; None if it records nothing.
        strategy: A MultiWorkerMirroredStrategy.
        failed: Whether this worker wanted to record, and could not.

    Returns:
        None if every worker declines.

    Raises:
        CaptureError: Some worker cannot record, or they disagree; on every worker alike.
    """
    content = packed.to_bytes(first)
    intention = _FAILED if failed else _DECLINES if first is None else _RECORDS
    heads = _gather(strategy, np.array([intention, len(content)], np.int64))
    intentions = [int(head[0]) for head in heads]
    if set(intentions) == {_DECLINES}:
        return None
    if set(intentions) != {_RECORDS}:
        what = {_DECLINES: "does not record", _FAILED: "failed to", _RECORDS: "records"}
        said = ", ".join(f"worker {i} {what[said]}" for i, said in enumerate(intentions))
        raise CaptureError(f"the workers do not all record their first loss: {said}")
    size = max(int(head[1]) for head in heads)
    # int32 is what every collective implementation can carry; the bytes go through unseen.
    words = np.zeros(-(-size // 4), np.int32)
    words.view(np.uint8)[: len(content)] = np.frombuffer(content, np.uint8)
    found = _gather(strategy, words)
    unpacked = [
        packed.from_bytes(words.tobytes()[: int(head[1])])
        for words, head in zip(found, heads, strict=True)
    ]
    return tuple(worker for worker in unpacked if worker is not None)


def _gather(strategy: tf.distribute.Strategy, vector: Array) -> list[Array]:
    """Returns the vector of each worker; all of them have the same size."""
    same = strategy.experimental_distribute_values_from_function(
        lambda _: tf.constant(vector[np.newaxis])
    )
    rows = strategy.gather(same, axis=0).numpy()
    return list(rows[:: len(rows) // worker_count(strategy)])


def merge(
    workers: Sequence[FirstBatch], *, may_be_reduced: bool = True
) -> tuple[Array | None, dict[str, OutputLoss]]:
    """Merges the first batches of all workers, examples in worker order.

    Scalars are each worker's share and are summed; but if training may have combined them already,
    those that are equal bit for bit on all workers are taken as they are.

    Raises:
        LossNotFoundError: Their outputs or shapes do not fit together.
    """
    names = [list(worker.outputs) for worker in workers]
    if any(other != names[0] for other in names):
        raise LossNotFoundError(f"the workers' losses do not fit together: outputs {names}")
    losses = [worker.loss for worker in workers if worker.loss is not None]
    if losses and len(losses) != len(workers):
        raise LossNotFoundError("only some of the workers have a total loss")
    return _merge_losses(losses, may_be_reduced=may_be_reduced), {
        name: _merge_outputs([worker.outputs[name] for worker in workers]) for name in names[0]
    }


def _merge_losses(losses: Sequence[Array], *, may_be_reduced: bool) -> Array | None:
    if not losses:
        return None
    if may_be_reduced and len({(describe(loss), loss.tobytes()) for loss in losses}) == 1:
        return losses[0]
    return replicas.combine([(loss, ()) for loss in losses])[0]


def _merge_outputs(parts: Sequence[OutputLoss]) -> OutputLoss:
    present = [part for part in parts if part.per_example is not None]
    values, row_splits = replicas.combine([(p.per_example, p.row_splits) for p in present])  # type: ignore[misc]

    def side(field: str) -> Array | None:
        found = [getattr(part, field) for part in present]
        known = [(array, ()) for array in found if array is not None]
        return replicas.combine(known)[0] if len(known) == len(found) else None

    return OutputLoss(
        per_example=values,
        row_splits=row_splits,
        sample_weight=side("sample_weight"),
        mask=side("mask"),
        reduction=parts[0].reduction,
        loss_weight=parts[0].loss_weight,
    )
