"""Masks for files: images, folders of images, NIfTI volumes. Each mask has the size of its own input.

A model of neighbouring slices takes volumes alone, a folder of slice images being one: an image has no neighbours.

Shapes: H W the input's size, X Y Z a volume's, K channels.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from deploy.package.input_drift import InputDriftMonitor, read_inputs
from deploy.package.package import open_package
from deploy.runtimes.load import runner
from deploy.runtimes.runner import ModelRunner
from edgemt.inference.predict_contours import (
    PredictedContours,
    open_contours,
    region_files,
    stored_region,
    with_lines,
)
from edgemt.inference.predict_inputs import Input, find_inputs, read_input
from edgemt.io.atomic import Failures, NoSpaceError, atomic_write, write_bytes
from edgemt.io.bit_depth import of_card
from edgemt.io.channels import card_names, neighbours_of
from edgemt.io.channels import shown as shown_channel
from edgemt.io.class_regions import each_class, mask_parts
from edgemt.io.contours import class_colours, contours
from edgemt.io.file_types import is_image
from edgemt.io.geometry import is_order, like_input, restored
from edgemt.io.images import fit_frame, fit_label
from edgemt.io.uncertain_region import hatched, uncertain_region
from edgemt.io.volumes import Volume, read_volume, stack_neighbours, volume_spacing
from edgemt.metrics.postprocess import through_plane as vote
from edgemt.model_card import ModelCard

_MARK = "EdgeMT input"
# uint8 [N, H, W, K] -> masks uint8 [N, H, W], and maps uint8 [N, H, W] where the uncertainty is wanted
Predict = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]
Lines = PredictedContours | None


def predict(
    folder: Path,
    inputs: Sequence[Path],
    *,
    out: Path,
    overlay: bool = True,
    runtime: str = "auto",
    file: str | None = None,
    threads: int | None = None,
    through_plane: int = 1,
    contours: bool = False,
    uncertainty: bool = False,
    missing_channels: bool = False,
    cpu_fallback: bool = True,
) -> Iterator[Path]:
    """Write `NAME.mask.png` (class indices, with a palette) or `NAME.mask.nii.gz` for each input.

    Of overlapping classes each has a file of its own, `NAME.CLASS.mask.png` or `.nii.gz`, of 0 and 1.
    NAME is that of the file, CLIP/NAME for a folder that has folders of frames instead of images.
    `through_plane` slices of a volume vote on each voxel between them; 1 leaves the masks as they are.
    `contours`: also `NAME.outer.mask.png` and `NAME.inner.mask.png` (.nii.gz of a volume), the regions of the card's
    margins, and their lines on the overlay; with several classes `NAME.outer.CLASS.mask.png`, and of overlapping ones
    `NAME.inner.CLASS.mask.png`, all of 0 and 1.
    `uncertainty` writes `NAME.uncertainty.png` or `.uncertainty.nii.gz` as well, uint8 round(255 sqrt(p)), p the
    probability that the class of a pixel is wrong, and hatches the overlay where p is 0.2 or more
    (`edgemt.io.uncertain_region`); the file of the ship must have that output.
    A model of several channels takes cases as FILE+FILE, or folders (`edgemt.inference.predict_inputs`); with
    `missing_channels` a case may lack some of them.
    Yields each file when it is written; ship and inputs' names are checked before the first mask.
    A mask of another input is never replaced: the new one gets a longer name. Inputs that cannot be read are left out
    and named at the end. Raises ValueError in one line for them, a refused ship, an input of another kind, and two
    inputs of one name.
    """
    ship = open_package(folder)
    width = neighbours_of(ship.card)
    jobs = find_inputs([Path(path) for path in inputs], ship.card, may_lack=missing_channels)
    for path in (item.path for item in jobs.values()):
        if width > 1 and is_image(path):
            raise ValueError(
                f"{path}: is one image, this model reads {width} slices of a volume at a time; name a volume"
            )
    if through_plane < 1 or through_plane % 2 == 0:
        raise ValueError(f"through_plane: must be odd and above 0, not {through_plane}; 3 or 5 is usual")
    if through_plane != 1 and all(is_image(item.path) for item in jobs.values()):
        raise ValueError("through_plane: slices of a volume vote, and every input is one image; leave it at 1")
    loaded = runner(ship, runtime=runtime, file=file, threads=threads, cpu_fallback=cpu_fallback)
    if uncertainty and not loaded.has_uncertainty:
        raise ValueError(
            f"{folder}: {loaded.file} gives no uncertainty; leave --uncertainty out, or name another --file"
        )
    lines = open_contours(ship, file=loaded.file, through_plane=through_plane) if contours else None
    watch = InputDriftMonitor(read_inputs(ship), what="input")
    made = _with_drift_warning(loaded, watch, uncertainty=uncertainty)
    return _all(made, ship.card, jobs, Path(out), overlay, through_plane, lines)


def _with_drift_warning(made: ModelRunner, watch: InputDriftMonitor, *, uncertainty: bool = False) -> Predict:
    """The runner, with one warning where the frames differ from the training frames."""

    def call(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        for frame in frames:
            if (message := watch.update(frame)) is not None:
                print(f"edgemt: warning: {message}", file=sys.stderr, flush=True)
        return made.with_uncertainty(frames) if uncertainty else (made(frames), None)

    return call


def _all(
    made: Predict, card: ModelCard, jobs: dict[str, Input], out: Path, overlay: bool, width: int, lines: Lines = None
) -> Iterator[Path]:
    """Raises ValueError at the end for the inputs that could not be read; the others are done."""
    failures = Failures(total=len(jobs))
    for name, item in jobs.items():
        path = item.path
        first = mask_parts(np.zeros((1, 1), np.uint8), card.classes, overlapping=card.overlapping)[0][0]
        suffix = f".{first}mask.png" if is_image(path) else f".{first}mask.nii.gz"
        target = free_target(out, name, suffix, path)
        try:
            if is_image(path):
                yield from _image(made, card, item, target, overlay, lines)
            else:
                yield from _volume(made, card, item, target, overlay, width, lines)
        except NoSpaceError:
            raise
        except ValueError as error:
            failures.add(path, error)
    failures.raise_if_any()


def free_target(out: Path, name: str, suffix: str, path: Path) -> Path:
    """`out / name`, or a name with a part of the input's mark where the mask of another input has that one."""
    mark = input_mark(path)
    there = out / f"{name}{suffix}"
    return out / name if not there.exists() or _mark_of(there) == mark else out / f"{name}.{mark[-12:]}"


def input_mark(path: Path) -> str:
    """What a mask holds of the place of its input, so that the same input replaces it and no other: 23 characters."""
    return f"edgemt:{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"


def _mark_of(mask: Path) -> str:
    try:
        if mask.suffix == ".png":
            with Image.open(mask, formats=("PNG",)) as image:
                return str(image.info.get(_MARK, ""))
        import nibabel

        header: Any = nibabel.load(mask).header
        return bytes(header["aux_file"].item()).rstrip(b"\0").decode("latin-1")
    except Exception:  # whatever it is, it is not ours to replace
        return ""


def _image(
    made: Predict, card: ModelCard, item: Input, target: Path, overlay: bool, lines: Lines = None
) -> Iterator[Path]:
    """Upright, as its EXIF orientation has it; so are the mask and the overlay."""
    path, names = item.path, card_names(card)
    picture = read_input(item, card) if names else eight_bits(read_input(item, card), card, path)
    frame = fit_frame(picture, size=card.size, channels=card.channels)
    masks, maps = made(frame[None])
    mask = fit_label(masks[0], size=picture.shape[:2])
    colours = 2 if card.overlapping else len(card.classes)
    for part, own in mask_parts(mask, card.classes, overlapping=card.overlapping):
        yield write_png(target, f".{part}mask.png", own, colours=colours, mark=input_mark(path))
    if maps is not None:
        yield write_png(target, ".uncertainty.png", fit_map(maps[0], size=picture.shape[:2]), mark=input_mark(path))
    regions: list[tuple[str, np.ndarray]] = []
    if lines is not None:
        lines.look_at(frame)
        regions = region_files(lines.of(masks[0], name=str(path)), card, shape=mask.shape)
        for name, region in regions:
            own = stored_region(region, card)
            yield write_png(target, f".{name}.mask.png", own, colours=len(card.classes), mark=input_mark(path))
    if overlay:
        shown = shown_channel(picture, names) if names else picture
        shown = shown if maps is None else hatched(shown, uncertain_region(maps[0]))
        drawn = with_lines(_outlined(shown, mask, card), regions, card)
        yield write_png(target, ".overlay.png", drawn)


def _outlined(picture: np.ndarray, mask: np.ndarray, card: ModelCard) -> np.ndarray:
    return contours(picture, mask, colours=class_colours(len(card.classes)), overlapping=card.overlapping)


def _volume(
    made: Predict, card: ModelCard, item: Input, target: Path, overlay: bool, width: int, lines: Lines = None
) -> Iterator[Path]:
    """Slice by slice in the axis order of training; the mask has the file's own order and its complete geometry.

    The overlay is of the fullest slice.
    """
    axes, path = axes_of(card), item.path
    volume = read_volume(path, axes=axes, channel=0 if item.channels else None)
    array = read_input(item, card) if item.channels else eight_bits(volume.array, card, path)
    mask = np.zeros(volume.array.shape, np.uint8)
    spread: np.ndarray | None = None
    for k, frame in enumerate(_frames(array, card)):
        masks, maps = made(frame[None])
        mask[..., k] = fit_label(masks[0], size=array.shape[:2])
        if lines is not None:
            lines.look_at(frame)
        if maps is not None:
            spread = np.zeros(mask.shape, np.uint8) if spread is None else spread
            spread[..., k] = fit_map(maps[0], size=array.shape[:2])
    voted = partial(vote, width=width)
    stacked = np.moveaxis(mask, -1, 0)
    stacked = each_class(stacked, voted, classes=len(card.classes), overlapping=card.overlapping)
    mask = np.moveaxis(stacked, 0, -1)
    for part, own in mask_parts(mask, card.classes, overlapping=card.overlapping):
        name = target.with_name(f"{target.name}.{part}mask.nii.gz")
        yield write_volume(name, own, volume, axes=axes, mark=input_mark(path))
    if spread is not None:
        name = target.with_name(f"{target.name}.uncertainty.nii.gz")
        yield write_volume(name, spread, volume, axes=axes, mark=input_mark(path))
    regions: list[tuple[str, np.ndarray]] = []
    if lines is not None:
        spacing = volume_spacing(path, axes=axes)
        regions = region_files(lines.of(mask, name=str(path), spacing_mm=spacing), card, shape=mask.shape)
        for part, region in regions:
            name = target.with_name(f"{target.name}.{part}.mask.nii.gz")
            yield write_volume(name, stored_region(region, card), volume, axes=axes, mark=input_mark(path))
    if overlay:
        k = int((mask > 0).sum(axis=(0, 1)).argmax())
        shown = np.ascontiguousarray(array[..., k] if not item.channels else array[:, :, 0, k])
        if spread is not None:
            shown = hatched(shown, uncertain_region(np.ascontiguousarray(spread[..., k])))
        drawn = _outlined(shown, mask[..., k], card)
        drawn = with_lines(drawn, [(part, np.ascontiguousarray(region[..., k])) for part, region in regions], card)
        yield write_png(target, f".slice{k:03d}.overlay.png", drawn)


def fit_map(values: np.ndarray, *, size: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w] -> uint8 [H, W], bilinear."""
    height, width = size
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))


def write_volume(name: Path, mask: np.ndarray, volume: Volume, *, axes: str, mark: str) -> Path:
    """`mask` [X, Y, Z] in the order `axes` -> a compressed NIfTI file with the geometry of `volume`'s own."""
    with atomic_write(name) as part:
        image = nifti(mask, volume, axes=axes)
        image.header["aux_file"] = mark
        part.write_bytes(_gzip(image.to_bytes()))
    return name


def nifti(mask: np.ndarray, volume: Volume, *, axes: str) -> Any:
    """A NIfTI image of `mask`, in the order `axes`, over the file that `volume` was read from."""
    import nibabel

    mask = restored(mask, volume.codes, axes)
    if volume.header is not None:
        return like_input(mask, volume.header)
    return nibabel.Nifti1Image(mask, volume.affine)


def axes_of(card: ModelCard) -> str:
    """The axis order of training, of the card; empty on one that has none. ValueError for one that is none."""
    axes = card.data.get("axes", "")
    if axes and not (isinstance(axes, str) and is_order(axes)):
        raise ValueError(f"card.json: data.axes {axes!r} is no order of three axes; export the model again")
    return axes or ""


def eight_bits(array: np.ndarray, card: ModelCard, path: Path) -> np.ndarray:
    """uint8 by the rule of training. Prints a warning where a file has more bits than those of training."""
    depth = of_card(card.data, source="card.json")
    if (unlike := depth.unlike(array)) is not None:
        print(f"edgemt: warning: {path}: {unlike}", file=sys.stderr, flush=True)
    return depth(array)


def _frames(array: np.ndarray, card: ModelCard) -> Iterator[np.ndarray]:
    """uint8 [X, Y, Z], or [X, Y, K, Z] -> the frame [H, W, K] of each slice in turn, as it was made in training."""
    width = neighbours_of(card)
    slices = (np.ascontiguousarray(array[..., k]) for k in range(array.shape[-1]))
    fitted = (fit_frame(slice_, size=card.size, channels=card.channels // width) for slice_ in slices)
    if width == 1:
        yield from fitted
        return
    narrow = np.stack(list(fitted))
    for k in range(len(narrow)):
        yield stack_neighbours(narrow, k, slices=width)


def _gzip(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data, compresslevel=6, mtime=0)  # equal masks give equal files


def write_png(target: Path, suffix: str, array: np.ndarray, *, colours: int = 0, mark: str = "") -> Path:
    """`colours`: of a mask, as a palette; `mark`: of its input, as a text in the file."""
    image = Image.fromarray(array)
    if colours:
        # indices stay what they are; the palette only makes them visible
        image = Image.frombytes("P", (array.shape[1], array.shape[0]), np.ascontiguousarray(array).tobytes())
        rest = class_colours(colours)[1:]
        image.putpalette([0, 0, 0, *(value for colour in rest for value in colour)])
    buffer = BytesIO()
    texts = PngInfo()
    if mark:
        texts.add_text(_MARK, mark)
    image.save(buffer, "PNG", pnginfo=texts)
    path = target.with_name(f"{target.name}{suffix}")
    write_bytes(path, buffer.getvalue())
    return path
