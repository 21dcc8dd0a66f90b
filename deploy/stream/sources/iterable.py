"""Frames from Python: any iterable of arrays, or of (array, time in nanoseconds) pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from deploy.stream.sources import Picture


class IterableSource:
    """Played as the frames come; `hz` holds them to a pace. It can be read once."""

    live, name = False, "python"

    def __init__(self, frames: Iterable[Any], *, hz: float | None = None) -> None:
        self.hz = hz
        self._frames: Iterator[Any] = iter(frames)

    def open(self) -> None: ...

    def read(self) -> Picture | None:
        for item in self._frames:
            pixels, source_ns = item if isinstance(item, tuple) else (item, None)
            # whoever gives frames may write the next one into the same array
            return Picture(pixels.copy() if isinstance(pixels, np.ndarray) else pixels, source_ns)
        return None

    def close(self) -> None: ...
