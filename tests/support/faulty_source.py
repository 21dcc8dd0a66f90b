"""A source that plays a fault in three phases: valid frames until a mask is shown, the fault until the display has the
expected state, valid frames until a mask is shown again. The displayed state ends a phase, never a clock.

Every displayed picture is checked: no mask that is too old, or that belongs to another picture, is shown as fresh.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from deploy.stream.inference.inference_thread import InferFn, StreamModel
from deploy.stream.session import Session, StreamOptions
from deploy.stream.sources.base import SourceFrame
from deploy.stream.state.frames import DisplaySnapshot, State
from deploy.stream.state.overlay import count_changed_outside, palette

SIZE, MODEL_SIZE = (60, 80), (30, 40)
OPTIONS = StreamOptions(budget_ms=600, no_signal_ms=300, frozen_ms=100, hang_ms=300)
_TOO_MANY = 4_000


def picture(k: int, *, size: tuple[int, int] = SIZE) -> np.ndarray:
    """uint8 [H, W, 3] with a bright block that moves; no two are equal."""
    pixels = np.random.default_rng(k).integers(30, 60, (*size, 3), dtype=np.uint8)
    pixels[10:40, 10 + k % 20 : 50 + k % 20] += 150
    return pixels


def threshold(frames: np.ndarray) -> np.ndarray:
    """A model: uint8 [1, h, w, K] -> uint8 [1, h, w], 1 where it is bright."""
    return (frames.mean(axis=-1) > 128).astype(np.uint8)


def model(load: Callable[[], InferFn] = lambda: threshold, **fields: Any) -> StreamModel:
    return StreamModel(**{"id": "m", "load": load, "size": MODEL_SIZE, "channels": 3, "colours": palette(3), **fields})


class FaultScenario:
    """A source and the display of one session.

    `fault` gives frame k during the fault, `after` the pixels of frame k after it; `opens` is called when the source is
    opened during the fault. `expected` is the state that the display must reach.
    """

    name = "faulty"

    def __init__(
        self,
        fault: Callable[[int], Any] = lambda k: SourceFrame(picture(k)),
        *,
        expected: State,
        live: bool = False,
        opens: Callable[[], None] = lambda: None,
        after: Callable[[int], np.ndarray] = picture,
    ) -> None:
        self.live, self.hz = live, 200.0
        self.detected_s = self.recovered_s = -1.0  # from the fault to its display, from its end to the next mask
        self.act, self.why, self.recovered_after = 0, "", -1  # phase, reason of the fault, frames until a mask was back
        self.states: list[State] = []
        self._fault, self._expected, self._opens, self._after = fault, expected, opens, after
        self._read, self._mended, self._since = 0, -1, 0.0

    def open(self) -> None:
        if self.act == 1:
            self._opens()

    def read(self) -> SourceFrame | None:
        k = self._read
        self._read += 1
        if self.act == 3 or k > _TOO_MANY:
            return None
        if self.live:
            time.sleep(1 / self.hz)
        if self.act == 1:
            return self._fault(k)
        return SourceFrame(picture(k) if self.act == 0 else self._after(k))

    def close(self) -> None: ...

    def watch(self, shown: DisplaySnapshot, drawn: np.ndarray | None) -> None:
        record, frame = shown.status, shown.frame
        self.states.append(record.state)
        check_snapshot(shown, drawn)
        if self.act == 0 and record.state == "fresh":
            self.act, self._since = 1, time.monotonic()
        elif self.act == 1 and record.state == self._expected:
            self.act, self.why, self._mended = 2, record.reason, frame.id if frame else 0
            self.detected_s, self._since = time.monotonic() - self._since, time.monotonic()
        elif self.act == 2 and record.frame_id is not None and record.frame_id > self._mended:
            self.act, self.recovered_after = 3, record.frame_id - self._mended
            self.recovered_s = time.monotonic() - self._since

    def run(
        self, made: StreamModel | None = None, *, options: StreamOptions = OPTIONS, **fields: Any
    ) -> dict[str, Any]:
        record = Session(self, made or model(), options=options, display=self.watch, **fields).run()
        assert self.act == 3, f"stuck in act {self.act} after {self._read} reads; seen {set(self.states)}"
        return record


def check_snapshot(shown: DisplaySnapshot, drawn: np.ndarray | None) -> None:
    record, frame = shown.status, shown.frame
    assert (record.mask is not None) == (record.state == "fresh") == (shown.result is not None)
    if shown.result is not None:
        assert frame is not None and record.age_ms is not None and 0 <= record.age_ms <= OPTIONS.budget_ms
        assert shown.result.frame.epoch == frame.epoch and shown.result.frame.size == frame.size
        assert record.frame_id <= frame.id and not record.reason
    else:
        assert record.reason
    if frame is not None and drawn is not None:
        assert count_changed_outside(drawn, frame.pixels, shown.overlay) == 0
