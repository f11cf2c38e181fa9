"""What doctor says about the machine: the GPU, permission to profile it, the logdir's disk."""

import dataclasses
import functools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tb_firstloss.text import is_url

_DRIVER = Path("/proc/driver/nvidia")  # where the NVIDIA driver describes itself
_STATUS = Path("/proc/self/status")  # where Linux describes this process
_MOUNTS = Path("/proc/mounts")  # where it lists what is mounted where
_CAP_PERFMON, _CAP_SYS_ADMIN = 38, 21
_REMOTE_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "lustre", "beegfs")
_LOW_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that doctor looked at: a note is of something that not everybody needs."""

    level: Literal["ok", "note", "problem"]
    subject: str
    found: str
    remedy: str = ""


ok = functools.partial(Finding, "ok")
note = functools.partial(Finding, "note")
problem = functools.partial(Finding, "problem")


def examine_gpu(gpus: list[str], *, built_with_gpu: bool, driver: Path = _DRIVER) -> Finding:
    """Returns whether TensorFlow sees the machine's GPU; ``gpus`` are the names that it gives."""
    if gpus:
        return ok("GPU", f"{len(gpus)} seen by TensorFlow")
    if not driver.exists():
        return ok("GPU", "none on this machine (no NVIDIA driver)")
    if not built_with_gpu:
        found = "there is a driver, but this TensorFlow is built without GPU support"
        return problem("GPU", found, "pip install 'tensorflow[and-cuda]'")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return note("GPU", "hidden from TensorFlow", "unset CUDA_VISIBLE_DEVICES")
    found = "there is a driver, but TensorFlow sees no GPU"
    remedy = "pip install 'tensorflow[and-cuda]'; python -c 'import tensorflow' says why"
    return problem("GPU", found, remedy)


def examine_profiling(*, driver: Path = _DRIVER, status: Path = _STATUS) -> Finding | None:
    """Returns whether this process may profile the GPU; None without an NVIDIA driver."""
    try:
        parameters = (driver / "params").read_text()
    except OSError:
        return None
    if "RmProfilingAdminOnly: 1" not in parameters:
        return ok("GPU profiling", "permitted to everybody")
    if _capabilities(status) & (1 << _CAP_SYS_ADMIN | 1 << _CAP_PERFMON):
        return ok("GPU profiling", "permitted to administrators, and so to this process")
    remedy = (
        "options nvidia NVreg_RestrictProfilingToAdminUsers=0 in /etc/modprobe.d and a reboot, or "
        "CAP_SYS_ADMIN (docker run --cap-add SYS_ADMIN)"
    )
    found = "not permitted: profiles lack the GPU (CUPTI_ERROR_INSUFFICIENT_PRIVILEGES)"
    return problem("GPU profiling", found, remedy)


def examine_logdir(logdir: str, *, mounts: Path = _MOUNTS) -> Iterator[Finding]:
    """Yields whether a logdir is writable, and what its file system means for recordings.

    The logdir need not exist, and is not created.
    """
    if is_url(logdir):
        yield note("logdir", f"{logdir}: remote, not tried", "record once, then run show on it")
        return
    directory = Path(logdir).expanduser().absolute()
    existing = next(p for p in (directory, *directory.parents) if p.exists())
    if not existing.is_dir():
        yield problem("logdir", f"{existing}: not a directory", "give another logdir")
        return
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        found = f"{existing}: not writable ({error.strerror})"
        yield problem("logdir", found, "give another logdir, or fix its permissions or its disk")
        return
    place = str(directory) if existing == directory else f"{directory} (not created yet)"
    yield ok("logdir", f"{place}: writable")
    yield _judge_file_system(file_system_of(existing, mounts))
    free = shutil.disk_usage(existing).free
    if free < _LOW_BYTES:
        yield note("free space", f"{free / 2**20:.0f} MiB", "free some: a profile takes a few MiB")
    else:
        yield ok("free space", f"{free / 2**30:.0f} GiB")


def file_system_of(directory: Path, mounts: Path = _MOUNTS) -> str:
    """Returns the type of a directory's file system, such as "ext4"; "" if unknown."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    here, best, found = str(directory.resolve()), -1, ""
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        inside = here == point or here.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:  # a later mount at the same place hides the earlier
            best, found = len(point), kind
    return found


def _judge_file_system(kind: str) -> Finding:
    if kind in _REMOTE_FILE_SYSTEMS or kind.startswith("fuse."):
        remedy = "fsync and mkdir depend on the server; a local logdir is safer"
        return note("file system", f"{kind}, a network or user-space one", remedy)
    if kind in ("tmpfs", "ramfs"):
        return note("file system", f"{kind}: gone after a reboot", "use a logdir on a disk")
    if kind == "overlay":
        found = "overlay: gone when the container is removed"
        return note("file system", found, "use a logdir on a mounted volume")
    return ok("file system", kind or "unknown")


def _capabilities(status: Path) -> int:
    try:
        found = re.search(r"^CapEff:\s*(\w+)", status.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1], 16) if found else 0
