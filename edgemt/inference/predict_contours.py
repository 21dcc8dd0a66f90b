"""Outer and inner contours of `edgemt predict --contours`: regions as mask files, lines on the overlay. No torch.

Shapes: H W the input's size, h w the model's, X Y Z a volume's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from deploy.package.frame_features import matching_features
from deploy.package.input_drift import LIKENESS_LIMIT, InputStatistics, read_inputs
from deploy.package.package import Package
from edgemt.contour_margins import ContourMargins, margins_of
from edgemt.io.contour_bands import Band, bands
from edgemt.io.contours import class_colours, outlines
from edgemt.io.images import fit_label
from edgemt.model_card import ModelCard


@dataclass
class PredictedContours:
    """Contours of one ship; an input unlike the training images gets none, with one line that names it."""

    card: ModelCard
    margins: ContourMargins
    statistics: InputStatistics | None
    likeness: list[float] = field(default_factory=list)  # of the frames of the present input

    def look_at(self, frame: np.ndarray) -> None:
        """Record how like the training frames a frame [h, w, K] is."""
        if self.statistics is not None:
            features = matching_features(frame[None], self.statistics.names)
            score = 0.0 if features is None else float(self.statistics.in_distribution_score(features)[0])
            self.likeness.append(score)

    def of(self, mask: np.ndarray, *, name: str, spacing_mm: Sequence[float] | None = None) -> list[Band]:
        """The regions of a mask [h, w] or [X, Y, Z] of the input that was looked at; none where the claim is dropped.

        A volume counts as unlike the training images where the median of its slices does.
        """
        likeness, self.likeness = self.likeness, []
        deep = mask.ndim == 3
        if likeness and np.median(likeness) < LIKENESS_LIMIT:
            return self._dropped(name, "it is unlike the training images, so the calibration does not hold for it")
        if deep != (self.margins.unit == "mm"):
            kinds = ("images", "volumes") if deep else ("volumes", "images")
            return self._dropped(name, f"the margins were fitted on {kinds[0]}, not on {kinds[1]}")
        if deep and spacing_mm is None:
            return self._dropped(name, "it states no voxel size, and the margins are in mm")
        of = self.card
        return bands(mask, self.margins, classes=of.classes, spacing_mm=spacing_mm, overlapping=of.overlapping)

    @staticmethod
    def _dropped(name: str, reason: str) -> list[Band]:
        print(f"edgemt: warning: {name}: no contours: {reason}", file=sys.stderr, flush=True)
        return []


def open_contours(ship: Package, *, file: str, through_plane: int = 1) -> PredictedContours:
    """The contours of the `file` of a ship; the claim is printed once. Raises ValueError without margins for it."""
    if through_plane != 1:
        raise ValueError("contours: the margins are of masks without a vote of slices; leave --through-plane at 1")
    margins, reason = margins_of(ship.card.contours, ship.card.files, file=file)
    if margins is None:
        raise ValueError(f"{ship.folder}: {reason}")
    print(f"edgemt: contours: {margins.claim()}", file=sys.stderr, flush=True)
    return PredictedContours(ship.card, margins, read_inputs(ship))


def region_files(found: Sequence[Band], card: ModelCard, *, shape: tuple[int, ...]) -> list[tuple[str, np.ndarray]]:
    """(part of the file name, uint8 mask at the input's `shape`) of the regions; a pixel has the index of its class.

    `inner` holds all classes: inner regions of exclusive classes never overlap. `outer` ones do, so with several
    classes each has a mask of its own, `outer.CLASS`; overlapping classes also have `inner.CLASS`. Their files hold 0
    and 1 (`stored_region`), as their masks do.
    """
    files = []
    for band in found:
        end = "" if len(card.classes) == 2 else f".{card.classes[band.value].replace(' ', '_')}"
        for name, region in (("outer", band.outer), ("inner", band.inner if card.overlapping else None)):
            if region is not None:
                files.append((f"{name}{end}", _at_size(region, shape) * np.uint8(band.value)))
    inner = [band for band in found if band.inner is not None and not card.overlapping]
    if inner:
        mask = np.zeros(shape, np.uint8)
        for band in inner:
            mask[_at_size(np.asarray(band.inner), shape) > 0] = band.value
        files.append(("inner", mask))
    return files


def stored_region(region: np.ndarray, card: ModelCard) -> np.ndarray:
    """A mask of `region_files` as it is written: 0 and 1 of overlapping classes, else class indices."""
    return (region > 0).astype(np.uint8) if card.overlapping else region


def _at_size(region: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return region.astype(np.uint8) if region.shape == shape else fit_label(region, size=(shape[0], shape[1]))


def with_lines(picture: np.ndarray, files: Sequence[tuple[str, np.ndarray]], card: ModelCard) -> np.ndarray:
    """uint8 RGB [H, W, 3] with the outer lines dashed and the inner ones thin, in the colours of the classes."""
    colours = class_colours(len(card.classes))
    out: np.ndarray = picture.astype(np.float32)
    thin = max(1, round(max(picture.shape[:2]) / 500))
    for name, region in files:
        drawn = outlines(region, colours=colours, thickness=thin).astype(np.float32)
        if not name.startswith("inner"):
            drawn[..., 3] *= _dashes(region, period=12 * thin + 12)
        alpha = drawn[..., 3:] / 255
        out = out * (1 - alpha) + drawn[..., :3] * alpha
    return np.rint(out).astype(np.uint8)


def _dashes(region: np.ndarray, *, period: float) -> np.ndarray:
    """Bool [H, W]: alternating sectors around the middle of a region, about `period` pixels a pair along its line."""
    rows, columns = np.nonzero(region)
    if not rows.size:
        return np.ones(region.shape, bool)
    y, x = (np.arange(n) for n in region.shape)
    angle = np.arctan2(y[:, None] - rows.mean(), x[None] - columns.mean())
    pairs = max(6, round(2 * np.sqrt(np.pi * rows.size) / period))
    return np.asarray((angle * pairs / np.pi) % 2 < 1.2)
