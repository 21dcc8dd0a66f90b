from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tiny_package import frame, make_ship  # noqa: E402

from deploy.benchmark import bench as bench_module  # noqa: E402
from deploy.benchmark.bench import BenchOptions, bench, measure, notes, paced, table, without_raw  # noqa: E402
from deploy.benchmark.cold_start import cold_start  # noqa: E402
from deploy.benchmark.package_bench import bench_package  # noqa: E402
from deploy.hardware.machine import CpuLoad, describe, memory  # noqa: E402
from deploy.measurement import timing  # noqa: E402
from deploy.measurement.percentiles import median, ratio, summary  # noqa: E402
from edgemt.model_card import FileMetrics  # noqa: E402

QUICK = BenchOptions(
    warmup=3, iterations=20, seconds=0.2, rounds=3, block_ms=4, paced_hz=200, second_hz=0, paced_seconds=0.1,
    stage_calls=5, streams_seconds=0.02, energy_seconds=0, cold=False,
)  # fmt: skip
FRAMES = [frame(seed) for seed in range(3)]
MS = 1_000_000


class Clock:
    """Time that passes only when somebody works or sleeps."""

    def __init__(self) -> None:
        self.ns = 0

    def perf_counter_ns(self) -> int:
        return self.ns

    def perf_counter(self) -> float:
        return self.ns / 1e9

    def sleep(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)

    def work(self, *durations_ms: float):  # noqa: ANN201
        """A call that takes these times in turn, then the last one for ever."""
        left = list(durations_ms)

        def call(_: np.ndarray) -> None:
            self.ns += round((left.pop(0) if len(left) > 1 else left[0]) * MS)

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


def test_percentiles_are_times_that_happened() -> None:
    result = summary([n * MS for n in range(1, 101)])
    assert (result["n"], result["p50_ms"], result["p90_ms"], result["p99_ms"], result["p99_9_ms"]) == (
        100,
        50,
        90,
        99,
        100,
    )
    assert (result["min_ms"], result["max_ms"], result["mean_ms"], result["jitter_ms"]) == (1, 100, 50.5, 49)
    assert result["throughput_hz"] == pytest.approx(1000 / 50.5, abs=0.01)
    assert (result["p10_ms"], result["p95_ms"]) == (10, 95)
    assert (result["tail_ms"], result["flatness_ms"]) == (100 - 95, 90 - 10)


def test_one_slow_call_is_never_trimmed_away() -> None:
    assert summary([MS] * 999 + [500 * MS])["max_ms"] == 500


@pytest.mark.parametrize(
    ("n", "anecdotal"),
    [(50, ["p90", "p99", "p99_9"]), (999, ["p99", "p99_9"]), (1000, ["p99_9"]), (10_000, [])],
)
def test_percentile_flagged_below_ten_tail_samples(n: int, anecdotal: list[str]) -> None:
    assert summary([MS] * n)["anecdotal"] == anecdotal


def test_the_interval_of_a_tail_is_open_when_n_is_small() -> None:
    few, many = summary(list(range(1, 101))), summary(list(range(1, 100_001)))
    assert few["ci_ms"]["p99"][1] is None
    assert None not in many["ci_ms"]["p99"]


def test_the_interval_covers_the_true_percentile_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = summary([round(v) for v in draw.uniform(0, 1e9, 300)])["ci_ms"]["p90"]
        hits += low <= 900 <= high
    assert 180 <= hits <= 200


def test_summary_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="times"):
        summary([])


def test_a_ratio_is_taken_round_by_round() -> None:
    assert ratio([2, 20, 200], [1, 10, 100])["median"] == 2
    assert ratio([1, 3], [1, 1])["median"] == 2
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == 2.5


def test_the_warm_up_is_thrown_away(clock: Clock) -> None:
    options = BenchOptions(warmup=5, iterations=30, rounds=1, settle=0, block_ms=10, paced_hz=0)
    entry = bench({"call": clock.work(*[100] * 5, 1)}, FRAMES, options)["calls"][0]
    assert entry["warmup"] == 5
    assert entry["max_ms"] == 1
    assert entry["n"] == len(entry["raw_ns"]) >= 30
    assert sum(entry["raw_rounds"]) == entry["n"]


def test_a_slow_call_in_the_middle_is_kept(clock: Clock) -> None:
    options = BenchOptions(warmup=3, iterations=30, rounds=1, settle=0, block_ms=10, paced_hz=0)
    assert bench({"call": clock.work(*[1] * 10, 77, 1)}, FRAMES, options)["calls"][0]["max_ms"] == 77


def test_runtimes_take_turns_and_the_ratio_is_to_the_first(clock: Clock) -> None:
    order: list[str] = []

    def named(name: str, ms: float):  # noqa: ANN202
        inner = clock.work(ms)

        def call(x: np.ndarray) -> None:
            order.append(name)
            inner(x)

        return call

    options = BenchOptions(warmup=0, iterations=40, rounds=4, settle=1, block_ms=10, paced_hz=0)
    record = bench({"a": named("a", 1), "b": named("b", 3)}, FRAMES, options)
    changes = sum(x != y for x, y in zip(order, order[1:], strict=False))
    assert changes >= 6
    a, b = record["calls"]
    assert (a["ratio"]["median"], b["ratio"]["median"], b["ratio"]["to"]) == (1, 3, "a")
    assert (a["p50_ms"], b["p50_ms"]) == (1, 3)


def test_a_slow_call_stops_at_its_seconds_and_says_its_n(clock: Clock) -> None:
    options = BenchOptions(warmup=3, warmup_seconds=0, iterations=1000, seconds=2, rounds=3, block_ms=100, paced_hz=0)
    record = bench({"fast": clock.work(1), "slow": clock.work(400)}, FRAMES, options)
    fast, slow = record["calls"]
    assert fast["n"] >= 1000
    assert slow["n"] < 20
    assert "p99" in slow["anecdotal"]
    assert any(f"slow n = {slow['n']}" in note for note in record["notes"])
    assert "~400.00" in table(record)


def test_every_frame_is_fed_in_its_turn() -> None:
    seen: list[int] = []
    bench({"call": lambda x: seen.append(int(x.sum()))}, FRAMES, QUICK)
    assert len(set(seen)) == 3
    assert all(a != b for a, b in zip(seen[:9], seen[1:10], strict=True))


def test_a_camera_does_not_wait_for_a_quick_call(clock: Clock) -> None:
    result = paced(clock.work(4), [FRAMES[0][None]], hz=100, seconds=0.1)
    assert (result["offered"], result["masks"], result["dropped"], result["misses"]) == (10, 10, 0, 0)
    assert result["age"]["max_ms"] == pytest.approx(4, abs=0.01)


def test_a_stall_makes_frames_old_and_drops_the_ones_behind_it(clock: Clock) -> None:
    result = paced(clock.work(1, 1, 35, 1), [FRAMES[0][None]], hz=100, seconds=0.1)
    # frame 2 is ready at 55 ms: 3 and 4 are gone, 5 has just come
    assert (result["masks"], result["dropped"]) == (8, 2)
    assert result["misses"] == 3
    assert result["age"]["max_ms"] == pytest.approx(35, abs=0.01)


def test_paced_bench_drops_stale_frames(clock: Clock) -> None:
    result = paced(clock.work(25), [FRAMES[0][None]], hz=100, seconds=1)
    assert result["masks"] + result["dropped"] == result["offered"] == 100
    assert result["miss_rate"] == 1
    assert result["age"]["max_ms"] < 36


def test_a_record_is_json_with_the_documented_keys() -> None:
    record = bench({"noop": lambda x: x}, FRAMES, QUICK)
    again = json.loads(json.dumps(record))
    guide = (Path(bench_module.__file__).parents[1] / "README.md").read_text()
    for key in again:
        assert f"`{key}`" in guide, key
    for key in again["calls"][0]:
        assert f"`{key}`" in guide, key
    assert again["frames"]["shape"] == [1, 32, 40, 3]


def test_measure_is_one_entry_of_a_record() -> None:
    assert measure(lambda x: x, FRAMES, QUICK)["n"] >= 20


def test_a_second_camera_clock_is_measured_unless_it_is_the_first(clock: Clock) -> None:
    quick = {"warmup": 0, "rounds": 1, "settle": 0, "iterations": 1, "paced_seconds": 0.1}
    both = bench({"a": clock.work(5)}, FRAMES, BenchOptions(paced_hz=100, second_hz=250, **quick))["calls"][0]
    assert (both["paced"]["misses"], both["paced_second"]["hz"]) == (0, 250)
    assert both["paced_second"]["miss_rate"] > 0.4
    one = bench({"a": clock.work(5)}, FRAMES, BenchOptions(paced_hz=100, second_hz=100, **quick))["calls"][0]
    assert one["paced_second"] is None


def test_a_budget_is_kept_by_the_quickest_call_or_missed_in_words(clock: Clock) -> None:
    def judged(ms: float) -> Any:
        quick = BenchOptions(warmup=0, rounds=1, settle=0, iterations=1100, seconds=99, paced_hz=0, budget_ms=ms)
        return bench({"a": clock.work(10), "b": clock.work(20)}, FRAMES, quick)["budget"]

    stored, missed = judged(15), judged(5)
    assert (stored["passed"], stored["within"], missed["passed"], missed["within"]) == (True, ["a"], False, [])
    assert str(stored["said"]).startswith("fast enough: a has p99 10.00 ms (n = ")
    assert str(missed["said"]).startswith("too slow: a has p99 10.00 ms") and "INT8" in str(missed["said"])
    assert judged(0) is None


def test_a_record_without_its_single_times_is_small_and_whole() -> None:
    record = bench({"noop": lambda x: x}, FRAMES, QUICK)
    lean = without_raw(record)
    assert "raw_ns" not in lean["calls"][0] and "raw_age_ns" not in lean["calls"][0]["paced"]
    assert "timeline" not in lean["watch"] and lean["calls"][0]["p50_ms"] == record["calls"][0]["p50_ms"]
    assert record["calls"][0]["raw_ns"]


def test_a_soak_goes_on_with_the_quickest_call() -> None:
    options = replace(QUICK, soak_minutes=0.001, soak_interval_s=0.1, paced_hz=0)
    record = bench({"slow": lambda x: time.sleep(0.003), "quick": lambda x: x}, FRAMES, options)
    assert record["soak"]["call"] == "quick"
    assert record["soak"]["n"] == sum(point["n"] for point in record["soak"]["timeline"])
    json.dumps(record)


def test_what_a_command_line_asks_for_replaces_only_that() -> None:
    requested = QUICK.with_overrides(seconds=3, streams=(4,), budget_ms=33)
    assert (requested.seconds, requested.streams, requested.budget_ms) == (3, (4,), 33)
    assert replace(requested, seconds=QUICK.seconds, streams=QUICK.streams, budget_ms=QUICK.budget_ms) == QUICK
    one = BenchOptions().with_overrides(hz=25)
    assert (one.paced_hz, one.second_hz) == (25, 0)
    assert BenchOptions().with_overrides(seconds=0.5).streams_seconds == 0.5
    assert BenchOptions().with_overrides(seconds=50).streams_seconds == BenchOptions().streams_seconds
    with pytest.raises(ValueError, match="bench.streams: must be 2 or more, not 1"):
        QUICK.with_overrides(streams=(1,))


def test_nothing_to_time_and_no_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing to time"):
        bench({}, FRAMES, QUICK)
    with pytest.raises(ValueError, match="no frames"):
        bench({"x": lambda x: x}, [], QUICK)
    with pytest.raises(ValueError, match="bench.iterations"):
        BenchOptions(iterations=0)
    with pytest.raises(ValueError, match="bench.seconds"):
        BenchOptions(seconds=-1)


def entry(name: str, precision: str, p50: float) -> dict[str, object]:
    return {
        "name": name, "runtime": "openvino", "precision": precision, "p50_ms": p50, "anecdotal": [],
        "ratio": {"median": p50},
    }  # fmt: skip


def test_int8_that_is_not_faster_is_said() -> None:
    quiet = {"foreign_cores": 0.0, "calibrator": {"p10_ms": 1.0, "p90_ms": 1.0}}
    slow = {**quiet, "calls": [entry("a", "int8", 3.0), entry("b", "bf16", 2.0)]}
    fast = {**quiet, "calls": [entry("a", "int8", 1.0), entry("b", "bf16", 2.0)]}
    assert notes(slow) == ["INT8 is not faster than bf16 with openvino here"]
    assert notes(fast) == []
    assert len(notes({**fast, "foreign_cores": 1.2, "calibrator": {"p10_ms": 1.0, "p90_ms": 2.0}})) == 2


def test_a_ship_is_timed_on_every_runtime_beside_a_plain_call(tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "ship", measured={"model.onnx": FileMetrics(dice=0.9, drop=0.0)}, macs=7)
    record = bench_package(
        ship.folder, runtimes=["onnxruntime"], calls={"plain": lambda x: x}, threads=1, options=QUICK
    )
    names = [made["name"] for made in record["calls"]]
    assert names[-1] == "plain"
    assert {"onnxruntime/f32", "onnxruntime/int8"} <= set(names)
    first = record["calls"][0]
    assert (first["dice"], first["file"], first["threads"]) == (0.9, "model.onnx", 1)
    assert first["size_bytes"] == (ship.folder / "model.onnx").stat().st_size
    assert record["ship"]["macs"] == 7
    assert record["host"]["fit_frame"]["n"] == 30
    assert first["paced"]["offered"] == 20
    guide = (Path(bench_module.__file__).parents[1] / "README.md").read_text()
    assert all(f"`{key}`" in guide for key in (*record, *first))
    assert "0.9000" in table(record)


def test_one_file_alone_is_timed_when_it_is_named(tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "ship")
    record = bench_package(ship, runtimes=["onnxruntime"], file="int8", threads=1, options=QUICK)
    assert [entry["file"] for entry in record["calls"]] == ["model.int8.onnx"]
    with pytest.raises(ValueError, match="int9"):
        bench_package(ship, runtimes=["onnxruntime"], file="int9", options=QUICK)


def test_a_runtime_tells_its_parts_and_serves_two_cameras(tmp_path: Path) -> None:
    entry = bench_package(make_ship(tmp_path / "ship"), runtimes=["onnxruntime"], file="fp32", options=QUICK)["calls"][
        0
    ]
    parts = entry["stages"]
    assert {name: parts[name]["n"] for name in ("copy_in", "infer", "copy_out", "whole")} == dict.fromkeys(
        ("copy_in", "infer", "copy_out", "whole"), 5
    )
    assert parts["whole"]["p50_ms"] >= parts["infer"]["p50_ms"] and parts["overhead"] >= 0
    (both,) = entry["streams"]
    assert both["streams"] == 2 and both["n"] >= 2 and both["throughput_hz"] > 0
    assert entry["sha256"] and entry["dice_from"] is None


def test_accuracy_is_the_cards_or_measured_with_the_very_file_that_was_timed(tmp_path: Path) -> None:
    measured = {"model.onnx": FileMetrics(dice=0.9, drop=0.0), "model.int8.onnx": FileMetrics(dice=0.8, drop=0.1)}
    ship = make_ship(tmp_path / "ship", measured=measured)
    requested: list[tuple[str, str, str | None]] = []

    def evaluate(runtime: str, file: str, precision: str | None) -> dict[str, float]:
        requested.append((runtime, file, precision))
        return {"dice": 0.7, "counted": 12}

    card, here = (
        bench_package(ship, runtimes=["onnxruntime"], options=QUICK, evaluate=given)["calls"]
        for given in (None, evaluate)
    )
    assert [(entry["dice"], entry["dice_from"]) for entry in card] == [(0.9, "card"), (0.8, "card")]
    assert {(entry["dice"], entry["dice_from"]) for entry in here} == {(0.7, "measured here, 12 cases")}
    assert requested == [("onnxruntime", "model.onnx", None), ("onnxruntime", "model.int8.onnx", None)]


def test_a_ship_without_golden_frames_needs_frames(tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "ship", golden=0)
    with pytest.raises(ValueError, match="no frames"):
        bench_package(ship, runtimes=["onnxruntime"], options=QUICK)
    assert bench_package(ship, runtimes=["onnxruntime"], frames=FRAMES, options=QUICK)["calls"]


def test_a_bench_of_an_unknown_runtime_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="openvino"):
        bench_package(make_ship(tmp_path / "ship"), runtimes=["opnvino"], options=QUICK)


def test_a_cold_start_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "ship")
    result = cold_start(ship.path("model.onnx"), {"runtime": "onnxruntime", "threads": 1}, frame=FRAMES[0])
    assert result is not None
    assert result["process_ms"] > result["import_ms"] > 0
    assert result["peak_bytes"] >= result["resident_bytes"] > 0
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"x")
    assert cold_start(broken, {"runtime": "onnxruntime"}, frame=FRAMES[0]) is None


def test_the_machine_describes_itself_in_json() -> None:
    found = json.loads(json.dumps(describe()))
    assert found["cores_allowed"] >= 1
    assert found["versions"]["numpy"]
    assert set(memory()) == {"resident_bytes", "peak_bytes"}


def test_cpu_load_excludes_own_process() -> None:
    before = CpuLoad(wall_s=0, own_s=1, busy_s=10)
    assert before.other_processes(CpuLoad(wall_s=10, own_s=6, busy_s=25)) == 1.0
    assert before.other_processes(CpuLoad(wall_s=10, own_s=6, busy_s=None)) is None
    start = CpuLoad.now()
    time.sleep(0.01)
    assert start.other_processes(CpuLoad.now()) is None or start.other_processes(CpuLoad.now()) >= 0  # type: ignore[operator]
