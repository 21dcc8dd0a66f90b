"""Two groups of sessions: what is found, and what is not."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from deploy.site_statistics.compare import compare_sessions, smallest_p
from deploy.site_statistics.explain import in_words, to_record
from deploy.site_statistics.features import Feature, features_of
from deploy.site_statistics.session_file import Histogram, SessionStatistics, histogram_of

CLASSES = ("background", "polyp")
NAMES = ("brightness", "area of polyp", "age")


def sessions(
    count: int, *, seed: int, brightness: float = 120.0, area: float = 0.08, age: float = 20.0, samples: int = 60
) -> list[SessionStatistics]:
    """Sessions that differ from one another more than their frames do, as operations do."""
    rng = np.random.default_rng(seed)
    features = {one.name: one for one in features_of(CLASSES) if one.name in NAMES}
    made = []
    for number in range(count):
        own = rng.normal(size=3)
        frames = rng.normal(size=(samples, 3))
        values = {
            "brightness": brightness + 12 * own[0] + 6 * frames[:, 0],
            "area of polyp": area * np.exp(0.4 * own[1] + 0.3 * frames[:, 1]),
            "age": age * np.exp(0.1 * own[2] + 0.1 * frames[:, 2]),
        }
        histograms = {name: histogram_of(one) for name, one in features.items()}
        for name, row in values.items():
            for value in row:
                histograms[name].counts[features[name].bin_of(value)] += 1
        made.append(SessionStatistics(f"{seed}-{number}", f"2026-11-{number % 28 + 1:02}", "d", "m", "c", 30.0, samples,
                                      histograms))  # fmt: skip
    return made


def test_nothing_is_found_in_twenty_repetitions_without_a_change() -> None:
    found = [compare_sessions(sessions(8, seed=s), sessions(8, seed=100 + s), draws=1999).changed for s in range(20)]
    assert not any(found)


@pytest.mark.parametrize(
    ("change", "name", "advice"),
    [
        ({"brightness": 80.0}, "brightness", "the pictures changed"),
        ({"area": 0.25}, "area of polyp", "the masks changed while the pictures did not"),
        ({"age": 40.0}, "age", "the machine changed"),
    ],
)
def test_a_planted_change_is_found_alone_and_named(change: dict[str, float], name: str, advice: str) -> None:
    comparison = compare_sessions(sessions(8, seed=1), sessions(8, seed=2, **change), draws=1999)  # type: ignore[arg-type]
    assert [one.name for one in comparison.changed] == [name]
    words = in_words(comparison, ("a", "b"))
    assert words[0].startswith(f"{name} {'fell' if name == 'brightness' else 'rose'} from ")
    assert len(words) == 2 and words[1].startswith(advice)


def test_a_thousand_frames_of_one_different_operation_are_no_change() -> None:
    """Frames are no independent evidence: one session that differs is one of eight."""
    after = [*sessions(7, seed=2), *sessions(1, seed=3, brightness=40.0, samples=1000)]
    assert not compare_sessions(sessions(8, seed=1), after, draws=1999).changed


def test_too_few_sessions_are_reported_with_the_number_that_is_enough() -> None:
    comparison = compare_sessions(sessions(4, seed=1), sessions(4, seed=2, brightness=20.0))
    assert not comparison.changed
    assert comparison.reason == "4 and 4 sessions are too few for alpha 0.01; 5 in each group are enough"
    assert in_words(comparison, ("a", "b")) == [f"not tested: {comparison.reason}"]
    assert smallest_p((5, 5)) == pytest.approx(2 / 252) and smallest_p((5, 6)) == pytest.approx(1 / 462)


def test_short_sessions_are_left_out() -> None:
    comparison = compare_sessions([*sessions(5, seed=1), *sessions(2, seed=4, samples=19)], sessions(5, seed=2))
    assert comparison.sessions == (5, 5) and comparison.too_short == (2, 0)


def _of(counts: list[int]) -> SessionStatistics:
    feature = Feature("x", "picture", "", (1.0, 2.0))
    histogram = Histogram(feature.edges, np.array(counts), feature.about, feature.unit)
    return SessionStatistics("", "", "", "", "", 0.0, sum(counts), {"x": histogram})


def test_distance_and_p_are_those_computed_by_hand() -> None:
    """KS of the means over sessions, whatever their lengths; p by all 24 orders of four sessions."""
    group = [_of([20, 0, 0]), _of([0, 30, 10]), _of([0, 0, 50]), _of([10, 0, 10])]
    shares = [one.histograms["x"].counts / one.histograms["x"].total for one in group]

    def distance(order: tuple[int, ...]) -> float:
        a, b = (np.cumsum((shares[i] + shares[j]) / 2) for i, j in (order[:2], order[2:]))
        return float(np.abs(a - b).max())

    row = compare_sessions(group[:2], group[2:], draws=4000).features[0]
    true = distance((0, 1, 2, 3))
    exact = np.mean([distance(order) >= true - 1e-9 for order in permutations(range(4))])
    assert row.ks == pytest.approx(true)
    assert row.p == pytest.approx(exact, abs=0.03)  # 4,000 draws


def test_p_is_adjusted_for_the_number_of_features() -> None:
    """Eight features that are noise: the smallest p without adjustment would raise an alarm far more often."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(40):
        group = []
        for _ in range(12):
            histograms = {
                f"x{k}": Histogram((1.0, 2.0, 3.0), rng.multinomial(40, rng.dirichlet(np.ones(4))), "picture", "")
                for k in range(8)
            }
            group.append(SessionStatistics("", "", "", "", "", 0.0, 40, histograms))
        alarms += bool(compare_sessions(group[:6], group[6:], alpha=0.1, draws=499).changed)
    assert alarms <= 9  # 4 expected; without adjustment 1 - 0.9^8, 23 of 40


def test_other_bins_are_refused() -> None:
    other = SessionStatistics("", "", "", "", "", 0.0, 40, {"x": Histogram((1.0, 3.0), np.array([9, 9, 9]), "", "")})
    with pytest.raises(ValueError, match="x: counted in different bins; compare sessions of one version"):
        compare_sessions([_of([20, 5, 5])], [other])


def test_groups_with_other_models_are_noted() -> None:
    from dataclasses import replace

    after = [replace(one, card="other") for one in sessions(5, seed=2)]
    notes = compare_sessions(sessions(5, seed=1), after).notes
    assert notes == ("the groups ran different models: a change of masks or of the age may be the model's",)


def test_the_record_has_both_distributions() -> None:
    record = to_record(compare_sessions(sessions(5, seed=1), sessions(5, seed=2), draws=199), ("a", "b"))
    first = record["features"][0]
    assert len(first["shares"]) == 2 and len(first["shares"][0]) == len(first["edges"]) + 1
    assert sum(first["shares"][0]) == pytest.approx(1, abs=1e-3)
