"""The choice on synthetic clusters: every cluster is covered, copies are never both chosen, patients are limited."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edgemt.selection.choose import Method, Rules, choose, distances, kmeans

CLUSTERS, EACH = 5, 12
METHODS: tuple[Method, ...] = ("typical", "k-centre")


def clusters(seed: int = 0) -> np.ndarray:
    """60 unit vectors in 5 tight groups of 12; rows 0 to 11 are the first group."""
    rng = np.random.default_rng(seed)
    centres = np.eye(8)[:CLUSTERS]
    rows = np.repeat(centres, EACH, axis=0) + 0.05 * rng.standard_normal((CLUSTERS * EACH, 8))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def free(count: int = CLUSTERS * EACH) -> Rules:
    return Rules([str(i) for i in range(count)])


@pytest.mark.parametrize("method", METHODS)
def test_every_cluster_is_covered(method: Method) -> None:
    found = choose(clusters(), labelled=(), budget=CLUSTERS, method=method, rules=free())
    assert sorted(i // EACH for i in found) == list(range(CLUSTERS))


@pytest.mark.parametrize("method", METHODS)
def test_clusters_with_a_labelled_image_come_last(method: Method) -> None:
    found = choose(clusters(), labelled=(0, EACH), budget=CLUSTERS - 2, method=method, rules=free())
    assert sorted(i // EACH for i in found) == [2, 3, 4]


@pytest.mark.parametrize("method", METHODS)
def test_choice_does_not_depend_on_chance(method: Method) -> None:
    first, second = (choose(clusters(), labelled=(3,), budget=9, method=method, rules=free()) for _ in range(2))
    assert first == second
    assert len(set(first)) == 9 and 3 not in first


@pytest.mark.parametrize("method", METHODS)
def test_copies_are_never_both_chosen(method: Method) -> None:
    group = set(range(EACH))
    rules = Rules([str(i) for i in range(60)], copies={i: group - {i} for i in group})
    found = choose(clusters(), labelled=(), budget=60, method=method, rules=rules)
    assert len(group & set(found)) == 1
    assert len(found) == 60 - EACH + 1
    assert not group & set(choose(clusters(), labelled=(4,), budget=60, method=method, rules=rules))


@pytest.mark.parametrize("method", METHODS)
def test_patients_are_limited_with_their_labelled_images(method: Method) -> None:
    patients = [str(i // 6) for i in range(60)]
    found = choose(clusters(), labelled=(0, 1), budget=60, method=method, rules=Rules(patients, per_patient=2))
    counts = Counter(patients[i] for i in found)
    assert counts == {str(p): 2 for p in range(1, 10)}


def test_typical_images_lie_inside_their_cluster() -> None:
    rows = clusters()
    found = choose(rows, labelled=(), budget=CLUSTERS, method="typical", rules=free())
    for i in found:
        own = rows[i // EACH * EACH : i // EACH * EACH + EACH]
        mean = distances(own, own).sum(1) / (EACH - 1)
        assert mean[i % EACH] <= np.median(mean)


def test_uncertain_images_come_first_but_spread() -> None:
    unsure = np.full(60, 0.1)
    unsure[:EACH] = 0.5
    unsure[EACH] = 0.4
    found = choose(clusters(), labelled=(59,), budget=2, method="uncertain", rules=free(), uncertainty=unsure)
    assert found[0] < EACH and found[1] == EACH
    with pytest.raises(ValueError, match="give --model RUN"):
        choose(clusters(), labelled=(), budget=2, method="uncertain", rules=free())


def test_kmeans_finds_tight_clusters() -> None:
    found = kmeans(clusters(), CLUSTERS).reshape(CLUSTERS, EACH)
    assert (found == found[:, :1]).all()
    assert len(set(found[:, 0].tolist())) == CLUSTERS


def test_budget_above_the_number_of_images_takes_all() -> None:
    found = choose(clusters()[:7], labelled=(2,), budget=50, method="typical", rules=free(7))
    assert sorted(found) == [0, 1, 3, 4, 5, 6]
