"""What the recorders' options may be; misuse raises ValueError or TypeError at construction."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from tb_firstloss.paths import is_url


def resolve_logdir(logdir: str | os.PathLike[str]) -> str:
    """Returns an absolute local path, or a URL of a scheme that TensorFlow can write to.

    Raises:
        ValueError: An empty path, one with a NUL byte, or an unknown scheme.
        TypeError: No path at all.
    """
    path = os.fspath(logdir)
    if not isinstance(path, str):
        raise TypeError(f"logdir: {path!r} is not text")
    if not path or "\0" in path:
        what = "is empty" if not path else "has a NUL byte"
        raise ValueError(f"logdir: {path!r} {what}; give a directory")
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


def check_step(step: int | Callable[[], int]) -> int | Callable[[], int]:
    """Returns the step if it is an integer, or a callable that gives one."""
    if not callable(step):
        _check_integer("step", step)
    return step


def check_profile(profile: object) -> bool | tf.profiler.experimental.ProfilerOptions:
    """Returns the option if it is True, False or the profiler's options."""
    if not isinstance(profile, (bool, tf.profiler.experimental.ProfilerOptions)):
        raise TypeError(
            f"profile: {profile!r} is neither True, False nor tf.profiler.experimental."
            "ProfilerOptions"
        )
    return profile


def check_warm_step(warm_step: int | None, profile: object) -> int | None:
    """Returns the number of the warm step if it is one and a profile is wanted."""
    if warm_step is None:
        return None
    if profile is False:
        raise ValueError(f"warm_step: {warm_step} asks for a profile, and profile=False for none")
    return check_positive("warm_step", warm_step)


def check_positive(option: str, value: int) -> int:
    """Returns the value if it is an integer of at least 1."""
    if _check_integer(option, value) < 1:
        raise ValueError(f"{option}: {value} is too small; it starts at 1")
    return value


def _check_integer(option: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{option}: {value!r} is not an integer")
    return value


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> str:
    """Returns the value if it is one of the choices."""
    if value not in choices:
        raise ValueError(f"{option}: {value!r} is none of {', '.join(map(repr, choices))}")
    return value


def check_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns a copy of the metadata as JSON gives it back."""
    try:
        kept: dict[str, Any] = json.loads(json.dumps(dict(metadata or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata: JSON cannot hold it ({error})") from error
    return kept
