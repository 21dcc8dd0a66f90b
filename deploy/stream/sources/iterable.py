"""Frames from a Python iterable of arrays, or of (array, time in nanoseconds) pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from deploy.stream.sources.base import SourceFrame


class IterableSource:
    """`hz` limits the rate; None reads as fast as possible. It can be read once."""

    live, name = False, "python"

    def __init__(self, frames: Iterable[Any], *, hz: float | None = None) -> None:
        self.hz = hz
        self._frames: Iterator[Any] = iter(frames)

    def open(self) -> None: ...

    def read(self) -> SourceFrame | None:
        for item in self._frames:
            pixels, source_ns = item if isinstance(item, tuple) else (item, None)
            # the caller may write the next frame into the same array
            return SourceFrame(pixels.copy() if isinstance(pixels, np.ndarray) else pixels, source_ns)
        return None

    def close(self) -> None: ...
