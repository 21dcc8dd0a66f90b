"""What travels: a frame, what inference made of it, and what may be shown of that now.

Every age is a difference of two readings of one monotonic clock, so a wall clock that is set back changes nothing.

Shapes: H W of a picture, h w of the model's mask, pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from deploy.stream.state.overlay import Marker, drawn

Clock = Callable[[], int]  # nanoseconds, never backwards
monotonic: Clock = time.monotonic_ns
State = Literal["fresh", "stale", "invalid", "no-signal"]
STATES: tuple[State, ...] = ("fresh", "stale", "invalid", "no-signal")


@dataclass(frozen=True, eq=False)
class Frame:
    """`captured_ns` is when it lay in our memory, less what it is late by: where the source has a time of its own, that
    shows how much later a frame comes than the quickest did. `source_ns` is that time, on a clock of its own."""

    id: int  # counts the frames of a session without gaps
    pixels: np.ndarray  # uint8 [H, W] or [H, W, 3]; nobody writes to it
    captured_ns: int
    source_ns: int | None = None
    epoch: int = 0  # another after a reconnect or a change of size: masks do not cross it
    late_ns: int = 0
    origin: Any = None  # of the picture, as its source gave it

    @property
    def received_ns(self) -> int:
        """When it lay in our memory."""
        return self.captured_ns + self.late_ns

    @property
    def size(self) -> tuple[int, int]:
        return (self.pixels.shape[0], self.pixels.shape[1])


@dataclass(frozen=True, eq=False)
class Result:
    """A mask, with the very frame that it was made from."""

    frame: Frame
    mask: np.ndarray  # uint8 [h, w]
    marker: Marker  # its outline at the frame's size
    done_ns: int
    agreement: float | None = None  # foreground Dice with the mask before it, 0 to 1
    likeness: float | None = None  # of the frame to those of training, 0 to 1


@dataclass(frozen=True, eq=False)
class MaskRecord:
    """What is said of the mask beside a frame. `mask` is there when `state` is fresh, and never else."""

    state: State
    reason: str  # in words, for whoever sees no mask; empty when fresh
    model: str
    frame_id: int | None = None  # that the mask was made from
    captured_ns: int | None = None
    source_ns: int | None = None
    age_ms: float | None = None
    confidence: float | None = None
    confidence_is: str = ""  # what kind of number that is
    likeness: float | None = None
    valid_until_ns: int | None = None  # on the monotonic clock of this machine; a fresh mask is stale from then on
    refused: str = ""  # without a signal: why the pictures that come cannot be used
    mask: np.ndarray | None = None

    def message(self, *, now_ns: int, wall_s: float | None = None) -> dict[str, Any]:
        """The record for a reader that may read it late: what `to_json` gives, and until when the state holds.

        `sent_ns` and `valid_until_ns` are on the monotonic clock of this machine (CLOCK_MONOTONIC on Linux),
        `valid_until_utc` in seconds since 1970, `valid_for_ms` from the moment of sending. Null where nothing ends.
        """
        ends = self.valid_until_ns
        left_s = None if ends is None else (ends - now_ns) / 1e9
        return {
            **self.to_json(),
            "sent_ns": now_ns,
            "valid_for_ms": None if left_s is None else round(left_s * 1e3, 3),
            "valid_until_utc": None
            if left_s is None
            else round((time.time() if wall_s is None else wall_s) + left_s, 6),
        }

    def to_json(self) -> dict[str, Any]:
        """Everything but pixels."""
        said = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "mask"}
        return {**said, "age_ms": None if self.age_ms is None else round(self.age_ms, 3)}


@dataclass(frozen=True, eq=False)
class Shown:
    """One look at the board: the newest frame, and what may stand on it."""

    frame: Frame | None
    record: MaskRecord
    marker: Marker  # outline of a fresh mask, or the words that say why there is none
    result: Result | None = None  # only while it is fresh

    def picture(self) -> np.ndarray | None:
        """uint8 [H, W, 3]: the frame with the marker on it; no other pixel differs. None without a frame."""
        return None if self.frame is None else drawn(self.frame.pixels, self.marker)
