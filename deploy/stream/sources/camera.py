"""A camera or frame grabber through OpenCV: V4L2 on Linux.

The driver buffers a few frames and returns the oldest first. The age of a frame that is returned without waiting is
unknown, so such frames are discarded until one has to be waited for.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from deploy.stream.sources.base import SourceFrame, SourceLostError, import_library
from deploy.stream.state.frames import Clock, monotonic

# otherwise reading from an unplugged camera blocks for ten seconds
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")
_BUFFERED_NS = 1_500_000  # a frame that is returned faster than this was buffered
_MAX_AGE_NS = 20_000_000  # a frame is at most as old as the time since the reader last had to wait
_MAX_BUFFERED = 10  # frames in the buffer of a driver
_NAME = re.compile(r"(?:camera(?::(?P<index>\d+))?|(?P<path>/dev/video\w+))(?::(?P<width>\d+)x(?P<height>\d+))?")


class CameraSource:
    """Live frames of a camera: camera:0, camera:0:1920x1080 or /dev/video0."""

    live = True

    def __init__(self, text: str, *, clock: Clock = monotonic) -> None:
        match = _NAME.fullmatch(text)
        if match is None:
            raise ValueError(f"source {text}: write camera:0, camera:0:1920x1080 or /dev/video0")
        self.name, self.hz = text, None
        self._at: int | str = match["path"] or int(match["index"] or 0)
        self._size = (int(match["width"]), int(match["height"])) if match["width"] else None
        self._cv2: Any = None
        self._camera: Any = None
        self._clock, self._waited_ns = clock, 0  # time at which the buffer of the driver was last empty

    def open(self) -> None:
        self._cv2 = cv2 = import_library("cv2", pip="opencv-python-headless", source=self.name)
        _silence(cv2)
        camera = cv2.VideoCapture(self._at, cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY)
        if not camera.isOpened():
            raise ValueError(f"source {self.name}: no camera there, or another program uses it; try another number")
        camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the default of four frames only adds delay
        if self._size is not None:
            camera.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))  # few cameras send HD uncompressed
            camera.set(cv2.CAP_PROP_FRAME_WIDTH, self._size[0])
            camera.set(cv2.CAP_PROP_FRAME_HEIGHT, self._size[1])
        self._camera, self._waited_ns = camera, 0

    def read(self) -> SourceFrame | None:
        self._grab_newest()
        success, frame = self._camera.retrieve()
        if not success:
            raise SourceLostError("the camera gives no frame")
        source_ms = self._camera.get(self._cv2.CAP_PROP_POS_MSEC)
        pixels = frame if frame.ndim == 2 else self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2RGB)
        return SourceFrame(pixels, int(source_ms * 1e6) if source_ms > 0 else None)

    def _grab_newest(self) -> None:
        """Discard frames until the grabbed one is at most _MAX_AGE_NS old."""
        for _ in range(_MAX_BUFFERED):
            started = self._clock()
            if not self._camera.grab():
                raise SourceLostError("the camera gives no frame")
            now = self._clock()
            if now - started > _BUFFERED_NS:
                self._waited_ns = now
            if now - self._waited_ns <= _MAX_AGE_NS:
                return

    def close(self) -> None:
        if self._camera is not None:
            self._camera.release()
        self._camera = None


def _silence(cv2: Any) -> None:
    """Turn off OpenCV's log: errors are reported by this module, in one line."""
    logging = getattr(getattr(cv2, "utils", None), "logging", None)
    if logging is not None:
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
