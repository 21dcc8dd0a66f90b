"""The rule by which the values of masks become class indices.

The index `IGNORE` (255) marks pixels that count in no loss, no metric and no statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgemt.contract import IGNORE
from edgemt.io.class_regions import from_regions, in_class
from edgemt.io.mask_files import Colour, Evidence, MaskFile


@dataclass(frozen=True)
class MaskValues:
    """What the user states of the values of masks: `label_map` such as ("1=edema", "4=core"), and what is ignored.

    `overlapping`: classes may overlap, so that a value may belong to several: ("whole=1,2,4", "core=1,4").
    """

    label_map: tuple[str, ...] = ()
    ignore: int | None = None
    overlapping: bool = False

    @property
    def stated(self) -> bool:
        return bool(self.label_map) or self.ignore is not None

    def indices(self, classes: tuple[str, ...]) -> dict[int, int]:
        """Value -> class index, the ignored value -> IGNORE. ValueError for a map that does not fit `classes`.

        Overlapping classes: value -> bits (`edgemt.io.class_regions`).
        """
        found: dict[int, int] = {}
        names = {name.casefold(): index for index, name in enumerate(classes)}
        if self.overlapping:
            return self._with_ignored(self._bits(names))
        for entry in self.label_map:
            value, _, name = entry.partition("=")
            if not value.strip().isdigit() or not name.strip():
                raise ValueError(f"data.label_map: {entry!r} is no VALUE=CLASS such as 1=edema")
            if name.strip().casefold() not in names:
                raise ValueError(f"data.label_map: {entry!r} names none of data.classes ({' '.join(classes)}); add it")
            if int(value) in found:
                raise ValueError(f"data.label_map: value {int(value)} is given twice; name its class once")
            found[int(value)] = names[name.strip().casefold()]
        if not self.label_map:
            found = {index: index for index in range(len(classes))}
        found.setdefault(0, 0)
        missing = [name for index, name in enumerate(classes) if index not in found.values()]
        if missing:
            raise ValueError(f"data.label_map: no value is {missing[0]!r}, one of data.classes; add it, or drop it")
        return self._with_ignored(found)

    def _bits(self, names: dict[str, int]) -> dict[int, int]:
        """Value -> bits of its classes, of entries CLASS=VALUE,VALUE or VALUE=CLASS."""
        found = {0: 0}
        for entry in self.label_map:
            left, _, right = (part.strip() for part in entry.partition("="))
            name, values = (right, left) if left.isdigit() else (left, right)
            numbers = [value.strip() for value in values.split(",")]
            if not name or not all(value.isdigit() for value in numbers):
                raise ValueError(f"data.label_map: {entry!r} is no CLASS=VALUE,VALUE such as core=1,3")
            if name.casefold() not in names:
                raise ValueError(f"data.label_map: {entry!r} names none of data.classes ({' '.join(names)}); add it")
            bit = 1 << names[name.casefold()] >> 1  # the background has none
            for value in map(int, numbers):
                found[value] = found.get(value, 0) | bit
        if found[0]:
            raise ValueError("data.label_map: 0 is the background of overlapping classes; give their other values")
        for name, index in names.items():
            if index and not any(bits >> (index - 1) & 1 for bits in found.values()):
                raise ValueError(f"data.label_map: no value is {name!r}, one of data.classes; add it, or drop it")
        return found

    def _with_ignored(self, found: dict[int, int]) -> dict[int, int]:
        if self.ignore is not None:
            if self.label_map and self.ignore in found and self.ignore:
                raise ValueError(f"data.ignore: {self.ignore} has a class in data.label_map; leave one of them out")
            found[self.ignore] = IGNORE
        return found


@dataclass(frozen=True)
class Rule:
    """How values become class indices. `threshold` None: they are the indices, or `table` has them."""

    classes: tuple[str, ...]
    threshold: int | None = None
    text: str = ""  # one line for the user
    by_colour: frozenset[str] = field(default=frozenset(), repr=False)  # palette files whose colours are the values
    table: Mapping[int, int] | None = None  # value -> class index or IGNORE, where the user states it
    overlapping: bool = False  # the table has bits in place of indices

    def indices(self, mask: MaskFile) -> np.ndarray:
        """uint8 class indices of the shape of the mask."""
        evidence = mask.evidence
        if self.table is not None:
            lookup = np.zeros(max(*self.table, int(mask.array.max(initial=0))) + 1, np.uint8)
            lookup[list(self.table)] = list(self.table.values())
            return lookup[mask.array]
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
        """Of all pixels of the masks that count, the share of each class; empty without a mask."""
        if self.overlapping:
            return self._shares_of_bits(files)
        counts = np.zeros(len(self.classes))
        for one in files:
            for value, number in self._values(one):
                if self.table is not None:
                    value = self.table[value]
                    if value != IGNORE:
                        counts[value] += number
                    continue
                value = value if self.threshold is None or one.kind == "bit" else int(value >= self.threshold)
                counts[value] += number
        return tuple((counts / counts.sum()).tolist()) if counts.any() else ()

    def _shares_of_bits(self, files: Sequence[Evidence]) -> tuple[float, ...]:
        """The share of pixels that each class has, overlapping ones in several."""
        pairs = [((self.table or {})[value], n) for one in files for value, n in one.levels.items()]
        counted = [(np.array(bits, np.uint8), n) for bits, n in pairs if bits != IGNORE]
        total = sum(n for _, n in counted)
        indices = range(1, len(self.classes))
        shares = [sum(n for bits, n in counted if in_class(bits, k, overlapping=True)) for k in indices]
        return (sum(n for bits, n in counted if not bits) / total, *(n / total for n in shares)) if total else ()

    def _values(self, one: Evidence) -> list[tuple[int, int]]:
        """Value and number of pixels, by colour where the colours of a palette are the values."""
        if one.path in self.by_colour:
            return [(max(colour), one.levels[index]) for index, colour in one.colours]
        return list(one.levels.items())


def overlapping_bits(rules: Sequence[Rule], masks: Sequence[MaskFile]) -> np.ndarray:
    """uint8 bits of a mask file for each class, each read by the rule of its class; IGNORE where one of them has it.

    Raises ValueError, naming the file, for masks of different shapes.
    """
    planes = [rule.indices(mask) for rule, mask in zip(rules, masks, strict=True)]
    for plane, mask in zip(planes, masks, strict=True):
        if plane.shape != planes[0].shape:
            first = masks[0].evidence.path
            raise ValueError(f"{mask.evidence.path}: mask is {plane.shape}, {first} is {planes[0].shape}; draw it anew")
    out = from_regions([plane == 1 for plane in planes])
    out[np.any([plane == IGNORE for plane in planes], axis=0)] = IGNORE
    return out


def _table(evidence: Evidence, value: Callable[[Colour], int]) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    for index, colour in evidence.colours:
        table[index] = value(colour)
    return table
