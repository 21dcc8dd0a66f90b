"""What lies in a data folder and is not read is printed, and slices that would be thin strips are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgemt.data.cohort import split_dataset
from edgemt.data.options import DataOptions
from edgemt.io.file_types import is_unknown
from edgemt.io.volumes import read_volume


def folder(root: Path) -> Path:
    """root/{images,masks}/a0.png to a5.png, a4 and a5 on val.txt."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
        for k in range(6):
            array = np.random.default_rng(k).integers(0, 256, (16, 16)).astype(np.uint8)
            array = array if name == "images" else (array > 128).astype(np.uint8) * 255
            Image.fromarray(array).save(root / name / f"a{k}.png")
    (root / "val.txt").write_text("a4\na5\n")
    return root


def renamed(name: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / "images" / "a1.png").rename(root / "images" / name)

    return change


def nested(root: Path) -> None:
    (root / "images" / "more").mkdir()
    (root / "images" / "a1.png").rename(root / "images" / "more" / "a1.png")


def second_masks(root: Path) -> None:
    (root / "labels").mkdir()
    (root / "masks" / "a1.png").rename(root / "labels" / "a1.png")


def val_folder(root: Path) -> None:
    for part, names in (("train", "0123"), ("val", "45")):
        for kind in ("images", "masks"):
            (root / part / kind).mkdir(parents=True)
            for k in names:
                (root / kind / f"a{k}.png").rename(root / part / kind / f"a{k}.png")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (renamed("a1.jfif"), "a1.jfif: .jfif is not read; rename it to .jpg"),
        (renamed("a1.nii.gz.gz"), "is packed twice; unpack it to .nii"),
        (renamed("a1.png.part"), "1 files in {root}/images are of no kind that is read, first a1.png.part"),
        (renamed("a1"), "1 files in {root}/images are of no kind that is read, first a1"),
        (nested, "1 folders with images in {root}/images are not read, first more"),
        (second_masks, "{root}/labels is not read, since {root}/masks is there"),
        (val_folder, "{root}/val.txt is not read, since the folder val is there; --data.val val.txt takes the list"),
        (
            lambda root: (root / "test.txt").write_text("x/a3.png\nother\n"),
            "1 images that test.txt names are among those",
        ),
        (lambda root: (root / "test.txt").write_text("a4\nother\n"), ""),
        (lambda root: (root / "images" / "README").write_text("x"), ""),
        (lambda root: (root / "masks" / "table.xlsx").write_text("x"), ""),
        (lambda root: None, ""),
    ],
)
def test_what_is_not_read_is_printed(change: Callable[[Path], None], line: str, tmp_path: Path) -> None:
    root = folder(tmp_path / "set")
    change(root)
    notes = split_dataset(DataOptions(root=root, size=(16, 16))).notes
    assert any(line.format(root=root) in note for note in notes) if line else not notes, notes


def test_a_mask_of_a_kind_that_is_not_read_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "set")
    (root / "masks" / "a1.png").rename(root / "masks" / "a1.jfif")
    with pytest.raises(ValueError, match=r"a1\.jfif: \.jfif is not read; rename it to \.jpg"):
        split_dataset(DataOptions(root=root, size=(16, 16)))


@pytest.mark.parametrize(("start", "unknown"), [(b"\x89PNG\r\n", True), (bytes(128) + b"DICM", True), (b"text", False)])
def test_the_first_bytes_of_a_file_without_a_suffix_count(start: bytes, unknown: bool, tmp_path: Path) -> None:
    (tmp_path / "IM0001").write_bytes(start)
    assert is_unknown(tmp_path / "IM0001") == unknown


def test_slices_along_the_first_axis_of_h5_files_need_an_order(tmp_path: Path) -> None:
    """[Z, H, W], as SSL4MIS stores volumes of ACDC: 40 slices of 3 x 40 pixels are none."""
    h5py = pytest.importorskip("h5py")
    for k in range(3):
        with h5py.File(tmp_path / f"p{k}.h5", "w") as file:
            file["image"], file["label"] = np.random.default_rng(k).random((3, 40, 40)), np.ones((3, 40, 40), np.uint8)
    (tmp_path / "val.txt").write_text("p2\n")
    given = {"root": tmp_path, "classes": ("background", "organ"), "channels": 1, "size": (16, 16)}
    with pytest.raises(
        ValueError, match=r"40 slices of 3 x 40 pixels; --data.axes jki cuts .* --data.axes ijk as it is"
    ):
        split_dataset(DataOptions(**given))
    assert len(split_dataset(DataOptions(axes="jki", **given)).labelled) == 6
    assert len(split_dataset(DataOptions(slice_axis=0, **given)).labelled) == 6
    assert len(split_dataset(DataOptions(axes="ijk", **given)).labelled) == 80


def test_slices_of_one_pixel_are_refused(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        for k in range(3):
            array = np.random.default_rng(k).integers(0, 2, (1, 20, 20)).astype(np.uint8)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / name / f"p{k}.nii.gz")
    (tmp_path / "val.txt").write_text("p2\n")
    given = {"root": tmp_path, "classes": ("background", "organ"), "channels": 1, "size": (16, 16)}
    with pytest.raises(ValueError, match="20 slices of 1 x 20 pixels; --data.axes ASR cuts"):
        split_dataset(DataOptions(**given))
    assert len(split_dataset(DataOptions(axes="ASR", **given)).labelled) == 2


def nnunet(root: Path, *, training: list[tuple[int, int]] | None = None, labels: int = 3) -> Path:
    """Four images, the first `labels` with a label; `training`: pairs (image, label) for a list."""
    (root / "imagesTr").mkdir(parents=True)
    (root / "labelsTr").mkdir()
    for k in range(4):
        array = np.random.default_rng(k).integers(0, 256, (16, 16)).astype(np.uint8)
        Image.fromarray(array).save(root / "imagesTr" / f"p{k}_0000.png")
        if k < labels:
            Image.fromarray((array > 128).astype(np.uint8)).save(root / "labelsTr" / f"p{k}.png")
    record = {"channel_names": {"0": "x"}, "labels": {"background": 0, "polyp": 1}, "file_ending": ".png"}
    if training is not None:
        record["training"] = [{"image": f"imagesTr/p{i}.png", "label": f"labelsTr/p{k}.png"} for i, k in training]  # type: ignore[assignment]
    (root / "dataset.json").write_text(json.dumps(record))
    return root


@pytest.mark.parametrize("training", [None, [(0, 0), (1, 1), (2, 2)]])
def test_images_of_nnunet_without_a_label_are_printed(training: list[tuple[int, int]] | None, tmp_path: Path) -> None:
    root = nnunet(tmp_path / "set", training=training)
    notes = split_dataset(DataOptions(root=root, size=(16, 16), val="0.3")).notes
    assert any("1 images of" in note and "first p3_0000.png" in note for note in notes), notes


def test_a_list_of_nnunet_with_labels_of_other_images_is_refused(tmp_path: Path) -> None:
    root = nnunet(tmp_path / "set", training=[(0, 1), (1, 0), (2, 2)])
    with pytest.raises(ValueError, match=r"lists p1\.png as the label of p0_0000\.png, and it is named as that of"):
        split_dataset(DataOptions(root=root, size=(16, 16), val="0.3"))


def test_datasets_of_complex_numbers_or_texts_are_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    for name, array in (("a", np.ones((3, 3, 3), complex)), ("b", np.full((3, 3, 3), b"x"))):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["image"] = array
        with pytest.raises(ValueError, match="no plain numbers; write one real number"):
            read_volume(tmp_path / f"{name}.h5")


@pytest.mark.parametrize(("first", "second"), [("left", "right"), ("OD", "OS"), ("pre", "post"), ("ED", "ES")])
def test_two_sides_of_a_patient_in_training_and_validation_are_printed(first: str, second: str, tmp_path: Path) -> None:
    root = folder(tmp_path / "set")
    for k in range(6):
        for kind in ("images", "masks"):
            new = f"{k // 2 + 10}_{first if k % 2 else second}.png"
            (root / kind / f"a{k}.png").rename(root / kind / new)
    (root / "val.txt").write_text(f"10_{first}\n11_{first}\n11_{second}\n")
    (note,) = split_dataset(DataOptions(root=root, size=(16, 16))).notes
    assert note.startswith("1 training images begin as validation images do, first '10'")
    pattern = note.partition("--data.patient-pattern '")[2].rstrip("'")
    split = split_dataset(DataOptions(root=root, size=(16, 16), patient_pattern=pattern))
    assert {case.patient for case in split.labelled} == {"12"}
