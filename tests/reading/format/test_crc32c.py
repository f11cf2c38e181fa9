"""The checksum, against the definition and against published values."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tb_firstloss.reading.format import crc32c, extension
from tests.helpers import event_files

# RFC 3720, appendix B.4, and the check value of the CRC catalogues.
PUBLISHED = {
    b"": 0x00000000,
    b"123456789": 0xE3069283,
    bytes(32): 0x8A9136AA,
    b"\xff" * 32: 0x62A8AB43,
    bytes(range(32)): 0x46DD794E,
    bytes(range(31, -1, -1)): 0x113FDB5C,
}


@pytest.mark.parametrize("data", PUBLISHED, ids=lambda data: data[:4].hex() or "empty")
def test_published_values(engine, data):
    assert crc32c.crc32c(data) == PUBLISHED[data]


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1023, 1024, 1025, 4097, 70_001])
def test_every_length_agrees_with_the_definition(engine, size):
    data = random.Random(size).randbytes(size)
    assert crc32c.crc32c(data) == event_files.crc32c(data)


def test_a_buffer_of_several_pieces_agrees_with_its_halves(engine, monkeypatch):
    monkeypatch.setattr(crc32c, "_PIECE", 5000)
    data = random.Random(0).randbytes(23_456)
    assert crc32c.crc32c(data) == event_files.crc32c(data)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 3000))
def test_a_checksum_continues_from_what_precedes(data, cut):
    assert crc32c.crc32c(data[cut:], crc32c.crc32c(data[:cut])) == crc32c.crc32c(data)


def test_tables_and_the_processor_agree():
    if extension.scan is None:  # an installation without a compiler
        return
    data = random.Random(1).randbytes(1001)
    try:
        found = {
            wanted: [extension.scan.use_hardware(wanted), *map(crc32c.crc32c, (data, data[3:]))]
            for wanted in (False, True)
        }
    finally:
        extension.scan.use_hardware(True)
    assert found[False][0] is False
    assert found[False][1:] == found[True][1:] == [event_files.crc32c(d) for d in (data, data[3:])]


@given(st.integers(0, 2**32 - 1))
def test_a_header_checksum_tells_its_length(length):
    stored = int.from_bytes(event_files.header(length)[8:], "little")
    assert crc32c.length_of_masked_crc32c(stored) == length


def test_many_header_checksums_at_once():
    lengths = np.array([0, 1, 255, 2**31, 2**40 + 3, 2**64 - 1], np.uint64)
    expected = [int.from_bytes(event_files.header(int(n))[8:], "little") for n in lengths]
    assert crc32c.masked_crc32c_of_lengths(lengths).tolist() == expected
