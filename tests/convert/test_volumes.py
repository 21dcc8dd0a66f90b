"""Volumes of 3D Slicer, NRRD, MHA and NIfTI: voxels and geometry stay, labels come onto their image."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")

from volume_samples import affine, image, label, segments, slicer  # noqa: E402

from edgemt import cli  # noqa: E402
from edgemt.convert.contract import ImportOptions, Volume  # noqa: E402
from edgemt.convert.exporting import export_labels  # noqa: E402
from edgemt.convert.geometry import onto_grid  # noqa: E402
from edgemt.convert.importing import import_source  # noqa: E402
from edgemt.convert.label_volumes import read_file  # noqa: E402
from edgemt.convert.nrrd_file import read_nrrd, write_nrrd  # noqa: E402
from edgemt.data.cohort import split_dataset  # noqa: E402
from edgemt.data.options import DataOptions  # noqa: E402

CLASSES = ("background", "liver", "vessel")


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def test_slicer_segmentations_become_volumes_that_training_reads(tmp_path: Path) -> None:
    manifest = import_source(slicer(tmp_path / "in"), tmp_path / "out")
    assert manifest["layout"] == "volumes" and manifest["classes"] == list(CLASSES)
    for seed in range(2):
        for kind, expected in (("images", image(seed)), ("labels", label(seed))):
            file = nibabel.load(tmp_path / "out" / kind / f"case{seed}.nii.gz")
            assert (np.asarray(file.dataobj) == expected).all() and file.get_data_dtype() == expected.dtype
            assert np.abs(file.affine - affine()).max() < 1e-5 and np.abs(file.get_qform() - affine()).max() < 1e-4
    split = split_dataset(DataOptions(root=str(tmp_path / "out"), classes=CLASSES, val="0.5"))
    assert len(split.labelled) == len(split.val) == 6


def test_labels_go_to_slicer_and_come_back(tmp_path: Path) -> None:
    import_source(slicer(tmp_path / "in"), tmp_path / "out")
    export_labels(tmp_path / "out" / "labels", tmp_path / "again", format="nrrd")
    for seed in range(2):
        path = tmp_path / "again" / f"case{seed}.seg.nrrd"
        found = read_nrrd(path)
        assert (found.array == label(seed)).all() and found.pairs["Segment1_Name"] == "vessel"
        stored = nibabel.load(tmp_path / "out" / "labels" / f"case{seed}.nii.gz").affine
        assert (found.affine == stored).all()
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    import_source(tmp_path / "in", tmp_path / "twice")
    for file in (tmp_path / "out" / "labels").iterdir():
        assert (voxels(file) == voxels(tmp_path / "twice" / "labels" / file.name)).all()


@pytest.mark.parametrize("turn", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_a_segmentation_of_a_part_in_other_axes_is_brought_onto_its_image(turn: tuple[int, ...]) -> None:
    volume, whole = Volume(image(), affine()), label()
    part = whole[2:9, 1:8, 1:6]
    whole = np.zeros_like(whole)
    whole[2:9, 1:8, 1:6] = part
    start = affine() @ [2, 1, 1, 1]
    own = affine()
    own[:3, 3] = start[:3]
    own[:3, :3] = own[:3, :3][:, turn]
    part = part.transpose(turn)[::-1]
    own[:3, 3] += own[:3, 0] * (part.shape[0] - 1)
    own[:3, 0] *= -1
    paths = {"label_path": Path("a.seg.nrrd"), "image_path": Path("a.nrrd")}
    assert (onto_grid(part, own, volume, **paths) == whole).all()
    own[:3, 3] += own[:3, 1] * 0.4
    with pytest.raises(ValueError, match="its voxels are not those of a.nrrd"):
        onto_grid(part, own, volume, **paths)


def test_layers_of_slicer_overlap_and_the_later_segment_is_on_top(tmp_path: Path) -> None:
    """Four axes, the first one the layers: 3D Slicer writes them where segments overlap."""
    (tmp_path / "in").mkdir()
    write_nrrd(tmp_path / "in" / "ct.nrrd", image(), affine(), {})
    layers = np.stack([label() > 0, label() == 2]).astype(np.uint8)
    write_nrrd(tmp_path / "flat.nrrd", label(), affine(), segments(["liver", "vessel"], layers=[0, 1], values=[1, 1]))
    head, _, _ = (tmp_path / "flat.nrrd").read_bytes().partition(b"\n\n")
    text = head.decode().replace("dimension: 3", "dimension: 4").replace("sizes: ", "sizes: 2 ")
    text = text.replace("space directions: ", "space directions: none ").replace("kinds: ", "kinds: list ")
    body = gzip.compress(layers.tobytes(order="F"))
    (tmp_path / "in" / "Segmentation.seg.nrrd").write_bytes(text.encode() + b"\n\n" + body)
    manifest = import_source(tmp_path / "in", tmp_path / "out")
    assert (voxels(tmp_path / "out" / "labels" / "ct.nii.gz") == label()).all()
    assert manifest["counts"]["overlapping_pixels"] == (label() == 2).sum()


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd", ".nii.gz"])
@pytest.mark.parametrize("packed", [False, True])
def test_files_of_simpleitk_are_read_as_it_reads_them(suffix: str, packed: bool, tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    path = tmp_path / f"a{suffix}"
    volume = sitk.GetImageFromArray(image().T)
    lps = np.diag([-1.0, -1, 1, 1]) @ affine()
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    volume.SetSpacing(spacing.tolist())
    volume.SetDirection((lps[:3, :3] / spacing).reshape(-1).tolist())
    volume.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(volume, str(path), packed)
    found = read_file(path)
    assert (found.array == image()).all() and np.abs(found.affine - affine()).max() < 1e-5
    if suffix == ".nrrd":
        write_nrrd(path, image(), affine(), {})
        again = sitk.ReadImage(str(path))
        assert (image() == sitk.GetArrayFromImage(again).T).all()
        assert np.allclose(again.GetDirection(), volume.GetDirection())


def test_label_maps_without_names_get_numbers_or_the_given_names(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_nrrd(tmp_path / "in" / "ct.nrrd", image(), affine(), {})
    nibabel.save(nibabel.Nifti1Image(label(), affine()), tmp_path / "in" / "ct-label.nii.gz")
    assert import_source(tmp_path / "in", tmp_path / "a")["classes"] == ["background", "class1", "class2"]
    options = ImportOptions(classes=("liver", "vessel"))
    assert import_source(tmp_path / "in", tmp_path / "b", options=options)["classes"] == list(CLASSES)
    with pytest.raises(ValueError, match="holds value 2, --classes names 1"):
        import_source(tmp_path / "in", tmp_path / "c", options=ImportOptions(classes=("liver",)))


def header(path: Path, old: str, new: str) -> None:
    data = path.read_bytes()
    assert old.encode() in data
    path.write_bytes(data.replace(old.encode(), new.encode(), 1))


def bomb(path: Path) -> None:
    head, _, _ = path.read_bytes().partition(b"\n\n")
    path.write_bytes(head + b"\n\n" + gzip.compress(bytes(3_000_000)))


def meta(path: Path, text: str, body: bytes = b"") -> None:
    path.unlink()
    base = "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementSpacing = 1 1 1\nOffset = 0 0 0\n"
    base += "TransformMatrix = 1 0 0 0 1 0 0 0 1\n"
    path.with_suffix(".mha").write_bytes((base + text).encode() + body)


SEG, IMAGE = "case0.seg.nrrd", "case0.nrrd"


@pytest.mark.parametrize(
    ("name", "damage", "why"),
    [
        (IMAGE, lambda p: p.write_bytes(p.read_bytes()[:-40]), "copy it again"),
        (IMAGE, lambda p: p.write_bytes(p.read_bytes()[:60]), "ends within its header"),
        (SEG, lambda p: p.write_bytes(p.read_bytes()[:-20]), "copy it again"),
        (IMAGE, lambda p: header(p, "NRRD0004", "NRRD0009"), "no NRRD file of version 1 to 5"),
        (IMAGE, bomb, "copy it again"),
        (IMAGE, lambda p: header(p, "sizes: 11 9 6", "sizes: 99999 99999 999"), "GiB"),
        (IMAGE, lambda p: header(p, "sizes: 11 9 6", "sizes: 11 9"), "states dimension 3 and sizes"),
        (IMAGE, lambda p: header(p, "sizes: 11 9 6", "sizes: a b c"), "no numbers"),
        (IMAGE, lambda p: header(p, "type: short", "type: block"), "no usable"),
        (IMAGE, lambda p: header(p, "encoding: gzip", "encoding: lzma"), "'lzma' is not read"),
        (IMAGE, lambda p: header(p, "endian: little", "data file: ../../x.raw"), "leads out of the folder"),
        (IMAGE, lambda p: header(p, "endian: little", "data file: /etc/passwd"), "leads out of the folder"),
        (IMAGE, lambda p: header(p, "space: left-posterior-superior", "comment: none"), "states no orientation"),
        (IMAGE, lambda p: header(p, "(", "(nan0"), "no numbers"),
        (SEG, lambda p: header(p, "Segment0_Layer:=0", "Segment0_Layer:=7"), "lies in layer 7"),
        (
            SEG,
            lambda p: header(p, "Segment0_LabelValue:=1", "Segment0_LabelValue:=9"),
            "voxels have 1, which no segment has",
        ),
        (
            SEG,
            lambda p: header(
                p, "Segment0_Layer:=0", "Segment0_Layer:=0\nSegmentation_MasterRepresentation:=Fractional labelmap"
            ),
            "is a fractional labelmap",
        ),
        (SEG, lambda p: header(p, "space origin: (", "space origin: (4"), "its voxels are not those of case0.nrrd"),
        (SEG, lambda p: p.rename(p.with_name("other.seg.nrrd")), "0 images fit"),
        (IMAGE, lambda p: meta(p, "ElementDataFile = ../x.raw\n"), "leads out of the folder"),
        (IMAGE, lambda p: meta(p, "ElementDataFile = LOCAL\n", b"123"), "holds 3 bytes of voxels, its header states 8"),
        (IMAGE, lambda p: meta(p, "CompressedData = True\nElementDataFile = LOCAL\n", b"123"), "cannot be unpacked"),
        (IMAGE, lambda p: meta(p, "ElementDataFile = y.raw\n"), "y.raw is not there"),
        (IMAGE, lambda p: meta(p, ""), "no whole MetaImage file"),
    ],
)
def test_what_cannot_be_read_is_one_line_and_leaves_nothing(name, damage, why, tmp_path: Path, capsys) -> None:
    slicer(tmp_path / "in")
    damage(tmp_path / "in" / name)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["import", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and line.startswith("edgemt: error: ") and why in line, line
    assert "case0" in line or "other" in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_the_manifest_names_image_and_labels(tmp_path: Path) -> None:
    import_source(slicer(tmp_path / "in"), tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [one["file"] for one in manifest["sources"]["case1.nrrd"]] == ["case1.nrrd", "case1.seg.nrrd"]
    assert manifest["counts"]["patients"] == 2
