"""The cases of the phantom layouts: numbers of synthetic frames and volumes, which are drawn when they are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from edgemt.contract import Case
from edgemt.data import phantom3d
from edgemt.data.options import DataOptions
from edgemt.data.splits import parse_count_or_fraction

Cases = tuple[Case, ...]


def slices_of(case: Case, depth: int) -> list[Case]:
    """A case for each slice of a volume."""
    return [replace(case, name=f"{case.name}/{k:03d}", slice=k) for k in range(depth)]


def synthetic_cases(options: DataOptions, *, whole_volumes: bool) -> tuple[Cases, Cases, Cases, Cases]:
    """The lists labelled, unlabelled, val and calibration.

    Training cases depend on `seed`; the validation cases are the same for every seed.

    With `labelled_seed` the labelled cases are drawn from the training cases by that seed.
    """
    deep = options.layout == "phantom_volumes"
    if whole_volumes and not deep:
        raise ValueError("data.layout: phantom draws single frames; a 3-D network needs phantom_volumes")
    given = (options.labelled, options.unlabelled, options.val)
    counts = []
    for name, text, default in zip(("labelled", "unlabelled", "val"), given, options.phantom, strict=True):
        count = parse_count_or_fraction(text, field=name) if text else default
        if not isinstance(count, int) or (count < 1 and name != "unlabelled"):
            raise ValueError(f"data.{name}: the phantom layouts take a count, not {text!r}")
        counts.append(count)
    first = 1_000_000 * (options.seed + 1)

    def cases(numbers: Iterable[int], *, with_labels: bool) -> tuple[Case, ...]:
        paths = [f"{phantom3d.PREFIX if deep else 'phantom:'}{number}" for number in numbers]
        found = [Case(path, path, path, path if with_labels else None) for path in paths]
        if deep and not whole_volumes:
            found = [slice_ for case in found for slice_ in slices_of(case, phantom3d.SHAPE[2])]
        return tuple(found)

    labelled: Sequence[int] = range(first, first + counts[0])
    unlabelled: Sequence[int] = range(
        first + counts[0], first + counts[0] + counts[1]
    )  # contiguous: a ceiling labels these
    if options.labelled_seed is not None and options.labelled:
        pool = range(first, first + options.phantom[0] + counts[1])
        if counts[0] > len(pool):
            raise ValueError(f"data.labelled: needs {counts[0]} phantoms, {len(pool)} are there")
        drawn = sorted(np.random.default_rng(options.labelled_seed).permutation(len(pool))[: counts[0]])
        labelled = [pool[i] for i in drawn]
        unlabelled = [number for number in pool if number not in labelled]
    val, calibration = range(counts[2]), range(0)
    if options.calibration:
        count = parse_count_or_fraction(options.calibration, field="calibration")
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"data.calibration: the phantom layouts take a count, not {options.calibration!r}")
        calibration = range(500_000, 500_000 + count)
    elif options.calibration_share:
        first = counts[2] - min(max(1, round(options.calibration_share * counts[2])), counts[2] - 1)
        val, calibration = val[:first], val[first:]
    return (
        cases(labelled, with_labels=True),
        cases(unlabelled, with_labels=False),
        cases(val, with_labels=True),
        cases(calibration, with_labels=True),
    )
