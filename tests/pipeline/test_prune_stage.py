"""The slim stage prunes, fine-tunes, writes its plan, steps back where the gate refuses, resumes where it was cut."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deploy.pruning import prune
from deploy.quantization.accuracy_gate import GateError
from edgemt.artefacts import network_folder, stage_folder
from edgemt.data.options import DataOptions
from edgemt.methods import METHODS
from edgemt.pipeline import fallback, prune_attempt, run_context, slice_data, train
from edgemt.pipeline import prune as slimming
from edgemt.recipes import RECIPES, PruneStage, Recipe, StudentOptions
from edgemt.training import engine
from edgemt.training.options import Schedule

SCHEDULE = Schedule(steps=4, labelled=2, unlabelled=2, precision="32-true", validations=0, checkpoint_every=1)


def recipe(**choices) -> Recipe:
    base = RECIPES["phantom"]()
    return replace(
        base,
        data=DataOptions(layout="phantom", classes=base.data.classes, size=(32, 32), channels=3, phantom=(3, 4, 2)),
        student=StudentOptions(
            network="test_efficientnet",
            pretrained="never",
            method=METHODS["mean_teacher"],
            schedule=replace(SCHEDULE, steps=1),
        ),
        slim=PruneStage(prune=prune.PruneOptions(importance="magnitude", **choices), batches=1, schedule=SCHEDULE),
        tolerance=1.0,
        threads=1,
    )


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished student stage."""
    context = run_context.open_run(recipe(), tmp_path_factory.mktemp("learnt"))
    return train.train_stage(context, "student", context.recipe.student, context.recipe.student.method)


@pytest.fixture
def begun(tmp_path: Path, learnt: Path):
    """begun(folder, **pruning) -> a run whose student is finished."""

    def begun(name: str = "run", **choices) -> run_context.RunContext:
        shutil.copytree(learnt, tmp_path / name / "student")
        return run_context.open_run(recipe(**choices), tmp_path / name)

    return begun


def test_the_plan_lies_beside_the_weights_and_builds_the_network(begun) -> None:
    folder = slimming.slim(begun(share=0.4))
    card = stage_folder.read_card(folder)
    assert set(card.files) == {"curves.json", "plan.json", "weights.safetensors"}
    plan = prune.read_plan(folder / "plan.json")
    assert plan == prune.Plan.from_dict(card.network["plan"])
    assert card.macs == plan.macs[1] and 1 - plan.macs[1] / plan.macs[0] == pytest.approx(0.4, abs=0.03)
    assert network_folder.load_network(folder)(torch.zeros(1, 3, 32, 32)).logits.shape == (
        1,
        card.network["classes"],
        32,
        32,
    )


def test_two_rounds_remove_the_same_share_together_and_no_layer_more_than_allowed(begun) -> None:
    context = begun(share=0.5, rounds=2, max_ratio=0.6)
    folder = slimming.slim(context)
    before, after = network_folder.load_network(context.folder("student")), network_folder.load_network(folder)
    card = stage_folder.read_card(folder)
    assert 1 - card.macs / stage_folder.read_card(context.folder("student")).macs == pytest.approx(0.5, abs=0.04)
    widths = prune.widths_of(before)
    assert all(left >= 0.39 * widths[name] for name, left in prune.widths_of(after).items())
    assert not list(folder.glob("round*"))


def test_an_interrupted_stage_goes_on_with_the_plan_it_had(begun, monkeypatch: pytest.MonkeyPatch) -> None:
    context = begun(share=0.3)
    undisturbed = stage_folder.read_card(slimming.slim(begun("other", share=0.3))).files
    real = engine.Trainer.step

    def killed(run, draw):
        if run.index == 2:
            raise KeyboardInterrupt
        return real(run, draw)

    monkeypatch.setattr(engine.Trainer, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        slimming.slim(context)
    monkeypatch.setattr(engine.Trainer, "step", real)
    monkeypatch.setattr(prune, "prune", lambda *args, **options: pytest.fail("pruned anew"))
    assert stage_folder.read_card(slimming.slim(context)).files == undisturbed


def test_the_plan_of_one_run_is_repeated_by_another(begun) -> None:
    first = slimming.slim(begun("first", share=0.4))
    again = slimming.slim(begun("again", share=0.4, plan=str(first / "plan.json")))
    assert stage_folder.read_card(again).macs == stage_folder.read_card(first).macs
    sizes = [json.loads((folder / "plan.json").read_text())["sizes"] for folder in (first, again)]
    assert sizes[0] == sizes[1]


def test_without_pruning_the_student_is_fine_tuned_whole(begun) -> None:
    context = begun(share=0.0)
    folder = slimming.slim(context)
    assert stage_folder.read_card(folder).macs == stage_folder.read_card(context.folder("student")).macs
    assert not (folder / "plan.json").exists()


def test_a_plan_that_is_not_there_is_named(begun, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pruning plan"):
        slimming.slim(begun(plan=str(tmp_path / "nowhere.json")))


def test_the_parts_of_several_rounds_multiply_to_the_whole() -> None:
    left = 1.0
    for number in (1, 2, 3):
        left *= 1 - prune_attempt.part_of(0.6, number, 3)
    assert left == pytest.approx(0.4)


@pytest.fixture
def judged(begun, monkeypatch: pytest.MonkeyPatch):
    """judged(*dice, **choices) -> a run whose student has Dice 0.9, and whose attempts have `dice` in turn."""
    real = slice_data.evaluation_record

    def judged(*dice: float, name: str = "run", student: float | None = 0.9, **choices) -> run_context.RunContext:
        context = begun(name, share=0.4)
        card = json.loads((context.folder("student") / "card.json").read_text())
        card["measured"][stage_folder.WEIGHTS]["dice"] = student
        (context.folder("student") / "card.json").write_text(json.dumps(card))
        turns = iter(dice)
        monkeypatch.setattr(slice_data, "evaluation_record", lambda *given: replace(real(*given), dice=next(turns)))
        return replace(context, recipe=replace(context.recipe, tolerance=0.02, **choices))

    return judged


def test_a_network_that_is_refused_is_fine_tuned_further_first(judged, capsys: pytest.CaptureFixture[str]) -> None:
    context = judged(0.5, 0.89)
    card = stage_folder.read_card(slimming.slim(context))
    first, longer = (context.folder(prune_attempt.TRIES) / name for name in ("share0.4", "share0.4-longer"))
    assert card.files == stage_folder.read_card(longer).files
    assert card.files["plan.json"] == stage_folder.read_card(first).files["plan.json"]
    assert card.files[stage_folder.WEIGHTS] != stage_folder.read_card(first).files[stage_folder.WEIGHTS]
    assert [(step["steps"], bool(step["refused"])) for step in card.measured[stage_folder.WEIGHTS].attempts] == [
        (4, True),
        (2, False),
    ]
    assert card.given_up == ()
    told = capsys.readouterr().err
    assert told.index("at most 6 steps more") < told.index("refused, the pruned student: Dice 0.5000")


def test_then_a_milder_share_is_pruned_and_the_card_records_what_was_given_up(judged) -> None:
    context = judged(0.5, 0.6, 0.89)
    card = stage_folder.read_card(slimming.slim(context))
    whole, full = (
        stage_folder.read_card(context.out / stage).macs for stage in ("student", f"{prune_attempt.TRIES}/share0.4")
    )
    assert full < card.macs < whole
    (record,) = card.given_up
    assert (record["wanted"], record["shipped"]) == ("pruning by 0.4 of the macs", "pruning by 0.2 of the macs")
    assert [step["dice"] for step in record["tried"]] == [0.5, 0.6, 0.89]
    line = fallback.describe_fallback(record)
    assert "\n" not in line
    for part in ("0.5000 is 0.4000 below its parent's 0.9000", "tolerance is 0.02", "more steps: Dice 0.6000", "share"):
        assert part in line


def test_at_last_the_student_ships_unpruned_with_its_own_weights(judged) -> None:
    context = judged(0.5, 0.6, 0.7)
    folder = slimming.slim(context)
    card, student = stage_folder.read_card(folder), stage_folder.read_card(context.folder("student"))
    assert card.files[stage_folder.WEIGHTS] == student.files[stage_folder.WEIGHTS] and set(card.files) == {
        "curves.json",
        stage_folder.WEIGHTS,
    }
    assert card.network["plan"] is None and card.macs == student.macs and card.params == student.params
    assert card.measured[stage_folder.WEIGHTS].dice == 0.9 and card.measured[stage_folder.WEIGHTS].drop == 0
    assert card.given_up[0]["shipped"] == fallback.UNPRUNED
    assert network_folder.load_network(folder)(torch.zeros(1, 3, 32, 32)).logits.shape[2:] == (32, 32)


def on_another_list(context: run_context.RunContext) -> run_context.RunContext:
    """The same run with one more validation image; its student has the Dice 0.9 on that list too."""
    data = replace(context.recipe.data, phantom=(*context.recipe.data.phantom[:2], context.recipe.data.phantom[2] + 1))
    context = replace(context, recipe=replace(context.recipe, data=data))
    card = json.loads((context.folder("student") / "card.json").read_text())
    card["measured"][stage_folder.WEIGHTS]["list"] = context.slices.list_key
    (context.folder("student") / "card.json").write_text(json.dumps(card))
    return context


def test_an_attempt_that_only_another_validation_list_refused_is_taken_up_without_training(
    judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = judged(0.5, 0.6, 0.7, 0.89)
    assert stage_folder.read_card(slimming.slim(context)).network["plan"] is None
    monkeypatch.setattr(engine, "train", None)  # a call would fail
    card = stage_folder.read_card(slimming.slim(on_another_list(context)))
    assert card.files == stage_folder.read_card(context.folder(prune_attempt.TRIES) / "share0.4").files
    assert not card.given_up and [step["dice"] for step in card.measured[stage_folder.WEIGHTS].attempts] == [0.89]


def test_the_attempt_that_stands_has_the_figure_of_the_changed_list(judged, monkeypatch: pytest.MonkeyPatch) -> None:
    context = judged(0.89, 0.885)
    slimming.slim(context)
    monkeypatch.setattr(engine, "train", None)
    measured = stage_folder.read_card(slimming.slim(on_another_list(context))).measured[stage_folder.WEIGHTS]
    assert measured.dice == measured.attempts[0]["dice"] == 0.885
    assert measured.drop == pytest.approx(0.015)


def test_strict_refuses_at_once_and_without_it_no_attempt_is_made_twice(
    judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = judged(0.5, 0.6, 0.7, strict=True)
    with pytest.raises(GateError, match=r"Dice 0.5000 is 0.4000 below.*slim.prune.share"):
        slimming.slim(context)
    assert not context.folder("slim").exists()
    real, trained = engine.train, []
    monkeypatch.setattr(engine, "train", lambda *a, **given: trained.append(given["folder"].name) or real(*a, **given))
    lenient = replace(context, recipe=replace(context.recipe, strict=False))
    assert stage_folder.read_card(slimming.slim(lenient)).given_up
    assert trained == ["share0.4-longer.partial", "share0.2.partial"]
    trained.clear()
    with pytest.raises(GateError):
        slimming.slim(context)
    wider = replace(context, recipe=replace(context.recipe, tolerance=0.5, strict=False))
    card = stage_folder.read_card(slimming.slim(wider))
    assert not trained and not card.given_up and card.network["plan"]


def test_every_attempt_that_is_cut_resumes_to_the_same_bits(judged, monkeypatch: pytest.MonkeyPatch) -> None:
    def hashes(context: run_context.RunContext) -> dict[str, dict[str, str]]:
        return {
            path.name: stage_folder.read_card(path).files
            for path in sorted(context.folder(prune_attempt.TRIES).iterdir())
        }

    whole = judged(*[0.5] * 3, name="whole")
    slimming.slim(whole)
    context, real, steps = judged(*[0.5] * 3, name="cut"), engine.Trainer.step, []

    def killed(run, draw):
        steps.append(run.index)
        if len(steps) in (3, 7, 11):  # in the first attempt, then in the second, then in the third
            raise KeyboardInterrupt
        return real(run, draw)

    monkeypatch.setattr(engine.Trainer, "step", killed)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            slimming.slim(context)
        assert not context.folder("slim").exists()
    slimming.slim(context)
    assert steps == [0, 1, 2, 2, 3, 0, 1, 1, 0, 1, 2, 2, 3]
    assert hashes(context) == hashes(whole) and len(hashes(context)) == 3


def test_a_student_that_was_not_measured_is_refused_whatever_is_allowed(judged) -> None:
    context = judged(0.5, 0.5, 0.5, student=None)
    with pytest.raises(GateError, match="not measured"):
        slimming.slim(context)
    assert not context.folder("slim").exists()


@pytest.mark.parametrize("wrong", [{"extra": -0.5}, {"milder": (1.5,)}])
def test_a_fallback_that_makes_no_sense_is_named(wrong: dict) -> None:
    with pytest.raises(ValueError, match=rf"slim\.{next(iter(wrong))}"):
        PruneStage(**wrong)
