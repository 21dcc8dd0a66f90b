"""Readers of images, masks and volumes against other programs' readers, over inputs that hypothesis draws."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edgemt.data.slice_masks import read_slice_masks
from edgemt.inference.predict import nifti
from edgemt.io import mask_files, masks
from edgemt.io.images import image_header, read_image
from edgemt.io.volumes import geometry_of, is_deep, read_label_volume, read_volume, volume_spacing

cv2 = pytest.importorskip("cv2")
sitk = pytest.importorskip("SimpleITK")
nibabel = pytest.importorskip("nibabel")
from nibabel import orientations  # noqa: E402

TWO = ("background", "polyp")
quick = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SIDES = st.tuples(st.integers(2, 12), st.integers(2, 12))
SEEDS = st.integers(0, 2**16)


def _theirs(path: Path, *, upright: bool) -> np.ndarray:
    """OpenCV's reading: RGB or grey, without alpha."""
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH if upright else cv2.IMREAD_UNCHANGED
    array = cv2.imread(str(path), flags)
    return array[..., 2::-1] if array.ndim == 3 else array


@quick
@given(
    size=SIDES,
    seed=SEEDS,
    kind=st.sampled_from(["u1", "u2", "i2", "f4"]),
    channels=st.sampled_from([1, 3, 4]),
    suffix=st.sampled_from(["png", "tif", "bmp", "webp"]),
)
def test_images_are_read_as_opencv_reads_them(
    tmp_path: Path, size: tuple[int, int], seed: int, kind: str, channels: int, suffix: str
) -> None:
    rng = np.random.default_rng(seed)
    if suffix in ("bmp", "webp") or (suffix == "png" and kind in ("i2", "f4")):
        kind = "u1"
    if kind in ("i2", "f4"):
        channels = 1
    shape = size if channels == 1 else (*size, channels)
    array = rng.normal(0, 1e3, shape).astype(kind) if kind in ("i2", "f4") else rng.integers(0, 256, shape).astype(kind)
    array = array * 257 if kind == "u2" else array
    path = tmp_path / f"a.{suffix}"
    assert cv2.imwrite(str(path), array, [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == "webp" else [])
    got, want = read_image(path), _theirs(path, upright=False)
    if got.ndim == 3 and want.ndim == 2:  # WebP and BMP have no grey
        want = np.stack([want] * 3, -1)
    assert got.shape == want.shape and (got.astype(np.float64) == want.astype(np.float64)).all()
    assert is_deep(path) is (kind != "u1") and image_header(path).size == size


@quick
@given(size=SIDES, seed=SEEDS, orientation=st.integers(1, 8), suffix=st.sampled_from(["jpg", "png", "webp"]))
def test_pictures_are_turned_as_opencv_turns_them(
    tmp_path: Path, size: tuple[int, int], seed: int, orientation: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    array = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(array).save(path, exif=exif, quality=95, lossless=True)
    got, want = read_image(path), _theirs(path, upright=True)
    assert got.shape == want.shape and np.abs(got.astype(int) - want).max() <= (6 if suffix == "jpg" else 0)


def _mask_image(truth: np.ndarray, kind: str) -> Image.Image:
    white = Image.fromarray(truth * 255)
    zero = Image.new("L", white.size)
    if kind == "palette":
        image = Image.fromarray(1 - truth)
        image.putpalette([255, 255, 255, 0, 0, 0])
        return image
    return {
        "grey": white,
        "bit": Image.fromarray(truth > 0),
        "rgb": white.convert("RGB"),
        "alpha": Image.merge("RGBA", [zero, zero, zero, white]),
        "grey and alpha": Image.merge("LA", [zero, white]),
        "opaque": white.convert("RGBA"),
        "16 bits": Image.fromarray(truth.astype(np.uint16) * 65535),
    }[kind]


KINDS = st.sampled_from(["grey", "bit", "rgb", "alpha", "grey and alpha", "opaque", "16 bits", "palette"])


@quick
@given(size=SIDES, seed=SEEDS, kind=KINDS, threshold=st.sampled_from([None, 1, 128, 255]))
def test_a_mask_means_the_same_in_every_kind_of_file(
    tmp_path: Path, size: tuple[int, int], seed: int, kind: str, threshold: int | None
) -> None:
    truth = np.random.default_rng(seed).integers(0, 2, size, dtype=np.uint8)
    truth[0, :2] = 0, 1
    _mask_image(truth, kind).save(tmp_path / "m.png")
    file = mask_files.read_mask(tmp_path / "m.png")
    assert (masks.decide([file.evidence], classes=TWO, threshold=threshold).indices(file) == truth).all()
    if kind in ("grey", "rgb", "opaque", "16 bits"):
        theirs = cv2.imread(str(tmp_path / "m.png"), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
        assert ((theirs > 0) == truth).all()


@quick
@given(size=SIDES, seed=SEEDS, classes=st.integers(3, 9), suffix=st.sampled_from(["png", "tif", "bmp"]))
def test_class_indices_are_those_that_opencv_reads(
    tmp_path: Path, size: tuple[int, int], seed: int, classes: int, suffix: str
) -> None:
    truth = np.random.default_rng(seed).integers(0, classes, size, dtype=np.uint8)
    truth[0, 0] = classes - 1
    (tmp_path / "s").mkdir(exist_ok=True)
    for k in range(2):
        Image.fromarray(np.roll(truth, k, 0)).save(tmp_path / "s" / f"{k}.{suffix}")
    file = mask_files.read_mask(tmp_path / "s" / f"0.{suffix}")
    theirs = cv2.imread(str(tmp_path / "s" / f"0.{suffix}"), cv2.IMREAD_UNCHANGED)
    rule = masks.decide([file.evidence], classes=tuple(map(str, range(classes))))
    assert (rule.indices(file) == (theirs if theirs.ndim == 2 else theirs[..., 0])).all()
    stack = read_slice_masks(tmp_path / "s")
    assert (rule.indices(stack) == np.stack([truth, np.roll(truth, 1, 0)], -1)).all()
    for file_ in (tmp_path / "s").iterdir():
        file_.unlink()


CODES = ["".join(letters) for letters in itertools.permutations("RAS")]
FLIPS = str.maketrans("RAS", "LPI")


@st.composite
def volumes(draw: Any) -> tuple[np.ndarray, np.ndarray, str, tuple[int, int], tuple[float, float]]:
    """Voxels, affine, axis codes, the codes of qform and sform, slope and intercept."""
    code = "".join(c.translate(FLIPS) if draw(st.booleans()) else c for c in draw(st.sampled_from(CODES)))
    shape = tuple(draw(st.lists(st.integers(2, 5), min_size=3, max_size=3)))
    kind = draw(st.sampled_from(["u1", "i2", "u2", "i4", "f4"]))
    array = np.random.default_rng(draw(SEEDS)).integers(0, 200, shape).astype(kind)
    array[0, 0, 0], array[-1, -1, -1] = 0, 7
    spacing = draw(st.tuples(*[st.sampled_from([0.5, 1.0, 1.25, 4.0])] * 3))
    affine = np.eye(4)
    for axis, letter in enumerate(code):
        affine[:3, axis] = 0
        affine["RAS".find(letter) if letter in "RAS" else "LPI".find(letter), axis] = spacing[axis] * (
            1 if letter in "RAS" else -1
        )
    affine[:3, 3] = draw(st.tuples(*[st.integers(-50, 50)] * 3))
    forms = draw(st.sampled_from([(1, 0), (0, 1), (1, 1), (2, 1)]))
    return array, affine, code, forms, draw(st.sampled_from([(1.0, 0.0), (2.0, -100.0), (0.5, 3.0)]))


def _save(path: Path, drawn: Any) -> Path:
    array, affine, _, (qform, sform), (slope, zero) = drawn
    image = nibabel.Nifti1Image(array, affine)
    image.set_qform(affine if qform else None, qform)
    image.set_sform(affine if sform else None, sform)
    nibabel.save(image, path)
    data = bytearray(path.read_bytes())
    data[112:120] = np.array([slope, zero], "<f4").tobytes()  # as other programs write it: values as stored, scaled
    path.write_bytes(bytes(data))
    return path


@quick
@given(drawn=volumes())
def test_volumes_are_read_as_itk_reads_them_in_every_axis_order(tmp_path: Path, drawn: Any) -> None:
    path = _save(tmp_path / "v.nii", drawn)
    theirs = sitk.ReadImage(str(path))
    volume = read_volume(path)
    assert np.allclose(volume.array, sitk.GetArrayFromImage(theirs).T) and volume.codes == drawn[2]
    assert np.allclose(volume.spacing_mm or (), theirs.GetSpacing(), rtol=1e-5)
    for axes in ("RAS", "LPS", "SRA"):
        turned = sitk.DICOMOrient(theirs, axes)
        assert np.allclose(read_volume(path, axes=axes).array, sitk.GetArrayFromImage(turned).T)
        assert np.allclose(volume_spacing(path, axes=axes) or (), turned.GetSpacing(), rtol=1e-5)


@quick
@given(drawn=volumes(), axes=st.sampled_from(["", "RAS", "ASR", "kij"]))
def test_a_written_mask_lies_where_itk_puts_its_input(tmp_path: Path, drawn: Any, axes: str) -> None:
    path = _save(tmp_path / "v.nii", drawn)
    volume = read_volume(path, axes=axes)
    mask = (volume.array > np.median(volume.array)).astype(np.uint8)
    nibabel.save(nifti(mask, volume, axes=axes), tmp_path / "m.nii")
    image, written = (sitk.ReadImage(str(tmp_path / name)) for name in ("v.nii", "m.nii"))
    for name in ("GetOrigin", "GetSpacing", "GetDirection", "GetSize"):
        assert np.allclose(getattr(image, name)(), getattr(written, name)(), atol=1e-5), name
    values = sitk.GetArrayFromImage(image)
    assert (sitk.GetArrayFromImage(written) == (values > np.median(values))).all()


@quick
@given(drawn=volumes(), code=st.sampled_from(CODES), flip=st.booleans())
def test_a_label_in_another_axis_order_lies_on_its_image(tmp_path: Path, drawn: Any, code: str, flip: bool) -> None:
    array, affine, *_ = drawn
    path = _save(tmp_path / "v.nii", drawn)
    truth = (array > 90).astype(np.uint8)
    code = code.translate(FLIPS) if flip else code
    move = orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt(code))
    nibabel.save(nibabel.Nifti1Image(truth, affine).as_reoriented(move), tmp_path / "l.nii")
    assert geometry_of(tmp_path / "l.nii").codes == code
    assert (read_label_volume(tmp_path / "l.nii", image=path) == truth).all()
    both = [read_volume(path, axes="RAS").array, read_label_volume(tmp_path / "l.nii", image=path, axes="RAS")]
    slope, zero = drawn[4]
    assert ((both[0] > 90 * slope + zero) == both[1]).all()
