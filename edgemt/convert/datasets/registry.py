"""The table of data sets, and those that are left out, with the reason."""

from __future__ import annotations

from edgemt.convert.datasets import brain, decathlon, endoscopy, heart, microscopy, skin_and_eye, trunk
from edgemt.convert.datasets.row import DataSet
from edgemt.errors import unknown_name_message

DATASETS: dict[str, DataSet] = {
    row.name: row for rows in (endoscopy, heart, trunk, brain, decathlon, microscopy, skin_and_eye) for row in rows.ROWS
}
NOT_INCLUDED: dict[str, str] = {
    "camelyon16": "whole-slide images are pyramids of tiles that no installed reader opens; tile them with OpenSlide, "
    "draw the XML outlines on the tiles, and import images and masks",
    "kermany": "a classification set: each OCT image has one class and no mask, so nothing can be segmented",
    "sclc": "the CT scans of small cell lung cancer were collected by one group and are not distributed; the layout of "
    "no public copy is documented",
}
_ALIASES = {alias: row.name for row in DATASETS.values() for alias in row.aliases}


def find_dataset(name: str) -> DataSet:
    """The row of a name or alias, in any case. ValueError for an unknown one, and for one that is left out."""
    key = name.strip().lower().replace("_", "-").replace(" ", "-")
    if key in NOT_INCLUDED:
        raise ValueError(f"{name}: is not imported: {NOT_INCLUDED[key]}")
    if _ALIASES.get(key, key) not in DATASETS:
        raise ValueError(unknown_name_message("data set", name, DATASETS) + "; edgemt list datasets has all")
    return DATASETS[_ALIASES.get(key, key)]


def is_dataset(name: str) -> bool:
    """Whether a name, alias or name of one that is left out is meant."""
    key = name.strip().lower()
    return key in DATASETS or key in _ALIASES or key in NOT_INCLUDED
