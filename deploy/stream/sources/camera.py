"""A camera or frame grabber through OpenCV: V4L2 on Linux.

The driver keeps a few frames for a reader that is late, and hands out the oldest first. One that needed no waiting for
may have lain there, nobody knows how long: it is thrown away, until one has to be waited for.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from deploy.stream.sources import Lost, Picture, library
from deploy.stream.state.frames import Clock, monotonic

# a camera that is pulled out makes a read wait for ten seconds otherwise
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")
_AT_ONCE_NS = 1_500_000  # a frame that comes so quickly was there already
_YOUNG_NS = 20_000_000  # one that came since the reader last waited cannot be older than that
_MOST_WAITING = 10  # frames that a driver keeps
_NAME = re.compile(r"(?:camera(?::(?P<index>\d+))?|(?P<path>/dev/video\w+))(?::(?P<width>\d+)x(?P<height>\d+))?")


class CameraSource:
    live = True

    def __init__(self, text: str, *, clock: Clock = monotonic) -> None:
        found = _NAME.fullmatch(text)
        if found is None:
            raise ValueError(f"source {text}: write camera:0, camera:0:1920x1080 or /dev/video0")
        self.name, self.hz = text, None
        self._at: int | str = found["path"] or int(found["index"] or 0)
        self._size = (int(found["width"]), int(found["height"])) if found["width"] else None
        self._cv2: Any = None
        self._camera: Any = None
        self._clock, self._waited_ns = clock, 0  # when the driver last had no frame left

    def open(self) -> None:
        self._cv2 = cv2 = library("cv2", pip="opencv-python-headless", source=self.name)
        _silence(cv2)
        camera = cv2.VideoCapture(self._at, cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY)
        if not camera.isOpened():
            raise ValueError(f"source {self.name}: no camera there, or another program holds it; try another number")
        camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the driver would keep four frames, all old
        if self._size is not None:
            camera.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))  # few cameras give HD uncompressed
            camera.set(cv2.CAP_PROP_FRAME_WIDTH, self._size[0])
            camera.set(cv2.CAP_PROP_FRAME_HEIGHT, self._size[1])
        self._camera, self._waited_ns = camera, 0

    def read(self) -> Picture | None:
        self._grab_newest()
        there, frame = self._camera.retrieve()
        if not there:
            raise Lost("the camera gives no frame")
        source_ms = self._camera.get(self._cv2.CAP_PROP_POS_MSEC)
        pixels = frame if frame.ndim == 2 else self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2RGB)
        return Picture(pixels, int(source_ms * 1e6) if source_ms > 0 else None)

    def _grab_newest(self) -> None:
        """Leaves a frame with the driver that is no older than _YOUNG_NS."""
        for _ in range(_MOST_WAITING):
            begun = self._clock()
            if not self._camera.grab():
                raise Lost("the camera gives no frame")
            now = self._clock()
            if now - begun > _AT_ONCE_NS:
                self._waited_ns = now
            if now - self._waited_ns <= _YOUNG_NS:
                return

    def close(self) -> None:
        if self._camera is not None:
            self._camera.release()
        self._camera = None


def _silence(cv2: Any) -> None:
    """What is wrong is said by us, in one line."""
    logging = getattr(getattr(cv2, "utils", None), "logging", None)
    if logging is not None:
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
