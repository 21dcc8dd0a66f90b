"""Decoding is the same in training and on the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgemt.frames import fit_frame, fit_label, read_image, read_label, read_volume, to_uint8, volume_shape


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


def test_a_file_that_is_no_image_or_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("hello")
    for read in (read_image, read_label):
        with pytest.raises(ValueError, match=r"x\.png: cannot be decoded"):
            read(tmp_path / "x.png")
        with pytest.raises(ValueError, match=r"y\.png: no such"):
            read(tmp_path / "y.png")
