"""A first batch → one event file, through tf.summary, on disk before training goes on."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tb_firstloss import contract
from tb_firstloss.arrays import Array, finite_values
from tb_firstloss.capture.window import graphs
from tb_firstloss.capture.window.step_trace import StepTrace
from tb_firstloss.capture.writing import durable, summaries
from tb_firstloss.capture.writing.report import write_report
from tb_firstloss.first_batch import FirstBatch, OutputLoss
from tb_firstloss.paths import is_url


def write_recording(
    first: FirstBatch,
    run_dir: str,
    *,
    tag: str,
    max_tensor_bytes: int,
    trace: StepTrace | None = None,
    graph: Callable[[], tf.Graph | None] | None = None,
    layers: Callable[[], str | None] | None = None,
    hparams: Mapping[str, Any] | None = None,
) -> list[str]:
    """Writes one recording, values first, and reads them back before anything else is written.

    Args:
        first: What was captured.
        run_dir: Claimed run directory.
        tag: Tag under which the summaries go.
        max_tensor_bytes: Larger tensors are left out.
        trace: What the window around the step gathered.
        graph: Gives the graph of the step's concrete function, without tracing it.
        layers: Gives the Keras model's layers; None where there is no such model.
        hparams: Hyperparameters for TensorBoard's HParams dashboard.

    Returns:
        Tags of the tensors that were left out.

    Raises:
        NotDurableError: What is on disk is not what was captured.
    """
    recording_id = uuid.uuid4().hex
    recording = contract.encode(
        first, tag=tag, recording_id=recording_id, max_tensor_bytes=max_tensor_bytes
    )
    missing: list[str] = [] if trace is None else trace.missing
    # Asked in the scopes of the user's call: in others, a tf.function may be traced anew.
    step_graph = graphs.ask_for_graph(graph, missing)
    path, size, remote = "", 0, is_url(run_dir)
    try:
        with event_file(run_dir, f".{recording_id[:16]}{contract.FILE_SUFFIX}") as writer:
            _write_values(first, recording, tag)
            writer.flush()
            path = durable.find_written(run_dir, recording_id)
            size = 0 if remote else durable.settle(path, first)
            with durable.optional(missing):
                run_metadata = None if trace is None else trace.run_metadata
                graphs.write_graphs(
                    step_graph, run_metadata, tag=tag, step=first.step, missing=missing
                )
                described = None if layers is None else layers()
                if described is not None:
                    summaries.write_layers(f"{tag}/keras", described, step=first.step)
                summaries.write_text(f"{tag}/report", write_report(first, trace), step=first.step)
                if hparams is not None:
                    _write_hparams(hparams, tag, run_dir, recording_id)
        if remote:
            durable.settle_remote(path, first)
    except Exception as error:  # whatever it is, nothing torn stays behind
        if not size:  # otherwise the values are durable, and only what followed them is not
            durable.remove(run_dir, recording_id)
            raise durable.not_durable(run_dir, error) from error
    if size and not durable.finish(path, size):
        missing.append("graph and report: they could not be written; the values before them are")
    return recording.left_out


def _write_values(first: FirstBatch, recording: contract.Recording, tag: str) -> None:
    _write_summaries(first, tag)
    for tensor_tag, array in recording.tensors:
        summaries.write_tensor(tensor_tag, tf.constant(array), step=first.step)
    manifest = tf.constant(recording.manifest)
    summaries.write_tensor(contract.manifest_tag(tag), manifest, step=first.step)


@contextlib.contextmanager
def event_file(run_dir: str, suffix: str) -> Iterator[tf.summary.SummaryWriter]:
    """Opens a new event file as the default writer, and closes it.

    Args:
        run_dir: Claimed run directory.
        suffix: End of the file's name. Something unique in it keeps names apart where host name,
            process id and second are the same, as in containers.
    """
    # Scopes, devices and record_if of the user's code must not reach our summaries.
    with tf.init_scope(), tf.name_scope(""), tf.device("CPU:0"):
        writer = tf.summary.create_file_writer(run_dir, filename_suffix=suffix)
        with writer.as_default(), tf.summary.record_if(True):
            try:
                yield writer
            finally:
                # Closed before as_default ends: that flushes an open writer first and, where the
                # flush fails on a full disk, leaves the user with ours as the default for good.
                writer.close()


def _write_summaries(first: FirstBatch, tag: str) -> None:
    if first.loss is not None and first.loss.ndim == 0:
        _write_scalar(tag, "loss", first.loss.astype(np.float32), first.step)
    several = len(first.outputs) > 1
    for name, output in first.outputs.items():
        _write_output(contract.output_prefix(tag, name, several=several), output, first.step)


def _write_output(prefix: str, output: OutputLoss, step: int) -> None:
    s = output.statistics
    _write_scalar(prefix, "loss_mean", s.mean, step)
    _write_scalar(prefix, "loss_min", s.min, step)
    _write_scalar(prefix, "loss_max", s.max, step)
    _write_scalar(prefix, "nonfinite_count", s.nonfinite_count, step)
    # One NaN makes every bucket of tf.summary.histogram NaN, so only finite values go in.
    values = np.empty(0) if output.per_example is None else finite_values(output.per_example)
    if values.size:
        summaries.write_histogram(
            f"{prefix}/{contract.HISTOGRAM}",
            values,
            step=step,
            description=contract.HISTOGRAM_DESCRIPTION,
        )


def _write_scalar(prefix: str, name: str, value: float | Array, step: int) -> None:
    summaries.write_scalar(f"{prefix}/{name}", value, step=step, description=contract.SCALARS[name])


def _write_hparams(hparams: Mapping[str, Any], tag: str, run_dir: str, recording_id: str) -> None:
    from tensorboard.plugins.hparams import api as hp

    metrics = [f"{tag}/{name}" for name in ("loss", "loss_mean", "loss_max", "nonfinite_count")]
    hp.hparams_config(
        hparams=[hp.HParam(name) for name in hparams], metrics=[hp.Metric(name) for name in metrics]
    )
    # The trial id heads the row in the dashboard, and keeps runs with equal hyperparameters in rows
    # of their own; the directory's name alone would be the same in many logdirs.
    run = "/".join(run_dir.rsplit("/", 2)[-2:])
    hp.hparams(dict(hparams), trial_id=f"{run} {recording_id[:8]}")
