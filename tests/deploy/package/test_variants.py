"""What the card says was the quickest is what `runner` takes when nobody chooses."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from tiny_package import frame, make_ship  # noqa: E402

from deploy.hardware.machine import CpuLoad  # noqa: E402
from deploy.measurement import variants  # noqa: E402
from deploy.measurement.timing import BenchOptions  # noqa: E402
from deploy.measurement.variants import fastest, latency_records, undecided  # noqa: E402
from deploy.package.package import Package  # noqa: E402
from deploy.runtimes import choose_variant  # noqa: E402
from deploy.runtimes.load import fastest_here, runner  # noqa: E402
from edgemt.model_card import ModelCard  # noqa: E402

FEW = BenchOptions(iterations=5, rounds=3, warmup=1, block_ms=1)


class Sleeper:
    """A runner that takes so long."""

    precision, threads = "f32", 1

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds)
        return frames[..., 0]


def latency_record(runtime: str, file: str, ratio: float, **more: Any) -> dict[str, Any]:
    return {"runtime": runtime, "file": file, "asked": None, "ratio": ratio, "fastest": True, **more}


def with_latency(ship: Package, *latency: dict[str, Any]) -> Package:
    return replace(ship, card=replace(ship.card, latency=latency))


def test_the_quickest_of_each_runtime_is_marked_and_the_quickest_of_all_comes_first() -> None:
    calls = {
        ("openvino", "slow.xml", None): Sleeper(0.02),
        ("openvino", "quick.xml", "f32"): Sleeper(0.005),
        ("onnxruntime", "model.onnx", None): Sleeper(0.01),
    }
    records = latency_records(calls, [frame(0)], FEW, tries=1)
    assert [(r["file"], r["fastest"]) for r in records] == [
        ("quick.xml", True),
        ("model.onnx", True),
        ("slow.xml", False),
    ]
    assert records[0]["asked"] == "f32" and records[0]["ratio"] < 1 == records[2]["ratio"]


def test_what_others_do_with_the_machine_does_not_choose() -> None:
    class Disturbed(Sleeper):
        calls = 0

        def __call__(self, frames: np.ndarray) -> np.ndarray:
            self.calls += 1
            time.sleep(0.04 if self.calls % 5 else 0.0)  # four calls of five wait for a core
            return super().__call__(frames)

    calls = {("openvino", "steady.xml", None): Sleeper(0.024), ("openvino", "disturbed.xml", None): Disturbed(0.003)}
    records = latency_records(calls, [frame(0)], replace(FEW, iterations=30, block_ms=600), tries=1)
    assert records[0]["file"] == "disturbed.xml"
    assert records[0]["p50_ms"] > records[1]["p50_ms"]


def test_a_card_that_was_never_timed_names_nothing() -> None:
    assert fastest(ModelCard()) == {}


def test_a_file_that_the_card_does_not_list_is_never_the_quickest() -> None:
    assert (
        fastest(ModelCard(files={"model.onnx": ""}, latency=(latency_record("onnxruntime", "../other.onnx", 0.1),)))
        == {}
    )


@pytest.mark.parametrize("file", ["model.onnx", "model.int8.onnx"])
def test_a_runner_without_a_choice_takes_what_the_card_says(file: str, tmp_path: Path) -> None:
    ship = with_latency(make_ship(tmp_path / "ship"), latency_record("onnxruntime", file, 0.5))
    for runtime in ("auto", "onnxruntime"):
        made = runner(ship, runtime=runtime)
        assert (made.runtime, made.file) == ("onnxruntime", file)


def test_a_named_file_overrules_the_card(tmp_path: Path) -> None:
    ship = with_latency(make_ship(tmp_path / "ship"), latency_record("onnxruntime", "model.int8.onnx", 0.5))
    assert runner(ship, runtime="onnxruntime", file="fp32").file == "model.onnx"


def test_auto_passes_over_a_runtime_that_is_not_here(tmp_path: Path) -> None:
    latency = (
        latency_record("tensorrt", "model.int8.onnx", 0.1),
        latency_record("onnxruntime", "model.int8.onnx", 0.5),
    )
    assert runner(with_latency(make_ship(tmp_path / "ship"), *latency)).runtime == "onnxruntime"


def test_the_precision_that_was_the_quickest_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    ship = make_ship(tmp_path / "ship", openvino=True)
    made = runner(with_latency(ship, latency_record("openvino", "openvino/model.xml", 0.5, asked="f32")))
    assert (made.runtime, made.file, made.precision) == ("openvino", "openvino/model.xml", "f32")


def busy_for(monkeypatch: pytest.MonkeyPatch, *cores: float | None) -> None:
    """What others take, timing after timing; the last goes on. More than a quarter of a core is too much."""
    monkeypatch.setattr(variants, "BUSY", 0.25)  # tests/conftest.py lets every timing count
    left = list(cores)
    monkeypatch.setattr(CpuLoad, "other_processes", lambda self, later: left.pop(0) if len(left) > 1 else left[0])


TWO = {("openvino", "slow.xml", None): Sleeper(0.004), ("openvino", "quick.xml", None): Sleeper(0.001)}


def test_while_others_use_the_machine_it_is_timed_again_and_then_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    busy_for(monkeypatch, 1.7, 0.9, 1.2)
    records = latency_records(TWO, [frame(0)], FEW)
    assert {record["undecided"] for record in records} == {True}
    assert records[0]["foreign_cores"] == 0.9  # of the quietest time
    card = ModelCard(files={"quick.xml": "", "slow.xml": ""}, latency=records)
    assert fastest(card) == {} and undecided(card)
    for quiet in (0.1, None):
        busy_for(monkeypatch, 1.7, quiet)
        records = latency_records(TWO, [frame(0)], FEW)
        assert not records[0]["undecided"] and records[0]["file"] == "quick.xml"


def test_a_card_made_on_a_busy_machine_chooses_nothing_and_the_device_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEMT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choose_variant, "_chosen", {})
    busy_for(monkeypatch, 0.0)
    latency = [
        latency_record("onnxruntime", "model.int8.onnx", 0.156, foreign_cores=1.7),
        latency_record("onnxruntime", "model.onnx", 1.0, foreign_cores=1.7, fastest=False),
        latency_record("onnxruntime", "../other.onnx", 0.1, foreign_cores=1.7),
    ]
    ship = with_latency(make_ship(tmp_path / "ship"), *latency)
    assert fastest(ship.card) == {} and undecided(ship.card)
    timings: list[list[str]] = []

    def records(calls: Any, frames: Any, options: Any, **more: Any) -> Any:
        timings.append([file for _, file, _ in calls])
        return [latency_record("onnxruntime", "model.onnx", 0.5, p50_ms=1.0, foreign_cores=0.0)]

    monkeypatch.setattr(choose_variant, "latency_records", records)
    assert runner(ship).file == "model.onnx" and timings == [["model.int8.onnx", "model.onnx"]]
    monkeypatch.setattr(choose_variant, "_chosen", {})  # another process
    assert runner(ship).file == "model.onnx" and len(timings) == 1
    (tmp_path / "cache" / "decided.json").write_text("{")
    monkeypatch.setattr(choose_variant, "_chosen", {})
    assert runner(ship).file == "model.onnx" and len(timings) == 2


def test_the_device_really_times_what_it_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEMT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choose_variant, "_chosen", {})
    latency = [latency_record("onnxruntime", f, 1.0, undecided=True) for f in ("model.onnx", "model.int8.onnx")]
    found = fastest_here(with_latency(make_ship(tmp_path / "ship"), *latency))
    assert found is not None and found.file in ("model.onnx", "model.int8.onnx") and found.p50_ms > 0
