"""OpenCV is optional: found where it is installed, named with its package where it is needed and missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from edgemt.io.opencv import find_opencv, require_opencv


@pytest.fixture
def without_opencv(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "cv2", None)
    find_opencv.cache_clear()
    yield
    find_opencv.cache_clear()


def test_missing_opencv_is_none_or_one_line(without_opencv: None) -> None:
    assert find_opencv() is None
    with pytest.raises(ValueError, match=r"^flicker: needs OpenCV; pip install opencv-python-headless$"):
        require_opencv("flicker")


def test_installed_opencv_is_found() -> None:
    cv2 = pytest.importorskip("cv2")
    assert find_opencv() is cv2 and require_opencv("flicker") is cv2
