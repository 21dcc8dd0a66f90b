"""Choose images by their features, deterministically: typical ones, spread ones, or uncertain and spread ones.

typical     TypiClust (Hacohen et al., 2022, arXiv 2202.02794): as many k-means clusters as there are labelled and
            wanted images; from each of the largest clusters without a labelled image the one of the highest
            typicality, 1 / mean distance to its 20 nearest neighbours
k-centre    greedy k-centre (Sener and Savarese, 2018, arXiv 1708.00489): always the image farthest from all chosen ones
uncertain   the same with the distance times the uncertainty of a trained model

Shapes: n images, d features of length 1 in all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Method = Literal["typical", "k-centre", "uncertain"]
_NEIGHBOURS = 20
_ROUNDS = 50  # of k-means at most
_BLOCK = 2048  # rows of distances at a time


@dataclass
class Rules:
    """What may be chosen: no copy of a chosen image, at most `per_patient` of a patient (0: any number)."""

    patients: Sequence[str]
    per_patient: int = 0
    copies: dict[int, set[int]] = field(default_factory=dict)  # image -> images that show the same

    def allows(self, i: int, chosen: Sequence[int]) -> bool:
        """Whether image `i` may join the chosen ones."""
        if self.copies.get(i, set()) & set(chosen):
            return False
        return not self.per_patient or Counter(self.patients[j] for j in chosen)[self.patients[i]] < self.per_patient


def choose(
    features: np.ndarray,
    *,
    labelled: Sequence[int],
    budget: int,
    method: Method,
    rules: Rules,
    uncertainty: np.ndarray | None = None,
) -> list[int]:
    """Up to `budget` rows of float [n, d], in the order in which to label them; fewer where the rules allow no more.

    `labelled` rows are never chosen, and count as covered. Raises ValueError for `uncertain` without `uncertainty` [n].
    """
    if method == "uncertain" and uncertainty is None:
        raise ValueError("method: uncertain needs a trained model; give --model RUN")
    if method == "typical":
        return _typical(features, labelled=labelled, budget=budget, rules=rules)
    weight = uncertainty if method == "uncertain" else None
    return _spread(features, labelled=labelled, budget=budget, rules=rules, weight=weight)


def _spread(
    features: np.ndarray, *, labelled: Sequence[int], budget: int, rules: Rules, weight: np.ndarray | None
) -> list[int]:
    """Greedy k-centre; the first image without any labelled one is the nearest to the mean."""
    taken, chosen = list(labelled), list[int]()
    scale = np.ones(len(features)) if weight is None else np.maximum(weight, 0.0)
    nearest = distances(features, features[taken]).min(1) if taken else np.full(len(features), np.inf)
    barred = set(taken)
    while len(chosen) < budget and len(barred) < len(features):
        if not taken:
            score = scale if weight is not None else -distances(features, features.mean(0)[None])[:, 0]
        else:
            score = nearest * scale
        free = [i for i in np.argsort(-score, kind="stable").tolist() if i not in barred]
        best = next((i for i in free if rules.allows(i, taken)), None)
        if best is None:
            break
        chosen.append(best)
        taken.append(best)
        barred.add(best)
        nearest = np.minimum(nearest, distances(features, features[best][None])[:, 0])
    return chosen


def _typical(features: np.ndarray, *, labelled: Sequence[int], budget: int, rules: Rules) -> list[int]:
    taken, chosen = list(labelled), list[int]()
    typicality = _typicality(features)
    clusters = kmeans(features, min(len(labelled) + budget, len(features)))
    while len(chosen) < budget:
        has = Counter(clusters[i] for i in taken)
        sizes = Counter(clusters.tolist())
        best = None
        for cluster in sorted(sizes, key=lambda c: (has[c], -sizes[c], c)):
            rows = [i for i in np.flatnonzero(clusters == cluster).tolist() if i not in taken]
            rows.sort(key=lambda i: (-typicality[i], i))
            best = next((i for i in rows if rules.allows(i, taken)), None)
            if best is not None:
                break
        if best is None:
            break
        chosen.append(best)
        taken.append(best)
    return chosen


def _typicality(features: np.ndarray) -> np.ndarray:
    """[n]: 1 / mean distance to the nearest 20 others."""
    count = min(_NEIGHBOURS, len(features) - 1)
    if count < 1:
        return np.ones(len(features))
    means = []
    for start in range(0, len(features), _BLOCK):
        block = np.sort(distances(features[start : start + _BLOCK], features), axis=1)[:, 1 : count + 1]
        means.append(block.mean(1))
    return 1.0 / np.maximum(np.concatenate(means), 1e-9)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances [len(a), len(b)]."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2.0 * a @ b.T
    return np.sqrt(np.maximum(squared, 0.0))


def kmeans(features: np.ndarray, count: int) -> np.ndarray:
    """Int [n]: clusters by Lloyd's algorithm from farthest-first centres; no random numbers.

    Clusters that lose all images stay empty.
    """
    first = _spread(features, labelled=(), budget=count, rules=Rules([""] * len(features)), weight=None)
    centres = np.asarray(features[first], np.float64)
    clusters = np.full(len(features), -1)
    for _ in range(_ROUNDS):
        now = np.concatenate(
            [distances(features[k : k + _BLOCK], centres).argmin(1) for k in range(0, len(features), _BLOCK)]
        )
        if np.array_equal(now, clusters):
            break
        clusters = now
        for c in np.unique(clusters):
            centres[c] = features[clusters == c].mean(0)
    return clusters
