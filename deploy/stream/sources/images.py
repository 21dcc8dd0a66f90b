"""A folder of images, in the order of the numbers in their names, as if it were a video."""

from __future__ import annotations

from pathlib import Path

from deploy.stream.sources import Corrupt, Picture
from edgemt.io.bit_depth import Depth
from edgemt.io.file_types import is_image, is_stray, natural_sort_key
from edgemt.io.images import read_image


class ImageSource:
    """`depth` is the rule of the model that looks on (`edgemt.io.bit_depth`), set before the first frame."""

    live = False
    depth = Depth()

    def __init__(self, folder: str) -> None:
        self.name, self.hz = folder, 25.0
        self._files: list[Path] = []

    def open(self) -> None:
        files = [p for p in Path(self.name).iterdir() if is_image(p) and not is_stray(p)]
        self._files = sorted(files, key=lambda p: natural_sort_key(p.stem), reverse=True)

    def read(self) -> Picture | None:
        if not self._files:
            return None
        try:
            return Picture(self.depth(read_image(self._files.pop())))
        except ValueError as error:
            raise Corrupt(str(error)) from None

    def close(self) -> None:
        self._files = []
