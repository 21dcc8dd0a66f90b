"""A folder of images as a video, in the order of the numbers in their names."""

from __future__ import annotations

from pathlib import Path

from deploy.stream.sources.base import CorruptFrameError, SourceFrame
from edgemt.io.bit_depth import Depth
from edgemt.io.file_types import is_image, is_stray, natural_sort_key
from edgemt.io.images import read_image


class ImageSource:
    """`depth` is the conversion to 8 bits of the model's training (`edgemt.io.bit_depth`); set it before `read`."""

    live = False
    depth = Depth()

    def __init__(self, folder: str) -> None:
        self.name, self.hz = folder, 25.0
        self._files: list[Path] = []

    def open(self) -> None:
        files = [p for p in Path(self.name).iterdir() if is_image(p) and not is_stray(p)]
        self._files = sorted(files, key=lambda p: natural_sort_key(p.stem), reverse=True)

    def read(self) -> SourceFrame | None:
        if not self._files:
            return None
        try:
            return SourceFrame(self.depth(read_image(self._files.pop())))
        except ValueError as error:
            raise CorruptFrameError(str(error)) from None

    def close(self) -> None:
        self._files = []
