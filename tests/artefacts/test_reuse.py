"""What does not fit a command any more is named field by field, and stays; the command that made it finds it again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tiny_flags import TINY
from torch import nn

from edgemt import cli
from edgemt.artefacts import network_folder, reuse, stage_folder
from edgemt.contract import ADDED_LATER
from edgemt.io.atomic import previous_folders
from edgemt.methods import METHODS
from edgemt.model_card import FileMetrics, ModelCard
from edgemt.recipes import StudentOptions
from edgemt.training import checkpoint, engine
from edgemt.training.options import Schedule

WEIGHTS = stage_folder.WEIGHTS


def inputs(steps: int = 600, **changes: Any) -> dict[str, Any]:
    student = StudentOptions(schedule=Schedule(steps=steps))
    return {"format": 2, "student": student, "parents": {"teacher": "a" * 64}, **changes}


def finished(folder: Path, given: dict[str, Any], *, lines: list[str], overwrite: bool = False) -> bool:
    """Go through a stage as the flow does; whether it stood."""
    if reuse.fits(folder, inputs=given, say=lines.append, overwrite=overwrite):
        return True
    with stage_folder.staged(folder, overwrite=overwrite) as working:
        network = nn.Linear(1, 1)
        nn.init.constant_(network.weight, given["student"].schedule.steps)
        network_folder.save_network(
            working, network, ModelCard(recipe_hash=stage_folder.key_of(given), measured={WEIGHTS: FileMetrics()})
        )
    return False


def interrupted(folder: Path, given: dict[str, Any], *, step: int, lines: list[str], overwrite: bool = False) -> int:
    """Begin a stage and end at `step`; the step that it was taken up at."""
    assert not reuse.fits(folder, inputs=given, say=lines.append, overwrite=overwrite)
    with pytest.raises(KeyboardInterrupt), stage_folder.staged(folder, overwrite=overwrite) as working:
        file, key = working / checkpoint.CHECKPOINT, stage_folder.key_of(given)
        known = checkpoint.read_state(file) if file.exists() else {}
        begun = int(known["index"]) if known.get("key") == key else 0
        checkpoint.save(file, players={"student": nn.Linear(1, 1)}, optimisers={}, state={"key": key, "index": step})
        raise KeyboardInterrupt
    return begun


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_finished_stage_of_other_inputs_stays_and_the_field_is_named(tmp_path: Path) -> None:
    lines: list[str] = []
    folder = tmp_path / "student"
    assert not finished(folder, inputs(600), lines=lines) and not lines
    assert finished(folder, inputs(600), lines=lines) and not lines
    assert not finished(folder, inputs(800), lines=lines)
    assert lines == [
        "student: student.schedule.steps 600 -> 800: made again; the finished stage becomes student.previous-1"
    ]
    assert not finished(folder, inputs(900), lines=lines)
    assert names(tmp_path) == ["student", "student.previous-1", "student.previous-2"]
    assert reuse.recorded(tmp_path / "student.previous-1")["student"]["schedule"]["steps"] == 600  # type: ignore[index]


def test_a_member_is_named_with_its_folder_and_hashes_are_not_printed(tmp_path: Path) -> None:
    lines: list[str] = []
    member, teacher = tmp_path / "members" / "1", tmp_path / "teacher"
    member.parent.mkdir()
    for steps, made_of in ((600, "a" * 64), (800, "b" * 64)):
        finished(member, inputs(steps), lines=lines)
        finished(teacher, inputs(members=[made_of, "c" * 64]), lines=lines)
    assert lines == [
        "members/1: student.schedule.steps 600 -> 800: made again; the finished stage becomes 1.previous-1",
        "teacher: members changed: made again; the finished stage becomes teacher.previous-1",
    ]
    assert interrupted(member, inputs(900), step=3, lines=lines) == 0
    assert interrupted(member, inputs(950), step=0, lines=lines) == 0
    assert lines[-1].startswith("members/1: student.schedule.steps 900 -> 950: the checkpoint of step 3")


def test_the_command_that_made_an_earlier_stage_takes_it_up_again(tmp_path: Path) -> None:
    lines: list[str] = []
    folder = tmp_path / "student"
    for steps in (600, 800):
        finished(folder, inputs(steps), lines=lines)
    assert finished(folder, inputs(600), lines=lines)
    assert "student.previous-1 was made from these inputs and is taken up again" in lines[-1]
    assert float(checkpoint.load_weights(folder / WEIGHTS, nn.Linear(1, 1)).weight.detach()) == 600
    assert finished(folder, inputs(800), lines=lines)
    assert len(names(tmp_path)) == 2


def test_overwrite_replaces(tmp_path: Path) -> None:
    lines: list[str] = []
    folder = tmp_path / "student"
    finished(folder, inputs(600), lines=lines)
    assert not finished(folder, inputs(800), lines=lines, overwrite=True)
    assert lines[-1].endswith("made again; the finished stage is replaced")
    assert names(tmp_path) == ["student"]
    interrupted(folder, inputs(900), step=5, lines=lines)
    interrupted(folder, inputs(950), step=1, lines=lines, overwrite=True)
    assert "the checkpoint of step 5 does not fit and is replaced" in lines[-1]
    assert names(tmp_path) == ["student", "student.partial"]


def test_a_checkpoint_of_other_inputs_stays_and_found_again(tmp_path: Path) -> None:
    lines: list[str] = []
    folder = tmp_path / "teacher"
    assert interrupted(folder, inputs(600), step=520, lines=lines) == 0
    assert interrupted(folder, inputs(600), step=540, lines=lines) == 520
    assert interrupted(folder, inputs(800), step=3, lines=lines) == 0
    assert lines == [
        "teacher: student.schedule.steps 600 -> 800: the checkpoint of step 540 does not fit and moves to "
        "teacher.partial.previous-1"
    ]
    assert interrupted(folder, inputs(600), step=560, lines=lines) == 540
    assert "the checkpoint of step 540 in teacher.partial.previous-1 fits and is taken up again" in lines[-1]
    assert [path.name for path in previous_folders(tmp_path / "teacher.partial")] == ["teacher.partial.previous-2"]


def test_a_stage_of_an_earlier_version_gets_a_general_line(tmp_path: Path) -> None:
    lines: list[str] = []
    folder = tmp_path / "student"
    finished(folder, inputs(600), lines=lines)
    (folder / reuse.INPUTS).unlink()
    finished(folder, inputs(800), lines=lines)
    assert "which an earlier version did not record: made again" in lines[0]
    assert (tmp_path / "student.previous-1" / WEIGHTS).exists()


def test_a_checkpoint_of_an_earlier_version_is_known_by_its_own_key(tmp_path: Path) -> None:
    lines: list[str] = []
    folder = tmp_path / "student"
    interrupted(folder, inputs(600), step=9, lines=lines)
    (tmp_path / "student.partial" / reuse.INPUTS).unlink()
    assert interrupted(folder, inputs(600), step=12, lines=lines) == 9 and not lines
    (tmp_path / "student.partial" / reuse.INPUTS).unlink()
    assert interrupted(folder, inputs(800), step=1, lines=lines) == 0
    assert "checkpoint of step 12 does not fit and moves to" in lines[0]


def test_changes_name_each_field_once() -> None:
    method = METHODS["mean_teacher"]
    old = inputs(teacher={"method": method, "widths": (4, 8)}, seed=0, extra=None)
    new = inputs(teacher={"method": METHODS["cps"], "widths": ()}, seed=1, parents={"teacher": "b" * 64})
    lines = reuse.changed(old, new)
    assert f"teacher.method {type(method).__name__} -> {type(METHODS['cps']).__name__}" in lines
    assert {"teacher.widths 4 8 -> (empty)", "seed 0 -> 1", "parents.teacher changed"} <= set(lines)
    assert len(lines) == 4  # the fields of a method of another kind are not compared
    assert reuse.changed(old, json.loads(json.dumps(stage_folder.plain(old)))) == []


def test_a_field_that_was_added_later_changes_a_key_only_where_it_is_set() -> None:
    @dataclass(frozen=True)
    class Options:
        steps: int = 600
        views: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)
        sizes: list[int] = field(default_factory=list, metadata=ADDED_LATER)

    before = {"options": {"is": "Options", "steps": 600}}
    assert stage_folder.key_of(before) == stage_folder.key_of({"options": Options()})
    assert stage_folder.key_of(before) != stage_folder.key_of({"options": Options(sizes=[1])})
    assert reuse.changed(before, {"options": Options(views=("a", "b"))}) == ["options.views (none) -> a b"]


def test_data_lists_are_explained(tmp_path: Path) -> None:
    old, new = inputs(**{"training data": "a" * 64}), inputs(**{"training data": "b" * 64})
    assert reuse.changed(old, new, explain=lambda one, other: f"{one[0]} to {other[0]}") == ["a to b"]
    assert reuse.changed(old, new, explain=lambda one, other: "") == ["training data changed"]


def test_a_checkpoint_stays_until_the_stage_has_its_name(tmp_path: Path) -> None:
    """Cut between the card and the rename: nothing has to be trained again."""
    folder, given = tmp_path / "student", inputs(600)
    interrupted(folder, given, step=600, lines=[])
    with pytest.raises(KeyboardInterrupt), stage_folder.staged(folder) as working:
        network_folder.save_network(working, nn.Linear(1, 1), ModelCard(recipe_hash="k"))
        assert not (working / checkpoint.CHECKPOINT).exists()
        raise KeyboardInterrupt
    assert interrupted(folder, given, step=600, lines=[]) == 600
    assert not (tmp_path / "student.partial" / "card.json").exists()
    finished(folder, given, lines=[])
    assert not list(folder.rglob("*checkpoint*"))
    assert set(stage_folder.read_card(folder).files) == {WEIGHTS}


def test_what_is_renamed_was_flushed_to_the_disk_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    flushed: set[tuple[int, int]] = set()
    real = os.fsync

    def fsync(handle: int) -> None:
        found = os.fstat(handle)
        flushed.add((found.st_dev, found.st_ino))
        real(handle)

    def unflushed(folder: Path) -> list[str]:
        found = [(path, path.stat()) for path in (folder, *folder.rglob("*"))]
        return [path.name for path, s in found if (s.st_dev, s.st_ino) not in flushed]

    with stage_folder.staged(tmp_path / "ship") as working:
        (working / "openvino").mkdir()
        (working / "openvino" / "model.bin").write_bytes(b"weights")
        (working / "model.onnx").write_bytes(b"graph")
        monkeypatch.setattr(os, "fsync", fsync)
    assert unflushed(tmp_path / "ship") == []
    parent = tmp_path.stat()
    assert (parent.st_dev, parent.st_ino) in flushed


def test_another_flag_does_not_lose_the_interrupted_training_which_then_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, calls = engine.Trainer.step, iter(range(10))

    def cut(self: engine.Trainer, draw: engine.DrawBatch) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return real(self, draw)

    few = [
        *TINY,
        "--data.phantom",
        "4",
        "4",
        "2",
        "--teacher.schedule.validations",
        "0",
        "--teacher.schedule.precision",
        "32-true",
    ]
    whole = ["train", "phantom", *few, "--out", str(tmp_path / "whole")]
    run = ["train", "phantom", *few, "--out", str(tmp_path / "run")]
    cli.main(whole)
    monkeypatch.setattr(engine.Trainer, "step", cut)
    with pytest.raises(SystemExit):
        cli.main(run)
    monkeypatch.setattr(engine.Trainer, "step", real)
    capsys.readouterr()
    cli.main([*run, "--teacher.schedule.learning-rate", "0.0071"])
    assert "teacher.schedule.learning_rate" in capsys.readouterr().err
    assert names(tmp_path / "run") == [
        ".lists", "log", "recipe.json", "teacher", "teacher.partial.previous-1",
    ]  # fmt: skip
    cli.main(run)
    assert "resumed at step 8 of 12" in capsys.readouterr().err
    files = [stage_folder.read_card(tmp_path / name / "teacher").files for name in ("whole", "run")]
    assert files[0][WEIGHTS] == files[1][WEIGHTS]
    assert (tmp_path / "run" / "teacher.previous-1" / WEIGHTS).exists()
