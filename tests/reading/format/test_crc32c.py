"""The checksum, against the definition and against published values."""

import random
import subprocess
import sys

import google_crc32c
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


STEPS = ["byte table", "google-crc32c", *(["extension"] if extension.compiled else [])]


@pytest.fixture(params=STEPS)
def step(request, monkeypatch):
    """Computes with one of the three, whatever is installed."""
    google = google_crc32c if request.param == "google-crc32c" else None
    monkeypatch.setattr(extension, "google_crc32c", google)
    if request.param != "extension":
        monkeypatch.setattr(extension, "scan", None)


@pytest.mark.parametrize("data", PUBLISHED, ids=lambda data: data[:4].hex() or "empty")
def test_published_values(step, data):
    assert crc32c.crc32c(data) == PUBLISHED[data]


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1023, 1024, 1025, 4097, 70_001])
def test_every_length_agrees_with_the_definition(step, size):
    data = random.Random(size).randbytes(size)
    assert crc32c.crc32c(data) == event_files.crc32c(data)


@pytest.mark.parametrize("kind", [bytes, bytearray], ids=["read-only", "writable"])
def test_a_buffer_in_pieces_agrees_with_the_definition(step, kind):
    data = random.Random(0).randbytes(23_456)
    view, crc = memoryview(kind(data)), 0
    for start in range(0, len(view), 5000):
        crc = crc32c.crc32c(view[start : start + 5000], crc)
    assert crc == event_files.crc32c(data)


@pytest.mark.parametrize(
    ("blocked", "taken"),
    [
        ("google_crc32c", None),
        ("google_crc32c._crc32c", None),  # then it has its Python implementation, and warns
        ("nothing", "google_crc32c"),
    ],
    ids=["missing", "pure Python", "compiled"],
)
def test_without_the_extension_google_crc32c_is_taken_where_it_is_compiled(blocked, taken):
    script = (
        "import sys\n"
        "sys.modules['tb_firstloss.reading.format._scan'] = sys.modules[sys.argv[1]] = None\n"
        "from tb_firstloss.reading.format import extension\n"
        "print(extension.compiled, getattr(extension.google_crc32c, '__name__', None))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, blocked], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == (f"False {taken}\n", "")


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
def test_a_header_checksum_gives_its_length(length):
    stored = int.from_bytes(event_files.header(length)[8:], "little")
    assert crc32c.length_of_masked_crc32c(stored) == length


def test_many_header_checksums_at_once():
    lengths = np.array([0, 1, 255, 2**31, 2**40 + 3, 2**64 - 1], np.uint64)
    expected = [int.from_bytes(event_files.header(int(n))[8:], "little") for n in lengths]
    assert crc32c.masked_crc32c_of_lengths(lengths).tolist() == expected
