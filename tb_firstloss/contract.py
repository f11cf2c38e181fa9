"""What a recording looks like on disk: tags, plugin name, file name, manifest, tensor encodings.

One recording is one run directory with one event file. Under the recorder's tag T it holds scalars
and a histogram for people (`SCALARS`, `HISTOGRAM`), and the exact arrays for programs, as tensor
summaries below ``T/tensors/``. The last of these, ``T/tensors/manifest``, is a JSON text that names
all others with their true dtype, shape and SHA-256. Without its manifest, or with an array that
disagrees with it, it is no recording.

Encoding and decoding are side by side here, so that neither can change alone.
"""

import dataclasses
import functools
import json
import os
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes  # noqa: F401  # NumPy then knows its dtypes by name
import numpy as np

from tb_firstloss import arrays
from tb_firstloss.arrays import Array, LossStatistics
from tb_firstloss.first_batch import FirstBatch, OutputLoss, compute_digest
from tb_firstloss.manifest import VERSION as VERSION  # of the whole contract
from tb_firstloss.manifest import (
    Facts,
    entries,
    parse,
    refusing,
    stored_tag,
)

PLUGIN_NAME = "tb_firstloss"
"""``plugin_name`` in the summary metadata of the exact tensors (data_class TENSOR)."""

FILE_SUFFIX = ".tb_firstloss.v2"
"""End of a recording's event file name; readers can skip every other file unopened."""

MANIFEST = "manifest"
PROTO_LIMIT_BYTES = 2**31 - 2**20
"""A protocol buffer holds at most 2 GiB; the rest is room for the event around the tensor."""

SCALARS = {
    "loss": "The loss that the optimizer differentiates on the first training batch.",
    "loss_mean": "Mean of the finite per-example losses of the first training batch.",
    "loss_min": "Smallest finite per-example loss of the first training batch.",
    "loss_max": "Largest finite per-example loss of the first training batch.",
    "nonfinite_count": "Number of NaN and infinite per-example losses of the first training batch.",
}
"""Descriptions of the scalar summaries by name. They never vary: TensorBoard shows "Multiple
descriptions" where runs disagree."""

HISTOGRAM = "loss_per_example"
HISTOGRAM_DESCRIPTION = "The finite per-example losses of the first training batch."

SECONDS_BETWEEN_STEPS = "seconds_between_steps"
SECONDS_BETWEEN_STEPS_DESCRIPTION = "Seconds from the previous step's return to the warm step."
"""The one scalar of a warm step's run, which is no recording."""


def escape(name: str) -> str:
    """Returns an output's name as one tag component, with everything unusual percent-encoded."""
    return urllib.parse.quote(name, safe="", errors="surrogatepass") or "%"


def output_prefix(tag: str, name: str, *, several: bool) -> str:
    """Returns the tag of one output's scalars and histogram."""
    return f"{tag}/outputs/{escape(name)}" if several else tag


def loss_tags(tag: str, first: FirstBatch) -> dict[str, Array]:
    """Returns the losses by the tag of their scalars: ``.loss``, and each of several by name."""
    named = first.losses if len(first.losses) > 1 else {}
    tags = {f"{tag}/losses/{escape(name)}": loss for name, loss in named.items()}
    return tags if first.loss is None else {f"{tag}/loss": first.loss, **tags}


def manifest_tag(tag: str) -> str:
    """Returns the tag of the manifest, a recording's last tensor."""
    return f"{tag}/tensors/{MANIFEST}"


def is_manifest(tag: str, plugin_name: str) -> bool:
    """Returns whether a summary value is a recording's manifest."""
    return plugin_name == PLUGIN_NAME and tag.endswith(f"/tensors/{MANIFEST}")


@dataclasses.dataclass(frozen=True)
class Recording:
    """A first batch as it is written.

    Attributes:
        tensors: Tag and array of each tensor summary, in the order of writing.
        manifest: JSON text, to be written last.
        left_out: Tags of the arrays above the size limit.
    """

    tensors: list[tuple[str, Array]]
    manifest: str
    left_out: list[str]


def encode(
    first: FirstBatch, *, tag: str, recording_id: str, max_tensor_bytes: int = PROTO_LIMIT_BYTES
) -> Recording:
    """Turns a first batch into the tensors and the manifest to write under a tag.

    ``recording_id``, which is anything unique, distinguishes a copy from a new recording of equal
    values. Arrays stored in more bytes than ``max_tensor_bytes`` are left out.
    """
    tensors: list[tuple[str, Array]] = []
    left_out: list[str] = []
    limit = min(max_tensor_bytes, PROTO_LIMIT_BYTES)

    def entry(name: str, array: Array) -> dict[str, Any]:
        entry_tag = f"{tag}/tensors/{name}"
        encoding, parts = arrays.to_stored(array)
        facts = {
            "tag": entry_tag,
            "dtype": array.dtype.name,
            "shape": list(array.shape),
            "sha256": arrays.tensor_sha256(array),
            "encoding": encoding,
        }
        if any(part.nbytes > limit for part in parts.values()):
            left_out.append(entry_tag)
            return {**facts, "left_out": True}
        tensors.extend((entry_tag + suffix, part) for suffix, part in parts.items())
        return facts

    def entry_or_none(name: str, array: Array | None) -> dict[str, Any] | None:
        return None if array is None else entry(name, array)

    def output_entry(name: str, output: OutputLoss) -> dict[str, Any]:
        prefix = f"outputs/{escape(name)}"
        return {
            "name": name,
            "per_example": entry_or_none(f"{prefix}/per_example", output.per_example),
            "row_splits": [
                entry(f"{prefix}/row_splits_{i}", splits)
                for i, splits in enumerate(output.row_splits)
            ],
            "sample_weight": entry_or_none(f"{prefix}/sample_weight", output.sample_weight),
            "mask": entry_or_none(f"{prefix}/mask", output.mask),
            "reduction": output.reduction,
            "loss_weight": output.loss_weight,
            "statistics": arrays.finite_json(vars(output.statistics)),
        }

    losses = [
        {"name": name, **entry(f"losses/{escape(name)}", loss)}
        for name, loss in first.losses.items()
    ]
    manifest = {
        "contract_version": VERSION,
        "recording_id": recording_id,
        "run": first.run,
        "tag": tag,
        "step": first.step,
        "wall_time": first.wall_time,
        "digest": first.digest,
        "metadata": dict(first.metadata),
        "losses": losses,
        "outputs": [output_entry(name, output) for name, output in first.outputs.items()],
    }
    text = json.dumps(manifest, allow_nan=False)
    return Recording(tensors=tensors, manifest=text, left_out=left_out)


def decode(
    manifest: str | bytes | Facts,
    tensors: Mapping[str, Array],
    *,
    path: str | os.PathLike[str],
    run: str | None = None,
    report: Callable[[str], None] | None = None,
) -> FirstBatch:
    """Turns a manifest and its tensors back into the first batch.

    Args:
        manifest: JSON text of the manifest, or what `manifest.parse` made of it.
        tensors: Arrays by tag, at least those that the manifest names.
        path: Where they were read, for messages.
        run: Name to give the run; None for the one it was recorded under.
        report: Called with what the manifest falsely says of intact values; None for nobody.

    Raises:
        ContractVersionError: A newer version of this package wrote it.
        IncompleteRecordingError: A tensor is missing or differs from its SHA-256, or the manifest
            is not what `encode` writes.
    """
    where = os.fspath(path)
    facts = manifest if isinstance(manifest, dict) else parse(manifest, where)
    with refusing(where):
        return _decode_facts(facts, tensors, run, report)


def _decode_facts(
    facts: Facts,
    tensors: Mapping[str, Array],
    run: str | None,
    report: Callable[[str], None] | None,
) -> FirstBatch:
    load = functools.partial(_load, tensors=tensors)
    losses = {each["name"]: loss for each in facts["losses"] if (loss := load(each)) is not None}
    outputs = {}
    for out in facts["outputs"]:
        values, splits = load(out["per_example"]), [load(entry) for entry in out["row_splits"]]
        row_splits = tuple(each for each in splits if each is not None)
        if any(each.ndim != 1 or each.dtype.kind != "i" or not each.size for each in row_splits):
            raise ValueError(f"the row splits of {out['name']!r} are {row_splits!r:.99}")
        numbers: dict[str, Any] = out["statistics"]
        numbers |= {name: float(numbers[name]) for name in ("mean", "std", "min", "max")}
        claimed = LossStatistics(**numbers)
        outputs[out["name"]] = output = OutputLoss(
            per_example=values,
            row_splits=row_splits,
            sample_weight=load(out["sample_weight"]),
            mask=load(out["mask"]),
            reduction=out["reduction"],
            loss_weight=out["loss_weight"],
            statistics=claimed if values is None else None,  # type: ignore[arg-type]
        )
        if report is not None and not _agree(output.statistics, claimed):
            report(f"the manifest's statistics of {out['name']!r} are not those of its values")
    if not any(entry.get("left_out") for entry in entries(facts)):
        digest = compute_digest(losses, outputs)
        if digest != facts["digest"]:
            raise ValueError(
                f"the values read have digest {digest[:12]}…, the manifest says "
                f"{facts['digest'][:12]}…"
            )
    if facts["contract_version"] == 1:
        losses, outputs = _sum_loss_of_version_1(losses, outputs)
    return FirstBatch(
        run=facts["run"] if run is None else run,
        step=facts["step"],
        wall_time=facts["wall_time"],
        losses=losses,
        outputs=outputs,
        metadata=facts["metadata"],
        digest=facts["digest"],
    )


def _agree(found: LossStatistics, claimed: LossStatistics) -> bool:
    """Returns whether statistics are equal but for how another NumPy rounds its sums."""
    tolerance = 1e-6 * max(abs(found.min), abs(found.max))
    for name, number in vars(found).items():
        other = getattr(claimed, name)
        near = abs(number - other) <= tolerance and not name.endswith("count")
        if not (near or number == other or (number != number and other != other)):
            return False
    return True


def _sum_loss_of_version_1(
    losses: dict[str, Array], outputs: dict[str, OutputLoss]
) -> tuple[dict[str, Array], dict[str, OutputLoss]]:
    """Returns the sum of a loss of rank 1 or more, which version 1 had no output for."""
    loss = losses.get("loss")
    if loss is None or not loss.ndim:
        return losses, outputs
    total = arrays.to_float64(loss).sum().astype(loss.dtype)
    return {"loss": total}, outputs or {"loss": OutputLoss(per_example=loss, reduction="sum")}


def _load(entry: Facts | None, tensors: Mapping[str, Array]) -> Array | None:
    """Returns the array that a manifest entry names, in its true dtype; None if it was left out."""
    if entry is None or entry.get("left_out"):
        return None
    dtype, tag = np.dtype(entry["dtype"]), stored_tag(entry)
    if tag not in tensors:
        raise ValueError(f"{tag} is missing")
    array = arrays.from_stored(tensors[tag], entry["encoding"], dtype)
    kind, shape = array.dtype, list(array.shape)
    if (kind, shape) != (dtype, entry["shape"]):
        said = f"{dtype}{entry['shape']}"
        raise ValueError(f"{tag} is {kind}{shape}, the manifest says {said}")
    sha256 = arrays.tensor_sha256(array)
    if sha256 != entry["sha256"]:
        said = entry["sha256"][:12]
        raise ValueError(f"{tag} has SHA-256 {sha256[:12]}…, the manifest says {said}…")
    return array
