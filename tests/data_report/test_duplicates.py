"""Hashes, pairs within a radius, and near copies."""

from __future__ import annotations

import numpy as np
import pytest

from edgemt.data_report.duplicates import correlation, groups_of, near_duplicates
from edgemt.io.image_hashes import dhash, hamming, near_pairs


def hashes_with_planted_pairs(count: int) -> np.ndarray:
    """Random hashes, a fifth of which differ from an earlier one in 0 to 9 bits."""
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 1 << 63, count, dtype=np.uint64)
    for i in range(0, count - 1, 5):
        flips = rng.choice(64, int(rng.integers(0, 10)), replace=False)
        hashes[i + 1] = np.bitwise_xor(hashes[i], np.uint64(sum(1 << int(b) for b in flips)))
    return hashes


@pytest.mark.parametrize("radius", [0, 3, 6, 7])
def test_near_pairs_are_those_of_comparing_all(radius: int) -> None:
    hashes = hashes_with_planted_pairs(300)
    i, j = np.triu_indices(len(hashes), 1)
    near = hamming(hashes[i], hashes[j]) <= radius
    assert near.any()
    assert np.array_equal(near_pairs(hashes, radius=radius), np.stack([i[near], j[near]], axis=1))


def test_near_pairs_of_few_hashes() -> None:
    assert near_pairs(np.array([], np.uint64)).shape == (0, 2)
    assert near_pairs(np.array([5], np.uint64)).shape == (0, 2)
    assert near_pairs(np.array([5, 5], np.uint64)).tolist() == [[0, 1]]


def test_near_pairs_refuse_a_radius_that_buckets_miss() -> None:
    with pytest.raises(ValueError, match="radius: 8 bits"):
        near_pairs(np.array([1, 2], np.uint64), radius=8)


def test_hamming_counts_bits() -> None:
    assert hamming(np.array([0b1011], np.uint64), np.array([0b0001], np.uint64)).tolist() == [2]


def test_dhash_has_one_bit_for_each_pair_of_neighbours() -> None:
    rising = np.tile(np.arange(9, dtype=np.uint8), (8, 1))
    assert dhash(rising) == (1 << 64) - 1
    assert dhash(rising[:, ::-1].copy()) == 0
    one = np.zeros((8, 9), np.uint8)
    one[7, 8] = 1
    assert dhash(one) == 1


def test_equal_hashes_of_different_pictures_are_no_near_copies() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 255, (1, 32, 32)).astype(np.uint8) for _ in range(2))
    same = np.array([7], np.uint64)
    assert near_duplicates([same, same], [a, b]) == []
    found = near_duplicates([same, same], [a, np.clip(a.astype(int) + 5, 0, 255).astype(np.uint8)])
    assert [row[:3] for row in found] == [(0, 1, 0)]


def test_all_slices_of_two_volumes_must_be_near() -> None:
    thumbs = np.random.default_rng(0).integers(0, 255, (3, 32, 32)).astype(np.uint8)
    a, b = np.array([1, 2, 3], np.uint64), np.array([1, 2, 1 << 40 | 0xFFFF], np.uint64)
    assert near_duplicates([a, a], [thumbs, thumbs])
    assert not near_duplicates([a, b], [thumbs, thumbs])
    assert not near_duplicates([a, a[:1]], [thumbs, thumbs[:1]])


def test_correlation_of_constant_thumbnails() -> None:
    flat = np.full((32, 32), 9, np.uint8)
    assert correlation(flat, flat) == 1.0
    assert correlation(flat, flat + 1) == 0.0


def test_groups_of_chained_pairs() -> None:
    assert groups_of([(1, 2), (5, 6), (2, 3)]) == [[1, 2, 3], [5, 6]]
