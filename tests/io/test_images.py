"""Decoding is the same in training and on the device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT
from PIL import Image

from edgemt.io.file_types import natural_sort_key
from edgemt.io.images import fit_frame, fit_label, read_image, read_label, to_uint8
from edgemt.io.volumes import read_label_volume, read_volume, volume_shape


def test_palette_masks_keep_their_indices_and_grey_ones_their_values(tmp_path: Path) -> None:
    mask = np.array([[0, 1], [2, 3]], np.uint8)
    palette = Image.fromarray(mask, mode="P")
    palette.putpalette([9, 9, 9, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "p.png")
    Image.fromarray(mask).save(tmp_path / "l.png")
    Image.fromarray(mask == 1).save(tmp_path / "b.png")
    assert (read_label(tmp_path / "p.png") == mask).all() and (read_label(tmp_path / "l.png") == mask).all()
    assert (read_label(tmp_path / "b.png") == (mask == 1)).all()


def test_a_transparent_image_is_read_as_colour_and_16_bits_are_kept(tmp_path: Path) -> None:
    Image.new("RGBA", (5, 4), (10, 20, 30, 0)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [10, 20, 30]
    deep = np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000
    Image.fromarray(deep).save(tmp_path / "d.png")
    assert (read_image(tmp_path / "d.png") == deep).all()
    assert to_uint8(deep).min() == 0 and to_uint8(deep).max() == 255


def test_frames_and_labels_reach_the_asked_size() -> None:
    grey = np.arange(240, dtype=np.uint8).reshape(12, 20)
    assert fit_frame(grey, size=(6, 10), channels=3).shape == (6, 10, 3)
    assert fit_frame(np.stack([grey] * 3, -1), size=(24, 10), channels=1).shape == (24, 10, 1)
    assert (fit_frame(grey, size=(12, 20), channels=1)[..., 0] == grey).all()
    assert set(np.unique(fit_label(grey % 2 * 3, size=(7, 5)))) <= {0, 3}


def test_a_volume_is_read_with_scaled_values_and_its_spacing(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    array = np.random.default_rng(0).normal(size=(4, 5, 6))
    image = nibabel.Nifti1Image(array, np.diag([0.5, 0.6, 2.0, 1.0]))
    image.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "v.nii.gz")
    volume = read_volume(tmp_path / "v.nii.gz")
    assert np.allclose(volume.array, array, atol=1e-3) and volume.spacing_mm == pytest.approx((0.5, 0.6, 2.0))
    assert volume_shape(tmp_path / "v.nii.gz") == (4, 5, 6)


def test_a_header_without_a_voxel_size_gives_none_and_prints_nothing(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    written = bytearray(nibabel.Nifti1Image(array, np.eye(4)).to_bytes())
    written[76 + 4 : 76 + 16] = np.zeros(3, np.float32).tobytes()  # pixdim 1 to 3
    (tmp_path / "v.nii").write_bytes(written)
    volume = read_volume(tmp_path / "v.nii")
    assert volume.spacing_mm is None and (volume.array == array).all()
    code = f"from edgemt.io.volumes import read_volume; read_volume({str(tmp_path / 'v.nii')!r})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout == said.stderr == ""


def test_an_empty_mask_volume_is_a_mask_and_not_an_image(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), tmp_path / "v.nii.gz")
    label = read_label_volume(tmp_path / "v.nii.gz")
    assert label.shape == (4, 5, 6) and label.dtype == np.uint8 and not label.any()
    with pytest.raises(ValueError, match="one value everywhere"):
        read_volume(tmp_path / "v.nii.gz")


def test_an_h5_file_holds_image_and_label(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    image, label = np.random.default_rng(0).normal(size=(4, 5, 6)), np.ones((4, 5, 6), np.float64)
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["image"], file["label"] = image, label
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["image"], file["label"] = image[..., 0], label[..., 0]
    volume = read_volume(tmp_path / "v.h5")
    assert (volume.array == image).all() and volume.spacing_mm is None
    assert (read_label_volume(tmp_path / "v.h5") == 1).all() and volume_shape(tmp_path / "v.h5") == (4, 5, 6)
    assert read_image(tmp_path / "s.h5").shape == read_label(tmp_path / "s.h5").shape == (4, 5)
    assert volume_shape(tmp_path / "s.h5") == (4, 5)


def test_numbers_in_names_are_ordered_as_numbers() -> None:
    names = ["s10", "s9", "s1", "a2_s3", "a10_s1", "s"]
    assert sorted(names, key=natural_sort_key) == ["a2_s3", "a10_s1", "s", "s1", "s9", "s10"]
    assert sorted(["007", "x", "10"], key=natural_sort_key) == ["x", "007", "10"]


def test_a_file_that_is_no_image_or_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("hello")
    for read in (read_image, read_label):
        with pytest.raises(ValueError, match=r"x\.png: cannot be decoded"):
            read(tmp_path / "x.png")
        with pytest.raises(ValueError, match=r"y\.png: no such"):
            read(tmp_path / "y.png")
