"""Every file that is wrong is named in one line that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgemt.data.augment_options import VolumeOptions
from edgemt.data.cohort import split_dataset
from edgemt.data.options import DataOptions
from edgemt.data.slice_dataset import load_slices
from edgemt.data.volume_dataset import load_volumes
from edgemt.inference.evaluate import prepare
from edgemt.io.volumes import read_label_volume, read_volume, volume_shape

nibabel = pytest.importorskip("nibabel")


def _pairs(root: Path, *, parts: tuple[str, ...] = ("train", "val")) -> None:
    for part in parts:
        for folder in ("images", "masks"):
            (root / part / folder).mkdir(parents=True)
        for name in "abc":
            mask = np.zeros((40, 48), np.uint8)
            mask[8:20, 8:20] = 1
            noise = np.random.default_rng(0).integers(0, 255, (40, 48, 3)).astype(np.uint8)
            Image.fromarray(noise).save(root / part / "images" / f"{name}.jpg")
            Image.fromarray(mask).save(root / part / "masks" / f"{name}.png")


def _volume(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


def _read(options: DataOptions) -> None:
    cohort = split_dataset(options)
    load_slices(cohort.labelled, options)
    load_slices(cohort.unlabelled, options)
    prepare(cohort.val, size=options.size, channels=options.channels, classes=options.classes)


def _truncate(root: Path) -> dict:
    path = root / "train" / "images" / "b.jpg"
    path.write_bytes(path.read_bytes()[:400])
    return {}


def _empty_file(root: Path) -> dict:
    (root / "train" / "images" / "b.jpg").write_bytes(b"")
    return {}


def _mask_of_other_size(root: Path) -> dict:
    Image.fromarray(np.ones((48, 40), np.uint8)).save(root / "train" / "masks" / "a.png")
    return {}


def _mask_0_255(root: Path) -> dict:
    Image.fromarray(np.full((40, 48), 255, np.uint8)).save(root / "train" / "masks" / "a.png")
    return {}


def _bad_validation_mask(root: Path) -> dict:
    Image.fromarray(np.full((40, 48), 7, np.uint8)).save(root / "val" / "masks" / "c.png")
    return {}


def _mask_missing(root: Path) -> dict:
    (root / "train" / "masks" / "b.png").unlink()
    (root / "list.txt").write_text("a\nb\n")
    return {"labelled": "list.txt"}


def _unknown_name(root: Path) -> dict:
    (root / "list.txt").write_text("a\nbb.jpg\n")
    return {"labelled": "list.txt"}


def _empty_list(root: Path) -> dict:
    (root / "list.txt").write_text("\n")
    return {"labelled": "list.txt"}


def _no_list(root: Path) -> dict:
    return {"labelled": "lsit.txt"}


def _too_many(root: Path) -> dict:
    return {"labelled": "80"}


def _empty_folder(root: Path) -> dict:
    for path in (root / "train" / "images").iterdir():
        path.unlink()
    return {}


def _class_never_seen(root: Path) -> dict:
    return {"classes": ("background", "polyp", "tool")}


def _two_of_a_name(root: Path) -> dict:
    Image.new("RGB", (48, 40)).save(root / "train" / "images" / "a.png")
    return {}


def _no_validation(root: Path) -> dict:
    import shutil

    shutil.rmtree(root / "val")
    for path in (root / "train").iterdir():
        path.rename(root / path.name)
    (root / "train").rmdir()
    return {}


def _no_images(root: Path) -> dict:
    (root / "train").rename(root / "trian")
    return {}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_truncate, r"train/images/b\.jpg: cannot be decoded .*replace or remove"),
        (_empty_file, r"train/images/b\.jpg: cannot be decoded"),
        (_mask_of_other_size, r"masks/a\.png: mask is \(48, 40\), its image .*a\.jpg is \(40, 48\)"),
        (
            _mask_0_255,
            r"masks/a\.png: mask holds 255, the 2 classes are 0 to 1, and .*b\.png holds 0, 1; use the same values",
        ),
        (_bad_validation_mask, r"val/masks/c\.png: mask holds 7"),
        (_mask_missing, r"list\.txt: .*b\.jpg has no mask"),
        (_unknown_name, r"list\.txt: names 1 unknown file\(s\), first 'bb\.jpg'; did you mean 'b\.jpg'"),
        (_empty_list, r"list\.txt: the list is empty"),
        (_no_list, r"data\.labelled: no list file 'lsit\.txt'"),
        (_too_many, r"data\.labelled: needs 80 .* 3 are there"),
        (_empty_folder, r"train/images: holds no image"),
        (_class_never_seen, r"data\.classes: 'tool' never occurs in the masks of the 3 labelled images"),
        (_two_of_a_name, r"a second file named 'a'"),
        (_no_validation, r"data\.val: no val folder and no val\.txt"),
        (_no_images, r"data\.root: .* holds neither train/images nor images"),
    ],
)
def test_bad_pairs_are_named_in_one_line(tmp_path: Path, spoil: Callable[[Path], dict], says: str) -> None:
    _pairs(tmp_path)
    _read(DataOptions(root=tmp_path, size=(32, 32)))  # sound before it is spoilt
    changes = spoil(tmp_path)
    with pytest.raises(ValueError, match=says) as caught:
        _read(DataOptions(root=tmp_path, size=(32, 32), **changes))
    assert "\n" not in str(caught.value)


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data.root: not set"):
        split_dataset(DataOptions())
    with pytest.raises(ValueError, match="data.root: no such folder .*gone"):
        split_dataset(DataOptions(root=tmp_path / "gone"))


def _heart(root: Path) -> DataOptions:
    for name in ("p1", "p2", "p3"):
        label = np.zeros((12, 10, 3), np.uint8)
        label[2:6] = 1
        noise = np.random.default_rng(0).integers(0, 255, (12, 10, 3)).astype(np.uint8)
        _volume(root / "images" / f"{name}.nii.gz", noise)
        _volume(root / "labels" / f"{name}.nii.gz", label)
    (root / "val.txt").write_text("p3\n")
    return DataOptions(root=root, classes=("background", "heart"), channels=1, size=(16, 16))


def test_a_gzip_cut_short_is_named(tmp_path: Path) -> None:
    options = _heart(tmp_path)
    _read(options)
    path = tmp_path / "images" / "p2.nii.gz"
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ValueError, match=r"images/p2\.nii\.gz: cannot be read as NIfTI .*copy the file again"):
        _read(options)


def test_a_volume_with_four_axes_is_named(tmp_path: Path) -> None:
    options = _heart(tmp_path)
    _volume(tmp_path / "images" / "p1.nii.gz", np.zeros((12, 10, 3, 2), np.uint8))
    with pytest.raises(ValueError, match=r"p1\.nii\.gz: a volume must have 3 axes.*\(12, 10, 3, 2\)"):
        split_dataset(options)


def test_not_a_number_in_a_volume_is_named(tmp_path: Path) -> None:
    options = _heart(tmp_path)
    _volume(tmp_path / "images" / "p1.nii.gz", np.full((12, 10, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"p1\.nii\.gz: holds NaN"):
        _read(options)


def test_a_label_with_fewer_slices_than_its_image_is_named(tmp_path: Path) -> None:
    options = _heart(tmp_path)
    _volume(tmp_path / "labels" / "p1.nii.gz", np.ones((12, 10, 2), np.uint8))
    with pytest.raises(ValueError, match=r"labels/p1\.nii\.gz: has 2 slices"):
        _read(options)


def test_a_constant_volume_is_named(tmp_path: Path) -> None:
    options = _heart(tmp_path)
    _volume(tmp_path / "images" / "p2.nii.gz", np.full((12, 10, 3), 7, np.int16))
    with pytest.raises(ValueError, match=r"p2\.nii\.gz: holds one value everywhere"):
        _read(options)


def test_a_flat_file_given_as_a_volume_is_named(tmp_path: Path) -> None:
    options = _heart(tmp_path)
    _volume(tmp_path / "images" / "p1.nii.gz", np.zeros((12, 10), np.uint8))
    with pytest.raises(ValueError, match=r"p1\.nii\.gz: a volume must have 3 axes.*\(12, 10\); a 2-D recipe reads PNG"):
        split_dataset(options, whole_volumes=True)


def test_a_volume_of_one_slice_is_refused_for_a_3d_network_only(tmp_path: Path) -> None:
    options = _heart(tmp_path)
    for folder in ("images", "labels"):
        _volume(tmp_path / folder / "p2.nii.gz", np.arange(120, dtype=np.uint8).reshape(12, 10, 1))
    assert len(split_dataset(options).labelled) == 4
    with pytest.raises(ValueError, match=r"p2\.nii\.gz: is one 2-D image; a 3-D network needs volumes"):
        split_dataset(options, whole_volumes=True)


def test_a_label_of_another_shape_than_its_volume_is_named(tmp_path: Path) -> None:
    options = _heart(tmp_path)
    _volume(tmp_path / "labels" / "p1.nii.gz", np.ones((10, 12, 3), np.uint8))
    with pytest.raises(ValueError, match=r"labels/p1\.nii\.gz: mask is \(10, 12, 3\), its image .* is \(12, 10, 3\)"):
        load_volumes(split_dataset(options, whole_volumes=True).labelled, options, VolumeOptions())


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.full((12, 10, 3), 0.5, np.float32), r"a mask must hold whole numbers, this one holds 0\.5"),
        (np.full((12, 10, 3), np.inf, np.float32), r"holds NaN or infinite values"),
        (np.full((12, 10, 3), 9, np.int16), r"mask holds 9, the 2 classes are 0 to 1"),
    ],
)
def test_a_mask_volume_without_classes_is_named(tmp_path: Path, array: np.ndarray, says: str) -> None:
    options = _heart(tmp_path)
    _volume(tmp_path / "labels" / "p1.nii.gz", array)
    with pytest.raises(ValueError, match=rf"labels/p1\.nii\.gz: {says}"):
        load_volumes(split_dataset(options, whole_volumes=True).labelled, options, VolumeOptions())


def test_damaged_h5_files_are_named(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as file:
        file["pixels"], file["label"] = np.zeros((4, 4, 4)), np.zeros((4, 4))
    for read, says in (
        (read_volume, r"v\.h5: has no dataset 'image', only \['label', 'pixels'\]"),
        (volume_shape, r"v\.h5: has no dataset 'image'"),
        (read_label_volume, r"v\.h5: 'label' must have 3 axes, it has shape \(4, 4\); a 3-D recipe"),
    ):
        with pytest.raises(ValueError, match=says):
            read(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"v\.h5: cannot be read as HDF5 .*copy the file again"):
        read_volume(path)


def test_slices_of_unlike_size_are_named(tmp_path: Path) -> None:
    for k, size in enumerate([(8, 6), (8, 6), (6, 8)]):
        Image.new("L", size, 40 * k).save(tmp_path / f"s{k}.png")
    with pytest.raises(ValueError, match=r"s2\.png: is \(8, 6\), the slices before it are \(6, 8\)"):
        read_volume(tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"classes": ("background",)}, r"data\.classes"),
        ({"channels": 2}, r"data\.channels: must be 1 or 3, not 2"),
        ({"size": (0, 64)}, r"data\.size"),
        ({"mask_threshold": 128, "classes": ("a", "b", "c")}, r"data\.mask_threshold: only for 2 classes"),
        ({"patient_pattern": "("}, r"data\.patient_pattern"),
        ({"labelled": "1.5"}, r"data\.labelled: a share must lie in"),
    ],
)
def test_a_bad_option_names_its_field(tmp_path: Path, changes: dict, says: str) -> None:
    _pairs(tmp_path)
    with pytest.raises(ValueError, match=says):
        split_dataset(DataOptions(root=tmp_path, **changes))
