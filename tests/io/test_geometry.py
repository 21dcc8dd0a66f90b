"""Image and label lie on each other, a set has one axis order, and a mask has the geometry of its input."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from edgemt.contract import Case
from edgemt.data.cohort import split_dataset
from edgemt.data.options import DataOptions
from edgemt.inference.predict import nifti
from edgemt.io.geometry import arranged, arranged_sizes, is_order, restored
from edgemt.io.volumes import read_label_volume, read_volume, volume_shape, volume_spacing

nibabel = pytest.importorskip("nibabel")
ORDERS = [
    "".join(letters) for pairs in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*pairs)
]
RAS = np.diag([1.5, 1.2, 5.0, 1.0])
SHAPE = (10, 8, 6)
TRUTH = np.zeros(SHAPE, np.uint8)
TRUTH[1:4, 2:5, 1:3] = 1
IMAGE = np.random.default_rng(0).integers(100, 200, SHAPE).astype(np.int16) + 600 * TRUTH.astype(np.int16)


def _as(array: np.ndarray, codes: str, affine: np.ndarray = RAS) -> object:
    image = nibabel.Nifti1Image(array, affine)
    now, goal = nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(codes)
    return image.as_reoriented(nibabel.orientations.ornt_transform(now, goal))


def _set(root: Path, images: tuple[str, ...], labels: tuple[str, ...]) -> DataOptions:
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        for folder, array, codes in (("images", IMAGE, image), ("labels", TRUTH, label)):
            (root / folder).mkdir(exist_ok=True)
            nibabel.save(_as(array, codes), root / folder / f"p{i}.nii.gz")
    (root / "val.txt").write_text(f"p{len(images) - 1}\n")
    return DataOptions(root=root, classes=("background", "organ"), channels=1, size=(16, 16), layout="volumes")


def _pair(case: Case) -> tuple[np.ndarray, np.ndarray]:
    image = read_volume(case.image, axes=case.axes).array
    return image, read_label_volume(str(case.label), image=case.image, axes=case.axes)


@pytest.mark.parametrize("codes", ORDERS)
def test_every_order_goes_there_and_back(codes: str) -> None:
    assert is_order(codes)
    for order in (*ORDERS[::5], "kij", "jki", "ijk", ""):
        moved = arranged(IMAGE, codes, order)
        assert (restored(moved, codes, order) == IMAGE).all()
        assert moved.shape == arranged_sizes(IMAGE.shape, codes, order)
        if order in ORDERS:  # nibabel on its own
            want = _as(np.asarray(_as(IMAGE, "RAS").dataobj), "RAS").as_reoriented(  # type: ignore[attr-defined]
                nibabel.orientations.ornt_transform(
                    nibabel.orientations.axcodes2ornt(codes), nibabel.orientations.axcodes2ornt(order)
                )
            )
            assert (np.asarray(want.dataobj) == moved).all()


@pytest.mark.parametrize("label", ["RAS", "LAS", "LPS", "PIR", "SRA"])
@pytest.mark.parametrize("image", ["RAS", "LPS", "PIR"])
def test_a_label_is_brought_onto_its_image(tmp_path: Path, image: str, label: str) -> None:
    options = _set(tmp_path, (image,) * 2, (label,) * 2)
    (case, *_) = split_dataset(options, whole_volumes=True).labelled
    voxels, truth = _pair(case)
    assert truth.shape == voxels.shape and truth.sum() == TRUTH.sum()
    assert voxels[truth > 0].min() >= 700 > voxels[truth == 0].max()


def test_a_set_of_mixed_orders_becomes_one(tmp_path: Path) -> None:
    options = _set(tmp_path, ("RAS", "LPS", "RAS", "PIR"), ("RAS", "RAS", "LPS", "PIR"))
    cohort = split_dataset(options, whole_volumes=True)
    assert cohort.axes == "RAS"
    for case in (*cohort.labelled, *cohort.val):
        voxels, truth = _pair(case)
        assert (voxels == IMAGE).all() and (truth == TRUTH).all()
        assert volume_spacing(case.image, axes=case.axes) == pytest.approx((1.5, 1.2, 5.0))
    assert len(split_dataset(options).val) == 6 and split_dataset(options).val[0].axes == "RAS"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("shift", r"labels/p0\.nii\.gz: lies elsewhere than its image .*images/p0\.nii\.gz: RAS, origin \(3, 0, 0\)"),
        ("scale", r"voxels 1\.5 x 1\.2 x 4 mm against .* voxels 1\.5 x 1\.2 x 5 mm"),
        ("turn", r"lies elsewhere"),
    ],
)
def test_a_label_that_lies_elsewhere_is_refused_with_both_names(tmp_path: Path, change: str, says: str) -> None:
    options = _set(tmp_path, ("RAS",) * 2, ("RAS",) * 2)
    affine = RAS.copy()
    if change == "shift":
        affine[0, 3] = 3
    elif change == "scale":
        affine[2, 2] = 4
    else:
        affine[:2, :2] = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]) @ affine[:2, :2]
    nibabel.save(nibabel.Nifti1Image(TRUTH, affine), tmp_path / "labels" / "p0.nii.gz")
    (case,) = split_dataset(options, whole_volumes=True).labelled
    with pytest.raises(ValueError, match=says) as error:
        _pair(case)
    assert "\n" not in str(error.value)
    label = read_label_volume(str(case.label), image=case.image, axes=case.axes, compare=False)
    assert (label == TRUTH).all()


def test_rounding_of_the_header_is_no_other_place_and_either_form_will_do(tmp_path: Path) -> None:
    options = _set(tmp_path, ("RAS",) * 2, ("RAS",) * 2)
    turned = np.eye(4)
    turned[:3, :3] = nibabel.eulerangles.euler2mat(0.2, 0.1, 0.3) @ np.diag([1.5, 1.2, 5.0])
    turned[:3, 3] = -110.3, 83.7, 12.1
    image = nibabel.Nifti1Image(IMAGE, turned)
    image.set_sform(turned, 1)
    image.set_qform(None, 0)
    label = nibabel.Nifti1Image(TRUTH, turned)
    label.set_qform(turned, 1)
    label.set_sform(None, 0)  # the quaternion is rounded
    nibabel.save(image, tmp_path / "images" / "p0.nii.gz")
    nibabel.save(label, tmp_path / "labels" / "p0.nii.gz")
    (case,) = split_dataset(options, whole_volumes=True).labelled
    voxels, truth = _pair(case)
    assert voxels[truth > 0].min() >= 700


def test_files_without_an_orientation_among_others_are_refused(tmp_path: Path) -> None:
    options = _set(tmp_path, ("RAS",) * 2, ("RAS",) * 2)
    silent = nibabel.Nifti1Image(IMAGE, None)
    nibabel.save(silent, tmp_path / "images" / "p0.nii.gz")
    with pytest.raises(ValueError, match=r"p0\.nii\.gz: its header states no orientation .*p1\.nii\.gz is RAS"):
        split_dataset(options)
    assert split_dataset(DataOptions.from_dict({**options.to_dict(), "affines": "ignore"})).axes == ""


@pytest.mark.parametrize(
    ("spacing", "slice_axis", "axes", "depth"),
    [
        ((1.5, 1.2, 5.0), None, "RAS", 6),
        ((1.0, 5.0, 1.0), None, "RSA", 8),
        ((6.0, 1.0, 1.0), None, "ASR", 10),
        ((1.0, 1.0, 1.0), None, "RAS", 6),
        ((1.0, 1.1, 1.0), None, "RAS", 6),
        ((1.0, 5.0, 1.0), 2, "RAS", 6),
        ((1.5, 1.2, 5.0), 0, "ASR", 10),
    ],
)
def test_slices_are_cut_across_the_largest_spacing(
    tmp_path: Path, spacing: tuple[float, ...], slice_axis: int | None, axes: str, depth: int
) -> None:
    options = _set(tmp_path, ("RAS",) * 2, ("RAS",) * 2)
    for folder, array in (("images", IMAGE), ("labels", TRUTH)):
        for name in ("p0", "p1"):
            nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing, 1])), tmp_path / folder / f"{name}.nii.gz")
    cohort = split_dataset(DataOptions.from_dict({**options.to_dict(), "slice_axis": slice_axis}))
    assert cohort.axes == axes and len(cohort.labelled) == depth
    assert volume_shape(cohort.labelled[0].image, axes=axes)[2] == depth


def test_a_time_axis_of_one_moment_is_no_fourth_axis(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(IMAGE[..., None], RAS), tmp_path / "a.nii.gz")
    assert (read_volume(tmp_path / "a.nii.gz").array == IMAGE).all() and volume_shape(tmp_path / "a.nii.gz") == SHAPE
    colours = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, RAS), tmp_path / "c.nii.gz")
    with pytest.raises(ValueError, match=r"c\.nii\.gz: its voxels are colours or complex"):
        read_volume(tmp_path / "c.nii.gz")


@pytest.mark.parametrize("kind", ["q", "s", "both", "differ", "lps", "oblique"])
@pytest.mark.parametrize("axes", ["", "RAS", "PIR"])
def test_a_mask_has_the_complete_geometry_of_its_input(tmp_path: Path, kind: str, axes: str) -> None:
    affine = RAS.copy()
    if kind in ("lps", "oblique"):
        affine = np.diag([-1.5, -1.2, 5.0, 1.0])
    if kind == "oblique":
        affine[:3, :3] = nibabel.eulerangles.euler2mat(0.3, 0.1, 0.0) @ affine[:3, :3]
        affine[:3, 3] = 10, -20, 30
    image = nibabel.Nifti1Image(IMAGE, affine)
    image.set_qform(None if kind == "s" else affine, 0 if kind == "s" else 1)
    other = affine.copy()
    other[0, 3] += 50 * (kind == "differ")
    image.set_sform(None if kind == "q" else other, 0 if kind == "q" else 2)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"a patient"
    nibabel.save(image, tmp_path / "in.nii.gz")
    volume = read_volume(tmp_path / "in.nii.gz", axes=axes)
    mask = arranged(TRUTH, volume.codes, axes)
    nibabel.save(nifti(mask, volume, axes=axes), tmp_path / "out.nii.gz")
    written, given = nibabel.load(tmp_path / "out.nii.gz"), nibabel.load(tmp_path / "in.nii.gz")
    assert (np.asarray(written.dataobj) == TRUTH).all() and written.get_data_dtype() == np.uint8
    for name in (
        "qform_code",
        "sform_code",
        "xyzt_units",
        "pixdim",
        "srow_x",
        "srow_y",
        "srow_z",
        "quatern_b",
        "qoffset_x",
    ):
        assert np.array_equal(written.header[name], given.header[name]), name
    assert not bytes(written.header["descrip"]).strip(b"\0")
    sitk = pytest.importorskip("SimpleITK")
    ours, theirs = (sitk.ReadImage(str(tmp_path / name)) for name in ("out.nii.gz", "in.nii.gz"))
    for get in ("GetOrigin", "GetSpacing", "GetDirection", "GetSize"):
        assert getattr(ours, get)() == pytest.approx(getattr(theirs, get)())


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000), ("micron", 0.001), ("mm", 1), ("unknown", 1)])
def test_lengths_are_millimetres_whatever_the_unit_of_the_file(tmp_path: Path, unit: str, factor: float) -> None:
    """As ITK reads them; a label that keeps the numbers and drops the unit lies on its image all the same."""
    paths = []
    for name, array, own in (("image", IMAGE, unit), ("same", TRUTH, unit), ("bare", TRUTH, "unknown")):
        file = nibabel.Nifti1Image(array, RAS)
        file.header.set_xyzt_units(own)
        paths.append(tmp_path / f"{name}.nii.gz")
        nibabel.save(file, paths[-1])
    assert np.allclose(volume_spacing(paths[0]), np.array([1.5, 1.2, 5.0]) * factor)
    for label in paths[1:]:
        assert (read_label_volume(label, image=paths[0]) == TRUTH).all()
    in_mm = tmp_path / "mm.nii.gz"
    nibabel.save(nibabel.Nifti1Image(TRUTH[::-1], np.diag([-1.5, 1.2, 5, 1] * np.array([factor] * 3 + [1]))), in_mm)
    moved = nibabel.load(in_mm)
    moved.set_sform(moved.affine + np.array([[0, 0, 0, 1.5 * 9 * factor], [0] * 4, [0] * 4, [0] * 4]), code=1)
    nibabel.save(moved, in_mm)
    assert (read_label_volume(in_mm, image=paths[0]) == TRUTH).all()
