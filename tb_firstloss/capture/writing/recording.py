"""A first batch → one event file, through tf.summary, on disk before training goes on."""

import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tb_firstloss import contract
from tb_firstloss.arrays import finite_values
from tb_firstloss.capture.options import Options
from tb_firstloss.capture.step.call import Step
from tb_firstloss.capture.window import graphs
from tb_firstloss.capture.window.step_trace import StepTrace
from tb_firstloss.capture.writing import summaries
from tb_firstloss.capture.writing.durable import RecordingFile
from tb_firstloss.capture.writing.report import write_report
from tb_firstloss.errors import first_line
from tb_firstloss.first_batch import FirstBatch, OutputLoss


def write_recording(
    first: FirstBatch, run_dir: str, options: Options, *, trace: StepTrace, step: Step | None
) -> list[str]:
    """Writes one recording, values first, and reads them back before anything else is written.

    The trace's ``missing`` gets a line for whatever cannot be written after the values. Returns the
    tags of the tensors that were left out for being larger than ``max_tensor_bytes``.

    Raises:
        NotDurableError: What is on disk is not what was captured.
    """
    tag, recording_id = options.tag, uuid.uuid4().hex
    recording = contract.encode(
        first, tag=tag, recording_id=recording_id, max_tensor_bytes=options.max_tensor_bytes
    )
    shown = step if options.graph else None
    # Asked in the scopes of the user's call: in others, a tf.function may be traced anew.
    graph = _graph_of(shown, trace.missing)
    run_metadata, trace.run_metadata = trace.run_metadata, None  # the trace lives on
    size = 4096 + sum(array.nbytes for _, array in recording.tensors)
    file = RecordingFile(first, run_dir, recording_id, size)
    with file.open() as writer:
        with file.part("writing"):
            _write_values(first, recording, tag)
            writer.flush()
        file.settle()
        trace.barrier = dict(file.seconds)
        file.seconds["adding graph and report"] = 0.0
        try:
            graphs.write_graphs(
                graph, run_metadata, tag=tag, step=first.step, missing=trace.missing
            )
            layers = None if shown is None else shown.layers()
            if layers is not None:
                summaries.write_layers(f"{tag}/keras", layers, step=first.step)
            report = write_report(first, trace, run_dir)
            summaries.write_text(f"{tag}/report", report, step=first.step)
            if options.hparams is not None:
                _write_hparams(options.hparams, run_dir, recording_id)
        except Exception as error:  # noqa: BLE001 - the values are safe; nothing else may lose them
            trace.missing.append(f"graph or report: {first_line(error, named=True)}")
    cause = file.finish()
    if cause is not None:
        trace.missing.append(f"graph and report: they could not be written ({cause})")
    return recording.left_out


def _graph_of(step: Step | None, missing: list[str]) -> tf.Graph | None:
    try:
        return None if step is None else step.graph()
    except Exception as error:  # noqa: BLE001 - whatever it is, the recording goes on without
        missing.append(f"graph: {first_line(error, named=True)}")
        return None


def _write_values(first: FirstBatch, recording: contract.Recording, tag: str) -> None:
    meaning = contract.SCALARS["loss"]
    for loss_tag, loss in contract.loss_tags(tag, first).items():
        summaries.write_scalar(loss_tag, loss, step=first.step, description=meaning)
    several = len(first.outputs) > 1
    for name, output in first.outputs.items():
        _write_output(contract.output_prefix(tag, name, several=several), output, first.step)
    for tensor_tag, array in recording.tensors:
        summaries.write_tensor(tensor_tag, tf.constant(array), step=first.step)
    manifest = tf.constant(recording.manifest)
    summaries.write_tensor(contract.manifest_tag(tag), manifest, step=first.step)


def _write_output(prefix: str, output: OutputLoss, step: int) -> None:
    s = output.statistics
    scalars = {"loss_mean": s.mean, "loss_min": s.min, "loss_max": s.max}
    scalars["nonfinite_count"] = s.nonfinite_count
    for name, value in scalars.items():
        meaning = contract.SCALARS[name]
        summaries.write_scalar(f"{prefix}/{name}", value, step=step, description=meaning)
    # A single NaN would spoil every bucket, so only finite values go in.
    values = np.empty(0) if output.per_example is None else finite_values(output.per_example)
    if values.size:
        tag, meaning = f"{prefix}/{contract.HISTOGRAM}", contract.HISTOGRAM_DESCRIPTION
        summaries.write_histogram(tag, values, step=step, description=meaning)


def _write_hparams(hparams: Mapping[str, Any], run_dir: str, recording_id: str) -> None:
    from tensorboard.plugins.hparams import api as hp

    # No hparams_config: TensorBoard takes any one run's for the whole logdir, and would show
    # neither the losses that only another run has nor the metrics that the user configured.
    # The dashboard names a row after its trial id. The id part keeps runs with equal
    # hyperparameters apart, since run directories of many logdirs share one name.
    run = "/".join(run_dir.rsplit("/", 2)[-2:])
    hp.hparams(dict(hparams), trial_id=f"{run} {recording_id[:8]}")
