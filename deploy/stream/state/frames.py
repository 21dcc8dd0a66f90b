"""The values of a stream: a frame, the inference result of a frame, the status of a mask, and a display snapshot.

Every age is the difference of two readings of one monotonic clock, so a change of the wall clock has no effect.

Shapes: H W of a picture, h w of the model's mask, pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from deploy.stream.state.band_lines import DeferredMarks
from deploy.stream.state.overlay import Overlay, composite

Clock = Callable[[], int]  # nanoseconds, never backwards
monotonic: Clock = time.monotonic_ns
State = Literal["fresh", "stale", "invalid", "no-signal"]
STATES: tuple[State, ...] = ("fresh", "stale", "invalid", "no-signal")


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of the source.

    `captured_ns` is the time of receipt minus `late_ns`. `late_ns` is the additional delay of this frame compared with
    the fastest frame, measured by the source's own clock (0 without one). `source_ns` is the time on that clock.
    """

    id: int  # counts the frames of a session without gaps
    pixels: np.ndarray  # uint8 [H, W] or [H, W, 3]; read-only by convention
    captured_ns: int
    source_ns: int | None = None
    epoch: int = 0  # changes after a reconnect or a change of size; a mask is valid within its epoch only
    late_ns: int = 0
    origin: Any = None  # data of the source, as given in SourceFrame.origin

    @property
    def received_ns(self) -> int:
        """Time at which the frame was complete in memory."""
        return self.captured_ns + self.late_ns

    @property
    def size(self) -> tuple[int, int]:
        return (self.pixels.shape[0], self.pixels.shape[1])


@dataclass(frozen=True, eq=False)
class InferenceResult:
    """A mask together with the frame that it was computed from."""

    frame: Frame
    mask: np.ndarray  # uint8 [h, w]
    overlay: Overlay  # its outline at the frame's size
    done_ns: int
    agreement: float | None = None  # foreground Dice with the previous mask, 0 to 1
    likeness: float | None = None  # similarity of the frame to the training frames, 0 to 1
    vote_delay_ms: float | None = None  # by which a vote of masks shows a change later; None without a vote
    marks: DeferredMarks | None = None  # outer and inner regions where their claim holds, and the uncertain region
    contours: str = ""  # why there are none; empty: there are, or the model has no margins
    adapted: bool = False  # by a head that was fitted in this session (`deploy.adaptation`)


@dataclass(frozen=True, eq=False)
class MaskStatus:
    """State, age and origin of a mask. `mask` is not None exactly when `state` is "fresh"."""

    state: State
    reason: str  # why no mask is shown; empty when fresh
    model: str
    frame_id: int | None = None  # of the frame that the mask was computed from
    captured_ns: int | None = None
    source_ns: int | None = None
    age_ms: float | None = None
    confidence: float | None = None
    confidence_is: str = ""  # the definition of `confidence`
    likeness: float | None = None
    vote_delay_ms: float | None = None  # by which a vote of masks shows a change later; None without a vote
    valid_until_ns: int | None = None  # on the monotonic clock of this machine; a fresh mask is stale from then on
    contours: str = ""  # of a fresh mask: why no outer and inner line is drawn; empty where they are
    refused: str = ""  # with "no-signal": why the frames of the source are rejected
    adapted: bool = False  # a fresh mask is of a head that was fitted in this session, not of the shipped one
    mask: np.ndarray | None = None  # uint8 [h, w]

    def message(self, *, now_ns: int, wall_s: float | None = None) -> dict[str, Any]:
        """`to_json` plus the end of validity, for a reader that may read the message late.

        `sent_ns` and `valid_until_ns` are on the monotonic clock of this machine (CLOCK_MONOTONIC on Linux),
        `valid_until_utc` in seconds since 1970, `valid_for_ms` from the moment of sending. Null without an end.
        """
        ends = self.valid_until_ns
        remaining_s = None if ends is None else (ends - now_ns) / 1e9
        return {
            **self.to_json(),
            "sent_ns": now_ns,
            "valid_for_ms": None if remaining_s is None else round(remaining_s * 1e3, 3),
            "valid_until_utc": None
            if remaining_s is None
            else round((time.time() if wall_s is None else wall_s) + remaining_s, 6),
        }

    def to_json(self) -> dict[str, Any]:
        """All fields except the mask."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "mask"}
        return {**fields, "age_ms": None if self.age_ms is None else round(self.age_ms, 3)}


@dataclass(frozen=True, eq=False)
class DisplaySnapshot:
    """The newest frame and the status of its mask, both read at one moment."""

    frame: Frame | None
    status: MaskStatus
    overlay: Overlay  # outline of a fresh mask, or a text with the reason why there is none
    result: InferenceResult | None = None  # only if it is fresh

    def drawn_overlay(self) -> Overlay:
        """The overlay with the hatching and the outer and inner lines of the mask; the first call computes them."""
        marks = None if self.result is None else self.result.marks
        return self.overlay if marks is None else marks.on(self.overlay)

    def picture(self) -> np.ndarray | None:
        """uint8 [H, W, 3]: the frame with `drawn_overlay` on it; no other pixel differs. None without a frame."""
        return None if self.frame is None else composite(self.frame.pixels, self.drawn_overlay())
