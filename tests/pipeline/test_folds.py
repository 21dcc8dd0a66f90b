"""Teachers of a cross-validation: every labelled patient is held out once, and the teachers are the ensemble."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgemt.artefacts import network_folder, stage_folder
from edgemt.data.options import DataOptions
from edgemt.learning.ensemble import Ensemble
from edgemt.pipeline import flow
from edgemt.pipeline.folds import RECORD, fold_patients
from edgemt.recipes import RECIPES
from edgemt.training.options import Schedule


def test_every_patient_is_in_one_fold_and_the_draw_is_the_seeds() -> None:
    patients = [f"p{index % 7}" for index in range(30)]
    folds = fold_patients(patients, folds=3, seed=0)
    assert sorted(len(fold) for fold in folds) == [2, 2, 3]
    assert set.union(*folds) == set(patients) and sum(map(len, folds)) == 7
    assert folds == fold_patients(patients[::-1], folds=3, seed=0) != fold_patients(patients, folds=3, seed=1)
    with pytest.raises(ValueError, match="data.folds: 8 folds for 7 labelled patients"):
        fold_patients(patients, folds=8, seed=0)


def test_fold_teachers_learn_without_their_patients_and_are_the_teacher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = RECIPES["phantom"]()
    quick = Schedule(steps=2, labelled=2, unlabelled=2, validations=0, warmup=1)
    teacher = replace(base.teacher, widths=(2, 2, 4, 4, 4), schedule=quick)
    recipe = replace(
        base, data=replace(base.data, size=(32, 32), phantom=(5, 3, 1), folds=2), teacher=teacher, threads=1
    )
    out = tmp_path / "run"
    flow.run(recipe, out, until="teacher")
    assert "folds: out-of-fold Dice" in capsys.readouterr().err
    record = json.loads((out / "folds" / RECORD).read_text())
    assert record["patients"] == 5 and record["low"] <= record["dice"] <= record["high"]
    assert len({case["name"] for case in record["cases"]}) == 5 and {case["fold"] for case in record["cases"]} == {
        "1",
        "2",
    }
    network = network_folder.load_network(out / "teacher")
    assert isinstance(network, Ensemble) and len(network.members) == 2
    cards = [stage_folder.read_card(out / "folds" / name) for name in "12"]
    assert cards[0].recipe_hash != cards[1].recipe_hash and cards[0].normalise == cards[1].normalise
    flow.run(recipe, out, until="teacher")
    err = capsys.readouterr().err
    assert "folds/1: stands" in err and "out-of-fold" not in err  # measured once


def test_without_folds_no_key_knows_them_and_members_are_refused_beside_them() -> None:
    assert "folds" not in stage_folder.plain(DataOptions())
    base = RECIPES["phantom"]()
    recipe = replace(base, data=replace(base.data, folds=2), teacher=replace(base.teacher, members=2))
    with pytest.raises(ValueError, match="data.folds: 2 trains so many 2-D teachers"):
        flow.run(recipe, Path("unused"), until="teacher")
    with pytest.raises(ValueError, match="data.folds: must be 1"):
        DataOptions(folds=0)
