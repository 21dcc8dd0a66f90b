"""Accuracy gates: an artefact that loses more than the tolerance is refused, and not written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class GateError(ValueError):
    """An artefact was measured and refused; the numbers are attributes."""

    def __init__(self, sentence: str, *, what: str, expected: float, measured: float, tolerance: float) -> None:
        super().__init__(sentence)
        self.what = what
        self.expected = expected
        self.measured = measured
        self.tolerance = tolerance

    @property
    def reason(self) -> str:
        """The part of the message with the measurement, without the advice."""
        return str(self).partition("; nothing was written")[0]


def gate(parent_dice: float | None, dice: float | None, *, tolerance: float, what: str, hint: str) -> float:
    """The drop in Dice from the parent (negative: a gain). Raises GateError where it exceeds `tolerance`.

    `what` names the artefact ("int8/openvino"), `hint` the option that the user can change ("prune.share"). A Dice that
    is None or NaN is refused as well, since nothing was measured.
    """
    parent_dice, dice = as_number(parent_dice), as_number(dice)
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
            f"{tolerance:g}; nothing was written; turn {hint}, or allow more with a larger tolerance",
            **numbers,  # type: ignore[arg-type]
        )
    return drop


def gate_classes(
    parent: Mapping[str, float | None], child: Mapping[str, float | None], *, tolerance: float, what: str, hint: str
) -> dict[str, float]:
    """The drop in Dice of each class, with `gate` for each: a mean over classes would hide a lost organ.

    `parent` and `child` map a class to its Dice. A class that the parent has no Dice for (no case contains it) is
    skipped.
    """
    drops = {}
    for name, before in parent.items():
        if before is None or math.isnan(before):
            continue
        drops[name] = gate(before, child.get(name), tolerance=tolerance, what=f"{what}, class {name!r}", hint=hint)
    return drops


def as_number(dice: float | None) -> float:
    """NaN for a Dice that was not measured."""
    return math.nan if dice is None else dice


def check_agreement(expected: np.ndarray, masks: np.ndarray, *, least: float, what: str, hint: str) -> float:
    """The fraction of equal voxels of two stacks of masks of one shape. Raises GateError below `least`."""
    if expected.shape != masks.shape or not expected.size:
        raise ValueError(f"{what}: masks of shape {masks.shape} cannot be compared with {expected.shape}")
    agreement = float((expected == masks).mean())
    if agreement < least:
        raise GateError(
            f"{what}: gives the class of its source in {agreement:.2%} of the voxels, {least:.2%} are required; "
            f"nothing was written; turn {hint}",
            what=what,
            expected=least,
            measured=agreement,
            tolerance=0.0,
        )
    return agreement
