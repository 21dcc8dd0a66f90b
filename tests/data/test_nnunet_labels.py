"""nnU-Net's regions and its ignored value, by its dataset.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from edgemt.contract import IGNORE  # noqa: E402
from edgemt.data.cohort import split_dataset  # noqa: E402
from edgemt.data.decode import decode_pairs  # noqa: E402
from edgemt.data.layouts.nnunet_labels import read_labels  # noqa: E402
from edgemt.data.options import DataOptions  # noqa: E402
from edgemt.data.slice_dataset import frame_spec  # noqa: E402
from edgemt.data_report.inspect_folder import inspect_folder  # noqa: E402
from edgemt.pipeline.overrides import override  # noqa: E402
from edgemt.recipes import RECIPES  # noqa: E402
from edgemt.recipes.auto import build, from_arguments  # noqa: E402

SIZE = (24, 24)
REGIONS: dict[str, Any] = {"background": 0, "whole tumor": [1, 2, 3], "core": [2, 3], "enhancing": 3}
ORDER = [1, 2, 3]


def write(root: Path, labels: dict[str, Any], *, order: Any = None, count: int = 5, top: int = 4) -> Path:
    """PNG cases whose masks hold 0 to `top` - 1 in blocks."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for seed in range(count):
        Image.fromarray(image_of(seed)).save(root / f"imagesTr/c{seed}_0000.png")
        Image.fromarray(mask_of(seed, top)).save(root / f"labelsTr/c{seed}.png")
    raw = {"channel_names": {"0": "grey"}, "labels": labels, "file_ending": ".png", "numTraining": count}
    (root / "dataset.json").write_text(json.dumps(raw | ({} if order is None else {"regions_class_order": order})))
    return root


def image_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, SIZE, np.uint8)


def mask_of(seed: int, top: int) -> np.ndarray:
    blocks = np.random.default_rng(seed + 50).permutation(np.arange(16) % top).reshape(4, 4).astype(np.uint8)
    return np.kron(blocks, np.ones((6, 6), np.uint8))


def frames_of(chosen: DataOptions) -> dict[str, np.ndarray]:
    split = split_dataset(chosen)
    cases = (*split.labelled, *split.val)
    return {case.name: label for case, (_, label) in zip(cases, decode_pairs(cases, frame_spec(chosen)), strict=True)}


def options_of(found: Any, root: Path, **fields: Any) -> DataOptions:
    return DataOptions(root=root, classes=found.classes, label_map=found.label_map, ignore=found.ignore, size=SIZE,
                       overlapping=found.overlapping, val="1", labelled="1.0", channels=1, **fields)  # fmt: skip


def test_regions_and_ignore_are_read_as_nnunet_defines_them(tmp_path: Path) -> None:
    labels = {**REGIONS, "ignore": 4}
    root = write(tmp_path / "set", labels, order=ORDER, top=5)
    found = read_labels({"labels": labels, "regions_class_order": ORDER}, root)
    assert (found.classes, found.ignore) == (("background", "whole tumor", "core", "enhancing"), 4)
    for name, bits in frames_of(options_of(found, root)).items():
        mask = mask_of(int(name[1:]), 5)
        assert np.array_equal(bits == IGNORE, mask == 4)
        for k, values in enumerate(([1, 2, 3], [2, 3], [3])):
            assert np.array_equal((bits >> k & 1)[mask != 4], np.isin(mask, values)[mask != 4])


def test_one_region_alone_is_a_class_of_several_values(tmp_path: Path) -> None:
    labels = {"background": 0, "heart": [1, 2, 3]}
    root = write(tmp_path / "set", labels)
    found = read_labels({"labels": labels}, root)
    assert (found.overlapping, found.label_map) == (False, ("1=heart", "2=heart", "3=heart"))
    for name, label in frames_of(options_of(found, root)).items():
        assert np.array_equal(label, mask_of(int(name[1:]), 4) > 0)
    auto = inspect_folder(DataOptions(root=root), given=frozenset(), images=False)
    assert auto.listing.options.label_map == found.label_map and not auto.listing.options.overlapping
    with pytest.raises(ValueError, match="set --data.classes background heart --data.label-map 1=heart 2=heart"):
        split_dataset(DataOptions(root=root, val="1", classes=("background", "heart")))


def test_an_ignored_value_of_plain_classes_is_read(tmp_path: Path) -> None:
    labels = {"background": 0, "edema": [1], "core": 2, "ignore": 3}
    root = write(tmp_path / "set", labels)
    found = read_labels({"labels": labels}, root)
    assert (found.classes, found.label_map, found.ignore) == (("background", "edema", "core"), (), 3)
    for name, label in frames_of(options_of(found, root)).items():
        mask = mask_of(int(name[1:]), 4)
        assert np.array_equal(label, np.where(mask == 3, IGNORE, mask))


def test_the_data_report_and_auto_take_regions_and_ignore_by_themselves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "set", {**REGIONS, "ignore": 4}, order=ORDER, top=5)
    found = inspect_folder(DataOptions(root=root), given=frozenset(), images=True)
    assert not found.refused
    line = next(one.line for one in found.listing.findings if one.kind == "dataset_labels")
    assert "--data.overlapping --data.label-map 'whole tumor=1,2,3' core=2,3 enhancing=3 --data.ignore 4" in line
    assert found.suggestion().reasons["label_map"] == "regions of dataset.json"
    recipe = build(found.suggestion(), RECIPES, root=root)
    auto = from_arguments(["--data.root", str(root)], RECIPES)
    assert "dataset.json has regions (whole tumor=1,2,3, core" in capsys.readouterr().err
    for data in (recipe.data, auto.data):
        assert data.label_map == ("whole tumor=1,2,3", "core=2,3", "enhancing=3")
        assert (data.overlapping, data.ignore, len(data.classes)) == (True, 4, 4)
    flags = line.partition("taken as ")[2]
    import shlex

    given = override(RECIPES["acdc_cpu"](), ["--data.root", str(root), *shlex.split(flags)], prog="edgemt run").data
    assert (given.classes, given.label_map, given.ignore) == (auto.data.classes, auto.data.label_map, 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"overlapping": False, "label_map": ()},
            r"dataset.json: its labels are regions, classes of several values; set --d",
        ),
        (
            {"label_map": ()},
            r"dataset.json: its labels are regions, classes of several values; set --data.classes back",
        ),
        ({"label_map": ("whole tumor=1,2", "core=2,3", "enhancing=3")}, r"whole tumor has the values 1,2, in .* 1,2,3"),
        ({"ignore": None}, r"data.ignore: is not set, .*dataset.json ignores 4; set --data.classes .* --data.ignore 4"),
        ({"ignore": 255}, r"data.ignore: is 255, .*dataset.json ignores 4"),
    ],
)
def test_options_that_contradict_dataset_json_are_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    labels = {**REGIONS, "ignore": 4}
    root = write(tmp_path / "set", labels, order=ORDER, top=5)
    found = read_labels({"labels": labels}, root)
    base = {"classes": found.classes, "label_map": found.label_map, "ignore": 4, "overlapping": True}
    with pytest.raises(ValueError, match=message) as caught:
        split_dataset(DataOptions(**{"root": root, "val": "1", **base, **fields}))
    assert "\n" not in str(caught.value)


def test_other_regions_and_merged_classes_of_the_user_count(tmp_path: Path) -> None:
    root = write(tmp_path / "set", REGIONS, order=ORDER)
    own = DataOptions(root=root, classes=("background", "rim", "core"), label_map=("rim=1", "core=2,3"), size=SIZE,
                      overlapping=True, val="1", labelled="1.0", channels=1)  # fmt: skip
    for name, bits in frames_of(own).items():
        mask = mask_of(int(name[1:]), 4)
        assert np.array_equal(bits, (mask == 1) + 2 * np.isin(mask, [2, 3]))
    plain = write(tmp_path / "plain", {"background": 0, "edema": 1, "core": 2, "rim": 3})
    merged = DataOptions(root=plain, classes=("background", "tumour"), label_map=("1=tumour", "2=tumour", "3=tumour"),
                         size=SIZE, val="1", labelled="1.0", channels=1)  # fmt: skip
    assert all(np.array_equal(label, mask_of(int(n[1:]), 4) > 0) for n, label in frames_of(merged).items())


@pytest.mark.parametrize(
    ("labels", "order", "message"),
    [
        (
            {"background": 0, "a": 1, "ignore": 1},
            None,
            "'ignore' is 1; nnU-Net requires the value above all others, one",
        ),
        ({"background": 0, "a": 1, "ignore": 255}, None, "'ignore' is 255; .* one number: 2"),
        ({"background": 0, "a": 1, "ignore": [2]}, None, r"'ignore' is \[2\]"),
        (
            {"background": 0, "a": [1, 2], "b": 2},
            [1],
            "'regions_class_order' must have a number for each of the 2 regions",
        ),
        ({"background": [0, 1], "a": [1, 2]}, None, "regions need 'background': 0"),
        ({"background": 0, "a": [0, 1]}, None, "region 'a' has the value 0, which is the background"),
        (
            {"background": 0, "a": [1, 2.5]},
            None,
            "label 'a' is .* write one whole number, or a list of them for a region",
        ),
        ({"background": 0, "a": []}, None, "label 'a' is "),
        ({"background": 0, "a": True}, None, "label 'a' is True"),
        ({"background": 0, "a=b": [1, 2]}, None, "region 'a=b' cannot be the name of a class"),
        ({"background": 0, "a": [1, 2], "A": 2}, None, "two regions have names that differ in case alone"),
        (
            {"background": 0, **{f"r{k}": [k, k + 1] for k in range(1, 9)}},
            None,
            "has 8 regions, at most 7 classes may ov",
        ),
        ({"background": 0, "a": 1, "b": 3}, None, "'labels' must be numbered 0 to 2"),
        ({"0": "background", "1": "a", "2": "a"}, None, "names a class twice"),
        ({}, None, "has no 'labels' that name the classes"),
    ],
)
def test_labels_that_cannot_be_represented_are_refused(labels: dict[str, Any], order: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"^set/dataset\.json: .*" + message) as caught:
        read_labels({"labels": labels, "regions_class_order": order}, Path("set/dataset.json"))
    assert "\n" not in str(caught.value)
