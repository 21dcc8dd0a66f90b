"""Do two groups of sessions differ, and in what? A permutation test over whole sessions.

Frames of one operation are like each other, so a test over frames finds a difference between any two operations. The
unit here is the session: every session has the same weight, and under the hypothesis that nothing changed the sessions
can be exchanged between the groups.

    KS  = max_x |F_A(x) - F_B(x)|,  F the mean over sessions of their cumulative distributions
    PSI = sum_i (b_i - a_i) ln(b_i / a_i),  a_i, b_i the shares of ten bins with about a tenth of all values each

p of KS by permutation of the sessions; over all features at once by the smallest p of each permutation (Westfall and
Young 1993), so that the probability of one false alarm or more among all features is `alpha`. A feature has changed if
its adjusted p is below `alpha` and PSI is 0.1 or more, the usual limit below which a shift is of no importance.

Shapes: n sessions, b bins, P permutations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from deploy.site_statistics.session_file import Histogram, SessionStatistics

ALPHA = 0.01
PSI_CHANGED = 0.1
MIN_SAMPLES = 20  # of a session: ten seconds
DRAWS = 9999
_FLOOR = 1e-3  # share of an empty bin
_AT_ONCE = 1 << 21  # permutations times sessions in memory


@dataclass(frozen=True, eq=False)
class FeatureChange:
    """One feature of two groups. `shares`: the mean distributions [2, b]. `medians` are interpolated within bins."""

    name: str
    about: str
    unit: str
    edges: tuple[float, ...]
    sessions: tuple[int, int]
    medians: tuple[float, float]
    medians_by_session: tuple[tuple[tuple[str, float], ...], tuple[tuple[str, float], ...]]  # day and median of each
    shares: np.ndarray
    ks: float
    psi: float
    p: float
    changed: bool


@dataclass(frozen=True, eq=False)
class SiteComparison:
    """`sessions` that took part in each group and those `too_short`; `reason` why nothing can be tested, or empty."""

    features: tuple[FeatureChange, ...]
    sessions: tuple[int, int]
    too_short: tuple[int, int]
    alpha: float
    reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def changed(self) -> tuple[FeatureChange, ...]:
        return tuple(one for one in self.features if one.changed)


def compare_sessions(
    before: Sequence[SessionStatistics],
    after: Sequence[SessionStatistics],
    *,
    alpha: float = ALPHA,
    draws: int = DRAWS,
    seed: int = 0,
) -> SiteComparison:
    """Compare two groups of sessions. Raises ValueError if a feature was counted in other bins in one of them."""
    groups = [[one for one in group if one.samples >= MIN_SAMPLES] for group in (before, after)]
    sizes, short = (len(groups[0]), len(groups[1])), (len(before) - len(groups[0]), len(after) - len(groups[1]))
    sessions = [*groups[0], *groups[1]]
    reason = _too_few(sizes, alpha)
    names = [name for name in dict.fromkeys(n for one in sessions for n in one.histograms) if _in_both(groups, name)]
    tables = [_table(sessions, name) for name in names]
    labels = _permutations(sizes, draws=draws, seed=seed)
    ks = np.stack([_ks(table, labels) for table in tables]) if tables else np.zeros((0, len(labels)))
    adjusted = _adjusted_p(ks)
    rows = []
    for name, table, distance, p in zip(names, tables, ks, adjusted, strict=True):
        psi = _psi(table, labels[0])
        changed = not reason and bool(p <= alpha and psi >= PSI_CHANGED)
        rows.append(_row(name, sessions, table, labels[0], float(distance[0]), psi, float(p), changed))
    return SiteComparison(tuple(rows), sizes, short, alpha, reason, _notes(groups))


def smallest_p(sizes: tuple[int, int]) -> float:
    """The smallest p that a permutation test of groups of these sizes can give."""
    same = 2 if sizes[0] == sizes[1] else 1  # exchanging the two groups as a whole gives the same distance
    return same / comb(sum(sizes), sizes[0])


def _too_few(sizes: tuple[int, int], alpha: float) -> str:
    if min(sizes) and smallest_p(sizes) <= alpha:
        return ""
    needed = next(n for n in range(1, 100) if smallest_p((n, n)) <= alpha)
    return f"{sizes[0]} and {sizes[1]} sessions are too few for alpha {alpha:g}; {needed} in each group are enough"


def _in_both(groups: Sequence[Sequence[SessionStatistics]], name: str) -> bool:
    return all(any(name in one.histograms and one.histograms[name].total for one in group) for group in groups)


def _table(sessions: Sequence[SessionStatistics], name: str) -> np.ndarray:
    """Float [n, b]: the distribution of a feature in each session, NaN where it was not measured."""
    found: list[Histogram | None] = [one.histograms.get(name) for one in sessions]
    edges = {one.edges for one in found if one is not None}
    if len(edges) > 1:
        raise ValueError(f"{name}: counted in different bins; compare sessions of one version of edgemt")
    bins = len(next(iter(edges))) + 1
    empty = np.full(bins, np.nan)
    return np.stack([one.counts / one.total if one is not None and one.total else empty for one in found])


def _permutations(sizes: tuple[int, int], *, draws: int, seed: int) -> np.ndarray:
    """Bool [1 + P, n]: True for the first group; the first row is the true assignment."""
    rng, n = np.random.default_rng(seed), sum(sizes)
    true = np.arange(n) < sizes[0]
    drawn = np.argsort(rng.random((draws, n)), axis=1) < sizes[0]
    return np.concatenate([true[None], drawn])


def _mean_shares(table: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[P, b] of each group: the mean over its sessions that have the feature."""
    measured = np.isfinite(table[:, 0])
    values = np.nan_to_num(table)
    shares = []
    for group in (labels, ~labels):
        weights = (group & measured).astype(float)
        shares.append(weights @ values / np.maximum(weights.sum(1, keepdims=True), 1))
    return shares[0], shares[1]


def _ks(table: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[P]: the largest distance of the cumulative distributions."""
    parts = np.array_split(labels, max(1, labels.size // _AT_ONCE))
    shares = (_mean_shares(table, part) for part in parts)
    return np.concatenate([np.abs(np.cumsum(a, axis=1) - np.cumsum(b, axis=1)).max(1) for a, b in shares])


def _adjusted_p(ks: np.ndarray) -> np.ndarray:
    """[features, 1 + P], the true assignment first -> p of each feature, adjusted for their number."""
    if not len(ks):
        return np.zeros(0)
    rounded = np.round(ks, 9)  # equal distances are equal, whatever the order of summation
    order = np.sort(rounded, axis=1)
    n = ks.shape[1]
    at_least = n - np.stack([np.searchsorted(o, row, side="left") for o, row in zip(order, rounded, strict=True)])
    p = at_least / n
    smallest = p.min(0)
    adjusted: np.ndarray = (smallest[None] <= p[:, :1]).mean(1)
    return adjusted


def _psi(table: np.ndarray, labels: np.ndarray) -> float:
    a, b = (x[0] for x in _mean_shares(table, labels[None]))
    edges = np.searchsorted(np.cumsum((a + b) / 2), np.arange(1, 10) / 10)
    group = np.searchsorted(np.unique(edges), np.arange(len(a)), side="left")
    a, b = (np.maximum(np.bincount(group, x), _FLOOR) for x in (a, b))
    return float(((b - a) * np.log(b / a)).sum())


def _row(
    name: str, sessions: Sequence[SessionStatistics], table: np.ndarray, first: np.ndarray, ks: float, psi: float,
    p: float, changed: bool,
) -> FeatureChange:  # fmt: skip
    one = next(s.histograms[name] for s in sessions if name in s.histograms)
    shares = np.concatenate(_mean_shares(table, first[None]))
    measured = np.isfinite(table[:, 0])
    days = [
        tuple((s.day, _median(row, one.edges)) for s, row, g, m in zip(sessions, table, first, measured, strict=True)
              if m and g == group)
        for group in (True, False)
    ]  # fmt: skip
    medians = (_median(shares[0], one.edges), _median(shares[1], one.edges))
    counts = (len(days[0]), len(days[1]))
    return FeatureChange(
        name, one.about, one.unit, one.edges, counts, medians, (days[0], days[1]), shares, ks, psi, p, changed
    )


def _median(shares: np.ndarray, edges: Sequence[float]) -> float:
    """The median of a distribution, interpolated within its bin; of two bins the share of the upper one."""
    if len(edges) == 1:
        return float(shares[1])
    total = np.cumsum(shares)
    k = int(np.searchsorted(total, 0.5))
    if k == 0 or k >= len(edges):
        return float(edges[min(k, len(edges) - 1)]) if k else 0.0
    inside = (0.5 - total[k - 1]) / max(shares[k], 1e-12)
    return float(edges[k - 1] + inside * (edges[k] - edges[k - 1]))


def _notes(groups: Sequence[Sequence[SessionStatistics]]) -> tuple[str, ...]:
    notes = []
    for title, group in zip(("first", "second"), groups, strict=True):
        models = sorted({f"{one.model} ({one.card[:8]})" for one in group})
        if len(models) > 1:
            notes.append(f"the {title} group has several models: {', '.join(models)}")
    first, second = ({one.card for one in group} for group in groups)
    if first and second and first != second:
        notes.append("the groups ran different models: a change of masks or of the age may be the model's")
    return tuple(notes)
