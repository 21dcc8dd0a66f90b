"""Read every file once, as training reads it, and keep a few numbers of each. Memory stays small.

Shapes: H W size of an image, X Y Z voxels of a volume with slices along Z, n thumbnails of a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from PIL import Image

from edgemt.contract import IGNORE, Case
from edgemt.data.reading import decode_mask, smallest_size
from edgemt.data_report.duplicates import THUMB
from edgemt.data_report.listing import Item, reason_of
from edgemt.data_report.mask_values import Meaning
from edgemt.io.array_values import check_not_constant
from edgemt.io.bit_depth import Depth
from edgemt.io.class_regions import in_class
from edgemt.io.image_hashes import dhash
from edgemt.io.images import fit_label, read_image
from edgemt.io.mask_files import Evidence, MaskFile
from edgemt.io.volumes import geometry_of, read_volume

_GREY_TOLERANCE = 8  # of 255: the channels of a grey picture that JPEG stored as colour differ by so much at most
_SHOWN = 8  # vanished objects of one file that are kept

ProgressCall = Callable[[int, int], None]


@dataclass(frozen=True)
class Vanished:
    """An object of a mask that leaves no pixel at data.size."""

    value: int  # class
    pixels: int  # area in the file
    size: tuple[int, int]  # the smallest frame that keeps it
    slice: int | None
    whole_class: bool  # nothing of the class is left in that frame


@dataclass(frozen=True)
class ImageScan:
    """Of one image or volume; `error` is why it cannot be read."""

    error: str = ""
    shape: tuple[int, ...] = ()
    mean: float = 0.0  # of the 8 bits that a network gets
    deviation: float = 0.0
    low: float = 0.0  # of the values as stored
    grey: bool = True  # one channel, or three equal ones
    digest: bytes = b""  # of the decoded values
    hashes: np.ndarray | None = None  # uint64 [n]
    thumbs: np.ndarray | None = None  # uint8 [n, 32, 32]


@dataclass(frozen=True)
class MaskScan:
    """Of one mask; `error` is why it cannot be read or does not lie on its image."""

    error: str = ""
    evidence: tuple[Evidence, ...] = ()  # of each file
    shape: tuple[int, ...] = ()
    pixels: tuple[
        int, ...
    ] = ()  # of each class, without ignored ones; of overlapping classes a pixel may be in several
    counted: int = 0  # pixels that are not ignored
    ignored: int = 0
    slices: tuple[int, ...] = ()  # number of slices (1 for an image) with each class
    objects: int = 0  # connected parts; 0 without scipy
    vanished: tuple[Vanished, ...] = ()
    num_vanished: int = 0
    digest: bytes = b""
    thumb: np.ndarray | None = None  # uint8 [32, 32], classes of the middle slice

    @property
    def share(self) -> float:
        """The part of the pixels that count with any class but the background; 0 where all are ignored."""
        return 1 - self.pixels[0] / self.counted if self.counted else 0.0


@dataclass(frozen=True)
class FileScan:
    """What was found in the files of an item."""

    item: Item
    image: ImageScan = ImageScan()
    mask: MaskScan | None = None


@dataclass(frozen=True)
class ScanOptions:
    """How files are read."""

    depth: Depth
    meaning: Meaning
    size: tuple[int, int]  # data.size
    compare: bool = True  # positions of label and image
    images: bool = True  # False: masks alone


def scan_files(
    items: Sequence[Item], options: ScanOptions, *, workers: int, progress: ProgressCall | None = None
) -> list[FileScan]:
    """Read all items in `workers` threads; the results are in the order of `items`."""
    done: list[FileScan] = []
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        for found in _bounded(pool, lambda item: scan_item(item, options), items, ahead=4 * max(1, workers)):
            done.append(found)
            if progress is not None:
                progress(len(done), len(items))
    return done


def _bounded(
    pool: ThreadPoolExecutor, call: Callable[[Item], FileScan], items: Sequence[Item], *, ahead: int
) -> Iterator[FileScan]:
    """`pool.map` with at most `ahead` items in flight."""
    todo = iter(items)
    waiting = [pool.submit(call, item) for item in islice(todo, ahead)]
    while waiting:
        found = waiting.pop(0).result()
        waiting += [pool.submit(call, item) for item in islice(todo, 1)]
        yield found


def scan_item(item: Item, options: ScanOptions) -> FileScan:
    """Image and mask of one item. Files that cannot be read are results, not exceptions."""
    image = _scan_image(item, options) if options.images else ImageScan()
    mask = scan_mask(item, options) if item.label is not None else None
    return FileScan(item, image, mask)


def _scan_image(item: Item, options: ScanOptions) -> ImageScan:
    try:
        if item.is_frame:
            stored = check_not_constant(read_image(item.image), item.image)
        else:
            stored = read_flat_or_deep(item)
    except ValueError as error:
        return ImageScan(error=reason_of(error, item.image))
    array = options.depth(stored)
    flat = [array] if item.is_frame or array.ndim == 2 else [array[..., k] for k in _spread(array.shape[-1])]
    views = [_small(np.ascontiguousarray(view)) for view in flat]
    grey = not item.is_frame or is_grey(array)
    sample = np.asarray(array[::4, ::4] if item.is_frame else array[::2, ::2], np.float32)
    return ImageScan(
        shape=tuple(stored.shape),
        mean=float(sample.mean()),
        deviation=float(sample.std()),
        low=float(stored.min()) if stored.dtype != np.uint8 else 0.0,
        grey=grey,
        digest=_digest(stored),
        hashes=np.array([dhash(small) for _, small in views], np.uint64),
        thumbs=np.stack([thumb for thumb, _ in views]),
    )


def read_flat_or_deep(item: Item) -> np.ndarray:
    """[X, Y, Z] of a volume, or [H, W] of an .h5 slice."""
    if len(geometry_of(item.image).shape) == 2:
        return check_not_constant(read_image(item.image), item.image)
    return read_volume(item.image, axes=item.axes, channel=0 if item.channels else None).array


def _spread(depth: int) -> list[int]:
    """A quarter, the middle and three quarters of the slices."""
    return sorted({depth // 4, depth // 2, (3 * depth) // 4})


def _small(view: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W(, 3)] -> grey thumbnails [32, 32] and [8, 9]."""
    image = Image.fromarray(view)
    grey = image if image.mode == "L" else image.convert("L")
    thumb = grey.resize((THUMB, THUMB), Image.Resampling.BOX)
    return np.asarray(thumb), np.asarray(grey.resize((9, 8), Image.Resampling.BOX))


def is_grey(array: np.ndarray) -> bool:
    """Whether an image [H, W] or [H, W, 3] has one channel, or three that are equal up to what JPEG changes."""
    if array.ndim == 2:
        return True
    part = array[::4, ::4].astype(np.float32)
    return float((part.max(-1) - part.min(-1)).max()) <= _GREY_TOLERANCE


def _digest(array: np.ndarray) -> bytes:
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.digest()[:16]


def scan_mask(item: Item, options: ScanOptions) -> MaskScan:
    """Values, areas and vanished objects of a mask."""
    try:
        return measure_mask(read_mask_files(item, compare=options.compare), options)
    except ValueError as error:
        return MaskScan(error=reason_of(error, str(item.label)))


def read_mask_files(item: Item, *, compare: bool) -> tuple[MaskFile, ...]:
    """The mask [H, W] or [X, Y, Z] of an item, or one for each class.

    Raises ValueError, naming the file, for one that cannot be read.
    """
    deep = not item.is_frame and not _flat_h5(item)
    case = Case(item.name, item.patient, item.image, slice=0 if deep else None, axes=item.axes)
    return tuple(decode_mask(replace(case, label=path), compare=compare) for path in item.label_files)


def class_indices(item: Item, options: ScanOptions) -> np.ndarray | None:
    """uint8 classes or bits of the mask of an item, IGNORE included; None where its values have no meaning."""
    return options.meaning.of_files(read_mask_files(item, compare=options.compare))


def _flat_h5(item: Item) -> bool:
    return len(geometry_of(item.image).shape) == 2


def measure_mask(found: Sequence[MaskFile], options: ScanOptions) -> MaskScan:
    """The numbers of a decoded mask; the evidence alone where its values have no meaning.

    Raises ValueError for masks of classes that differ in shape.
    """
    evidence, shape = tuple(one.evidence for one in found), tuple(found[0].array.shape)
    classes = options.meaning.of_files(found)
    if classes is None:
        return MaskScan(evidence=evidence, shape=shape)
    count, overlapping = len(options.meaning.classes), options.meaning.overlapping
    planes = [classes] if classes.ndim == 2 else [classes[..., k] for k in range(classes.shape[-1])]
    pixels, slices, objects, lost = np.zeros(count, np.int64), np.zeros(count, np.int64), 0, 0
    vanished: list[Vanished] = []
    for k, plane in enumerate(planes):
        here = _count(plane, count, overlapping)
        pixels += here
        slices += here > 0
        if here[1:].any():
            where = None if classes.ndim == 2 else k
            number, gone = _objects(plane, here, options.size, slice_=where, overlapping=overlapping)
            objects, lost = objects + number, lost + len(gone)
            vanished += [_with_size(one, region, options.size) for one, region in gone[: _SHOWN - len(vanished)]]
    ignored = int(np.count_nonzero(classes == IGNORE))
    middle = planes[len(planes) // 2]
    thumb = Image.fromarray(np.ascontiguousarray(middle)).resize((THUMB, THUMB), Image.Resampling.NEAREST)
    return MaskScan(
        evidence=evidence,
        shape=shape,
        pixels=tuple(pixels.tolist()),
        counted=classes.size - ignored,
        ignored=ignored,
        slices=tuple(slices.tolist()),
        objects=objects,
        vanished=tuple(vanished),
        num_vanished=lost,
        digest=_digest(classes),
        thumb=np.asarray(thumb),
    )


def _count(plane: np.ndarray, count: int, overlapping: bool) -> np.ndarray:
    """int64 [count]: pixels of each class, without ignored ones."""
    here = np.bincount(plane[plane > 0], minlength=max(count, IGNORE + 1))
    background = plane.size - here.sum()
    if overlapping:
        values = np.arange(IGNORE + 1, dtype=np.uint8)
        in_each = [here[in_class(values, k, overlapping=True)].sum() for k in range(1, count)]
        return np.array([background, *in_each], np.int64)
    return np.array([background, *here[1:count]], np.int64)


def _with_size(one: Vanished, region: np.ndarray, size: tuple[int, int]) -> Vanished:
    return replace(one, size=smallest_size(region.astype(np.uint8), 1, size=size))


def _objects(
    plane: np.ndarray, here: np.ndarray, size: tuple[int, int], *, slice_: int | None, overlapping: bool
) -> tuple[int, list[tuple[Vanished, np.ndarray]]]:
    """(number of connected parts, the vanished ones with their region [H, W]) of a mask, resized as training does.

    here: pixels of each class. The region of a class of which nothing is left is all of it.
    """
    shrinks = plane.shape[0] > size[0] or plane.shape[1] > size[1]
    fitted = fit_label(plane, size=size) if shrinks else plane
    number, gone = 0, []
    for value in (np.flatnonzero(here[1:]) + 1).tolist():
        inside = in_class(plane, value, overlapping=overlapping)
        whole = shrinks and not in_class(fitted, value, overlapping=overlapping).any()
        labels, parts = _connected(inside)
        number += parts
        if whole:
            gone.append((Vanished(int(value), int(here[value]), size, slice_, True), inside))
        elif shrinks and parts > 1:
            resized = Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST)
            left = set(np.unique(np.asarray(resized)).tolist())
            for part in range(1, parts + 1):
                if part not in left:
                    region = labels == part
                    gone.append((Vanished(int(value), int(region.sum()), size, slice_, False), region))
    return number, gone


def _connected(inside: np.ndarray) -> tuple[np.ndarray, int]:
    """Connected parts (8 neighbours) as int32 [H, W] from 1 on, and their number; one part without scipy."""
    try:
        from scipy import ndimage
    except ImportError:
        return inside.astype(np.int32), int(inside.any())
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    labels = np.zeros(inside.shape, np.int32)
    number = ndimage.label(inside[box], structure=np.ones((3, 3), bool), output=labels[box])
    return labels, int(number)


def as_picture(item: Item, options: ScanOptions, *, slice_: int | None) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] of an item for the page; of a volume one slice, the middle one by default."""
    if item.is_frame:
        return options.depth(read_image(item.image))
    array = options.depth(read_flat_or_deep(item))
    if array.ndim == 2:
        return array
    return np.ascontiguousarray(array[..., array.shape[-1] // 2 if slice_ is None else slice_])
