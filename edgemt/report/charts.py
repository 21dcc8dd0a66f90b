"""The small charts of the report as hand-written SVG: numbers in, one <svg> string out, "" for nothing to draw.

They stand in tables, and some are drawn on a device without matplotlib. The pictures are in `figures.py`. No script;
colours come from the page's style sheet, so a chart follows light and dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemt.report.formatting import DEADLINE_MS, LatencyPoint, families, family, figure, finite, fixed
from edgemt.report.svg import (
    CHAR,
    TONES,
    Axis,
    dot,
    drawing,
    line,
    padded_range,
    text,
    truncate,
)

Rows = Sequence[Mapping[str, Any]]
Bin = tuple[float, float, float, float]  # step, lowest, mean, highest


def dice_dots(stages: Rows, *, controls: Rows = ()) -> str:
    """One row a stage or control, a dot at its Dice; controls are hollow."""
    rows = [(s, False) for s in stages] + [(c, True) for c in controls]
    known = [float(r["dice"]) for r, _ in rows if finite(r.get("dice")) is not None]
    if not known:
        return ""
    pitch, top, right = 27.0, 8.0, 800.0
    left = 10 + CHAR * max(len(truncate(str(r.get("name", "")), 46)) for r, _ in rows)
    bottom = top + pitch * len(rows)
    x = Axis(*padded_range(known, least=0.02, low=0.0, high=1.0), left + 14, right)
    parts = [line("grid", x(t), top, x(t), bottom + 4) for t in x.ticks(6)]
    parts += [text("tick mid", x(t), bottom + 20, tick_label(t)) for t in x.ticks(6)]
    for i, (row, control) in enumerate(rows):
        at, name, dice = top + pitch * (i + 0.5), str(row.get("name", "")), finite(row.get("dice"))
        parts += [
            text("label end", left, at + 4, truncate(name, 46), title=name),
            text("label", right + 18, at + 4, fixed(dice)),
        ]
        if dice is not None:
            css = "control" if control else f"dot s{_tone(families(stages), name)}"
            parts.append(dot(css, x(dice), at, title=f"{name}: {fixed(dice, 4)}"))
    return drawing(880, bottom + 28, "Dice of every stage and control", parts)


def latency_axis(points: Sequence[LatencyPoint], *, width: float = 250.0, deadline_ms: float = DEADLINE_MS) -> Axis:
    """A logarithmic axis in ms that covers the p50 and p99 of all points and the deadline, `width` units long."""
    reach = [v for t in points for v in (t.p50_ms, t.p99_ms) if v] + [deadline_ms]
    return Axis(min(reach) / 1.4, max(reach) * 1.4, 4.0, width - 4.0, log=True)


def latency_span(point: LatencyPoint, axis: Axis, *, tone: int = 0, deadline_ms: float = DEADLINE_MS) -> str:
    """One row of the latency table: a dot at the median, a line to p99, the deadline behind them."""
    at, css = axis(point.p50_ms), f"s{tone % TONES}"
    parts = [
        line("deadline", axis(deadline_ms), 0, axis(deadline_ms), 24),
        line(f"whisker {css}", at, 12, axis(point.p99_ms or point.p50_ms), 12),
        dot(f"dot {css}", at, 12, title=f"median {figure(point.p50_ms)} ms", size=4.2),
    ]
    return drawing(axis.end + 4, 24, f"median {figure(point.p50_ms)} ms", parts, css="span")


def latency_heading(axis: Axis, *, deadline_ms: float = DEADLINE_MS) -> str:
    """The axis over the column of `latency_span`s."""
    due = axis(deadline_ms)
    clear = [t for t in axis.ticks() if abs(axis(t) - due) > 20 and axis.start + 6 < axis(t) < axis.end - 8]
    parts = [text("tick mid", axis(t), 15, figure(t, 1)) for t in clear]
    return drawing(axis.end + 4, 20, "ms", [*parts, text("due mid", due, 15, f"{deadline_ms:.0f}")], css="span")


def binned(steps: Sequence[Any], values: Sequence[Any], *, bins: int = 150) -> list[Bin]:
    """Range and mean of each bin of a long curve; a short one point by point; only finite values."""
    read = zip(map(finite, steps), map(finite, values), strict=False)
    pairs = [(s, v) for s, v in read if s is not None and v is not None]
    size = max(1, -(-len(pairs) // bins))
    out = []
    for i in range(0, len(pairs), size):
        block = [v for _, v in pairs[i : i + size]]
        step = sum(s for s, _ in pairs[i : i + size]) / len(block)
        out.append((step, min(block), sum(block) / len(block), max(block)))
    return out


def tick_label(value: float) -> str:
    """A value of a linear axis in at most six digits."""
    written = f"{value:.6g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.0e}"
    return written.replace("e-0", "e-").replace("-", "\N{MINUS SIGN}")


def step_label(value: float) -> str:
    """A number of steps: 500, 12k."""
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def _tone(colour: Mapping[str, int], stage: str) -> int:
    return colour.get(family(stage), 0) % TONES
