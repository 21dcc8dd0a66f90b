"""The slim stage prunes, fine-tunes, keeps its plan, and takes it up again where it was interrupted."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deploy import prune
from edgemt import artefact, engine, slimming, training, workspace
from edgemt.data.layouts import DataOptions
from edgemt.engine import Schedule
from edgemt.methods import METHODS
from edgemt.recipes import RECIPES, Recipe, Slim, Student

SCHEDULE = Schedule(steps=4, labelled=2, unlabelled=2, precision="32-true", validations=0, checkpoint_every=1)


def recipe(**choices) -> Recipe:
    base = RECIPES["phantom"]()
    return replace(
        base,
        data=DataOptions(layout="phantom", classes=base.data.classes, size=(32, 32), channels=3, phantom=(3, 4, 2)),
        student=Student(pretrained="never", method=METHODS["mean_teacher"], schedule=replace(SCHEDULE, steps=1)),
        slim=Slim(prune=prune.PruneOptions(importance="magnitude", **choices), batches=1, schedule=SCHEDULE),
        tolerance=1.0,
        threads=1,
    )


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished student stage."""
    at = workspace.start(recipe(), tmp_path_factory.mktemp("learnt"))
    return training.trained(at, "student", at.recipe.student, at.recipe.student.method)


@pytest.fixture
def begun(tmp_path: Path, learnt: Path):
    """begun(folder, **pruning) -> a run whose student is finished."""

    def begun(name: str = "run", **choices) -> workspace.Run:
        shutil.copytree(learnt, tmp_path / name / "student")
        return workspace.start(recipe(**choices), tmp_path / name)

    return begun


def test_the_plan_lies_beside_the_weights_and_builds_the_network(begun) -> None:
    folder = slimming.slim(begun(share=0.4))
    card = artefact.read_card(folder)
    assert set(card.files) == {"curves.json", "plan.json", "weights.safetensors"}
    plan = prune.read_plan(folder / "plan.json")
    assert plan == prune.Plan.from_dict(card.network["plan"])
    assert card.macs == plan.macs[1] and 1 - plan.macs[1] / plan.macs[0] == pytest.approx(0.4, abs=0.03)
    assert artefact.load_network(folder)(torch.zeros(1, 3, 32, 32)).logits.shape == (1, card.network["classes"], 32, 32)


def test_two_rounds_remove_the_same_share_together_and_no_layer_more_than_allowed(begun) -> None:
    at = begun(share=0.5, rounds=2, max_ratio=0.6)
    folder = slimming.slim(at)
    before, after = artefact.load_network(at.folder("student")), artefact.load_network(folder)
    card = artefact.read_card(folder)
    assert 1 - card.macs / artefact.read_card(at.folder("student")).macs == pytest.approx(0.5, abs=0.04)
    widths = prune.widths_of(before)
    assert all(left >= 0.39 * widths[name] for name, left in prune.widths_of(after).items())
    assert not list(folder.glob("round*"))


def test_an_interrupted_stage_goes_on_with_the_plan_it_had(begun, monkeypatch: pytest.MonkeyPatch) -> None:
    at = begun(share=0.3)
    undisturbed = artefact.read_card(slimming.slim(begun("other", share=0.3))).files
    real = engine.Run.step

    def killed(run, draw):
        if run.index == 2:
            raise KeyboardInterrupt
        return real(run, draw)

    monkeypatch.setattr(engine.Run, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        slimming.slim(at)
    monkeypatch.setattr(engine.Run, "step", real)
    monkeypatch.setattr(prune, "prune", lambda *args, **options: pytest.fail("pruned anew"))
    assert artefact.read_card(slimming.slim(at)).files == undisturbed


def test_the_plan_of_one_run_is_repeated_by_another(begun) -> None:
    first = slimming.slim(begun("first", share=0.4))
    again = slimming.slim(begun("again", share=0.4, plan=str(first / "plan.json")))
    assert artefact.read_card(again).macs == artefact.read_card(first).macs
    sizes = [json.loads((folder / "plan.json").read_text())["sizes"] for folder in (first, again)]
    assert sizes[0] == sizes[1]


def test_without_pruning_the_student_is_fine_tuned_whole(begun) -> None:
    at = begun(share=0.0)
    folder = slimming.slim(at)
    assert artefact.read_card(folder).macs == artefact.read_card(at.folder("student")).macs
    assert not (folder / "plan.json").exists()


def test_a_plan_that_is_not_there_is_named(begun, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pruning plan"):
        slimming.slim(begun(plan=str(tmp_path / "nowhere.json")))


def test_the_parts_of_several_rounds_multiply_to_the_whole() -> None:
    left = 1.0
    for number in (1, 2, 3):
        left *= 1 - slimming.part_of(0.6, number, 3)
    assert left == pytest.approx(0.4)


def test_any_finished_network_can_be_pruned_on_its_own(begun) -> None:
    at = begun()
    network, plan = slimming.prune_teacher(at.folder("student"), prune.PruneOptions(share=0.3), example=at.example)
    assert prune.count(network, at.example)[1] == plan.macs[1] < 0.75 * plan.macs[0]
