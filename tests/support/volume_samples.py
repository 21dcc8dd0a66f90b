"""Volumes in files of 3D Slicer, SimpleITK and DICOM, with labels, small."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgemt.convert.nrrd_file import write_nrrd

SHAPE = (11, 9, 6)


def affine() -> np.ndarray:
    """RAS, turned about the third axis, three different spacings."""
    turn = np.deg2rad(17)
    out = np.eye(4)
    out[:3, :3] = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]) * (
        0.7,
        0.8,
        2.5,
    )
    out[:3, 3] = (-12.5, 30.25, 7)
    return out


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 2000, SHAPE).astype(np.int16)


def label(seed: int = 0) -> np.ndarray:
    """uint8 [X, Y, Z] of 0, 1 and 2."""
    rough = np.random.default_rng(seed + 50).integers(0, 3, (4, 3, 3)).astype(np.uint8)
    return np.kron(rough, np.ones((3, 3, 2), np.uint8))[: SHAPE[0], : SHAPE[1], : SHAPE[2]]


def segments(names: list[str], *, layers: list[int] | None = None, values: list[int] | None = None) -> dict[str, str]:
    """Key-value pairs of a .seg.nrrd."""
    pairs = {}
    for k, name in enumerate(names):
        pairs |= {f"Segment{k}_ID": f"Segment_{k + 1}", f"Segment{k}_Name": name}
        pairs |= {f"Segment{k}_Layer": str(layers[k] if layers else 0)}
        pairs |= {f"Segment{k}_LabelValue": str(values[k] if values else k + 1)}
    return pairs


def slicer(folder: Path, seeds: range = range(2)) -> Path:
    """case0.nrrd with case0.seg.nrrd, and further cases."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        write_nrrd(folder / f"case{seed}.nrrd", image(seed), affine(), {})
        write_nrrd(folder / f"case{seed}.seg.nrrd", label(seed), affine(), segments(["liver", "vessel"]))
    return folder


def dicom_series(folder: Path, seed: int = 0, *, patient: str = "Miller^Ann", count: int = SHAPE[2]) -> list[Path]:
    """A CT series of `image(seed)` with the place of `affine()`, file names out of order."""
    from dicom_samples import grey, save
    from pydicom import uid

    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1, 1, 1]) @ affine()
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    directions = (lps[:3, :3] / spacing).T
    series, frame, study, paths = uid.generate_uid(), uid.generate_uid(), uid.generate_uid(), []
    for k in range(count):
        data = grey((image(seed)[..., k].T[None] + 1024), stored=16, sop=uid.CTImageStorage)
        del data.NumberOfFrames, data.FrameTime, data.FrameIncrementPointer
        data.RescaleSlope, data.RescaleIntercept, data.Modality = 1, -1024, "CT"
        data.SeriesInstanceUID, data.FrameOfReferenceUID, data.StudyInstanceUID = series, frame, study
        data.PositionReferenceIndicator, data.InstanceNumber, data.SliceThickness = "", k + 1, 2.5
        data.PatientName, data.PatientID = patient, f"ID-{patient}"
        data.ImageOrientationPatient = [float(f"{v:.12g}") for v in (*directions[0], *directions[1])]
        data.PixelSpacing = [float(f"{spacing[1]:.12g}"), float(f"{spacing[0]:.12g}")]
        data.ImagePositionPatient = [float(f"{v:.12g}") for v in lps[:3, 3] + lps[:3, 2] * k]
        paths.append(save(data, folder / f"{patient[:6]}_{(7 * k) % 17:02d}.dcm"))
    return paths


def structures(paths: list[Path], rings: dict[str, list[tuple[int, list[tuple[float, float]]]]], out: Path) -> Path:
    """An RT-STRUCT of closed contours: name -> (slice, corners in voxels, centres at whole numbers)."""
    import pydicom
    from dicom_samples import dataset, save
    from pydicom import uid
    from pydicom.dataset import Dataset

    source = pydicom.dcmread(paths[0])
    data = dataset(sop=uid.RTStructureSetStorage)
    data.PatientName, data.PatientID, data.Modality = source.PatientName, source.PatientID, "RTSTRUCT"
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = source.SeriesInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = source.FrameOfReferenceUID, [study]
    data.ReferencedFrameOfReferenceSequence = [frame]
    data.StructureSetROISequence, data.ROIContourSequence = [], []
    lps = np.diag([-1.0, -1, 1, 1]) @ affine()
    for number, (name, contours) in enumerate(rings.items(), 1):
        roi, item = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, item.ReferencedROINumber, item.ContourSequence = number, name, number, []
        for k, corners in contours:
            contour = Dataset()
            points = np.array([[x, y, k, 1] for x, y in corners]) @ lps.T
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(corners)
            contour.ContourData = [float(f"{v:.9g}") for v in points[:, :3].reshape(-1)]
            item.ContourSequence.append(contour)
        data.StructureSetROISequence.append(roi)
        data.ROIContourSequence.append(item)
    return save(data, out)
