"""TensorProto to NumPy, strictly and within a limit on its size.

TensorFlow's decoder fills in whatever is missing; here a tensor whose parts disagree is an
error. The format's one abbreviation is kept: a single value stands for all elements.
"""

import functools
import math
from typing import Any

import ml_dtypes  # noqa: F401  # NumPy then knows its dtypes by name
import numpy as np
from google.protobuf.message import DecodeError, Message
from tensorboard.compat.proto import tensor_pb2, tensor_shape_pb2

from tb_firstloss.arrays import Array
from tb_firstloss.reading.format import wire

MAX_TENSOR_BYTES = 1 << 30
"""Default limit on one decoded tensor, 1 GiB."""

_CONTENT, _STRINGS = 4, 8
_SOLE_KEYS = _CONTENT << 3 | wire.BYTES, _STRINGS << 3 | wire.BYTES
_STRING = 7
_DTYPES = {
    1: ("float32", "float_val"),
    2: ("float64", "double_val"),
    3: ("int32", "int_val"),
    4: ("uint8", "int_val"),
    5: ("int16", "int_val"),
    6: ("int8", "int_val"),
    8: ("complex64", "scomplex_val"),
    9: ("int64", "int64_val"),
    10: ("bool", "bool_val"),
    11: ("qint8", "int_val"),
    12: ("quint8", "int_val"),
    13: ("qint32", "int_val"),
    14: ("bfloat16", "half_val"),
    15: ("qint16", "int_val"),
    16: ("quint16", "int_val"),
    17: ("uint16", "int_val"),
    18: ("complex128", "dcomplex_val"),
    19: ("float16", "half_val"),
    22: ("uint32", "uint32_val"),
    23: ("uint64", "uint64_val"),
    24: ("float8_e5m2", "float8_val"),
    25: ("float8_e4m3fn", "float8_val"),
    26: ("float8_e4m3fnuz", "float8_val"),
    27: ("float8_e4m3b11fnuz", "float8_val"),
    28: ("float8_e5m2fnuz", "float8_val"),
    29: ("int4", "int_val"),
    30: ("uint4", "int_val"),
    31: ("int2", "int_val"),
    32: ("uint2", "int_val"),
    33: ("float4_e2m1fn", "tensor_content"),
}
"""DataType number to dtype name and the field for its values (types.proto and tensor.proto)."""

_ELEMENT_LIMITS = {10: (0, 1), 29: (-8, 7), 30: (0, 15), 31: (-2, 1), 32: (0, 3), 33: (0, 15)}
"""Smallest and largest byte of an element, for dtypes that do not use all values of a byte."""

_FIELD_NUMBERS = {field.name: field.number for field in tensor_pb2.TensorProto.DESCRIPTOR.fields}


class TooLargeError(ValueError):
    """A value, or the shape it claims, is larger than `max_tensor_bytes`."""


def decode_tensor(
    content: memoryview | bytes, *, max_tensor_bytes: int = MAX_TENSOR_BYTES
) -> Array:
    """Returns a serialized TensorProto as an array.

    Args:
        content: The proto's bytes.
        max_tensor_bytes: Limit on the array's bytes, and on all its strings' bytes together.

    Raises:
        TooLargeError: It is larger, or claims to be; the message names both numbers.
        ValueError: dtype, shape and values disagree, or one of them is missing or unknown.
    """
    content = memoryview(content)
    dtype, shape, ranges = _survey_usual(content) or _survey(content)
    count = math.prod(shape)
    if dtype == _STRING:
        return _decode_strings(content, ranges, shape, count, max_tensor_bytes)
    numpy_dtype = _numpy_dtype(dtype)
    check_size(count * numpy_dtype.itemsize, max_tensor_bytes, f"tensor of shape {list(shape)}")
    given = set(ranges)
    if given == {_CONTENT}:
        values = _decode_content(content, ranges[_CONTENT], numpy_dtype, count)
        return _check_elements(values, dtype).reshape(shape)
    field = _DTYPES[dtype][1]
    if not given <= {_FIELD_NUMBERS[field]}:
        names = sorted(tensor_pb2.TensorProto.DESCRIPTOR.fields_by_number[n].name for n in given)
        raise ValueError(
            f"{numpy_dtype} tensor with values in {', '.join(names)} instead of {field}"
        )
    values = _decode_field(content, field, numpy_dtype) if given else np.empty(0, numpy_dtype)
    values = _check_elements(values, dtype)
    if len(values) == 1 and count > 1:
        return np.broadcast_to(values, shape)
    if len(values) != count:
        raise ValueError(f"{len(values)} values for the {count} elements of shape {list(shape)}")
    return values.reshape(shape)


_Survey = tuple[int, tuple[int, ...], dict[int, list[tuple[int, int]]]]
"""dtype, shape, and the byte ranges of the values, by field number."""


def _survey_usual(content: memoryview) -> _Survey | None:
    """Surveys dtype, shape and one tensor_content or string, in this order; else None."""
    size = len(content)
    if size < 6 or content[0] != 0x08 or content[2] != 0x12:
        return None
    dtype, shape_size = content[1], content[3]
    field = 4 + shape_size
    if dtype > 0x7F or shape_size > 0x7F or field >= size or content[field] not in _SOLE_KEYS:
        return None
    length, start = wire.read_varint(content, field + 1, size)
    if start + length != size:
        return None
    number = content[field] >> 3
    return dtype, _parse_shape(content[4:field].tobytes()), {number: [(start, size)]}


def _survey(content: memoryview) -> _Survey:
    dtype, shape = 0, []
    ranges: dict[int, list[tuple[int, int]]] = {}
    for number, wire_type, start, end in wire.iter_fields(content, 0, len(content)):
        if number == 1 and wire_type == wire.VARINT:
            dtype = start
        elif number == 2 and wire_type == wire.BYTES:
            shape.append(bytes(content[start:end]))
        elif number == _CONTENT or 5 <= number <= 18:
            span = (start, end) if wire_type == wire.BYTES else (0, 0)
            ranges.setdefault(number, []).append(span)
    return dtype, _parse_shape(b"".join(shape)), ranges


@functools.lru_cache(maxsize=256)
def _parse_shape(serialized: bytes) -> tuple[int, ...]:
    shape_proto = parse(tensor_shape_pb2.TensorShapeProto, serialized)
    sizes = tuple(dim.size for dim in shape_proto.dim)
    if shape_proto.unknown_rank or any(size < 0 for size in sizes):
        raise ValueError(f"tensor of unknown shape {list(sizes)}")
    if len(sizes) > 32:
        raise ValueError(f"tensor of rank {len(sizes)}: NumPy before 2.0 supports at most 32")
    return sizes


def _decode_content(
    content: memoryview, ranges: list[tuple[int, int]], dtype: np.dtype[Any], count: int
) -> Array:
    start, end = ranges[-1]
    if end - start != count * dtype.itemsize:
        raise ValueError(
            f"{end - start} bytes of tensor_content instead of {count * dtype.itemsize} for "
            f"{count} elements of {dtype}"
        )
    values: Array = np.frombuffer(content[start:end], _little_endian(dtype)).astype(dtype)
    return values


@functools.cache
def _little_endian(dtype: np.dtype[Any]) -> np.dtype[Any]:
    plain = dtype.names is None and dtype.kind in "iufc"
    return dtype.newbyteorder("<") if plain else dtype


def _decode_field(content: memoryview, field: str, dtype: np.dtype[Any]) -> Array:
    raw = getattr(parse(tensor_pb2.TensorProto, content), field)
    values: Any
    if field == "float8_val":
        values = np.frombuffer(raw, np.uint8).copy()
    elif field in ("scomplex_val", "dcomplex_val"):
        if len(raw) % 2:
            raise ValueError(f"{len(raw)} numbers in {field}: each complex value takes two")
        values = np.array(raw, np.float32 if field == "scomplex_val" else np.float64)
    elif field == "half_val":
        values = _narrow(np.array(raw, np.int32), np.dtype(np.uint16))
    elif field != "int_val":
        values = np.array(raw, dtype)
    elif dtype.kind == "V" and dtype.names is None:  # int4 and its kin: one element per byte
        values = _narrow(np.array(raw, np.int32), np.dtype(np.int8)).astype(dtype)
    else:
        values = _narrow(np.array(raw, np.int32), dtype if dtype.names is None else dtype[0])
    typed: Array = values.view(dtype)
    return typed


def _narrow(values: Array, dtype: np.dtype[Any]) -> Array:
    info = np.iinfo(dtype)
    if values.size and not info.min <= values.min() <= values.max() <= info.max:
        raise ValueError(f"values from {values.min()} to {values.max()} out of range for {dtype}")
    return values.astype(dtype)


def _decode_strings(
    content: memoryview,
    ranges: dict[int, list[tuple[int, int]]],
    shape: tuple[int, ...],
    count: int,
    max_tensor_bytes: int,
) -> Array:
    if set(ranges) - {_STRINGS}:
        raise ValueError("string tensor with values outside string_val")
    found = ranges.get(_STRINGS, [])
    total = sum(end - start for start, end in found)
    pointers = count * np.dtype(object).itemsize
    check_size(pointers + total, max_tensor_bytes, f"string tensor of shape {list(shape)}")
    if len(found) != count and not (len(found) == 1 and count > 1):
        raise ValueError(f"{len(found)} strings for the {count} elements of shape {list(shape)}")
    strings = [bytes(content[start:end]) for start, end in found]
    if len(strings) != count:
        return np.broadcast_to(string_array(strings, (1,)), shape)
    return string_array(strings, shape)


def string_array(values: list[bytes], shape: tuple[int, ...]) -> Array:
    """Returns strings as an object array of bytes."""
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


def _check_elements(values: Array, dtype: int) -> Array:
    """Returns the values, each of whose bytes must be an element of the dtype."""
    low, high = _ELEMENT_LIMITS.get(dtype, (0, 0))
    if not high or not values.size:
        return values
    octets = values.view(np.int8)
    if octets.min() < low or octets.max() > high:
        found = f"bytes from {octets.min()} to {octets.max()}"
        raise ValueError(f"{found} out of range for {values.dtype}")
    return values


@functools.cache
def _numpy_dtype(number: int) -> np.dtype[Any]:
    if number not in _DTYPES:
        raise ValueError(f"tensor of dtype number {number}, which has no plain values")
    name, _ = _DTYPES[number]
    if name.startswith("q"):  # as in tf.DType.as_numpy_dtype
        return np.dtype([(name, name[1:])])
    try:
        return np.dtype(name)
    except TypeError:
        raise ValueError(f"{name} tensor: this version of ml_dtypes has no such dtype") from None


def check_size(size: int, max_tensor_bytes: int, what: str) -> None:
    """Raises TooLargeError if something of this many bytes is above the limit."""
    if size > max_tensor_bytes:
        raise TooLargeError(f"{what}: {size} bytes exceed max_tensor_bytes={max_tensor_bytes}")


def parse(message: type[Message], content: memoryview | bytes) -> Any:
    """Returns the message that the content serializes; raises ValueError if it is none."""
    try:
        return message.FromString(bytes(content))
    except DecodeError as error:
        raise ValueError(f"invalid {message.DESCRIPTOR.name} ({error})") from None
