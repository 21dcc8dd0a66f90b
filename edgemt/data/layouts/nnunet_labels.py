"""What the `labels` of a dataset.json state: classes, regions that overlap, and the value without a label.

decathlon  {"0": "background", "1": "spleen"}
nnU-Net    {"background": 0, "spleen": 1, "ignore": 2}; `ignore` is the value above all others
regions    {"background": 0, "whole": [1, 2, 3], "core": [2, 3]} with "regions_class_order", a number for each region,
           by which nnU-Net makes one map of its predictions; EdgeMT writes a mask for each class and needs none

Facts from https://github.com/MIC-DKFZ/nnUNet, documentation/region_based_training.md and ignore_label.md, and its
LabelManager: labels are regions where one of them has several values, [3] alone is 3.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemt.io.channels import quoted
from edgemt.io.class_regions import MAX_OVERLAPPING
from edgemt.io.mask_rule import MaskValues

_IGNORE = "ignore"


@dataclass(frozen=True)
class DatasetLabels:
    """`classes`: background first. `regions`: class -> its values; empty for plain labels. Several of them overlap."""

    classes: tuple[str, ...]
    regions: Mapping[str, tuple[int, ...]]
    ignore: int | None = None

    @property
    def overlapping(self) -> bool:
        """Whether a pixel may be of several classes; one region alone is a class of several values."""
        return len(self.regions) > 1

    @property
    def label_map(self) -> tuple[str, ...]:
        """As `data.label_map`: whole=1,2,3, of one region 1=whole 2=whole; empty for plain labels."""
        if not self.overlapping:
            return tuple(f"{value}={name}" for name, values in self.regions.items() for value in values)
        return tuple(f"{name}={','.join(map(str, values))}" for name, values in self.regions.items())

    @property
    def flags(self) -> str:
        """The flags of a command that reads the masks so."""
        flags = f"--data.classes {quoted(self.classes)}"
        if self.regions:
            flags += " --data.overlapping" if self.overlapping else ""
            flags += f" --data.label-map {shlex.join(self.label_map)}"
        return flags + (f" --data.ignore {self.ignore}" if self.ignore is not None else "")

    def check(self, classes: tuple[str, ...], values: MaskValues, *, source: Path) -> None:
        """Raises ValueError, with the flags that fit, where the options read the masks otherwise than the file states.

        A label map of the user counts in place of the names of the file; a region of its name keeps its values.
        """
        if self.ignore is not None and values.ignore != self.ignore:
            given = "is not set" if values.ignore is None else f"is {values.ignore}"
            raise ValueError(f"data.ignore: {given}, {source} ignores {self.ignore}; set {self.flags}")
        if self.regions and not (values.label_map and (values.overlapping or not self.overlapping)):
            raise ValueError(f"{source}: its labels are regions, classes of several values; set {self.flags}")
        if values.overlapping and values.label_map:
            self._check_regions(classes, values, source)
            return
        same = [name.casefold() for name in self.classes] == [name.casefold() for name in classes]
        if not same and not values.overlapping and not values.label_map:
            wanted = quoted(self.classes)
            raise ValueError(
                f"data.classes: {' '.join(classes)} are not those of {source}; set --data.classes {wanted}"
            )

    def _check_regions(self, classes: tuple[str, ...], values: MaskValues, source: Path) -> None:
        bits = values.indices(classes)
        own = {name.casefold(): set(region) for name, region in self.regions.items()}
        for index, name in enumerate(classes[1:]):
            found = {value for value, bit in bits.items() if bit >> index & 1 and value != values.ignore}
            if own.get(name.casefold(), found) != found:
                theirs = _listed(own[name.casefold()])
                raise ValueError(
                    f"data.label_map: {name} has the values {_listed(found)}, in {source} {theirs}; set {self.flags}"
                )


def _listed(values: set[int]) -> str:
    return ",".join(map(str, sorted(values)))


def read_labels(raw: Mapping[str, Any], source: Path) -> DatasetLabels:
    """Of the content of a dataset.json. Raises ValueError, naming the file, for what nnU-Net or EdgeMT cannot read."""
    labels = raw.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise ValueError(f"{source}: has no 'labels' that name the classes")
    if all(str(key).isdigit() for key in labels):  # the decathlon writes value: name, nnU-Net name: value
        pairs = {str(name): (int(value),) for value, name in labels.items()}
        if len(pairs) < len(labels):
            raise ValueError(f"{source}: 'labels' names a class twice: {labels}; mend it")
        return DatasetLabels(_plain(pairs, source, labels), {})
    values = {str(name): _values(value, name, source) for name, value in labels.items()}
    ignored = values.pop(_IGNORE, None)
    every = {value for own in values.values() for value in own}
    if ignored is not None and (isinstance(labels[_IGNORE], list) or not every or ignored[0] != max(every) + 1):
        raise ValueError(
            f"{source}: 'ignore' is {labels[_IGNORE]}; nnU-Net requires the value above all others, one number: "
            f"{max(every, default=0) + 1}"
        )
    ignore = None if ignored is None else ignored[0]
    if not any(len(own) > 1 for own in values.values()):
        return DatasetLabels(_plain(values, source, labels), {}, ignore)
    regions = _regions(values, raw.get("regions_class_order"), source)
    return DatasetLabels(("background", *regions), regions, ignore)


def _values(value: Any, name: str, source: Path) -> tuple[int, ...]:
    own = value if isinstance(value, list) else [value]
    numbers = [int(v) if isinstance(v, str) and v.isdigit() else v for v in own]
    if not numbers or any(isinstance(v, bool) or not isinstance(v, int) or not 0 <= v < 65536 for v in numbers):
        raise ValueError(
            f"{source}: label {name!r} is {value!r}; write one whole number, or a list of them for a region"
        )
    return tuple(sorted(set(numbers)))


def _plain(values: Mapping[str, tuple[int, ...]], source: Path, labels: Any) -> tuple[str, ...]:
    """In the order of their values, which must be 0, 1, 2 ..."""
    by_value = {own[0]: name for name, own in values.items()}
    if sorted(by_value) != list(range(len(values))):
        raise ValueError(f"{source}: 'labels' must be numbered 0 to {len(values) - 1}, not {labels}")
    return tuple(by_value[value] for value in sorted(by_value))


def _regions(values: Mapping[str, tuple[int, ...]], order: Any, source: Path) -> dict[str, tuple[int, ...]]:
    if values.get("background") != (0,):
        raise ValueError(f"{source}: regions need 'background': 0 in 'labels', as in nnU-Net; add it")
    regions = {name: own for name, own in values.items() if own != (0,)}
    for name, own in regions.items():
        if 0 in own:
            raise ValueError(
                f"{source}: region {name!r} has the value 0, which is the background; give its other values"
            )
        if "=" in name or name.isdigit() or name != name.strip():
            raise ValueError(
                f"{source}: region {name!r} cannot be the name of a class; take = and digits alone out of it"
            )
    if len({name.casefold() for name in regions}) < len(regions):
        raise ValueError(f"{source}: two regions have names that differ in case alone; rename one")
    if order is not None and (not isinstance(order, list) or len(order) != len(regions)):
        raise ValueError(
            f"{source}: 'regions_class_order' must have a number for each of the {len(regions)} regions, not {order!r}"
            "; a region is missing or one too many"
        )
    if len(regions) > MAX_OVERLAPPING:
        raise ValueError(
            f"{source}: has {len(regions)} regions, at most {MAX_OVERLAPPING} classes may overlap; train two models, "
            "each with some of them: --data.overlapping --data.label-map"
        )
    return regions
