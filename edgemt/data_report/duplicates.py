"""Equal and nearly equal images: pairs by their 64-bit hash (`edgemt.io.image_hashes`), then by their thumbnails."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgemt.io.image_hashes import RADIUS, hamming, near_pairs

THUMB = 32  # pixels
ALIKE = 0.98  # words: ok
"""least correlation of two thumbnails that count as one image"""


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
