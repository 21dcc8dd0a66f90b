"""Dice of methods whose labelled masks are spoilt: none, 20 % and 40 % of them.

    python benchmarks/label_noise.py kvasir-seg --out noise --json label_noise.json
    python benchmarks/label_noise.py kvasir-seg --out noise --shares 0 0.4 --methods supervised cople --seeds 0 1000

For folders of images and masks in pairs with two classes. Of the share of spoilt masks a third each is grown by a fifth
of the object's extent, moved by half of it, and taken from another labelled image. The validation masks stay true.
Every training has the same recipe, steps and seed; `ensemble` is the mean probability of three supervised networks. A
cut call goes on: finished teachers are kept. Flags behind `--` are fields of the recipe.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

ROOT = Path(__file__).parents[1]
METHODS = ("supervised", "cople", "label_correction", "ensemble")
KINDS = ("grown", "moved", "swapped")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="data folder with train/images, train/masks, val and the labelled list")
    parser.add_argument("--recipe", default="kvasir_cpu")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.2, 0.4])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("label_noise"))
    parser.add_argument("--json", type=Path)
    given, flags = parser.parse_known_args()
    sys.path.insert(0, str(ROOT))
    flags = [flag for flag in flags if flag != "--"]
    rows: list[dict[str, object]] = []
    for seed in given.seeds:
        for share in given.shares:
            data, overlap = spoilt_copy(given, share, seed)
            for method in given.methods:
                dice = train(given, data, method, seed, flags)
                rows.append({"method": method, "share": share, "seed": seed, "dice": dice, "label_dice": overlap})
                print(f"{method:18} share {share:.1f}  seed {seed:5}  Dice {dice:.4f}", flush=True)
                if given.json:
                    record = {"date": time.strftime("%Y-%m-%d"), "recipe": given.recipe, "steps": given.steps,
                              "flags": flags, "rows": rows}  # fmt: skip
                    given.json.write_text(json.dumps(record, indent=1) + "\n")
    print(table(rows))


def spoilt_copy(given: argparse.Namespace, share: float, seed: int) -> tuple[Path, float]:
    """A folder whose images are links and whose labelled masks are spoilt, and the mean Dice of these to the true ones.

    The lists of two shares are nested: what is spoilt at 0.2 is spoilt in the same way at 0.4.
    """
    from edgemt import recipes

    options = recipes.load(given.recipe).data
    root = given.root.resolve()
    names = (root / str(options.labelled)).read_text().split()
    masks = {name: _read(root, name) for name in names}
    copy = given.out / f"data-{share}-{seed}"
    shutil.rmtree(copy, ignore_errors=True)
    (copy / "train" / "masks").mkdir(parents=True)
    (copy / "train" / "images").symlink_to(root / "train" / "images")
    (copy / "val").symlink_to(root / "val")
    (copy / options.labelled).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root / str(options.labelled), copy / options.labelled)
    rng = np.random.default_rng(seed)
    order = [names[i] for i in rng.permutation(len(names))]
    angles = rng.uniform(0, 2 * np.pi, len(names))
    spoilt = order[: round(share * len(names))]
    overlaps = []
    for position, name in enumerate(order):
        mask = masks[name]
        if position < len(spoilt):
            other = masks[order[(position + 1) % len(order)]]
            mask = spoil(mask, KINDS[position % len(KINDS)], other, angles[position])
        overlaps.append(2 * (mask & masks[name]).sum() / max(1, mask.sum() + masks[name].sum()))
        Image.fromarray(mask.astype(np.uint8) * 255).save(copy / "train" / "masks" / f"{Path(name).stem}.png")
    return copy, statistics.fmean(overlaps)


def spoil(mask: np.ndarray, kind: str, other: np.ndarray, angle: float) -> np.ndarray:
    """bool [H, W] -> bool [H, W]. `kind`: grown, moved by `angle`, or swapped with `other`, scaled to this size."""
    if kind == "swapped":
        image = Image.fromarray(other).resize(mask.shape[::-1], Image.Resampling.NEAREST)
        return np.asarray(image, dtype=bool)
    extent = np.sqrt(mask.sum())
    if kind == "grown":
        return np.asarray(ndimage.distance_transform_edt(~mask) <= extent / 5)
    shift = np.rint(extent / 2 * np.array([np.sin(angle), np.cos(angle)]))
    return np.asarray(ndimage.shift(mask, shift, order=0, cval=False))


def _read(root: Path, name: str) -> np.ndarray:
    found = [path for path in (root / "train" / "masks").glob(f"{Path(name).stem}.*")]
    return np.asarray(Image.open(found[0]).convert("L")) >= 128


def train(given: argparse.Namespace, data: Path, method: str, seed: int, flags: Sequence[str]) -> float:
    """Validation Dice of the delivered weights."""
    from edgemt import recipes
    from edgemt.artefacts import stage_folder
    from edgemt.methods import METHODS as known
    from edgemt.pipeline import flow
    from edgemt.pipeline.overrides import override

    recipe = recipes.load(given.recipe)
    unlabelled = 0 if method in ("supervised", "ensemble") else recipe.teacher.schedule.labelled
    teacher = replace(
        recipe.teacher,
        method=recipe.teacher.method if unlabelled == 0 else known[method],
        members=3 if method == "ensemble" else 1,
        schedule=replace(recipe.teacher.schedule, steps=given.steps, unlabelled=unlabelled),
    )
    here = ["--data.root", str(data), "--seed", str(seed), *flags]
    folder = given.out / f"{method}-{data.name}"
    flow.run(override(replace(recipe, teacher=teacher), here, prog="label_noise"), folder, until="teacher")
    return float(stage_folder.read_card(folder / "teacher").measured[stage_folder.WEIGHTS].dice)


def table(rows: Sequence[dict[str, object]]) -> str:
    """A row for each method, a column for each share: the mean over the seeds."""
    shares = sorted({float(str(row["share"])) for row in rows})
    lines = ["| method | " + " | ".join(f"{s:.0%} spoilt" for s in shares) + " |", "|---" * (len(shares) + 1) + "|"]
    for method in dict.fromkeys(str(row["method"]) for row in rows):
        cells = []
        for share in shares:
            own = [float(str(r["dice"])) for r in rows if r["method"] == method and r["share"] == share]
            cells.append(f"{statistics.fmean(own):.3f}" if own else "")
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
