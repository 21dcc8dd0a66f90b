"""Dice with 20, 40 and 80 labelled frames: chosen at random (5 draws) against chosen by `edgemt select`.

    python benchmarks/select_against_random.py kvasir-seg --recipe kvasir_cpu --budgets 20 40 80 --out select
    python benchmarks/select_against_random.py kvasir-seg --out select -- --teacher.schedule.steps 300

Masks are hidden from the choice; the validation folder measures. Every training has the same recipe, steps and seed; it
trains one teacher (`teacher.members` 1), and only the labelled list differs. Flags behind `--` are fields of the
recipe. A cut call goes on: finished teachers are kept. Writes OUT/select.json and prints a table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]


def main() -> None:
    reads = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reads.add_argument("root", type=Path, help="data folder; every training image with a mask is a candidate")
    reads.add_argument("--recipe", default="kvasir_cpu")
    reads.add_argument("--budgets", type=int, nargs="+", default=[20, 40, 80])
    reads.add_argument("--methods", nargs="+", default=["typical", "k-centre"])
    reads.add_argument("--draws", type=int, default=5, help="random lists for each budget")
    reads.add_argument("--out", type=Path, default=Path("select_against_random"))
    given, flags = reads.parse_known_args()
    sys.path.insert(0, str(ROOT))
    flags = [flag for flag in flags if flag != "--"]
    rows = []
    for name, budget, names in lists(given):
        rows.append({"list": name, "budget": budget, "dice": dice(given, flags, f"{name}-{budget}", names)})
        record = {"root": str(given.root), "recipe": given.recipe, "flags": flags, "rows": rows}
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "select.json").write_text(json.dumps(record, indent=1) + "\n")
        print(f"{name:12} {budget:4} {rows[-1]['dice']:.4f}", flush=True)
    print(table(rows))


def lists(given: argparse.Namespace) -> list[tuple[str, int, list[str]]]:
    """(name, budget, names of the labelled images), the same for every call."""
    from edgemt.data.options import DataOptions
    from edgemt.data_report.encoder_features import encoder
    from edgemt.selection.select import select

    extract, identity = encoder()
    cache, options = given.out / "features.npz", DataOptions(root=given.root)
    found = []
    for method in given.methods:
        for budget in given.budgets:
            chosen = select(
                options, budget=budget, method=method, extract=extract, identity=identity, cache=cache,
                ignore_masks=True,
            ).chosen  # fmt: skip
            found.append((method, budget, [item.name for item in chosen]))
    pool = candidates(options)
    for draw in range(given.draws):
        order = np.random.default_rng(draw).permutation(len(pool))
        found += [(f"random{draw}", budget, [pool[i] for i in order[:budget]]) for budget in given.budgets]
    return found


def candidates(options: Any) -> list[str]:
    from edgemt.data_report.listing import list_folder

    listing = list_folder(options, classes_given=False)
    return sorted(item.name for item in listing.items if item.part in ("labelled", "unlabelled"))


def dice(given: argparse.Namespace, flags: Sequence[str], name: str, names: Sequence[str]) -> float:
    """Validation Dice of a teacher that learned from the named masks alone."""
    from edgemt import recipes
    from edgemt.artefacts import stage_folder
    from edgemt.pipeline import flow
    from edgemt.pipeline.overrides import override

    folder = given.out / name
    folder.mkdir(parents=True, exist_ok=True)
    listed = (folder / "labelled.txt").resolve()
    listed.write_text("".join(f"{one}\n" for one in names))
    recipe = recipes.load(given.recipe)
    recipe = replace(recipe, teacher=replace(recipe.teacher, members=1))
    here = ["--data.root", str(given.root), "--data.labelled", str(listed), *flags]
    flow.run(override(recipe, here, prog="select_against_random"), folder, until="teacher")
    return float(stage_folder.read_card(folder / "teacher").measured[stage_folder.WEIGHTS].dice)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A row for each kind of list, a column for each budget; random as mean and standard deviation of its draws."""
    budgets = sorted({row["budget"] for row in rows})
    kinds = list(dict.fromkeys("random" if row["list"].startswith("random") else row["list"] for row in rows))
    lines = ["| list | " + " | ".join(f"{b} labels" for b in budgets) + " |", "|---" * (len(budgets) + 1) + "|"]
    for kind in kinds:
        cells = []
        for budget in budgets:
            own = [r["dice"] for r in rows if r["budget"] == budget and r["list"].startswith(kind)]
            spread = f" ± {statistics.stdev(own):.4f} ({len(own)})" if len(own) > 1 else ""
            cells.append(f"{statistics.fmean(own):.4f}{spread}")
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
