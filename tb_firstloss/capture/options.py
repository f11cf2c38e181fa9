"""The options of `FirstLoss` and `FirstLossCallback`, checked once, at construction."""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tb_firstloss import checks, manifest
from tb_firstloss.text import is_url

DEFAULT_MAX_TENSOR_BYTES = 256 * 2**20
_TAG = re.compile(r"[A-Za-z0-9_.-]{1,200}")  # a file name has 255 bytes, and gets endings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options that `FirstLoss` documents, checked, in the form in which they are used.

    The signatures of `FirstLoss` and `FirstLossCallback` repeat names and defaults, so that editors
    show them; a test compares them with this class. ``logdir`` becomes absolute, and ``expect`` a
    number, a mapping from names to numbers, "auto" or None.
    """

    logdir: str | os.PathLike[str]
    tag: str = "first_batch"
    step: int | Callable[[], int] = 0
    graph: bool = True
    profile: bool | tf.profiler.experimental.ProfilerOptions = True
    warm_step: int | None = None
    expect: float | str | Mapping[str, Any] | None = None
    hparams: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] | None = None
    fingerprint: bool = False
    strategy: tf.distribute.Strategy | None = None
    max_tensor_bytes: int = DEFAULT_MAX_TENSOR_BYTES
    on_resume: Literal["skip", "record", "error"] = "skip"
    on_error: Literal["warn", "raise"] = "warn"

    def __post_init__(self) -> None:
        object.__setattr__(self, "logdir", _resolve_logdir(self.logdir))
        _check_tag(self.tag)
        if not callable(self.step):
            _check_integer("step", self.step)
            object.__setattr__(self, "step", int(self.step))
        _check_profile(self.profile, self.warm_step)
        object.__setattr__(self, "expect", check_expect(self.expect))
        object.__setattr__(self, "metadata", _copy_metadata(self.metadata))
        _check_positive("max_tensor_bytes", self.max_tensor_bytes)
        _check_choice("on_resume", self.on_resume, ("skip", "record", "error"))
        _check_choice("on_error", self.on_error, ("warn", "raise"))


def check_expect(
    expect: float | str | Mapping[str, float | str] | None,
) -> float | str | dict[str, float] | None:
    """Returns an expectation as a number, or one per name; "auto" and None as they are."""
    if expect is None or (isinstance(expect, str) and expect == "auto"):
        return expect
    return checks.parse_expectations(expect)


def _resolve_logdir(logdir: str | os.PathLike[str]) -> str:
    path = os.fspath(logdir) if isinstance(logdir, os.PathLike) else logdir
    if not isinstance(path, str):
        raise TypeError(f"logdir: {path!r} is no path; give a directory, such as 'runs/mine'")
    if not path or "\0" in path:
        problem = "is empty" if not path else "has a NUL byte"
        raise ValueError(f"logdir: {path!r} {problem}; give a directory")
    scheme, _, rest = path.partition("://")
    if not is_url(path):
        return str(Path(path).expanduser().absolute())
    if scheme == "file":
        return str(Path(rest).absolute())
    known = sorted(name for name in tf.io.gfile.get_registered_schemes() if name)
    if scheme not in known:
        raise ValueError(
            f"logdir: TensorFlow cannot write to {scheme}://; it knows {', '.join(known)} and "
            "local paths (tensorflow-io adds more schemes)"
        )
    return path.rstrip("/")


def _check_tag(tag: object) -> None:
    if not isinstance(tag, str) or not _TAG.fullmatch(tag) or tag.strip(".") == "":
        raise ValueError(
            f"tag: {tag!r} cannot name a run directory; use at most 200 letters, digits, '_', '-' "
            "and '.'"
        )


def _check_profile(profile: object, warm_step: int | None) -> None:
    if not isinstance(profile, (bool, tf.profiler.experimental.ProfilerOptions)):
        raise TypeError(
            f"profile: {profile!r} is neither True, False nor tf.profiler.experimental."
            "ProfilerOptions"
        )
    if warm_step is not None and profile is False:
        raise ValueError(f"warm_step: {warm_step} needs a profile; leave out profile=False")
    if warm_step is not None:
        _check_positive("warm_step", warm_step)


def _check_positive(option: str, value: int) -> None:
    _check_integer(option, value)
    if value < 1:
        raise ValueError(f"{option}: {value} is too small; give at least 1")


def _check_integer(option: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{option}: {value!r} is not an integer")


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{option}: {value!r} is none of {', '.join(map(repr, choices))}")


def _copy_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns a copy of the metadata in the form in which JSON gives it back."""
    try:
        text = json.dumps(dict(metadata or {}), allow_nan=False)
        return manifest.parse_metadata(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"metadata: JSON cannot hold it ({error})") from error
