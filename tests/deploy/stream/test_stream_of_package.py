"""A stream on a real ship: in Python, from the command line, with its folder edited and its process killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from faulty_source import OPTIONS, FaultScenario, picture  # noqa: E402
from tiny_package import SIZE, expected, frame, make_ship  # noqa: E402

import edgemt  # noqa: E402
from deploy.package.watcher import PackageWatcher  # noqa: E402
from deploy.stream.inference.load_model import budget_warning, load_stream_model  # noqa: E402
from deploy.stream.inference.worker_process import WorkerProcess  # noqa: E402
from deploy.stream.sources.base import SourceFrame  # noqa: E402
from deploy.stream.sources.iterable import IterableSource  # noqa: E402
from deploy.stream.sources.lock import SourceLock  # noqa: E402
from deploy.stream.state.display_state import DisplayState  # noqa: E402
from deploy.stream.state.frames import DisplaySnapshot  # noqa: E402
from edgemt import cli  # noqa: E402


@pytest.fixture(scope="module")
def ship(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ship(tmp_path_factory.mktemp("live") / "ship").folder


def test_python_stream_yields_frame_with_its_own_mask(ship: Path) -> None:
    frames = [frame(k) for k in range(30)]
    states = []
    for shown, mask in edgemt.stream(ship, frames, runtime="onnxruntime", file="fp32", hz=200, options=OPTIONS):
        states.append(mask.state)
        if mask.state == "fresh":
            assert mask.frame_id == shown.id and np.array_equal(shown.pixels, frames[shown.id])
            assert mask.mask is not None and np.array_equal(mask.mask, expected(shown.pixels))
            assert "onnxruntime" in mask.model and mask.model.startswith("tiny@")
    assert states[-1] == "fresh" and shown.id == 29


def test_leaving_the_loop_stops_the_stream(ship: Path) -> None:
    endless: Iterator[np.ndarray] = (frame(k) for k in range(10**9))
    for _ in edgemt.stream(ship, endless, hz=500):
        break
    assert next(endless) is not None  # nobody else reads it now


def test_confidence_states_its_definition(ship: Path) -> None:
    frames = [frame(k // 10) for k in range(20)]
    records = [mask for _, mask in edgemt.stream(ship, frames, hz=100, options=replace(OPTIONS, frozen_ms=0))]
    said = [r for r in records if r.confidence is not None]
    assert said and all("no probability" in r.confidence_is and 0 <= r.confidence <= 1 for r in said)  # type: ignore[operator]
    text = json.dumps(said[0].to_json())
    assert "mask" not in json.loads(text) and len(text) < 1000


def test_edited_package_is_invalid_until_restored(tmp_path: Path) -> None:
    opened = load_stream_model(make_ship(tmp_path / "ship").folder, runtime="onnxruntime", file="fp32")
    weights = tmp_path / "ship" / "model.onnx"
    before = weights.read_bytes()
    edited: list[int] = []

    def edit(k: int) -> SourceFrame:
        if not edited:
            edited.append(k)
            weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        return SourceFrame(picture(k))

    def mend(k: int) -> np.ndarray:
        if weights.read_bytes() != before:
            weights.write_bytes(before)
        return picture(k)

    scenario = FaultScenario(edit, expected="invalid", after=mend)
    scenario.run(opened.model, runner=opened.runner, watcher=opened.watcher)
    assert scenario.why == "model folder: model.onnx was changed"


def test_package_watcher_ignores_touch_and_reports_missing_file(tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "ship")
    watch = PackageWatcher(ship)
    os.utime(ship.folder / "model.onnx", ns=(1, 1))
    assert watch.check() is None
    (ship.folder / "model.int8.onnx").unlink()
    assert watch.check() == "model folder: model.int8.onnx is gone"


def test_killed_worker_process_is_restarted(ship: Path) -> None:
    opened = load_stream_model(ship, runtime="onnxruntime", file="fp32", isolation="process")
    assert isinstance(opened.runner, WorkerProcess)
    killed: list[int] = []

    def kill(k: int) -> SourceFrame:
        if not killed:
            killed.append(k)
            os.kill(opened.runner.process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        return SourceFrame(picture(k))

    scenario = FaultScenario(kill, expected="invalid")
    record = scenario.run(opened.model, runner=opened.runner, options=replace(OPTIONS, hang_ms=10_000))
    assert scenario.why == "the inference process ended (signal 9)" and record["restarts"] == 1
    opened.runner.close()


def test_worker_process_gives_same_outputs_and_one_line_errors(tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "both", uncertainty=True).folder
    child = WorkerProcess(ship, hang_ms=10_000, runtime="onnxruntime", file="fp32", threads=1)
    assert np.array_equal(child(frame(3)[None])[0], expected(frame(3)))
    assert child.has_uncertainty
    mask, values = child.with_uncertainty(frame(4)[None])
    assert np.array_equal(mask[0], expected(frame(4))) and np.array_equal(values[0], frame(4).max(-1))
    child.process.send_signal(signal.SIGSTOP)
    child._hang_s = 0.05
    with pytest.raises(Exception, match="did not answer"):
        child(frame(3)[None])
    child.close()
    assert child.process.returncode is not None
    with pytest.raises(ValueError, match="no such ship folder"):
        WorkerProcess(tmp_path / "none", hang_ms=1000)


def test_budget_warning_has_both_numbers(ship: Path) -> None:
    opened = load_stream_model(ship)._replace(mask_ms=12.345)
    assert budget_warning(opened, 50) is None
    said = budget_warning(opened, 5)
    assert said is not None and "5 ms" in said and "12.3 ms" in said


def test_slice_model_is_rejected(tmp_path: Path) -> None:
    folder = make_ship(tmp_path / "ship", channels=5, channel_order="slices").folder
    with pytest.raises(ValueError, match="reads 5 slices of a volume"):
        load_stream_model(folder)


def _stream(*arguments: Any) -> None:
    cli.main(["stream", *map(str, arguments)])


def test_stream_command_writes_no_files_by_default(
    ship: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    size = f"synthetic:{SIZE[1] * 10}x{SIZE[0] * 4}"
    _stream(ship, "--source", size, "--hz", 50, "--frames", 20, "--output", "lines", "--limits.budget-ms", 2000)
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert any(line["state"] == "fresh" and line["age_ms"] >= 0 for line in lines)
    assert "20 frames" in said.err
    assert not list(tmp_path.iterdir())


def test_evidence_has_both_latencies_with_and_without_masks(
    ship: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _stream(
        ship, "--source", "synthetic:400x128", "--hz", 60, "--frames", 20, "--evidence", tmp_path / "e",
        "--json", tmp_path / "again.json", "--limits.budget-ms", 2000,
    )  # fmt: skip
    assert capsys.readouterr().out.strip().endswith("evidence.html")
    record = json.loads((tmp_path / "e" / "evidence.json").read_text())
    assert record == json.loads((tmp_path / "again.json").read_text())
    (rate,) = record["rates"]
    assert rate["hz"] == 60 and rate["with_masks"]["frames"] == rate["without"]["frames"] == 20
    assert rate["with_masks"]["annotation"]["n"] > 0 and rate["without"]["annotation"] is None
    assert rate["with_masks"]["pixels_outside_marker"] == 0 and rate["with_masks"]["pictures_checked"] > 0
    assert {"p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms"} == set(rate["added_video"])
    rows = (tmp_path / "e" / "delays.csv").read_text().splitlines()
    shown = rate["with_masks"]["video"]["n"] + rate["without"]["video"]["n"]
    assert rows[0] == "hz,masks,frame,video_ns,annotation_ns" and len(rows) == 1 + shown
    assert "video, added" in (tmp_path / "e" / "evidence.md").read_text()
    assert "<svg" in (tmp_path / "e" / "evidence.html").read_text()


def test_interrupted_evidence_is_reported(
    ship: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken_off(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deploy.stream.latency_experiment.measure_latency", broken_off)
    with pytest.raises(SystemExit) as left:
        _stream(ship, "--evidence", tmp_path / "e")
    assert left.value.code == 130 and not (tmp_path / "e").exists()
    assert capsys.readouterr().err.splitlines()[-1] == "edgemt: interrupted; no evidence was written"


@pytest.mark.parametrize("flags", [("--output", "lines", "video:{}"), ("--output", "lines", "--output", "video:{}")])
def test_output_flag_accepts_several_values_or_repetition(
    ship: Path, tmp_path: Path, flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av")
    film = tmp_path / "shown.mp4"
    outputs = [flag.format(film) for flag in flags]
    _stream(ship, "--source", "synthetic:400x128", "--frames", 5, *outputs, "--limits.budget-ms", 2000)
    assert film.stat().st_size > 0 and '"state": ' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--source", "camra:0"], "unknown source 'camra'; nearest: camera"),
        (["--source", "nowhere/film.mp4"], "no such file or folder"),
        (["--source", "synthetic", "--output", "linse"], "unknown output 'linse'; nearest: lines"),
        (["--limits.budget-ms", "0"], "budget_ms: must be above 0"),
        (["--hz", "-3"], "hz: must be above 0, or 0 for as fast as it can be read, not -3"),
        (["--hz", "nan"], "hz: must be above 0"),
        (["--output"], "output: name one or several"),
        (["--evidence", __file__], "a file is in its way; name another folder"),
        (["--evidence", f"{__file__}/deeper"], "a file is in its way; name another folder"),
        (["--json", "."], "json .: is a folder; name a file"),
        (["--source", "synthetic:8x8"], "write synthetic:WIDTHxHEIGHT"),
    ],
)
def test_bad_input_is_one_clear_line(
    ship: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        _stream(ship, *arguments)
    assert left.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert said in line


def test_no_busy_loop_between_frames(ship: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    snapshot = DisplayState.snapshot

    def counted(self: DisplayState) -> DisplaySnapshot:
        calls.append(1)
        return snapshot(self)

    def rare() -> Iterator[np.ndarray]:
        for k in range(3):
            time.sleep(0.3)
            yield frame(k)

    monkeypatch.setattr(DisplayState, "snapshot", counted)
    assert [mask.state for _, mask in edgemt.stream(ship, rare())][-1] == "fresh"
    assert len(calls) < 300


def test_source_error_is_raised_in_python_loop(ship: Path) -> None:
    class Taken(IterableSource):
        live, name = True, "camera:7"

    held = SourceLock("camera:7")
    with pytest.raises(ValueError, match="streams from it already"):
        list(edgemt.stream(ship, Taken([frame(0)])))
    held.release()
    with pytest.raises(ValueError, match="no such file or folder"):
        list(edgemt.stream(ship, "nowhere/film.mp4"))
    with pytest.raises(ValueError, match="not int"):
        edgemt.stream(ship, 5)


def test_python_source_may_reuse_one_array(ship: Path) -> None:
    array = np.empty((*SIZE, 3), np.uint8)

    def reused() -> Iterator[np.ndarray]:
        for k in range(20):
            array[:] = frame(k)
            yield array

    for shown, mask in edgemt.stream(ship, reused(), hz=100, file="fp32", runtime="onnxruntime"):
        assert np.array_equal(shown.pixels, frame(shown.id))
        assert mask.mask is None or np.array_equal(mask.mask, expected(shown.pixels))


def test_stream_without_valid_frame_is_one_line_and_exit_status_2(
    ship: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for k in range(6):
        (folder / f"{k}.png").write_bytes(b"no picture" * 100)
    with pytest.raises(SystemExit) as stopped:
        _stream(ship, "--source", folder, "--json", tmp_path / "r.json")
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said.count("a picture of the source was refused") == 1  # six of one kind
    assert "none of its 6 pictures could be shown" in said.splitlines()[-1] and "0.png" in said.splitlines()[-1]
    (kind,) = json.loads((tmp_path / "r.json").read_text())["refused"]
    assert kind["count"] == 6 and "cannot be decoded" in kind["why"]
    import edgemt

    with pytest.raises(ValueError, match="none of its 6 pictures"):
        list(edgemt.stream(ship, folder, hz=0))
