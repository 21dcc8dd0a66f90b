"""The interface of a frame source, and what every source needs."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple, Protocol

import numpy as np


class SourceLostError(Exception):
    """The source is unavailable for now; the capture thread opens it again after a pause."""


class CorruptFrameError(Exception):
    """One frame cannot be used; the next one may be valid."""


class SourceFrame(NamedTuple):
    """One frame as a source reads it."""

    pixels: np.ndarray  # uint8 [H, W] or [H, W, 3] (RGB)
    source_ns: int | None = None  # time on the source's own clock; it may repeat
    origin: Any = None  # data of the source for outputs, such as the position of the image


class Source(Protocol):
    """Opened, read until it ends, closed; it may be opened again."""

    name: str
    live: bool  # has a clock of its own, belongs to one program, and is opened again when it is lost
    hz: float | None  # playback rate of a source that is not live; None: its own rate, 0: as fast as possible

    def open(self) -> None:
        """Raises ValueError in one line for a source that does not exist or cannot be read."""

    def read(self) -> SourceFrame | None:
        """Wait for the next frame; None at the end. Raises SourceLostError, or CorruptFrameError for one frame."""

    def close(self) -> None: ...


def import_library(name: str, *, pip: str, source: str) -> Any:
    """The module that a source needs. Raises ValueError with the package to install."""
    try:
        return import_module(name)
    except ImportError:
        raise ValueError(f"source {source}: needs {pip}; pip install {pip}") from None
