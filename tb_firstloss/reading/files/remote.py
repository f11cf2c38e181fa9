"""Files behind a URL, through fsspec (the extra "remote")."""

import contextlib
from collections.abc import Iterator
from typing import Any

from tb_firstloss import errors


def filesystem(url: str) -> tuple[Any, str]:
    """Returns fsspec's file system for a URL, and the URL's name within it.

    Raises:
        MissingDependencyError: fsspec, or what it needs for this protocol, is not installed.
        ValueError: The protocol is unknown.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise errors.MissingDependencyError(
            f"{url}: reading URLs needs fsspec; pip install fsspec"
        ) from None
    try:
        found, name = url_to_fs(url)
    except ImportError as error:
        raise errors.MissingDependencyError(f"{url}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{url}: {error}") from None
    return found, name


@contextlib.contextmanager
def failures(url: str, *, start: int | None = None) -> Iterator[None]:
    """Turns whatever a file system raises into an EventFileError."""
    try:
        yield
    except Exception as error:  # each backend raises its own exceptions
        raise errors.EventFileError(
            f"{url}: cannot be read ({errors.first_line(error, named=True)})", path=url, start=start
        ) from error
