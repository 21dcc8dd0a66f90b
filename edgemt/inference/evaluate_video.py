"""Temporal stability of a ship on clips: flicker and area jitter, with labels also Dice. No torch.

A clip is a video file, a folder of frames, or a folder with `images` and, for the Dice, `masks` of the same names. A
folder of several clips holds them as folders or video files; with labels, `images/CLIP/` and `masks/CLIP/`.

Shapes: H W size of the model's input, K channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.package.package import Package, open_package
from deploy.runtimes.load import runner
from deploy.stream.sources import VIDEO_SUFFIXES, open_source
from deploy.stream.sources.base import CorruptFrameError, SourceLostError
from edgemt.contract import Case, Runner
from edgemt.data.decode import FrameSpec, decode_pairs
from edgemt.data.layouts.detect import IMAGE_FOLDERS, LABEL_FOLDERS
from edgemt.data.options import DataOptions
from edgemt.io.bit_depth import of_card
from edgemt.io.channels import no_channels
from edgemt.io.class_regions import no_overlapping
from edgemt.io.file_types import is_image, is_slice_folder, is_stray, natural_sort_key
from edgemt.io.images import fit_frame, fit_label
from edgemt.metrics.flicker import FlickerMeter, mean_record
from edgemt.metrics.overlap import compare

Frames = Iterator[tuple[np.ndarray, "np.ndarray | None"]]  # frame uint8 [H, W, K], truth at its own size


@dataclass(frozen=True)
class Clip:
    """A video file, or a folder of frames with or without a folder of masks."""

    name: str
    frames: Path
    masks: Path | None = None


def evaluate_video(
    folder: Path,
    videos: Sequence[Path],
    *,
    runtime: str = "auto",
    file: str | None = None,
    threads: int | None = None,
    cpu_fallback: bool = True,
) -> dict[str, Any]:
    """Predict every frame of every clip: {..., mean: figures over clips, clips: one record each}, JSON values.

    Flow is estimated between neighbouring frames at the size of the model's input (`edgemt.metrics.flicker`). Raises
    ValueError in one line for a ship of volume slices, for paths without a clip, and without OpenCV.
    """
    ship = open_package(folder)
    if ship.card.channel_order == "slices":
        raise ValueError(f"{folder}: reads slices of volumes, which are no video; give --data.root in place of --video")
    no_channels(ship.card, where=folder, what="a video has one picture a frame; give --data.root in place of --video")
    no_overlapping(ship.card, where=folder, what="flicker is measured of one class a pixel; give --data.root instead")
    clips = [clip for path in videos for clip in find_clips(Path(path))]
    made = runner(ship, runtime=runtime, file=file, threads=threads, cpu_fallback=cpu_fallback)
    records = [{"name": clip.name, **_clip_record(made, ship, clip)} for clip in clips]
    mean = mean_record(records)
    dice = [one["dice"] for one in records if one.get("dice") is not None]
    return {
        "ship": str(folder),
        "name": ship.card.name,
        "runtime": made.runtime,
        "file": made.file,
        "precision": made.precision,
        "threads": made.threads,
        "mean": {**mean, **({"dice": sum(dice) / len(dice)} if dice else {})},
        "clips": records,
    }


def video_table(record: dict[str, Any]) -> str:
    """The record of `evaluate_video` as text: a row a clip, and the mean."""
    keys = {"frames": "frames", "flicker": "flicker", "area_jitter": "jitter", "matched": "matched", "dice": "Dice"}
    shown = [key for key in keys if key in record["mean"]]
    rows = [["clip", *(keys[key] for key in shown)]]
    rows += [[one["name"], *(_cell(one.get(key)) for key in shown)] for one in record["clips"]]
    rows.append([f"mean of {record['mean']['clips']}", *(_cell(record["mean"].get(key)) for key in shown)])
    width = max(len(row[0]) for row in rows)
    lines = ["  ".join([row[0].ljust(width), *(cell.rjust(8) for cell in row[1:])]) for row in rows]
    lines += ["", f"{record['file']} on {record['runtime']} ({record['precision']})"]
    return "\n".join(lines)


def find_clips(path: Path) -> list[Clip]:
    """The clips at a path. Raises ValueError where there are none."""
    if path.is_file():
        return [Clip(path.stem, path)]
    if not path.is_dir():
        raise ValueError(f"video {path}: no such file or folder")
    images = next((path / name for name in IMAGE_FOLDERS if (path / name).is_dir()), None)
    if images is None:
        found = _below(path)
        clips = [Clip(path.name, path)] if is_slice_folder(path) else [Clip(one.stem, one) for one in found]
    else:
        masks = next((path / name for name in LABEL_FOLDERS if (path / name).is_dir()), None)
        if is_slice_folder(images):
            return [Clip(path.name, images, masks)]
        parts = [(one, masks / one.name if masks is not None else None) for one in _below(images)]
        clips = [Clip(one.stem, one, part if part is not None and part.is_dir() else None) for one, part in parts]
    if not clips:
        raise ValueError(f"video {path}: holds no frames and no video; name a video file or a folder of frames")
    return clips


def _below(folder: Path) -> list[Path]:
    """Folders of frames and video files of a folder, in natural order."""
    found = [p for p in folder.iterdir() if is_slice_folder(p) or _is_video(p)]
    return sorted(found, key=lambda p: natural_sort_key(p.name))


def _is_video(path: Path) -> bool:
    return path.is_file() and not is_stray(path) and path.name.lower().endswith(VIDEO_SUFFIXES)


def _clip_record(made: Runner, ship: Package, clip: Clip) -> dict[str, Any]:
    """Figures of one clip; only two frames of it are in memory."""
    classes = ship.card.classes
    meter = FlickerMeter(classes)
    dice: list[float] = []
    for frame, truth in _labelled(ship, clip) if clip.masks is not None else _played(ship, clip):
        mask = np.asarray(made(frame[None]))[0]
        meter.add(mask, frame=frame)
        if truth is not None:
            scored = compare(fit_label(mask, size=truth.shape[:2]), truth, classes=len(classes), dice_only=True)
            dice += [row["dice"] for row in scored if not math.isnan(row["dice"])]
    if len(meter.areas) < 2:
        raise ValueError(f"video {clip.frames}: {len(meter.areas)} frames; flicker needs at least 2")
    labelled = {"dice": sum(dice) / len(dice) if dice else None} if clip.masks is not None else {}
    return {**meter.record(), **labelled}


def _played(ship: Package, clip: Clip) -> Frames:
    """The frames of a clip without labels; damaged ones are left out, as in a stream."""
    card = ship.card
    source = open_source(str(clip.frames), hz=0, depth=of_card(card.data, source=ship.folder / "card.json"))
    if source.live:
        raise ValueError(f"video {clip.frames}: is live; record it to a file first")
    source.open()
    try:
        while True:
            try:
                read = source.read()
            except CorruptFrameError:
                continue
            except SourceLostError as error:
                raise ValueError(f"video {clip.frames}: {error}; copy the file again") from None
            if read is None:
                return
            yield fit_frame(read.pixels, size=card.size, channels=card.channels), None
    finally:
        source.close()


def _labelled(ship: Package, clip: Clip) -> Frames:
    """The frames of a clip whose masks have the same names. Raises ValueError for a frame without a mask."""
    assert clip.masks is not None
    masks = {path.stem: path for path in clip.masks.iterdir() if is_image(path) and not is_stray(path)}
    files = [path for path in clip.frames.iterdir() if is_image(path) and not is_stray(path)]
    cases = []
    for path in sorted(files, key=lambda p: natural_sort_key(p.stem)):
        if path.stem not in masks:
            raise ValueError(f"{clip.masks}: has no mask named {path.stem}; add it, or name {clip.frames} alone")
        cases.append(Case(path.stem, clip.name, str(path), str(masks[path.stem])))
    card, options = ship.card, DataOptions.from_dict(dict(ship.card.data))
    spec = FrameSpec(
        card.size,
        card.channels,
        card.classes,
        options.mask_threshold,
        depth=options.depth,
        window=options.window,
        values=options.mask_values,
    )
    yield from decode_pairs(cases, spec)


def _cell(value: float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"
