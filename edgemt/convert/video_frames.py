"""Frames of a video file, upright and with square pixels, decoded one after the other by FFmpeg through PyAV.

Shapes: H W size of a frame in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from deploy.stream.sources.video import rotate_by_display_matrix
from edgemt.data.layouts.clips import VIDEOS
from edgemt.io.decode_limits import check_pixels
from edgemt.io.file_types import is_stray
from edgemt.io.image_hashes import block_means

_STEP, _LEAST = 8, 64  # every 8th row and column is enough for hashes and scene changes, but 64 of each
_SQUARE_TOLERANCE = 0.01
_SCENE = 0.35  # distance of grey histograms, 0 to 1
_SCENE_BLOCKS = 18.0  # mean difference of 16 x 16 block means, grey values
_BINS = 32
_LATE = 0.5  # seconds that the last frame may be shown


def is_video_file(path: Path) -> bool:
    """By its suffix."""
    return path.name.lower().endswith(VIDEOS) and not is_stray(path) and path.is_file()


@contextmanager
def opened_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """(container, stream) of PyAV. Raises ValueError, naming the file, for one without a video that can be decoded."""
    try:
        import av
    except ImportError:
        raise ValueError(f"{path}: reading videos needs PyAV; pip install av") from None
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        why = str(error).partition(": '")[0]
        raise ValueError(f"{path}: cannot be read as a video ({why}); convert it to H.264 in MP4") from None
    with container:
        streams = [s for s in container.streams.video if "attached_pic" not in str(s.disposition).lower()]
        if not streams:
            raise ValueError(f"{path}: holds no video; remove it")
        stream = streams[0]
        check_pixels(path, int(stream.codec_context.width), int(stream.codec_context.height))
        stream.thread_type = "AUTO"
        yield container, stream


def frame_count(path: Path) -> int | None:
    """What the header states; None where it states nothing."""
    with opened_video(path) as (container, stream):
        if stream.frames:
            return int(stream.frames)
        if container.duration and stream.average_rate:
            return max(1, round(container.duration / 1e6 * float(stream.average_rate)))
        return None


def decoded_frames(path: Path) -> Iterator[VideoFrame]:
    """Every frame in the order of display. Raises ValueError, naming the file, where data are damaged or cut short."""
    import av

    with opened_video(path) as (container, stream):
        stated, number, seconds = int(stream.frames or 0), -1, 0.0
        try:
            for frame in container.decode(stream):
                number += 1
                if frame.is_corrupt:
                    raise ValueError(f"{path}: frame {number} is damaged; copy the video again, or cut it before there")
                seconds = max(seconds, float(frame.time or 0.0))
                yield VideoFrame(path, number, frame, stream.sample_aspect_ratio)
        except (av.error.FFmpegError, OSError) as error:
            why = str(error).partition(": '")[0]
            raise ValueError(
                f"{path}: cannot be decoded after frame {number} ({why}); copy the video again, or cut it before there"
            ) from None
        if number < 0:
            raise ValueError(f"{path}: holds no frame; copy the video again")
        if number + 1 < stated * 0.98:
            raise ValueError(f"{path}: ends after frame {number} of {stated}; copy the video again")
        length = (container.duration or 0) / 1e6  # Matroska states no number of frames
        if not stated and not container.streams.audio and seconds + _LATE < length * 0.9:
            raise ValueError(f"{path}: ends after {seconds:.1f} of {length:.1f} seconds; copy the video again")


class VideoFrame:
    """One frame; pixels are converted when they are asked for."""  # words: ok

    def __init__(self, path: Path, number: int, frame: Any, ratio: Any) -> None:
        self.number = number
        self._path, self._frame, self._ratio = path, frame, ratio

    def small(self) -> np.ndarray:
        """uint8 [h, w]: every eighth grey value of rows and columns as stored; more of a small frame."""
        frame = self._frame
        step = max(1, min(_STEP, min(frame.width, frame.height) // _LEAST))
        if frame.format.name.startswith(("yuv4", "yuvj4", "gray", "nv12")) and frame.format.components[0].bits == 8:
            plane = frame.planes[0]
            rows = np.frombuffer(plane, np.uint8)[: plane.line_size * plane.height].reshape(plane.height, -1)
            return rows[step // 2 :: step, step // 2 : plane.width : step]
        return frame.to_ndarray(format="gray")[step // 2 :: step, step // 2 :: step]

    def pixels(self) -> np.ndarray:
        """uint8 [H, W, 3], as players show it: square pixels, rotated by the display matrix."""
        width, height = self._frame.width, self._frame.height
        ratio = float(self._ratio) if self._ratio else 1.0
        if 0.1 < ratio < 10 and abs(ratio - 1) >= _SQUARE_TOLERANCE:
            width, height = (round(width * ratio), height) if ratio > 1 else (width, round(height / ratio))
        pixels = self._frame.to_ndarray(format="rgb24", width=width, height=height)
        sides = (bytes(side) for side in self._frame.side_data if side.type.name == "DISPLAYMATRIX")
        matrix = next(sides, None)
        return pixels if matrix is None else rotate_by_display_matrix(pixels, matrix, name=str(self._path))


class SceneChanges:
    """Whether a frame begins another scene: its brightness, or its histogram, differs much from the frame before."""

    def __init__(self) -> None:
        self._blocks: np.ndarray | None = None
        self._histogram = np.zeros(_BINS)

    def begins(self, small: np.ndarray) -> bool:
        """For the frames of a clip in their order; the first one begins a scene."""
        blocks = block_means(small, 16, 16)
        histogram = np.bincount(small.reshape(-1) >> 3, minlength=_BINS) / small.size
        before, self._blocks = self._blocks, blocks
        moved = float(np.abs(histogram - self._histogram).sum()) / 2
        self._histogram = histogram
        return before is None or moved > _SCENE or float(np.abs(blocks - before).mean()) > _SCENE_BLOCKS
