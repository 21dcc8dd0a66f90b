"""Two sets of models on the same cases: mean Dice of each, their difference, and its interval of 95 %.

    edgemt eval RUN/student --data.root DIR --json a.json
    python benchmarks/paired_dice.py --models a.json b.json --controls c.json d.json e.json

    python benchmarks/paired_dice.py --models a.json --controls b.json --patient '^patient[0-9]+'

The files are those of `edgemt eval --json`, one for each model. The models of a set are averaged case by case, so the
two sets may differ in size; cases, or with `--patient` the patients that they are of, are drawn with replacement (one
less than there are, Rao and Wu 1988), models are not: the interval states nothing of further seeds.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from edgemt.comparison.bootstrap import difference


def case_dice(files: list[Path]) -> dict[str, float]:
    """Name of a case -> Dice, mean over classes where it is defined, then over the models."""
    found: list[dict[str, float]] = []
    for file in files:
        cases: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["cases"]
        found.append({case["name"]: _mean_of_classes(case) for case in cases})
    names = set(found[0])
    for file, scores in zip(files, found, strict=True):
        if set(scores) != names:
            raise SystemExit(f"{file}: measured on other cases than {files[0]}; evaluate all on one list")
    return {name: float(np.mean([scores[name] for scores in found])) for name in sorted(names)}


def _mean_of_classes(case: dict[str, Any]) -> float:
    values = [of["dice"] for of in case.values() if isinstance(of, dict) and of.get("dice") is not None]
    return float(np.mean(values)) if values else float("nan")


def patients_of(names: list[str], pattern: str) -> list[str]:
    """The patient of each case; without a pattern each case is a patient."""
    found = [re.search(pattern, name) if pattern else None for name in names]
    if pattern and not all(found):
        raise SystemExit(f"--patient {pattern!r}: {names[found.index(None)]} has no such part")
    return [name if match is None else match.group(0) for name, match in zip(names, found, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--controls", type=Path, nargs="+", required=True)
    parser.add_argument("--patient", default="", help="regular expression of a patient in the name of a case")
    given = parser.parse_args()
    models, controls = case_dice(given.models), case_dice(given.controls)
    if set(models) != set(controls):
        raise SystemExit("the two sets were measured on different cases; evaluate all on one list")
    names = sorted(models)
    mine, other = (np.array([of[name] for name in names]).reshape(1, -1, 1) for of in (models, controls))
    patients = patients_of(names, given.patient)
    gap = difference(mine, other, groups=patients)
    record = {
        "cases": len(names),
        "patients": len(set(patients)),
        "models": round(float(np.nanmean(mine)), 4),
        "controls": round(float(np.nanmean(other)), 4),
        "difference": round(gap.mean, 4),
        "interval": [round(gap.low, 4), round(gap.high, 4)],
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
