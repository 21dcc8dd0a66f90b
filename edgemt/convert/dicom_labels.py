"""DICOM SEG and RT-STRUCT as areas on the voxels of their series.

SEG: binary frames, or label maps (Supplement 243); fractional ones are refused. RT-STRUCT: closed planar contours; a
voxel belongs to a structure when its centre lies inside, and the contours of one structure in one slice are combined by
the even-odd rule, so that an inner contour is a hole.

Shapes: X Y Z voxels of the volume.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from deploy.dicom.header import read_dataset
from edgemt.convert.contract import Volume
from edgemt.convert.dicom_series import STRUCTURES, Series, planes_of, read_head, stacked
from edgemt.convert.geometry import LPS_TO_RAS, onto_grid
from edgemt.convert.polygons import lies_beyond, rasterise
from edgemt.io.decode_limits import check_bytes

_OFF_SLICE = 0.2  # of the distance of two slices
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
Areas = list[tuple[str, np.ndarray]]  # name, bool [X, Y, Z]


def label_names(label: Series) -> list[str]:
    """Names of segments, or of structures with contours. Raises ValueError for a file without any."""
    header, path = label.headers[0], label.paths[0]
    if str(header.SOPClassUID) == STRUCTURES:
        drawn = {int(item.ReferencedROINumber) for item in header.get("ROIContourSequence") or [] if _closed(item)}
        found = [str(r.ROIName) for r in header.get("StructureSetROISequence") or [] if int(r.ROINumber) in drawn]
    else:
        if str(header.get("SegmentationType", "")) == "FRACTIONAL":
            raise ValueError(f"{path}: is a fractional segmentation, which has no edge; export it as BINARY")
        found = [str(item.get("SegmentLabel") or item.SegmentNumber) for item in header.get("SegmentSequence") or []]
    if not found:
        raise ValueError(f"{path}: holds no segment or closed contour; leave it out")
    return [name.strip() for name in found]


def referenced_series(label: Series) -> set[str]:
    """UIDs of the series that a SEG or an RT-STRUCT refers to."""
    header = label.headers[0]
    uids = {str(item.get("SeriesInstanceUID", "")) for item in header.get("ReferencedSeriesSequence") or []}
    for frame in header.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for item in study.get("RTReferencedSeriesSequence") or []:
                uids.add(str(item.get("SeriesInstanceUID", "")))
    return uids - {""}


def read_areas(path: Path, image: Volume, *, image_path: Path) -> Areas:
    """Named areas on the voxels of `image`. Raises ValueError, naming the file."""
    header = read_head(path)
    if str(header.SOPClassUID) == STRUCTURES:
        return _structures(path, header, image)
    return _segments(path, image, image_path=image_path)


def _segments(path: Path, image: Volume, *, image_path: Path) -> Areas:
    from pydicom.pixels import pixel_array

    try:
        header = read_dataset(path)
        shape = (int(header.get("NumberOfFrames") or 1), int(header.Rows), int(header.Columns))
        check_bytes(path, shape, 1)
        frames = np.asarray(pixel_array(header)).reshape(shape)
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise _undecodable(path, error) from None
    except Exception as error:  # each decoder raises its own types
        raise _undecodable(path, error) from None
    planes = planes_of(header)
    groups = header.get("PerFrameFunctionalGroupsSequence") or []
    names = {int(item.SegmentNumber): str(item.get("SegmentLabel") or item.SegmentNumber).strip()
             for item in header.SegmentSequence}  # fmt: skip
    if len(planes) != len(frames) or any(plane is None for plane in planes):
        raise ValueError(f"{path}: states no place for some of its frames; export the segmentation again")
    to_voxels = np.linalg.inv(LPS_TO_RAS @ image.affine)
    depth = image.array.shape[2]
    stacks: dict[int, np.ndarray] = {}
    own = np.eye(4)
    for index, plane in enumerate(planes):
        assert plane is not None
        height = float((to_voxels @ [*plane.position, 1])[2])
        k = round(height)
        if abs(height - k) > _OFF_SLICE or not 0 <= k < depth:
            raise ValueError(
                f"{path}: frame {index + 1} lies between or beyond the slices of {image_path.name}; resample it"
            )
        across = (LPS_TO_RAS @ image.affine)[:3, 2]
        own[:3, :3] = np.stack([plane.along_row, plane.along_column, across], 1)
        own[:3, 3] = plane.position - height * across
        for number in _numbers(frames[index], groups[index] if groups else None, path):
            stack = stacks.setdefault(number, np.zeros((shape[2], shape[1], depth), bool))
            stack[..., k] |= (number == frames[index].T) if _is_label_map(header) else (frames[index].T > 0)
    unknown = set(stacks) - set(names)
    if unknown:
        raise ValueError(f"{path}: has frames of segment {min(unknown)}, which it does not name; export it again")
    placed = {number: onto_grid(stack, LPS_TO_RAS @ own, image, label_path=path, image_path=image_path)
              for number, stack in sorted(stacks.items())}  # fmt: skip
    return [(names[number], stack) for number, stack in placed.items()]


def _undecodable(path: Path, error: Exception) -> ValueError:
    text = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return ValueError(f"{path}: its frames cannot be decoded ({text}); copy or export it again")


def _is_label_map(header: Any) -> bool:
    return str(header.get("SegmentationType", "")) == "LABELMAP"


def _numbers(frame: np.ndarray, group: Any, path: Path) -> list[int]:
    """Segments of a frame: the one that it names, or of a label map the values that it holds."""
    items = group.get("SegmentIdentificationSequence") if group is not None else None
    if items:
        return [int(items[0].ReferencedSegmentNumber)]
    return [value for value in np.unique(frame).tolist() if value]


def _structures(path: Path, header: Any, image: Volume) -> Areas:
    to_voxels = np.linalg.inv(LPS_TO_RAS @ image.affine)
    shape = image.array.shape
    names = {int(item.ROINumber): str(item.ROIName).strip() for item in header.get("StructureSetROISequence") or []}
    areas: Areas = []
    for item in header.get("ROIContourSequence") or []:
        name = names.get(int(item.ReferencedROINumber), "")
        slices: dict[int, list[np.ndarray]] = defaultdict(list)
        for contour in _closed(item):
            points = _points(contour, path, name)
            voxels = points @ to_voxels[:3, :3].T + to_voxels[:3, 3]
            k = round(float(voxels[:, 2].mean()))
            if np.abs(voxels[:, 2] - k).max() > _OFF_SLICE or not 0 <= k < shape[2]:
                raise ValueError(f"{path}: a contour of {name!r} lies between or beyond the slices; export it again")
            ring = voxels[:, :2] + 0.5
            if lies_beyond(ring, (shape[1], shape[0])):
                raise ValueError(f"{path}: a contour of {name!r} lies beside its image; put the right series beside it")
            if not any(np.array_equal(ring, other) for other in slices[k]):  # copies would cancel each other
                slices[k].append(ring)
        if not slices:
            continue
        area = np.zeros(shape, bool)
        for k, rings in slices.items():
            area[..., k] = rasterise(rings, (shape[1], shape[0])).T
        areas.append((name, area))
    return areas


def contour_notes(series: Series, label: Series | None, *, name: str) -> list[str]:
    """Lines on contours that are left out and on structures that are drawn on every second slice or fewer.

    `name`: of the volume in the import.
    """
    if label is None or str(label.headers[0].SOPClassUID) != STRUCTURES:
        return []
    header, left_out, sparse = label.headers[0], 0, []
    names = {int(item.ROINumber): str(item.ROIName).strip() for item in header.get("StructureSetROISequence") or []}
    to_voxels = np.linalg.inv(LPS_TO_RAS @ stacked(series)[1])
    for item in header.get("ROIContourSequence") or []:
        closed, title = _closed(item), names.get(int(item.ReferencedROINumber), "")
        left_out += len(item.get("ContourSequence") or []) - len(closed)
        points = [_points(contour, label.paths[0], title).mean(0) for contour in closed]
        drawn = sorted({round(float((to_voxels @ [*point, 1])[2])) for point in points})
        if len(drawn) > 2 and np.median(np.diff(drawn)) >= 2:
            sparse.append(title)
    lines = [f"{name}: {left_out} open contours and points of its RT-STRUCT are left out"] if left_out else []
    if sparse:
        lines.append(
            f"{name}: {', '.join(sparse)} has contours on every second slice or fewer, those between are left empty"
        )
    return lines


def _closed(item: Any) -> list[Any]:
    contours = item.get("ContourSequence") or []
    return [c for c in contours if str(c.get("ContourGeometricType", "")) in _CLOSED]


def _points(contour: Any, path: Path, name: str) -> np.ndarray:
    values = np.array([float(v) for v in contour.get("ContourData") or []])
    if len(values) % 3 or len(values) < 9 or not np.isfinite(values).all():
        raise ValueError(f"{path}: a contour of {name!r} has {len(values)} numbers, no triples; export it again")
    return values.reshape(-1, 3)
