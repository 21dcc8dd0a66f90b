"""Pascal VOC segmentation: JPEGImages, SegmentationClass with palette or colour PNGs, labelmap.txt, lists in ImageSets.

Format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc. Index 255 is void: neither class nor background; it
becomes what --void names. Without labelmap.txt (which CVAT writes: name:r,g,b:parts:actions) the twenty VOC classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from edgemt.convert.contract import ExportOptions, Format, ImportOptions, LabelMap, Listing
from edgemt.convert.drawn_images import LabelledImage, label_root, list_drawn
from edgemt.convert.names import class_names, is_background
from edgemt.convert.parts import TEST
from edgemt.convert.text_files import files_like, read_text
from edgemt.convert.writing import voc_palette, write_label_map
from edgemt.io.atomic import atomic_write, write_text
from edgemt.io.images import opened_image

VOID = 255
_MASKS, _IMAGES = "SegmentationClass", "JPEGImages"
_VOC = """
aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep sofa
train tvmonitor
"""
_Colours = dict[tuple[int, int, int], str]


def detects(source: Path) -> bool:
    """A folder SegmentationClass."""
    return (source / _MASKS).is_dir()


def read(source: Path, options: ImportOptions) -> Listing:
    """A data set folder. Images without a mask are unlabelled; val.txt and test.txt of ImageSets state parts."""
    masks = files_like(source / _MASKS, ".png", levels=0)
    if not masks:
        raise ValueError(f"{source}: has no {_MASKS}/*.png; export 'Pascal VOC segmentation mask'")
    colours = _colours(source)
    names = list(dict.fromkeys(colours.values()))
    classes = class_names(names, wanted=options.classes, source=source)
    if options.void and options.void not in classes:
        raise ValueError(f"void: {options.void!r} is no class; give one of {', '.join(classes)}")
    lists = source / "ImageSets" / "Segmentation"
    parts = {**dict.fromkeys(_listed(lists / "test.txt"), TEST), **dict.fromkeys(_listed(lists / "val.txt"), "val")}
    images = []
    for path in masks:
        mask = partial(_read_mask, path, colours, classes, options.void)
        part = parts.get(path.stem, "")
        images.append(LabelledImage(PurePosixPath(path.stem), path, part=part, mask=mask))
    folder = options.images or source / _IMAGES
    if not folder.is_dir():
        raise ValueError(f"{source}: has no folder {_IMAGES}; give --images DIR")
    label_map = tuple(p for p in [source / "labelmap.txt"] if p.is_file())
    root = label_root(folder, options)
    return list_drawn(images, names, source=source, pictures=root, options=options, labels=label_map)


def _listed(path: Path) -> frozenset[str]:
    return (
        frozenset(line.split()[0] for line in read_text(path).splitlines() if line.strip())
        if path.is_file()
        else frozenset()
    )


def _colours(source: Path) -> _Colours:
    """Colour -> class name, from labelmap.txt, or those of VOC. Colours of equal names are one class."""
    palette = np.array(voc_palette()).reshape(-1, 3)
    path = source / "labelmap.txt"
    if not path.is_file():
        return {tuple(palette[k].tolist()): name for k, name in enumerate(["background", *_VOC.split()])}  # type: ignore[misc]
    found: _Colours = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        parts = rest.partition(":")[0].split(",")
        if len(parts) != 3 or not all(p.strip().isdigit() and int(p) < 256 for p in parts):
            raise ValueError(f"{path}: line {number} is no name:r,g,b; export it again")
        colour = int(parts[0]), int(parts[1]), int(parts[2])
        if found.setdefault(colour, name.strip()) != name.strip():
            raise ValueError(
                f"{path}: gives {found[colour]} and {name.strip()} one colour, {colour}; give each its own and export "
                "again"
            )
    return found


def _read_mask(path: Path, colours: _Colours, classes: tuple[str, ...], void: str) -> np.ndarray:
    """uint8 [H, W] class indices of a palette, colour or grey PNG; void as `void`."""
    with opened_image(path, what="mask") as (image, _):
        is_index = image.mode in ("P", "L")
        indices = np.asarray(image) if is_index else None
        flat = np.array(image.getpalette("RGB") if image.mode == "P" else voc_palette(), np.uint8).reshape(-1, 3)
        pixels = flat[np.minimum(indices, len(flat) - 1)] if indices is not None else np.asarray(image.convert("RGB"))
    codes = pixels.astype(np.int32) @ (65536, 256, 1)
    out = np.zeros(codes.shape, np.uint8)
    for code in np.unique(codes).tolist():
        colour = (code >> 16, code >> 8 & 255, code & 255)
        here = codes == code
        if indices is not None and (indices[here] == VOID).all() or (not is_index and colour == (224, 224, 192)):
            if not void:
                raise ValueError(
                    f"{path}: holds {int(here.sum())} pixels of void (255); --void background, or a class, states what "
                    "they become"
                )
            out[here] = classes.index(void)
            continue
        name = colours.get(colour)
        if name is None:
            raise ValueError(f"{path}: holds the colour {colour}, which labelmap.txt does not name; add its line")
        out[here] = 0 if is_background(name) or name not in classes else classes.index(name)
    return out


def write(classes: tuple[str, ...], maps: Iterator[LabelMap], path: Path, options: ExportOptions) -> None:
    """SegmentationClass/NAME.png with VOC's palette, labelmap.txt, and the list of names."""
    palette = np.array(voc_palette()).reshape(-1, 3)
    names = []
    for label in maps:
        if label.overlapping:
            raise ValueError(f"{label.name}: has overlapping classes, and VOC one class a pixel; take another format")
        with atomic_write(path / _MASKS / f"{label.name}.png") as part:
            write_label_map(part, label.read())
        names.append(label.name)
    lines = [f"{name}:{','.join(map(str, palette[k]))}::" for k, name in enumerate(classes)]
    write_text(path / "labelmap.txt", "# label:color_rgb:parts:actions\n" + "".join(f"{line}\n" for line in lines))
    write_text(path / "ImageSets" / "Segmentation" / "default.txt", "".join(f"{name}\n" for name in names))


FORMAT = Format(
    about="Pascal VOC: SegmentationClass/*.png with palette or colours, labelmap.txt",
    detects=detects,
    read=read,
    write=write,
    folder=True,
)
