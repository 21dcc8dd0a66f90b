"""What a stream writes to its event log."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from full_disk import full_disk

pytest.importorskip("onnxruntime")

from tiny_package import make_ship  # noqa: E402

from deploy.event_log.log_file import EventLogFile, event_number  # noqa: E402
from deploy.event_log.verify import verify_log  # noqa: E402
from deploy.runtimes.load import runner  # noqa: E402
from deploy.runtimes.onnxruntime_placement import placement_record  # noqa: E402
from deploy.stream.session_events import MAX_CHANGES, MAX_WAITING, SessionEvents  # noqa: E402
from edgemt.cli import main  # noqa: E402


@pytest.fixture(scope="module")
def ship(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ship(tmp_path_factory.mktemp("logged") / "ship").folder


class FakeSession:
    """The counters that a session has; no threads."""

    def __init__(self) -> None:
        counters = dict(frames=0, corrupt=0, losses=0, reopened=0, size_changes=0, rejected={})
        self.capture = SimpleNamespace(counters=SimpleNamespace(**counters))
        inferred = dict(masks=0, failures=0, restarts=0, last_failure="", drift_message="")
        self.inference = SimpleNamespace(counters=SimpleNamespace(**inferred))
        self.frames_without_mask = 0


def snapshot(state: str, reason: str = "", age_ms: float | None = None) -> Any:
    return SimpleNamespace(status=SimpleNamespace(state=state, reason=reason, age_ms=age_ms, likeness=0.9))


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_session_leaves_states_faults_summary_and_end_without_identifiers(tmp_path: Path) -> None:
    path, session, warnings = tmp_path / "device.log", FakeSession(), []
    events = SessionEvents(EventLogFile(path), log=warnings.append)
    events.start(session, {"device": "a1"})  # type: ignore[arg-type]
    events.observe(snapshot("no-signal", "no frame yet"))
    for age in (10.0, 12.0, 30.0):
        events.observe(snapshot("fresh", age_ms=age))
    session.capture.counters.frames, session.inference.counters.masks = 4, 3
    session.capture.counters.rejected["/home/Smith/77.png: cannot be read"] = object()
    session.inference.counters.failures, session.inference.counters.last_failure = 1, "hangs since 2000 ms"
    session.inference.counters.drift_message = "unlike"
    events.event("operator", {"action": "freeze"})
    events.close(ended_by="operator")
    rows = rows_of(path)
    names = [row["event"] for row in rows]
    assert names[0] == "start" and names[-2:] == ["summary", "end"] and names.count("state") == 2
    assert {"inference-failed", "rejected", "unlike-training", "operator"} < set(names)
    summary, end = rows[-2], rows[-1]
    assert summary["shown"] == {"fresh": 3, "no-signal": 1} and summary["age_ms"]["p50"] == 12.0
    assert (summary["frames"], summary["masks"], end["ended_by"], end["failures"]) == (4, 3, "operator", 1)
    text = path.read_text()
    assert "Smith" not in text and "2000" not in text and verify_log(path).error == "" and warnings == []
    assert events.record() == {
        "file": "device.log", "session": rows[0]["session"], "events": len(rows), "head": verify_log(path).head,
        "lost": 0, "error": "",
    }  # fmt: skip


def test_a_state_that_flaps_fills_no_disk(tmp_path: Path) -> None:
    path = tmp_path / "device.log"
    events = SessionEvents(EventLogFile(path), log=lambda line: None)
    events.start(FakeSession(), {})  # type: ignore[arg-type]
    for number in range(500):
        events.observe(snapshot(("fresh", "stale")[number % 2]))
    events.close(ended_by="source")
    rows = rows_of(path)
    assert sum(row["event"] == "state" for row in rows) == MAX_CHANGES
    assert next(row for row in rows if row["event"] == "summary")["changes"] == 500


def test_on_a_full_disk_the_video_goes_on_and_events_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, warnings = tmp_path / "device.log", []
    events = SessionEvents(EventLogFile(path), log=warnings.append)
    events.start(FakeSession(), {})  # type: ignore[arg-type]
    disk = full_disk(monkeypatch, room=30)
    for number in range(MAX_WAITING + 5):
        events.event("operator", {"action": number})
    events._write()
    assert events.record()["error"] == "No space left on device" and events.record()["lost"] == MAX_WAITING + 5
    assert len(warnings) == 1 and "the video goes on" in warnings[0]
    disk.room = 10**7
    events._write()
    events.close(ended_by="source")
    rows = rows_of_valid(path)
    assert [row["action"] for row in rows if row["event"] == "operator"] == list(range(MAX_WAITING))
    assert next(row for row in rows if row["event"] == "lost")["count"] == 5
    assert verify_log(path).error == "" and "written again" in warnings[1]


def rows_of_valid(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines() if event_number(line) is not None]


def test_a_stream_with_a_log_prints_its_head_and_the_log_verifies(
    tmp_path: Path, ship: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, record = tmp_path / "device.log", tmp_path / "record.json"
    main(["stream", str(ship), "--frames", "12", "--log", str(path), "--json", str(record)])
    head = json.loads(record.read_text())["event_log"]["head"]
    assert head in capsys.readouterr().err
    main(["log", "verify", str(path), "--head", head, "--json", str(tmp_path / "check.json")])
    out = capsys.readouterr().out
    assert head in out and "1 sessions" in out
    rows = rows_of(path)
    assert rows[0]["event"] == "start" and rows[0]["source"] == "SyntheticSource" and rows[0]["versions"]["edgemt"]
    assert rows[-1]["ended_by"] == "source" and rows[-1]["frames"] == 12
    with pytest.raises(SystemExit) as status:
        main(["stream", str(ship), "--evidence", str(tmp_path / "e"), "--log", str(path)])
    assert status.value.code == 2 and "--evidence" in capsys.readouterr().err


def test_a_stream_that_does_not_begin_leaves_the_log_to_the_next_one(tmp_path: Path, ship: Path) -> None:
    path = tmp_path / "device.log"
    for args in ([str(tmp_path)], [str(ship), "--source", str(tmp_path / "no.mp4")]):
        with pytest.raises(SystemExit) as status:
            main(["stream", *args, "--log", str(path)])
        assert status.value.code == 2
    main(["stream", str(ship), "--frames", "2", "--log", str(path)])
    names = [row["event"] for row in rows_of(path)]
    assert names.count("start") == names.count("end") == 2 and verify_log(path).error == ""


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_the_placement_as_executed_follows_the_start(isolation: str, tmp_path: Path, ship: Path) -> None:
    path = tmp_path / "device.log"
    words = ["--runtime", "onnxruntime", "--file", "fp32", "--threads", "1", "--isolation", isolation]
    main(["stream", str(ship), "--frames", "2", "--log", str(path), *words])
    start, placement, *_ = rows_of(path)
    made = runner(ship, runtime="onnxruntime", file="fp32", threads=1)
    assert (start["event"], placement["event"]) == ("start", "placement")
    assert placement["nodes"] == made.details["placement"] and list(placement["nodes"]) == ["CPU"]
    assert placement["nodes"]["CPU"] > 5 and placement["provider"] == "CPUExecutionProvider"
    found = [placement[key] for key in ("file", "runtime", "device", "precision", "threads")]
    assert found == ["model.onnx", "onnxruntime", "CPU", made.precision, 1]


def test_a_runtime_that_counts_no_nodes_leaves_the_device_alone() -> None:
    made = SimpleNamespace(file="a.xml", runtime="openvino", device="GPU", precision="f16", threads=2, details={})
    assert placement_record(made) == {
        "file": "a.xml", "runtime": "openvino", "device": "GPU", "provider": None, "precision": "f16", "threads": 2,
        "nodes": None,
    }  # fmt: skip
