"""TensorProto to ndarray, against TensorFlow's encoders, and stricter than its decoder."""

import contextlib
import itertools
import re
import struct
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tensorboard.compat.proto import summary_pb2, tensor_pb2, types_pb2

from tb_firstloss.reading.format import tensor_proto, values, wire
from tb_firstloss.reading.format.tensor_proto import decode_tensor
from tb_firstloss.reading.tensor_datum import TensorDatum
from tests.helpers.event_files import content, floats, shaped
from tests.helpers.fragments import field, text

PLAIN = [
    tf.float16,
    tf.float32,
    tf.float64,
    tf.bfloat16,
    tf.int8,
    tf.int16,
    tf.int32,
    tf.int64,
    tf.uint8,
    tf.uint16,
    tf.uint32,
    tf.uint64,
    tf.bool,
    tf.complex64,
    tf.complex128,
]


def dtypes_known_to_tensorflow(numbers):
    """Dtypes outside its public modules, which come and go with its versions."""
    found = []
    for number in numbers:
        with contextlib.suppress(TypeError):
            found.append(tf.as_dtype(number))
    return found


NARROW = dtypes_known_to_tensorflow(range(24, 33))
QUANTIZED = [tf.qint8, tf.quint8, tf.qint16, tf.quint16, tf.qint32]


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", [*PLAIN, *NARROW], ids=lambda dtype: dtype.name)
def test_what_tensorflow_encodes_comes_back_exactly(dtype):
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype.as_numpy_dtype)
    assert same(decode_tensor(tf.make_tensor_proto(array).SerializeToString()), array)


@pytest.mark.parametrize("dtype", PLAIN, ids=lambda dtype: dtype.name)
def test_what_tensorflows_runtime_serializes_comes_back_exactly(dtype):
    array = np.array([1, 0, 1]).astype(dtype.as_numpy_dtype)
    vector = tf.constant(array)
    for tensor in (vector, vector[0]):
        serialized = tf.io.serialize_tensor(tensor).numpy()
        assert same(decode_tensor(serialized), tensor.numpy() if tensor.shape else array[0])


@pytest.mark.parametrize("dtype", QUANTIZED, ids=lambda dtype: dtype.name)
def test_quantized_values_have_tensorflows_dtype(dtype):
    proto = tf.compat.v1.AttrValue().tensor  # int_val, the only field for them
    proto.dtype = dtype.as_datatype_enum
    proto.tensor_shape.dim.add(size=2)
    proto.int_val.extend([1, 2])
    assert same(
        decode_tensor(proto.SerializeToString()), np.array([(1,), (2,)], dtype.as_numpy_dtype)
    )


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint16, np.complex64, np.bool_]),
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    )
)
def test_any_array_survives_tensorflows_encoding(array):
    assert same(decode_tensor(tf.make_tensor_proto(array).SerializeToString()), array)


def test_strings_come_back_as_bytes():
    array = decode_tensor(
        tf.make_tensor_proto([[b"", b"\xff\x00"], [b"e", b"x"]]).SerializeToString()
    )
    assert array.dtype == object
    assert array.tolist() == [[b"", b"\xff\x00"], [b"e", b"x"]]


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize(
    ("number", "field_number", "unit", "dtype"),
    [
        (1, 5, "<u4", np.float32),
        (2, 6, "<u8", np.float64),
        (8, 9, "<u4", np.complex64),
        (18, 12, "<u8", np.complex128),
    ],
    ids=["float_val", "double_val", "scomplex_val", "dcomplex_val"],
)
def test_numbers_in_a_typed_field_keep_the_bits_of_every_nan(
    number, field_number, unit, dtype, packed
):
    quiet = np.array(np.nan, unit.replace("u", "f")).view(unit)
    bits = np.array([quiet - (1 << 20), quiet + 1, 0, 1, 5, 6], unit)  # the first one signals
    wire_type = wire.FIXED32 if unit == "<u4" else wire.FIXED64
    if packed:
        values = text(field_number, bits[:2].tobytes()) + text(field_number, bits[2:].tobytes())
    else:
        values = b"".join(field(field_number, wire_type, one.tobytes()) for one in bits)
    size = len(bits) if dtype in (np.float32, np.float64) else len(bits) // 2
    head = field(1, wire.VARINT, bytes([number])) + text(2, text(2, b"\x08" + bytes([size])))
    assert same(decode_tensor(head + values), bits.view(dtype))


TYPED = {
    "floats": floats([2], [1, 2]),
    "content": content([2], np.array([1, 2], np.float32), 1),
    "one for all": floats([3], [1]),
    "doubles": shaped(2, [2], double_val=[1, 2]),
    "int8": shaped(6, [2], int_val=[1, -2]),
    "int64": shaped(9, [2], int64_val=[1, -2]),
    "uint32": shaped(22, [2], uint32_val=[1, 2]),
    "uint64": shaped(23, [2], uint64_val=[1, 2]),
    "bool": shaped(10, [2], bool_val=[True, False]),
    "half": shaped(19, [2], half_val=[1, 2]),
    "complex64": shaped(8, [1], scomplex_val=[1, 2]),
    "complex128": shaped(18, [1], dcomplex_val=[1, 2]),
    "float8": shaped(25, [2], float8_val=b"\x38\x39"),
    "strings": shaped(7, [2], string_val=[b"a", b"b"]),
}
CONTENTS = {
    wire.VARINT: b"\x01",
    wire.FIXED64: bytes(8),
    wire.BYTES: b"\x08\x01\x00\x00\x00\x00\x00\x00",
    wire.FIXED32: bytes(4),
}


def outcome_of(serialized):
    try:
        array = decode_tensor(serialized)
    except ValueError:
        return "refused"
    return array.dtype, array.shape, array.tolist()


@pytest.mark.parametrize("proto", TYPED.values(), ids=TYPED)
def test_one_field_more_does_what_it_does_in_protobuf_or_is_refused(proto):
    usual = proto.SerializeToString()
    for number, (wire_type, more) in itertools.product(range(1, 21), CONTENTS.items()):
        key = bytes([number << 3 & 127 | wire_type | (number > 15) << 7]) + b"\x01" * (number > 15)
        one = key + bytes([len(more)]) * (wire_type == wire.BYTES) + more
        for serialized in (usual + one, one + usual):
            try:
                parsed = tensor_pb2.TensorProto.FromString(serialized)
            except DecodeError:
                continue
            parsed.DiscardUnknownFields()
            understood = parsed.SerializeToString()
            found = outcome_of(serialized)
            assert found in (outcome_of(understood), "refused"), (number, wire_type)
            if understood == usual and number in (4, 8, 18):  # of another type than these have
                assert found == outcome_of(usual), (number, wire_type)


@pytest.mark.parametrize(
    "proto",
    [floats([2**20, 2**6], [1.5]), shaped(7, [2**26], string_val=[b"a"])],
    ids=["floats", "strings"],
)
def test_one_value_that_stands_for_all_takes_the_memory_of_one(proto):
    array = decode_tensor(proto.SerializeToString())
    assert array.size == 2**26
    assert set(array.strides) == {0}
    assert not array.flags.writeable


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [(np.float32, 0x7F800001), (np.float64, 0x7FF0000000000001), (np.float16, 0x7C01)],
    ids=["float32", "float64", "float16"],
)
def test_the_payload_of_a_signalling_nan_is_kept(dtype, bits):
    width = np.dtype(dtype).itemsize
    array = np.array([bits, 0], f"<u{width}").view(dtype)
    number = tf.as_dtype(dtype).as_datatype_enum
    assert same(decode_tensor(content([2], array, number).SerializeToString()), array)


def test_one_value_stands_for_all_elements():
    array = decode_tensor(floats([2, 3], [1.5]).SerializeToString())
    assert same(array, np.full((2, 3), 1.5, np.float32))
    strings = decode_tensor(shaped(types_pb2.DT_STRING, [2], string_val=[b"a"]).SerializeToString())
    assert strings.tolist() == [b"a", b"a"]


def test_an_array_owns_its_memory_and_can_be_written_to():
    serialized = bytearray(content([2], np.zeros(2, np.float32), 1).SerializeToString())
    array = decode_tensor(serialized)
    serialized[:] = bytes([255]) * len(serialized)
    assert array.tolist() == [0.0, 0.0]
    array[0] = 1


BROKEN = {
    "too few values": (floats([4], [1, 2]), "2 values for the 4 elements of shape [4]"),
    "too many values": (floats([2], [1, 2, 3]), "3 values for the 2 elements"),
    "no values": (floats([3], []), "0 values for the 3 elements"),
    "a value for none": (floats([0], [1]), "1 values for the 0 elements"),
    "another field": (shaped(1, [1], int_val=[7]), "values in int_val instead of float_val"),
    "two fields": (
        shaped(1, [1], float_val=[1], tensor_content=b"abcd"),
        "values in float_val, tensor_content instead of float_val",
    ),
    "content too short": (shaped(1, [2], tensor_content=b"12345"), "5 bytes of tensor_content"),
    "negative size": (floats([-2], [1]), "unknown shape"),
    "int8 out of range": (
        shaped(6, [1], int_val=[128]),
        "values from 128 to 128 out of range for int8",
    ),
    "uint8 negative": (shaped(4, [1], int_val=[-1]), "values from -1 to -1 out of range for uint8"),
    "half out of range": (shaped(19, [1], half_val=[70000]), "values from 70000 to 70000"),
    "int4 out of range": (shaped(29, [1], int_val=[9]), "bytes from 9 to 9 out of range for int4"),
    "bool of two": (
        shaped(10, [1], tensor_content=b"\x02"),
        "bytes from 2 to 2 out of range for bool",
    ),
    "half a complex": (shaped(8, [1], scomplex_val=[1]), "1 numbers in scomplex_val"),
    "resource": (shaped(20, [1]), "dtype number 20"),
    "variant": (shaped(21, [1]), "dtype number 21"),
    "no dtype": (shaped(0, [1], float_val=[1]), "dtype number 0"),
    "strings missing": (shaped(7, [3], string_val=[b"a", b"b"]), "2 strings for the 3 elements"),
    "strings as floats": (shaped(7, [1], float_val=[1]), "values outside string_val"),
    "rank 33": (floats([1] * 33, [1]), "rank 33"),
}


@pytest.mark.parametrize(("proto", "message"), BROKEN.values(), ids=BROKEN)
def test_parts_that_disagree_are_an_error(proto, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        decode_tensor(proto.SerializeToString())


def test_bytes_that_are_not_a_tensor_are_an_error():
    with pytest.raises(ValueError, match="of the record"):
        decode_tensor(b"\x12\xff\xff")


@pytest.mark.parametrize(
    "proto",
    [
        floats([2**14, 2**14], [1.0]),
        floats([2**40, 2**40], [1.0]),
        shaped(types_pb2.DT_STRING, [2**40], string_val=[b"x"]),
        floats([300], range(300)),
    ],
    ids=["splat", "beyond int64", "strings", "whole"],
)
def test_a_tensor_above_the_limit_is_refused_with_both_numbers(proto):
    with pytest.raises(
        tensor_proto.TooLargeError, match=r": \d+ bytes exceed max_tensor_bytes=1000"
    ):
        decode_tensor(proto.SerializeToString(), max_tensor_bytes=1000)


@pytest.mark.slow
def test_a_shape_bomb_allocates_nothing():
    script = """
import resource, numpy
from tb_firstloss.reading.format import tensor_proto
from tests.helpers.event_files import floats, shaped
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
for proto in (floats([2**14, 2**14], [1, 2]), floats([2**31, 2**31], [1]), floats([2**29], [])):
    try:
        tensor_proto.decode_tensor(proto.SerializeToString())
    except ValueError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 3)


def test_an_old_histogram_has_the_rows_that_tensorboard_shows():
    from tensorboard import data_compat
    from tensorboard.util import tensor_util

    value = summary_pb2.Summary.Value(tag="h")
    value.histo.min, value.histo.max = -1.25, 9.5
    value.histo.bucket_limit.extend([-2.0, 0.0, 1.0, 2.0, 1.7e308])
    value.histo.bucket.extend([0, 3, 0, 2, 0])
    shown = tensor_util.make_ndarray(data_compat.migrate_value(value).tensor)
    rows = values.decode_content(memoryview(value.histo.SerializeToString()), wire.HISTO)
    assert rows.dtype == np.float64  # TensorBoard narrows to float32
    assert np.array_equal(rows.astype(np.float32), shown)


@pytest.mark.parametrize(
    ("content_type", "field", "message", "expected"),
    [
        (wire.HISTO, "histo", summary_pb2.HistogramProto(bucket_limit=[1.0], bucket=[0.0]), []),
        (
            wire.IMAGE,
            "image",
            summary_pb2.Summary.Image(width=3, height=2, encoded_image_string=b"\x89PNG"),
            [b"3", b"2", b"\x89PNG"],
        ),
        (
            wire.AUDIO,
            "audio",
            summary_pb2.Summary.Audio(encoded_audio_string=b"RIFF"),
            [[b"RIFF", b""]],
        ),
    ],
    ids=["empty histogram", "image", "audio"],
)
def test_older_values_decode_as_tensorboard_shows_them(content_type, field, message, expected):
    from tensorboard import data_compat
    from tensorboard.util import tensor_util

    value = summary_pb2.Summary.Value(tag="t", **{field: message})
    shown = tensor_util.make_ndarray(data_compat.migrate_value(value).tensor)
    decoded = values.decode_content(memoryview(message.SerializeToString()), content_type)
    assert decoded.tolist() == expected == shown.tolist()


USUAL = {
    "content": content([2, 3], np.arange(6, dtype=np.float32), 1),
    "no elements": content([0], np.zeros(0), 2),
    "string": shaped(7, [], string_val=[b"text" * 40]),
    "one string for all": shaped(7, [3], string_val=[b"x"]),
    "bool": content([2], np.array([True, False]), 10),
    "values": floats([2], [1, 2]),
}


ODD = {
    "dtype of two bytes": b"\x08\x92\x12\x12" + bytes(18) + b"\x22\x00",
    "shape of two length bytes": b"\x08\x04\x12\x80\x01"
    + b"\x12\x02\x08\x01" * 31
    + b"\x12\x02\x08\x22"
    + b"\x22\x21"
    + bytes(33),
    "version in place of values": b"\x08\x01\x12\x00\x18\x00",
    "content, then more": USUAL["content"].SerializeToString() + b"\x22\x00",
    "content cut short": USUAL["content"].SerializeToString()[:-1],
    "no length": b"\x08\x01\x12\x00\x22\x80",
}


@pytest.mark.parametrize("serialized", ODD.values(), ids=ODD.keys())
def test_an_odd_tensor_does_not_take_the_short_way(serialized, monkeypatch):
    assert_both_ways_agree(serialized, monkeypatch)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_the_short_way_through_a_tensor_agrees_with_the_long_one(data):
    altered = bytearray(data.draw(st.sampled_from(list(USUAL.values()))).SerializeToString())
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, min(len(altered) - 1, 16)))
        altered[at] = data.draw(st.sampled_from([0, 1, 4, 7, 8, 0x12, 0x22, 0x42, 0x7F, 0x80, 255]))
    with pytest.MonkeyPatch.context() as patched:
        assert_both_ways_agree(bytes(altered), patched)


def assert_both_ways_agree(serialized, monkeypatch):
    def outcome():
        try:
            array = decode_tensor(serialized)
        except ValueError as error:
            return str(error)
        return repr((array.dtype, array.shape, array.tolist()))

    short = outcome()
    monkeypatch.setattr(tensor_proto, "_survey_usual", lambda content: None)
    assert short == outcome()


@pytest.mark.parametrize(
    "message",
    [summary_pb2.HistogramProto(bucket_limit=[1, 2], bucket=[1])],
    ids=["more limits than buckets"],
)
def test_a_histogram_that_disagrees_with_itself_is_an_error(message):
    with pytest.raises(ValueError, match="1 buckets with 2 limits"):
        values.decode_content(memoryview(message.SerializeToString()), wire.HISTO)


@pytest.mark.parametrize("dtype", [*PLAIN, *NARROW], ids=lambda dtype: dtype.name)
def test_a_datum_becomes_a_tensor_of_the_same_dtype(dtype):
    value = np.ones((2, 1)).astype(dtype.as_numpy_dtype)
    tensor = TensorDatum(".", "t", 0, 0.0, "", value).to_tensor()
    assert (tensor.dtype, tensor.shape) == (dtype, (2, 1))
    assert np.asarray(tensor).tobytes() == value.tobytes()


@pytest.mark.parametrize("strings", [[], [b"a", b"\xff"]], ids=["none", "two"])
def test_strings_become_a_string_tensor(strings):
    value = np.array(strings, object)
    tensor = TensorDatum(".", "t", 0, 0.0, "", value).to_tensor()
    assert tensor.dtype == tf.string
    assert tensor.numpy().tolist() == strings


def test_bfloat16_bits_from_half_val_are_not_converted():
    bits = struct.unpack("<H", np.array(1.5, ml_dtypes.bfloat16).tobytes())[0]
    array = decode_tensor(shaped(14, [1], half_val=[bits]).SerializeToString())
    assert same(array, np.array([1.5], ml_dtypes.bfloat16))


@pytest.mark.parametrize(
    ("number", "field", "given", "array"),
    [
        (1, "float_val", [1.5, -0.0, 1e-45], np.array([1.5, -0.0, 1e-45], np.float32)),
        (2, "double_val", [1.5, -0.0, 5e-324], np.array([1.5, -0.0, 5e-324])),
        (9, "int64_val", [-(2**63), 2**63 - 1], np.array([-(2**63), 2**63 - 1])),
        (10, "bool_val", [True, False], np.array([True, False])),
        (22, "uint32_val", [0, 2**32 - 1], np.array([0, 2**32 - 1], np.uint32)),
        (23, "uint64_val", [0, 2**64 - 1], np.array([0, 2**64 - 1], np.uint64)),
        (24, "float8_val", b"\x3c\xff", np.array([0x3C, 0xFF], np.uint8)),
        (25, "float8_val", b"\x38\xff", np.array([0x38, 0xFF], np.uint8)),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_values_in_a_dtypes_typed_field_keep_every_bit(number, field, given, array):
    proto = tensor_pb2.TensorProto(dtype=number)
    proto.tensor_shape.dim.add(size=len(given))
    if isinstance(given, bytes):
        proto.float8_val = given
    else:
        getattr(proto, field).extend(given)
    found = decode_tensor(proto.SerializeToString())
    assert found.shape == array.shape
    assert found.itemsize == array.itemsize
    assert found.tobytes() == array.tobytes()
