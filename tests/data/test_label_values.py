from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from edgemt.artefacts.stage_folder import plain  # noqa: E402
from edgemt.contract import IGNORE, Batch, Case, LabelRules  # noqa: E402
from edgemt.data.augment_options import NO_AUGMENT  # noqa: E402
from edgemt.data.cohort import split_dataset  # noqa: E402
from edgemt.data.options import DataOptions  # noqa: E402
from edgemt.data.slice_dataset import TwoStreamBatches, load_slices  # noqa: E402
from edgemt.data.summary import reading_of, summary  # noqa: E402
from edgemt.inference.by_group import by_group, case_dice, group_table, read_groups  # noqa: E402
from edgemt.inference.evaluate import prepare, score  # noqa: E402
from edgemt.inference.evaluate_uncertainty import maps_record  # noqa: E402
from edgemt.io.mask_rule import MaskValues  # noqa: E402
from edgemt.learning.label_rules import label_rules  # noqa: E402
from edgemt.learning.losses import cross_entropy, dice_ce, mse, probabilities  # noqa: E402
from edgemt.methods import METHODS, takes_ignored_pixels  # noqa: E402
from edgemt.metrics.conformal import case_scores  # noqa: E402
from edgemt.metrics.overlap import compare  # noqa: E402
from edgemt.pipeline.folds import listed_folds  # noqa: E402
from edgemt.pipeline.recipe_checks import check_recipe  # noqa: E402
from edgemt.recipes import RECIPES  # noqa: E402
from edgemt.testing.tiny_training import TinyTrainer, random_batch  # noqa: E402

CLASSES = ("background", "edema", "core")
MAP = ("1=edema", "2=core", "4=core")


def write(root: Path, values: tuple[int, ...] = (0, 1, 2, 4, 9), count: int = 4) -> Path:
    """images and masks 16 x 16 of horizontal stripes, one for each value."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    mask = np.array([values[row * len(values) // 16] for row in range(16)], np.uint8)[:, None].repeat(16, 1)
    for seed in range(count):
        picture = np.random.default_rng(seed).integers(0, 255, (16, 16), dtype=np.uint8)
        Image.fromarray(picture).save(root / f"images/p{seed}.png")
        Image.fromarray(mask).save(root / f"masks/p{seed}.png")
    return root


def options(root: Path, **fields: Any) -> DataOptions:
    base = {"classes": CLASSES, "channels": 1, "size": (16, 16), "val": "1", "label_map": MAP, "ignore": 9}
    return DataOptions(root=root, **(base | fields))


def test_values_become_the_classes_that_the_map_names(tmp_path: Path) -> None:
    chosen = options(write(tmp_path))
    split = split_dataset(chosen)
    reading = reading_of(split, chosen)
    text = "\n".join(summary(split, chosen, reading))
    assert "masks: 0 background; 1 edema; 2 4 core; 9 is ignored; 4 files; edema 23 %; core 46 %" in text
    label = load_slices(split.labelled, chosen, reading=reading).label
    assert label is not None and label[0, :, 0].tolist() == [0] * 4 + [1] * 3 + [2] * 6 + [IGNORE] * 3
    wide = load_slices(split.labelled, options(tmp_path, size=(40, 40)), reading=reading).label
    assert wide is not None and set(wide.unique().tolist()) == {0, 1, 2, IGNORE}
    with pytest.raises(ValueError, match=r"p\d.png: mask holds 4, known values are 0, 1, 2, 9; name it in"):
        chosen = options(tmp_path, label_map=("1=edema", "2=core"))
        reading_of(split, chosen)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label_map": ("1=edema", "2=rim")}, "'2=rim' names none of data.classes"),
        ({"label_map": ("1=edema",)}, "no value is 'core'"),
        ({"label_map": ("1=edema", "1=core")}, "value 1 is given twice"),
        ({"label_map": ("edema",)}, "is no VALUE=CLASS such as 1=edema"),
        ({"label_map": (*MAP, "9=edema")}, "9 has a class in data.label_map"),
        ({"class_weights": (1.0, 2.0)}, "needs 3 numbers of 0 or more"),
        ({"fold_file": "f.json"}, "give their number with --data.folds"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(Path(), **fields)


def test_ignored_pixels_reach_the_batch_through_crop_and_resize(tmp_path: Path) -> None:
    chosen = options(write(tmp_path, (0, 1, 2, 9)), size=(24, 24))
    split = split_dataset(chosen)
    stack = load_slices(split.labelled, chosen)
    augment = replace(NO_AUGMENT, rotation=40, scale=(0.8, 1.2), padding="reflection")
    stream = TwoStreamBatches(stack, load_slices((), chosen), (4, 0), augment, rules=chosen.label_rules)
    batch = stream.batch(0)
    assert set(batch.label.unique().tolist()) == {0, 1, 2, IGNORE}
    assert batch.rules == LabelRules(ignore=True)


def test_ignored_pixels_have_no_gradient_in_losses_with_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 6, generator=generator, requires_grad=True)
    label = torch.randint(0, 3, (2, 6, 6), generator=generator)
    label[:, :2] = IGNORE
    for per_image in (False, True):
        with label_rules(LabelRules(ignore=True)):
            (grad,) = torch.autograd.grad(dice_ce(logits, label, per_image=per_image), logits)
        assert grad[:, :, :2].abs().max() == 0 and grad[:, :, 2:].abs().min() > 0
    with label_rules(LabelRules(ignore=True)):
        alone = dice_ce(logits, label)
    torch.testing.assert_close(alone, dice_ce(logits[:, :, 2:], label[:, 2:]))
    with label_rules(LabelRules(ignore=True)):
        consistency = mse(probabilities(logits), probabilities(logits.detach() + 1).roll(1, 0)).mean()
        (grad,) = torch.autograd.grad(consistency, logits)
    assert grad[:, :, :2].abs().max() > 0


def test_weights_of_classes_are_those_of_torch_and_weigh_the_dice() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 6, 6, generator=generator)
    label = torch.randint(0, 3, (2, 6, 6), generator=generator)
    weights = (0.5, 1.0, 4.0)
    with label_rules(LabelRules(class_weights=weights)):
        found, both = cross_entropy(logits, label), dice_ce(logits, label)
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits, label, weight=torch.tensor(weights)))
    p, hot = probabilities(logits), torch.nn.functional.one_hot(label, 3).movedim(-1, 1)
    dice = [1 - 2 * (p[:, c] * hot[:, c]).sum() / (p[:, c].square() + hot[:, c]).sum() for c in (1, 2)]
    torch.testing.assert_close(both, 0.5 * (found + (dice[0] + 4 * dice[1]) / 5), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if takes_ignored_pixels(method)])
def test_methods_that_take_ignored_pixels_learn_nothing_from_them(name: str) -> None:
    """With every pixel ignored, what a method learns from labels is 0."""
    trainer, batch = TinyTrainer(METHODS[name], classes=3, total=10, index=5), random_batch()
    nothing = replace(batch, label=torch.full_like(batch.label, IGNORE), rules=LabelRules(ignore=True))
    with label_rules(nothing.rules):
        for _, terms in trainer.optimiser_steps(nothing):
            for key, value in terms.items():
                assert value.isfinite()
                assert float(value.detach()) == 0 or not key.startswith("supervised"), key
            break


def test_a_method_that_reads_labels_by_itself_is_refused(tmp_path: Path) -> None:
    base = RECIPES["kvasir_cpu"]()
    data = DataOptions(root=tmp_path, classes=("background", "polyp"), ignore=255)
    schedule = replace(base.teacher.schedule, unlabelled=8)
    recipe = replace(base, data=data, teacher=replace(base.teacher, method=METHODS["bcp"], schedule=schedule))
    with pytest.raises(ValueError, match=r"teacher.method: BCP reads labels otherwise .* cannot follow data.ignore"):
        check_recipe(recipe)


def test_ignored_pixels_count_in_no_metric() -> None:
    rng = np.random.default_rng(0)
    truth, mask = (rng.integers(0, 3, (20, 20)).astype(np.uint8) for _ in range(2))
    hidden = truth.copy()
    hidden[:, :8] = IGNORE
    expected = compare(mask[:, 8:], truth[:, 8:], classes=3, with_distances=False)
    assert compare(mask, hidden, classes=3, with_distances=False) == expected
    maps = rng.integers(0, 255, (20, 20)).astype(np.uint8)
    other = np.where(hidden == IGNORE, 255 - maps, maps).astype(np.uint8)
    assert maps_record([mask], [maps], [hidden]) == maps_record([mask], [other], [hidden])
    region = np.zeros((20, 20), np.uint8)
    region[5:15, 5:15] = 1
    assert case_scores(region, np.where(region, IGNORE, 0).astype(np.uint8), classes=2).max() == 0


def test_an_evaluation_reads_the_map_of_its_options(tmp_path: Path) -> None:
    root = write(tmp_path)
    cases = [Case(f"p{k}", f"p{k}", str(root / f"images/p{k}.png"), str(root / f"masks/p{k}.png")) for k in range(2)]
    found = prepare(cases, size=(16, 16), channels=1, classes=CLASSES, values=MaskValues(MAP, 9))
    perfect = [np.where(truth == IGNORE, 1, truth).astype(np.uint8) for truth in found.truths]
    assert score(perfect, found, dice_only=True).dice == 1


def test_results_by_group_name_what_fits_nothing(tmp_path: Path) -> None:
    file = tmp_path / "centre.csv"
    file.write_text("case;centre;device\na_0.png;north;x\nb;south;x\nzed;south;y\n", encoding="utf-8")
    columns = read_groups(file)
    cases = [{"name": n, "o": {"dice": v}} for n, v in (("a_0", 0.5), ("b_0", 1.0), ("b_1", 0.0), ("c_0", None))]
    patients = {"a_0": "a", "b_0": "b", "b_1": "b", "c_0": "c"}
    found = by_group(case_dice(cases), patients, columns)
    north, south = found["centre"]["groups"]["north"], found["centre"]["groups"]["south"]
    assert (north["n"], north["dice"], north["low"]) == (1, 0.5, None)
    assert (south["n"], south["patients"], south["dice"]) == (2, 1, 0.5)
    assert found["centre"]["groups"]["(not in the file)"]["n"] == 0
    assert found["centre"]["unmatched"] == ["zed"]
    assert "1 names match no case and no patient: zed" in group_table(found)
    json.dumps(found)
    many = by_group({f"q{k}": k / 10 for k in range(10)}, {f"q{k}": f"q{k}" for k in range(10)}, {"all": {}})
    row = many["all"]["groups"]["(not in the file)"]
    assert 0.2 < row["low"] < row["dice"] < row["high"] < 0.7
    file.write_text("case,centre\na,north\na,south\n")
    with pytest.raises(ValueError, match="line 3: 'a' has a second centre, 'south'"):
        read_groups(file)


def test_folds_are_read_from_a_file_of_names(tmp_path: Path) -> None:
    cases = [Case(f"p{k}_0", f"p{k}", "x") for k in range(4)]
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps([{"val": ["p0_0", "p3_0.nii.gz"]}, {"val": ["p1", "p2", "z"]}]))
    assert listed_folds(cases, file=file, folds=2) == [{"p0", "p3"}, {"p1", "p2"}]
    file.write_text(json.dumps([["p0", "p1"], ["p2", "p1", "p3"]]))
    with pytest.raises(ValueError, match="labelled patient 'p1' is in 2 folds"):
        listed_folds(cases, file=file, folds=2)
    with pytest.raises(ValueError, match="has 2 folds, data.folds is 3"):
        listed_folds(cases, file=file, folds=3)


def test_defaults_add_no_field_to_a_key() -> None:
    assert not {"label_map", "ignore", "class_weights", "fold_file"} & set(plain(DataOptions()))
    assert Batch(torch.zeros(1), torch.zeros(1)).rules is None
