"""Coverage and width of the conformal contours on real data, over random splits of patients.

    python benchmarks/contour_coverage.py SHIP --data.root DIR [--data.val LIST] --files int8 fp32 --out FILE.json

Each file predicts every case once; then half of the patients calibrate and the others are covered or not, 200 times.
The number of covered ones follows a beta-binomial law, whose 95 % band the record names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from scipy.stats import betabinom
from tyro.conf import Positional, arg

from deploy.hardware.machine import describe
from deploy.package.package import open_package
from deploy.runtimes.load import runner
from edgemt.inference.contours import list_digest, patients_of, score_masks, unit_of
from edgemt.inference.evaluate import frame_masks
from edgemt.inference.evaluate_package import find_cases, read_cases
from edgemt.metrics import conformal


@dataclass(frozen=True)
class Options:
    """What is measured."""

    ship: Positional[Path]
    root: Annotated[Path, arg(name="data.root")]
    out: Path
    val: Annotated[str, arg(name="data.val")] = ""
    files: tuple[str, ...] = ("int8",)
    alpha: float = 0.1
    tolerances: tuple[float, ...] = (0.0, 0.01)
    splits: int = 200
    calibration: int = 0  # patients; 0: half


def main(options: Options) -> None:
    ship = open_package(options.ship)
    data, cases = find_cases(ship, options.root, options.val)
    prepared, patients = read_cases(ship.card, data, cases), patients_of(cases)
    rows = []
    for file in options.files:
        made = runner(ship, file=file)
        masks = frame_masks(made, prepared)
        for tolerance in options.tolerances:
            scores = conformal.worst_of_patient(score_masks(masks, prepared, tolerance=tolerance), patients)
            for c, name in enumerate(ship.card.classes[1:]):
                row = {"file": made.file, "runtime": made.runtime, "class": name, "tolerance": tolerance}
                rows.append(row | _lines(scores[:, c], options))
    scale = float(np.mean([(t.shape[-1] * t.shape[-2] / np.prod(ship.card.size)) ** 0.5 for t in prepared.truths]))
    record = {
        "ship": ship.card.name, "patients": len(set(patients)), "cases": len(prepared), "unit": unit_of(prepared),
        "frame_pixels_per_unit": scale if unit_of(prepared) == "px" else None, "list": list_digest(cases),
        "alpha": options.alpha, "splits": options.splits, "cpu": describe().get("cpu"), "rows": rows,
    }  # fmt: skip
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})


def _lines(scores: np.ndarray, options: Options) -> dict[str, Any]:
    """Both lines of one class, scores [n, 2], with the same splits."""
    n = options.calibration or len(scores) // 2
    m, k = len(scores) - n, conformal.quantile_rank(n, options.alpha)
    law = betabinom(m, k, n + 1 - k)
    low, high = float(law.ppf(0.025)) / m, float(law.ppf(0.975)) / m
    found: dict[str, Any] = {"calibration": n, "test": m, "expected": k / (n + 1), "band": [low, high]}
    held_both, draw = np.empty(options.splits), np.random.default_rng(0)
    for index in range(options.splits):
        order = draw.permutation(len(scores))
        margin = np.array([conformal.conformal_quantile(column[order[:n]], options.alpha) for column in scores.T])
        held_both[index] = (scores[order[n:]] <= margin).all(-1).mean()
    for line, column in zip(("outer", "inner"), scores.T, strict=True):
        coverage, margins = conformal.random_split_coverage(
            column, alpha=options.alpha, calibration=n, splits=options.splits
        )
        found |= {
            f"{line}_coverage": float(coverage.mean()),
            f"{line}_coverage_std": float(coverage.std()),
            f"{line}_in_band": float(((coverage >= low) & (coverage <= high)).mean()),
            f"{line}_margin": float(np.median(margins)),
            f"{line}_margin_10_90": [float(v) for v in np.quantile(margins, (0.1, 0.9))],
            f"{line}_infinite": float(np.isinf(margins).mean()),
            f"{line}_median_score": float(np.median(column)),
        }
    return found | {"both_coverage": float(held_both.mean()), "width": found["outer_margin"] + found["inner_margin"]}


if __name__ == "__main__":
    main(tyro.cli(Options))
