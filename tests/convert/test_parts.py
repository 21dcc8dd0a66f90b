"""Test and validation images of a label tool's export stay out of the training images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from edgemt.convert.importing import import_source
from edgemt.convert.parts import part_of

SIZE = (20, 30)
FRACTIONS = "0 0.2 0.2 0.8 0.2 0.8 0.8\n"


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (*SIZE, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def coco_file(path: Path, image: str) -> None:
    picture(path.parent / image)
    record = {
        "images": [{"id": 1, "file_name": image, "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 1, "name": "polyp"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 20, 2, 9, 15]]}],
    }
    path.write_text(json.dumps(record))


def roboflow(root: Path) -> None:
    for part, image in (("train", "a.png"), ("valid", "b.png"), ("test", "c.png")):
        (root / part).mkdir(parents=True)
        coco_file(root / part / "_annotations.coco.json", image)


def yolo(root: Path, folders: tuple[str, ...], more: str = "") -> None:
    for part, name in zip(folders, "abc", strict=True):
        picture(root / "images" / part / f"{name}.png")
        (root / "labels" / part).mkdir(parents=True)
        (root / "labels" / part / f"{name}.txt").write_text(FRACTIONS)
    (root / "data.yaml").write_text(f"{more}names: [polyp]\n")


def yolo_folders(root: Path) -> None:
    yolo(root, ("train", "validation", "test"))


def yolo_stated(root: Path) -> None:
    yolo(root, ("f1", "f2", "f3"), "train: images/f1\nval: ../images/f2\ntest: images/f3\n")


def voc(root: Path) -> None:
    for name in "abc":
        picture(root / "JPEGImages" / f"{name}.png")
        mask = np.zeros((*SIZE, 3), np.uint8)
        mask[3:9, 3:9, 0] = 128
        (root / "SegmentationClass").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / "SegmentationClass" / f"{name}.png")
    (root / "labelmap.txt").write_text("background:0,0,0::\npolyp:128,0,0::\n")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("b\n")
    (root / "ImageSets" / "Segmentation" / "test.txt").write_text("c\n")


def cvat(root: Path) -> None:
    nodes = []
    for name, subset in zip("abc", ("Train", "Validation", "Test"), strict=True):
        picture(root / f"{name}.png")
        shape = '<polygon label="polyp" points="1,1;20,2;9,15" z_order="0"/>'
        nodes.append(f'<image id="0" name="{name}.png" subset="{subset}" width="30" height="20">{shape}</image>')
    text = f"<annotations><version>1.1</version><meta></meta>{''.join(nodes)}</annotations>"
    (root / "annotations.xml").write_text(text)


@pytest.mark.parametrize("make", [roboflow, yolo_folders, yolo_stated, voc, cvat])
def test_an_export_with_parts_keeps_test_images_out_of_training(make: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    make(tmp_path / "in")
    lines: list[str] = []
    manifest = import_source(tmp_path / "in", tmp_path / "out", tell=lines.append)
    assert {case["name"]: case.get("part", "") for case in manifest["cases"]} == {"a": "", "b": "val", "c": "test"}
    assert (tmp_path / "out" / "val.txt").read_text() == "b\n"
    assert (tmp_path / "out" / "test" / "masks" / "c.png").is_file()
    assert not (tmp_path / "out" / "images" / "c.png").exists()
    assert any("1 are the validation part and 1 the test part" in line for line in lines)


def test_images_of_a_test_folder_without_labels_are_of_the_test_part(tmp_path: Path) -> None:
    yolo(tmp_path / "in", ("train", "val", "test"))
    picture(tmp_path / "in" / "images" / "test" / "d.png")
    import_source(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out" / "test" / "images" / "d.png").is_file()
    assert not (tmp_path / "out" / "images" / "d.png").exists()


def test_a_part_that_data_yaml_states_and_no_folder_fits_is_printed(tmp_path: Path) -> None:
    yolo(tmp_path / "in", ("f1", "f2", "f3"), "train: images/f1\nval: images/other\n")
    lines: list[str] = []
    manifest = import_source(tmp_path / "in", tmp_path / "out", tell=lines.append)
    assert all("part" not in case for case in manifest["cases"])
    assert any("states val: images/other, which is no folder of labels here" in line for line in lines)


def test_label_files_of_one_part_alone_are_for_training(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        coco_file(tmp_path / "in" / f"val_{name}.json", f"{name}.png")
    lines: list[str] = []
    manifest = import_source(tmp_path / "in", tmp_path / "out", tell=lines.append)
    assert all("part" not in case for case in manifest["cases"])
    assert any("taken for training" in line for line in lines)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("annotations/instances_val2017.json", "val"),
        ("valid/_annotations.coco.json", "val"),
        ("test-dev.json", "test"),
        ("mitral_valve.json", ""),
        ("interval.json", ""),
        ("val/instances_train.json", ""),
        ("instances_trainval.json", ""),
        ("latest/contest.json", ""),
    ],
)
def test_part_of_takes_whole_words(path: str, part: str) -> None:
    assert part_of(PurePosixPath(path)) == part
