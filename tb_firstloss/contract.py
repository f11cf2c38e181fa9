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
from collections.abc import Mapping
from typing import Any

import ml_dtypes  # noqa: F401  # NumPy then knows its dtypes by name
import numpy as np

from tb_firstloss import arrays, errors
from tb_firstloss.arrays import Array, LossStatistics
from tb_firstloss.first_batch import FirstBatch, OutputLoss, compute_digest

VERSION = 2
"""Contract version that this package writes; it reads this one and every older one."""

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
    manifest: str | bytes,
    tensors: Mapping[str, Array],
    *,
    path: str | os.PathLike[str],
    run: str | None = None,
) -> FirstBatch:
    """Turns a manifest and its tensors back into the first batch.

    Args:
        manifest: JSON text of the manifest.
        tensors: Arrays by tag, at least those that the manifest names.
        path: Where they were read, for messages.
        run: Name to give the run; None for the one it was recorded under.

    Raises:
        ContractVersionError: A newer version of this package wrote it.
        IncompleteRecordingError: A tensor is missing or differs from its SHA-256, or the manifest
            is not what `encode` writes.
    """
    where = os.fspath(path)
    try:
        facts = json.loads(manifest)
        version = facts["contract_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise errors.IncompleteRecordingError(
            f"{where}: the manifest cannot be read ({error!r})", path=where
        ) from error
    if not isinstance(version, int) or version > VERSION:
        raise errors.ContractVersionError(
            f"{where}: written by contract version {version}; this tb_firstloss reads up to "
            f"{VERSION}: upgrade it (pip install -U tb-firstloss)",
            path=where,
        )
    try:
        return _decode_facts(facts, tensors, run)
    except _AlteredError as error:
        raise errors.IncompleteRecordingError(f"{where}: {error}", path=where) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise errors.IncompleteRecordingError(
            f"{where}: the manifest disagrees with its own format ({error!r})", path=where
        ) from error


class _AlteredError(Exception):
    """An array is missing, or not what the manifest says."""


def _decode_facts(
    facts: dict[str, Any], tensors: Mapping[str, Array], run: str | None
) -> FirstBatch:
    load = functools.partial(_load, tensors=tensors)
    of_version_1 = facts["contract_version"] == 1
    if of_version_1:
        facts["losses"] = [{"name": "loss", **facts["loss"]}] if facts["loss"] else []
    entries = list(facts["losses"])
    for names in ([each["name"] for each in named] for named in (entries, facts["outputs"])):
        if not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
            raise ValueError(f"names {names!r}: not text, or not unique")
    losses = {entry["name"]: loss for entry in entries if (loss := load(entry)) is not None}
    outputs = {}
    for out in facts["outputs"]:
        entries += [out["per_example"], *out["row_splits"], out["sample_weight"], out["mask"]]
        row_splits = [load(entry) for entry in out["row_splits"]]
        statistics: dict[str, Any] = {
            name: float(number) if isinstance(number, str) else number
            for name, number in out["statistics"].items()
        }
        outputs[out["name"]] = OutputLoss(
            per_example=load(out["per_example"]),
            row_splits=tuple(splits for splits in row_splits if splits is not None),
            sample_weight=load(out["sample_weight"]),
            mask=load(out["mask"]),
            reduction=out["reduction"],
            loss_weight=out["loss_weight"],
            statistics=LossStatistics(**statistics),
        )
    if not any(entry is not None and entry.get("left_out") for entry in entries):
        digest = compute_digest(losses, outputs)
        if digest != facts["digest"]:
            raise _AlteredError(
                f"the values read have digest {digest[:12]}…, the manifest says "
                f"{facts['digest'][:12]}…"
            )
    if of_version_1:
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


def _sum_loss_of_version_1(
    losses: dict[str, Array], outputs: dict[str, OutputLoss]
) -> tuple[dict[str, Array], dict[str, OutputLoss]]:
    """Returns the sum of a loss of rank 1 or more, which version 1 had no output for."""
    loss = losses.get("loss")
    if loss is None or not loss.ndim:
        return losses, outputs
    total = arrays.to_float64(loss).sum().astype(loss.dtype)
    return {"loss": total}, outputs or {"loss": OutputLoss(per_example=loss, reduction="sum")}


def _load(entry: dict[str, Any] | None, tensors: Mapping[str, Array]) -> Array | None:
    """Returns the array that a manifest entry names, in its true dtype; None if it was left out."""
    if entry is None or entry.get("left_out"):
        return None
    dtype, tag, encoding = np.dtype(entry["dtype"]), entry["tag"], entry["encoding"]
    stored_tag = tag + ".bits" if encoding == "bits" else tag
    if stored_tag not in tensors:
        raise _AlteredError(f"{stored_tag} is missing")
    array = arrays.from_stored(tensors[stored_tag], encoding, dtype)
    found = (array.dtype, list(array.shape), arrays.tensor_sha256(array))
    if found != (dtype, entry["shape"], entry["sha256"]):
        raise _AlteredError(
            f"{tag} is {found[0]}{found[1]} with SHA-256 {found[2][:12]}…, the manifest says "
            f"{dtype}{entry['shape']} with {entry['sha256'][:12]}…"
        )
    return array
