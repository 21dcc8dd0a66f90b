"""Videos whose labels are a volume: columns, rows and frames, as 3D Slicer and ITK-SNAP save a stack of frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from label_samples import film, imported
from volume_samples import segments

pytest.importorskip("av")

from PIL import Image  # noqa: E402

from edgemt.convert.contract import ImportOptions  # noqa: E402
from edgemt.convert.importing import import_source  # noqa: E402
from edgemt.convert.nrrd_file import write_nrrd  # noqa: E402

OFFSET = "Segmentation_ReferenceImageExtentOffset"


def labels(frames: int = 12) -> np.ndarray:
    """uint8 [64 columns, 48 rows, frames]: a polyp on frame 3, polyp and tool on frame 7."""
    volume = np.zeros((64, 48, frames), np.uint8)
    volume[10:30, 5:20, 3] = 1
    volume[40:50, 30:44, 7], volume[2:9, 1:4, 7] = 1, 2
    return volume


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    film(tmp_path / "in" / "case.mp4")
    return tmp_path / "in"


def test_slices_of_a_seg_nrrd_are_frames_of_the_video(source: Path, tmp_path: Path) -> None:
    write_nrrd(source / "case.seg.nrrd", labels(), np.eye(4), segments(["polyp", "tool"]))
    masks = imported(source, tmp_path / "out", options=ImportOptions(every=5))
    assert sorted(masks) == ["case/000003", "case/000007"]
    assert (masks["case/000003"] == labels()[..., 3].T).all() and (masks["case/000007"] == labels()[..., 7].T).all()
    assert len(list((tmp_path / "out" / "images" / "case").iterdir())) == 5  # 0, 5, 10 and the two with a label
    whole = imported(source, tmp_path / "all", options=ImportOptions(every=5, empty="background"))
    assert len(whole) == 12 and not whole["case/000000"].any()


def test_a_cropped_segmentation_lies_where_its_offset_states(source: Path, tmp_path: Path) -> None:
    pairs = {**segments(["polyp", "tool"]), OFFSET: "2 1 3"}
    write_nrrd(source / "case.seg.nrrd", labels()[2:50, 1:44, 3:8], np.eye(4), pairs)
    masks = imported(source, tmp_path / "out", options=ImportOptions(every=5))
    assert sorted(masks) == ["case/000003", "case/000007"]
    assert (masks["case/000007"] == labels()[..., 7].T).all()


def test_a_plain_label_map_has_its_classes_named_and_pixels_of_two_segments_are_counted(
    source: Path, tmp_path: Path
) -> None:
    write_nrrd(source / "case-label.nrrd", labels(), np.eye(4), {})
    options = ImportOptions(every=100, classes=("polyp", "tool"))
    masks = imported(source, tmp_path / "plain", options=options)
    assert (masks["case/000007"] == labels()[..., 7].T).all()
    (source / "case-label.nrrd").unlink()
    both = segments(["polyp", "lesion"], values=[1, 1])
    write_nrrd(source / "case.seg.nrrd", labels(), np.eye(4), both)
    counts = import_source(source, tmp_path / "both", options=ImportOptions(every=100))["counts"]
    assert counts["overlapping_images"] == 2 and counts["overlapping_pixels"] == int((labels() == 1).sum())


@pytest.mark.parametrize(
    ("volume", "pairs", "why"),
    [
        (labels().transpose(1, 0, 2), {}, "ends at column 48 and row 64, the frames have 64 x 48 pixels"),
        (labels()[:50], {}, "ends at column 50 and row 48"),
        (labels(), {OFFSET: "1 0 0"}, "ends at column 65"),
        (labels(), {OFFSET: "0 0 -1"}, "begins before the video"),
        (labels(), {OFFSET: "0 0 6"}, "has no frame 13 that the labels name"),
        (labels(), {OFFSET: "a b c"}, "is not three numbers"),
    ],
)
def test_labels_that_do_not_fit_the_video_are_refused(
    volume: np.ndarray, pairs: dict[str, str], why: str, source: Path, tmp_path: Path
) -> None:
    write_nrrd(source / "case.seg.nrrd", volume, np.eye(4), {**segments(["polyp", "tool"]), **pairs})
    with pytest.raises(ValueError, match=why):
        import_source(source, tmp_path / "out", options=ImportOptions(every=5))
    assert not (tmp_path / "out").exists()


def test_a_folder_with_a_volume_and_a_video_and_labels_of_two_videos_are_refused(source: Path, tmp_path: Path) -> None:
    write_nrrd(source / "case.seg.nrrd", labels(), np.eye(4), segments(["polyp", "tool"]))
    film(source / "other.mp4")
    manifest = import_source(source, tmp_path / "two", options=ImportOptions(every=100))
    assert manifest["counts"]["labelled"] == 2 and manifest["counts"]["patients"] == 2
    (source / "case.seg.nrrd").rename(source / "third.seg.nrrd")
    with pytest.raises(ValueError, match=r"third\.seg\.nrrd: 0 images fit this label file"):
        import_source(source, tmp_path / "none")
    write_nrrd(source / "third.nrrd", labels(), np.eye(4), {})
    with pytest.raises(ValueError, match=r"volumes \(third\.nrrd\) and videos \(case\.mp4\); import each alone"):
        import_source(source, tmp_path / "mixed")


def test_the_frames_are_those_of_the_video(source: Path, tmp_path: Path) -> None:
    write_nrrd(source / "case.seg.nrrd", labels(), np.eye(4), segments(["polyp", "tool"]))
    import_source(source, tmp_path / "labelled", options=ImportOptions(every=3))
    (source / "case.seg.nrrd").unlink()
    import_source(source, tmp_path / "plain", options=ImportOptions(every=1, duplicates=-1))
    for name in ("000003", "000007"):
        pair = [np.asarray(Image.open(tmp_path / o / "images" / "case" / f"{name}.png")) for o in ("labelled", "plain")]
        assert (pair[0] == pair[1]).all()
