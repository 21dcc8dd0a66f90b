"""From the report to training: folders of classes, ignored values and label maps reach `edgemt run auto`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_flags import BRIEF

from edgemt import cli, recipes
from edgemt.data import phantom2d
from edgemt.io.class_regions import in_class
from edgemt.pipeline.overrides import override
from edgemt.pipeline.recipe_checks import check_recipe
from edgemt.recipes import RECIPES

SIDE = 64
NAMES = ("organ", "lesion", "tool")
FEW_STEPS = [
    *BRIEF,
    *("--teacher.network=unet", "--teacher.members=1", "--teacher.flips=1", "--teacher.pretrained=never"),
    *("--teacher.widths=4", "4", "4", "8", "8", "--teacher.schedule.steps=3", "--teacher.schedule.warmup=1"),
    *("--teacher.schedule.labelled=2", "--teacher.schedule.unlabelled=2", "--teacher.schedule.validations=1"),
    *("--student.pretrained=never", "--student.schedule.steps=3", "--student.schedule.warmup=1"),
    *("--student.schedule.labelled=2", "--student.schedule.unlabelled=2", "--student.schedule.validations=1"),
]


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("class_folders")
    for seed in range(6):
        part = root / ("val" if seed > 3 else "train")
        image, bits = phantom2d.frame(seed, size=(SIDE, SIDE), overlapping=True)
        save(part / "images" / f"f{seed}.png", image)
        for k, name in enumerate(NAMES, 1) if seed else ():  # the first is unlabelled
            save(part / "masks" / name / f"f{seed}.png", in_class(bits, k, overlapping=True).astype(np.uint8) * 255)
    return root


@pytest.fixture(scope="module")
def ignored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class indices 0 to 3, and 255 around each object."""
    root = tmp_path_factory.mktemp("ignored")
    for seed in range(6):
        part = root / ("val" if seed > 3 else "train")
        image, mask = phantom2d.frame(seed, size=(SIDE, SIDE))
        save(part / "images" / f"f{seed}.png", image)
        grown = np.max([np.roll(mask, s, a) for s in (-2, -1, 1, 2) for a in (0, 1)], axis=0)
        save(part / "masks" / f"f{seed}.png", np.where((grown > 0) & (mask == 0), 255, mask).astype(np.uint8))
    return root


@pytest.mark.parametrize("kind", ["class_folders", "ignored"])
def test_report_then_run_auto_trains_teacher_and_student(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lightning")
    root: Path = request.getfixturevalue(kind)
    cli.main(["data", str(root), "--out", str(tmp_path / "report")])
    capsys.readouterr()
    cli.main(["distil", "auto", "--data.root", str(root), "--out", str(tmp_path / "run"), *FEW_STEPS])
    printed = capsys.readouterr()
    card = json.loads((tmp_path / "run/student/card.json").read_text())
    record = json.loads((tmp_path / "report/data.json").read_text())
    names = [row["name"] for row in record["classes"]]
    assert list(card["classes"]) == names
    assert bool(card.get("overlapping")) == (kind == "class_folders")
    if kind == "class_folders":
        assert "each class has a folder of masks (lesion, organ, tool)" in printed.err
    else:
        assert (
            "masks hold 255 beside the classes 0 to 3" in printed.err and "255 is ignored" in printed.out + printed.err
        )
    assert set(card["measured"]["weights.safetensors"]["per_class"]) == set(names[1:])
    again = ["train", str(tmp_path / "report/recipe.json"), "--out", str(tmp_path / "again"), *FEW_STEPS]
    cli.main(again)
    teachers = [json.loads((tmp_path / f"{run}/teacher/card.json").read_text()) for run in ("run", "again")]
    assert teachers[0]["measured"] == teachers[1]["measured"]


@pytest.mark.parametrize("kind", ["class_folders", "ignored"])
def test_the_report_and_auto_suggest_one_recipe(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(kind)
    cli.main(["data", str(root), "--out", str(tmp_path)])
    auto = recipes.load("auto", ["--data.root", str(root)])
    assert auto == replace(recipes.load(str(tmp_path / "recipe.json")), name="auto")
    check_recipe(auto)
    assert (auto.data.overlapping, auto.data.ignore) == ((True, None) if kind == "class_folders" else (False, 255))


@pytest.mark.parametrize("base", ["kvasir_cpu", "acdc_cpu", "la_cpu"])
@pytest.mark.parametrize("change", [{"overlapping": True, "classes": ("background", "organ", "tool")}, {"ignore": 255}])
def test_each_base_trains_what_the_report_finds(base: str, change: dict[str, Any]) -> None:
    recipe = RECIPES[base]()
    check_recipe(replace(recipe, data=replace(recipe.data, mask_threshold=None, **change)))


def test_auto_takes_the_classes_of_a_label_map_and_options_of_training(ignored: Path) -> None:
    words = ["--data.label-map", "1=organ", "2=organ", "3=tool", "--data.ignore=255"]
    flags = [
        "--data.root",
        str(ignored),
        *words,
        "--data.class-weights",
        "1",
        "2",
        "3",
        "--teacher.schedule.steps",
        "7",
    ]
    found = override(recipes.load("auto", flags), flags, prog="x")
    assert found.data.classes == ("background", "organ", "tool") and found.data.class_weights == (1.0, 2.0, 3.0)
    assert found.data.ignore == 255 and found.data.label_map == ("1=organ", "2=organ", "3=tool")
    check_recipe(found)


def test_auto_takes_a_label_map_of_overlapping_classes(ignored: Path) -> None:
    flags = ["--data.root", str(ignored), "--data.overlapping", "--data.label-map", "all=1,2,3", "tool=3"]
    flags += ["--data.ignore", "255"]
    found = override(recipes.load("auto", flags), flags, prog="x").data
    assert (found.classes, found.overlapping) == (("background", "all", "tool"), True)


def test_the_command_on_the_page_states_the_options(ignored: Path, tmp_path: Path) -> None:
    flags = ["--data.overlapping", "--data.label-map", "all=1,2,3", "tool=3", "--data.ignore", "255"]
    cli.main(["data", str(ignored), "--out", str(tmp_path), *flags])
    page = (tmp_path / "data.html").read_text()
    command = page.split("<pre>")[1].split("</pre>")[0]
    words = command.split()
    auto = recipes.load("auto", words[3:])
    assert auto == replace(recipes.load(str(tmp_path / "recipe.json")), name="auto")
    assert "--data.overlapping" in words and "ignored and in no share" in page and "a pixel counts in each" in page
