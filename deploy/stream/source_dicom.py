"""A DICOM cine: the frames of one multi-frame file at its own rate. Only pixels and times are read; nothing that
names a patient leaves this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from deploy.stream.sources import Corrupt, Picture, library
from edgemt.frames import to_uint8


class DicomSource:
    live = False

    def __init__(self, text: str) -> None:
        self.name = text
        self.hz: float | None = None
        self._frames: Iterator[np.ndarray] = iter(())
        self._step_ns, self._count = 0, 0
        self._window: tuple[float, float] | None = None
        self._inverted = False

    def open(self) -> None:
        pydicom = library("pydicom", pip="pydicom", source=self.name)
        if not Path(self.name).is_file():
            raise ValueError(f"source {self.name}: no such file or folder")
        try:
            header = pydicom.dcmread(self.name, stop_before_pixels=True)
            self._frames = pydicom.pixels.iter_pixels(self.name)
        except Exception as error:  # the library raises many kinds
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"source {self.name}: cannot be read as DICOM ({said}); export the cine again") from None
        if "Rows" not in header:
            raise ValueError(f"source {self.name}: holds no picture; export the cine again")
        rate = _rate(header)
        self._step_ns, self._count = int(1e9 / rate), 0
        self.hz = rate if self.hz is None else self.hz
        self._window = _window(header)
        self._inverted = header.get("PhotometricInterpretation") == "MONOCHROME1"

    def read(self) -> Picture | None:
        try:
            frame = next(self._frames, None)
        except Exception as error:  # of whichever decoder the library took
            raise Corrupt(f"a frame that cannot be decoded ({type(error).__name__})") from None
        if frame is None:
            return None
        if frame.dtype != np.uint8 and self._window is None:
            low, high = np.percentile(frame, (0.5, 99.5))  # one window for all frames, or the picture would flicker
            self._window = float(low), float(high)
        pixels = to_uint8(frame, window=self._window)
        self._count += 1
        return Picture(255 - pixels if self._inverted else pixels, (self._count - 1) * self._step_ns)

    def close(self) -> None:
        self._frames = iter(())


def _rate(header: Any) -> float:
    """Frames a second: by FrameTime, else CineRate or the recommended rate, else 25."""
    if header.get("FrameTime"):
        return 1000 / float(header.FrameTime)
    return float(header.get("CineRate") or header.get("RecommendedDisplayFrameRate") or 25)


def _window(header: Any) -> tuple[float, float] | None:
    """Lowest and highest stored value of the window in the file, if it has one."""
    centre, width = header.get("WindowCenter"), header.get("WindowWidth")
    if centre is None or width is None:
        return None
    centre, width = _number(centre), _number(width)
    slope, zero = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
    return (centre - width / 2 - zero) / slope, (centre + width / 2 - zero) / slope


def _number(value: Any) -> float:
    """Of an entry that may hold several: the first."""
    return float(value if isinstance(value, str) or not hasattr(value, "__len__") else value[0])
