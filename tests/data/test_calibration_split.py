"""Calibration cases: patients of their own, apart from training and validation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgemt.artefacts import stage_folder
from edgemt.data.cohort import split_dataset
from edgemt.data.options import DataOptions
from edgemt.pipeline.recipe import Recipe

NAMES = [f"p{patient}_frame{k}" for patient in range(10) for k in (1, 2)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for name in NAMES:
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / kind / f"{name}.png")
    (tmp_path / "val.txt").write_text("p0\np1\np2\np3\n")
    (tmp_path / "cal.txt").write_text("p4\np5\n")
    (tmp_path / "labelled.txt").write_text("p6\n")
    return tmp_path


def patients(cases: tuple) -> set[str]:
    return {case.patient for case in cases}


def test_a_list_takes_its_patients_out_of_training(root: Path) -> None:
    split = split_dataset(DataOptions(root=root, labelled="labelled.txt", calibration="cal.txt"))
    assert patients(split.calibration) == {"p4", "p5"}
    assert all(case.label for case in split.calibration)
    assert patients(split.unlabelled) == {"p7", "p8", "p9"}
    assert "4 unlabelled images of calibration patients do not train" in split.notes
    drawn = split_dataset(DataOptions(root=root, labelled="4", calibration="cal.txt"))
    assert not patients(drawn.labelled) & {"p4", "p5"}


def test_a_share_of_the_validation_patients(root: Path) -> None:
    options = DataOptions(root=root, labelled="labelled.txt", calibration_share=0.5)
    split, plain = split_dataset(options), split_dataset(replace(options, calibration_share=0.0))
    assert len(patients(split.calibration)) == len(patients(split.val)) == 2
    assert patients(split.calibration) | patients(split.val) == {"p0", "p1", "p2", "p3"}
    assert split.labelled == plain.labelled
    assert split.unlabelled == plain.unlabelled
    assert plain.calibration == ()


@pytest.mark.parametrize(("names", "field"), [("p3_frame1\np4\n", "val"), ("p6_frame2\n", "labelled")])
def test_an_overlap_by_patient_is_refused_in_one_line(root: Path, names: str, field: str) -> None:
    (root / "cal.txt").write_text(names)
    with pytest.raises(ValueError, match=f"data.calibration and data.{field} share 1 patients"):
        split_dataset(DataOptions(root=root, labelled="labelled.txt", calibration="cal.txt"))


def test_both_options_at_once_and_impossible_shares_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="leave one of them out"):
        DataOptions(calibration="cal.txt", calibration_share=0.5)
    with pytest.raises(ValueError, match="must lie in 0 to 1"):
        DataOptions(calibration_share=1.0)
    with pytest.raises(ValueError, match="leaves none to validate"):
        split_dataset(DataOptions(root=root, labelled="labelled.txt", calibration_share=0.95))


def test_phantoms_of_their_own() -> None:
    split = split_dataset(DataOptions(layout="phantom", calibration="12"))
    assert len(split.calibration) == 12
    assert not patients(split.calibration) & patients((*split.labelled, *split.unlabelled, *split.val))
    shared = split_dataset(DataOptions(layout="phantom", phantom=(4, 4, 10), calibration_share=0.5))
    assert (len(shared.val), len(shared.calibration)) == (5, 5)


def test_keys_of_earlier_runs_are_unchanged() -> None:
    assert not {"calibration", "calibration_share"} & set(stage_folder.plain(DataOptions()))
    assert "contours" not in stage_folder.plain(Recipe())
    assert stage_folder.plain(DataOptions(calibration="cal.txt"))["calibration"] == "cal.txt"
