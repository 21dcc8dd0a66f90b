"""The one conversion of an image to eight bits: a rule for a whole data set, the same in training and on the device.

stored       images have eight bits: as they stand
percentiles  the 0.5 and 99.5 percentiles of each image or volume become 0 and 255
window       two values, the same for every image, become 0 and 255
auto         stored when every file of the set has eight bits, else percentiles
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from edgemt.io.images import to_uint8

Rule = Literal["auto", "stored", "percentiles", "window"]


@dataclass(frozen=True)
class Depth:
    """A rule, and the values (low, high) of a window. `auto` converts each file by its own depth."""

    rule: Rule = "auto"
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise ValueError(f"data.depth: {self.rule!r} is none of {', '.join(get_args(Rule))}")
        if self.window is None and self.rule == "window":
            raise ValueError("data.depth: window needs data.window LOW HIGH")
        if self.window is not None and not (np.isfinite(self.window).all() and self.window[0] < self.window[1]):
            raise ValueError(f"data.window: must be LOW HIGH with LOW < HIGH, not {self.window}")

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """Any numbers [H, W], [H, W, 3] or [X, Y, Z] -> uint8 of the same shape."""
        if self.rule == "window" and self.window is not None:
            wide = array.astype(np.float32) if array.dtype == np.uint8 else array  # a window holds for eight bits too
            return to_uint8(wide, window=self.window)
        if self.rule == "percentiles" and array.dtype == np.uint8:
            return to_uint8(array.astype(np.float32))
        return to_uint8(array)

    def unlike(self, array: np.ndarray) -> str | None:
        """A warning for a file with more bits than those of training; None otherwise."""
        if self.rule == "stored" and array.dtype != np.uint8:
            return "has more than 8 bits, training had 8: scaled by its own 0.5 to 99.5 percentiles (or give a window)"
        return None

    def __str__(self) -> str:
        if self.rule == "window" and self.window is not None:
            return f"window {self.window[0]:g} to {self.window[1]:g}"
        names = {"stored": "8 bits as stored", "percentiles": "0.5 to 99.5 percentiles of each"}
        return names.get(self.rule, self.rule)


def decide(rule: Rule, window: tuple[float, float] | None, deep: Iterable[bool]) -> Depth:
    """The rule of a data set. deep: for each file, whether it has more than eight bits."""
    if rule == "auto":
        rule = "window" if window is not None else "percentiles" if any(deep) else "stored"
    return Depth(rule, window)


def of_card(data: dict[str, Any], *, source: str | Path) -> Depth:
    """The rule on a card (`card.data`). `auto` for a card without one. Raises ValueError for an invalid rule."""
    rule, window = data.get("depth", "auto"), data.get("window")
    try:
        pair = None if window is None else (float(window[0]), float(window[1]))
        return Depth(cast(Rule, "window" if pair is not None and rule == "auto" else str(rule)), pair)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise ValueError(f"{source}: data.depth and data.window cannot be read ({error}); export it again") from None
