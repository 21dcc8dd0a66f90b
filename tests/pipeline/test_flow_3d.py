"""The way from 3-D to 2-D, whole: a small V-Net, its bank, a student of neighbouring slices, INT8, ship, report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_flags import TINY_VOLUMES

from edgemt import cli
from edgemt.artefacts import stage_folder

nibabel = pytest.importorskip("nibabel")


@pytest.fixture(scope="module")
def run(tiny_volume_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(tiny_volume_run, tmp_path_factory.mktemp("volumes") / "run")


def test_every_stage_leaves_its_folder(run: Path) -> None:
    for stage in ("teacher", "bank", "student", "slim", "int8", "ship", "report"):
        assert (run / stage).is_dir(), stage


def test_the_teacher_is_measured_on_whole_volumes_before_and_after_clean_up(run: Path) -> None:
    card = stage_folder.read_card(run / "teacher")
    measured = card.measured[stage_folder.WEIGHTS]
    assert len(measured.cases) == 2
    assert measured.stride == (16, 16, 8)
    assert measured.windows_per_volume > 1
    assert set(measured.largest_component) == {"dice", "hd95", "asd"}
    assert measured.without_clean_up["dice"] == pytest.approx(measured.dice)


def test_the_student_takes_three_slices_and_is_measured_on_the_same_volumes(run: Path) -> None:
    card = stage_folder.read_card(run / "student")
    assert (card.channels, card.channel_order, card.network["channels"]) == (3, "slices", 3)
    teacher = stage_folder.read_card(run / "teacher").measured[stage_folder.WEIGHTS]
    mine = card.measured[stage_folder.WEIGHTS]
    assert [case["name"] for case in mine.cases] == [case["name"] for case in teacher.cases]


def test_the_report_shows_both_numbers_and_what_a_volume_costs(run: Path) -> None:
    record = json.loads((run / "report" / "report.json").read_text())
    by = {stage["name"]: stage for stage in record["stages"]}
    assert by["teacher"]["macs_per_volume"] > by["teacher"]["macs"]
    assert by["slim"]["macs_per_volume"] == pytest.approx(32 * by["slim"]["macs"])
    page = (run / "report" / "report.html").read_text()
    assert "Volumes" in page and "largest part" in page


def test_the_same_command_again_makes_nothing_anew(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("weights.safetensors")}
    cli.main(["export", "phantom_volumes", "--out", str(run), *TINY_VOLUMES])
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("weights.safetensors")}
    assert "teacher: stands" in capsys.readouterr().err


def test_other_slices_for_the_student_leave_the_teacher_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", "phantom_volumes", "--out", str(run), *TINY_VOLUMES, "--data.slices=1", "--data.size=64", "64"])
    assert "teacher: stands" in capsys.readouterr().err


def test_predict_writes_a_mask_with_the_affine_of_the_volume(run: Path, tmp_path: Path) -> None:
    from edgemt.data.phantom3d import volume

    image, _ = volume(77, (40, 36, 12))
    affine = np.array([[-0.6, 0, 0, 7], [0, 0.7, 0.1, -3], [0, -0.1, 2.5, 11], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(image, affine), tmp_path / "patient.nii.gz")
    cli.main(["predict", str(run / "ship"), str(tmp_path / "patient.nii.gz"), "--out", str(tmp_path / "masks")])
    mask = nibabel.load(tmp_path / "masks" / "patient.mask.nii.gz")
    assert mask.shape == image.shape
    np.testing.assert_allclose(mask.affine, affine, atol=1e-6)


def test_a_3d_teacher_is_refused_for_frames(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", "phantom", "--out", str(tmp_path / "x"), "--teacher.network=vnet"])
    assert caught.value.code == 2
    assert "vnet needs volumes, data.layout phantom has single frames" in capsys.readouterr().err


def test_slices_may_vote_when_masks_are_written_and_measured(run: Path, tmp_path: Path) -> None:
    from edgemt.data.phantom3d import volume
    from edgemt.inference import evaluate_package
    from edgemt.io.volumes import read_label_volume
    from edgemt.metrics.postprocess import through_plane

    nibabel.save(nibabel.Nifti1Image(volume(78, (32, 32, 16))[0], np.eye(4)), tmp_path / "one.nii.gz")
    for width in (1, 5):
        out = tmp_path / str(width)
        given = ["predict", str(run / "ship"), str(tmp_path / "one.nii.gz"), "--out", str(out)]
        cli.main([*given, "--through-plane", str(width)])
    plain, voted = (read_label_volume(tmp_path / str(k) / "one.mask.nii.gz") for k in (1, 5))
    np.testing.assert_array_equal(np.moveaxis(voted, -1, 0), through_plane(np.moveaxis(plain, -1, 0), width=5))
    record = evaluate_package.evaluate_ship(run / "ship", through_plane=5)
    assert record["through_plane"] == 5 and record["counted"] == 2
    with pytest.raises(ValueError, match="through_plane: must be odd"):
        evaluate_package.predict(run / "ship", [tmp_path / "one.nii.gz"], out=tmp_path / "x", through_plane=2)
