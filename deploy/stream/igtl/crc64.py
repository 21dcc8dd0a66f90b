"""CRC-64/ECMA-182 (not reflected, initial value 0), vectorised with numpy, for messages of several megabytes.

A message is a polynomial over GF(2); its CRC is that polynomial times x^64 modulo `POLYNOMIAL`. A 64-bit word at a
distance from the end of the message contributes the word times a fixed power of x. That product is a sum of table
look-ups, which numpy computes for thousands of words at once.
"""

from __future__ import annotations

import sys
from functools import lru_cache

import numpy as np

POLYNOMIAL = 0x42F0E1EBA9EA3693
_BLOCK = 4096  # words that are processed at once, a power of two


def crc64(data: bytes | bytearray | memoryview | np.ndarray) -> int:
    """The checksum of any contiguous bytes."""
    octets = np.frombuffer(data, np.uint8)
    words = -(-len(octets) // 8)
    if not words:
        return 0
    width = _BLOCK if words > _BLOCK else 1 << (words - 1).bit_length()
    rows = -(-words // width)
    padded = np.zeros(rows * width * 8, np.uint8)  # leading zeros do not change a CRC with initial value 0
    padded[len(padded) - len(octets) :] = octets
    message = padded.view(">u8").astype(np.uint64).reshape(rows, width)
    folded = message[0]
    for row in message[1:]:
        folded = _times(folded, _wide(width)) ^ row
    while len(folded) > 1:  # combine each word of even index with its right neighbour: the distance is the same for all
        folded = _times(folded[0::2], _narrow(width // len(folded))) ^ folded[1::2]
    return int(_times(folded, _narrow(1))[0])


def _times(values: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """uint64 [M] times the power of x that the tables encode: one look-up for each digit of a value."""
    digits = np.ascontiguousarray(values).view(np.uint8 if len(tables) == 8 else np.uint16).reshape(len(values), -1)
    out = tables[0].take(digits[:, 0])
    for table, digit in zip(tables[1:], digits.T[1:], strict=True):
        out ^= table.take(digit)
    return out


@lru_cache(maxsize=32)
def _narrow(words: int) -> np.ndarray:
    """Tables for digits of 8 bits."""
    return _tables(words, bits=8)


@lru_cache(maxsize=2)
def _wide(words: int) -> np.ndarray:
    """Tables for digits of 16 bits: half the look-ups, but 2 MB, so for the one frequent distance only."""
    return _tables(words, bits=16)


def _tables(words: int, *, bits: int) -> np.ndarray:
    """uint64 [64 / bits, 2 ** bits]: the product of each digit of a word with x^(64 words) modulo the polynomial."""
    power = _power(64 * words)
    columns = []
    for _ in range(64):
        columns.append(power)
        power = _double(power)
    tables = np.zeros((64 // bits, 1 << bits), np.uint64)
    for bit, column in enumerate(columns):
        table, index = tables[bit // bits], 1 << (bit % bits)
        table[index : 2 * index] = table[:index] ^ np.uint64(column)
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
    """`value` times x modulo the polynomial."""
    return ((value << 1) & 0xFFFFFFFFFFFFFFFF) ^ (POLYNOMIAL if value >> 63 else 0)
