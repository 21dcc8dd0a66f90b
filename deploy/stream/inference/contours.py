"""The outer and inner contours of live masks, and when their claim is dropped.

The claim holds for frames like those calibrated on. It is dropped, so that no line is drawn, where the card has no
margins for the file, where they are of volumes, and where a frame is unlike the training frames.

Shapes: h w size of the model's mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploy.package.input_drift import LIKENESS_LIMIT
from edgemt.contour_margins import ContourMargins, margins_of
from edgemt.io.contour_bands import Band, bands
from edgemt.model_card import ModelCard


@dataclass(frozen=True)
class StreamContours:
    """The margins of the file that runs, or the reason why there are none."""

    classes: Sequence[str]
    margins: ContourMargins | None
    reason: str = ""
    overlapping: bool = False  # masks are bits

    @property
    def claim(self) -> str:
        """What the lines mean, for a display; empty without margins."""
        return "" if self.margins is None else self.margins.claim(outer="dashed", inner="thin")

    def dropped(self, likeness: float | None, *, voted: bool = False) -> str:
        """Why a mask has no lines; empty if it has. `likeness` None: it is not known. `voted`: of several masks."""
        if self.margins is not None and voted:
            return "the margins hold for single masks, and these are a vote of several"
        if self.margins is not None and likeness is not None and likeness < LIKENESS_LIMIT:
            return "the picture is unlike those of training, so the calibration does not hold"
        return self.reason

    def of(self, mask: np.ndarray) -> tuple[Band, ...]:
        """The regions of a mask [h, w]; none without margins."""
        if self.margins is None:
            return ()
        return tuple(bands(mask, self.margins, classes=self.classes, overlapping=self.overlapping))


def stream_contours(card: ModelCard, *, file: str) -> StreamContours:
    """The contours of the `file` of a card for single frames."""
    margins, reason = margins_of(card.contours, card.files, file=file)
    if margins is not None and margins.unit != "px":
        margins, reason = None, "the margins on the card are of volumes, in mm; edgemt calibrate on frames"
    return StreamContours(card.classes, margins, reason, card.overlapping)
