"""A folder of images, in the order of the numbers in their names, as if it were a video."""

from __future__ import annotations

from pathlib import Path

from deploy.stream.sources import Corrupt, Picture
from edgemt.frames import is_image, natural, read_image, to_uint8


class ImageSource:
    live = False

    def __init__(self, folder: str) -> None:
        self.name, self.hz = folder, 25.0
        self._files: list[Path] = []

    def open(self) -> None:
        files = [p for p in Path(self.name).iterdir() if is_image(p) and not p.name.startswith(".")]
        self._files = sorted(files, key=lambda p: natural(p.stem), reverse=True)

    def read(self) -> Picture | None:
        if not self._files:
            return None
        try:
            return Picture(to_uint8(read_image(self._files.pop())))
        except ValueError as error:
            raise Corrupt(str(error)) from None

    def close(self) -> None:
        self._files = []
