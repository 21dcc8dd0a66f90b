"""Two renderings of one synthetic anatomy as two channels, the second one shifted by 0 to 4 pixels.

    python benchmarks/two_renderings.py --work DIR --shifts 0 2 4 --methods supervised mean_teacher patch_swap
    python benchmarks/two_renderings.py --work DIR --shifts 0 --drop 0 0.3
    python benchmarks/two_renderings.py --work DIR --cross --methods supervised mean_teacher patch_swap

The labels are those of `edgemt.data.phantom2d`; `a` shows the liver, `b` the gallbladder, both the instrument. The
shift is the same length for each patient, in a direction of its own; labels belong to `a`. Each line is one training of
a small U-Net and its Dice on the validation images, also without either channel. With --cross labelled images show
`a` alone, unlabelled and validation images show `b` alone: what patch swapping between modalities is meant for.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from edgemt.artefacts import network_folder
from edgemt.data import phantom2d
from edgemt.data.options import DataOptions
from edgemt.inference.evaluate import evaluate, prepare
from edgemt.inference.evaluate_package import without
from edgemt.methods import METHODS
from edgemt.pipeline.run_context import RunContext
from edgemt.pipeline.train import train_stage
from edgemt.recipes import RECIPES
from edgemt.training.options import Schedule

LEVELS = {"a": (95, 150, 100, 190), "b": (120, 116, 175, 60)}  # grey of background, liver, gallbladder, instrument
BLUR, NOISE, FIELD = 0.7, 14.0, 18.0


def rendering(label: np.ndarray, name: str, seed: int) -> np.ndarray:
    """uint8 [H, W] of a label: a grey level for each class, a smooth field, blur and noise."""
    rng = np.random.default_rng([seed, sum(map(ord, name))])
    grey = np.asarray(LEVELS[name], np.float32)[label] + rng.normal(0, 6, 4).astype(np.float32)[label]
    field = Image.fromarray(rng.normal(0, FIELD, (5, 5)).astype(np.float32)).resize(label.shape[::-1], 3)
    soft = Image.fromarray((grey + np.asarray(field)).clip(0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(BLUR)
    )
    noisy = np.asarray(soft, np.float32) + rng.normal(0, NOISE, label.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def shifted(label: np.ndarray, shift: int, seed: int) -> np.ndarray:
    """The label moved by `shift` pixels in a direction of the patient's own, its rim continued."""
    angle = np.random.default_rng([seed, 7]).uniform(0, 2 * np.pi)
    dy, dx = round(shift * np.sin(angle)), round(shift * np.cos(angle))
    wide = np.pad(label, shift, mode="edge")
    height, width = label.shape
    return wide[shift - dy : shift - dy + height, shift - dx : shift - dx + width]


def write(root: Path, *, shift: int, side: int, counts: tuple[int, int, int], cross: bool) -> None:
    """images/a, images/b and masks of all patients; with `cross` one rendering each."""
    labelled = []
    for part, first, count in (("train", 0, counts[0] + counts[1]), ("val", 10_000, counts[2])):
        for k in range(count):
            name = f"p{k:04d}"
            label = phantom2d.frame(first + k, size=(side, side))[1]
            moved = shifted(label, shift, first + k)
            planes = {"a": rendering(label, "a", first + k), "b": rendering(moved, "b", first + k)}
            if cross:
                shown = "a" if part == "train" and k < counts[0] else "b"
                planes, label = {"": planes[shown]}, label if shown == "a" else moved
            for channel, array in planes.items():
                file = root / part / "images" / channel / f"{name}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(file)
            mask = root / part / "masks" / f"{name}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(label).save(mask)
            labelled += [name] if part == "train" and k < counts[0] else []
    (root / "labelled.txt").write_text("\n".join(labelled))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shifts", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", default=["supervised"])
    parser.add_argument("--drop", type=float, nargs="+", default=[0.0])
    parser.add_argument("--cross", action="store_true")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--counts", type=int, nargs=3, default=(8, 60, 40))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for shift in given.shifts:
        root = given.work / f"shift{shift}{'_cross' if given.cross else ''}"
        if not root.is_dir():
            write(root, shift=shift, side=given.side, counts=tuple(given.counts), cross=given.cross)
        for method in given.methods:
            for drop in given.drop:
                print(json.dumps(measure(root, method, drop, shift, given)), flush=True)


def measure(root: Path, method: str, drop: float, shift: int, given: argparse.Namespace) -> dict[str, object]:
    """Train one network and measure it: Dice with all channels and without each of them."""
    base = RECIPES["phantom"]()
    names = () if given.cross else ("a", "b")
    data = DataOptions(
        root=root,
        classes=phantom2d.CLASSES,
        size=(given.side, given.side),
        channels=1,
        channel_names=names,
        labelled="labelled.txt",
        seed=given.seed,
    )
    unlabelled = 0 if method == "supervised" else 4
    teacher = replace(
        base.teacher,
        widths=(8, 16, 16, 32, 32),
        method=METHODS[method],
        schedule=Schedule(steps=given.steps, labelled=4, unlabelled=unlabelled, validations=1),
    )
    recipe = replace(
        base, data=data, teacher=teacher, augment=replace(base.augment, drop_channel=drop), seed=given.seed
    )
    out = given.work / "run"
    shutil.rmtree(out, ignore_errors=True)
    context, start = RunContext(recipe, out), time.time()
    network = network_folder.load_network(train_stage(context, "teacher", teacher, teacher.method))
    seconds, predict, slices = time.time() - start, context.slices.predict(network), context.slices
    record: dict[str, object] = {"shift": shift, "method": method, "drop": drop, "seed": given.seed}
    scores = evaluate(predict, slices.val, dice_only=True)
    record["dice"] = round(scores.dice, 4)
    record["per_class"] = {name: round(values["dice"], 3) for name, values in scores.per_class.items()}
    fill = np.rint(255 * np.array(slices.normalise.mean)).astype(np.uint8)
    for name in names:
        cases = without(slices.cohort.val, names, name)
        prepared = prepare(
            cases,
            size=data.size,
            channels=2,
            classes=data.classes,
            channel_names=names,
            fill=fill,
            reading=slices.reading,
        )
        record[f"without_{name}"] = round(evaluate(predict, prepared, dice_only=True).dice, 4)
    return record | {"seconds": round(seconds)}


if __name__ == "__main__":
    main()
