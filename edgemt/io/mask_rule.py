"""The rule by which the values of masks become class indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgemt.io.mask_files import Colour, Evidence, MaskFile


@dataclass(frozen=True)
class Rule:
    """How values become class indices. `threshold` None: they are the indices."""

    classes: tuple[str, ...]
    threshold: int | None = None
    text: str = ""  # one line for the user
    by_colour: frozenset[str] = field(default=frozenset(), repr=False)  # palette files whose colours are the values

    def indices(self, mask: MaskFile) -> np.ndarray:
        """uint8 class indices of the shape of the mask."""
        evidence = mask.evidence
        if evidence.kind == "bit":
            return mask.array
        if self.threshold is not None:
            if evidence.path in self.by_colour:
                return _table(evidence, lambda colour: int(max(colour) >= self.threshold))[mask.array]  # type: ignore[operator]
            return (mask.array >= self.threshold).view(np.uint8)
        if evidence.path in self.by_colour:
            return _table(evidence, lambda colour: colour[0])[mask.array]
        return mask.array.astype(np.uint8, copy=False)

    def shares(self, files: Sequence[Evidence]) -> tuple[float, ...]:
        """Of all pixels of the masks, the share of each class; empty without a mask."""
        counts = np.zeros(len(self.classes))
        for one in files:
            for value, number in self._values(one):
                value = value if self.threshold is None or one.kind == "bit" else int(value >= self.threshold)
                counts[value] += number
        return tuple((counts / counts.sum()).tolist()) if counts.any() else ()

    def _values(self, one: Evidence) -> list[tuple[int, int]]:
        """Value and number of pixels, by colour where the colours of a palette are the values."""
        if one.path in self.by_colour:
            return [(max(colour), one.levels[index]) for index, colour in one.colours]
        return list(one.levels.items())


def _table(evidence: Evidence, value: Callable[[Colour], int]) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    for index, colour in evidence.colours:
        table[index] = value(colour)
    return table
