"""The suggested recipe, and that `edgemt run auto` and recipe.json give the same one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgemt import cli, recipes
from edgemt.data import phantom2d, phantom3d
from edgemt.data.cohort import split_dataset
from edgemt.data.options import DataOptions
from edgemt.data_report.inspect_folder import inspect_folder
from edgemt.data_report.suggest import Suggestion
from edgemt.pipeline.overrides import override
from edgemt.pipeline.recipe_checks import check_recipe

nibabel = pytest.importorskip("nibabel")


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("frames")
    for part, seeds in (("train", range(5)), ("val", range(50, 52))):
        for seed in seeds:
            for kind, array in zip(("images", "masks"), phantom2d.frame(seed, size=(96, 64)), strict=True):
                path = root / part / kind / f"c{seed}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    (root / "labelled.txt").write_text("c0\nc1\nc2\n")
    return root


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four volumes of thick slices, as short-axis MRI."""
    root = tmp_path_factory.mktemp("volumes")
    for seed in range(4):
        for kind, array in zip(("images", "labels"), phantom3d.volume(seed, (40, 48, 6)), strict=True):
            (root / kind).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.diag([1.5, 1.5, 8, 1])), root / kind / f"v{seed}.nii.gz")
    (root / "train.txt").write_text("v0\nv1\nv2\n")
    (root / "val.txt").write_text("v3\n")
    (root / "labelled.txt").write_text("v0\n")
    return root


def suggested(root: Path) -> Suggestion:
    return inspect_folder(DataOptions(root=root), given=frozenset(), workers=1).suggestion()


def test_colour_frames_get_the_recipe_of_endoscopy(frames: Path) -> None:
    found = suggested(frames)
    assert (found.base, found.preset, found.per_image, found.supervised) == ("kvasir_cpu", "endoscopy", False, False)
    assert found.data["size"] == [96, 64]
    assert (found.data["channels"], found.data["labelled"], found.data["layout"]) == (3, "labelled.txt", "pairs")
    assert found.data["classes"] == ["background", "class1", "class2", "class3"]
    assert all(found.reasons[name] for name in ("base", "size", "classes", "channels", "preset", "teacher", "student"))


def test_thick_slices_get_the_recipe_of_heart_slices(volumes: Path) -> None:
    found = suggested(volumes)
    assert (found.base, found.preset, found.per_image) == ("acdc_cpu", "mri", True)
    assert (found.data["channels"], found.data["slices"]) == (1, 1)


def test_many_thin_slices_are_read_with_their_neighbours(tmp_path: Path) -> None:
    for seed in range(3):
        for kind, array in zip(("images", "labels"), phantom3d.volume(seed, (32, 32, 34)), strict=True):
            (tmp_path / kind).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / kind / f"v{seed}.nii.gz")
    found = suggested(tmp_path)
    assert (found.base, found.data["slices"], found.data["val"]) == ("la_cpu", 5, "0.2")


def test_hounsfield_units_get_a_window(tmp_path: Path) -> None:
    for seed in range(3):
        image, label = phantom3d.volume(seed, (32, 32, 6))
        for kind, array in (("images", image.astype(np.int16) * 8 - 1024), ("labels", label)):
            (tmp_path / kind).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.diag([1, 1, 5, 1])), tmp_path / kind / f"v{seed}.nii.gz")
    found = suggested(tmp_path)
    assert (found.preset, found.data["depth"], found.data["window"]) == ("ct", "window", [-160.0, 240.0])


def test_small_objects_get_a_larger_frame(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(6):
        mask = np.zeros((400, 400), np.uint8)
        mask[100:200, 100:200] = 1
        mask[21 + i, 30] = mask[301 + i, 77] = 1
        for kind, array in (("images", rng.integers(0, 255, (400, 400)).astype(np.uint8)), ("masks", mask)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / kind / f"f{i}.png")
    found = suggested(tmp_path)
    assert found.data["size"] == [416, 416]
    assert "would vanish at 256 x 256" in found.reasons["size"]


@pytest.mark.parametrize("kind", ["frames", "volumes"])
def test_auto_and_recipe_json_give_one_recipe_that_can_be_run(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(kind)
    cli.main(["data", str(root), "--out", str(tmp_path), "--workers", "1"])
    flags = ["--data.root", str(root), "--teacher.schedule.steps", "7"]
    auto = recipes.load("auto", flags)
    assert auto == replace(recipes.load(str(tmp_path / "recipe.json")), name="auto")
    check_recipe(auto)
    split = split_dataset(auto.data)
    assert split.labelled and split.unlabelled and split.val
    assert override(auto, flags, prog="x").teacher.schedule.steps == 7


def test_recipe_json_draws_the_split_that_was_reported(frames: Path, tmp_path: Path) -> None:
    for seed in ("5", "6"):
        cli.main(["data", str(frames), "--out", str(tmp_path / seed), "--workers", "1", "--data.seed", seed])
    one, other = (recipes.load(str(tmp_path / seed / "recipe.json")).data for seed in ("5", "6"))
    assert (one.seed, other.seed) == (5, 6)


def test_flags_of_the_user_come_before_what_is_suggested(frames: Path) -> None:
    flags = ["--data.root", str(frames), "--data.size", "64", "64", "--data.labelled", "2", "--student.resolution", "1"]
    found = override(recipes.load("auto", flags), flags, prog="x").data
    assert (found.size, found.labelled) == ((64, 64), "2")


def test_without_unlabelled_images_the_teacher_is_supervised(frames: Path) -> None:
    flags = ["--data.root", str(frames), "--data.labelled", "1.0"]
    teacher = recipes.load("auto", flags).teacher
    assert type(teacher.method).__name__ == "Supervised"
    assert teacher.schedule.unlabelled == 0


def test_auto_without_a_folder_is_one_line() -> None:
    with pytest.raises(ValueError, match="auto: needs the folder of the images; give --data.root DIR"):
        recipes.load("auto", [])


def test_another_json_file_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps({"name": "run"}))
    with pytest.raises(ValueError, match="is no recipe.json of edgemt data"):
        recipes.load(str(file))
    file.write_text(json.dumps({"edgemt_suggestion": 1, "base": "kvasir_cpu", "data": {"size": [64, 64]}, "more": 1}))
    with pytest.raises(ValueError, match="is no recipe of edgemt data"):
        recipes.load(str(file))
    file.write_text("{")
    with pytest.raises(ValueError, match="is no readable recipe.json"):
        recipes.load(str(file))
