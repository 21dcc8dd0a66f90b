"""One run of a stream: starts the threads, shows pictures until the source ends, and returns a record of the run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.hardware.machine import memory
from deploy.package.watcher import PackageWatcher
from deploy.stream.capture import CaptureThread
from deploy.stream.inference.inference_thread import InferenceThread, InferFn, StreamModel, close_runner
from deploy.stream.inference.mask_vote import check_vote
from deploy.stream.inference.worker_process import workers_cpu_s
from deploy.stream.limits import StreamLimits
from deploy.stream.sources.base import Source
from deploy.stream.sources.lock import SourceLock
from deploy.stream.state.display_state import DisplayState, FreshnessLimits
from deploy.stream.state.frames import Clock, DisplaySnapshot, Frame, MaskStatus, monotonic
from deploy.stream.state.latency import DriftTimeline, LatencyTracker
from deploy.stream.state.latest_queue import LatestQueue
from deploy.stream.state.overlay import text_overlay

Display = Callable[[DisplaySnapshot, "np.ndarray | None"], None]  # returns when the picture is on the screen
_MONITOR_S = 0.1  # between two health checks of inference
_CHECK_PACKAGE_EVERY = 5  # health checks between two checks of the package folder
_SAMPLE_MEMORY_EVERY = 50  # and between two samples of memory: the first one after five seconds, when caches are full


@dataclass(frozen=True)
class StreamOptions(StreamLimits):
    """Time limits, and the number of frames. Raises ValueError for a value out of range."""

    frames: int | None = None
    """Stop after this many frames; None: at the end of the source."""
    vote: int = 1
    """Masks that vote on each pixel (`deploy.stream.inference.mask_vote`); 1: none."""

    def __post_init__(self) -> None:
        FreshnessLimits(self.budget_ms, self.no_signal_ms)
        for name, minimum in (("frozen_ms", 0.0), ("hang_ms", 1.0)):
            if getattr(self, name) < minimum:
                raise ValueError(f"{name}: must be {minimum:g} ms or more, not {getattr(self, name):g}")
        if self.frames is not None and self.frames < 1:
            raise ValueError(f"frames: must be 1 or more, not {self.frames}")
        check_vote(self.vote)


class Session:
    """`run` shows pictures until the source ends or `stop` is called. Without a model, frames are shown unchanged."""

    def __init__(
        self, source: Source, model: StreamModel | None, *, runner: InferFn | None = None,
        options: StreamOptions | None = None, display: Display = lambda snapshot, picture: None,
        watcher: PackageWatcher | None = None, clock: Clock = monotonic, latency: LatencyTracker | None = None,
        standby: bool = True,
    ) -> None:  # fmt: skip
        """`runner` is a loaded runner of the model; the caller closes it. `standby`: see InferenceThread."""
        self.options, self.latency = options or StreamOptions(), latency or LatencyTracker()
        limits, model_id = FreshnessLimits(self.options.budget_ms, self.options.no_signal_ms), model.id if model else ""
        claim = model.contours.claim if model is not None and model.contours is not None else ""
        self.display_state = DisplayState(
            limits, model=model_id, masks=model is not None, clock=clock, claim=claim,
            uncertain_above=model.uncertain_above if model is not None else None,
        )  # fmt: skip
        self.finished = threading.Event()
        self.inference: InferenceThread | None = None
        self._source, self._model, self._runner, self._display, self._watcher = source, model, runner, display, watcher
        self._inbox: LatestQueue[Frame] = LatestQueue()
        self.capture = CaptureThread(
            source, self.display_state, self._inbox, frozen_ms=self.options.frozen_ms, frames=self.options.frames
        )
        self._observers: list[Callable[[DisplaySnapshot], None]] = []
        self._standby = standby
        self._stop = threading.Event()
        self._started = _wall_and_cpu_s()
        self._looked_s = time.monotonic()
        self._ended: tuple[float, float] | None = None
        self._timeline = DriftTimeline(self.latency.annotation)

    def run(self) -> dict[str, Any]:
        """Run to the end and return the record.

        Raises ValueError, before the first picture, if the source cannot be opened or another program uses it.
        """
        lock: SourceLock | None = None
        loaded: InferFn | None = None
        monitor = threading.Thread(target=self._monitor, name="edgemt-monitor", daemon=True)
        try:
            lock = SourceLock(self._source.name) if self._source.live else None
            self.capture.start()
            if self._model is not None:
                loaded = runner = self._runner or self._model.load()
                self.inference = InferenceThread(
                    self._model, self.display_state, self._inbox, hang_ms=self.options.hang_ms, runner=runner,
                    standby=self._standby, vote=self.options.vote,
                )  # fmt: skip
            monitor.start()
            self._started = _wall_and_cpu_s()
            self._show()
        finally:
            self._ended = _wall_and_cpu_s()
            self.stop()
            self.capture.stop()
            if self.inference is not None:
                self.inference.stop()
            if loaded is not self._runner:
                close_runner(loaded)
            if monitor.is_alive():
                monitor.join(1.0)
            if lock is not None:
                lock.release()
            self.finished.set()
        if self.capture.error is not None:
            raise self.capture.error
        return self.record()

    def record(self) -> dict[str, Any]:
        """Counts, latencies and drift of the run so far, as documented in deploy/README.md."""
        ended = self._ended or _wall_and_cpu_s()
        return self._build_record(wall_s=ended[0] - self._started[0], cpu_s=ended[1] - self._started[1])

    def add_observer(self, observe: Callable[[DisplaySnapshot], None]) -> None:
        """`observe` is called with every snapshot that was shown, in the display thread: it must return at once."""
        self._observers.append(observe)

    @property
    def frames_without_mask(self) -> int:
        """Frames that a newer one replaced before inference took them."""
        return self._inbox.num_replaced

    def shows(self, within_s: float) -> bool:
        """Whether the thread that shows pictures looked at the display state within that time."""
        return time.monotonic() - self._looked_s < within_s

    def stop(self) -> None:
        self._stop.set()
        self.display_state.close()

    def _show(self) -> None:
        version, last, wait_s, drained = -1, (), 1.0, False
        while not self._stop.is_set():
            version = self.display_state.wait(version, wait_s)
            self._looked_s = time.monotonic()
            if self.display_state.closed and not drained:
                drained = True
                self._drain()
            snapshot = self.display_state.snapshot()
            key = _display_key(snapshot)
            if key != last:
                last = key
                self._present(snapshot)
            elif drained:
                return
            wait_s = 0.0 if drained else self.display_state.seconds_until_change(snapshot)

    def _present(self, snapshot: DisplaySnapshot) -> None:
        """Show a picture. A mask that exceeds the budget while it is painted is not shown."""
        picture = self._picture(snapshot)
        if self._too_old(snapshot):
            snapshot = self.display_state.snapshot()
            picture = self._picture(snapshot)
        if self._too_old(snapshot):  # painting itself takes too long
            snapshot = _without_mask(snapshot)
            picture = self._picture(snapshot)
        self._display(snapshot, picture)
        for observe in self._observers:
            observe(snapshot)
        self.latency.record(snapshot, picture, shown_ns=self.display_state.clock())

    def _too_old(self, snapshot: DisplaySnapshot) -> bool:
        mask_frame = snapshot.result.frame if snapshot.result is not None else None
        return (
            mask_frame is not None
            and self.display_state.clock() - mask_frame.captured_ns > self.options.budget_ms * 1e6
        )

    def _picture(self, snapshot: DisplaySnapshot) -> np.ndarray | None:
        if self._model is None:
            return None if snapshot.frame is None else snapshot.frame.pixels
        return snapshot.picture()

    def _monitor(self) -> None:
        ticks = 0
        while not self._stop.wait(_MONITOR_S):
            if self.inference is not None:
                self.inference.check_health()
            if ticks % _SAMPLE_MEMORY_EVERY == _SAMPLE_MEMORY_EVERY - 1:
                resident, at_s = memory()["resident_bytes"], _wall_and_cpu_s()[0] - self._started[0]
                self._timeline.sample(at_s=at_s, frames=self.capture.counters.frames, resident_bytes=resident)
            if self._watcher is not None and ticks % _CHECK_PACKAGE_EVERY == 0:
                self.display_state.set_fault("model", self._watcher.check())
            ticks += 1

    def _drain(self) -> None:
        """After the end of the source, wait for the mask of the last frame."""
        deadline = time.monotonic() + self.options.hang_ms / 1e3
        while self.inference is not None and time.monotonic() < deadline and not self._stop.is_set():
            time.sleep(0.002)
            if self._inbox.empty and not self.inference.busy:
                return

    def _build_record(self, *, wall_s: float, cpu_s: float) -> dict[str, Any]:
        captured = self.capture.counters
        inferred = self.inference.counters if self.inference is not None else None
        return {
            "model": self.display_state.model,
            "source": self._source.name,
            "frames": captured.frames,
            "seconds": round(wall_s, 3),
            "cpu_cores": round(cpu_s / wall_s, 3) if wall_s else None,
            **self._timeline.record(),
            "corrupt": captured.corrupt,
            "refused": [{"why": kind.why, "count": kind.count} for kind in captured.rejected.values()],
            "losses": captured.losses,
            "reopened": captured.reopened,
            "size_changes": captured.size_changes,
            "late_frames": captured.late,
            "masks": inferred.masks if inferred else 0,
            "frames_without_mask": self.frames_without_mask,
            "failures": inferred.failures if inferred else 0,
            "restarts": inferred.restarts if inferred else 0,
            "flicker": inferred.flicker.record() if inferred else None,
            "vote": self._vote_record(),
            "unlike_training": inferred.drift_message if inferred else "",
            "budget_ms": self.options.budget_ms,
            **self.latency.summary(),
        }

    def _vote_record(self) -> dict[str, Any] | None:
        """{masks, delay_ms}: masks that vote, and the mean delay of a change that this adds; None without a vote."""
        if self.options.vote == 1 or self.inference is None:
            return None
        counters = self.inference.counters
        delay_ms = round(counters.vote_delay_ms / counters.masks, 3) if counters.masks else 0.0
        return {"masks": self.options.vote, "delay_ms": delay_ms}


def raise_if_nothing_shown(record: dict[str, Any]) -> None:
    """Raises ValueError for the record of a stream whose source gave frames that were all rejected."""
    if record["frames"] == 0 and record["refused"]:
        why = "; ".join(kind["why"] for kind in record["refused"][:3])
        raise ValueError(f"source {record['source']}: none of its {record['corrupt']} pictures could be shown ({why})")


def _without_mask(snapshot: DisplaySnapshot) -> DisplaySnapshot:
    assert snapshot.frame is not None
    why = "mask too old when drawn"
    text = text_overlay(f"AI STALE: {why}", snapshot.frame.size)
    return DisplaySnapshot(snapshot.frame, MaskStatus("stale", why, snapshot.status.model), text)


def _wall_and_cpu_s() -> tuple[float, float]:
    """Seconds of the monotonic clock and of CPU time, including worker processes."""
    return time.monotonic(), time.process_time() + workers_cpu_s()


def _display_key(snapshot: DisplaySnapshot) -> tuple[Any, ...]:
    """Snapshots with the same key look the same on the display."""
    return (
        snapshot.frame.id if snapshot.frame else -1,
        snapshot.status.frame_id,
        snapshot.status.state,
        snapshot.status.reason,
    )
