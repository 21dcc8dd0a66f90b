"""The fault suite: whatever goes wrong, the video goes on, the screen says what it is, and masks come back."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_source import MODEL_SIZE, OPTIONS, FaultScenario, check_snapshot, model, picture, threshold

from deploy.package.input_drift import measure
from deploy.stream.capture import SourceClock
from deploy.stream.inference.mask_checks import InvalidMaskError, validate_mask
from deploy.stream.outputs.base import OutputThread
from deploy.stream.session import Session, StreamOptions
from deploy.stream.sources.base import CorruptFrameError, SourceFrame, SourceLostError
from deploy.stream.sources.iterable import IterableSource
from deploy.stream.sources.lock import SourceLock
from deploy.stream.state.display_state import DisplayState, FreshnessLimits, mask_state
from deploy.stream.state.frames import Frame, InferenceResult
from deploy.stream.state.latest_queue import LatestQueue
from deploy.stream.state.overlay import empty_overlay
from deploy.stream.status_line import StatusLine
from edgemt.io.images import fit_frame

MS = 1_000_000


def _frame(k: int = 1, *, at_ms: float = 0, epoch: int = 0, size: tuple[int, int] = (60, 80)) -> Frame:
    return Frame(k, picture(k, size=size), int(at_ms * MS), epoch=epoch)


def _result(frame: Frame) -> InferenceResult:
    return InferenceResult(frame, np.zeros(MODEL_SIZE, np.uint8), empty_overlay(frame.size), frame.captured_ns)


# --- what may be shown, by the clock ---


@pytest.mark.parametrize(
    ("now_ms", "fault", "problem", "epoch", "state", "why"),
    [
        (100, None, None, 0, "fresh", ""),
        (101, None, None, 0, "stale", "too old"),
        (90, None, None, 1, "stale", "previous picture"),
        (90, None, ("stale", "the picture is frozen"), 0, "stale", "frozen"),
        (90, "no child", ("stale", "the picture is frozen"), 0, "invalid", "no child"),
        (90, "no child", ("no-signal", "black"), 0, "no-signal", "black"),
        (601, "no child", None, 0, "no-signal", "no new frame"),
    ],
)
def test_mask_state_reports_most_severe_problem(
    now_ms: int, fault: str, problem: Any, epoch: int, state: str, why: str
) -> None:
    said = mask_state(
        _frame(2, at_ms=90, epoch=epoch), _result(_frame(1)),
        problem=problem, fault=fault, now_ns=now_ms * MS, limits=FreshnessLimits(budget_ms=100, no_signal_ms=500),
    )  # fmt: skip
    assert said[0] == state and why in said[1]


def test_mask_becomes_stale_without_any_thread() -> None:
    now = [0]
    display_state = DisplayState(FreshnessLimits(100, 500), model="m", clock=lambda: now[0])
    frame = _frame()
    display_state.put_frame(frame)
    display_state.put_result(_result(frame))
    assert display_state.snapshot().status.state == "fresh"
    assert 0.1 < display_state.seconds_until_change(display_state.snapshot()) < 0.102
    now[0] = 150 * MS
    assert display_state.snapshot().status.state == "stale" and display_state.snapshot().status.mask is None
    now[0] = 600 * MS
    assert display_state.snapshot().status.state == "no-signal"


def test_result_of_older_frame_does_not_replace_newer() -> None:
    display_state = DisplayState(FreshnessLimits(100, 500), model="m", clock=lambda: 0)
    old, new = _frame(1), _frame(2)
    display_state.put_frame(new)
    display_state.put_result(_result(new))
    display_state.put_result(_result(old))
    assert display_state.snapshot().status.frame_id == 2


def test_mask_from_before_fault_is_not_restored() -> None:
    display_state, frame = DisplayState(FreshnessLimits(100, 500), model="m", clock=lambda: 0), _frame()
    display_state.put_frame(frame)
    display_state.put_result(_result(frame))
    display_state.set_fault("inference", "died")
    display_state.set_fault("model", "edited")
    display_state.set_fault("inference", None)
    assert display_state.snapshot().status.reason == "edited"
    display_state.set_fault("model", None)
    assert (display_state.snapshot().status.state, display_state.snapshot().status.reason) == ("stale", "no mask yet")


@pytest.mark.parametrize("other", [False, True])
def test_input_drift_is_warned_about_once(other: bool) -> None:
    def source(first: int) -> list[np.ndarray]:
        return [picture(k) for k in range(first, first + 60)]

    known = measure(np.stack([fit_frame(shown, size=MODEL_SIZE, channels=3) for shown in source(0)]))
    frames = [255 - shown if other else shown for shown in source(100)]
    session = Session(IterableSource(frames, hz=200), model(input_statistics=known), options=OPTIONS)
    said: list[str] = []
    status_line = StatusLine(session, log=said.append)
    record = session.run()
    status_line.close()
    warnings = [line for line in said if "warning" in line]
    assert len(warnings) == other == bool(record["unlike_training"])
    assert all("source: " in line and "unlike those of training" in line for line in warnings)


def test_black_frames_are_not_sent_to_inference() -> None:
    black = (np.zeros((60, 80, 3), np.uint8) for _ in range(10))
    assert Session(IterableSource(black, hz=100), model(), options=OPTIONS).run()["masks"] == 0


def test_latest_queue_holds_newest_and_counts_replaced() -> None:
    box: LatestQueue[int] = LatestQueue()
    for k in range(5):
        box.put(k)
    assert box.take(0) == 4 and box.num_replaced == 4 and box.take(0) is None


# --- faults of the source ---


def test_black_picture_is_no_signal() -> None:
    scenario = FaultScenario(lambda k: SourceFrame(np.zeros((60, 80, 3), np.uint8)), expected="no-signal")
    scenario.run()
    assert "black" in scenario.why


def test_frozen_picture_is_stale() -> None:
    scenario = FaultScenario(lambda k: SourceFrame(picture(0)), expected="stale")
    scenario.run()
    assert "frozen" in scenario.why


def test_lost_source_is_reopened() -> None:
    tries = []

    def pull(k: int) -> SourceFrame:
        raise SourceLostError("pulled out")

    def opens() -> None:
        tries.append(1)
        raise ValueError("not there")  # as long as the act lasts

    scenario = FaultScenario(pull, expected="no-signal", live=True, opens=opens)
    record = scenario.run()
    assert "pulled out" in scenario.why
    assert record["losses"] == record["reopened"] == 1


def test_delayed_frames_are_stale_by_source_clock() -> None:
    class Late(FaultScenario):
        """In its second act the network stops for a while, and all that comes from then on is old."""

        def read(self) -> SourceFrame | None:
            if self.act == 1 and self._late_ns == 0:
                self._late_ns = 700_000_000  # over the budget
                time.sleep(0.7)
            late_ns = self._late_ns if self.act == 1 else 0
            shown = super().read()
            return None if shown is None else SourceFrame(shown.pixels, 10**15 + time.monotonic_ns() - late_ns)

        _late_ns = 0

    scenario = Late(expected="stale", live=True)
    record = scenario.run()
    assert scenario.why == "frames come 0.7 s late by the source's own clock" and record["late_frames"] > 0


def test_mask_age_includes_frame_delay() -> None:
    display_state = DisplayState(FreshnessLimits(100, 500), model="m", clock=lambda: 1000 * MS)
    frame = Frame(0, picture(0), captured_ns=920 * MS, source_ns=5, late_ns=70 * MS)
    display_state.put_frame(frame)
    display_state.put_result(_result(frame))
    assert display_state.snapshot().status.age_ms == 80 and frame.received_ns == 990 * MS
    long_late = Frame(1, picture(1), captured_ns=100 * MS, late_ns=890 * MS)
    display_state.put_frame(long_late)  # it came just now: there is a signal
    assert display_state.snapshot().status.state == "fresh"


def _late_ms(*pairs: tuple[int | None, int]) -> list[int]:
    lateness = SourceClock()
    return [round(lateness.delay_ns(s if s is None else s * MS, received_ns=r * MS) / MS) for s, r in pairs]


def test_source_clock_delay_is_relative_to_fastest_frame() -> None:
    assert _late_ms((0, 5000), (33, 5033), (66, 5366), (100, 5370), (133, 5113), (166, 5166)) == [0, 0, 300, 270, 0, 20]


def test_source_clock_tolerates_drift() -> None:
    hour = [(k * 1000, 77 + round(k * 1000.2)) for k in range(3600)]  # 200 parts in a million
    assert max(_late_ms(*hour)) <= 1
    slow = [(k * 500, k * 1000) for k in range(20)]  # a decoder that gives one second every two
    assert _late_ms(*slow)[-1] > 9000


@pytest.mark.parametrize(
    "pairs",
    [
        [(None, 10), (None, 9000)],
        [(0, 10), (0, 9000), (0, 90_000)],  # a sender without times
        [(5000, 10), (5033, 43), (1, 76), (34, 109)],  # set back
        [(5000, 10), (500_000, 43), (500_033, 76)],  # set forward
    ],
)
def test_source_clock_without_progress_gives_no_delay(pairs: list[tuple[int | None, int]]) -> None:
    assert _late_ms(*pairs) == [0] * len(pairs)


def test_frames_of_a_file_are_never_late() -> None:
    frames = [(picture(k), k * 10**9) for k in range(6)] + [(picture(k), 6 * 10**9 + k) for k in range(6, 40)]
    record = Session(IterableSource(frames, hz=200), model(), options=StreamOptions(budget_ms=50)).run()
    assert record["late_frames"] == 0


def test_corrupt_frames_are_counted_and_never_shown() -> None:
    def damage(k: int) -> SourceFrame:
        if k % 2:
            raise CorruptFrameError("half a frame")
        return SourceFrame(picture(k).astype(np.float32))

    scenario = FaultScenario(damage, expected="no-signal")
    record = scenario.run()
    assert "no new frame" in scenario.why and record["corrupt"] > 0 and record["failures"] == 0


@pytest.mark.parametrize("now", [picture(3, size=(120, 100)), picture(3)[:32, :32], np.array(picture(3)[:, :40, 0])])
def test_old_mask_is_not_shown_after_size_change(now: np.ndarray) -> None:
    shift = iter(range(10**6))
    release = threading.Event()

    def slow(frames: np.ndarray) -> np.ndarray:
        if scenario.act == 1:
            release.wait(5)
        return threshold(frames)

    def changed(k: int) -> SourceFrame:
        return SourceFrame(np.roll(now, next(shift), axis=1))

    def after(k: int) -> np.ndarray:
        release.set()
        return changed(k).pixels

    scenario = FaultScenario(changed, expected="stale", after=after)
    record = scenario.run(model(lambda: slow), options=StreamOptions(budget_ms=600, no_signal_ms=300, hang_ms=10_000))
    assert "previous picture" in scenario.why and record["size_changes"] == 1


def test_grey_and_colour_frames_can_alternate() -> None:
    frames = [picture(k) if k % 2 else picture(k)[..., 0] for k in range(8)]
    seen = []
    Session(
        IterableSource(frames, hz=100), model(), options=OPTIONS,
        display=lambda shown, drawn: (check_snapshot(shown, drawn), seen.append(shown.status.state)),
    ).run()  # fmt: skip
    assert "fresh" in seen and "invalid" not in seen


# --- faults of inference ---


def test_slow_masks_are_stale_and_video_continues() -> None:
    shown_meanwhile = set()

    def starved(frames: np.ndarray) -> np.ndarray:
        while scenario.act == 1:
            time.sleep(0.005)
        return threshold(frames)

    def play(k: int) -> SourceFrame:
        shown_meanwhile.add(k)
        return SourceFrame(picture(k))

    scenario = FaultScenario(play, expected="stale")
    scenario.run(model(lambda: starved), options=StreamOptions(budget_ms=600, no_signal_ms=300, hang_ms=30_000))
    assert "too old" in scenario.why and len(shown_meanwhile) > 20


def test_hanging_inference_is_abandoned_and_its_mask_dropped() -> None:
    release, calls = threading.Event(), []

    def hangs(frames: np.ndarray) -> np.ndarray:
        if scenario.act == 1 and not calls:
            calls.append(1)
            release.wait(20)
            return np.full((1, *MODEL_SIZE), 9, np.uint8)  # no class there is: it would be seen
        return threshold(frames)

    def make() -> Any:
        while scenario.act == 1 and calls:  # or it would be mended before anybody saw it
            time.sleep(0.005)
        return hangs

    scenario = FaultScenario(expected="invalid")
    record = scenario.run(model(make))
    release.set()
    assert "hangs" in scenario.why and record["restarts"] == 1 and record["failures"] == 1


def test_failing_inference_is_restarted() -> None:
    def broken(frames: np.ndarray) -> np.ndarray:
        if scenario.act == 1:
            raise RuntimeError("device lost\nand a stack")
        return threshold(frames)

    scenario = FaultScenario(expected="invalid")
    record = scenario.run(model(lambda: broken))
    assert scenario.why == "device lost" and record["restarts"] >= 1


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        (np.full((1, *MODEL_SIZE), np.nan, np.float32), "NaN"),
        (np.full((1, *MODEL_SIZE), 7, np.uint8), "class 7 of 3"),
        (np.full((1, *MODEL_SIZE), 1, np.uint8), "class 1 everywhere"),
        (np.zeros((1, 3, 3), np.uint8), "shape"),
        (np.zeros((1, *MODEL_SIZE), np.float32), "float32"),
    ],
)
def test_invalid_mask_is_not_shown(mask: np.ndarray, why: str) -> None:
    with pytest.raises(InvalidMaskError, match=why):
        validate_mask(mask, size=MODEL_SIZE, classes=3)
    scenario = FaultScenario(expected="invalid")
    scenario.run(model(lambda: lambda frames: mask if scenario.act == 1 else threshold(frames)))
    assert why in scenario.why


def test_nan_weights_are_detected_by_golden_self_test() -> None:
    """NaN scores have their argmax at class 0: an empty mask, as honest as any to look at."""
    golden = picture(1)[None, ::2, ::2]

    def poisoned(frames: np.ndarray) -> np.ndarray:
        return threshold(frames) * np.uint8(scenario.act != 1)

    scenario = FaultScenario(expected="invalid")
    scenario.run(model(lambda: poisoned, golden=(golden, threshold(golden)), golden_every=3))
    assert "golden" in scenario.why


# --- the wall clock, outputs, two at once, the end ---


def test_stream_does_not_read_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def set_back() -> float:
        raise AssertionError("somebody asked what time it is")

    monkeypatch.setattr(time, "time", set_back)
    monkeypatch.setattr(time, "time_ns", set_back)
    FaultScenario(lambda k: SourceFrame(picture(0)), expected="stale").run()


class _Slow:
    def __init__(self) -> None:
        self.release, self.seen = threading.Event(), []

    def show(self, shown: Any) -> None:
        self.seen.append(shown)
        self.release.wait(20)

    def close(self) -> None: ...


def test_slow_output_skips_to_latest_snapshot() -> None:
    slow = _Slow()
    session = Session(IterableSource((picture(k) for k in range(60)), hz=200), model(), options=OPTIONS)
    output_thread = OutputThread(slow, session.display_state, name="slow")
    record = session.run()
    assert record["frames"] == 60 and len(slow.seen) <= 1
    slow.release.set()
    while len(slow.seen) < 2 or slow.seen[-1].frame is None:
        time.sleep(0.01)
    output_thread.close()
    assert slow.seen[-1].frame.id == 59


def test_failing_output_stops_alone(capsys: pytest.CaptureFixture[str]) -> None:
    class Full(_Slow):
        def show(self, shown: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    session = Session(IterableSource((picture(k) for k in range(30)), hz=200), model(), options=OPTIONS)
    output_thread = OutputThread(Full(), session.display_state, name="recorder")
    assert session.run()["frames"] == 30
    output_thread.close()
    assert "No space left" in output_thread.failed and "recorder stopped" in capsys.readouterr().err


def test_source_lock_rejects_second_stream(tmp_path: Path) -> None:
    first = SourceLock("camera:0", folder=tmp_path)
    with pytest.raises(ValueError, match=r"camera:0: process \d+ streams from it already"):
        SourceLock("camera:0", folder=tmp_path)
    SourceLock("camera:1", folder=tmp_path).release()
    first.release()
    SourceLock("camera:0", folder=tmp_path).release()


def test_last_frame_gets_its_mask() -> None:
    shown = []
    Session(
        IterableSource([picture(0)]), model(), options=OPTIONS, display=lambda s, drawn: shown.append(s.status.frame_id)
    ).run()
    assert shown[-1] == 0


@pytest.mark.parametrize(
    ("field", "value"), [("budget_ms", 0), ("no_signal_ms", -1), ("frozen_ms", -1), ("hang_ms", 0), ("frames", 0)]
)
def test_invalid_option_is_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field}: must be .*, not {value}"):
        StreamOptions(**{field: value})


def test_blocking_read_is_no_signal_until_it_returns() -> None:
    def block(k: int) -> SourceFrame:
        while scenario.act == 1:
            time.sleep(0.005)
        return SourceFrame(picture(k))

    scenario = FaultScenario(block, expected="no-signal")
    scenario.run()
    assert scenario.why == "no new frame"
