"""Every planted fault of a small folder is found, named and given a severity; a clean folder has no finding."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgemt.data import phantom2d
from edgemt.data.options import DataOptions
from edgemt.data_report.build import all_findings, build_record
from edgemt.data_report.finding import Finding
from edgemt.data_report.inspect_folder import Inspection, inspect_folder

SIDE = 64


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 training and 4 validation frames of phantoms with classes 0 to 3."""
    root = tmp_path_factory.mktemp("clean")
    for part, seeds in (("train", range(8)), ("val", range(100, 104))):
        for seed in seeds:
            image, label = phantom2d.frame(seed, size=(SIDE, SIDE))
            save(root / part / "images" / f"c{seed}.png", image)
            save(root / part / "masks" / f"c{seed}.png", label)
    return root


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "data"))


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def load(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def inspect(root: Path, **given: Any) -> Inspection:
    return inspect_folder(DataOptions(root=root, **given), given=frozenset(given), workers=1)


def findings(root: Path, **given: Any) -> dict[str, Finding]:
    return {one.kind: one for one in all_findings(inspect(root, **given))}


def test_a_clean_folder_has_no_finding_but_notes(clean: Path) -> None:
    assert not [one.line for one in findings(clean).values() if one.severity != "note"]


def test_record_counts_parts_patients_and_classes(clean: Path) -> None:
    found = inspect(clean)
    record = build_record(found, all_findings(found), seconds=1.0)
    assert {part: row["files"] for part, row in record["parts"].items()} == {"labelled": 8, "val": 4}
    assert [row["name"] for row in record["classes"]] == ["background", "class1", "class2", "class3"]
    pixels = np.bincount(np.concatenate([load(p).ravel() for p in sorted(clean.rglob("masks/*.png"))]), minlength=4)
    assert np.allclose([row["share"] for row in record["classes"]], pixels / pixels.sum())
    light = np.median([load(p)[::4, ::4].mean() for p in sorted((clean / "val" / "images").iterdir())])
    assert record["parts"]["val"]["brightness"]["median"] == pytest.approx(light, abs=0.01)


def plant_copy_across(root: Path) -> None:
    shutil.copy(root / "val" / "images" / "c100.png", root / "train" / "images" / "new.png")
    shutil.copy(root / "val" / "masks" / "c100.png", root / "train" / "masks" / "new.png")


def plant_near_copy_across(root: Path) -> None:
    image = load(root / "val" / "images" / "c101.png").astype(int)
    save(root / "train" / "images" / "new.png", np.clip(image + 3, 0, 255).astype(np.uint8))
    shutil.copy(root / "val" / "masks" / "c101.png", root / "train" / "masks" / "new.png")


def plant_copy(root: Path) -> None:
    for kind in ("images", "masks"):
        shutil.copy(root / "train" / kind / "c1.png", root / "train" / kind / "again.png")


def plant_contradiction(root: Path) -> None:
    shutil.copy(root / "train" / "images" / "c1.png", root / "train" / "images" / "again.png")
    save(root / "train" / "masks" / "again.png", load(root / "train" / "masks" / "c1.png")[::-1] * 0)


def plant_shared_mask(root: Path) -> None:
    shutil.copy(root / "train" / "masks" / "c1.png", root / "train" / "masks" / "c2.png")


def plant_missing_mask(root: Path) -> None:
    (root / "train" / "masks" / "c3.png").unlink()


def plant_spare_mask(root: Path) -> None:
    (root / "train" / "images" / "c3.png").unlink()


def plant_odd_value(root: Path) -> None:
    mask = load(root / "train" / "masks" / "c4.png")
    mask[:3, :3] = 9
    save(root / "train" / "masks" / "c4.png", mask)


def plant_other_size(root: Path) -> None:
    mask = load(root / "train" / "masks" / "c5.png")
    save(root / "train" / "masks" / "c5.png", mask[:-8])


def plant_empty_mask(root: Path) -> None:
    save(root / "train" / "masks" / "c6.png", np.zeros((SIDE, SIDE), np.uint8))


def plant_damaged_image(root: Path) -> None:
    path = root / "train" / "images" / "c7.png"
    path.write_bytes(path.read_bytes()[:-400])


def plant_damaged_mask(root: Path) -> None:
    path = root / "train" / "masks" / "c7.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def plant_constant_image(root: Path) -> None:
    save(root / "train" / "images" / "c0.png", np.full((SIDE, SIDE, 3), 7, np.uint8))


def plant_full_mask(root: Path) -> None:
    save(root / "train" / "masks" / "c2.png", np.full((SIDE, SIDE), 1, np.uint8))


def plant_foreign_file(root: Path) -> None:
    (root / "train" / "images" / "scan.nrrd").write_bytes(b"NRRD0004")


@pytest.mark.parametrize(
    ("plant", "kind", "severity", "file"),
    [
        (plant_copy_across, "copy_across", "error", "train/images/new.png"),
        (plant_near_copy_across, "near_copy_across", "warning", "train/images/new.png"),
        (plant_copy, "copy", "warning", "train/images/again.png"),
        (plant_contradiction, "contradicting_masks", "warning", "train/images/again.png"),
        (plant_shared_mask, "shared_mask", "warning", "train/masks/c2.png"),
        (plant_missing_mask, "images_without_mask", "note", "train/images/c3.png"),
        (plant_spare_mask, "masks_without_image", "warning", "train/masks/c3.png"),
        (plant_odd_value, "mask_values", "error", "train/masks/c4.png"),
        (plant_other_size, "mask_size", "error", "train/masks/c5.png"),
        (plant_empty_mask, "empty_mask", "note", "train/masks/c6.png"),
        (plant_damaged_image, "unreadable", "error", "train/images/c7.png"),
        (plant_damaged_mask, "unreadable_mask", "error", "train/masks/c7.png"),
        (plant_constant_image, "unreadable", "error", "train/images/c0.png"),
        (plant_full_mask, "full_mask", "warning", "train/masks/c2.png"),
    ],
)
def test_planted_fault_is_found(root: Path, plant: Callable[[Path], None], kind: str, severity: str, file: str) -> None:
    plant(root)
    found = findings(root)
    assert kind in found, [one.line for one in found.values()]
    one = found[kind]
    assert (one.severity, one.examples[0].file) == (severity, file), one.line
    assert len(one.examples) == 1
    assert file in one.line
    assert "; " in one.line and "\n" not in one.line


def test_file_of_another_kind_is_named(root: Path) -> None:
    plant_foreign_file(root)
    assert "scan.nrrd" in findings(root)["unread_files"].line


def test_odd_value_does_not_hide_other_masks(root: Path) -> None:
    plant_odd_value(root)
    found = inspect(root)
    record = build_record(found, all_findings(found), seconds=0.0)
    assert record["classes"][1]["files"] > 5
    assert found.meaning.classes == ("background", "class1", "class2", "class3")


def test_two_meanings_of_white_name_the_smaller_group(root: Path) -> None:
    for path in sorted(root.rglob("masks/*.png")):
        one = (load(path) == 1).astype(np.uint8)
        save(path, one if path.name == "c1.png" else one * 255)
    found = findings(root)["mask_values"]
    assert [e.file for e in found.examples] == ["train/masks/c1.png"]
    assert "most masks hold 0, 255" in found.line


def test_patient_in_two_parts_is_an_error_that_names_the_patient(root: Path) -> None:
    for part, name in (("train", "p7_frame1"), ("val", "p7_frame2")):
        image, label = phantom2d.frame(500 + len(name) + (part == "val"), size=(SIDE, SIDE))
        save(root / part / "images" / f"{name}.png", image)
        save(root / part / "masks" / f"{name}.png", label)
    found = findings(root)
    assert found["patient_in_two_parts"].severity == "error"
    assert "'p7'" in found["patient_in_two_parts"].line
    assert found["patient_in_two_parts"].examples[0].file == "train/images/p7_frame1.png"


def test_listed_image_without_mask_is_what_training_stops_at(root: Path) -> None:
    plant_missing_mask(root)
    (root / "labelled.txt").write_text("c1\nc3\n")
    found = findings(root)
    assert found["split"].severity == "error"
    assert "c3.png has no mask" in found["split"].line


def test_masks_that_are_not_on_the_list_are_not_opened(root: Path) -> None:
    plant_odd_value(root)
    plant_damaged_mask(root)
    found = inspect(root, labelled="2")
    assert found.listing.closed_masks == 6
    (root / "labelled.txt").write_text("c1\nc2\n")
    found = inspect(root)
    opened = {s.item.name for s in found.scans if s.mask is not None and s.item.part == "labelled"}
    assert opened == {"c1", "c2"}
    assert "mask_values" not in findings(root)


def test_vanished_object_is_reported_with_a_size_that_keeps_it(root: Path) -> None:
    path = root / "train" / "masks" / "c1.png"
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[20:40, 20:40] = 1
    mask[4, 4] = 2
    save(path, mask)
    one = findings(root, size=(32, 32))["vanished"]
    tiny = [e for e in one.examples if e.file == "train/masks/c1.png"]
    assert [e.detail for e in tiny] == ["all of 'class2', 1 pixel, kept at 64 64"]
    assert "class2" not in str(findings(root, size=(64, 64)).get("vanished", ""))


def test_vanished_part_of_a_class_that_stays_is_a_note(root: Path) -> None:
    for path in sorted(root.rglob("masks/*.png")):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[20:40, 20:40] = 1
        mask[4, 4] = path.name == "c1.png"
        mask[50:60, 4:14] = 2
        save(path, mask)
    one = findings(root, size=(32, 32))["vanished"]
    assert one.severity == "note"
    assert "a part of 'class1'" in one.line


def test_missing_class_stops_training_and_is_a_warning_in_validation(root: Path) -> None:
    given = {"classes": ("background", "a", "b", "c", "d")}
    kinds = [(f.severity, f.text) for f in all_findings(inspect(root, **given)) if f.kind == "missing_class"]
    assert [(s, t.split(" is in")[0]) for s, t in kinds] == [("error", "class 'd'"), ("warning", "class 'd'")]


def test_unusual_brightness_needs_many_images_to_compare_with(root: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(20):
        save(root / "train" / "images" / f"n{i}.png", rng.integers(90, 130, (SIDE, SIDE, 3)).astype(np.uint8))
    save(root / "train" / "images" / "dark.png", rng.integers(0, 4, (SIDE, SIDE, 3)).astype(np.uint8))
    for path in sorted(root.rglob("c*.png")):
        path.unlink()
    for part in ("train", "val"):
        for i in range(2):
            save(root / part / "images" / f"m{part}{i}.png", rng.integers(90, 130, (SIDE, SIDE, 3)).astype(np.uint8))
            save(root / part / "masks" / f"m{part}{i}.png", np.eye(SIDE, dtype=np.uint8))
    assert findings(root)["unusual_brightness"].examples[0].file == "train/images/dark.png"


def test_folder_without_validation_part_gets_a_drawn_one(root: Path) -> None:
    shutil.rmtree(root / "val")
    found = inspect(root)
    assert [f.kind for f in found.listing.findings] == ["no_validation"]
    assert sum(s.item.part == "val" for s in found.scans) == 2
    assert found.suggestion().data["val"] == "0.2"
