"""Tiers in place of ranks: which methods have no sure difference to the best one.

The best of the remaining methods heads a tier; all whose paired difference to it has an interval that contains zero
are in its tier. Methods are ordered by their mean difference to supervised training over the seeds that both have, as
seeds that draw other labelled patients cannot be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgemt.comparison.bootstrap import PairedDifference, dice, difference

Scores = Mapping[int, np.ndarray]  # seed -> [N, K], NaN where Dice is not defined


@dataclass(frozen=True)
class Place:
    """Where a method stands. `to_best` is None of the tier's best itself."""

    tier: int | None  # 1 is the best; None: no seed in common with the best
    level: float | None  # mean difference to the control, or mean Dice where there is no control
    best: str = ""
    to_best: PairedDifference | None = None


def tiers(scores: Mapping[str, Scores], *, groups: Sequence[str], control: str) -> dict[str, Place]:
    """Each method's place, sorted by tier, within a tier by level. Methods without a finished seed are left out."""
    rows = {name: scores[name] for name in sorted(scores) if scores[name]}
    levels = {name: _level(of, rows.get(control)) for name, of in rows.items()}
    remaining = sorted((name for name in rows if levels[name] is not None), key=lambda name: -(levels[name] or 0.0))
    places: dict[str, Place] = {}
    unplaced = [name for name in rows if levels[name] is None]
    number = 0
    while remaining:
        best, number, later = remaining[0], number + 1, []
        places[best] = Place(number, levels[best], best)
        for name in remaining[1:]:
            gap = paired(rows[name], rows[best], groups=groups)
            if gap is None:
                unplaced.append(name)
            elif gap.high >= 0.0:
                places[name] = Place(number, levels[name], best, gap)
            else:
                later.append(name)
        remaining = later
    return places | {name: Place(None, levels[name]) for name in unplaced}


def paired(mine: Scores, other: Scores, *, groups: Sequence[str]) -> PairedDifference | None:
    """Over the seeds that both have; None where they have none in common."""
    seeds = [seed for seed in mine if seed in other]
    if not seeds:
        return None
    one, two = (np.stack([of[seed] for seed in seeds]) for of in (mine, other))
    return difference(one, two, groups=groups)


def _level(mine: Scores, control: Scores | None) -> float | None:
    if control is None:
        return float(dice(np.stack(list(mine.values()))).mean())
    seeds = [seed for seed in mine if seed in control]
    gaps = [dice(mine[seed][None])[0] - dice(control[seed][None])[0] for seed in seeds]
    return float(np.mean(gaps)) if gaps else None
