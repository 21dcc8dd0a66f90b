"""The bank of a 2-D teacher: what it predicts of every frame and slice, written once, in place of a network."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_flags import TINY, TINY_VOLUMES

from edgemt import cli, recipes
from edgemt.artefacts import network_folder, stage_folder
from edgemt.data import soft_labels
from edgemt.data.augment2d import normalised
from edgemt.learning import losses
from edgemt.pipeline.run_context import RunContext


@pytest.fixture(scope="module")
def first(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a teacher, its bank and a student. Never change it."""
    run = tmp_path_factory.mktemp("bank") / "run"
    for stage in ("teacher", ".lists"):
        if (tiny_run / stage).exists():
            shutil.copytree(tiny_run / stage, run / stage)
    before = (run / "teacher" / "card.json").stat().st_mtime_ns
    distilled(run)
    assert (run / "teacher" / "card.json").stat().st_mtime_ns == before, "the teacher stands"
    return run


def distilled(run: Path, *flags: str) -> None:
    cli.main(["distil", "phantom", "--out", str(run), *TINY, "--student.method.teacher_source=bank", *flags])


def test_the_bank_has_the_teacher_s_probabilities_of_every_training_frame(first: Path) -> None:
    recipe = json.loads((first / "recipe.json").read_text())
    data = replace(
        recipes.load("phantom").data,
        size=tuple(recipe["data"]["size"]),
        phantom=tuple(recipe["data"]["phantom"]),
    )
    context = RunContext(replace(recipes.load("phantom"), data=data), first)
    teacher = network_folder.load_network(first / "teacher")
    for cases, stack in (
        (context.slices.cohort.labelled, context.slices.labelled),
        (context.slices.cohort.unlabelled, context.slices.unlabelled),
    ):
        soft = soft_labels.read_bank(first / "bank", cases)
        with torch.inference_mode():
            frames = stack.frames(torch.arange(len(stack)), "cpu")
            probs = losses.probabilities(teacher(normalised(frames, context.slices.normalise)).logits)
        assert soft.shape == (len(cases), len(context.slices.classes) - 1, *data.size)
        assert np.abs(soft - probs[:, 1:].numpy()).max() < 0.02  # bf16 where the processor has it


def test_a_second_run_labels_nothing_again_and_another_teacher_does(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(first, tmp_path / "run")
    index = json.loads((copy / "bank" / soft_labels.INDEX).read_text())
    capsys.readouterr()
    distilled(copy)
    err = capsys.readouterr().err
    assert "teacher: stands" in err and "student: stands" in err
    distilled(copy, "--teacher.schedule.learning-rate=0.0007", "--overwrite")
    other = json.loads((copy / "bank" / soft_labels.INDEX).read_text())
    assert index["key"] != other["key"]
    hashes = [{name: entry["sha256"] for name, entry in one["volumes"].items()} for one in (index, other)]
    assert hashes[0].keys() == hashes[1].keys() and hashes[0] != hashes[1]


def test_slices_of_a_volume_share_a_file_in_their_order(tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = [f for f in TINY_VOLUMES if not f.startswith(("--teacher.network", "--teacher.filters"))]
    cli.main(["distil", "phantom_volumes", "--out", str(run), *flags, "--teacher.network=unet", "--teacher.filters=0"])
    index = json.loads((run / "bank" / soft_labels.INDEX).read_text())
    recipe = recipes.load("phantom_volumes")
    teacher, card = network_folder.load_network(run / "teacher"), stage_folder.read_card(run / "teacher")
    stored = json.loads((run / "recipe.json").read_text())["data"]
    data = replace(
        recipe.data,
        size=tuple(stored["size"]),
        slices=stored["slices"],
        phantom=tuple(stored["phantom"]),
    )
    context = RunContext(replace(recipe, data=data), run)
    assert {entry["depth"] for entry in index["volumes"].values()} != {1}
    rows = list(range(len(context.slices.cohort.labelled)))[::-3]
    soft = soft_labels.read_bank(run / "bank", [context.slices.cohort.labelled[row] for row in rows])
    with torch.inference_mode():
        frames = normalised(context.slices.labelled.frames(torch.tensor(rows), "cpu"), card.normalise)
        probs = losses.probabilities(teacher(frames).logits)
    assert np.abs(soft - probs[:, 1:].numpy()).max() < 0.02
