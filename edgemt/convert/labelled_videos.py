"""Videos with label volumes whose slices are the frames, as a stack of frames is labelled in 3D Slicer or ITK-SNAP.

The first axis of the label volume is the columns of the frames, the second the rows, the third the number of the frame,
in the order in which the file stores them. 3D Slicer saves the labelled part alone and states where it begins
(`Segmentation_ReferenceImageExtentOffset`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from edgemt.convert.contract import ImportOptions, Listing, OverlapCount
from edgemt.convert.label_volumes import LabelVolume, label_classes, read_labels, segments_of
from edgemt.convert.video import Draw, chosen_frames, video_units

_OFFSET = "Segmentation_ReferenceImageExtentOffset"


def list_videos(source: Path, videos: Sequence[Path], paired: Mapping[Path, Path], options: ImportOptions) -> Listing:
    """The frames of all videos, those with a label among them.

    A frame without a labelled pixel is not labelled yet; with `options.empty` "background" it is labelled with nothing
    on it. Raises ValueError, naming the label file.
    """
    segments = {label: segments_of(label) for label in paired.values()}
    classes = label_classes(segments, options, source=source)
    overlap = OverlapCount()
    frames = {
        video: _frames(read_labels(label, segments[label]), label, classes, overlap, options)
        for video, label in paired.items()
    }
    units = video_units(source, list(videos), options, frames)
    notes = (chosen_frames(options), "slices of the label files are frames: columns x rows x frames, as stored")
    return Listing("clips", classes, units, labels=tuple(paired.values()), notes=notes, overlap=overlap)


def _frames(
    labels: LabelVolume, path: Path, classes: tuple[str, ...], overlap: OverlapCount, options: ImportOptions
) -> dict[int, Draw]:
    """Number of a frame -> its mask."""
    column, row, first = _begin(path, labels.pairs)
    part = _OFFSET in labels.pairs

    def draw(k: int, size: tuple[int, int]) -> np.ndarray:
        mask = labels.mask(classes, overlap, k).T
        below, right = row + mask.shape[0], column + mask.shape[1]
        if below > size[0] or right > size[1] or (not part and mask.shape != size):
            raise ValueError(
                f"{path}: ends at column {right} and row {below}, the frames have {size[1]} x {size[0]} pixels; its "
                "axes must be the columns, the rows and the frames of this video"
            )
        whole = np.zeros(size, np.uint8)
        whole[row:below, column:right] = mask
        return whole

    drawn = labels.layers.any((0, 1, 2)) if options.empty == "unlabelled" else np.ones(labels.layers.shape[3], bool)
    return {first + int(k): partial(draw, int(k)) for k in np.flatnonzero(drawn)}


def _begin(path: Path, pairs: Mapping[str, str]) -> tuple[int, int, int]:
    """Column, row and frame of the first voxel."""
    try:
        column, row, frame = (int(text) for text in pairs.get(_OFFSET, "0 0 0").split())
    except ValueError:
        raise ValueError(f"{path}: its {_OFFSET} {pairs[_OFFSET]!r} is not three numbers; save it again") from None
    if min(column, row, frame) < 0:
        raise ValueError(f"{path}: begins before the video ({_OFFSET} {pairs[_OFFSET]}); is it the right label file?")
    return column, row, frame
