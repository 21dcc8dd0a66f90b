"""Masks of overlapping classes: a folder for each class, or values that belong to several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgemt.contract import IGNORE
from edgemt.data import phantom2d
from edgemt.data.cohort import DatasetSplit, split_dataset
from edgemt.data.decode import CaseReader, FrameSpec
from edgemt.data.options import DataOptions
from edgemt.data.summary import on_card, reading_of, summary
from edgemt.inference.evaluate import EvalSet, prepare, score
from edgemt.io.class_regions import each_class, from_regions, in_class, mask_parts, present_classes
from edgemt.metrics.overlap import compare
from edgemt.metrics.postprocess import largest_component

CLASSES = ("background", "whole tumour", "core")
REGIONS = ("whole tumour=1,2,4", "core=1,4")


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def whole() -> np.ndarray:
    region = np.zeros((16, 12), bool)
    region[2:12, 1:9] = True
    return region


def core() -> np.ndarray:
    region = np.zeros((16, 12), bool)
    region[4:8, 3:7] = True
    return region


def folders(root: Path) -> Path:
    """Four images; the masks of the two classes in folders, 255 for the class; p3 has no core."""
    for number in range(4):
        picture = np.random.default_rng(number).integers(0, 255, (16, 12), dtype=np.uint8)
        save(root / f"images/p{number}.png", picture)
        save(root / f"masks/whole_tumour/p{number}.png", whole().astype(np.uint8) * 255)
        save(root / f"masks/core/p{number}.png", (core() & (number < 3)).astype(np.uint8) * 255)
    return root


def label_maps(root: Path) -> Path:
    """The same with one mask of values 1, 2 and 4 each: 1 and 4 are of both classes."""
    folders(root)
    for number in range(4):
        mask = whole().astype(np.uint8) * 2
        if number < 3:
            mask[core()] = 1
            mask[4, 3:7] = 4
        save(root / f"masks/p{number}.png", mask)
    return root


def options(root: Path, **fields: Any) -> DataOptions:
    base: dict[str, Any] = {"classes": CLASSES, "channels": 1, "size": (16, 12), "val": "1", "overlapping": True}
    return DataOptions(root=root, **(base | fields))


def read(chosen: DataOptions) -> tuple[DatasetSplit, EvalSet]:
    split = split_dataset(chosen)
    every = (*split.labelled, *split.val)
    size = {"size": chosen.size, "channels": 1, "classes": chosen.classes}
    return split, prepare(every, **size, values=chosen.mask_values, reading=reading_of(split, chosen))


@pytest.mark.parametrize(("make", "given"), [(folders, ()), (label_maps, REGIONS), (label_maps, ("1=core", *REGIONS))])
def test_both_forms_give_the_same_bits(tmp_path: Path, make: Any, given: tuple[str, ...]) -> None:
    _, cases = read(options(make(tmp_path), label_map=given))
    assert cases.overlapping
    for name, truth in zip(cases.names, cases.truths, strict=True):
        expected = from_regions([whole(), core() & (name != "p3")])
        assert np.array_equal(truth, expected), name


def test_the_summary_and_the_card_state_what_is_read(tmp_path: Path) -> None:
    chosen = options(folders(tmp_path))
    split = split_dataset(chosen)
    reading = reading_of(split, chosen)
    text = "\n".join(summary(split, chosen, reading))
    assert "in each class folder" in text and "whole tumour 42 %" in text and "core 6.2 %" in text
    assert on_card(chosen, split, reading)["overlapping"] is True
    assert "overlapping" not in DataOptions(root=tmp_path).to_dict()
    mapped = options(label_maps(tmp_path), label_map=REGIONS)
    text = "\n".join(summary(split_dataset(mapped), mapped, reading_of(split_dataset(mapped), mapped)))
    assert "1 2 4 whole tumour; 1 4 core" in text and "whole tumour 42 %" in text


def test_volumes_have_a_folder_of_labels_for_each_class(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    regions = {"whole tumour": whole(), "core": core()}
    for number in range(4):
        for folder, values in {"images": None, **regions}.items():
            array = np.random.default_rng(number).integers(0, 255, (16, 12)) if values is None else values
            stack = np.repeat(np.asarray(array, np.uint8)[..., None], 3, axis=2)
            path = tmp_path / ("images" if values is None else f"labels/{folder}") / f"p{number}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(stack, np.eye(4)), path)
    _, cases = read(options(tmp_path))
    assert [truth.shape for truth in cases.truths] == [(3, 16, 12)] * 4
    assert np.array_equal(cases.truths[0][1], from_regions([whole(), core()]))


def test_an_ignored_value_is_ignored_in_every_class(tmp_path: Path) -> None:
    for number in range(4):
        mask = np.array([[0, 2], [1, 9]], np.uint8).repeat(8, 0).repeat(6, 1)
        save(tmp_path / f"images/p{number}.png", np.arange(192, dtype=np.uint8).reshape(16, 12))
        save(tmp_path / f"masks/p{number}.png", mask)
    _, cases = read(options(tmp_path, label_map=("whole tumour=1,2", "core=1"), ignore=9))
    assert cases.truths[0][::8, ::6].tolist() == [[0, 1], [3, IGNORE]]
    scored = score([np.where(t == IGNORE, 3, t).astype(np.uint8) for t in cases.truths], cases, dice_only=True)
    assert scored.dice == 1.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "masks/core/p1.png").unlink(), "core: has no mask 'p1'"),
        (lambda root: save(root / "masks/core/p1.png", np.zeros((8, 12), np.uint8)), "mask is (8, 12)"),
        (lambda root: (root / "masks/core").rename(root / "masks/kern"), "has no folder 'core'"),
        (
            lambda root: [save(path, np.zeros((16, 12), np.uint8)) for path in (root / "masks/core").iterdir()],
            "'core' never occurs",
        ),
    ],
)
def test_masks_that_do_not_fit_are_named(tmp_path: Path, change: Any, words: str) -> None:
    torch = pytest.importorskip("torch")
    assert torch
    from edgemt.data.slice_dataset import load_slices

    change(folders(tmp_path))
    chosen = options(tmp_path)
    with pytest.raises(ValueError) as error:
        split = split_dataset(chosen)
        load_slices(split.labelled, chosen, reading=reading_of(split, chosen))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_folders_of_classes_without_the_option_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs --data.overlapping"):
        split_dataset(options(folders(tmp_path), overlapping=False))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"classes": ("background", *"abcdefgh")}, "at most 7 classes"),
        ({"label_map": ("core=1",)}, "no value is 'whole tumour'"),
        ({"label_map": ("core=x", "whole tumour=1")}, "is no CLASS=VALUE"),
        ({"label_map": ("rim=1", "whole tumour=1")}, "names none of data.classes"),
        ({"label_map": ("core=0", "whole tumour=1")}, "0 is the background"),
        ({"layout": "phantom_volumes"}, "one value a voxel"),
    ],
)
def test_options_that_cannot_be_read_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as error:
        options(Path("nowhere"), **fields)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_labels_of_unlabelled_images_stay_closed(tmp_path: Path) -> None:
    split = split_dataset(replace(options(folders(tmp_path)), labelled="2"))
    assert all(len(case.labels) == 2 and case.label == case.labels[0] for case in split.labelled)
    assert split.unlabelled and not any(case.labels or case.label for case in split.unlabelled)


def test_an_organ_of_the_phantom_goes_on_under_the_instrument() -> None:
    both = 0
    for seed in range(4):
        _, plain = phantom2d.frame(seed, size=(64, 64))
        image, bits = phantom2d.frame(seed, size=(64, 64), overlapping=True)
        assert np.array_equal(image, phantom2d.frame(seed, size=(64, 64))[0])
        assert np.array_equal(in_class(bits, 3, overlapping=True), plain == 3)
        seen = plain != 3
        assert np.array_equal(in_class(bits, 1, overlapping=True)[seen], (plain == 1)[seen])
        both += int(((bits & 4) > 0)[(bits & 3) > 0].sum())
    assert both > 50
    spec = DataOptions(layout="phantom", classes=phantom2d.CLASSES, size=(64, 64), overlapping=True)
    split = split_dataset(spec)
    form = FrameSpec(spec.size, 3, spec.classes, values=spec.mask_values)
    assert {int(CaseReader(form, reading_of(split, spec)).label(case).max()) for case in split.val} <= set(range(8))


def test_each_class_is_compared_by_itself() -> None:
    truth = from_regions([whole(), core()])
    shifted = from_regions([whole(), np.roll(core(), 2, axis=0)])
    rows = compare(shifted, truth, classes=3, overlapping=True)
    assert rows[0]["dice"] == 1.0 and rows[0]["hd95"] == 0.0
    assert rows[1]["dice"] == pytest.approx(0.5) and rows[1]["hd95"] == pytest.approx(2.0)
    assert compare(from_regions([whole(), core() & False]), truth, classes=3, overlapping=True)[1]["missed"] == 1
    with pytest.raises(ValueError, match="above 3"):
        compare(truth + np.uint8(4), truth, classes=3, overlapping=True)


def test_masks_are_changed_and_written_class_by_class() -> None:
    stray = core().copy()
    stray[14, 10] = True
    mask = from_regions([whole(), stray])
    assert np.array_equal(largest_component(mask, classes=3, overlapping=True), from_regions([whole(), core()]))
    flipped = each_class(mask, lambda m: m[::-1], classes=3, overlapping=True)
    assert np.array_equal(flipped, mask[::-1])
    parts = mask_parts(mask, CLASSES, overlapping=True)
    assert [name for name, _ in parts] == ["whole_tumour.", "core."]
    assert np.array_equal(parts[1][1], stray.astype(np.uint8))
    assert present_classes(mask, overlapping=True) == [1, 2] and present_classes(mask * 0, overlapping=True) == []
    assert mask_parts(mask, CLASSES, overlapping=False)[0][1] is mask
