"""Two models on the same frames: how far their masks agree, and how much longer one takes.

Shapes: H W of a frame, h w of a model's mask.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgemt.contract import Runner
from edgemt.io.images import fit_frame, fit_label
from edgemt.model_card import ModelCard


@dataclass(frozen=True)
class ShadowResult:
    """Foreground Dice between both models' masks over frames, their mean areas, and median times of a mask."""

    frames: int
    mean_dice: float
    worst_dice: float
    below_half: int  # frames with a Dice below 0.5
    area_in_use: float  # mean share of the picture that is no background
    area_new: float
    ms_in_use: float
    ms_new: float

    def __str__(self) -> str:
        return (
            f"{self.frames} frames beside the model in use: foreground Dice between both {self.mean_dice:.3f} (worst "
            f"{self.worst_dice:.3f}, {self.below_half} below 0.5), area {self.area_in_use:.1%} -> {self.area_new:.1%}, "
            f"{self.ms_in_use:.1f} -> {self.ms_new:.1f} ms a mask"
        )


def compare_masks(
    in_use: Runner, card_in_use: ModelCard, new: Runner, card_new: ModelCard, frames: Iterator[np.ndarray]
) -> ShadowResult:
    """Run both on every frame, uint8 [H, W] or [H, W, 3]; masks are compared at the size of the new model.

    Raises ValueError without any frame.
    """
    dice, areas, times = [], [], []
    for frame in frames:
        masks, took = [], []
        for run, card in ((in_use, card_in_use), (new, card_new)):
            fitted = fit_frame(frame, size=card.size, channels=card.channels)[None]
            began = time.perf_counter()
            masks.append(np.asarray(run(fitted)[0]))
            took.append((time.perf_counter() - began) * 1e3)
        old, fresh = fit_label(masks[0], size=card_new.size), masks[1]
        total = int((old > 0).sum()) + int((fresh > 0).sum())
        dice.append(2 * int(((old == fresh) & (fresh > 0)).sum()) / total if total else 1.0)
        areas.append((float((old > 0).mean()), float((fresh > 0).mean())))
        times.append(took)
    if not dice:
        raise ValueError("frames: there are none; name a folder with images, or leave the option out")
    area, ms = np.mean(areas, axis=0), np.median(times, axis=0)
    below = sum(value < 0.5 for value in dice)
    return ShadowResult(
        len(dice), float(np.mean(dice)), min(dice), below, float(area[0]), float(area[1]), float(ms[0]), float(ms[1])
    )
