"""The report's charts as hand-written SVG: numbers in, one <svg> string out, "" where nothing can be drawn.

No script and no library; colours come from the page's style sheet, so a chart follows light and dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemt.report.formatting import DEADLINE_MS, LatencyPoint, families, family, fastest, figure, finite, fixed, timed
from edgemt.report.svg import (
    CHAR,
    TONES,
    Axis,
    Box,
    dot,
    drawing,
    halo,
    leader_line,
    line,
    padded_range,
    path,
    place_labels,
    spread,
    text,
    truncate,
)

Rows = Sequence[Mapping[str, Any]]
Bin = tuple[float, float, float, float]  # step, lowest, mean, highest


def accuracy_latency(stages: Rows, *, deadline_ms: float = DEADLINE_MS) -> str:
    """Dice against median latency; a whisker reaches to p99, a dashed line is a stage that was not timed."""
    points = [t for t in timed(stages) if t.dice is not None]
    untimed = [s for s in stages if finite(s.get("dice")) is not None and fastest(s) is None]
    if not points and not untimed:
        return ""
    left, right, top, bottom = 56.0, 868.0, 28.0, 366.0
    across, up = trade_ranges(points, untimed, deadline_ms=deadline_ms)
    x, y = Axis(*across, left, right, log=True), Axis(*up, bottom, top)
    colour, runtimes = families(stages), list(dict.fromkeys(t.runtime for t in points))
    due = x(deadline_ms)
    parts = [
        f'<rect class="late" x="{due:.1f}" y="{top}" width="{right - due:.1f}" height="{bottom - top}"/>',
        *_grid_lines(y, left, right),
        *(text("tick mid", x(t), bottom + 18, figure(t, 1)) for t in x.ticks()),
        *(line("grid", x(t), bottom, x(t), bottom + 4) for t in x.ticks()),
        line("deadline", due, top, due, bottom),
        text("due mid", due, top - 9, f"{deadline_ms:.0f} ms, one frame at {1000 / deadline_ms:.0f} Hz"),
        text("name", left, top - 9, "Dice"),
        text("name end", right, bottom + 40, "latency of one frame, ms: median, line to p99"),
    ]
    taken: list[Box] = []
    for stage in untimed:
        name = str(stage.get("name", ""))
        at, words = y(float(stage["dice"])), f"{name}, not timed"
        parts += [
            line(f"untimed s{_tone(colour, name)}", left, at, right, at),
            text("label", left + 6, at - 5, words),
        ]
        taken.append((left, at - 18, left + 6 + CHAR * len(words), at + 2))
    at_points = [(x(t.p50_ms), y(t.dice or 0.0)) for t in points]
    for (px, py), t in zip(at_points, points, strict=True):
        if t.p99_ms:
            parts.append(line(f"whisker s{_tone(colour, t.stage)}", px, py, x(t.p99_ms), py))
            taken.append((px, py - 3, x(t.p99_ms), py + 3))
    for (px, py), t in zip(at_points, points, strict=True):
        sentence = f"{t.stage} on {t.runtime} {t.precision}: Dice {fixed(t.dice)}, "
        sentence += f"median {figure(t.p50_ms)} ms, p99 {figure(t.p99_ms)} ms"
        parts.append(dot(f"dot s{_tone(colour, t.stage)}", px, py, title=sentence, shape=runtimes.index(t.runtime)))
    marked = [points.index(best) for s in stages if (best := fastest(s)) is not None and best in points]
    taken += [halo(px, py) for i, (px, py) in enumerate(at_points) if i not in marked]
    widths = [CHAR * len(truncate(points[i].stage, 32)) for i in marked]
    boxes = place_labels([at_points[i] for i in marked], widths, bounds=(left, top, right, bottom), taken=taken)
    for i, box in zip(marked, boxes, strict=True):
        parts += [
            leader_line(at_points[i], box),
            text(f"label t{_tone(colour, points[i].stage)}", box[0], box[3] - 3.5, truncate(points[i].stage, 32)),
        ]
    along = left
    for i, runtime in enumerate(runtimes):
        parts += [
            dot("key", along + 5, bottom + 36, title=runtime, shape=i),
            text("name", along + 16, bottom + 40, runtime),
        ]
        along += 36 + CHAR * len(runtime)
    return drawing(880, bottom + 52, "Dice against latency", parts)


def trade_ranges(
    points: Sequence[LatencyPoint], untimed: Rows, *, deadline_ms: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Latency and Dice to show: every median, every p99 and the deadline."""
    reach = [v for t in points for v in (t.p50_ms, t.p99_ms) if v] + [deadline_ms]
    heights = [t.dice for t in points if t.dice is not None] + [float(s["dice"]) for s in untimed]
    return (min(reach) / 1.6, max(reach) * 1.6), padded_range(heights, least=0.02, low=0.0, high=1.0, pad=0.22)


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
    parts += [text("tick mid", x(t), bottom + 20, _plain(t)) for t in x.ticks(6)]
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


def curve_chart(series: Mapping[str, tuple[Sequence[Any], Sequence[Any]]], *, title: str, dots: bool = False) -> str:
    """By name (steps, values) as lines named at their ends. Losses turn logarithmic when they span much."""
    runs = {name: run for name, (steps, values) in series.items() if (run := binned(steps, values))}
    if not runs:
        return ""
    reach = [v for run in runs.values() for _, low, _, high in run for v in (low, high)]
    means = [mean for run in runs.values() for _, _, mean, _ in run]
    labelled = len(runs) > 1 or not dots
    left, top, bottom = 48.0, 26.0, 214.0
    right = 430.0 - (CHAR * max(len(truncate(n, 18)) for n in runs) if labelled else 8)
    steps = [s for run in runs.values() for s, *_ in run]
    x = Axis(min(0.0, *steps), max(max(steps), 1.0), left, right)
    log = not dots and min(reach) > 0 and max(means) / min(means) > 30
    if log:
        y = Axis(min(reach) / 1.1, max(reach) * 1.1, bottom, top, log=True)
    else:
        low, high = padded_range(reach, least=0.02 if dots else 1e-3)
        y = Axis(min(0.0, min(reach)) if not dots else max(low, 0.0), high, bottom, top)
    parts = [*_grid_lines(y, left, right), text("name", 0, 12, title + (", logarithmic" if log else ""))]
    parts += [text("tick mid", x(t), bottom + 18, _steps(t)) for t in x.ticks(4)]
    parts.append(text("tick end", 440, bottom + 34, "steps"))
    for i, run in enumerate(runs.values()):
        if any(high > low for _, low, _, high in run):
            rim = [(x(s), y(high)) for s, _, _, high in run] + [(x(s), y(low)) for s, low, _, _ in reversed(run)]
            parts.append(path(f"band s{i % TONES}", rim, closed=True))
    for i, run in enumerate(runs.values()):
        parts.append(path(f"curve s{i % TONES}", [(x(s), y(mean)) for s, _, mean, _ in run]))
        if dots or len(run) == 1:
            parts += [
                dot(f"dot s{i % TONES}", x(s), y(mean), title=f"step {s:g}: {figure(mean, 4)}", size=2.6)
                for s, _, mean, _ in run
            ]
    if labelled:
        ends = spread([y(run[-1][2]) for run in runs.values()], gap=14, low=top + 4, high=bottom)
        for i, (name, at) in enumerate(zip(runs, ends, strict=True)):
            parts.append(text(f"label t{i % TONES}", right + 7, at + 4, truncate(name, 18), title=name))
    return drawing(440, 252, title, parts)


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


def _grid_lines(y: Axis, left: float, right: float) -> list[str]:
    ticks = y.ticks()
    lines = [line("grid", left, y(t), right, y(t)) for t in ticks]
    return lines + [text("tick end", left - 8, y(t) + 4, _plain(t)) for t in ticks]


def _tone(colour: Mapping[str, int], stage: str) -> int:
    return colour.get(family(stage), 0) % TONES


def _plain(value: float) -> str:
    written = f"{value:.6g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.0e}"
    return written.replace("-", "\N{MINUS SIGN}")


def _steps(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"
