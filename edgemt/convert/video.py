"""Videos to folders of frames: a video is a clip, a clip is a patient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from edgemt.convert.contract import BACKGROUND, Format, ImportOptions, Listing, Loaded, Sample, Unit
from edgemt.convert.names import output_names
from edgemt.convert.video_frames import SceneChanges, decoded_frames, is_video_file, opened_video
from edgemt.io.file_types import natural_sort_key
from edgemt.io.image_hashes import SeenHashes, difference_hash

Draw = Callable[[tuple[int, int]], np.ndarray]  # (rows, columns) -> uint8 mask of that size


def videos_in(source: Path) -> list[Path]:
    """The video files of a folder and its folders in natural order, or the file itself."""
    if source.is_file():
        return [source] if is_video_file(source) else []
    return sorted((p for p in source.rglob("*") if is_video_file(p)), key=lambda p: natural_sort_key(str(p)))


def read(source: Path, options: ImportOptions) -> Listing:
    """Frames of all videos of a folder, or of one file. Raises ValueError where there is none."""
    files = videos_in(source)
    if not files:
        raise ValueError(f"{source}: holds no video; name a folder of videos, or another --format")
    return Listing("clips", (BACKGROUND,), video_units(source, files, options), notes=(chosen_frames(options),))


def video_units(
    source: Path, files: list[Path], options: ImportOptions, labels: Mapping[Path, Mapping[int, Draw]] | None = None
) -> list[Unit]:
    """A unit for each video; `labels`: frame number -> mask, of some of them."""
    check_options(options)
    root = source if source.is_dir() else source.parent
    names = output_names([PurePosixPath(path.relative_to(root).as_posix()) for path in files])
    units = []
    for path, name in zip(files, names, strict=True):
        with opened_video(path):  # a file that is none is refused before anything is written
            pass
        drawn, frames = (labels or {}).get(path, {}), partial(_frames_of, path)
        units.append(
            Unit(path.relative_to(root).as_posix(), (path,), clip_samples(path, frames, name, options, drawn), name)
        )
    return units


def check_options(options: ImportOptions) -> None:
    """Raises ValueError for numbers of frames that mean nothing."""
    if options.every < 1:
        raise ValueError(f"every: {options.every} is no number of frames; give 1 or more")
    if options.clip_frames < 0:
        raise ValueError(f"clip-frames: {options.clip_frames} is no number of frames; give 1 or more, or leave it out")


def chosen_frames(options: ImportOptions) -> str:
    """One line on which frames are written."""
    every = "every frame" if options.every == 1 else f"one of {options.every} frames"
    scenes = " and the first of each scene" if options.scene_changes else ""
    alike = f"; near-duplicates (at most {options.duplicates} of 256 bits differ) are left out"
    clip = "a video is a clip and a patient"
    if options.clip_frames:
        clip = f"{options.clip_frames} frames are a clip; such clips resemble each other: Dice is measured too high"
    return f"{every}{scenes}{alike if options.duplicates >= 0 else ''}; {clip}"


def _frames_of(path: Path) -> Iterator[Frame]:
    return decoded_frames(path)


class Frame(Protocol):
    """A decoded frame; `small` is for hashes, `pixels` what is written."""

    number: int

    def small(self) -> np.ndarray: ...
    def pixels(self) -> np.ndarray: ...


def clip_samples(
    path: Path,
    frames: Callable[[], Iterator[Frame]],
    clip: str,
    options: ImportOptions,
    labels: Mapping[int, Draw],
) -> Callable[[], Iterator[Sample]]:
    """The frames that `options` choose, and all that have a label. Raises ValueError for a label without a frame."""

    def samples() -> Iterator[Sample]:
        scenes, seen, missing = SceneChanges(), SeenHashes(tolerance=options.duplicates), set(labels)
        for frame in frames():
            folder = f"{clip}-{frame.number // options.clip_frames:03d}" if options.clip_frames else clip
            begins = options.scene_changes and scenes.begins(frame.small())
            draw = labels.get(frame.number)
            if draw is None:
                if frame.number % options.every and not begins:
                    continue
                hash_ = difference_hash(frame.small())
                if seen.holds_like(hash_):
                    continue
                seen.add(hash_)
            missing.discard(frame.number)
            yield Sample(f"{folder}/{frame.number:06d}", draw is not None, _loader(frame, draw), frame.number)
        if missing:
            raise ValueError(
                f"{path}: has no frame {min(missing)} that the labels name; is it the video that was labelled?"
            )

    return samples


def _loader(frame: Frame, draw: Draw | None) -> Callable[[], Loaded]:
    def load() -> Loaded:
        pixels = frame.pixels()
        return Loaded(pixels, None if draw is None else draw(pixels.shape[:2]))

    return load


FORMAT = Format(
    about="video files (MP4, AVI, MOV, MKV ...): frames as clips, a video is a patient",
    detects=lambda source: bool(videos_in(source)),
    read=read,
    fallback=True,
)
