"""Run directories: one per recording, shared with no other writer."""

import contextlib
import itertools
import os
from pathlib import Path

import tensorflow as tf

from tb_firstloss.capture.writing.storage import said_if_slow, sync
from tb_firstloss.errors import CaptureError
from tb_firstloss.text import is_url


def claim_run_dir(logdir: str, tag: str) -> str:
    """Creates ``<logdir>/<tag>``, or ``<tag>-2``, ``<tag>-3``, … if that exists, and returns it.

    On a local file system mkdir is atomic, so two processes never claim the same directory; its
    entry is durable at once. Remote stores have no such operation: there the first free name is
    taken.
    """
    candidates = (
        f"{logdir}/{tag}" if number == 1 else f"{logdir}/{tag}-{number}"
        for number in itertools.count(1)
    )
    if is_url(logdir):
        run_dir = next(path for path in candidates if not tf.io.gfile.exists(path))
        tf.io.gfile.makedirs(run_dir)
        return run_dir
    new_parents = [path for path in (Path(logdir), *Path(logdir).parents) if not path.exists()]
    with said_if_slow(logdir, ["creating the run directory"]):
        _make_logdir(Path(logdir))
        run_dir = next(path for path in candidates if _make(path))
        for path in (Path(run_dir), *new_parents):
            sync(str(path.parent))
    return run_dir


def rename_run_dir(run_dir: str, tag: str) -> str:
    """Moves a claimed local directory and what is in it to the first free name, as in claiming."""
    if is_url(run_dir):
        return run_dir
    logdir = str(Path(run_dir).parent)
    free = claim_run_dir(logdir, tag)
    Path(run_dir).rename(free)  # takes the place of an empty directory
    sync(logdir)
    return free


def release_run_dir(run_dir: str) -> None:
    """Removes a claimed run directory if nothing was written to it."""
    with contextlib.suppress(OSError, tf.errors.OpError):
        if not is_url(run_dir):
            Path(run_dir).rmdir()
        elif not tf.io.gfile.listdir(run_dir):
            tf.io.gfile.rmtree(run_dir)


def _make_logdir(logdir: Path) -> None:
    try:
        logdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        path = next(path for path in (logdir, *logdir.parents) if os.path.lexists(path))
        what = (
            f"a link to {path.readlink()}, which does not exist" if path.is_symlink() else "a file"
        )
        raise CaptureError(f"{path} is {what}; give a directory") from None


def _make(path: str) -> bool:
    try:
        Path(path).mkdir()
    except FileExistsError:
        return False
    return True
