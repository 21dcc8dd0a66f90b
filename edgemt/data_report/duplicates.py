"""Equal and nearly equal images: a 64-bit difference hash, buckets, and a comparison of thumbnails.

dHash compares neighbouring pixels of the image at 9 x 8 (N. Krawetz, "Kind of like that", 2013). Two hashes that differ
in at most 7 of 64 bits agree in at least one of their 8 bytes, so pairs within the radius are found in buckets by byte.

Shapes: n hashes, m pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

THUMB = 32  # pixels
RADIUS = 6  # of 64 bits; at most 7, or a pair could share no byte
ALIKE = 0.98  # words: ok
"""least correlation of two thumbnails that count as one image"""
_BITS = np.array([bin(value).count("1") for value in range(256)], np.uint8)
_BLOCK = 1 << 18  # pairs compared at a time


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


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of two thumbnails uint8 [..., 32, 32], over all their pixels; 1 for equal ones."""
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum() / norm) if norm else float(np.array_equal(a, b))


def near_duplicates(
    hashes: Sequence[np.ndarray], thumbs: Sequence[np.ndarray], *, radius: int = RADIUS
) -> list[tuple[int, int, int, float]]:
    """(i, j, largest Hamming distance, correlation) of files that look like one image.

    A file has one hash, or several of a volume: all must lie within the radius, and the thumbnails must correlate.
    """
    if len(hashes) < 2:
        return []
    pairs = near_pairs(np.array([h[len(h) // 2] for h in hashes], np.uint64), radius=radius)
    found = []
    for i, j in pairs.tolist():
        if len(hashes[i]) != len(hashes[j]):
            continue
        bits = int(hamming(hashes[i], hashes[j]).max())
        if bits <= radius and (r := correlation(thumbs[i], thumbs[j])) >= ALIKE:
            found.append((i, j, bits, r))
    return found


def groups_of(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Connected groups of the pairs, each sorted, the largest first."""
    parent: dict[int, int] = {}

    def root(x: int) -> int:
        parent.setdefault(x, x)
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    for i, j in pairs:
        a, b = sorted((root(i), root(j)))
        parent[b] = a
    groups: dict[int, list[int]] = {}
    for x in sorted(parent):
        groups.setdefault(root(x), []).append(x)
    return sorted(groups.values(), key=lambda g: (-len(g), g))
