"""Volumes in NRRD, MetaImage and NIfTI with labels: .seg.nrrd of 3D Slicer, or label maps such as ITK-SNAP writes.

An image and its labels lie in one folder, alone or with names that belong together: ct.nrrd with ct.seg.nrrd,
ct-label.nrrd, ct_seg.mha; or in the folders images and labels under one name. Where the folder has videos in place of
volumes, the slices of the labels are their frames. Written as NIfTI with the axes of the
image as they are stored; the affine is stored in float32 there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from edgemt.convert.contract import Format, ImportOptions, Listing, Loaded, OverlapCount, Sample, Unit, Volume
from edgemt.convert.geometry import onto_grid
from edgemt.convert.label_volumes import Segment, label_classes, read_file, read_labels, segments_of
from edgemt.convert.labelled_videos import list_videos
from edgemt.convert.names import output_names
from edgemt.convert.nrrd_file import write_nrrd
from edgemt.convert.video import videos_in
from edgemt.io.array_values import check_finite
from edgemt.io.file_types import is_stray, natural_sort_key

_SUFFIXES = (".seg.nrrd", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".nii")
_OWN = (".nrrd", ".nhdr", ".mha", ".mhd")  # of which one at least makes a folder one of this format
_LABEL_END = re.compile(r"[-_. ]?(?:seg(?:mentation)?s?|label(?:map|s)?|mask|gt)$", re.IGNORECASE)
_LABEL_FOLDER = re.compile(r"labels?(?:Tr)?|masks?|seg(?:mentation)?s?", re.IGNORECASE)


def detects(source: Path) -> bool:
    """NRRD or MetaImage files in a folder or its folders, or such a file."""
    return any(path.name.lower().endswith(_OWN) for path in _files(source))


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source] if source.name.lower().endswith(_SUFFIXES) else []
    found = (p for p in source.rglob("*") if p.name.lower().endswith(_SUFFIXES) and p.is_file() and not is_stray(p))
    return sorted(found, key=lambda p: natural_sort_key(str(p)))


def _stem(path: Path) -> str:
    suffix = next((suffix for suffix in _SUFFIXES if path.name.lower().endswith(suffix)), path.suffix)
    return path.name[: -len(suffix)]


def _is_label(path: Path, root: Path) -> bool:
    folders = path.relative_to(root).parts[:-1]
    return (
        path.name.lower().endswith(".seg.nrrd")
        or bool(_LABEL_END.search(_stem(path)))
        or any(_LABEL_FOLDER.fullmatch(folder) for folder in folders)
    )


def read(source: Path, options: ImportOptions) -> Listing:
    """The volumes of a folder; without labels they are unlabelled. Raises ValueError for labels without their image."""
    root = source if source.is_dir() else source.parent
    files = _files(source)
    images = [path for path in files if not _is_label(path, root)]
    labels = [path for path in files if _is_label(path, root)]
    videos = videos_in(source)
    if videos and images:
        raise ValueError(f"{source}: holds volumes ({images[0].name}) and videos ({videos[0].name}); import each alone")
    if videos:
        return list_videos(source, videos, _pairs(videos, labels), options)
    if not images:
        raise ValueError(f"{source}: holds no image volume or video; put the images beside their labels")
    paired = _pairs(images, labels)
    segments = {path: segments_of(path) for path in labels}
    classes = label_classes(segments, options, source=source)
    names = output_names([PurePosixPath(p.relative_to(root).with_name(_stem(p)).as_posix()) for p in images])
    overlap = OverlapCount()
    units = []
    for path, name in zip(images, names, strict=True):
        label = paired.get(path)
        draw = None if label is None else _drawing(path, label, segments[label], classes, overlap)
        own = () if label is None else (label,)
        units.append(Unit(path.relative_to(root).as_posix(), (path, *own), _samples(path, name, draw), name))
    notes = ("a volume is a patient; the axes stay in the order of the file",)
    return Listing("volumes", classes, units, notes=notes, overlap=overlap)


def _pairs(images: Sequence[Path], labels: Sequence[Path]) -> dict[Path, Path]:
    """Image or video -> label file."""
    found: dict[Path, Path] = {}
    for label in labels:
        beside = [path for path in images if path.parent == label.parent]
        others = [path for path in labels if path.parent == label.parent]
        if len(beside) == 1 and len(others) == 1:
            fits = beside
        else:
            stem = _stem(label).casefold()
            stems = {stem, _LABEL_END.sub("", stem)}
            fits = [path for path in images if _stem(path).casefold() in stems]
            fits = [path for path in fits if path.parent == label.parent] or fits
        if len(fits) != 1 or fits[0] in found:
            other = f"; {found[fits[0]].name} fits it too" if fits and fits[0] in found else ""
            raise ValueError(
                f"{label}: {len(fits)} images fit this label file by their names{other}; name it as its image, or give "
                "each image a folder of its own"
            )
        found[fits[0]] = label
    return found


def _samples(path: Path, name: str, draw: Callable[[Volume], np.ndarray] | None) -> Callable[[], Iterator[Sample]]:
    def load() -> Loaded:
        image = read_file(path)
        check_finite(image.array, path)
        return Loaded(image, None if draw is None else draw(image))

    return lambda: iter([Sample(name, draw is not None, load)])


def _drawing(
    image_path: Path, label: Path, segments: Sequence[Segment], classes: tuple[str, ...], overlap: OverlapCount
) -> Callable[[Volume], np.ndarray]:
    def draw(image: Volume) -> np.ndarray:
        labels = read_labels(label, segments)
        return onto_grid(labels.mask(classes, overlap), labels.affine, image, label_path=label, image_path=image_path)

    return draw


def write_segmentation(classes: tuple[str, ...], volume: Volume, path: Path) -> None:
    """A label map as .seg.nrrd, as 3D Slicer writes it: one layer, a segment for each class, also an empty one."""
    mask = volume.array
    if mask.max(initial=0) >= len(classes):
        raise ValueError(f"{path.name}: holds value {mask.max()}, there are {len(classes)} classes; name all of them")
    pairs = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for value, name in enumerate(classes[1:], 1):
        ends = [np.flatnonzero((mask == value).any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
        extent = [v for end in ends for v in ((int(end[0]), int(end[-1])) if len(end) else (0, -1))]
        colour = [((value >> bit) & 1) * 0.6 + 0.3 for bit in range(3)]
        rows = {
            "ID": f"Segment_{value}", "Name": name, "NameAutoGenerated": "0", "LabelValue": value, "Layer": 0,
            "Color": " ".join(f"{c:g}" for c in colour), "ColorAutoGenerated": "1", "Tags": "|",
            "Extent": " ".join(map(str, extent)),
        }  # fmt: skip
        pairs |= {f"Segment{value - 1}_{key}": str(text) for key, text in rows.items()}
    write_nrrd(path, mask, volume.affine, pairs)


FORMAT = Format(
    about="volumes: 3D Slicer .seg.nrrd, NRRD, MHA, MHD, NIfTI with label maps (ITK-SNAP)",
    detects=detects,
    read=read,
    write_volume=write_segmentation,
    suffix=".seg.nrrd",
)
