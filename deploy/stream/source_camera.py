"""A camera or frame grabber through OpenCV: V4L2 on Linux."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from deploy.stream.sources import Lost, Picture, library

# a camera that is pulled out makes a read wait for ten seconds otherwise
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")
_NAME = re.compile(r"(?:camera(?::(?P<index>\d+))?|(?P<path>/dev/video\w+))(?::(?P<width>\d+)x(?P<height>\d+))?")


class CameraSource:
    live = True

    def __init__(self, text: str) -> None:
        found = _NAME.fullmatch(text)
        if found is None:
            raise ValueError(f"source {text}: write camera:0, camera:0:1920x1080 or /dev/video0")
        self.name, self.hz = text, None
        self._at: int | str = found["path"] or int(found["index"] or 0)
        self._size = (int(found["width"]), int(found["height"])) if found["width"] else None
        self._cv2: Any = None
        self._camera: Any = None

    def open(self) -> None:
        self._cv2 = cv2 = library("cv2", pip="opencv-python-headless", source=self.name)
        cv2.setLogLevel(0) if hasattr(cv2, "setLogLevel") else None
        camera = cv2.VideoCapture(self._at, cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY)
        if not camera.isOpened():
            raise ValueError(f"source {self.name}: no camera there, or another program holds it; try another number")
        camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the driver would keep four frames, all old
        if self._size is not None:
            camera.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))  # few cameras give HD uncompressed
            camera.set(cv2.CAP_PROP_FRAME_WIDTH, self._size[0])
            camera.set(cv2.CAP_PROP_FRAME_HEIGHT, self._size[1])
        self._camera = camera

    def read(self) -> Picture | None:
        there, frame = self._camera.read()
        if not there:
            raise Lost("the camera gives no frame")
        source_ms = self._camera.get(self._cv2.CAP_PROP_POS_MSEC)
        pixels = frame if frame.ndim == 2 else self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2RGB)
        return Picture(pixels, int(source_ms * 1e6) if source_ms > 0 else None)

    def close(self) -> None:
        if self._camera is not None:
            self._camera.release()
        self._camera = None
