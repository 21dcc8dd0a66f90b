"""edgemt import and edgemt export-labels: from videos, DICOM and label tools to training data, and back."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from edgemt.commands.console import log, pass_progress

# The names of edgemt/convert/registry.py, which is not imported here, since help must be quick; a test compares them.
ImportFormat = Literal["auto", "coco", "cvat", "label-studio", "labelme", "voc", "yolo", "nrrd", "dicom", "video"]
ExportFormat = Literal["coco", "cvat", "label-studio", "labelme", "voc", "yolo", "nrrd"]


@dataclass(frozen=True)
class Import:
    """Videos, DICOM, files of label tools, or a public data set by name, to a folder that training reads.

    SOURCE is a folder of images or videos with their label files, of volumes or DICOM, or one file (edgemt list
    formats); or, with --from, the name of a data set (edgemt list datasets). OUT gets images/, masks/ (or labels/) and
    manifest.json, which names the source of every file by its SHA-256. The last line that is printed is the command
    that trains on it.

    A data set as it was unpacked, with its classes and its published split; test images go to OUT/test, which training
    does not read. Nothing is downloaded: edgemt import kvasir-seg --from Kvasir-SEG --out polyps

    All frames of the videos of a folder that are worth it: edgemt import films --every 25 --scene-changes --out frames

    annotations.xml of CVAT with its images, or with its video: edgemt import cvat_export --out polyps

    COCO, images elsewhere: edgemt import instances.json --images pictures --out polyps

    An interrupted import goes on with the same command. docs/guides/importing.md has the rules: which pixels a polygon
    holds, which shape is on top, what is refused.
    """

    source: Positional[Path]
    """A folder, or a label file, a video, a volume. Archives are not opened. With --from: the name of a data set."""
    out: Path
    """The folder to make. It must not exist, or be empty."""
    folder: Annotated[Path | None, arg(name="from")] = None
    """The folder into which the archives of the data set were unpacked; SOURCE is then its name."""
    format: ImportFormat = "auto"
    """auto: the one format that fits the files."""
    images: Path | None = None
    """Folder of the images, where they do not lie with the labels."""
    classes: tuple[str, ...] = ()
    """These classes only, numbered in this order; shapes of others are left out. All that occur, if not given."""
    empty: Literal["unlabelled", "background"] = "unlabelled"
    """What an image is that the label file lists without a shape: not labelled yet, or labelled with nothing on it."""
    void: str = ""
    """Class that pixels marked as void (255) in Pascal VOC masks become, such as background; refused if not given."""
    every: int = 1
    """Of a video: every so many frames. Labelled frames are always taken."""
    scene_changes: bool = False
    """Of a video: the first frame of each scene too."""
    duplicates: int = 4
    """Of a video: a frame is left out when at most so many of 256 bits of its perceptual hash differ from one taken
    before; -1 keeps all. Labelled frames are always taken."""
    clip_frames: int = 0
    """Of a video: so many frames make a clip, so that one video can be split into training and validation. Clips of one
    video resemble each other: Dice is then measured too high. 0: a video is one clip, and a clip is a patient."""


def import_data(command: Import) -> None:
    """Import, and print what was written and assumed."""
    if command.folder is not None:
        return _import_dataset(command, command.folder)
    _refuse_bare_name(command.source)
    from edgemt.convert.contract import ImportOptions
    from edgemt.convert.importing import import_source, summary

    options = ImportOptions(
        images=command.images,
        classes=command.classes,
        empty=command.empty,
        void=command.void,
        every=command.every,
        scene_changes=command.scene_changes,
        duplicates=command.duplicates,
        clip_frames=command.clip_frames,
    )
    manifest = import_source(
        command.source, command.out, format=command.format, options=options, tell=log, progress=pass_progress("read")
    )
    print("\n".join(summary(manifest, command.out)))


_OF_DATASETS = ("source", "out", "folder", "classes")  # the fields that go with --from


def _import_dataset(command: Import, folder: Path) -> None:
    from edgemt.convert.datasets.importing import dataset_summary, import_dataset

    for field in fields(command):
        if field.name not in _OF_DATASETS and getattr(command, field.name) != field.default:
            raise ValueError(f"{field.name}: the data set states it; leave it out together with --from")
    manifest = import_dataset(
        str(command.source), folder, command.out, classes=command.classes, tell=log, progress=pass_progress("read")
    )
    print("\n".join(dataset_summary(manifest, command.out)))


def _refuse_bare_name(source: Path) -> None:
    if source.exists():
        return
    from edgemt.convert.datasets.registry import find_dataset, is_dataset

    if is_dataset(str(source)):
        row = find_dataset(str(source))
        raise ValueError(
            f"{source}: is the data set {row.title}; get it at {row.home} ({row.terms}), unpack it, and give its "
            "folder: --from FOLDER"
        )


@dataclass(frozen=True)
class ExportLabels:
    """Masks, also predicted ones that are to be corrected, to a label tool.

    For CVAT: edgemt export-labels drafts --images frames --format cvat --out annotations.xml

    For 3D Slicer, label volumes to .seg.nrrd: edgemt export-labels livers/labels --format nrrd --out segmentations

    coco, cvat, label-studio and labelme get masks (run lengths or PNG), which lose nothing; --shapes polygon gives
    outlines along the edges of pixels, which lose nothing either when edgemt import reads them. --simplify makes them
    short, and prints how many pixels that changes.
    """

    masks: Positional[Path]
    """Folder of masks as training reads them, or of the NAME.mask.png of edgemt predict; of classes that overlap a
    file for each, CLASS/NAME.png or NAME.CLASS.mask.png, with --classes."""
    out: Path
    """The file to write; of labelme, voc and yolo a folder that does not exist yet."""
    format: ExportFormat
    images: Path | None = None
    """Folder of their images: label tools need the names with their suffixes. NAME.png, if not given."""
    classes: tuple[str, ...] = ()
    """Names of the classes, with or without background. Those of manifest.json, if not given, or class1, class2 ..."""
    shapes: Literal["auto", "polygon", "rle"] = "auto"
    """rle: masks pixel by pixel. auto: rle, and polygon for yolo."""
    simplify: float = 0.0
    """Of polygons: leave out corners nearer than so many pixels to the line without them."""


def export_label_files(command: ExportLabels) -> None:
    """Export, and print what was written."""
    from edgemt.convert.contract import ExportOptions
    from edgemt.convert.exporting import export_labels

    print(
        export_labels(
            command.masks,
            command.out,
            format=command.format,
            images=command.images,
            classes=command.classes,
            options=ExportOptions(command.shapes, command.simplify),
            tell=log,
            progress=pass_progress("masks"),
        )
    )
