"""Several workers that run the same loop: they agree and exchange their values; one writes."""

import json
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tb_firstloss.arrays import Array, describe
from tb_firstloss.capture.distribution import replicas
from tb_firstloss.capture.step.result import Captured, HasLoss
from tb_firstloss.capture.writing import packed
from tb_firstloss.errors import CaptureError, LossNotFoundError
from tb_firstloss.first_batch import FirstBatch, OutputLoss

_RECORDS, _DECLINES, _FAILED = 1, 0, 2
"""What a worker announces before anything of varying size is exchanged."""


def worker_count(strategy: tf.distribute.Strategy) -> int:
    """Returns how many processes run the same loop under a strategy."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    cluster = strategy.cluster_resolver.cluster_spec()
    return sum(int(cluster.num_tasks(job)) for job in ("chief", "worker") if job in cluster.jobs)


def check_strategy_is_known(strategy: tf.distribute.Strategy) -> None:
    """Raises a CaptureError where one worker of several would take itself for the only one."""
    cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    count = sum(len(cluster.get(job, ())) for job in ("chief", "worker"))
    if count > 1 and worker_count(strategy) == 1 and "ps" not in cluster:
        raise CaptureError(
            f"TF_CONFIG names {count} workers, but no strategy is known for them: give "
            "FirstLoss(…, strategy=strategy), or call the step in strategy.scope()"
        )


def agree(
    result: HasLoss | None, strategy: tf.distribute.Strategy, *, may_be_reduced: bool
) -> Captured | None:
    """Returns the loss of all workers, the same on each of them; None if all decline.

    Each of several workers has to call it once, at the same point of the loop. A single process
    has nothing to exchange. A ``result`` of None declines to record. Unless training may already
    have combined the workers' losses, each is a share, even if all are equal. If a worker cannot
    record, or they disagree, every worker raises a CaptureError.
    """
    if worker_count(strategy) == 1:
        return None if result is None else result.captured()
    own, failure = None, None
    try:
        own = None if result is None else _as_first_batch(result.captured())
    except Exception as error:  # noqa: BLE001 - the others wait; raised once they know
        failure = error
    try:
        found = _exchange(own, strategy, failed=failure is not None)
    except CaptureError:
        if failure is not None:
            raise failure from None
        raise
    if found is None:
        return None
    losses, outputs = _merge(found, may_be_reduced=may_be_reduced)
    counts = [count for worker in found for count in worker.metadata["replica_counts"]]
    return Captured(losses, outputs, tuple(counts))


def _as_first_batch(captured: Captured) -> FirstBatch:
    counts = list(captured.replica_counts)
    for output in captured.outputs.values():
        counts = counts or [replicas.row_count((output.per_example, output.row_splits))]  # type: ignore[arg-type]
    return captured.as_first_batch(run="worker", metadata={"replica_counts": counts})


def _exchange(
    first: FirstBatch | None, strategy: tf.distribute.Strategy, *, failed: bool
) -> tuple[FirstBatch, ...] | None:
    """Returns the first batches of all workers, in worker order; None if all decline.

    The workers first exchange a vector of fixed size (what each intends, and how many bytes it
    has), so that all take the same branch and no collective meets one of another size; then the
    padded bytes. ``failed`` says that this worker tried to record and could not.
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
    # Every implementation of collectives carries int32; the bytes pass through unchanged.
    words = np.zeros(-(-size // 4), np.int32)
    words.view(np.uint8)[: len(content)] = np.frombuffer(content, np.uint8)
    found = _gather(strategy, words)
    unpacked = [
        packed.from_bytes(words.tobytes()[: int(head[1])])
        for words, head in zip(found, heads, strict=True)
    ]
    return tuple(worker for worker in unpacked if worker is not None)


def _gather(strategy: tf.distribute.Strategy, vector: Array) -> list[Array]:
    """Returns each worker's vector; all have the same size."""
    same = strategy.experimental_distribute_values_from_function(
        lambda _: tf.constant(vector[np.newaxis])
    )
    rows = strategy.gather(same, axis=0).numpy()
    return list(rows[:: len(rows) // worker_count(strategy)])


def _merge(
    workers: Sequence[FirstBatch], *, may_be_reduced: bool
) -> tuple[dict[str, Array], dict[str, OutputLoss]]:
    """Merges the first batches of all workers, with the examples in worker order.

    Losses are summed, being each worker's share; but if training may already have combined them,
    those equal bit for bit on all workers are taken as they are, except where the output of that
    name shows that each is the sum of its worker's examples.
    """
    for kind in ("losses", "outputs"):
        names = [list(getattr(worker, kind)) for worker in workers]
        if any(other != names[0] for other in names):
            raise LossNotFoundError(f"the workers' losses do not fit together: {kind} {names}")
    outputs = {
        name: _merge_outputs([worker.outputs[name] for worker in workers])
        for name in workers[0].outputs
    }
    losses = {}
    for name in workers[0].losses:
        own = [worker.losses[name] for worker in workers]
        are_equal = len({(describe(loss), loss.tobytes()) for loss in own}) == 1
        is_sum = name in outputs and outputs[name].reduction == "sum"
        is_reduced = may_be_reduced and are_equal and not is_sum
        losses[name] = own[0] if is_reduced else replicas.combine([(loss, ()) for loss in own])[0]
    return losses, outputs


def _merge_outputs(parts: Sequence[OutputLoss]) -> OutputLoss:
    present = [part for part in parts if part.per_example is not None]
    values, row_splits = replicas.combine([(p.per_example, p.row_splits) for p in present])  # type: ignore[misc]

    def joined(field: str) -> Array | None:
        arrays = [getattr(part, field) for part in present]
        if any(array is None for array in arrays):
            return None
        return replicas.combine([(array, ()) for array in arrays])[0]

    return OutputLoss(
        per_example=values,
        row_splits=row_splits,
        sample_weight=joined("sample_weight"),
        mask=joined("mask"),
        reduction=parts[0].reduction,
        loss_weight=parts[0].loss_weight,
    )
