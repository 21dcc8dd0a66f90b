"""`edgemt bench` as a script uses it: exit status, files, comparison, accuracy measured anew."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from PIL import Image

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tiny_package import SIZE, expected, frame, make_ship  # noqa: E402

from deploy.benchmark import package_bench  # noqa: E402
from deploy.measurement import timing  # noqa: E402
from edgemt import cli  # noqa: E402
from edgemt.data.options import DataOptions  # noqa: E402
from edgemt.model_card import FileMetrics  # noqa: E402

QUICK = timing.BenchOptions(
    warmup=2, iterations=20, seconds=0.05, rounds=2, block_ms=3, paced_hz=0, second_hz=0, stage_calls=3,
    streams=(), energy_seconds=0, cold=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def ship(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    data = DataOptions(layout="pairs", classes=("background", "organ", "tool"), size=SIZE).to_dict()
    measured = {name: FileMetrics(dice=0.5, drop=0.0) for name in ("model.onnx", "model.int8.onnx")}
    make_ship(folder / "ship", data=data, measured=measured)
    for kind in ("images", "masks"):
        (folder / "test" / kind).mkdir(parents=True)
    for seed in range(3):
        Image.fromarray(frame(seed)).save(folder / "test" / "images" / f"{seed}.png")
        Image.fromarray(expected(frame(seed))).save(folder / "test" / "masks" / f"{seed}.png")
    return folder / "ship"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    assert package_bench  # imported before: its own options are made of the class that is replaced here
    monkeypatch.setattr(timing, "BenchOptions", lambda: QUICK)


def bench(*args: object) -> None:
    cli.main(["bench", *map(str, args)])


def test_a_budget_is_an_exit_status_and_a_sentence(ship: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench(ship, "--runtime", "onnxruntime", "--file", "fp32", "--budget-ms", 5000)
    assert "fast enough: onnxruntime/f32" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        bench(ship, "--runtime", "onnxruntime", "--file", "fp32", "--budget-ms", 0.00001)
    assert stopped.value.code == 3
    assert "too slow: onnxruntime/f32" in capsys.readouterr().out


@pytest.mark.parametrize("budget", ["0", "-3", "nan"])
def test_a_budget_that_nothing_could_keep_or_miss_is_refused(
    budget: str, ship: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench(ship, "--budget-ms", budget)
    assert stopped.value.code == 2
    assert f"--budget-ms {budget}" in capsys.readouterr().err


def test_a_file_that_no_runtime_finds_is_named_once(ship: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench(ship, "--file", "int4")
    output = capsys.readouterr().err
    assert stopped.value.code == 2
    assert output.count("'int4'") == 1 and "no runtime works" not in output


def test_a_record_and_a_page_are_written_and_compared(ship: Path, tmp_path: Path, capsys) -> None:  # noqa: ANN001
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        bench(ship, "--runtime", "onnxruntime", "--json", file, "--html", tmp_path / "page.html")
    assert "<h2>Distribution</h2>" in (tmp_path / "page.html").read_text()
    capsys.readouterr()
    bench("--compare", *files, "--json", tmp_path / "both.json")
    assert "after / before" in capsys.readouterr().out
    found = json.loads((tmp_path / "both.json").read_text())
    assert [row["name"] for row in found["calls"]] == ["onnxruntime/f32", "onnxruntime/int8"]
    guide = (ROOT / "deploy" / "README.md").read_text()
    assert all(f"`{key}`" in guide for key in found)


def test_accuracy_is_measured_anew_on_a_folder_that_is_named(ship: Path, tmp_path: Path) -> None:
    bench(ship, "--runtime", "onnxruntime", "--data.root", ship.parent / "test", "--json", tmp_path / "a.json")
    for entry in json.loads((tmp_path / "a.json").read_text())["calls"]:
        assert entry["dice"] == 1.0 and entry["dice_from"] == "measured here, 3 cases"


def test_a_soak_has_its_time_line_in_the_record(ship: Path, tmp_path: Path) -> None:
    bench(ship, "--runtime", "onnxruntime", "--file", "fp32", "--soak", 0.001, "--json", tmp_path / "a.json")
    soak = json.loads((tmp_path / "a.json").read_text())["soak"]
    assert soak["call"] == "onnxruntime/f32" and soak["timeline"][0]["n"] == soak["n"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "name a ship folder or a recipe"),
        (["--compare", "a.json", "b.json"], "a.json: cannot be read"),
        (["phantom", "--file", "int8"], "--file: of a ship folder alone"),
        (["phantom", "--runtime", "openvino"], "--runtime: of a ship folder alone"),
        (["{ship}", "--streams", "1"], "bench.streams: must be 2 or more, not 1"),
        (["{ship}", "--runtime", "opnvino"], "nearest: openvino"),
        (["{ship}", "--nonsense"], "unknown argument '--nonsense'"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_two(args: list[str], says: str, ship: Path, capsys) -> None:  # noqa: ANN001
    with pytest.raises(SystemExit) as stopped:
        bench(*(arg.format(ship=ship) for arg in args))
    output = capsys.readouterr().err
    assert stopped.value.code == 2 and says in output and len(output.strip().splitlines()) == 1


def test_help_after_a_ship_is_help_and_no_measurement(ship: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench(ship, "--help")
    assert stopped.value.code == 0 and "--budget-ms" in capsys.readouterr().out


def test_the_vendors_tools_are_read_in_both_units() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from against_vendor_tools import median_of
    finally:
        sys.path.pop(0)
    assert median_of("[ INFO ] Latency:\n[ INFO ]    Median:        0.81 ms\n") == 0.81
    assert median_of("[ INFO ]    Median:        411.60 us\n") == pytest.approx(0.4116)
    trt = "[I] Latency: min = 1.20 ms, max = 2.10 ms, mean = 1.30 ms, median = 1.29 ms, percentile(99%) = 1.9 ms"
    assert median_of(trt) == 1.29
    with pytest.raises(ValueError, match="no median"):
        median_of("FAILED")
