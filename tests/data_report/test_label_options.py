"""What masks mean where the user states it (label map, ignore, overlapping) or the folder suggests it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgemt import cli
from edgemt.data import phantom2d
from edgemt.data.options import DataOptions
from edgemt.data_report.assumed import classes_of_map
from edgemt.data_report.build import all_findings, build_record
from edgemt.data_report.finding import Finding
from edgemt.data_report.inspect_folder import Inspection, inspect_folder
from edgemt.io.class_regions import in_class

SIDE = 48
NAMES = ("organ", "lesion", "tool")


def save(path: Path, array: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def square(value: int, first: int = 8, last: int = 24) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[first:last, first:last] = value
    return mask


def rimmed(value: int, first: int = 8, last: int = 24) -> np.ndarray:
    """A square with a rim of 255, 2 pixels wide."""
    mask = square(255, first - 2, last + 2)
    mask[first:last, first:last] = value
    return mask


def folder(root: Path, masks: list[np.ndarray], **options: Any) -> Path:
    """A folder of colour frames with these masks; the last two validate."""
    for i, mask in enumerate(masks):
        part = "val" if i >= len(masks) - 2 else "train"
        save(root / part / "images" / f"f{i}.png", phantom2d.frame(i, size=(SIDE, SIDE))[0])
        save(root / part / "masks" / f"f{i}.png", mask, **options)
    return root


def class_folders(root: Path, *, names: tuple[str, ...] = NAMES, seeds: tuple[int, ...] = (0, 1, 2, 3, 4)) -> Path:
    """Frames with a folder of masks for each class, which overlap; the last two validate."""
    for seed in seeds:
        part = root / ("val" if seed in seeds[-2:] else "train")
        image, bits = phantom2d.frame(seed, size=(SIDE, SIDE), overlapping=True)
        save(part / "images" / f"f{seed}.png", image)
        for k, name in enumerate(names, 1):
            save(part / "masks" / name / f"f{seed}.png", in_class(bits, k, overlapping=True).astype(np.uint8) * 255)
    return root


def inspect(root: Path, **given: Any) -> Inspection:
    return inspect_folder(DataOptions(root=root, **given), given=frozenset(given), workers=1)


def findings(found: Inspection) -> dict[str, Finding]:
    return {one.kind: one for one in all_findings(found)}


def record_of(found: Inspection) -> dict[str, Any]:
    return build_record(found, all_findings(found), seconds=0.0)


# Label map ------------------------------------------------------------------------------------------------------------


def test_classes_are_counted_after_the_label_map(tmp_path: Path) -> None:
    root = folder(tmp_path, [square(value) for value in (1, 2, 4, 1, 4)])
    classes = ("background", "edema", "core")
    found = inspect(root, classes=classes, label_map=("1=edema", "2=core", "4=core"))
    record = record_of(found)
    assert not [one.line for one in findings(found).values() if one.severity == "error"]
    assert [row["files"] for row in record["classes"]] == [5, 2, 3]
    assert [row["values"] for row in record["classes"]] == [[0], [1], [2, 4]]
    area = 16 * 16 / SIDE**2
    assert [row["share"] for row in record["classes"]] == pytest.approx([1 - area, area * 2 / 5, area * 3 / 5])
    assert found.suggestion().data["label_map"] == ["1=edema", "2=core", "4=core"]


def test_a_value_without_a_class_is_named_with_its_file(tmp_path: Path) -> None:
    root = folder(tmp_path, [square(value) for value in (1, 2, 4, 1, 2)])
    one = findings(inspect(root, classes=("background", "a", "b"), label_map=("1=a", "2=b")))["mask_values"]
    assert one.line.startswith("a mask holds values that no class has: train/masks/f2.png: mask holds 4, known values")
    assert "--data.label-map" in one.remedy and len(one.examples) == 1


@pytest.mark.parametrize(
    ("label_map", "classes"),
    [
        (("1=edema", "2=core", "4=core"), ("background", "edema", "core")),
        (("2=Lumen", "0=wall", "1=lumen", "3=wall"), ("wall", "Lumen")),
        (("whole=1,2,3", "core=1,3"), ("background", "whole", "core")),
        (("3=background", "1=organ"), ("background", "organ")),
    ],
)
def test_a_label_map_names_the_classes(label_map: tuple[str, ...], classes: tuple[str, ...]) -> None:
    assert classes_of_map(label_map) == classes


def test_the_command_takes_the_classes_of_its_label_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path / "set", [square(value) for value in (1, 2, 4, 1, 4)])
    flags = ["--data.label-map", "1=edema", "2=core", "4=core", "--data.class-weights", "1", "2", "1.5"]
    cli.main(["data", str(root), "--out", str(tmp_path / "out"), "--json", str(tmp_path / "r.json"), *flags])
    import json

    record = json.loads((tmp_path / "r.json").read_text())
    data = record["suggestion"]["data"]
    assert data["classes"] == ["background", "edema", "core"] and data["class_weights"] == [1.0, 2.0, 1.5]
    assert "classes background edema core" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", str(root), "--out", str(tmp_path / "no"), *flags[:5], "1", "2"])
    assert stop.value.code == 2 and "needs 3 numbers" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_overlapping_classes_of_one_mask_are_counted_in_each(tmp_path: Path) -> None:
    nested = [square(1) + square(1, 12, 16) for _ in range(5)]  # value 2 inside value 1
    options: dict[str, Any] = {"classes": ("background", "whole", "core"), "label_map": ("whole=1,2", "core=2")}
    record = record_of(inspect(folder(tmp_path, nested), overlapping=True, **options))
    assert record["overlapping"] and [row["values"] for row in record["classes"]] == [[0], [1, 2], [2]]
    shares = [row["share"] for row in record["classes"]]
    assert shares == pytest.approx([1 - 256 / SIDE**2, 256 / SIDE**2, 16 / SIDE**2])
    assert record["files"][0]["pixels"] == [SIDE**2 - 256, 256, 16] and record["files"][0]["counted"] == SIDE**2


# Ignored values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"ignore": 255}])
def test_ignored_pixels_are_in_no_share_and_no_area(tmp_path: Path, given: dict[str, int]) -> None:
    found = inspect(folder(tmp_path, [rimmed(1) for _ in range(4)] + [square(0)]), **given)
    record = record_of(found)
    rim = 20 * 20 - 16 * 16
    counted = 5 * SIDE**2 - 4 * rim
    assert record["ignored"] == {"value": 255, "share": pytest.approx(4 * rim / (5 * SIDE**2)), "files": 4}
    assert [row["share"] for row in record["classes"]] == pytest.approx([1 - 4 * 256 / counted, 4 * 256 / counted])
    assert record["classes"][1]["area"]["max"] == pytest.approx(100 * 256 / (SIDE**2 - rim), abs=0.01)
    assert "255 is ignored" in record["masks"]
    assert found.suggestion().data["ignore"] == 255 and found.suggestion().data["classes"] == ["background", "object"]
    assert ("ignored_value" in findings(found)) != bool(given)


def test_a_mask_that_is_nearly_all_ignored_fills_no_image(tmp_path: Path) -> None:
    masks = [rimmed(1) for _ in range(6)]
    masks[0][masks[0] == 0] = 255
    masks[1][:] = 255
    found = findings(inspect(folder(tmp_path, masks)))
    assert found["full_mask"].examples[0].detail == "100% of the image"  # of what counts in it
    assert found["empty_mask"].examples[0].detail == "all of it is ignored"


def palette(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask, mode="P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 756 + [224, 224, 192])
    return image


def test_255_of_a_palette_as_in_voc_is_taken_as_ignore(tmp_path: Path) -> None:
    root = folder(tmp_path, [square(0)] * 5)
    for i, path in enumerate(sorted(root.rglob("masks/*.png"))):
        palette(rimmed(1 + i % 2)).save(path)
    found = inspect(root)
    assert found.meaning.classes == ("background", "class1", "class2")
    assert found.listing.options.ignore == 255
    assert findings(found)["ignored_value"].text.startswith("5 of 5 masks hold 255 beside the classes 0 to 2")


def soft(value: int) -> np.ndarray:
    """A white square with a rim of one value, one pixel wide."""
    mask = square(value, 7, 25)
    mask[8:24, 8:24] = 255
    return mask


@pytest.mark.parametrize(
    ("masks", "given"),
    [
        ([square(255)] * 5, {}),
        ([square(1)] * 3 + [square(255)] * 2, {}),  # two ways of writing one class
        ([soft(128)] * 5, {}),
        ([soft(1)] * 5, {}),
        ([rimmed(1)] * 5, {"mask_threshold": 128}),
        ([rimmed(40)] * 5, {}),
        ([rimmed(2)] * 5, {"classes": ("background", "object")}),
    ],
)
def test_255_that_may_be_an_object_is_not_taken_as_ignore(
    tmp_path: Path, masks: list[np.ndarray], given: dict[str, Any]
) -> None:
    found = inspect(folder(tmp_path, masks), **given)
    assert found.listing.options.ignore is None and "ignored_value" not in findings(found)
    if len(np.unique(masks)) > 2:
        assert "mask_values" in findings(found)


def test_contradictions_are_searched_where_both_masks_count(tmp_path: Path) -> None:
    root = folder(tmp_path, [rimmed(1) for _ in range(5)])
    twin = np.where(rimmed(1) == 1, 255, 0).astype(np.uint8)  # nothing of it contradicts
    save(root / "train/images/g.png", np.asarray(Image.open(root / "train/images/f0.png")))
    save(root / "train/masks/g.png", twin)
    assert "contradicting_masks" not in findings(inspect(root, ignore=255, classes=("background", "object")))


# Class folders --------------------------------------------------------------------------------------------------------


def test_folders_of_classes_are_found_and_counted(tmp_path: Path) -> None:
    found = inspect(class_folders(tmp_path))
    record = record_of(found)
    names = ["background", *sorted(NAMES)]
    assert [row["name"] for row in record["classes"]] == names and record["overlapping"]
    assert {part: row["masks"] for part, row in record["parts"].items()} == {"labelled": 3, "val": 2}
    masks = {name: [np.asarray(Image.open(p)) > 0 for p in sorted(tmp_path.rglob(f"masks/{name}/*"))] for name in NAMES}
    wanted = [np.mean(masks[name]) for name in names[1:]]
    background = 1 - np.mean(np.any([masks[name] for name in NAMES], axis=0))
    assert [row["share"] for row in record["classes"]] == pytest.approx([background, *wanted])
    assert sum(wanted) + background > 1.01  # some pixels have two classes
    one = findings(found)["class_folders"]
    assert "lesion, organ, tool" in one.text and "--data.overlapping" in one.remedy
    assert not [one.line for one in findings(found).values() if one.severity != "note"]
    data = found.suggestion().data
    assert (data["classes"], data["overlapping"]) == (names, True)


def test_classes_that_never_overlap_are_noted(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    assert "never_overlapping" not in findings(inspect(root))
    for path in sorted(root.rglob("masks/*/*.png")):
        first = 4 + 12 * NAMES.index(path.parent.name)
        save(path, square(255, first, first + 12))
    assert "no pixel of the 5 masks has two classes" in findings(inspect(root))["never_overlapping"].line


def test_an_ignored_value_beside_the_class_of_a_folder_is_found(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    for path in sorted(root.rglob("masks/organ/*.png")):
        save(path, rimmed(1))
    for path in sorted(root.rglob("masks/*/*.png")):
        save(path, (np.asarray(Image.open(path)) > 0).astype(np.uint8) if "organ" not in str(path) else rimmed(1))
    found = inspect(root)
    assert found.listing.options.ignore == 255 and "each class folder; 255 is ignored" in found.meaning.rule.text
    assert record_of(found)["ignored"]["share"] == pytest.approx((400 - 256) / SIDE**2)


def test_a_folder_that_is_no_class_is_named(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    save(root / "train/masks/previews/overview.png", square(1))
    assert findings(inspect(root))["unread_folders"].examples[0].file == "train/masks/previews"
    chosen = inspect(root, classes=("background", "tool", "organ"))
    assert chosen.meaning.classes == ("background", "tool", "organ")
    assert [e.file for e in findings(chosen)["unread_folders"].examples] == [
        "train/masks/lesion", "train/masks/previews"
    ]  # fmt: skip


def test_a_value_that_one_class_folder_does_not_allow_is_named(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    save(root / "train/masks/tool/f1.png", square(7))
    one = findings(inspect(root))["mask_values"]
    assert [e.file for e in one.examples] == ["train/masks/tool/f1.png"]


def test_masks_of_classes_that_differ_in_size_are_named(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    save(root / "train/masks/tool/f1.png", square(255)[:-8])
    assert "train/masks/tool/f1.png" in findings(inspect(root))["unreadable_mask"].line


def test_folders_of_clips_are_no_classes(tmp_path: Path) -> None:
    for clip in "ab":
        for i in range(3):
            image, mask = phantom2d.frame(i + 10 * (clip == "b"), size=(SIDE, SIDE))
            save(tmp_path / "images" / clip / f"{i}.png", image)
            save(tmp_path / "masks" / clip / f"{i}.png", mask)
    found = inspect(tmp_path, layout="clips", val="1")
    assert not found.meaning.overlapping and "class_folders" not in findings(found)
    assert found.meaning.classes == ("background", "class1", "class2", "class3")


def test_volumes_with_a_folder_for_each_class_are_read(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    rng = np.random.default_rng(0)
    for i in range(4):
        image = rng.integers(0, 200, (24, 24, 4)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(image, np.diag([1, 1, 5, 1])), _made(tmp_path / "images") / f"v{i}.nii.gz")
        for name, side in (("core", 6), ("whole", 12)):
            mask = np.zeros((24, 24, 4), np.uint8)
            mask[2 : 2 + side, 2 : 2 + side, 1:3] = 1
            path = _made(tmp_path / "labels" / name) / f"v{i}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(mask, np.diag([1, 1, 5, 1])), path)
    found = inspect(tmp_path)
    assert found.meaning.classes == ("background", "core", "whole")
    assert found.scans[0].mask is not None and found.scans[0].mask.pixels == (24 * 24 * 4 - 288, 72, 288)
    assert found.scans[0].mask.slices == (4, 2, 2)


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "val/masks/tool/f4.png").unlink(), "has no mask 'f4'"),
        (lambda root: [path.unlink() for path in root.rglob("masks/tool/*")], "tool"),
    ],
)
def test_class_folders_that_do_not_fit_are_one_line(tmp_path: Path, change: Any, words: str) -> None:
    change(class_folders(tmp_path))
    with pytest.raises(ValueError, match=words) as error:
        inspect(tmp_path, classes=("background", *NAMES))
    assert "\n" not in str(error.value)


def test_overlapping_without_folders_or_values_is_one_line(tmp_path: Path) -> None:
    root = folder(tmp_path, [square(1)] * 5)
    with pytest.raises(ValueError, match=r"data.overlapping: .* has no folder of masks for each class"):
        inspect(root, overlapping=True)


# Channels -------------------------------------------------------------------------------------------------------------


def test_a_damaged_file_of_a_later_channel_is_found(tmp_path: Path) -> None:
    for i in range(5):
        for name in ("t1", "t2"):
            image = phantom2d.frame(i + 20 * (name == "t2"), size=(SIDE, SIDE))[0][..., 0]
            save(tmp_path / "images" / f"f{i}_{name}.png", image)
        save(tmp_path / "masks" / f"f{i}.png", square(1))
    (tmp_path / "images/f2_t2.png").write_bytes(b"no image")
    found = inspect(tmp_path, channel_names=("t1", "t2"), val="1")
    assert findings(found)["unreadable"].examples[0].file == "images/f2_t2.png"
    assert len(found.scans) == 4 and found.suggestion().data["channel_names"] == ["t1", "t2"]


def test_channels_that_cases_may_lack_are_passed_on(tmp_path: Path) -> None:
    for i in range(5):
        for name in ("t1", "t2")[: 1 + (i > 0)]:
            save(tmp_path / "images" / f"f{i}_{name}.png", phantom2d.frame(i, size=(SIDE, SIDE))[0][..., 0])
        save(tmp_path / "masks" / f"f{i}.png", square(1))
    found = inspect(tmp_path, channel_names=("t1", "t2"), missing_channels="mean", val="1")
    assert len(found.scans) == 5 and found.suggestion().data["missing_channels"] == "mean"
