"""One stream from its source to what is shown: starts the threads, shows, and tells afterwards what it did."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.hardware.machine import memory
from deploy.stream.capture import Capture
from deploy.stream.inference.inference_thread import Infer, Inference, Model, close
from deploy.stream.inference.package_watcher import ModelWatch
from deploy.stream.inference.worker_process import children_cpu_s
from deploy.stream.limits import TimeLimits
from deploy.stream.sources import Source
from deploy.stream.sources.lock import SourceLock
from deploy.stream.state.display_state import Board, Limits
from deploy.stream.state.frames import Clock, Frame, MaskRecord, Shown, monotonic
from deploy.stream.state.latency import Delays
from deploy.stream.state.latest_queue import Mailbox
from deploy.stream.state.overlay import words
from deploy.stream.state.timeline import Timeline

Display = Callable[[Shown, "np.ndarray | None"], None]  # returns when the picture is on the screen
_TEND_S = 0.1  # between two looks at inference
_WATCH_EVERY = 5  # of these, one look at the model's folder
_WEIGH_EVERY = 50  # and one at memory: the first after five seconds, when caches are full


@dataclass(frozen=True)
class StreamOptions(TimeLimits):
    """How long things may take, and how many frames to take."""

    frames: int | None = None
    """Stop after so many; None goes on to the end of the source."""

    def __post_init__(self) -> None:
        Limits(self.budget_ms, self.no_signal_ms)
        for name, least in (("frozen_ms", 0.0), ("hang_ms", 1.0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: must be {least:g} ms or more, not {getattr(self, name):g}")
        if self.frames is not None and self.frames < 1:
            raise ValueError(f"frames: must be 1 or more, not {self.frames}")


class Session:
    """`run` shows until the source ends or `stop` is called. Without a model it shows the bare frames."""

    def __init__(
        self, source: Source, model: Model | None, *, first: Infer | None = None, options: StreamOptions | None = None,
        display: Display = lambda shown, picture: None, watch: ModelWatch | None = None, clock: Clock = monotonic,
        delays: Delays | None = None, standby: bool = True,
    ) -> None:  # fmt: skip
        """`first` is closed by whoever made it. `standby`: see Inference."""
        self.options, self.delays = options or StreamOptions(), delays or Delays()
        limits = Limits(self.options.budget_ms, self.options.no_signal_ms)
        self.board = Board(limits, model=model.id if model else "", masks=model is not None, clock=clock)
        self.finished = threading.Event()
        self.inference: Inference | None = None
        self._source, self._model, self._first, self._display, self._watch = source, model, first, display, watch
        self._inbox: Mailbox[Frame] = Mailbox()
        self.capture = Capture(
            source, self.board, self._inbox, frozen_ms=self.options.frozen_ms, frames=self.options.frames
        )
        self._standby = standby
        self._stop = threading.Event()
        self._begun = _now()
        self._ended: tuple[float, float] | None = None
        self._timeline = Timeline(self.delays.annotation)

    def run(self) -> dict[str, Any]:
        """The record of the run. Raises ValueError, before anything is shown, for a source that cannot be opened."""
        lock: SourceLock | None = None
        made: Infer | None = None
        tending = threading.Thread(target=self._tend, name="edgemt-tend", daemon=True)
        try:
            lock = SourceLock(self._source.name) if self._source.live else None
            self.capture.start()
            if self._model is not None:
                made = first = self._first or self._model.make()
                self.inference = Inference(
                    self._model, self.board, self._inbox, hang_ms=self.options.hang_ms, first=first,
                    standby=self._standby,
                )  # fmt: skip
            tending.start()
            self._begun = _now()
            self._show()
        finally:
            self._ended = _now()
            self.stop()
            self.capture.stop()
            if self.inference is not None:
                self.inference.stop()
            if made is not self._first:
                close(made)
            if tending.is_alive():
                tending.join(1.0)
            if lock is not None:
                lock.release()
            self.finished.set()
        if self.capture.error is not None:
            raise self.capture.error
        return self.record()

    def record(self) -> dict[str, Any]:
        """What the session did so far."""
        ended = self._ended or _now()
        return self._said(wall_s=ended[0] - self._begun[0], cpu_s=ended[1] - self._begun[1])

    def stop(self) -> None:
        self._stop.set()
        self.board.close()

    def _show(self) -> None:
        seen, last, wait_s, drained = -1, (), 1.0, False
        while not self._stop.is_set():
            seen = self.board.wait(seen, wait_s)
            if self.board.closed and not drained:
                drained = True
                self._drain()
            shown = self.board.look()
            key = _key(shown)
            if key != last:
                last = key
                self._present(shown)
            elif drained:
                return
            wait_s = 0.0 if drained else self.board.next_change_s(shown)

    def _present(self, shown: Shown) -> None:
        """A mask that grows too old while it is drawn is not shown either."""
        picture = self._picture(shown)
        if self._too_old(shown):
            shown = self.board.look()
            picture = self._picture(shown)
        if self._too_old(shown):  # drawing is what takes so long
            shown = _without_mask(shown)
            picture = self._picture(shown)
        self._display(shown, picture)
        self.delays.note(shown, picture, shown_ns=self.board.clock())

    def _too_old(self, shown: Shown) -> bool:
        made_from = shown.result.frame if shown.result is not None else None
        return made_from is not None and self.board.clock() - made_from.captured_ns > self.options.budget_ms * 1e6

    def _picture(self, shown: Shown) -> np.ndarray | None:
        if self._model is None:
            return None if shown.frame is None else shown.frame.pixels
        return shown.picture()

    def _tend(self) -> None:
        turn = 0
        while not self._stop.wait(_TEND_S):
            if self.inference is not None:
                self.inference.tend()
            if turn % _WEIGH_EVERY == _WEIGH_EVERY - 1:
                weight, at_s = memory()["resident_bytes"], _now()[0] - self._begun[0]
                self._timeline.look(at_s=at_s, frames=self.capture.counted.frames, resident_bytes=weight)
            if self._watch is not None and turn % _WATCH_EVERY == 0:
                self.board.fault("model", self._watch.look())
            turn += 1

    def _drain(self) -> None:
        """The source has ended: the last frame may still get its mask."""
        until = time.monotonic() + self.options.hang_ms / 1e3
        while self.inference is not None and time.monotonic() < until and not self._stop.is_set():
            time.sleep(0.002)
            if self._inbox.empty and not self.inference.busy:
                return

    def _said(self, *, wall_s: float, cpu_s: float) -> dict[str, Any]:
        captured = self.capture.counted
        inferred = self.inference.counted if self.inference is not None else None
        return {
            "model": self.board.model,
            "source": self._source.name,
            "frames": captured.frames,
            "seconds": round(wall_s, 3),
            "cpu_cores": round(cpu_s / wall_s, 3) if wall_s else None,
            **self._timeline.said(),
            "corrupt": captured.corrupt,
            "refused": [{"why": kind.why, "count": kind.count} for kind in captured.kinds.values()],
            "losses": captured.losses,
            "reopened": captured.reopened,
            "size_changes": captured.size_changes,
            "late_frames": captured.late,
            "masks": inferred.masks if inferred else 0,
            "frames_without_mask": self._inbox.replaced,
            "failures": inferred.failures if inferred else 0,
            "restarts": inferred.restarts if inferred else 0,
            "unlike_training": inferred.unlike if inferred else "",
            "budget_ms": self.options.budget_ms,
            **self.delays.summary(),
        }


def refuse_nothing_shown(record: dict[str, Any]) -> None:
    """Raises ValueError for a stream whose source gave pictures, none of which could be shown."""
    if record["frames"] == 0 and record["refused"]:
        why = "; ".join(kind["why"] for kind in record["refused"][:3])
        raise ValueError(f"source {record['source']}: none of its {record['corrupt']} pictures could be shown ({why})")


def _without_mask(shown: Shown) -> Shown:
    assert shown.frame is not None
    why = "mask too old when drawn"
    plate = words(f"AI STALE: {why}", shown.frame.size)
    return Shown(shown.frame, MaskRecord("stale", why, shown.record.model), plate)


def _now() -> tuple[float, float]:
    """Seconds by the clock and of a core, inference in processes of its own included."""
    return time.monotonic(), time.process_time() + children_cpu_s()


def _key(shown: Shown) -> tuple[Any, ...]:
    """What makes two looks the same picture."""
    return (shown.frame.id if shown.frame else -1, shown.record.frame_id, shown.record.state, shown.record.reason)
