"""Arrays described, summarized, counted into buckets and digested, with NumPy alone."""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossStatistics:
    """Summary of per-example loss values, computed in float64.

    Attributes:
        count: Number of values, finite or not.
        mean: Mean of the finite values; NaN without any, like the next three.
        std: Population standard deviation (divided by the number of finite values).
        min: Smallest finite value.
        max: Largest finite value.
        nonfinite_count: Number of NaN and infinite values.
    """

    count: int
    mean: float
    std: float
    min: float
    max: float
    nonfinite_count: int

    @classmethod
    def of(cls, values: Array) -> "LossStatistics":
        """Computes the statistics of an array of any shape and any real dtype."""
        finite = finite_values(values)
        nonfinite_count = int(values.size - finite.size)
        finite = finite if finite.size else np.array([math.nan])
        with np.errstate(over="ignore", invalid="ignore"):
            return cls(
                count=int(values.size),
                mean=float(finite.mean()),
                std=float(finite.std()),
                min=float(finite.min()),
                max=float(finite.max()),
                nonfinite_count=nonfinite_count,
            )


def describe(array: Array) -> str:
    """Returns an array's dtype and shape as text: ``float32[64, 10]``, ``string[]``."""
    dtype = "string" if array.dtype == object else array.dtype.name
    return f"{dtype}{list(array.shape)}"


def to_float64(values: Array) -> npt.NDArray[np.float64]:
    """Returns the values as float64 of the same shape."""
    with np.errstate(invalid="ignore"):  # converting a signalling NaN raises that flag
        return values.astype(np.float64)


def finite_values(values: Array) -> npt.NDArray[np.float64]:
    """Returns the finite values, flattened in C order, as float64 [number of finite]."""
    wide = to_float64(values).ravel()
    finite = np.isfinite(wide)
    return wide if finite.all() else wide[finite]


def bucket_count(count: int) -> int:
    """Returns how many buckets, 1 to 30, show the shape of ``count`` values without spikes."""
    return int(np.clip(np.ceil(2 * np.sqrt(count)), 1, 30))


def count_in_buckets(
    values: npt.NDArray[np.float64], count: int | None = None
) -> npt.NDArray[np.float64]:
    """Returns left edge, right edge and number of values of equal buckets, [count, 3] float64.

    If all values are equal, so are all edges, and the last bucket holds the values, as in
    tf.summary.histogram.

    Args:
        values: Finite values, [n], at least one.
        count: Number of buckets; None to choose it by n.
    """
    low, high = values.min(), values.max()
    share = np.linspace(0, 1, 1 + (bucket_count(values.size) if count is None else count))
    # Not low + share * (high - low): the difference of two float64 may overflow. Rounding may
    # move an edge past its neighbour.
    edges = np.maximum.accumulate(np.clip(low * (1 - share) + high * share, low, high))
    numbers, _ = np.histogram(values, edges)
    return np.stack([edges[:-1], edges[1:], numbers.astype(np.float64)], axis=1)


def bar_heights(values: Array, count: int | None = None) -> list[float]:
    """Returns the heights of a histogram's bars, 0 to 1, of the finite values; none without any."""
    finite = finite_values(values)
    if not finite.size:
        return []
    numbers = count_in_buckets(finite, count)[:, 2]
    if finite.min() == finite.max():
        numbers = np.roll(numbers, len(numbers) // 2 + 1)  # a single bar, in the middle
    return list((numbers / numbers.max()).tolist())


def find_highest(values: npt.NDArray[np.float64], count: int) -> list[int]:
    """Returns the positions of the highest ``count`` values, [n] without NaN, in falling order."""
    count = min(count, values.size)
    if not count:
        return []
    threshold = np.partition(values, -count)[-count]
    candidates = np.flatnonzero(values >= threshold)
    order = np.argsort(-values[candidates], kind="stable")[:count]
    return [int(at) for at in candidates[order]]


def index_of(
    flat: int, shape: tuple[int, ...], row_splits: Sequence[Array] = ()
) -> tuple[int, ...]:
    """Returns the index of a value: the example first, then the place within it.

    Args:
        flat: Position in C order.
        shape: Shape of the array; for a ragged one, of its flat values.
        row_splits: Row splits of each ragged dimension, outermost first, each [rows + 1].
    """
    path = tuple(int(i) for i in np.unravel_index(flat, shape))
    for splits in reversed(row_splits):
        row = int(np.searchsorted(splits, path[0], side="right")) - 1
        path = (row, path[0] - int(splits[row]), *path[1:])
    return path


def tensor_sha256(array: Array) -> str:
    """Returns the SHA-256 (hex) of an array's bytes: C order, little-endian."""
    return hashlib.sha256(_little_endian_bytes(array)).hexdigest()


def digest_of(arrays: Iterable[Array | None]) -> str:
    """Returns the SHA-256 (hex) over dtype, shape and bytes of several arrays, in order.

    Each adds a line of compact JSON, ``["<dtype>",[<shape>]]``, and its elements' bytes in C order,
    little-endian; a missing one adds the line ``null``.
    """
    sha = hashlib.sha256()
    for array in arrays:
        if array is None:
            sha.update(b"null\n")
        else:
            sha.update(_digest_line(array.dtype, array.shape))
            sha.update(_little_endian_bytes(array))
    return sha.hexdigest()


@functools.lru_cache(maxsize=256)
def _digest_line(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    return json.dumps([dtype.name, shape], separators=(",", ":")).encode() + b"\n"


def _little_endian_bytes(array: Array) -> memoryview:
    """Returns the bytes; what is in memory in this order is not copied."""
    order = array.dtype.newbyteorder("<") if array.dtype.kind in "iufb" else array.dtype
    return np.ascontiguousarray(array.astype(order, copy=False)).reshape(-1).view(np.uint8).data


def frozen(array: npt.ArrayLike) -> Array:
    """Returns a read-only copy in C order and native byte order."""
    copy = np.array(array, order="C")
    copy = copy.astype(copy.dtype.newbyteorder("="), copy=False)
    copy.setflags(write=False)
    return copy


def finite_json(value: Any) -> Any:
    """Returns a JSON value with NaN and infinities, which JSON lacks, as text.

    Both Python's ``float`` and JavaScript's ``Number`` read "NaN", "Infinity" and "-Infinity" back.
    """
    if isinstance(value, dict):
        return {key: finite_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_json(item) for item in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def to_stored(array: Array) -> tuple[str, dict[str, Array]]:
    """Returns an array's encoding, and the arrays to store in its place by the end of their tags.

    TensorBoard's decoder raises on bfloat16 and float8. bfloat16 is the upper half of a float32, so
    a shift keeps every bit pattern; float8 is stored as bytes next to a float32 view.
    """
    if array.dtype.name == "bfloat16":
        wide = array.view(np.uint16).astype(np.uint32) << np.uint32(16)
        return "bfloat16_in_float32", {"": wide.view(np.float32)}
    if array.dtype.isbuiltin != 1:  # from ml_dtypes, one byte per element
        view = array.astype(np.float32)
        return "bits", {"": view, ".bits": array.view(np.uint8)}
    return "exact", {"": array}


def from_stored(stored: Array, encoding: str, dtype: np.dtype[Any]) -> Array:
    """Returns the array that `to_stored` encoded; of "bits", from the array of that name."""
    if encoding == "bfloat16_in_float32":
        half: Array = (stored.view(np.uint32) >> np.uint32(16)).astype(np.uint16).view(dtype)
        return half
    return stored.view(dtype) if encoding == "bits" else stored
