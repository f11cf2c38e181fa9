"""CRC32C (Castagnoli), the checksum of TFRecord framing.

The extension computes it where it is built, else google-crc32c where that is installed, else a loop
over a byte table. Format: https://www.tensorflow.org/tutorials/load_data/tfrecord.
"""

import functools

import numpy as np
import numpy.typing as npt

from tb_firstloss.reading.format import extension

_U32 = npt.NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78  # bit-reflected
_MASK_DELTA = 0xA282EAD8
_ALL = 0xFFFFFFFF


def masked_crc32c(data: bytes | memoryview, crc: int = 0) -> int:
    """Returns `crc32c` in the masked form, which records hold; ``crc`` is not masked."""
    return mask(crc32c(data, crc))


def mask(crc: int) -> int:
    """Returns a CRC32C in the masked form: rotated right by 15 bits, plus a constant."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & _ALL


def crc32c(data: bytes | memoryview, crc: int = 0) -> int:
    """Returns the CRC32C of a buffer, continuing from the CRC32C of what precedes it."""
    if extension.scan is not None:
        return int(extension.scan.crc32c(data, crc))
    if extension.google_crc32c is not None:  # which takes bytes alone
        return int(extension.google_crc32c.extend(crc, bytes(data)))
    state, table = crc ^ _ALL, _byte_list()
    for octet in memoryview(data):
        state = table[(state ^ octet) & 0xFF] ^ (state >> 8)
    return state ^ _ALL


def masked_crc32c_of_lengths(lengths: npt.NDArray[np.uint64]) -> _U32:
    """Returns the masked CRC32C of each length, as in a record's header, [n]."""
    states = np.full(lengths.shape, _ALL, np.uint32)
    table = _byte_table()
    for shift in range(0, 64, 8):
        octets = (lengths >> np.uint64(shift)).astype(np.uint32)
        states = table[(states ^ octets) & np.uint32(0xFF)] ^ (states >> np.uint32(8))
    crcs = states ^ np.uint32(_ALL)
    rotated: _U32 = (crcs >> np.uint32(15)) | (crcs << np.uint32(17))
    masked: _U32 = rotated + np.uint32(_MASK_DELTA)
    return masked


def length_of_masked_crc32c(masked: int) -> int:
    """Returns the only length below 2**32 whose header checksum is the given one.

    Over four bytes a CRC is a bijection, so the checksum gives the length even where
    the length field is damaged.
    """
    rotated = (masked - _MASK_DELTA) & _ALL
    state = (((rotated << 15) | (rotated >> 17)) & _ALL) ^ _ALL
    table = _byte_list()
    index_of_top = {entry >> 24: index for index, entry in enumerate(table)}
    for _ in range(8):  # undo four zero bytes, then the four of the length
        index = index_of_top[state >> 24]
        state = ((state ^ table[index]) << 8 & _ALL) | index
    return state ^ _ALL


@functools.cache
def _byte_table() -> _U32:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ (table & np.uint32(1)) * np.uint32(_POLYNOMIAL)
    return table


@functools.cache
def _byte_list() -> list[int]:
    return [int(entry) for entry in _byte_table()]
