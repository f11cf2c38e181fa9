"""CRC32C (Castagnoli), the checksum of TFRecord framing: compiled, or in NumPy alone.

A CRC is linear over GF(2): the state after "zeros, then data" is the state after the data, and the
states of two neighbouring pieces combine by shifting the first one over the length of the second.
So NumPy cuts a long buffer into lanes of equal width, advances all of them together, two bytes a
step, and folds their states pairwise. Format: https://www.tensorflow.org/tutorials/load_data/tfrecord.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from tb_firstloss.reading.format import extension

_U32 = npt.NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78  # bit-reflected
_MASK_DELTA = 0xA282EAD8
_ALL = 0xFFFFFFFF
_LANES_FROM = 1024
"""Bytes from which NumPy's lanes beat a Python loop."""

_PIECE = 1 << 23
"""Bytes per pass, so that the lanes' temporaries stay small beside the buffer."""


def masked_crc32c(data: bytes | memoryview, crc: int = 0) -> int:
    """Returns the masked CRC32C of a buffer, as it stands in a record.

    Args:
        data: Any length.
        crc: Unmasked CRC32C of what precedes the buffer, to continue from.
    """
    return mask(crc32c(data, crc))


def mask(crc: int) -> int:
    """Returns a CRC32C in the masked form: rotated right by 15 bits, plus a constant."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & _ALL


def crc32c(data: bytes | memoryview, crc: int = 0) -> int:
    """Returns the CRC32C of a buffer, continuing from the CRC32C of what precedes it."""
    if extension.scan is not None:
        return int(extension.scan.crc32c(data, crc))
    state = crc ^ _ALL
    view = memoryview(data)
    if len(view) < _LANES_FROM:
        return _advance_bytes(state, view) ^ _ALL
    for start in range(0, len(view), _PIECE):
        state = _advance_lanes(state, view[start : start + _PIECE])
    return state ^ _ALL


def masked_crc32c_of_lengths(lengths: npt.NDArray[np.uint64]) -> _U32:
    """Returns the masked CRC32C of each length as a record's header spells it.

    Args:
        lengths: uint64 array [n].

    Returns:
        uint32 array [n].
    """
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

    Over four bytes a CRC is a bijection, so the checksum tells the length when its own field is
    damaged.
    """
    rotated = (masked - _MASK_DELTA) & _ALL
    state = (((rotated << 15) | (rotated >> 17)) & _ALL) ^ _ALL
    table = _byte_list()
    index_of_top = {entry >> 24: index for index, entry in enumerate(table)}
    for _ in range(8):  # undo four zero bytes, then the four of the length
        index = index_of_top[state >> 24]
        state = ((state ^ table[index]) << 8 & _ALL) | index
    return state ^ _ALL


def _advance_bytes(state: int, view: memoryview) -> int:
    table = _byte_list()
    for octet in view:
        state = table[(state ^ octet) & 0xFF] ^ (state >> 8)
    return state


def _advance_lanes(state: int, view: memoryview) -> int:
    if len(view) < _LANES_FROM:
        return _advance_bytes(state, view)
    # A lane's width is a power of two, about the square root of the length.
    log_width = max(5, (len(view).bit_length() - 1) // 2)
    width = 1 << log_width
    lanes = len(view) >> log_width
    rows = np.frombuffer(view[: lanes * width], "<u2").reshape(lanes, width // 2)
    columns: npt.NDArray[Any] = np.ascontiguousarray(rows.T)
    table = _pair_table()
    states = np.zeros(lanes, np.uint32)
    states[0] = state
    for column in columns:
        states = table[(states ^ column) & np.uint32(0xFFFF)] ^ (states >> np.uint32(16))
    folded = _fold(states, log_width)
    return _advance_bytes(folded, view[lanes * width :])


def _fold(states: _U32, log_width: int) -> int:
    """Returns the state after all lanes, given each lane's state and the lane's log2 width."""
    level = log_width
    while len(states) > 1:
        if len(states) % 2:  # zeros in front change nothing
            states = np.concatenate([np.zeros(1, np.uint32), states])
        states = _apply(_zero_bytes(level), states[0::2]) ^ states[1::2]
        level += 1
    return int(states[0])


def _apply(operator: _U32, states: _U32) -> _U32:
    """Returns a linear operator, given as the images of the 32 single bits, applied to states."""
    bits = states[:, np.newaxis] >> np.arange(32, dtype=np.uint32) & np.uint32(1)
    result: _U32 = np.bitwise_xor.reduce(bits * operator, axis=1)
    return result


@functools.cache
def _zero_bytes(level: int) -> _U32:
    """Returns the operator that advances a state over 2**level zero bytes."""
    if level == 0:
        bits = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))
        advanced: _U32 = _byte_table()[bits & np.uint32(0xFF)] ^ (bits >> np.uint32(8))
        return advanced
    half = _zero_bytes(level - 1)
    return _apply(half, half)


@functools.cache
def _byte_table() -> _U32:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ (table & np.uint32(1)) * np.uint32(_POLYNOMIAL)
    return table


@functools.cache
def _byte_list() -> list[int]:
    return [int(entry) for entry in _byte_table()]


@functools.cache
def _pair_table() -> _U32:
    """Returns the state after two bytes, by their little-endian value, from state zero."""
    pairs = np.arange(65536, dtype=np.uint32)
    table = _byte_table()
    for _ in range(2):
        pairs = table[pairs & np.uint32(0xFF)] ^ (pairs >> np.uint32(8))
    return pairs
