"""OpenCV, which the extra `stream` installs: imported when it is first needed."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def find_opencv() -> Any:
    """The module cv2, or None where it is not installed."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def require_opencv(what: str) -> Any:
    """The module cv2. Raises ValueError, naming `what` and the package to install, where it is missing."""
    if (cv2 := find_opencv()) is None:
        raise ValueError(f"{what}: needs OpenCV; pip install opencv-python-headless")
    return cv2
