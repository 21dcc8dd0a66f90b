"""What a format gives to the import and takes from the export.

Shapes: H W size of an image in pixels, X Y Z voxels of a volume, C classes with the background as class 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from edgemt.io.class_regions import in_class

Layout = Literal["pairs", "clips", "volumes"]
Empty = Literal["unlabelled", "background"]
Shapes = Literal["auto", "polygon", "rle"]
BACKGROUND = "background"
MANIFEST = "manifest.json"  # of a folder that an import made
MAX_CLASSES = 255  # of a mask with 8 bits, 255 itself left free


@dataclass(frozen=True)
class ImportOptions:
    """Choices of an import; which format reads which field is in the help of `edgemt import`."""

    images: Path | None = None  # folder of the images, where it is not that of the labels
    classes: tuple[str, ...] = ()  # these only, in this order; empty: all that occur
    empty: Empty = "unlabelled"  # what an image is that the tool lists without any shape
    void: str = ""  # class of the pixels that Pascal VOC marks as void; empty: refused
    every: int = 1  # frames of a video
    scene_changes: bool = False
    duplicates: int = 4  # bits of 256; -1 keeps every frame
    clip_frames: int = 0  # so many frames of a video are a clip; 0: the whole video is one


@dataclass(frozen=True)
class Volume:
    """A volume: `array` [X, Y, Z] as stored, `affine` [4, 4] from voxel indices to millimetres, axes RAS."""

    array: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class Loaded:
    """Pixels of one sample: an image file to copy, uint8 [H, W, 3] or [H, W], or a volume; with its label map.

    Several volumes on the same voxels, such as sequences of one patient, are written as NAME_0000, NAME_0001 ...
    """

    image: Path | np.ndarray | Volume | tuple[Volume, ...]
    mask: np.ndarray | None  # uint8 of the image's size; None: unlabelled


@dataclass(frozen=True)
class Sample:
    """One image or volume to write. `load` is called at most once, before the next sample is taken."""

    name: str  # below images/ and masks/, without a suffix: frame_7 or CLIP/000007
    labelled: bool
    load: Callable[[], Loaded]
    frame: int | None = None  # number in the source file
    part: str = ""  # "val" puts the name on val.txt, "test" the files into OUT/test, which training does not read
    patient: str = ""  # where neither its folder nor the unit is the patient


@dataclass(frozen=True)
class Unit:
    """Source files that are read together: an image, a video, a DICOM series. An import resumes between samples."""

    name: str  # shown in progress and in the manifest
    sources: tuple[Path, ...]
    samples: Callable[[], Iterator[Sample]]
    patient: str = ""
    hidden: tuple[str, ...] = ()  # words of a patient: the manifest has a number for a file whose name holds one


@dataclass(frozen=True)
class Listing:
    """All that an import will write, known before the first pixel is decoded."""

    layout: Layout
    classes: tuple[str, ...]  # with the background
    units: Sequence[Unit]
    labels: tuple[Path, ...] = ()  # label files
    notes: tuple[str, ...] = ()  # lines for the user: what was assumed
    overlap: OverlapCount = field(default_factory=lambda: OverlapCount())


@dataclass
class OverlapCount:
    """Counts pixels that shapes of two classes claim, over the masks drawn so far."""

    pixels: int = 0


@dataclass(frozen=True)
class LabelMap:
    """One mask to export: its name, the name and size of its image, uint8 [H, W] of class indices.

    `overlapping`: bits of classes instead (`edgemt.io.class_regions`); `regions` is the same for both.
    """

    name: str
    image: str  # name of the image file, with its suffix
    size: tuple[int, int]  # rows, columns
    read: Callable[[], np.ndarray]
    drawn: bool = True  # False: a task to label, without a mask
    overlapping: bool = False

    def regions(self, classes: Sequence[str]) -> Iterator[tuple[int, np.ndarray]]:
        """(index, bool [H, W]) of each class that the mask has. `classes`: with the background."""
        mask = self.read()
        for value in range(1, len(classes)):
            area = in_class(mask, value, overlapping=self.overlapping)
            if area.any():
                yield value, area


@dataclass(frozen=True)
class ExportOptions:
    """Choices of an export. `predicted`: the model that drew the masks; the label tool marks them as not checked."""

    shapes: Shapes = "auto"
    simplify: float = 0.0  # tolerance of Douglas-Peucker in pixels; 0 keeps every corner
    predicted: str = ""


@dataclass(frozen=True)
class Format:
    """A row of the registry. `detects` reads names and first bytes only.

    `write` gets the class names, the label maps one after the other and the path to make; it writes a file or, with
    `folder`, the files below a folder that is empty. `whole_volumes`: it reads and writes NIfTI volumes instead.
    """

    about: str
    detects: Callable[[Path], bool]
    read: Callable[[Path, ImportOptions], Listing]
    write: Callable[[tuple[str, ...], Iterator[LabelMap], Path, ExportOptions], None] | None = None
    write_volume: Callable[[tuple[str, ...], Volume, Path], None] | None = None
    folder: bool = False
    suffix: str = ""  # of the file that `write` makes
    shapes: tuple[Shapes, ...] = ()  # kinds of areas that `write` offers, the default first; empty: pixels
    fallback: bool = False  # taken by --format auto only where no other format fits
