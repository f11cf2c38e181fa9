"""A recording's manifest: the kind of every field, checked before any is used.

Whoever can write to a logdir can write a manifest, so nothing in it is believed: what is not of its
kind makes the recording a damaged one.
"""

import contextlib
import json
import math
import re
import reprlib
import sys
from collections.abc import Iterator
from typing import Any

from tb_firstloss import errors
from tb_firstloss.text import printable

VERSION = 2
"""Contract version that this package writes; it reads this one and every older one."""

_LIMIT_BYTES = 1 << 23
"""Text of so many bytes becomes 200 MB of objects at most."""

_DEEPEST = 100
"""Levels of nesting that Python's and JavaScript's stacks bear."""

Facts = dict[str, Any]
"""A manifest, an entry of it for an array, or one for an output."""


def parse(manifest: str | bytes, where: str) -> Facts:
    """Returns what a manifest says, in the form of the newest version, every field of its kind.

    Raises:
        ContractVersionError: A newer version of this package wrote it.
        IncompleteRecordingError: It is not what `contract.encode` writes.
    """
    with refusing(where):
        if len(manifest) > _LIMIT_BYTES:
            raise ValueError(f"{len(manifest)} bytes, above {_LIMIT_BYTES}")
        facts: Facts = json.loads(manifest, parse_constant=_refuse_constant)
        version = facts["contract_version"]
        if type(version) is not int or not 1 <= version <= VERSION:
            raise errors.ContractVersionError(
                f"{where}: written by contract version {reprlib.repr(version)}; this tb_firstloss "
                f"reads up to {VERSION}: upgrade tb-firstloss",
                path=where,
            )
        if version == 1:  # it had one loss, without a name
            loss = facts["loss"]
            facts["losses"] = [] if loss is None else [{"name": "loss", **loss}]
        _check(facts, _MANIFEST, "")
        _check_nesting(facts["metadata"])
        named = {"name": [facts["losses"], facts["outputs"]], "tag": [entries(facts)]}
        for key, groups in named.items():
            if any(len({each[key] for each in group}) < len(group) for group in groups):
                raise ValueError(f"a {key} is there twice")
    return facts


@contextlib.contextmanager
def refusing(where: str) -> Iterator[None]:
    """Turns whatever a recording that disagrees with its manifest raises into a ReadError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        plain = isinstance(error, ValueError)  # most are of this package
        said = printable(str(error) if plain else errors.first_line(error, named=True))
        message = f"{where}: the recording does not match its manifest: {said}"
        raise errors.IncompleteRecordingError(message, path=where) from error


def entries(facts: Facts) -> list[Facts]:
    """Returns what a manifest says of each array."""
    found = list(facts["losses"])
    for out in facts["outputs"]:
        found += [out["per_example"], *out["row_splits"], out["sample_weight"], out["mask"]]
    return [entry for entry in found if entry is not None]


def stored_tag(entry: Facts) -> str:
    """Returns the tag of the tensor that holds an array's bits."""
    tag: str = entry["tag"]
    return tag + ".bits" if entry["encoding"] == "bits" else tag


def leave_out_above(max_array_bytes: int, facts: Facts) -> None:
    """Marks the arrays that claim more bytes as left out."""
    for entry in entries(facts):
        if _claimed_bytes(entry) > max_array_bytes:
            entry["left_out"] = True


def named_tensors(facts: Facts) -> dict[str, int]:
    """Returns the tags of the tensors to read, and at most how many bytes each claims."""
    present = (entry for entry in entries(facts) if not entry.get("left_out"))
    return {stored_tag(entry): _claimed_bytes(entry) for entry in present}


def _claimed_bytes(entry: Facts) -> int:
    return 8 * math.prod(entry["shape"])


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _check(value: Any, kind: Any, place: str) -> None:
    """Raises ValueError unless a JSON value is of a kind, and whatever is in it of its own.

    A kind is a type, a range, a pattern for text, a list of one kind, a mapping from required
    fields to kinds, or a pair of alternatives; None stands for null, or a missing field.
    """
    if type(kind) is tuple:
        kind = kind[not _fits(value, kind[0]) and _fits(value, kind[1])]
    if not _fits(value, kind):
        raise ValueError(f"{place} is {reprlib.repr(value)}")
    if type(kind) is list:
        for index, item in enumerate(value):
            _check(item, kind[0], f"{place}[{index}]")
    elif type(kind) is dict:
        if kind is not _MANIFEST and type(value.get("tag")) is str:
            place = value["tag"]  # says more than a position
        for name, of_field in kind.items():
            item = value.get(name)
            if of_field is float or type(item) is not of_field:  # most fields end here
                _check(item, of_field, f"{place}.{name}" if place else name)


def _fits(value: Any, kind: Any) -> bool:
    found = type(value)  # exact: True is an instance of int
    if kind is float:
        return found in (int, float) and abs(value) <= sys.float_info.max
    if type(kind) is range:
        return found is int and value in kind
    if type(kind) is re.Pattern:
        return found is str and kind.fullmatch(value) is not None
    return found is (kind if type(kind) is type else type(kind))


def parse_metadata(text: str) -> dict[str, Any]:
    """Returns a user's metadata as a manifest gives it back.

    Raises:
        ValueError: It is too large for a manifest, or nested too deeply.
    """
    if len(text) > _LIMIT_BYTES // 2:
        raise ValueError(f"it has {len(text):,} bytes; give at most {_LIMIT_BYTES // 2:,}")
    metadata: dict[str, Any] = json.loads(text)
    _check_nesting(metadata)
    return metadata


def _check_nesting(value: Any) -> None:
    level, depth = [value], 0
    while level:
        if depth == _DEEPEST:
            raise ValueError(f"metadata is nested more than {_DEEPEST} deep")
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for items in inner for each in items if isinstance(each, dict | list)]
        depth += 1


_SIZE, _INT64 = range(1 << 63), range(-(1 << 63), 1 << 63)
_SHA256 = re.compile("[0-9a-f]{64}")
_ENTRY = {
    "tag": str,
    "dtype": re.compile("bool|u?int[0-9]+|b?float[0-9][0-9a-z_]*"),
    "shape": [_SIZE],
    "sha256": _SHA256,
    "encoding": re.compile("exact|bits|bfloat16_in_float32"),
    "left_out": (bool, None),
}
_STATISTICS = {
    **dict.fromkeys(("count", "nonfinite_count"), _SIZE),
    **dict.fromkeys(("mean", "std", "min", "max"), (float, re.compile("NaN|-?Infinity"))),
}
_OUTPUT = {
    "name": str,
    "per_example": (_ENTRY, None),
    "row_splits": [_ENTRY],
    "sample_weight": (_ENTRY, None),
    "mask": (_ENTRY, None),
    "reduction": (str, None),
    "loss_weight": (float, None),
    "statistics": _STATISTICS,
}
_MANIFEST = {
    "recording_id": str,
    "run": str,
    "tag": str,
    "step": _INT64,
    "wall_time": float,
    "digest": _SHA256,
    "metadata": dict,
    "losses": [{"name": str, **_ENTRY}],
    "outputs": [_OUTPUT],
}
