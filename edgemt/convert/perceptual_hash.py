"""Near-duplicates: a difference hash of 256 bits, and the frames of a clip that were chosen so far.

The picture is averaged to 16 x 17 blocks; a bit is 1 where a block is brighter than its left neighbour by more than
one grey value, so that the noise of flat areas and of compression gives no bits. Two pictures are near-duplicates when
few bits differ. (Difference hash: N. Krawetz, "Kind of Like That", 2013.)
"""

from __future__ import annotations

import numpy as np

ROWS, COLUMNS = 16, 17
_LEAST_STEP = 1.0  # grey values


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
