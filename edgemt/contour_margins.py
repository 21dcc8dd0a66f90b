"""Margins of an outer and an inner contour, as a card holds them for one file. No torch, no numpy.

`edgemt.metrics.conformal` fits them and states the guarantee; `edgemt.io.contour_bands` turns them into regions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Unit = Literal["px", "mm"]


@dataclass(frozen=True)
class ContourMargins:
    """How far the outer line lies outside a predicted mask and the inner line inside it, class by class.

    A margin of None is not finite: that line is not drawn. They hold for the file whose hashes are in `graph` only.
    """

    alpha: float  # each line fails for at most this share of patients
    tolerance: float  # share of the true area that may lie outside the outer line, and of false area inside the inner
    unit: str  # px: pixels of the model's mask; mm: of a volume, in three dimensions
    outer: dict[str, float | None]  # class -> margin, the background left out
    inner: dict[str, float | None]
    patients: int  # that were calibrated on: one score a patient
    cases: int  # images or volumes of these patients
    list: str  # SHA-256 of the calibration list's content
    graph: str = ""  # SHA-256 of the file, of .xml and .bin together
    runtime: str = ""  # that ran the file in calibration
    created: str = ""

    def __post_init__(self) -> None:
        for name in ("alpha", "tolerance"):
            value = getattr(self, name)
            if not (0 < value < 1 or (name == "tolerance" and value == 0)):
                raise ValueError(f"contours: {name} must lie in 0 to 1, is {value!r}")
        if self.unit not in ("px", "mm"):
            raise ValueError(f"contours: unit {self.unit!r} is neither px nor mm")
        for name, values in (("outer", self.outer), ("inner", self.inner)):
            for margin in values.values():
                if margin is not None and not 0 <= margin < math.inf:
                    raise ValueError(f"contours: {name} margin {margin!r} is no number of 0 or more")

    @property
    def sure(self) -> str:
        """`90 of 100 patients`."""
        return f"{100 * (1 - self.alpha):.4g} of 100 patients"

    def claim(self, *, outer: str = "outer", inner: str = "inner") -> str:
        """What the lines mean, in one plain sentence; `outer` and `inner` are adjectives for them."""
        rest = f"all but {100 * self.tolerance:.2g} %" if self.tolerance else "all"
        return (
            f"in at least {self.sure} like the {self.patients} calibrated, the {outer} line encloses {rest} of the "
            f"true area; in at least {self.sure}, {rest} of the area inside the {inner} line is true"
        )


def graph_digest(file: str, digests: Mapping[str, str]) -> str:
    """The digest that margins of a card's `file` are bound to; empty for a file that is not on the card."""
    if file not in digests:
        return ""
    weights = digests.get(f"{file.removesuffix('.xml')}.bin", "") if file.endswith(".xml") else ""
    return f"{digests[file]}{weights}"


def margins_of(
    contours: Mapping[str, ContourMargins], files: Mapping[str, str], *, file: str
) -> tuple[ContourMargins | None, str]:
    """(margins of `file`, why there are none): of a card's `contours` and `files`.

    Margins of a graph that was replaced since are not returned.
    """
    found = contours.get(file)
    if found is None:
        return None, f"no margins for {file} on the card; edgemt calibrate fits them on labelled cases"
    if found.graph != graph_digest(file, files):
        return None, f"the margins on the card are of another {file}; run edgemt calibrate again"
    return found, ""
