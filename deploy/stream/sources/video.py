"""Video files and RTSP, decoded by FFmpeg through PyAV."""

from __future__ import annotations

import io
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from deploy.stream.sources.base import CorruptFrameError, SourceFrame, SourceLostError, import_library

_RIGHT_ANGLE_TOLERANCE = 1e-3  # of the coefficients of a display matrix
_SQUARE_TOLERANCE = 0.01  # of the aspect ratio of a pixel
_TIMEOUT_S = (5.0, 2.0)  # to open, and to wait for data
_LOW_DELAY = {"rtsp_transport": "tcp", "fflags": "nobuffer", "flags": "low_delay"}


class VideoSource:
    """A file is played at its own rate. A network stream is live: it is opened again when its data stops."""

    def __init__(self, text: str, *, data: bytes | None = None) -> None:
        """`data`: the bytes of a video that is embedded in another file; `text` is then the name of that file."""
        self.name, self.live, self._data = text, "://" in text, data
        self.hz: float | None = None
        self._container: Any = None
        self._packets: Any = None
        self._ratio: Any = None  # aspect ratio of a pixel
        self._decoded: deque[Any] = deque()

    def open(self) -> None:
        av = import_library("av", pip="av", source=self.name)
        if not self.live and not Path(self.name).is_file():
            raise ValueError(f"source {self.name}: no such file or folder")
        try:
            options = _LOW_DELAY if self.live else {}
            file = self.name if self._data is None else io.BytesIO(self._data)
            self._container = av.open(file, options=options, timeout=_TIMEOUT_S if self.live else None)
            stream = next(one for one in self._container.streams.video if not _is_cover(one))
            rate, self._ratio = stream.average_rate, stream.sample_aspect_ratio
            # frame threads delay frames, which is acceptable for files only
            stream.thread_type = "SLICE" if self.live else "AUTO"
            stream.codec_context.open(strict=False)
        except StopIteration:
            raise ValueError(f"source {self.name}: holds no video; name another file") from None
        except (av.error.FFmpegError, OSError, ValueError) as error:
            why = str(error).partition(": '")[0]
            hint = "check its address and whether it is on" if self.live else "convert it to H.264 in MP4"
            raise ValueError(f"source {self.name}: cannot be played ({why}); {hint}") from None
        if not self.live and self.hz is None:
            self.hz = float(rate) if rate else 25.0
        self._packets = self._container.demux(stream)

    def read(self) -> SourceFrame | None:
        import av

        try:
            while not self._decoded:
                packet = next(self._packets, None)
                if packet is None:
                    if self.live:
                        raise SourceLostError("the stream ended")
                    return None
                self._decoded.extend(packet.decode())
            frame = self._decoded.popleft()
            if frame.is_corrupt:
                raise CorruptFrameError("a damaged frame")
            return SourceFrame(self._upright(frame), None if frame.time is None else int(frame.time * 1e9))
        except av.error.InvalidDataError as error:
            raise CorruptFrameError(f"data that cannot be decoded ({error})") from None
        except (av.error.FFmpegError, OSError) as error:
            raise SourceLostError(f"reading failed ({error})") from None

    def _upright(self, frame: Any) -> np.ndarray:
        """uint8 [H, W, 3] as players show it: with square pixels, rotated by the display matrix."""
        width, height = _with_square_pixels(frame.width, frame.height, self._ratio)
        pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
        matrix = next((bytes(side) for side in frame.side_data if side.type.name == "DISPLAYMATRIX"), None)
        return pixels if matrix is None else rotate_by_display_matrix(pixels, matrix, name=self.name)

    def close(self) -> None:
        self._decoded.clear()
        if self._container is not None:
            self._container.close()
        self._container = self._packets = None


def rotate_by_display_matrix(pixels: np.ndarray, matrix: bytes, *, name: str) -> np.ndarray:
    """Rotate and mirror [H, W, ...] by a display matrix of FFmpeg, nine 32-bit numbers: x' = a x + c y, y' = b x + d y.

    Raises ValueError for a rotation that is not a multiple of 90 degrees.
    """
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5] / 65536
    diagonal = max(abs(b), abs(c)) < _RIGHT_ANGLE_TOLERANCE  # 0 or 180 degrees
    transposed = max(abs(a), abs(d)) < _RIGHT_ANGLE_TOLERANCE  # 90 or 270 degrees
    if diagonal == transposed:
        angle = np.degrees(np.arctan2(b, a))
        raise ValueError(
            f"source {name}: its display matrix rotates by {angle:.1f} degrees; save it rotated by 0, 90, 180 or 270"
        )
    across, down = (a, d) if diagonal else (c, b)
    pixels = pixels if diagonal else pixels.swapaxes(0, 1)
    return np.ascontiguousarray(pixels[:: 1 if down > 0 else -1, :: 1 if across > 0 else -1])


def _with_square_pixels(width: int, height: int, ratio: Any) -> tuple[int, int]:
    """Width and height after resampling pixels of aspect ratio `ratio` (width / height) to squares; no side shrinks."""
    if not ratio or not 0.1 < ratio < 10 or abs(ratio - 1) < _SQUARE_TOLERANCE:
        return width, height
    return (round(width * ratio), height) if ratio > 1 else (width, round(height / ratio))


def _is_cover(stream: Any) -> bool:
    return "attached_pic" in str(getattr(stream, "disposition", "")).lower()


def is_video(path: str) -> bool:
    """Whether FFmpeg finds a video in the file, whatever its name is. False without PyAV."""
    try:
        import av
    except ImportError:
        return False
    try:
        with av.open(path) as container:
            image = container.format.name.endswith("_pipe") or container.format.name in ("image2", "tty")
            return not image and any(not _is_cover(stream) for stream in container.streams.video)
    except (av.error.FFmpegError, OSError, ValueError):
        return False
