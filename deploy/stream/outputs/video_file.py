"""A video file of the displayed pictures: frames with their overlay, at their times of capture.

The file is fragmented, so that the part that was written before a crash or a full disk can be played. Until it is
closed, its name is `.NAME.part`.
"""

from __future__ import annotations

import contextlib
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from deploy.stream.outputs.base import OutputContext, recording
from deploy.stream.state.frames import DisplaySnapshot
from edgemt.io.atomic import NoSpaceError, no_space

_FORMATS = {".mp4": "mp4", ".mkv": "matroska"}
_TICKS = 1000  # per second


def open_video(argument: str, context: OutputContext) -> VideoFile:
    """`video:FILE.mp4` or `video:FILE.mkv`."""
    return VideoFile(Path(argument))


class VideoFile:
    """An output sink. A change of the picture size begins another file, NAME.2.mp4.

    Raises ValueError for another suffix, a missing folder, an existing file, or without PyAV.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() not in _FORMATS:
            raise ValueError(f"output video:{path}: write video:FILE.mp4 or video:FILE.mkv")
        if not path.parent.is_dir():
            raise ValueError(f"output video:{path}: no folder {path.parent}; make it first")
        try:
            import av
        except ImportError:
            raise ValueError(f"output video:{path}: needs av; pip install av") from None
        self._av, self._path, self._number = av, path, 0
        self._container: Any = None
        self._stream: Any = None
        self._size: tuple[int, int] | None = None
        self._last_key: tuple[Any, ...] = ()
        self._start_ns, self._last_tick = 0, -1
        self._recording = contextlib.ExitStack()
        self._recording.enter_context(recording(f"video {path.name}"))
        self._reject_existing(path)

    def show(self, snapshot: DisplaySnapshot) -> None:
        picture, frame, status = snapshot.picture(), snapshot.frame, snapshot.status
        key = (frame.id if frame else -1, status.frame_id, status.state, status.reason)
        if picture is None or frame is None or key == self._last_key:
            return
        self._last_key = key
        picture = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]  # yuv420p requires even sides
        try:
            if picture.shape[:2] != self._size:
                self._begin(picture.shape[:2], frame.captured_ns)
            tick = max((frame.captured_ns - self._start_ns) * _TICKS // 10**9, self._last_tick + 1)
            self._last_tick = int(tick)
            self._write(np.ascontiguousarray(picture), self._last_tick)
        except self._av.error.FFmpegError as error:
            if no_space(error):
                raise NoSpaceError(f"{self._path}: no space left on the disk; recording has ended") from None
            raise

    def close(self) -> None:
        self._finish()
        self._recording.close()

    def _begin(self, size: tuple[int, int], captured_ns: int) -> None:
        self._finish()
        self._number += 1
        if self._number > 1:
            self._reject_existing(self._file())
        options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"} if self._path.suffix == ".mp4" else {}
        kind = _FORMATS[self._path.suffix.lower()]
        self._container = self._av.open(str(self._part()), "w", format=kind, options=options)
        codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
        fast = {"preset": "ultrafast", "crf": "20", "tune": "zerolatency"} if codec == "libx264" else {"qscale": "3"}
        self._stream = self._container.add_stream(codec, rate=30, options=fast)
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = Fraction(1, _TICKS)
        self._stream.codec_context.gop_size = 30  # frames per fragment; a crash loses one fragment at most
        self._size, self._start_ns, self._last_tick = size, captured_ns, -1

    def _write(self, picture: np.ndarray, tick: int) -> None:
        frame = self._av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = tick, Fraction(1, _TICKS)
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def _finish(self) -> None:
        if self._container is None:
            return
        with contextlib.suppress(self._av.error.FFmpegError, OSError):  # full disk: the written fragments are valid
            for packet in self._stream.encode():
                self._container.mux(packet)
        with contextlib.suppress(self._av.error.FFmpegError, OSError):
            self._container.close()
        self._container = self._stream = self._size = None
        if self._part().is_file():
            os.replace(self._part(), self._file())

    def _file(self) -> Path:
        number = f".{self._number}" if self._number > 1 else ""
        return self._path.with_name(f"{self._path.stem}{number}{self._path.suffix}")

    def _part(self) -> Path:
        return self._file().with_name(f".{self._file().name}.part")

    def _reject_existing(self, path: Path) -> None:
        if path.exists():
            self._recording.close()
            raise ValueError(f"output video:{path}: is there already; name another file")
