"""Masks to polygons along the edges of pixels.

Corners have whole coordinates, so `polygons.rasterise` gives back exactly the mask; simplified lines lose pixels, and
`edgemt export-labels` prints how many. Areas that touch at a corner alone are two polygons. A hole is joined to its
outer line by a bridge of no width, which the even-odd rule cancels.

Shapes: N corners, H W size of a mask.
"""

from __future__ import annotations

import numpy as np

_DIRECTIONS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up; the mask lies to the right of its line


def outlines(mask: np.ndarray, *, simplify: float = 0.0) -> list[np.ndarray]:
    """Polygons float64 [N, 2] (x, y) of a mask [H, W], one for each area with its holes.

    `simplify`: corners nearer than so many pixels to the line without them are left out (Douglas-Peucker).
    """
    rings = _rings(mask != 0)
    outer: dict[int, list[int]] = {k: [] for k, ring in enumerate(rings) if _area(ring) > 0}
    sides = {}  # upright edge -> ring: (x, row) of its pixel row
    for k, ring in enumerate(rings):
        for (x, y), (x_next, y_next) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if x == x_next:
                sides.update({(int(x), row): k for row in range(int(min(y, y_next)), int(max(y, y_next)))})
    holes = sorted((k for k in range(len(rings)) if k not in outer), key=lambda k: tuple(_top(rings[k])[::-1]))
    owner = {k: k for k in outer}
    for k in holes:
        x, y = (int(v) for v in _top(rings[k]))
        while (x, y - 1) not in sides:  # left along the row above the hole, to the line of the same area
            x -= 1
        owner[k] = owner[sides[x, y - 1]]
        outer[owner[k]].append(k)
    shapes = []
    for k, inside in outer.items():
        shape = _simplified(rings[k], simplify)
        for hole in inside:
            shape = _bridged(shape, _simplified(rings[hole], simplify))
        shapes.append(shape.astype(np.float64))
    return shapes


def _rings(mask: np.ndarray) -> list[np.ndarray]:
    """Closed lines int64 [N, 2] of corners, clockwise around areas and anticlockwise around holes."""
    padded = np.pad(mask, 1).astype(np.int8)
    follow: dict[tuple[int, int], list[int]] = {}
    down, right = np.diff(padded, axis=0), np.diff(padded, axis=1)
    edges = (
        (0, np.nonzero(down[:, 1:-1] == 1)),  # upper edge: to the right
        (2, np.nonzero(down[:, 1:-1] == -1)),
        (3, np.nonzero(right[1:-1] == 1)),  # left edge: up
        (1, np.nonzero(right[1:-1] == -1)),
    )
    for step, (rows, columns) in edges:
        for column, row in zip((columns + (step == 2)).tolist(), (rows + (step == 3)).tolist(), strict=True):
            follow.setdefault((column, row), []).append(step)
    rings = []
    while follow:
        start = next(iter(follow))
        at, before, corners = start, -1, []
        while True:
            steps = follow[at]
            step = steps[0] if len(steps) == 1 or before < 0 else next(s for s in steps if s == (before + 1) % 4)
            steps.remove(step)
            if not steps:
                del follow[at]
            if step != before:
                corners.append(at)
            at, before = (at[0] + _DIRECTIONS[step][0], at[1] + _DIRECTIONS[step][1]), step
            if at == start and (len(corners) > 3):
                break
        rings.append(np.array(corners, np.int64))
    return rings


def _area(ring: np.ndarray) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def _top(ring: np.ndarray) -> np.ndarray:
    """The leftmost of the highest corners."""
    return ring[np.lexsort((ring[:, 0], ring[:, 1]))[0]]


def _bridged(outer: np.ndarray, hole: np.ndarray) -> np.ndarray:
    near = np.abs(outer[:, None] - hole[None]).sum(-1)
    a, b = np.unravel_index(int(near.argmin()), near.shape)
    around = np.concatenate([hole[b:], hole[: b + 1]])
    return np.concatenate([outer[: a + 1], around, outer[a:]])


def _simplified(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """Douglas-Peucker on a closed line, from its first corner and the one farthest from it; at least a triangle."""
    if tolerance <= 0 or len(ring) < 5:
        return ring
    far = int(np.abs(ring - ring[0]).sum(-1).argmax())
    closed = np.concatenate([ring, ring[:1]])
    keep = np.zeros(len(closed), bool)
    keep[[0, far, len(closed) - 1]] = True
    parts = [(0, far), (far, len(closed) - 1)]
    while parts:
        first, last = parts.pop()
        if last - first < 2:
            continue
        start, along = closed[first], closed[last] - closed[first]
        between = closed[first + 1 : last] - start
        length = float(np.hypot(*along))
        away = np.abs(between @ [-along[1], along[0]]) / length if length else np.hypot(between[:, 0], between[:, 1])
        if away.max() > tolerance:
            middle = first + 1 + int(away.argmax())
            keep[middle] = True
            parts += [(first, middle), (middle, last)]
    corners = closed[:-1][keep[:-1]]
    return corners if len(corners) > 2 else ring
