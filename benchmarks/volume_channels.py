"""A V-Net of two channels against one of the first channel alone, with labels only; and the students of their banks.

    python benchmarks/volume_channels.py --work DIR --seeds 0 1

Two renderings of the synthetic heart of `edgemt.data.phantom3d`: `t1` shows chamber and wall and has tissue where the
vessel is, `t2` shows the vessel alone. Each line is one run, to the teacher or `--until student`, and its Dice on the
validation volumes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgemt.artefacts import stage_folder
from edgemt.data import phantom3d
from edgemt.data.augment_options import VolumeOptions
from edgemt.data.options import DataOptions
from edgemt.methods import METHODS
from edgemt.pipeline import flow
from edgemt.recipes import RECIPES

CLASSES, NAMES = phantom3d.CLASSES, ("t1", "t2")
SHAPE = (48, 48, 16)
TISSUE, FLOW, EMPTY, NOISE = 95, 150, 90, (10.0, 25.0)


def renderings(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [X, Y, Z, 2] and the label uint8 [X, Y, Z]."""
    image, label = phantom3d.volume(seed, SHAPE)
    rng = np.random.default_rng([seed, 11])
    vessel = label == CLASSES.index("vessel")
    planes = [np.where(vessel, TISSUE, image), np.where(vessel, FLOW, EMPTY)]
    noisy = [plane + rng.normal(0, noise, SHAPE) for plane, noise in zip(planes, NOISE, strict=True)]
    return np.stack(noisy, axis=-1).clip(0, 255).astype(np.uint8), label


def write(root: Path, *, names: tuple[str, ...], counts: tuple[int, int, int]) -> None:
    """images, labels, labelled.txt and val.txt; one file a channel, or the first channel alone."""
    import nibabel

    cases = [f"p{seed:03d}" for seed in range(sum(counts))]
    for seed, case in enumerate(cases):
        image, label = renderings(seed)
        arrays = {f"images/{case}_{name}": image[..., k] for k, name in enumerate(names)}
        arrays = arrays or {f"images/{case}": image[..., 0]}
        for name, array in {**arrays, f"labels/{case}": label}.items():
            path = root / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.diag([1.25, 1.25, 2.5, 1])), path)
    (root / "labelled.txt").write_text("\n".join(cases[: counts[0]]))
    (root / "val.txt").write_text("\n".join(cases[sum(counts[:2]) :]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--student-steps", type=int, default=300)
    parser.add_argument("--counts", type=int, nargs=3, default=(4, 12, 8), help="labelled, unlabelled, validating")
    parser.add_argument("--until", choices=("teacher", "student"), default="teacher")
    given = parser.parse_args()
    for seed in given.seeds:
        for names in (NAMES, ()):
            root = given.work / ("both" if names else "first")
            if not root.is_dir():
                write(root, names=names, counts=tuple(given.counts))
            print(json.dumps(measure(root, names, seed, given)), flush=True)


def measure(root: Path, names: tuple[str, ...], seed: int, given: argparse.Namespace) -> dict[str, object]:
    """Train teacher and student, and read their Dice from the cards."""
    base, side, lists = RECIPES["phantom_volumes"](), SHAPE[0] + 16, {"labelled": "labelled.txt", "val": "val.txt"}
    data = DataOptions(
        root=root, layout="volumes", classes=CLASSES, size=(side, side), channels=1, channel_names=names, **lists
    )
    few = replace(base.teacher.schedule, steps=given.steps, validations=1, labelled=2, unlabelled=0)
    teacher = replace(base.teacher, method=METHODS["supervised"], norm="group", filters=8, schedule=few)
    student = replace(base.student, schedule=replace(base.student.schedule, steps=given.student_steps, validations=1))
    volume = VolumeOptions(
        patch=(32, 32, 16), stride=(16, 16, 16), report_stride=(16, 16, 16), blend="gaussian", foreground=0.5
    )
    recipe = replace(base, data=data, volume=volume, teacher=teacher, student=student, seed=seed, threads=1)
    out, start = given.work / "run", time.time()
    shutil.rmtree(out, ignore_errors=True)
    flow.run(recipe, out, until=given.until)
    record: dict[str, object] = {"channels": names or NAMES[:1], "seed": seed}
    for stage in ("teacher", "student")[: 1 + (given.until == "student")]:
        metrics = stage_folder.read_card(out / stage).measured[stage_folder.WEIGHTS]
        figures = {"dice": metrics.dice} | {name: row["dice"] for name, row in metrics.per_class.items()}
        record[stage] = {name: None if value is None else round(value, 3) for name, value in figures.items()}
    return record | {"seconds": round(time.time() - start)}


if __name__ == "__main__":
    main()
