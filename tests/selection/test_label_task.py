"""A task of a label tool: chosen images, masks drawn by a model, and the same masks when they are imported."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from edgemt import cli
from edgemt.convert.contract import ImportOptions, Shapes
from edgemt.convert.importing import import_source
from edgemt.data_report import against
from edgemt.data_report import encoder_features as features_file
from edgemt.data_report.against import Teacher
from edgemt.data_report.listing import Item
from edgemt.io.bit_depth import decide
from edgemt.model_card import ModelCard
from edgemt.selection.label_task import TaskFormat, write_task
from edgemt.selection.select import Selection

CLASSES = ("background", "polyp", "snare")


def picture(seed: int) -> np.ndarray:
    """Areas of red and of green on grey, 30 x 41."""
    rough = np.random.default_rng(seed).integers(0, 3, (6, 7))
    areas = np.kron(rough, np.ones((5, 6), int))[:30, :41]
    return np.array(((90, 90, 90), (250, 10, 10), (10, 250, 10)), np.uint8)[areas]


def by_colour(frames: np.ndarray) -> tuple[np.ndarray, None]:
    """Red is class 1, green is class 2."""
    red, green = frames[..., 0] > 200, frames[..., 1] > 200
    return (red + 2 * green).astype(np.uint8), None


TEACHER = Teacher(ModelCard(classes=CLASSES, size=(30, 41), channels=3), by_colour, "tiny")


@pytest.fixture
def found(tmp_path: Path) -> Selection:
    """Two PNG and a TIFF, which no browser shows."""
    items = []
    for seed, suffix in enumerate((".png", ".tif", ".png")):
        path = tmp_path / "frames" / f"frame_{seed}{suffix}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture(seed)).save(path)
        items.append(Item(path.stem, path.stem, str(path), None, "unlabelled"))
    return Selection(tuple(items), (), 3, "typical", decide("auto", None, []))


def masks_of(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.asarray(Image.open(path)) for path in (folder / "masks").glob("*.png")}


@pytest.mark.parametrize("shapes", ["auto", "polygon"])
def test_cvat_task_comes_back_with_the_same_masks(found: Selection, tmp_path: Path, shapes: Shapes) -> None:
    path = write_task(found, tmp_path / "out", format="cvat", classes=(), teacher=TEACHER, shapes=shapes)
    assert path == tmp_path / "out" / "cvat" / "annotations.xml"
    manifest = import_source(path, tmp_path / "again", options=ImportOptions(images=path.parent / "images"))
    assert manifest["classes"] == list(CLASSES)
    masks = masks_of(tmp_path / "again")
    assert all((masks[f"frame_{seed}"] == by_colour(picture(seed)[None])[0][0]).all() for seed in range(3))
    root = ElementTree.parse(path).getroot()
    assert {shape.get("source") for shape in (*root.iter("mask"), *root.iter("polygon"))} == {"auto"}
    assert [label["name"] for label in json.loads((path.parent / "labels.json").read_text())] == ["polyp", "snare"]


@pytest.mark.parametrize("shapes", ["auto", "polygon"])
def test_label_studio_task_has_predictions_that_count_once_submitted(
    found: Selection, tmp_path: Path, shapes: Shapes
) -> None:
    path = write_task(found, tmp_path / "out", format="label-studio", classes=(), teacher=TEACHER, shapes=shapes)
    tasks = json.loads(path.read_text())
    assert all("annotations" not in task and task["predictions"][0]["model_version"] == "tiny" for task in tasks)
    config = ElementTree.parse(path.parent / "labelling_config.xml").getroot()
    tag = "PolygonLabels" if shapes == "polygon" else "BrushLabels"
    assert [label.get("value") for label in config.find(tag) or ()] == ["polyp", "snare"]
    names = {(result["from_name"], result["to_name"]) for task in tasks for result in task["predictions"][0]["result"]}
    assert names == {("tag", "image")}  # those of the configuration
    for task in tasks:  # what Label Studio does when the annotator submits the prediction
        task["annotations"] = [{"result": task.pop("predictions")[0]["result"], "was_cancelled": False}]
    submitted = tmp_path / "submitted.json"
    submitted.write_text(json.dumps(tasks))
    import_source(submitted, tmp_path / "again", options=ImportOptions(images=path.parent / "images"))
    masks = masks_of(tmp_path / "again")
    assert all((masks[f"frame_{seed}"] == by_colour(picture(seed)[None])[0][0]).all() for seed in range(3))


@pytest.mark.parametrize("format", ["cvat", "label-studio"])
def test_task_without_a_model_is_empty(found: Selection, tmp_path: Path, format: TaskFormat) -> None:
    path = write_task(found, tmp_path / "out", format=format, classes=CLASSES)
    files = sorted(file.name for file in (path.parent / "images").iterdir())
    assert files == ["frame_0.png", "frame_1.png", "frame_2.png"]
    assert (np.asarray(Image.open(path.parent / "images" / "frame_1.png")) == picture(1)).all()
    text = path.read_text()
    assert 'annotations"' not in text and "predictions" not in text and "<mask" not in text
    assert all(name in text for name in files)


def test_a_task_is_never_replaced_and_volumes_have_none(found: Selection, tmp_path: Path) -> None:
    write_task(found, tmp_path, format="cvat", classes=CLASSES)
    with pytest.raises(ValueError, match="is there already, perhaps with corrected labels"):
        write_task(found, tmp_path, format="cvat", classes=CLASSES)
    volume = Item("p1", "p1", str(tmp_path / "p1.nii.gz"), None, "unlabelled")
    with pytest.raises(ValueError, match="is a volume, cvat draws on images"):
        write_task(Selection((volume,), (), 1, "typical", found.depth), tmp_path / "b", format="cvat", classes=CLASSES)
    assert not (tmp_path / "b").exists()


def test_command_writes_a_task(
    found: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(features_file, "encoder", lambda name: (lambda frames: frames.mean((1, 2)), name))
    monkeypatch.setattr(against, "open_teacher", lambda folder: TEACHER)
    (tmp_path / "frames").rename(tmp_path / "images")
    out = tmp_path / "out"
    call = ["select", str(tmp_path), "--budget", "2", "--data.val", "1", "--out", str(out)]
    cli.main([*call, "--format", "cvat", "--draw", "SHIP"])
    assert len(list((out / "cvat" / "images").iterdir())) == 2 and "upload" in capsys.readouterr().err
    for more, message in (
        (["--format", "cvat", "--draw", "SHIP"], "is there already"),
        (["--format", "label-studio"], "a task needs the names of its labels; give --data.classes"),
        (["--draw", "SHIP"], "draw and shapes: belong to --format"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main([*call, *more])
        assert stop.value.code == 2 and message in capsys.readouterr().err
    cli.main([*call, "--format", "label-studio", "--data.classes", "background", "polyp"])
    assert '"polyp"' in (out / "label-studio" / "labelling_config.xml").read_text()
