"""The gates: what is measured and found worse than allowed is not written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class GateError(ValueError):
    """An artefact was measured and refused. Holds the numbers beside the sentence."""

    def __init__(self, sentence: str, *, what: str, expected: float, measured: float, tolerance: float) -> None:
        super().__init__(sentence)
        self.what = what
        self.expected = expected
        self.measured = measured
        self.tolerance = tolerance

    @property
    def reason(self) -> str:
        """What was measured, without what follows from it."""
        return str(self).partition("; nothing was written")[0]


def gate(parent_dice: float, dice: float, *, tolerance: float, what: str, knob: str) -> float:
    """The drop in Dice from the parent (negative: a gain). Raises GateError when it exceeds `tolerance`.

    `what` names the artefact ("int8/openvino"), `knob` what the user can turn ("prune.share"). A Dice that is
    not a number is refused as well: nothing was measured.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance = {tolerance}: must be a Dice difference of 0 or more, such as 0.01")
    drop = parent_dice - dice
    numbers = {"what": what, "expected": parent_dice, "measured": dice, "tolerance": tolerance}
    if not math.isfinite(drop):
        raise GateError(
            f"{what}: Dice {dice:.4f} against its parent's {parent_dice:.4f}: not measured, so nothing was "
            "written; check that the validation list holds labelled foreground",
            **numbers,  # type: ignore[arg-type]
        )
    if drop > tolerance + 1e-9:
        raise GateError(
            f"{what}: Dice {dice:.4f} is {drop:.4f} below its parent's {parent_dice:.4f}, the tolerance is "
            f"{tolerance:g}; nothing was written; turn {knob}, or allow more with a larger tolerance",
            **numbers,  # type: ignore[arg-type]
        )
    return drop


def gate_classes(
    parent: Mapping[str, float | None], child: Mapping[str, float | None], *, tolerance: float, what: str, knob: str
) -> dict[str, float]:
    """The drop of each class, every one of them held to `tolerance`: a mean hides the organ that was lost.

    Both map a class to its Dice. A class that the parent could not be measured on (no case has it) is passed over.
    """
    drops = {}
    for name, before in parent.items():
        if before is None or math.isnan(before):
            continue
        after = child.get(name)
        after = math.nan if after is None else after
        drops[name] = gate(before, after, tolerance=tolerance, what=f"{what}, class {name!r}", knob=knob)
    return drops


def agree(expected: np.ndarray, masks: np.ndarray, *, least: float, what: str, knob: str) -> float:
    """The share of equal voxels of two stacks of masks of one shape. Raises GateError below `least`."""
    if expected.shape != masks.shape or not expected.size:
        raise ValueError(f"{what}: masks of shape {masks.shape} cannot be compared with {expected.shape}")
    share = float((expected == masks).mean())
    if share < least:
        raise GateError(
            f"{what}: gives the class of its source in {share:.2%} of the voxels, {least:.2%} are asked for; "
            f"nothing was written; turn {knob}",
            what=what,
            expected=least,
            measured=share,
            tolerance=0.0,
        )
    return share
