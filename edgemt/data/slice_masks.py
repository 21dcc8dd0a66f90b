"""The mask of a volume that is a folder of slice images: every slice is read as a mask of its own, then all as one.

Shapes: H W size of a slice, S slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgemt.data.layouts.mask_names import plain_name
from edgemt.io.file_types import slice_files
from edgemt.io.mask_files import Colour, Evidence, MaskFile, count, of_array, read_mask
from edgemt.io.masks import BRIGHT

_FEW = 32  # grey colours of a palette below this are class indices, of a set that is drawn to be seen they are not


def read_slice_masks(folder: str | Path, *, image: str | Path | None = None) -> MaskFile:
    """[H, W, S] in the order of the numbers in the names, with the evidence of all slices together.

    Raises ValueError, naming the slice, for colours, for palettes that may be indices or colours, for slices of
    several sizes, and where the names are those of other slices of the folder `image`.
    """
    files = slice_files(folder)
    if image is not None and Path(image).is_dir():
        _same_slices(files, slice_files(image))
    slices: list[MaskFile] = []
    meaning: dict[int, Colour] = {}
    for path in files:
        one = read_mask(path)
        if slices and one.array.shape != slices[0].array.shape:
            shapes = f"{one.array.shape}, the slices before it are {slices[0].array.shape}"
            raise ValueError(f"{path}: is {shapes} (rows, columns)")
        slices.append(_plain(one, meaning))
    return _together(slices, str(folder))


def _same_slices(masks: Sequence[Path], images: Sequence[Path]) -> None:
    ours, theirs = ({plain_name(path.stem): path for path in files} for files in (masks, images))
    if ours.keys() & theirs.keys() and ours.keys() != theirs.keys():
        other = next((path for name, path in ours.items() if name not in theirs), None)
        if other is not None:
            raise ValueError(f"{other}: fits no slice of {images[0].parent} by its name; name masks as their slices")
        bare = next(path for name, path in theirs.items() if name not in ours)
        raise ValueError(f"{bare}: this slice has no mask in {masks[0].parent}; add it, an empty one where nothing is")


def _plain(one: MaskFile, meaning: dict[int, Colour]) -> MaskFile:
    """The same slice with its values as numbers; `meaning` collects the colours of palettes."""
    evidence = one.evidence
    if evidence.conflict or evidence.kind == "colour":
        why = evidence.conflict or "is a colour mask, its three channels differ"
        raise ValueError(f"{evidence.path}: {why}; write class indices")
    if evidence.kind != "palette" or not evidence.colours:
        return one
    if _by_colour(evidence):
        table = np.zeros(256, np.uint8)
        for index, colour in evidence.colours:
            table[index] = colour[0]
        return of_array(table[one.array], evidence.path)
    for index, colour in evidence.colours:
        if meaning.setdefault(index, colour) != colour or (not max(colour) and index):
            raise ValueError(
                f"{evidence.path}: its palette gives colour {colour} to index {index}; write class indices with one "
                "palette for all slices, black being 0, or grey"
            )
    return of_array(one.array, evidence.path)


def _by_colour(evidence: Evidence) -> bool:
    """Whether the colours of a palette are the values: black and white, or grey class indices."""
    if any(max(colour) != min(colour) for _, colour in evidence.colours):
        return False
    values = [colour[0] for _, colour in evidence.colours]
    return max(values) < _FEW or all(v == 0 or v >= BRIGHT for v in values)


def _together(slices: Sequence[MaskFile], folder: str) -> MaskFile:
    found = [one.evidence for one in slices]
    several = [one for one in found if one.kind != "bit"]
    if not several:
        array = np.stack([one.array for one in slices], axis=-1)
        return MaskFile(array, Evidence(folder, "bit", count(array)))
    top = max(one.top for one in several)
    white = top if top in (255, 65535) else 1  # of slices with one bit a pixel
    arrays = [one.array * white if one.evidence.kind == "bit" else one.array for one in slices]
    levels: dict[int, int] = {}
    for one in found:
        for value, number in one.levels.items():
            value = value * white if one.kind == "bit" else value
            levels[value] = levels.get(value, 0) + number
    regions = frozenset().union(*(one.regions for one in found)) - {max(levels)}
    lossy = any(one.lossy for one in found)
    evidence = replace(several[0], path=folder, kind="grey", levels=levels, lossy=lossy, regions=regions, colours=())
    return MaskFile(np.stack(arrays, axis=-1), evidence)
