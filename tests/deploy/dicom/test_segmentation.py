"""DICOM in, DICOM segmentation out: read back by highdicom, frame by frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from pydicom import uid  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from tiny_package import CLASSES, expected, frame, make_ship  # noqa: E402

from deploy.dicom.segmentation import predict_dicom_seg, write_dicom_seg  # noqa: E402
from deploy.package.package import Package  # noqa: E402

FRAMES = np.stack([frame(k) for k in range(3)])
SECRETS = ("Secret^Name", "ID-4711", "19700101")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def ship(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return make_ship(tmp_path_factory.mktemp("dicom") / "ship")


def write(path: Path, pixels: np.ndarray, kind: str, **more: object) -> Path:
    """uint8 or uint16 [F, H, W] or [F, H, W, 3]; one frame for a kind that is not multi-frame."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = kind
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    image.PatientName, image.PatientID, image.PatientBirthDate = SECRETS
    image.PatientSex, image.StudyInstanceUID, image.SeriesInstanceUID = "F", uid.generate_uid(), uid.generate_uid()
    image.StudyID, image.SeriesNumber, image.InstanceNumber, image.Modality = "1", 1, 1, "US"
    image.StudyDate, image.StudyTime, image.AccessionNumber, image.ReferringPhysicianName = "20240101", "1010", "A", ""
    image.SamplesPerPixel = 3 if pixels.ndim == 4 else 1
    image.PhotometricInterpretation = "RGB" if pixels.ndim == 4 else "MONOCHROME2"
    if pixels.ndim == 4:
        image.PlanarConfiguration = 0
    image.Rows, image.Columns = pixels.shape[1:3]
    image.BitsAllocated = image.BitsStored = 8 * pixels.dtype.itemsize
    image.HighBit, image.PixelRepresentation = image.BitsStored - 1, 0
    if kind == uid.UltrasoundMultiFrameImageStorage:
        image.NumberOfFrames, image.FrameTime, image.FrameIncrementPointer = len(pixels), "40", 0x00181063
    for name, value in more.items():
        setattr(image, name, value)
    image.PixelData = pixels.tobytes()
    image.save_as(path, enforce_file_format=True)
    return path


def segmentations(ship: Package, inputs: list[Path], out: Path, **options: str) -> list[Path]:
    return list(predict_dicom_seg(ship.folder, inputs, out=out, runtime="onnxruntime", **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_each_frame_of_a_cine_gets_its_own_mask(kind: str, ship: Package, tmp_path: Path) -> None:
    cine = write(tmp_path / "cine.dcm", FRAMES, uid.UltrasoundMultiFrameImageStorage)
    (path,) = segmentations(ship, [cine], tmp_path / "out", kind=kind)
    seg = highdicom.seg.segread(path)
    source = pydicom.dcmread(cine)
    masks = seg.get_pixels_by_source_frame(
        source.SOPInstanceUID, [1, 2, 3], combine_segments=True, ignore_spatial_locations=True
    )
    assert np.array_equal(masks, np.stack([expected(picture) for picture in FRAMES]))
    named = {item.segment_number: item.segment_label for item in seg.SegmentSequence if item.SegmentNumber}
    assert named == dict(enumerate(CLASSES[1:], 1))
    assert {
        str(element.value) for element in seg.iterall() if element.keyword == "ReferencedSOPClassUID"
    } == {uid.UltrasoundMultiFrameImageStorage}  # fmt: skip
    assert all(
        len(np.atleast_1d(item.FrameContentSequence[0].DimensionIndexValues)) == len(seg.DimensionIndexSequence)
        for item in seg.PerFrameFunctionalGroupsSequence
    )


def test_the_slices_of_a_series_share_a_segmentation_and_keep_their_places(ship: Package, tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    same = {"SeriesInstanceUID": uid.generate_uid(), "StudyInstanceUID": uid.generate_uid(), "PixelSpacing": [1, 2],
            "FrameOfReferenceUID": uid.generate_uid(), "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "SliceThickness": 3}  # fmt: skip
    grey = FRAMES[..., 0].astype(np.uint16)
    window = {"WindowCenter": 127.5 * 4, "WindowWidth": 255 * 4}  # what 8-bit grey stood for
    for k in range(3):
        place = {"InstanceNumber": 3 - k, "ImagePositionPatient": [0, 0, 9.0 - 3 * k]}
        write(folder / f"{k}.dcm", grey[k][None] * 4, uid.MRImageStorage, **same, **window, **place)
    (path,) = segmentations(ship, [folder], tmp_path / "out")
    seg = highdicom.seg.segread(path)
    names = {k: pydicom.dcmread(folder / f"{k}.dcm").SOPInstanceUID for k in range(3)}
    masks = seg.get_pixels_by_source_instance([names[k] for k in range(3)], combine_segments=True)
    for k in range(3):
        wanted = expected(np.repeat(grey[k][..., None], 3, axis=2))
        assert (masks[k] == wanted).mean() > 0.99
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert list(measures.PixelSpacing) == [1, 2]


def test_phases_and_orientations_of_a_series_get_a_segmentation_each(ship: Package, tmp_path: Path) -> None:
    """A cine of two phases with three places, numbered place by place, and one slice across them."""
    folder = tmp_path / "cine"
    folder.mkdir()
    same = {"SeriesInstanceUID": uid.generate_uid(), "StudyInstanceUID": uid.generate_uid(), "PixelSpacing": [1, 2],
            "FrameOfReferenceUID": uid.generate_uid(), "SliceThickness": 3}  # fmt: skip
    names = {}
    for k in range(7):
        place, phase, across = k // 2, k % 2, k == 6
        directions = [1, 0, 0, 0, 0, 1] if across else [1, 0, 0, 0, 1, 0]
        path = write(
            folder / f"{k}.dcm", FRAMES[k % 3, ..., 0][None], uid.MRImageStorage, **same, InstanceNumber=k + 1,
            ImagePositionPatient=[0, 0, 3.0 * place], ImageOrientationPatient=directions,
        )  # fmt: skip
        names[str(pydicom.dcmread(path).SOPInstanceUID)] = (phase, across)
    paths = segmentations(ship, [folder], tmp_path / "out")
    of = [
        {
            names[item.ReferencedSOPInstanceUID]
            for item in pydicom.dcmread(p).ReferencedSeriesSequence[0].ReferencedInstanceSequence
        }
        for p in paths
    ]
    assert sorted(map(sorted, of)) == [[(0, False)], [(0, True)], [(1, False)]]
    assert [pydicom.dcmread(p).SeriesNumber for p in paths] == [1001, 1002, 1003]


def test_single_pictures_without_coordinates_get_one_each(ship: Package, tmp_path: Path) -> None:
    series = uid.generate_uid()
    for k in range(2):
        write(tmp_path / f"{k}.dcm", FRAMES[k][None], uid.UltrasoundImageStorage, SeriesInstanceUID=series)
    paths = segmentations(ship, [tmp_path], tmp_path / "out")
    assert [path.name for path in paths] == ["0.seg.dcm", "1.seg.dcm"]


def test_the_patient_is_inside_the_segmentation_and_nowhere_else(
    ship: Package, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "cine.dcm", FRAMES, uid.UltrasoundMultiFrameImageStorage)
    broken = write(tmp_path / "broken.dcm", FRAMES, uid.UltrasoundMultiFrameImageStorage)
    broken.write_bytes(broken.read_bytes()[:-2000])
    (path,) = segmentations(ship, [tmp_path / "cine.dcm"], tmp_path / "out")
    with pytest.raises(ValueError) as refused:
        segmentations(ship, [broken], tmp_path / "out")
    captured = capfd.readouterr()
    result = f"{captured.out}{captured.err}{refused.value}{path}"
    assert pydicom.dcmread(path).PatientID == "ID-4711"
    assert not any(secret in result for secret in SECRETS)


def test_what_is_no_picture_is_refused_in_one_line_that_names_it(ship: Package, tmp_path: Path) -> None:
    text = tmp_path / "notes.dcm"
    text.write_text("no DICOM at all")
    empty = tmp_path / "empty"
    empty.mkdir()
    report = Dataset()
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    report.SOPClassUID, report.SOPInstanceUID = uid.BasicTextSRStorage, uid.generate_uid()
    report.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    for path, words in ((text, "cannot be read as DICOM"), (empty, "no DICOM file"), (tmp_path / "gone.dcm", "no such"),
                        (tmp_path / "report.dcm", "holds no picture")):  # fmt: skip
        with pytest.raises(ValueError, match=words) as refused:
            segmentations(ship, [path], tmp_path / "out")
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_model_of_slices_is_refused(tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "ship", channel_order="slices")
    with pytest.raises(ValueError, match="reads slices of a volume"):
        list(write_dicom_seg(ship, lambda frames: frames[..., 0], [tmp_path], out=tmp_path / "out"))


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("reference", [False, True])
def test_a_cine_of_one_frame_and_one_with_a_frame_of_reference_get_theirs(
    frames: int, reference: bool, ship: Package, tmp_path: Path
) -> None:
    more = {"FrameOfReferenceUID": uid.generate_uid()} if reference else {}
    cine = write(tmp_path / "cine.dcm", FRAMES[:frames], uid.UltrasoundMultiFrameImageStorage, **more)
    (path,) = segmentations(ship, [cine], tmp_path / "out")
    masks = highdicom.seg.segread(path).get_pixels_by_source_frame(
        pydicom.dcmread(cine).SOPInstanceUID, list(range(1, frames + 1)),
        combine_segments=True, ignore_spatial_locations=True,
    )  # fmt: skip
    assert np.array_equal(masks, np.stack([expected(picture) for picture in FRAMES[:frames]]))


def referred(path: Path) -> str:
    return str(pydicom.dcmread(path).ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID)


def test_a_segmentation_is_named_by_its_input_and_never_replaces_that_of_another(ship: Package, tmp_path: Path) -> None:
    inputs = []
    for name in ("a/IM0001", "b/IM0001", "b/other.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        inputs.append(write(tmp_path / name, FRAMES, uid.UltrasoundMultiFrameImageStorage))
    out = tmp_path / "out"
    made = [segmentations(ship, [path], out)[0] for path in inputs]
    assert [path.name for path in (made[0], made[2])] == ["IM0001.seg.dcm", "other.seg.dcm"]
    assert [referred(path) for path in made] == [pydicom.dcmread(path).SOPInstanceUID for path in inputs]
    again = segmentations(ship, inputs, out)  # the same images replace their own
    assert again == made and len(list(out.iterdir())) == 3
    (out / "other.seg.dcm").write_text("something else")
    assert segmentations(ship, [inputs[2]], out)[0].name != "other.seg.dcm"


def test_damaged_files_are_named_at_the_end_and_the_others_are_done(
    ship: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study"
    study.mkdir()
    for k in range(4):
        write(study / f"{k}.dcm", FRAMES[:1], uid.UltrasoundImageStorage)
    (study / "1.dcm").write_bytes((study / "1.dcm").read_bytes()[:-1000])
    (study / "2.dcm").write_bytes(b"no DICOM")
    report = Dataset()
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    report.SOPClassUID, report.SOPInstanceUID = uid.BasicTextSRStorage, uid.generate_uid()
    report.save_as(study / "report.dcm", enforce_file_format=True)
    with pytest.raises(ValueError, match=r"2 inputs were left out.*2\.dcm.*1\.dcm") as refused:
        segmentations(ship, [study], tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.seg.dcm", "3.seg.dcm"]
    assert "report.dcm: holds no picture" in capsys.readouterr().err


def test_files_without_a_suffix_are_found_by_their_content(ship: Package, tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    write(study / "1.2.840.99.7", FRAMES, uid.UltrasoundMultiFrameImageStorage)
    (study / "thumb.png").write_bytes(b"no DICOM, and not called so")
    assert [path.name for path in segmentations(ship, [study], tmp_path / "out")] == ["1.2.840.99.7.seg.dcm"]


@pytest.mark.parametrize("cine", [True, False])
def test_segments_of_overlapping_classes_overlap(cine: bool, tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "ship", overlapping=True)
    bits = np.zeros((3, *FRAMES.shape[1:3]), np.uint8)
    bits[:, 4:20, 4:20], bits[:, 8:12, 8:12], bits[2, 8:12, 8:12] = 1, 3, 0
    kind = uid.UltrasoundMultiFrameImageStorage if cine else uid.UltrasoundImageStorage
    source = write(tmp_path / "a.dcm", FRAMES if cine else FRAMES[:1], kind)
    masks = iter(bits[:, None])
    (path,) = write_dicom_seg(ship, lambda frames: next(masks), [source], out=tmp_path / "out")
    seg = highdicom.seg.segread(path)
    named, anywhere = str(pydicom.dcmread(source).SOPInstanceUID), {"ignore_spatial_locations": True}
    if cine:
        planes = seg.get_pixels_by_source_frame(named, [1, 2, 3], **anywhere)
    else:
        planes = seg.get_pixels_by_source_instance([named], **anywhere)
    for k in (1, 2):
        assert np.array_equal(planes[..., k - 1], bits[: len(planes)] >> (k - 1) & 1)
    assert seg.get("SegmentsOverlap", "UNDEFINED") != "NO"
    with pytest.raises(ValueError, match="write BINARY"):
        next(write_dicom_seg(ship, lambda frames: frames[..., 0], [source], out=tmp_path / "out", kind="LABELMAP"))
