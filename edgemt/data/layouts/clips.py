"""Clips: the frames of each video in a folder of its own, images/CLIP/* with masks/CLIP/*. A clip is a patient."""

from __future__ import annotations

from pathlib import Path

from edgemt.data.layouts.case_files import CaseFiles, normalise_name, patient_of
from edgemt.data.layouts.mask_names import match_masks
from edgemt.io.file_types import is_image, is_slice_folder, is_stray, natural_sort_key, stem_of

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".m4v", ".webm", ".mpg", ".mpeg", ".wmv", ".mxf", ".ts")


def list_clips(base: Path, *, pattern: str) -> list[CaseFiles]:
    """The frames of base/images/CLIP with the masks of base/masks/CLIP, in natural order; a case is named CLIP/FRAME.

    Frames without a mask are unlabelled. Raises ValueError for a folder without clips, and for video files, with the
    command that extracts their frames.
    """
    images = base / "images"
    if not images.is_dir():
        raise ValueError(f"{base}: has no folder 'images'; data.layout clips reads images/CLIP/*.png")
    refuse_videos(images)
    folders = sorted((p for p in images.iterdir() if is_slice_folder(p)), key=lambda p: natural_sort_key(p.name))
    if not folders:
        raise ValueError(f"{images}: holds no folder of frames; data.layout clips reads images/CLIP/*.png")
    masks = next((base / name for name in ("masks", "labels") if (base / name).is_dir()), None)
    items = []
    for folder in folders:
        clip = normalise_name(folder.name)
        frames, truths = _by_stem(folder), _by_stem(masks / folder.name) if masks is not None else {}
        for stem, found in match_masks(frames, truths, folder=folder).items():
            label = truths[found.mask] if found.mask is not None else None
            items.append(CaseFiles(f"{clip}/{stem}", patient_of(clip, pattern=pattern), frames[stem], label))
    return items


def refuse_videos(folder: Path) -> None:
    """Raises ValueError, with the command that extracts frames, where a folder of images holds a video file."""
    for path in sorted(folder.iterdir()):
        if path.name.lower().endswith(VIDEOS) and not is_stray(path) and path.is_file():
            into = path.with_suffix("")
            extract = f"mkdir {into} && ffmpeg -i {path} -vf fps=5 {into}/%06d.png"
            raise ValueError(
                f"{path}: training reads frames, no videos; edgemt import {path} --every 5 --out DIR makes them, or "
                f"{extract}, move the video away, give --data.layout clips"
            )


def _by_stem(folder: Path) -> dict[str, Path]:
    """Stem -> image of a folder, in natural order; empty where there is no folder. ValueError for two of one stem."""
    found: dict[str, Path] = {}
    files = [p for p in folder.iterdir() if is_image(p) and not is_stray(p)] if folder.is_dir() else []
    for path in sorted(files, key=lambda p: natural_sort_key(p.stem)):
        stem = normalise_name(stem_of(path))
        if stem in found:
            raise ValueError(f"{path}: a second file named {stem!r}, beside {found[stem].name}; rename one")
        found[stem] = path
    return found
