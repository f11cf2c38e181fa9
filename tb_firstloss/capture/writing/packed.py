"""A first batch as bytes: for checkpoints, and from worker to worker."""

import io
import json
import uuid
import zipfile

import numpy as np

from tb_firstloss import contract
from tb_firstloss.first_batch import FirstBatch

_MANIFEST = "manifest"


def to_bytes(first: FirstBatch | None) -> bytes:
    """Packs a first batch, or None, into an .npz archive of the contract's arrays and manifest."""
    if first is None:
        return b""
    recording = contract.encode(first, tag="first_batch", recording_id=uuid.uuid4().hex)
    arrays = {f"tensor_{i}": array for i, (_, array) in enumerate(recording.tensors)}
    tags = [tag for tag, _ in recording.tensors]
    packed = io.BytesIO()
    manifest = json.dumps({"tags": tags, "manifest": recording.manifest})
    np.savez(packed, allow_pickle=False, **arrays, **{_MANIFEST: np.array(manifest)})
    return packed.getvalue()


def from_bytes(packed: bytes) -> FirstBatch | None:
    """Unpacks what `to_bytes` packed; a ValueError says that it has not packed these bytes."""
    if not packed:
        return None
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
            facts = json.loads(archive[_MANIFEST].item())
            tensors = {tag: archive[f"tensor_{i}"] for i, tag in enumerate(facts["tags"])}
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"checkpoint: it holds no first batch ({error})") from error
    return contract.decode(facts["manifest"], tensors, path="checkpoint")
