"""What all two-dimensional label tools share: find the image or the video frame of a label, draw its shapes, one mask.

Overlap: the later shape lies on top; pixels that two classes claim are counted and printed.

Shapes: H W size of an image in pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from edgemt.convert.contract import MANIFEST, ImportOptions, Listing, Loaded, OverlapCount, Sample, Unit
from edgemt.convert.names import class_names, is_background, output_names
from edgemt.convert.parts import TEST, part_of, usable_parts
from edgemt.convert.video import chosen_frames, video_units, videos_in
from edgemt.io.decode_limits import check_pixels
from edgemt.io.file_types import is_image, is_stray, natural_sort_key
from edgemt.io.images import image_header, upright
from edgemt.io.plain_files import parse_json

Size = tuple[int, int]  # rows, columns


@dataclass(frozen=True)
class Shape:
    """One area: its class, and bool [H, W] of an image of a given size. `where` names it in messages."""

    label: str
    draw: Callable[[Size], np.ndarray]
    where: str


@dataclass(frozen=True)
class LabelledImage:
    """An image as a label file names it. `size` is what the tool states; None where it states none.

    `labelled`: the file has an entry for it that means "labelled", even without a shape. `mask`: reads all classes at
    once, in place of shapes, as uint8 class indices.
    """

    name: PurePosixPath
    source: Path
    shapes: tuple[Shape, ...] = ()
    size: Size | None = None
    labelled: bool = True
    part: str = ""
    frame: int | None = None
    video: str = ""
    mask: Callable[[], np.ndarray] | None = None


class Pictures:
    """The images and videos below a folder, found by the names that label files give them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        files = [p for p in root.rglob("*") if is_image(p) and p.is_file() and not _hidden(p, root)]
        self.images = sorted(files, key=lambda p: natural_sort_key(p.relative_to(root).as_posix()))
        self.videos = videos_in(root)
        self._by_path = {p.relative_to(root).as_posix().casefold(): p for p in self.images}
        self._by_name: dict[str, list[Path]] = {}
        for path in self.images:
            self._by_name.setdefault(path.name.casefold(), []).append(path)
            self._by_name.setdefault(path.stem.casefold(), []).append(path)

    def find(self, image: LabelledImage) -> Path | tuple[Path, int]:
        """An image file, or a video and the number of a frame. Raises ValueError where none or several fit."""
        exact = self._by_path.get(str(image.name).casefold())
        found = [exact] if exact is not None else self._ending_like(image.name)
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(
                f"{image.source}: names image {image.name}, and {found[0]} and {found[1]} both fit; rename one"
            )
        videos = [
            p for p in self.videos if image.video and p.name.casefold() == PurePosixPath(image.video).name.casefold()
        ]
        videos = videos or self.videos
        number = image.frame
        if len(videos) == 1 and number is None:
            own = re.escape(videos[0].stem)  # frame_000012 of CVAT, FILM_12, FILM/000012 and 000012
            digits = re.fullmatch(rf"(?:(?:frame|{own})[_-]?)?(\d+)", image.name.stem, re.IGNORECASE)
            number = int(digits.group(1)) if digits else None
        if len(videos) == 1 and number is not None:
            return videos[0], number
        if len(videos) > 1:
            raise ValueError(
                f"{image.source}: names image {image.name}, and {len(videos)} videos are below {self.root}; import "
                "each video with its labels from a folder of its own"
            )
        raise ValueError(
            f"{image.source}: names image {image.name}, which is not below {self.root}; give --images DIR that holds it"
        )

    def _ending_like(self, name: PurePosixPath) -> list[Path]:
        """Images whose path ends like `name`: by all its folders if one does, else by the file name alone."""
        same = self._by_name.get(name.name.casefold()) or self._by_name.get(name.stem.casefold(), [])
        same = list(dict.fromkeys(same))
        parents = [part.casefold() for part in name.parent.parts]
        ending = [p for p in same if parents and [q.casefold() for q in p.parent.parts[-len(parents) :]] == parents]
        return ending or same


def _hidden(path: Path, root: Path) -> bool:
    return any(is_stray(part) for part in path.relative_to(root).parts)


def list_drawn(
    images: Sequence[LabelledImage],
    found_classes: Sequence[str],
    *,
    source: Path,
    pictures: Path,
    options: ImportOptions,
    labels: tuple[Path, ...],
    notes: tuple[str, ...] = (),
    others: bool = True,
) -> Listing:
    """The listing of a label file. `others`: images below `pictures` that the labels do not name are unlabelled.

    Raises ValueError, naming the label file, for images that cannot be found, that are named twice, or that are files
    for some and video frames for other labels.
    """
    classes = class_names(found_classes, wanted=options.classes, source=source)
    folder, overlap = Pictures(pictures), OverlapCount()
    places = [folder.find(image) for image in images]
    _check_once(images, places)
    left_out = sum(s.label not in classes and not is_background(s.label) for image in images for s in image.shapes)
    if left_out:
        notes += (f"{left_out} shapes of classes that --classes does not name are left out",)
    bare = sum(image.labelled and not image.shapes and image.mask is None for image in images)
    if bare:
        remedy = "(--empty background: labelled, with nothing on them)" if options.empty == "unlabelled" else ""
        notes += (f"{bare} images are listed without a shape: taken as {_meaning(options)} {remedy}".rstrip(),)
    notes += ("a polygon holds the pixels whose centre lies inside; where shapes overlap the later one is on top",)
    drawings = [_drawing(image, classes, overlap, options) for image in images]
    if places and all(isinstance(place, tuple) for place in places):
        frames: dict[Path, dict[int, Callable[[Size], np.ndarray]]] = {}
        for place, drawing in zip(places, drawings, strict=True):
            if isinstance(place, tuple) and drawing is not None:
                frames.setdefault(place[0], {})[place[1]] = drawing
        units = video_units(pictures, folder.videos, options, frames)
        return Listing("clips", classes, units, labels, (*notes, chosen_frames(options)), overlap)
    files = [place for place in places if isinstance(place, Path)]
    if len(files) < len(places):
        raise ValueError(f"{source}: some labels are of image files, some of frames of a video; import them one by one")
    parts, line = usable_parts([image.part for image in images])
    notes += line
    named = set(files)
    rest = [path for path in folder.images if path not in named] if others else []
    paths = [PurePosixPath(p.relative_to(pictures).as_posix()) for p in (*files, *rest)]
    parts += [_part_of_rest(pictures, path, parts) for path in rest]
    clips = _holds_clips(pictures, paths)
    names = [path.with_suffix("").as_posix() for path in paths] if clips else output_names(paths)
    if clips:
        notes += ("the folders of the images are clips, as their manifest.json states",)
    units = []
    for image, path, name, drawing, part in zip(
        (*images, *[None] * len(rest)), (*files, *rest), names, (*drawings, *[None] * len(rest)), parts, strict=True
    ):
        own = (image.source,) if image is not None and image.source not in labels else ()
        samples = _samples_of(image, path, name, drawing, part)
        units.append(Unit(path.relative_to(pictures).as_posix(), (path, *own), samples))
    if not units:
        raise ValueError(f"{source}: no image is below {pictures}; give --images DIR that holds them")
    return Listing("clips" if clips else "pairs", classes, units, labels, notes, overlap)


def _holds_clips(pictures: Path, paths: Sequence[PurePosixPath]) -> bool:
    """Whether the images are frames that an import took from videos: corrected labels then keep their clips."""
    for folder in (pictures, pictures.resolve().parent):
        try:
            manifest = parse_json((folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        layout = manifest.get("layout") if isinstance(manifest, dict) else None
        return layout == "clips" and all(len(path.parts) == 2 for path in paths)
    return False


def _part_of_rest(pictures: Path, path: Path, parts: Sequence[str]) -> str:
    """Of an image without an entry: the test part, where it lies in its folder and other images are of that part."""
    return TEST if TEST in parts and part_of(path.relative_to(pictures).parent / "x") == TEST else ""


def _meaning(options: ImportOptions) -> str:
    return "unlabelled" if options.empty == "unlabelled" else "labelled, all background"


def _check_once(images: Sequence[LabelledImage], places: Sequence[Path | tuple[Path, int]]) -> None:
    seen: set[Path | tuple[Path, int]] = set()
    for image, place in zip(images, places, strict=True):
        if place in seen:
            raise ValueError(f"{image.source}: names image {image.name} twice; merge the two entries, or remove one")
        seen.add(place)


def _drawing(
    image: LabelledImage, classes: tuple[str, ...], overlap: OverlapCount, options: ImportOptions
) -> Callable[[Size], np.ndarray] | None:
    """(size as displayed) -> uint8 mask; None for an unlabelled image."""
    bare = not image.shapes and image.mask is None
    if not image.labelled or (bare and options.empty == "unlabelled"):
        return None

    def draw(size: Size) -> np.ndarray:
        if image.size is not None and image.size != size:
            raise ValueError(
                f"{image.source}: {image.name} is {image.size[1]} x {image.size[0]} there, the image is {size[1]} x "
                f"{size[0]}; export the labels of these images"
            )
        if image.mask is not None:
            return image.mask()
        return draw_shapes(image.shapes, classes, size, overlap, source=image.source)

    return draw


def draw_shapes(
    shapes: Sequence[Shape], classes: tuple[str, ...], size: Size, overlap: OverlapCount, *, source: Path
) -> np.ndarray:
    """uint8 [H, W]: the shapes one after the other, the later on top. Raises ValueError, naming the shape."""
    check_pixels(source, size[1], size[0])
    mask, claimed = np.zeros(size, np.uint8), 0
    for shape in shapes:
        if shape.label not in classes and not is_background(shape.label):
            continue
        try:
            area = shape.draw(size)
        except ValueError as error:
            raise ValueError(f"{source}: {shape.where}: {error}; mend the shape and export again") from None
        value = 0 if is_background(shape.label) else classes.index(shape.label)
        claimed += int(np.count_nonzero(area & (mask != 0) & (mask != value)))
        mask[area] = value
    overlap.pixels += claimed
    return mask


def _samples_of(
    image: LabelledImage | None, path: Path, name: str, draw: Callable[[Size], np.ndarray] | None, part: str
) -> Callable[[], Iterator[Sample]]:
    def samples() -> Iterator[Sample]:
        yield Sample(name, draw is not None, lambda: Loaded(path, _mask_of(image, path, draw)), part=part)

    return samples


def _mask_of(image: LabelledImage | None, path: Path, draw: Callable[[Size], np.ndarray] | None) -> np.ndarray | None:
    """The mask of an image file, upright. A tool may have shown the image as stored, or as its EXIF tag turns it."""
    if image is None or draw is None:
        return None
    header = image_header(path)
    stored = header.size
    shown = stored[::-1] if header.orientation > 4 else stored
    if header.orientation == 1:
        return draw(stored)
    if image.size is None or stored == shown:
        raise ValueError(
            f"{path}: has EXIF orientation {header.orientation}, and {image.source} does not state whether its labels "
            "are of the turned picture; save the image upright, without the tag"
        )
    return draw(shown) if image.size != stored else upright(draw(stored), header.orientation)


def label_root(source: Path, options: ImportOptions) -> Path:
    """The folder in which images are searched. Raises ValueError where it is none."""
    root = options.images or (source if source.is_dir() else source.parent)
    if not root.is_dir():
        raise ValueError(f"images: no such folder {str(root)!r}")
    return root
