"""Difference hashes of pictures, by which near-duplicates are found (N. Krawetz, "Kind of Like That", 2013).

256 bits, of video frames: the picture is averaged to 16 x 17 blocks; a bit is 1 where a block is brighter than its left
neighbour by more than one grey value, so that the noise of flat areas and of compression gives no bits.

64 bits, of files: neighbouring pixels of the picture at 9 x 8. Two hashes that differ in at most 7 bits agree in at
least one of their 8 bytes, so pairs within the radius are found in buckets by byte.

Shapes: H W size of a picture, n hashes, m pairs.
"""

from __future__ import annotations

import numpy as np

ROWS, COLUMNS = 16, 17
_LEAST_STEP = 1.0  # grey values
RADIUS = 6  # of 64 bits; at most 7, or a pair could share no byte
_BITS = np.array([bin(value).count("1") for value in range(256)], np.uint8)
_BLOCK = 1 << 18  # pairs compared at a time


def difference_hash(grey: np.ndarray) -> np.ndarray:
    """uint8 [32] of a grey picture [H, W] of any size."""
    blocks = block_means(grey, ROWS, COLUMNS)
    return np.packbits((blocks[:, 1:] - blocks[:, :-1] > _LEAST_STEP).reshape(-1))


def block_means(grey: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """float32 [rows, columns] of means over blocks of equal size; a picture smaller than that is repeated."""
    height, width = grey.shape
    if height < rows or width < columns:
        grey = np.repeat(np.repeat(grey, -(-rows // height), 0), -(-columns // width), 1)
        height, width = grey.shape
    top = (np.arange(rows) * height) // rows
    left = (np.arange(columns) * width) // columns
    sums = np.add.reduceat(np.add.reduceat(grey, top, axis=0, dtype=np.float32), left, axis=1)
    sides = np.diff(np.append(top, height))[:, None] * np.diff(np.append(left, width))[None]
    return sums / sides


class SeenHashes:
    """The hashes of the frames that were chosen of one clip."""

    def __init__(self, *, tolerance: int) -> None:
        """tolerance: so many of 256 bits may differ in a near-duplicate; negative: none is one."""
        self.tolerance = tolerance
        self._hashes = np.zeros((0, ROWS * (COLUMNS - 1) // 8), np.uint8)

    def holds_like(self, hash_: np.ndarray) -> bool:
        """Whether a frame that was chosen before is nearly the same."""
        if self.tolerance < 0 or not len(self._hashes):
            return False
        differing = np.unpackbits(self._hashes ^ hash_, axis=1).sum(axis=1)
        return bool(differing.min() <= self.tolerance)

    def add(self, hash_: np.ndarray) -> None:
        self._hashes = np.concatenate([self._hashes, hash_[None]])


def dhash(small: np.ndarray) -> int:
    """uint8 [8, 9] -> 64 bits: whether each pixel is brighter than the one to its left."""
    bits = small[:, 1:] > small[:, :-1]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def hamming(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Number of bits in which uint64 [m] and [m] differ."""
    return _BITS[np.bitwise_xor(a, b).view(np.uint8)].reshape(-1, 8).sum(1)


def near_pairs(hashes: np.ndarray, *, radius: int = RADIUS) -> np.ndarray:
    """uint64 [n] -> int64 [m, 2], every pair i < j of hashes that differ in at most `radius` bits, sorted.

    Raises ValueError for a radius above 7, which buckets by byte do not find.
    """
    if not 0 <= radius <= 7:
        raise ValueError(f"radius: {radius} bits; buckets by byte find pairs of at most 7")
    found = [np.empty((0, 2), np.int64)]
    for column in np.ascontiguousarray(hashes, np.uint64)[:, None].view(np.uint8).T:
        order = np.argsort(column, kind="stable")
        starts = np.flatnonzero(np.diff(column[order], prepend=-1 - int(column[order[0]]) if len(order) else 0))
        for rows in np.split(order, starts[1:]):
            found += _within(hashes, np.sort(rows), radius)
    return np.unique(np.concatenate(found), axis=0)


def _within(hashes: np.ndarray, rows: np.ndarray, radius: int) -> list[np.ndarray]:
    """Pairs within the radius among `rows`, in blocks."""
    found, step = [], max(1, _BLOCK // max(1, len(rows)))
    for start in range(0, len(rows) - 1, step):
        first = rows[start : start + step]
        i, j = np.meshgrid(first, rows, indexing="ij")
        keep = j > i
        i, j = i[keep], j[keep]
        near = hamming(hashes[i], hashes[j]) <= radius
        found.append(np.stack([i[near], j[near]], axis=1))
    return found
