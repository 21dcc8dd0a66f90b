"""DICOM series with SEG and RT-STRUCT become volumes, cines become clips; nothing of a patient is written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

nibabel, pydicom = pytest.importorskip("nibabel"), pytest.importorskip("pydicom")

from dicom_samples import grey, save, smooth  # noqa: E402
from PIL import Image  # noqa: E402
from volume_samples import SHAPE, affine, dicom_series, image, label, structures  # noqa: E402

from edgemt import cli  # noqa: E402
from edgemt.convert.contract import ImportOptions  # noqa: E402
from edgemt.convert.importing import import_source  # noqa: E402


def segmentation(paths: list[Path], out: Path, *, kind: str = "BINARY", mask: np.ndarray | None = None) -> Path:
    """A SEG of `label()`, written by highdicom."""
    hd = pytest.importorskip("highdicom")
    from pydicom.sr.codedict import codes

    sources = sorted((pydicom.dcmread(p) for p in paths), key=lambda d: int(d.InstanceNumber))
    mask = label() if mask is None else mask
    described = [
        hd.seg.SegmentDescription(
            segment_number=k,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type="MANUAL",
        )
        for k, name in ((1, "liver"), (2, "vessel"))
    ]
    made = hd.seg.Segmentation(
        source_images=sources, pixel_array=np.ascontiguousarray(mask.transpose(2, 1, 0)), segmentation_type=kind,
        segment_descriptions=described, series_instance_uid=hd.UID(), series_number=9, sop_instance_uid=hd.UID(),
        instance_number=1, manufacturer="x", manufacturer_model_name="x", software_versions="1",
        device_serial_number="1",
    )  # fmt: skip
    made.save_as(out)
    return out


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_a_series_with_its_segmentation_is_a_volume_with_labels(kind: str, tmp_path: Path) -> None:
    paths = dicom_series(tmp_path / "in" / "ct")
    segmentation(paths, tmp_path / "in" / "seg.dcm", kind=kind)
    manifest = import_source(tmp_path / "in", tmp_path / "out")
    file = nibabel.load(tmp_path / "out" / "images" / "patient001.nii.gz")
    assert (np.asarray(file.dataobj) == image()).all() and file.get_data_dtype() == np.int16
    assert np.abs(file.affine - affine()).max() < 1e-4
    assert (voxels(tmp_path / "out" / "labels" / "patient001.nii.gz") == label()).all()
    assert manifest["classes"] == ["background", "liver", "vessel"]
    text = (tmp_path / "out" / "manifest.json").read_text()
    assert "Mill" not in text and "Ann" not in text and "ID-" not in text and "seg.dcm" in text


def test_structures_hold_the_voxels_whose_centre_lies_inside(tmp_path: Path) -> None:
    paths = dicom_series(tmp_path / "in")
    outer = [(1.6, 1.6), (8.4, 1.6), (8.4, 6.4), (1.6, 6.4)]
    hole = [(3.6, 2.6), (6.4, 2.6), (6.4, 4.4), (3.6, 4.4)]
    rings = {"liver": [(2, outer), (2, hole), (3, outer)], "vessel": [(3, hole)]}
    structures(paths, rings, tmp_path / "in" / "rt.dcm")
    manifest = import_source(tmp_path / "in", tmp_path / "out")
    expected = np.zeros(SHAPE, np.uint8)
    expected[2:9, 2:7, 2:4] = 1
    expected[4:7, 3:5, 2], expected[4:7, 3:5, 3] = 0, 2
    assert (voxels(tmp_path / "out" / "labels" / "patient001.nii.gz") == expected).all()
    assert manifest["counts"]["overlapping_pixels"] == 6


def test_patients_are_numbered_and_their_series_kept_together(tmp_path: Path) -> None:
    dicom_series(tmp_path / "in" / "a", 0)
    dicom_series(tmp_path / "in" / "b", 1, patient="Smith^Bob")
    dicom_series(tmp_path / "in" / "c", 2)
    manifest = import_source(tmp_path / "in", tmp_path / "out")
    assert [case["name"] for case in manifest["cases"]] == ["patient001_t01", "patient002", "patient001_t02"]
    assert manifest["counts"]["patients"] == 2
    assert not list((tmp_path / "out").glob("labels"))


def test_a_cine_is_a_clip(tmp_path: Path) -> None:
    frames = smooth(5)[..., 0]
    save(grey(frames), _made(tmp_path / "in") / "cine.dcm")
    manifest = import_source(tmp_path / "in", tmp_path / "out", options=ImportOptions(every=2))
    assert manifest["layout"] == "clips"
    for number in (0, 2, 4):
        found = np.asarray(Image.open(tmp_path / "out" / "images" / "patient001" / f"{number:06d}.png"))
        assert (found == frames[number]).all()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def change(path: Path, **fields: object) -> None:
    data = pydicom.dcmread(path)
    for name, value in fields.items():
        setattr(data, name, value)
    data.save_as(path)


def fractional(folder: Path, paths: list[Path]) -> None:
    change(segmentation(paths, folder / "seg.dcm"), SegmentationType="FRACTIONAL")


def rt(folder: Path, paths: list[Path], k: float = 2, points: int = 4) -> Path:
    ring = [(1, 1), (6, 1), (6, 6), (1, 6)][:points]
    return structures(paths, {"liver": [(k, ring)]}, folder / "rt.dcm")  # type: ignore[list-item]


def other_grid(folder: Path, paths: list[Path]) -> None:
    segmentation(paths, folder / "seg.dcm")
    for path in paths:
        change(path, PixelSpacing=[0.6, 0.6])


def sideways(folder: Path, paths: list[Path]) -> None:
    for path in paths:
        data = pydicom.dcmread(path)
        if data.InstanceNumber > 3:
            place = [float(v) for v in data.ImagePositionPatient]
            change(path, ImagePositionPatient=[place[0] + 20, *place[1:]])


def larger(folder: Path, paths: list[Path]) -> None:
    """Half of the slices have twice as many pixels."""
    for path in paths[:3]:
        data = pydicom.dcmread(path)
        pixels = np.kron(data.pixel_array, np.ones((2, 2), np.uint16))
        change(path, Rows=pixels.shape[0], Columns=pixels.shape[1], PixelData=pixels.tobytes())


def beside(folder: Path, paths: list[Path]) -> None:
    structures(paths, {"liver": [(2, [(90, 90), (99, 90), (99, 99)])]}, folder / "rt.dcm")


REFUSED = [
    (sideways, "beside the line through the slices"),
    (larger, "other slices of its series have"),
    (lambda f, p: change(p[0], PatientID="other"), "another patient identifier"),
    (lambda f, p: [change(q, PixelSpacing=[0, 0]) for q in p], r"\.dcm: its axes do not span a volume"),
    (beside, "lies beside its image"),
    (lambda f, p: p[2].write_bytes(p[2].read_bytes()[:-100]), "decoded|ends in the middle"),
    (lambda f, p: p[2].write_bytes(p[2].read_bytes()[:200]), "read as DICOM|no DICOM|is missing|several|pictures"),
    (lambda f, p: p[2].unlink(), "a slice is missing"),
    (lambda f, p: (f / "copy.dcm").write_bytes(p[1].read_bytes()), "two slices in one place"),
    (lambda f, p: change(p[3], ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), "several orientations"),
    (lambda f, p: save(grey(smooth(3)[..., 0]), f / "cine.dcm"), "holds volumes .* and cines"),
    (fractional, "fractional"),
    (lambda f, p: (segmentation(p, f / "a.dcm"), segmentation(p, f / "b.dcm")), "labels the same series"),
    (lambda f, p: (rt(f, p), [q.unlink() for q in p], dicom_series(f)), "0 series fit"),
    (lambda f, p: rt(f, p, k=2.5), "between or beyond the slices"),
    (lambda f, p: rt(f, p, k=60), "between or beyond the slices"),
    (lambda f, p: rt(f, p, points=2), "no triples"),
    (lambda f, p: segmentation(p, f / "s.dcm").write_bytes((f / "s.dcm").read_bytes()[:-30]), "decoded"),
    (other_grid, "its voxels are not those of"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "why"), REFUSED)
def test_what_cannot_be_read_is_one_line_and_leaves_nothing(damage, why: str, tmp_path: Path, capsys) -> None:
    damage(tmp_path / "in", dicom_series(tmp_path / "in"))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["import", str(tmp_path / "in"), "--format", "dicom", "--out", str(tmp_path / "out")])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and line.startswith("edgemt: error: ") and re.search(why, line), line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_a_file_named_after_its_patient_is_a_number_in_the_manifest(tmp_path: Path) -> None:
    dicom_series(tmp_path / "in")
    import_source(tmp_path / "in", tmp_path / "out")
    sources = json.loads((tmp_path / "out" / "manifest.json").read_text())["sources"]
    assert [one["file"] for one in sources["patient001"]][:2] == ["file 1", "file 2"]


def test_the_slices_of_a_tilted_gantry_are_a_sheared_volume(tmp_path: Path) -> None:
    for path in dicom_series(tmp_path / "in"):
        data = pydicom.dcmread(path)
        place = [float(v) for v in data.ImagePositionPatient]
        change(path, ImagePositionPatient=[place[0], place[1] + 0.4 * int(data.InstanceNumber), place[2]])
    import_source(tmp_path / "in", tmp_path / "out")
    found = nibabel.load(tmp_path / "out" / "images" / "patient001.nii.gz")
    assert abs(found.affine[1, 2] - affine()[1, 2] + 0.4) < 1e-4


@pytest.mark.parametrize("suffix", ["", ".CT", ".img", ".1"])
def test_files_of_a_series_may_have_any_suffix(suffix: str, tmp_path: Path) -> None:
    for path in dicom_series(tmp_path / "in"):
        path.rename(path.with_suffix(suffix))
    import_source(tmp_path / "in", tmp_path / "out")
    assert (voxels(tmp_path / "out" / "images" / "patient001.nii.gz") == image()).all()


def test_dose_beside_a_series_is_left_out(tmp_path: Path) -> None:
    data = pydicom.dcmread(dicom_series(tmp_path / "in")[0])
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = pydicom.uid.RTDoseStorage
    data.SeriesInstanceUID, data.NumberOfFrames, data.PixelData = pydicom.uid.generate_uid(), 3, data.PixelData * 3
    data.save_as(tmp_path / "in" / "dose.dcm")
    manifest = import_source(tmp_path / "in", tmp_path / "out")
    assert len(manifest["cases"]) == 1 and "1 files of radiation dose are left out" in manifest["notes"]


def test_contours_that_are_left_out_or_sparse_are_printed_and_copies_count_once(tmp_path: Path) -> None:
    ring = [(1.6, 1.6), (8.4, 1.6), (8.4, 6.4), (1.6, 6.4)]
    paths = dicom_series(tmp_path / "in")
    drawn = [(0, ring), (0, ring), (2, ring), (4, ring), (5, ring)]
    out = structures(paths, {"liver": drawn}, tmp_path / "in" / "rt.dcm")
    data = pydicom.dcmread(out)
    data.ROIContourSequence[0].ContourSequence[4].ContourGeometricType = "OPEN_PLANAR"
    data.save_as(out)
    lines: list[str] = []
    import_source(tmp_path / "in", tmp_path / "out", tell=lines.append)
    assert any("patient001: 1 open contours and points of its RT-STRUCT are left out" in line for line in lines)
    assert any("patient001: liver has contours on every second slice or fewer" in line for line in lines)
    mask = voxels(tmp_path / "out" / "labels" / "patient001.nii.gz")
    assert mask[2:9, 2:7, 0].all() and mask.any((0, 1)).tolist() == [True, False, True, False, True, False]
