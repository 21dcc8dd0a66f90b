"""Two bench records: a ratio with an interval that knows how little was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from deploy.benchmark.compare import compare, comparison_table, read_record, verdict


def record(
    *, ms: float, blocks: int = 30, size: int = 40, seed: int = 0, spread: float = 0.02, calibrator: float = 1.0
):
    """Calls of a block share the block's own speed: a machine that wanders by `spread`."""
    draw = np.random.default_rng(seed)
    times = [ms * (1 + spread * draw.normal()) * (1 + 0.01 * draw.normal(size=size)) for _ in range(blocks)]
    raw = [round(float(v) * 1e6) for block in times for v in block]
    return {
        "machine": {"cpu": "x"},
        "calibrator": {"p50_ms": calibrator},
        "foreign_cores": 0.0,
        "calls": [{"name": "a", "raw_ns": raw, "raw_rounds": [size] * blocks}],
    }


def test_a_model_twice_as_slow_is_found_with_an_interval_around_two() -> None:
    row = compare(record(ms=1), record(ms=2, seed=1))["calls"][0]
    assert row["verdict"] == "slower"
    for key in ("p50", "p90", "p99"):
        assert row[key]["low"] <= row[key]["ratio"] <= row[key]["high"]
        assert row[key]["low"] > 1.9 and row[key]["high"] < 2.1
    assert row["p50"]["after_ms"] == pytest.approx(2, rel=0.02)


def test_the_other_way_round_it_is_faster_by_the_inverse() -> None:
    there = compare(record(ms=1), record(ms=2, seed=1))["calls"][0]["p50"]["ratio"]
    back = compare(record(ms=2, seed=1), record(ms=1))["calls"][0]
    assert back["verdict"] == "faster"
    assert back["p50"]["ratio"] == pytest.approx(1 / there, rel=1e-3)


def test_the_interval_covers_one_about_as_often_as_it_says_for_the_same_model() -> None:
    hits = 0
    for seed in range(60):
        row = compare(record(ms=1, seed=2 * seed), record(ms=1, seed=2 * seed + 1), draws=300)["calls"][0]["p50"]
        hits += row["low"] <= 1 <= row["high"]
    assert hits >= 50


def test_blocks_are_drawn_and_not_calls() -> None:
    """Four blocks of a wandering machine say little, however many calls they hold."""
    few = compare(record(ms=1, blocks=4, size=500, spread=0.2), record(ms=1, blocks=4, size=500, spread=0.2, seed=1))
    many = compare(record(ms=1, blocks=200, size=10, spread=0.2), record(ms=1, blocks=200, size=10, spread=0.2, seed=1))
    width = [found["calls"][0]["p50"]["high"] - found["calls"][0]["p50"]["low"] for found in (few, many)]
    assert width[0] > 2 * width[1]
    assert any("too few blocks" in note and "a" in note for note in few["notes"])
    assert not many["notes"]


@pytest.mark.parametrize(
    ("low", "high", "noise", "says"),
    [
        (1.1, 1.3, 1.0, "slower"),
        (0.5, 0.8, 1.0, "faster"),
        (0.9, 1.1, 1.0, "no difference seen"),
        (1.1, 1.3, 1.2, "no more than the machine moved"),
        (0.5, 0.8, 0.6, "no more than the machine moved"),
        (1.1, 1.3, 0.7, "slower"),
    ],
)
def test_a_verdict_leaves_one_and_the_machines_own_change_behind(low, high, noise, says) -> None:  # noqa: ANN001
    assert verdict(low, high, noise=noise) == says


def test_a_machine_that_moved_is_said() -> None:
    slow = {**record(ms=2, calibrator=2.0, seed=1), "machine": {"cpu": "y"}, "foreign_cores": 1.5}
    found = compare(record(ms=1), slow)
    assert found["calls"][0]["verdict"] == "no more than the machine moved"
    assert found["calibrator_ratio"] == 2
    assert found["machine"] == {"cpu": ["x", "y"]}
    assert len(found["notes"]) == 3
    assert all(f"note: {note}" in comparison_table(found) for note in found["notes"])


def test_what_only_one_record_has_is_named() -> None:
    more = record(ms=1)
    more["calls"].append({**more["calls"][0], "name": "b"})
    found = compare(record(ms=1), more)
    assert (found["only_before"], found["only_after"]) == ([], ["b"])
    with pytest.raises(ValueError, match="no call in common"):
        compare({**more, "calls": [{**more["calls"][0], "name": "c"}]}, record(ms=1))


def test_the_table_says_ratio_interval_and_verdict() -> None:
    row = comparison_table(compare(record(ms=1), record(ms=2, seed=1))).splitlines()[1]
    assert row.startswith("a ") and row.endswith("slower") and ".." in row


def test_a_comparison_is_json_and_repeats_itself() -> None:
    found = compare(record(ms=1), record(ms=2, seed=1))
    assert json.loads(json.dumps(found)) == compare(record(ms=1), record(ms=2, seed=1))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"calls": [{"name": "a"}]}', '{"calls": 3}'])
def test_what_is_no_record_is_refused_by_name(text: str, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="other.json"):
        read_record(file)
    with pytest.raises(ValueError, match="absent.json"):
        read_record(tmp_path / "absent.json")


def test_raw_times_that_do_not_fit_their_blocks_are_refused() -> None:
    broken = record(ms=1)
    broken["calls"][0]["raw_rounds"] = [3]
    with pytest.raises(ValueError, match="do not fit"):
        compare(broken, record(ms=1))
