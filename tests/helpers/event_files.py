"""Event files made by hand for the tests: frames with a CRC32C of their own, and Event protos."""

import struct

import numpy as np
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2


def crc32c(data: bytes) -> int:
    """The definition, bit by bit (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc ^= octet
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    rotated = ((crc >> 15) | (crc << 17)) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) % 2**32)


def header(length: int) -> bytes:
    packed = struct.pack("<Q", length)
    return packed + masked(packed)


def frame(payload: bytes) -> bytes:
    return header(len(payload)) + payload + masked(payload)


def version() -> bytes:
    return event_pb2.Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString()


def event(*values: summary_pb2.Summary.Value, step: int = 0, wall_time: float = 1.0) -> bytes:
    made = event_pb2.Event(step=step, wall_time=wall_time)
    made.summary.value.extend(values)
    return made.SerializeToString()


def simple(tag: str, number: float) -> summary_pb2.Summary.Value:
    return summary_pb2.Summary.Value(tag=tag, simple_value=number)


def scalar(tag: str, number: float, *, plugin_name: str = "scalars") -> summary_pb2.Summary.Value:
    return tensor(tag, floats([], [number]), plugin_name=plugin_name)


def tensor(
    tag: str, proto: tensor_pb2.TensorProto, *, plugin_name: str = ""
) -> summary_pb2.Summary.Value:
    value = summary_pb2.Summary.Value(tag=tag, tensor=proto)
    if plugin_name:
        value.metadata.plugin_data.plugin_name = plugin_name
    return value


def shaped(dtype: int, shape: list[int], **fields) -> tensor_pb2.TensorProto:
    proto = tensor_pb2.TensorProto(dtype=dtype, **fields)
    proto.tensor_shape.SetInParent()
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def floats(shape: list[int], values) -> tensor_pb2.TensorProto:
    return shaped(types_pb2.DT_FLOAT, shape, float_val=values)


def content(shape: list[int], array: np.ndarray, dtype: int) -> tensor_pb2.TensorProto:
    return shaped(dtype, shape, tensor_content=array.tobytes())


def write(path, *payloads: bytes):
    """Writes an event file of these payloads and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(frame(p) for p in payloads))
    return path
