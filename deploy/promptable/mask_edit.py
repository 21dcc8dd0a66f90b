"""What a click or a box does to the mask at hand.

A click changes the mask where it was put, and nowhere else: the network is asked about the object with all clicks so
far, and of the difference between its answer and the mask at hand the one piece that holds the click is taken over. A
network that will not follow the click is overruled by a small disc: a hand that corrects is always obeyed. The first
box says where the object is, and nothing of the mask at hand is kept; another box adds a piece or replaces one.

Shapes: h w the mask, in pixels; coordinates of prompts are shares of it, x before y.
"""

from __future__ import annotations

import numpy as np

from deploy.promptable.runner import Box

DISC = 0.02  # radius, share of the longer side
MARGIN = 0.05  # how much a box around a mask is wider than it


def clicked(mask: np.ndarray, answer: np.ndarray, *, at: tuple[float, float], on: bool) -> tuple[np.ndarray, bool]:
    """bool [h, w] of the object, the network's answer -> the object with the click, and whether the network agrees."""
    seed = np.zeros(mask.shape, bool)
    seed[pixel(at, mask.shape)] = True
    wanted = (answer != mask) & (answer == on)
    followed = bool((answer == on)[seed].all())
    change = reached(seed, wanted) if followed else _disc(at, mask.shape)
    return (mask | change if on else mask & ~change), followed


def boxed(mask: np.ndarray, answer: np.ndarray, *, again: bool) -> tuple[np.ndarray, bool]:
    """bool [h, w] of the object, the answer to the box -> the object, and whether the network found any.

    `again`: there was a box before, and pieces that the answer does not touch are kept. Without a find all is kept.
    """
    if not answer.any():
        return mask, False
    return (mask & ~reached(mask & answer, mask)) | answer if again else answer, True


def box_of(mask: np.ndarray, points: tuple[tuple[float, float, bool], ...]) -> Box | None:
    """A box around bool [h, w], a little wider; None of an empty mask.

    A point on the object beyond its border is taken for the middle of what is missing there.
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


def reached(seed: np.ndarray, within: np.ndarray) -> np.ndarray:
    """The pieces of bool [h, w] that hold a pixel of `seed`; pixels that touch at a corner belong together."""
    found, before = seed & within, -1
    while (count := int(found.sum())) != before:
        before = count
        for _ in range(8):
            found = _grown(found) & within
    return found


def pixel(at: tuple[float, float], shape: tuple[int, ...]) -> tuple[int, int]:
    """(row, column) under a point."""
    return min(int(at[1] * shape[0]), shape[0] - 1), min(int(at[0] * shape[1]), shape[1] - 1)


def _grown(found: np.ndarray) -> np.ndarray:
    wide = np.pad(found, 1)
    rows = wide[:-2] | wide[1:-1] | wide[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]


def _disc(at: tuple[float, float], shape: tuple[int, ...]) -> np.ndarray:
    row, column = pixel(at, shape)
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (y - row) ** 2 + (x - column) ** 2 <= (DISC * max(shape)) ** 2
