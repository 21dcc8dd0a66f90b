"""Nothing stale: a changed image, mask or list is found, named, and only what depends on it is done again."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_flags import TINY

from edgemt import cli
from edgemt.artefacts import network_folder, reuse, stage_folder
from edgemt.artefacts.stage_folder import WEIGHTS
from edgemt.data.options import DataOptions
from edgemt.methods import METHODS
from edgemt.model_card import FileMetrics
from edgemt.pipeline import flow, run_context
from edgemt.pipeline import train as training
from edgemt.pipeline.accuracy import dice_drop, dice_text, measured_of
from edgemt.pipeline.training_data import as_read
from edgemt.recipes import Recipe, TeacherOptions
from edgemt.training import engine
from edgemt.training.options import Schedule

SHORT = Schedule(steps=2, labelled=2, unlabelled=2, precision="32-true", validations=1)


def frame(root: Path, part: str, name: str, *, seed: int, masked: bool = True) -> None:
    draws = np.random.default_rng(seed)
    truth = np.zeros((32, 32), np.uint8)
    y, x = draws.integers(2, 18, 2)
    truth[y : y + 10, x : x + 10] = 1
    image = draws.integers(0, 90, (32, 32, 3)) + 120 * truth[..., None]
    for folder in ("images", "masks"):
        (root / part / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.astype(np.uint8)).save(root / part / "images" / f"{name}.png")
    if masked:
        Image.fromarray(truth).save(root / part / "masks" / f"{name}.bmp")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "frames"
    for number in range(3):
        frame(root, "train", f"a{number}", seed=number)
        frame(root, "train", f"u{number}", seed=10 + number, masked=False)
        frame(root, "val", f"v{number}", seed=20 + number)
    return root


def recipe(root: Path, **data: object) -> Recipe:
    options = DataOptions(root=root, size=(32, 32), **data)  # type: ignore[arg-type]
    teacher = TeacherOptions(widths=(4, 4, 8, 8, 8), method=METHODS["mean_teacher"], schedule=SHORT)
    return Recipe(data=options, teacher=teacher, threads=1)


def train(root: Path, out: Path, **data: object) -> Path:
    return flow.run(recipe(root, **data), out, until="teacher")


def roll_in_place(path: Path) -> None:
    """The same file with another content: size, mtime and inode stay."""
    before = path.stat()
    pixels = np.roll(np.asarray(Image.open(path)), 7, axis=1)
    copy = path.with_suffix(".copy.bmp")
    Image.fromarray(pixels).save(copy)
    with path.open("r+b") as file:
        file.write(copy.read_bytes())
    copy.unlink()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (before.st_size, before.st_mtime_ns, before.st_ino) == (after.st_size, after.st_mtime_ns, after.st_ino)


def test_training_files_are_followed_by_content(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    made = [stage_folder.read_card(train(root, out)).files[WEIGHTS]]
    train(root, out)
    assert "teacher: stands" in capsys.readouterr().err
    roll_in_place(root / "train" / "masks" / "a1.bmp")
    made.append(stage_folder.read_card(train(root, out)).files[WEIGHTS])
    lines = capsys.readouterr().err
    assert "labelled masks changed (1 of 3 files: train/masks/a1.bmp): teacher is made again" in lines
    frame(root, "train", "u2", seed=99, masked=False)
    made.append(stage_folder.read_card(train(root, out)).files[WEIGHTS])
    lines = capsys.readouterr().err
    assert "unlabelled images changed (1 of 3 files: train/images/u2.png): teacher is made again" in lines
    assert "becomes teacher.previous-2" in lines
    assert len(set(made)) == 3


def test_a_changed_validation_list_is_measured_again_and_nothing_is_trained(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    first = stage_folder.read_card(train(root, out))
    monkeypatch.setattr(engine, "train", None)  # a call would fail
    roll_in_place(root / "val" / "masks" / "v1.bmp")
    second = stage_folder.read_card(train(root, out))
    lines = capsys.readouterr().err
    assert "validation masks changed (1 of 3 files: val/masks/v1.bmp): teacher is measured again" in lines
    frame(root, "val", "v9", seed=5)
    third = stage_folder.read_card(train(root, out))
    assert "validation list changed (1 added: val/images/v9.png): teacher is measured again" in capsys.readouterr().err
    (root / "some.txt").write_text("v0\nv9\n")
    fourth = stage_folder.read_card(train(root, out, val="some.txt"))
    assert "(2 removed: val/images/v1.png, val/images/v2.png)" in capsys.readouterr().err
    cards = (first, second, third, fourth)
    assert [len(card.measured[WEIGHTS].cases) for card in cards] == [3, 3, 4, 2]
    assert len({card.measured[WEIGHTS].list_key for card in cards}) == 4
    assert len({card.files[WEIGHTS] for card in cards}) == 1
    assert fourth.data["val"] == "some.txt"
    assert stage_folder.stands(out / "teacher", key=first.recipe_hash)  # its files have the hashes of the card
    train(root, out, val="some.txt")
    assert "again" not in capsys.readouterr().err
    fresh = run_context.open_run(recipe(root, val="some.txt"), tmp_path / "other")
    assert fresh.slices.measured(network_folder.load_network(out / "teacher")).dice == fourth.measured[WEIGHTS].dice


def test_the_folder_of_the_data_may_move(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(root, tmp_path / "run")
    capsys.readouterr()
    train(root.rename(tmp_path / "moved"), tmp_path / "run", patient_pattern="(.*)", labelled="3")
    assert capsys.readouterr().err.startswith("teacher: stands")


def test_no_drop_is_computed_between_two_lists(tmp_path: Path) -> None:
    folder = tmp_path / "student"
    folder.mkdir()
    card = stage_folder.ModelCard(measured={WEIGHTS: FileMetrics(dice=0.9, list_key="one")})
    (folder / "card.json").write_text(card.to_json())
    assert measured_of(folder, measured_on="one").dice == 0.9
    with pytest.raises(ValueError, match="student: was measured on another validation list"):
        measured_of(folder, measured_on="two")


@pytest.mark.parametrize("begun", [False, True])
def test_a_validation_list_without_foreground_is_refused_before_training(
    begun: bool, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if begun:
        train(root, tmp_path / "run")
    for path in (root / "val" / "masks").iterdir():
        Image.fromarray(np.zeros((32, 32), np.uint8)).save(path)
    monkeypatch.setattr(engine, "train", None)
    with pytest.raises(ValueError, match=r"data\.val: none of the 3 masks .*'background'.* put images with foreground"):
        train(root, tmp_path / "run")
    assert (tmp_path / "run" / "teacher" / WEIGHTS).exists() == begun


def test_a_dice_that_was_not_measured_is_printed_as_such() -> None:
    assert dice_text(FileMetrics()) == "Dice not measured"
    assert dice_drop(0.5, FileMetrics()) is None and dice_drop(None, FileMetrics(dice=0.5)) is None


def test_the_input_normalisation_of_the_student_is_in_the_key_of_the_teacher(root: Path, tmp_path: Path) -> None:
    """It is that of the student's encoder where the recipe wants it, and the teacher sees the same input."""
    keys = []
    for pretrained in ("if-available", "never"):
        of = recipe(root)
        of = replace(of, student=replace(of.student, pretrained=pretrained))
        context = run_context.open_run(of, tmp_path)
        given = {"parents": {}, "all_labels": False}
        keys.append(stage_folder.key_of(training.inputs_of(context, of.teacher, of.teacher.method, **given)))
    assert keys[0] != keys[1]


def test_fields_that_only_choose_files_are_in_no_key() -> None:
    options = DataOptions(root=Path("a"), val="b", labelled="3")
    assert as_read(options) == as_read(replace(options, root=Path("c"), val="d", labelled="0.5"))
    assert as_read(options) != as_read(replace(options, mask_threshold=128))


def test_every_stage_of_a_run_is_measured_on_the_changed_list(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    before = {stage: stage_folder.read_card(copy / stage) for stage in ("teacher", "student", "slim")}
    cli.main(["prune", "phantom", "--out", str(copy), *TINY, "--data.phantom", "6", "12", "5"])
    lines = capsys.readouterr().err
    assert "validation list changed (1 added: phantom:4): teacher, student, slim are measured again" in lines
    after = {stage: stage_folder.read_card(copy / stage) for stage in before}
    for stage, card in after.items():
        assert card.files[WEIGHTS] == before[stage].files[WEIGHTS]
        assert len(card.measured[WEIGHTS].cases) == 5
    dice = {stage: card.measured[WEIGHTS].dice for stage, card in after.items()}
    assert after["slim"].measured[WEIGHTS].drop == pytest.approx(dice["student"] - dice["slim"])
    assert len({card.measured[WEIGHTS].list_key for card in after.values()}) == 1


def test_the_gate_judges_again_and_leaves_the_card_when_it_refuses(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgemt.pipeline import prune

    copy = shutil.copytree(tiny_run, tmp_path / "run")
    before = (copy / "slim" / "card.json").read_bytes()
    monkeypatch.setattr(
        prune, "gate", lambda *given, **options: (_ for _ in ()).throw(ValueError("the pruned student"))
    )
    with pytest.raises(SystemExit):
        cli.main(["prune", "phantom", "--out", str(copy), *TINY, "--data.phantom", "6", "12", "2"])
    assert "the pruned student" in capsys.readouterr().err
    assert (copy / "slim" / "card.json").read_bytes() == before


@pytest.mark.slow
def test_a_ship_is_judged_and_made_on_the_changed_list(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    cli.main(["export", "phantom", "--out", str(copy), *TINY, "--data.phantom", "6", "12", "5"])
    lines = capsys.readouterr().err
    assert "teacher, student, slim, int8, ship are measured again" in lines
    assert "int8: measured again" in lines and "becomes ship.previous-1" in lines
    int8, ship, slim = (stage_folder.read_card(copy / stage) for stage in ("int8", "ship", "slim"))
    lists = {found.list_key for card in (int8, ship, slim) for found in card.measured.values()}
    assert len(lists) == 1
    assert {n: h for n, h in int8.files.items() if n.endswith(".onnx")} == {
        n: h for n, h in stage_folder.read_card(tiny_run / "int8").files.items() if n.endswith(".onnx")
    }
    for found in int8.measured.values():
        assert found.drop == pytest.approx(slim.measured[WEIGHTS].dice - found.dice)
    assert reuse.recorded(copy / "ship") is not None and reuse.INPUTS not in ship.files
