"""What the report's charts are drawn with: axes, label placement, and SVG marks as strings.

Names are escaped here and nowhere else on the way into an <svg>. All lengths are user units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Box = tuple[float, float, float, float]  # left, top, right, bottom
CHAR = 6.6  # width of a character at the charts' 12 units, on the generous side
TONES = 8  # the style sheet's series colours


@dataclass(frozen=True)
class Axis:
    """Values `low`..`high` onto `start`..`end`, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(max(value, low * 1e-3))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        if self.log:
            return self._log_ticks()
        rough = (self.high - self.low) / count
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next((m * unit for m in (1, 2, 5) if m * unit >= rough * 0.999), 10 * unit)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]

    def _log_ticks(self) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1, 2, 5) if math.log10(self.high / self.low) < 2.6 else (1,)
        every = max(1, round(len(decades) / 8))
        marks = [m * 10.0**d for d in decades if d % every == 0 for m in steps]
        return [t for t in marks if self.low * 0.999 <= t <= self.high * 1.001]


def padded_range(
    values: Sequence[float],
    *,
    least: float,
    low: float = -math.inf,
    high: float = math.inf,
    pad: float = 0.16,
) -> tuple[float, float]:
    """A range a little wider than the values, at least `least` wide until `low` and `high` cut it."""
    bottom, top = min(values), max(values)
    extra = max((top - bottom) * pad, (least - (top - bottom)) / 2)
    return max(bottom - extra, low), min(top + extra, high)


def place_labels(
    points: Sequence[tuple[float, float]],
    widths: Sequence[float],
    *,
    bounds: Box,
    taken: Sequence[Box] = (),
    height: float = 15.0,
) -> list[Box]:
    """A box for each point's label: near it, off every point and other label, not nearer to another point."""
    busy = [*taken, *(halo(x, y) for x, y in points)]
    boxes: list[Box] = []
    for (x, y), width in zip(points, widths, strict=True):
        others = [p for p in points if p != (x, y)]
        best = min(
            _ring(x, y, width, height),
            key=lambda box: (
                sum(_overlap(box, b) for b in busy)
                + 50 * _outside(box, bounds)
                + 0.5 * _gap((x, y), box)
                + 40 * any(_gap(p, box) < _gap((x, y), box) + 4 for p in others)
            ),
        )
        boxes.append(best)
        busy.append(best)
    return boxes


def _ring(x: float, y: float, width: float, height: float) -> list[Box]:
    """Places for a label around a point, the nearest first."""
    spots = []
    for reach in (10.0, 18.0, 28.0, 40.0, 54.0, 70.0, 90.0, 115.0):
        for dy in (0.0, -reach, reach):
            spots += [(x + reach, y + dy), (x - reach - width, y + dy)]
        for dy in (-reach - 6, reach + 6):
            spots += [(x - width / 2, y + dy), (x - 8, y + dy), (x + 8 - width, y + dy)]
    return [(left, mid - height / 2, left + width, mid + height / 2) for left, mid in spots]


def spread(heights: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """The heights moved as little as needed to lie `gap` apart, within `low`..`high` while there is room."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    out = list(heights)
    floor = low
    for i in order:
        out[i] = max(out[i], floor)
        floor = out[i] + gap
    ceiling = max(high, low + gap * (len(out) - 1))
    for i in reversed(order):
        out[i] = min(out[i], ceiling)
        ceiling = out[i] - gap
    return out


def halo(x: float, y: float, reach: float = 6.0) -> Box:
    """The square around a point, `reach` to each side."""
    return (x - reach, y - reach, x + reach, y + reach)


def drawing(width: float, height: float, title: str, parts: Sequence[str], *, css: str = "chart") -> str:
    """An SVG element of `width` x `height` units with the given parts; the title is its label for screen readers."""
    head = f'<svg class="{css}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
    return head + "".join(parts) + "</svg>"


def line(css: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """A line from (x1, y1) to (x2, y2)."""
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(css: str, x: float, y: float, words: str, *, title: str = "") -> str:
    """A text at (x, y), escaped; `title` is shown under the pointer."""
    hint = f"<title>{escape(title)}</title>" if title else ""
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}">{escape(words)}{hint}</text>'


def path(css: str, points: Sequence[tuple[float, float]], *, closed: bool = False) -> str:
    """A polyline through the points, or a polygon if `closed`."""
    shape = "polygon" if closed else "polyline"
    return f'<{shape} class="{css}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def dot(css: str, x: float, y: float, *, title: str, shape: int = 0, size: float = 5.2) -> str:
    """A circle, square, diamond or triangle of about the same area; `title` shows when pointed at."""
    wide, tall = 1.25 * size, 1.2 * size
    side = f'width="{1.8 * size:.1f}" height="{1.8 * size:.1f}"'
    diamond = f"M{x:.1f} {y - wide:.1f}l{wide:.1f} {wide:.1f}l{-wide:.1f} {wide:.1f}l{-wide:.1f} {-wide:.1f}z"
    triangle = f"M{x:.1f} {y - tall:.1f}l{tall:.1f} {2 * size:.1f}h{-2 * tall:.1f}z"
    tag, where = (
        ("circle", f'cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}"'),
        ("rect", f'x="{x - 0.9 * size:.1f}" y="{y - 0.9 * size:.1f}" {side}'),
        ("path", f'd="{diamond}"'),
        ("path", f'd="{triangle}"'),
    )[shape % 4]
    return f'<{tag} class="{css}" {where}><title>{escape(title)}</title></{tag}>'


def leader_line(point: tuple[float, float], box: Box) -> str:
    """A hair line to a label that had to move away from its point."""
    end = leader_end(point, box)
    return "" if end is None else line("leader", *point, *end)


def leader_end(point: tuple[float, float], box: Box) -> tuple[float, float] | None:
    """Where a line from a point to its label ends; None where the label is so near that it needs none."""
    return None if _gap(point, box) < 13 else _nearest(point, box)


def truncate(name: str, most: int) -> str:
    """The name in at most `most` characters, with an ellipsis for what is cut off."""
    return name if len(name) <= most else name[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _nearest(point: tuple[float, float], box: Box) -> tuple[float, float]:
    return min(max(point[0], box[0]), box[2]), min(max(point[1], box[1] + 2), box[3] - 2)


def _gap(point: tuple[float, float], box: Box) -> float:
    return math.dist(point, _nearest(point, box))


def _overlap(a: Box, b: Box) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def _outside(box: Box, bounds: Box) -> float:
    sides = (bounds[0] - box[0], bounds[1] - box[1], box[2] - bounds[2], box[3] - bounds[3])
    return sum(max(side, 0.0) for side in sides)
