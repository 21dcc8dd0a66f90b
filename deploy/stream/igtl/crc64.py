"""The CRC-64 of OpenIGTLink: polynomial of ECMA-182, not reflected, beginning at 0, fast without a compiled library.

A message is a polynomial over GF(2); its CRC is that polynomial times x^64 modulo `POLYNOMIAL`. Words far from the end
are brought nearer by multiplying with a fixed power of x, which is a table look-up, so numpy does thousands at once.
"""

from __future__ import annotations

import sys
from functools import lru_cache

import numpy as np

POLYNOMIAL = 0x42F0E1EBA9EA3693
_BLOCK = 4096  # words that are folded at once, a power of two


def crc64(data: bytes | bytearray | memoryview | np.ndarray) -> int:
    """Of any contiguous bytes."""
    octets = np.frombuffer(data, np.uint8)
    words = -(-len(octets) // 8)
    if not words:
        return 0
    width = _BLOCK if words > _BLOCK else 1 << (words - 1).bit_length()
    rows = -(-words // width)
    padded = np.zeros(rows * width * 8, np.uint8)  # zeros in front do not change a CRC that begins at 0
    padded[len(padded) - len(octets) :] = octets
    message = padded.view(">u8").astype(np.uint64).reshape(rows, width)
    held = message[0]
    for row in message[1:]:
        held = _times(held, _wide(width)) ^ row
    while len(held) > 1:  # each word at an even place is as far from its neighbour as all the others are from theirs
        held = _times(held[0::2], _narrow(width // len(held))) ^ held[1::2]
    return int(_times(held, _narrow(1))[0])


def _times(values: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """uint64 [M] times the power of x that the tables stand for: one look-up for each of their digits."""
    digits = np.ascontiguousarray(values).view(np.uint8 if len(tables) == 8 else np.uint16).reshape(len(values), -1)
    out = tables[0].take(digits[:, 0])
    for table, digit in zip(tables[1:], digits.T[1:], strict=True):
        out ^= table.take(digit)
    return out


@lru_cache(maxsize=32)
def _narrow(words: int) -> np.ndarray:
    return _tables(words, bits=8)


@lru_cache(maxsize=2)
def _wide(words: int) -> np.ndarray:
    """Half the look-ups of the narrow ones; 2 MB, so for the one long way alone."""
    return _tables(words, bits=16)


def _tables(words: int, *, bits: int) -> np.ndarray:
    """uint64 [64 / bits, 2 ** bits]: what each digit of a word becomes when x^(64 words) multiplies it."""
    power = _power(64 * words)
    columns = []
    for _ in range(64):
        columns.append(power)
        power = _double(power)
    tables = np.zeros((64 // bits, 1 << bits), np.uint64)
    for bit, column in enumerate(columns):
        table, place = tables[bit // bits], 1 << (bit % bits)
        table[place : 2 * place] = table[:place] ^ np.uint64(column)
    return tables if sys.byteorder == "little" else tables[::-1]


def _power(exponent: int) -> int:
    """x^exponent modulo the polynomial."""
    result, base = 1, 2
    while exponent:
        if exponent & 1:
            result = _product(result, base)
        base, exponent = _product(base, base), exponent >> 1
    return result


def _product(a: int, b: int) -> int:
    out = 0
    while b:
        out ^= a if b & 1 else 0
        a, b = _double(a), b >> 1
    return out


def _double(value: int) -> int:
    """Times x: the bit that falls out at the top comes back as the polynomial."""
    return ((value << 1) & 0xFFFFFFFFFFFFFFFF) ^ (POLYNOMIAL if value >> 63 else 0)
