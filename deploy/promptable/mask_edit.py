"""Edits of the current mask by a click or a box.

A click changes the mask only around its position: the network predicts the object from all clicks so far, and of the
difference between its prediction and the current mask only the connected piece that contains the click is applied.
Where the prediction does not follow the click, a small disc is set, so that every correction has an effect. The first
box replaces the current mask; a further box adds a piece or replaces one.

Shapes: h w the mask, in pixels; coordinates of prompts are shares of it, x before y.
"""

from __future__ import annotations

import numpy as np

from deploy.promptable.runner import Box

CLICK_RADIUS = 0.02  # radius of the disc, fraction of the longer side
MARGIN = 0.05  # margin of a box around a mask, fraction of its extent


def apply_click(
    mask: np.ndarray, predicted: np.ndarray, *, at: tuple[float, float], on: bool
) -> tuple[np.ndarray, bool]:
    """(edited mask, True where the prediction follows the click).

    mask, predicted: bool [h, w], the object now and as predicted with all clicks. `at`: position of the click; `on`:
    True where it marks the object, False for the background.
    """
    seed = np.zeros(mask.shape, bool)
    seed[pixel(at, mask.shape)] = True
    wanted = (predicted != mask) & (predicted == on)
    followed = bool((predicted == on)[seed].all())
    change = connected_to(seed, wanted) if followed else _disc(at, mask.shape)
    return (mask | change if on else mask & ~change), followed


def apply_box(mask: np.ndarray, predicted: np.ndarray, *, again: bool) -> tuple[np.ndarray, bool]:
    """(edited mask, True where the prediction is not empty).

    mask, predicted: bool [h, w], the object now and as predicted for the box. `again`: there was a box before, so
    pieces that the prediction does not touch stay. An empty prediction changes nothing.
    """
    if not predicted.any():
        return mask, False
    return (mask & ~connected_to(mask & predicted, mask)) | predicted if again else predicted, True


def bounding_box(mask: np.ndarray, points: tuple[tuple[float, float, bool], ...]) -> Box | None:
    """A box around the mask bool [h, w] with a margin; None for an empty mask.

    A point on the object outside the mask is assumed to be the centre of a missing part, and widens the box.
    """
    if not mask.any():
        return None
    edges = []
    for axis in (0, 1):  # x, then y
        inside = np.flatnonzero(mask.any(axis))
        low, high = inside[0] / mask.shape[1 - axis], (inside[-1] + 1) / mask.shape[1 - axis]
        on = [point[axis] for point in points if point[2]]
        low, high = min([low, *(2 * at - low for at in on)]), max([high, *(2 * at - high for at in on)])
        wider = MARGIN * (high - low)
        edges.append((max(low - wider, 0.0), min(high + wider, 1.0)))
    (x0, x1), (y0, y1) = edges
    return float(x0), float(y0), float(x1), float(y1)


def connected_to(seed: np.ndarray, within: np.ndarray) -> np.ndarray:
    """The connected components of `within` (bool [h, w], 8-connectivity) that contain a pixel of `seed`."""
    reached, before = seed & within, -1
    while (count := int(reached.sum())) != before:
        before = count
        for _ in range(8):
            reached = _grown(reached) & within
    return reached


def pixel(at: tuple[float, float], shape: tuple[int, ...]) -> tuple[int, int]:
    """(row, column) of a point."""
    return min(int(at[1] * shape[0]), shape[0] - 1), min(int(at[0] * shape[1]), shape[1] - 1)


def _grown(reached: np.ndarray) -> np.ndarray:
    wide = np.pad(reached, 1)
    rows = wide[:-2] | wide[1:-1] | wide[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]


def _disc(at: tuple[float, float], shape: tuple[int, ...]) -> np.ndarray:
    row, column = pixel(at, shape)
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (y - row) ** 2 + (x - column) ** 2 <= (CLICK_RADIUS * max(shape)) ** 2
