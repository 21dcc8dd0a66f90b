"""Every data set by name, from a tiny folder in exactly its layout: classes, patients, splits, geometry, errors."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

nibabel, pydicom, h5py = (pytest.importorskip(name) for name in ("nibabel", "pydicom", "h5py"))

from checkout import ROOT  # noqa: E402
from dataset_samples import SAMPLES, SIZE, SPACING, Planted, truth  # noqa: E402
from dataset_volume_samples import VOLUME_SAMPLES, scan  # noqa: E402
from PIL import Image  # noqa: E402

from edgemt import cli  # noqa: E402
from edgemt.convert.datasets import catalogue  # noqa: E402
from edgemt.convert.datasets.importing import dataset_summary, import_dataset  # noqa: E402
from edgemt.convert.datasets.registry import DATASETS, NOT_INCLUDED, find_dataset  # noqa: E402
from edgemt.convert.datasets.row import DataSet  # noqa: E402
from edgemt.data.cohort import split_dataset  # noqa: E402
from edgemt.data.layouts.case_files import patient_of  # noqa: E402
from edgemt.data.options import DataOptions  # noqa: E402
from edgemt.pipeline.overrides import override  # noqa: E402
from edgemt.recipes import load  # noqa: E402

ALL = {**SAMPLES, **VOLUME_SAMPLES}


@pytest.fixture(autouse=True)
def no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to the disk takes most of the time of tiny imports; tests of the import itself keep it."""
    monkeypatch.setattr("edgemt.convert.importing._flush", lambda folder, cases: None)


def read(folder: Path, name: str, *, volumes: bool) -> np.ndarray:
    if volumes:
        return np.asarray(nibabel.load(folder / "labels" / f"{name}.nii.gz").dataobj)
    return np.asarray(Image.open(folder / "masks" / f"{name}.png"))


def names_in(folder: Path, *, volumes: bool) -> set[str]:
    files = [path for path in (folder / "images").rglob("*") if path.is_file()]
    return {path.relative_to(folder / "images").as_posix().split(".nii" if volumes else ".")[0] for path in files}


def with_channels(planted: Planted, names: dict[str, np.ndarray | None]) -> set[str]:
    if planted.channels == 1:
        return set(names)
    return {f"{name}_{channel:04d}" for name in names for channel in range(planted.channels)}


def test_every_data_set_has_a_sample_and_the_reverse() -> None:
    assert set(ALL) == set(DATASETS)


@pytest.mark.parametrize("name", ALL)
def test_import_writes_the_planted_classes_patients_and_parts(name: str, tmp_path: Path) -> None:
    row = DATASETS[name]
    planted = ALL[name](tmp_path / "in")
    manifest = import_dataset(name, tmp_path / "in", tmp_path / "out")
    volumes = row.layout == "volumes"
    assert manifest["classes"] == ["background", *row.classes] and manifest["layout"] == row.layout
    for folder, expected in ((tmp_path / "out", planted.train), (tmp_path / "out" / "test", planted.test)):
        assert names_in(folder, volumes=volumes) == with_channels(planted, expected)
        assert bool(expected) == folder.exists()
        for case, mask in expected.items():
            if mask is None:
                assert not list(folder.glob(f"[ml]a*/{case}*"))
            else:
                written = read(folder, case, volumes=volumes)
                assert written.dtype == np.uint8 and (written == mask).all(), case
    listed = (tmp_path / "out" / "val.txt").read_text().split() if (tmp_path / "out" / "val.txt").exists() else []
    assert set(listed) == planted.val
    counts = manifest["counts"]
    assert counts["images"] == len(planted.train) and counts.get("test", 0) == len(planted.test)
    assert planted.patients is None or counts["patients"] == planted.patients
    groups = {patient_of(case.partition("/")[0], pattern=DataOptions.patient_pattern) for case in planted.train}
    assert planted.patients is None or len(groups) == planted.patients  # as training will group them
    assert manifest["dataset"] == {"name": name, "title": row.title, "terms": row.terms, "home": row.home}
    line = dataset_summary(manifest, tmp_path / "out")[-1]
    if counts["labelled_patients"] < 2:
        assert "import a second labelled patient" in line
    else:
        assert f"edgemt run {row.recipe[0]} --data.root {tmp_path / 'out'}" in line
        assert not row.channels or f"--data.channel-names {' '.join(row.channels)} --" in line


def test_suggested_commands_have_flags_that_exist() -> None:
    counts = dict.fromkeys(("images", "labelled", "patients", "labelled_patients"), 9)
    counts |= {"images_with_class": {}, "overlapping_pixels": 0}  # type: ignore[dict-item]
    one_of_each: dict[frozenset[str], DataSet] = {}  # to parse a command takes 0.2 s
    for row in sorted(DATASETS.values(), key=lambda row: len(row.classes)):
        words = {word for word in row.recipe if not word.lstrip("-").isdigit()}
        words |= {"--data.channel-names"} if row.channels else set()
        if not any(words <= others for others in one_of_each):
            one_of_each[frozenset(words)] = row
    for row in one_of_each.values():
        about = {"layout": row.layout, "format": row.name, "dataset": {"name": row.name}, "counts": counts}
        line = dataset_summary({**about, "classes": ["background", *row.classes]}, Path("out"))[-1]
        recipe, *flags = shlex.split(line.removeprefix("next: edgemt run "))
        override(load(recipe), flags, prog="edgemt run")


@pytest.mark.parametrize("name", ALL)
def test_row_has_what_a_user_needs(name: str) -> None:
    row = DATASETS[name]
    assert row.home.startswith("http") and row.sources and all(s.startswith("https://") for s in row.sources)
    assert all((row.title, row.task, row.modality, row.content, row.terms, row.needs, row.recipe, row.classes))
    assert [find_dataset(alias).name for alias in (name, *row.aliases)] == [name] * (1 + len(row.aliases))


@pytest.mark.parametrize("name", ["acdc", "la2018", "promise12", "pancreas-ct", "brats2021", "msd-prostate"])
def test_volumes_keep_their_spacing_and_values(name: str, tmp_path: Path) -> None:
    ALL[name](tmp_path / "in")
    manifest = import_dataset(name, tmp_path / "in", tmp_path / "out")
    case = next(case for case in manifest["cases"] if case["mask"])
    images = [nibabel.load(tmp_path / "out" / file) for file in case.get("channels", [case["image"]])]
    spacing = {"la2018": (0.625,) * 3, "promise12": (0.625, 0.625, 3.6), "pancreas-ct": (0.7, 0.8, 2.0)}
    for image in images:
        assert np.allclose(image.header.get_zooms(), spacing.get(name, SPACING))
        assert np.allclose(nibabel.load(tmp_path / "out" / case["mask"]).affine, image.affine)
    first = np.asarray(images[0].dataobj)
    if name == "msd-prostate":  # both images of the four axes, in their order
        both = scan(0, (6, 5, 4, 2))
        assert [(np.asarray(image.dataobj) == both[..., k]).all() for k, image in enumerate(images)] == [True, True]
    elif name == "pancreas-ct":  # columns, rows, slices upwards
        assert (first == scan(1, (5, 6, 4)).transpose(1, 0, 2)[:, :, ::-1]).all()
    elif name != "la2018":
        assert (first == scan({"acdc": 1}.get(name, 0))).all()


@pytest.mark.parametrize("name", ["kvasir-seg", "cholecseg8k", "sun-seg", "acdc", "brats2020", "msd-prostate"])
def test_training_reads_the_import_and_no_test_image(name: str, tmp_path: Path) -> None:
    planted = ALL[name](tmp_path / "in")
    manifest = import_dataset(name, tmp_path / "in", tmp_path / "out")
    val = "" if planted.val else "1"
    options = DataOptions(
        root=tmp_path / "out",
        layout=manifest["layout"],
        classes=tuple(manifest["classes"]),
        val=val,
        channel_names=DATASETS[name].channels,
    )
    split = split_dataset(options, whole_volumes=manifest["layout"] == "volumes")
    named = {case.name for case in (*split.labelled, *split.val)}
    assert named == set(planted.train) and split.labelled and split.val
    assert not {case.patient for case in split.labelled} & {case.patient for case in split.val}


def test_links_that_go_round_end(tmp_path: Path) -> None:
    ALL["kvasir-seg"](tmp_path / "in")
    (tmp_path / "in" / "Kvasir-SEG" / "again").symlink_to(tmp_path / "in")
    assert import_dataset("kvasir-seg", tmp_path / "in", tmp_path / "out")["counts"]["images"] == 3


def test_classes_choose_and_order(tmp_path: Path) -> None:
    planted = ALL["acdc"](tmp_path / "in")
    import_dataset("acdc", tmp_path / "in", tmp_path / "out", classes=("left_ventricle", "right_ventricle"))
    case, mask = next(iter(planted.train.items()))
    assert (read(tmp_path / "out", case, volumes=True) == np.array([0, 2, 0, 1])[mask]).all()
    with pytest.raises(ValueError, match="has no class 'aorta'.*right_ventricle"):
        import_dataset("acdc", tmp_path / "in", tmp_path / "other", classes=("aorta",))


def test_import_resumes_and_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ALL["acdc"](tmp_path / "in")
    lines: list[str] = []
    real = np.unique
    calls = iter(range(100))

    def fails_once(*args: object, **kwargs: object) -> object:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr("edgemt.convert.datasets.pictures.np.unique", fails_once)
    with pytest.raises(KeyboardInterrupt):
        import_dataset("acdc", tmp_path / "in", tmp_path / "out")
    monkeypatch.undo()
    import_dataset("acdc", tmp_path / "in", tmp_path / "out", tell=lines.append)
    assert any("going on" in line for line in lines)
    import_dataset("acdc", tmp_path / "in", tmp_path / "out", tell=lines.append)
    assert lines[-1].endswith("is complete; nothing to do")


READERS = {  # one of each kind of reader: a label file to take away
    "kvasir-seg": "Kvasir-SEG/masks/cju0qkwl35piu0993l0dewei2.jpg",
    "endovis2017": "instrument_1_4_training/instrument_dataset_1/ground_truth",
    "monuseg": "MoNuSeg 2018 Training Data/Annotations/TCGA-A7-A13E-01Z-00-DX1.xml",
    "octa-500": "Label/GT_FAZ/10301.bmp",
    "acdc": "ACDC/database/training/patient001/patient001_frame12_gt.nii.gz",
    "la2018": "Training Set/06SR5RBREL16DQ6M8LWS/laendo.nrrd",
    "promise12": "training_data/Case49_segmentation.mhd",
    "pancreas-ct": "TCIA_pancreas_labels-02-05-2017/label0002.nii.gz",
    "brats2021": "RSNA_ASNR_MICCAI_BraTS2021_TrainingData/BraTS2021_00000/BraTS2021_00000_t2.nii.gz",
    "msd-spleen": "Task09_Spleen/labelsTr/spleen_014.nii.gz",
}


@pytest.mark.parametrize("name", READERS)
def test_a_missing_file_and_a_wrong_folder_are_one_line_with_the_home_page(name: str, tmp_path: Path) -> None:
    row = DATASETS[name]
    ALL[name](tmp_path / "in")
    gone = tmp_path / "in" / READERS[name]
    gone.rename(tmp_path / "gone")
    wanted = gone.name if gone.suffix else "its label files"
    with pytest.raises(ValueError, match="is not there") as error:
        import_dataset(name, tmp_path / "in", tmp_path / "out")
    assert wanted in str(error.value) and row.home in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="as it is distributed; expected") as error:
        import_dataset(name, tmp_path / "empty", tmp_path / "out")
    assert row.home in str(error.value) and row.needs in str(error.value) and not (tmp_path / "out").exists()


def test_values_and_colours_that_no_class_has_are_refused(tmp_path: Path) -> None:
    ALL["endovis2018"](tmp_path / "a")
    odd = np.zeros((*SIZE, 3), np.uint8)
    odd[0, 0] = 1, 2, 3
    Image.fromarray(odd).save(tmp_path / "a" / "miccai_challenge_release_2" / "seq_5" / "labels" / "frame042.png")
    with pytest.raises(ValueError, match="holds the colour 1 2 3, which is no label of EndoVis 2018"):
        import_dataset("endovis2018", tmp_path / "a", tmp_path / "out")
    ALL["lits"](tmp_path / "b")
    wrong = truth(0, 2, (6, 5, 4))
    wrong[0, 0, 0] = 9
    nibabel.save(nibabel.Nifti1Image(wrong, np.eye(4)), tmp_path / "b" / "Training Batch 1" / "segmentation-0.nii")
    with pytest.raises(ValueError, match=r"segmentation-0.nii: holds the value 9, which is no label of LiTS"):
        import_dataset("lits", tmp_path / "b", tmp_path / "out")
    nibabel.save(
        nibabel.Nifti1Image(wrong[:5] % 3, np.eye(4)), tmp_path / "b" / "Training Batch 1" / "segmentation-0.nii"
    )
    with pytest.raises(ValueError, match=r"\(5, 5, 4\) voxels, its image \(6, 5, 4\); copy LiTS again"):
        import_dataset("lits", tmp_path / "b", tmp_path / "out")


def test_two_copies_in_one_folder_are_refused(tmp_path: Path) -> None:
    for copy in ("a", "b"):
        ALL["kvasir-seg"](tmp_path / "in" / copy)
    with pytest.raises(ValueError, match="a second image named 'cju0qkwl35piu0993l0dewei2', beside"):
        import_dataset("kvasir-seg", tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["kvasir-seg", "--out", "OUT"], "is the data set Kvasir-SEG; get it at https://datasets.simula.no"),
        (["kvasr", "--from", "IN", "--out", "OUT"], "unknown data set 'kvasr'; nearest: kvasir-seg"),
        (["kvasir-seg", "--from", "nowhere", "--out", "OUT"], "from: no such folder 'nowhere'"),
        (["kvasir-seg", "--from", "IN", "--out", "OUT", "--every", "5"], "every: the data set states it"),
        (["camelyon16", "--from", "IN", "--out", "OUT"], "is not imported: whole-slide images"),
    ],
)
def test_command_line_errors(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "IN").mkdir()
    with pytest.raises(SystemExit) as status:
        cli.main(["import", *args])
    assert status.value.code == 2 and message in capsys.readouterr().err


def test_command_line_imports_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ALL["refuge"](tmp_path / "in")
    cli.main(["import", "refuge", "--from", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert "3 images, 3 labelled" in printed.out and "1 images of the test part are in" in printed.out
    assert "classes: 1 optic_disc (in 3), 2 optic_cup (in 3)" in printed.out
    assert "registration; research only" in printed.err and "published split" in printed.err


def test_the_page_is_current_and_names_every_data_set() -> None:
    assert (ROOT / catalogue.PAGE).read_text(encoding="utf-8") == catalogue.page()
    assert all(f"## {name}\n" in catalogue.page() for name in DATASETS) and "**camelyon16**" in catalogue.page()


def test_left_out_data_sets_have_a_reason() -> None:
    for name, reason in NOT_INCLUDED.items():
        assert name not in DATASETS and len(reason) > 40
        with pytest.raises(ValueError, match="is not imported: "):
            find_dataset(name)
