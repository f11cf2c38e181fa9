"""What doctor says of the machine: the GPU, the permission to profile it, the logdir's disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tb_firstloss.cli.examine.findings import Finding, note, ok, problem
from tb_firstloss.paths import is_url

_DRIVER = Path("/proc/driver/nvidia")
_CAP_PERFMON, _CAP_SYS_ADMIN = 38, 21
_REMOTE_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "lustre", "beegfs")
_LOW_BYTES = 2**30


def examine_reader() -> Finding:
    """Tells whether the compiled half of the reader is in use."""
    from tb_firstloss.reading.format.extension import compiled

    if compiled:
        return ok("compiled reader", "active")
    if os.environ.get("TB_FIRSTLOSS_PURE_PYTHON"):
        return note("compiled reader", "switched off", "unset TB_FIRSTLOSS_PURE_PYTHON")
    remedy = "install a C compiler, then pip install --force-reinstall --no-deps tb-firstloss"
    return note("compiled reader", "not built: reading is exact, but slower", remedy)


def examine_gpu(gpus: list[str], *, built_with_gpu: bool, driver: Path = _DRIVER) -> Finding:
    """Tells whether TensorFlow sees the GPU that the machine has.

    Args:
        gpus: Names of the GPUs that TensorFlow sees.
        built_with_gpu: Whether this TensorFlow could use one.
        driver: Directory in which the NVIDIA driver describes itself.
    """
    if gpus:
        return ok("GPU", f"{len(gpus)} seen by TensorFlow")
    if not driver.exists():
        return ok("GPU", "none on this machine (no NVIDIA driver)")
    if not built_with_gpu:
        found = "there is a driver, and this TensorFlow is built without GPU support"
        return problem("GPU", found, "pip install 'tensorflow[and-cuda]'")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return note("GPU", "hidden from TensorFlow", "unset CUDA_VISIBLE_DEVICES")
    found = "there is a driver, and TensorFlow sees no GPU"
    remedy = "pip install 'tensorflow[and-cuda]'; python -c 'import tensorflow' says what it misses"
    return problem("GPU", found, remedy)


def examine_profiling(*, driver: Path = _DRIVER, status: Path | None = None) -> Finding | None:
    """Tells whether this process may profile the GPU; None without an NVIDIA driver.

    Args:
        driver: Directory in which the NVIDIA driver describes itself.
        status: File in which Linux describes this process.
    """
    try:
        parameters = (driver / "params").read_text()
    except OSError:
        return None
    restricted = "RmProfilingAdminOnly: 1" in parameters
    if not restricted:
        return ok("GPU profiling", "permitted to everybody")
    if _capabilities(status or Path("/proc/self/status")) & (
        1 << _CAP_SYS_ADMIN | 1 << _CAP_PERFMON
    ):
        return ok("GPU profiling", "permitted to administrators, and so to this process")
    remedy = (
        "options nvidia NVreg_RestrictProfilingToAdminUsers=0 in /etc/modprobe.d and a reboot, or "
        "CAP_SYS_ADMIN (docker run --cap-add SYS_ADMIN)"
    )
    found = "not permitted: profiles lack the GPU (CUPTI_ERROR_INSUFFICIENT_PRIVILEGES)"
    return problem("GPU profiling", found, remedy)


def examine_logdir(logdir: str, *, mounts: Path = Path("/proc/mounts")) -> Iterator[Finding]:
    """Yields whether a logdir can be written to, and what its file system means for it.

    Args:
        logdir: The logdir; it need not exist yet, and is not made.
        mounts: File in which Linux lists what is mounted where.
    """
    if is_url(logdir):
        yield note("logdir", f"{logdir}: remote, not tried", "record once and run show on it")
        return
    directory = Path(logdir).expanduser().absolute()
    existing = next(p for p in (directory, *directory.parents) if p.exists())
    if not existing.is_dir():
        yield problem("logdir", f"{existing} is no directory", "give another logdir")
        return
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        found = f"{existing}: cannot be written to ({error.strerror})"
        yield problem("logdir", found, "give another logdir, or mend its permissions or its disk")
        return
    place = str(directory) if existing == directory else f"{directory} (to be made)"
    yield ok("logdir", f"{place}: can be written to")
    yield _judge_file_system(file_system_of(existing, mounts))
    free = shutil.disk_usage(existing).free
    if free < _LOW_BYTES:
        yield note("free space", f"{free / 2**20:.0f} MiB", "make room: a profile takes some MiB")
    else:
        yield ok("free space", f"{free / 2**30:.0f} GiB")


def file_system_of(directory: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Returns the type of a directory's file system, such as "ext4"; "" where it cannot be told."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    here, best, found = str(directory.resolve()), -1, ""
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        inside = here == point or here.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:  # of two mounted at one place, the later covers
            best, found = len(point), kind
    return found


def _judge_file_system(kind: str) -> Finding:
    if kind in _REMOTE_FILE_SYSTEMS or kind.startswith("fuse."):
        remedy = "fsync and mkdir are the server's word; a local logdir is safer for the first loss"
        return note("file system", f"{kind}, a network or user-space one", remedy)
    if kind in ("tmpfs", "ramfs"):
        return note("file system", f"{kind}: gone after a reboot", "give a logdir on a disk")
    if kind == "overlay":
        found = "overlay: gone when the container is removed"
        return note("file system", found, "give a logdir on a mounted volume")
    return ok("file system", kind or "unknown")


def _capabilities(status: Path) -> int:
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return 0
    words = next((line.split() for line in lines if line.startswith("CapEff:")), ["", "0"])
    return int(words[1], 16)
