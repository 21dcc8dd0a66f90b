"""A DICOM cine: the frames of one multi-frame file at its own rate, or the video inside such a file.

Only pixels and times are returned; no patient data leaves this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.stream.sources.base import CorruptFrameError, SourceFrame, import_library
from edgemt.io.bit_depth import Depth


class DicomSource:
    """`depth` is the conversion to 8 bits of the model's training (`edgemt.io.bit_depth`); set it before `open`."""

    live = False
    depth = Depth()

    def __init__(self, text: str) -> None:
        self.name = text
        self.hz: float | None = None
        self._file: Any = None
        self._video: Any = None
        self._window: Any = None
        self._step_ns, self._next = 0, 0

    def open(self) -> None:
        import_library("pydicom", pip="pydicom", source=self.name)
        if not Path(self.name).is_file():
            raise ValueError(f"source {self.name}: no such file or folder")
        from deploy.dicom.pixels import DicomFile, video_inside

        try:
            video = video_inside(self.name)
            if video is not None:
                return self._open_video(video)
            self._file = DicomFile(self.name)
            self._window = self._file.shared_window(self.depth)
        except ValueError as error:
            raise ValueError(f"source {str(error).removeprefix('source ')}") from None
        rate = _rate(self._file.header)
        self._step_ns, self._next = int(1e9 / rate), 0
        self.hz = rate if self.hz is None else self.hz

    def read(self) -> SourceFrame | None:
        if self._video is not None:
            return self._video.read()  # type: ignore[no-any-return]
        if self._file is None or self._next >= self._file.count:
            return None
        index = self._next
        self._next += 1
        try:
            pixels = self._file.view(index, self._window)
        except ValueError as error:
            raise CorruptFrameError(str(error)) from None
        return SourceFrame(pixels, index * self._step_ns)

    def close(self) -> None:
        if self._video is not None:
            self._video.close()
        self._file = self._video = None

    def _open_video(self, data: bytes) -> None:
        from deploy.stream.sources.video import VideoSource

        self._video = VideoSource(self.name, data=data)
        self._video.hz = self.hz
        self._video.open()
        self.hz = self._video.hz


def _rate(header: Any) -> float:
    """Frames per second from FrameTime, else CineRate, else RecommendedDisplayFrameRate, else 25."""
    to_hz: dict[str, Any] = {"FrameTime": lambda ms: 1000 / ms, "CineRate": float, "RecommendedDisplayFrameRate": float}
    for name, convert in to_hz.items():
        try:
            value = float(header.get(name) or 0)
        except (TypeError, ValueError):
            continue
        if 0 < value < float("inf"):
            return float(convert(value))
    return 25.0
