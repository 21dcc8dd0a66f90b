"""The channels of a case must lie on one grid: decided from the headers, before any of them is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgemt.contract import Case
from edgemt.io import file_types
from edgemt.io.channels import COLOUR
from edgemt.io.fourth_axis import check_fourth_axis, is_stacked
from edgemt.io.geometry import align
from edgemt.io.images import Header
from edgemt.io.volumes import geometry_of


def check_channels(
    cases: Sequence[Case], headers: Mapping[str, Header], *, names: Sequence[str], compare: bool = True
) -> None:
    """Raises ValueError, naming both files, where two channels of a case differ in size or, with `compare`, in place.

    `headers`: those of pictures, by path. A volume stored in another axis order than the first channel is no mistake.
    """
    for case in {case.image: case for case in cases if case.channels}.values():
        first, *others = case.files
        volumes = [path for path in case.files if not file_types.is_image(path)]
        for path in volumes:
            check_fourth_axis(path, geometry_of(path), names if is_stacked(case.channels) else ())
        if volumes and len(volumes) < len(case.files):
            picture = next(path for path in case.files if file_types.is_image(path))
            raise ValueError(f"{picture}: is a picture, {volumes[0]} of the same case is a volume; use one kind")
        if volumes and COLOUR in (name.casefold() for name in names):
            raise ValueError(f"{volumes[0]}: a volume has no colours; give the channel {COLOUR} another name")
        for path in others:
            if volumes:
                _check_volume(path, first, compare=compare)
            elif _size(headers[path]) != _size(headers[first]):
                raise ValueError(
                    f"{path}: is {_size(headers[path])}, channel {first} of the same case is {_size(headers[first])} "
                    "(rows, columns); resize one to the other, registered"
                )


def _size(header: Header) -> tuple[int, int]:
    """Of the upright picture."""
    rows, columns = header.size
    return (columns, rows) if header.orientation > 4 else (rows, columns)


def _check_volume(path: str, first: str, *, compare: bool) -> None:
    own, theirs = geometry_of(path), geometry_of(first)
    both = file_types.is_volume(path) and file_types.is_volume(first)
    if both and compare and align(own, theirs, label_path=path, image_path=first, what="channel") is not None:
        return
    if own.shape != theirs.shape:
        raise ValueError(
            f"{path}: is {own.shape}, channel {first} of the same case is {theirs.shape} (voxels); resample one onto "
            "the other"
        )
