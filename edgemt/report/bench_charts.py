"""The charts of a bench page: distributions, tails, time lines, the parts of a call, the accuracy-latency front.

Numbers in, one <svg> string out, "" where nothing can be drawn. Times are in ns as the record keeps them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgemt.report.charts import binned
from edgemt.report.formatting import figure, finite, fixed
from edgemt.report.svg import (
    CHAR,
    TONES,
    Axis,
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

Calls = Sequence[Mapping[str, Any]]
Point = tuple[float, float]
_RANKS = ((2.0, "50 %"), (10.0, "90 %"), (100.0, "99 %"), (1e3, "99.9 %"), (1e4, "99.99 %"), (1e5, "99.999 %"))
_PARTS = ("copy_in", "infer", "copy_out")
_BINS = 120


def distributions(calls: Calls, *, deadline_ms: float) -> str:
    """One row a call: how often each time was taken, p50 and p99 marked, the slowest call as a dot. Nothing is cut."""
    rows = [(str(c["name"]), sorted(c["raw_ns"])) for c in calls if c.get("raw_ns")]
    if not rows:
        return ""
    pitch, top, right = 62.0, 24.0, 866.0
    left = 14 + CHAR * max(len(truncate(name, 34)) for name, _ in rows)
    bottom = top + pitch * len(rows)
    x = _time_axis([ns / 1e6 for _, times in rows for ns in (times[0], times[-1])], deadline_ms, left, right)
    parts = [*_time_ticks(x, top, bottom), *_deadline(x, deadline_ms, top, bottom)]
    for i, (name, times) in enumerate(rows):
        floor, css = top + pitch * (i + 1) - 8, f"s{i % TONES}"
        parts.append(text("label end", left - 10, floor - 6, truncate(name, 34), title=name))
        parts.append(line("grid", left, floor, right, floor))
        rim = _density([ns / 1e6 for ns in times], x, floor, pitch - 16)
        parts += [path(f"band {css}", [(rim[0][0], floor), *rim, (rim[-1][0], floor)], closed=True)]
        parts.append(path(f"curve {css}", rim))
        for share in (0.5, 0.99):
            at = x(_rank(times, share) / 1e6)
            parts.append(line(f"whisker {css}", at, floor, at, floor - 14 if share == 0.99 else floor - pitch + 22))
        worst = times[-1] / 1e6
        parts.append(dot(f"dot {css}", x(worst), floor, title=f"{name}: slowest {figure(worst)} ms", size=3.4))
    return drawing(880, bottom + 40, "How often each latency was taken", [*parts, _axis_name(right, bottom + 36)])


def tails(calls: Calls, *, deadline_ms: float) -> str:
    """Latency against the share of calls that were quicker, the rare ones drawn as wide as the common ones."""
    rows = [(str(c["name"]), sorted(c["raw_ns"])) for c in calls if c.get("raw_ns")]
    if not rows:
        return ""
    most = max(len(times) for _, times in rows)
    left, top, bottom = 56.0, 28.0, 320.0
    right = 860.0 - CHAR * max(len(truncate(name, 26)) for name, _ in rows)
    across = Axis(2.0, max(most, 20.0), left, right, log=True)
    reach = [t / 1e6 for _, times in rows for t in (times[len(times) // 2], times[-1])]
    up = _time_axis(reach, deadline_ms, bottom, top)
    parts = [part for t in up.ticks() for part in (line("grid", left, up(t), right, up(t)), _tick(left - 8, up(t), t))]
    for odds, words in _RANKS:
        if odds <= across.high:
            parts.append(line("grid", across(odds), top, across(odds), bottom + 4))
            parts.append(text("tick mid", across(odds), bottom + 20, words))
    if up.low < deadline_ms < up.high:
        parts.append(line("deadline", left, up(deadline_ms), right, up(deadline_ms)))
    ends = []
    for i, (_, times) in enumerate(rows):
        ranks = sorted({*(round(len(times) * (1 - 2 ** (-k / 4))) for k in range(4, 80)), len(times) - 1})
        curve = [
            (across(len(times) / (len(times) - r)), up(times[r] / 1e6))
            for r in ranks
            if len(times) // 2 <= r < len(times)
        ]
        parts.append(path(f"curve s{i % TONES}", curve))
        ends.append(curve[-1])
    heights = spread([y for _, y in ends], gap=14, low=top + 4, high=bottom)
    for i, ((name, _), at) in enumerate(zip(rows, heights, strict=True)):
        parts.append(text(f"label t{i % TONES}", right + 7, at + 4, truncate(name, 26), title=name))
    parts += [
        text("name", left, top - 9, "latency, ms"),
        text("name end", right, bottom + 38, "calls that were quicker"),
    ]
    return drawing(880, bottom + 48, "Tails", parts)


def time_line(call: Mapping[str, Any], *, tone: int, deadline_ms: float) -> str:
    """Every kept call in order: mean and range of neighbours, so that drift and stalls show."""
    run = binned(range(len(call.get("raw_ns") or ())), [ns / 1e6 for ns in call.get("raw_ns") or ()])
    if len(run) < 2:
        return ""
    name = truncate(str(call["name"]), 44)
    return _lines({"": [(at, low, mean, high) for at, low, mean, high in run]}, name, "call", deadline_ms, tone=tone)


def soak_lines(timeline: Calls, keys: Mapping[str, str], *, title: str, deadline_ms: float = 0.0) -> str:
    """`keys`: what to draw of each point of a soak's time line -> its label. Minutes across."""
    series = {}
    for key, label in keys.items():
        there = [(p["at_s"] / 60, v) for p in timeline if (v := finite(p.get(key))) is not None]
        if len(there) > 1:
            series[label] = [(at, v, v, v) for at, v in there]
    return _lines(series, title, "minutes", deadline_ms) if series else ""


def parts_of_a_call(calls: Calls, host: Mapping[str, Any]) -> str:
    """One bar a call: fitting the frame, copying in, inference, copying out, enlarging the mask; medians."""
    rows = [c for c in calls if c.get("stages")]
    if not rows:
        return ""
    names = ["fit_frame", *_PARTS, "enlarge_mask"]
    times = [
        [
            _median(host.get("fit_frame")),
            *(_median(c["stages"].get(p)) for p in _PARTS),
            _median(host.get("enlarge_mask")),
        ]
        for c in rows
    ]
    left = 14 + CHAR * max(len(truncate(str(c["name"]), 34)) for c in rows)
    pitch, top, right = 34.0, 34.0, 790.0
    x = Axis(0.0, max(map(sum, times)) or 1.0, left, right)
    parts = [part for t in x.ticks() for part in (line("grid", x(t), top - 4, x(t), top + pitch * len(rows)),)]
    parts += [text("tick mid", x(t), top + pitch * len(rows) + 16, figure(t, 2)) for t in x.ticks()]
    for i, (call, row) in enumerate(zip(rows, times, strict=True)):
        at, start = top + pitch * i, 0.0
        parts.append(text("label end", left - 10, at + 18, truncate(str(call["name"]), 34)))
        for tone, (name, ms) in enumerate(zip(names, row, strict=True)):
            wide = x(start + ms) - x(start)
            if wide > 0.2:
                hint = f"<title>{name}: {figure(ms)} ms</title>"
                where = f'x="{x(start):.1f}" y="{at + 4:.1f}" width="{wide:.1f}" height="{pitch - 12:.1f}"'
                parts.append(f'<rect class="dot s{tone}" {where}>{hint}</rect>')
            start += ms
        parts.append(text("label", x(start) + 8, at + 18, f"{figure(start)} ms"))
    along = left
    for tone, name in enumerate(names):
        words = name.replace("_", " ")
        parts += [dot(f"dot s{tone}", along + 5, 12, title=words), text("name", along + 16, 16, words)]
        along += 34 + CHAR * len(words)
    return drawing(880, top + pitch * len(rows) + 26, "The parts of a call", parts)


def front(calls: Calls) -> list[str]:
    """Names of the calls that no other beats in both Dice and median latency, the quickest first."""
    known = [(c["p50_ms"], -float(c["dice"]), str(c["name"])) for c in calls if finite(c.get("dice")) is not None]
    best, names = -math.inf, []
    for _, dice, name in sorted(known):
        if -dice > best:
            best = -dice
            names.append(name)
    return names


def accuracy_front(calls: Calls, *, deadline_ms: float) -> str:
    """Dice against median latency with a whisker to p99; a line joins the calls that nothing beats in both."""
    rows = [(i, c) for i, c in enumerate(calls) if finite(c.get("dice")) is not None]
    if not rows:
        return ""
    left, right, top, bottom = 60.0, 866.0, 28.0, 330.0
    x = _time_axis([c[k] for _, c in rows for k in ("p50_ms", "p99_ms")], deadline_ms, left, right)
    y = Axis(*padded_range([float(c["dice"]) for _, c in rows], least=0.02, low=0.0, high=1.0, pad=0.3), bottom, top)
    parts = [part for t in y.ticks() for part in (line("grid", left, y(t), right, y(t)), _tick(left - 8, y(t), t))]
    parts += [*_time_ticks(x, bottom, bottom), *_deadline(x, deadline_ms, top, bottom)]
    best = front(calls)
    edge = [(x(c["p50_ms"]), y(float(c["dice"]))) for name in best for _, c in rows if c["name"] == name]
    steps = [edge[0]] if edge else []
    for point in edge[1:]:
        steps += [(point[0], steps[-1][1]), point]
    parts.append(path("curve s0", [*steps, (right, steps[-1][1])]))
    points = [(x(c["p50_ms"]), y(float(c["dice"]))) for _, c in rows]
    parts += [line(f"whisker s{i % TONES}", *p, x(c["p99_ms"]), p[1]) for p, (i, c) in zip(points, rows, strict=True)]
    for point, (i, c) in zip(points, rows, strict=True):
        title = (
            f"{c['name']}: Dice {fixed(c['dice'], 4)}, median {figure(c['p50_ms'])} ms, p99 {figure(c['p99_ms'])} ms"
        )
        parts.append(dot(f"dot s{i % TONES}" if c["name"] in best else "control", *point, title=title))
    names = [truncate(str(c["name"]), 34) for _, c in rows]
    boxes = place_labels(
        points, [CHAR * len(n) for n in names], bounds=(left, top, right, bottom), taken=[halo(*p) for p in points]
    )
    for name, point, box, (i, _) in zip(names, points, boxes, rows, strict=True):
        parts += [leader_line(point, box), text(f"label t{i % TONES}", box[0], box[3] - 3.5, name)]
    parts += [text("name", left, top - 9, "Dice"), text("name end", right, bottom + 38, "median, line to p99, ms")]
    return drawing(880, bottom + 46, "Dice against latency", parts)


def _lines(
    series: Mapping[str, Sequence[tuple[float, float, float, float]]],
    title: str,
    across: str,
    deadline_ms: float,
    *,
    tone: int = 0,
) -> str:
    """Mean lines with their ranges, labelled at their ends; from zero up."""
    left, top, bottom = 52.0, 26.0, 190.0
    right = 430.0 - CHAR * max(len(name) for name in series)
    reach = [v for run in series.values() for _, low, _, high in run for v in (low, high)]
    x = Axis(0.0, max(at for run in series.values() for at, *_ in run) or 1.0, left, right)
    y = Axis(0.0, 1.08 * max(reach) or 1.0, bottom, top)
    parts = [part for t in y.ticks(4) for part in (line("grid", left, y(t), right, y(t)), _tick(left - 8, y(t), t))]
    parts += [text("tick mid", x(t), bottom + 18, f"{t:g}") for t in x.ticks(4)]
    parts += [text("name", 0, 12, title), text("tick end", 440, bottom + 34, across)]
    if 0 < deadline_ms < y.high:
        parts.append(line("deadline", left, y(deadline_ms), right, y(deadline_ms)))
    for i, run in enumerate(series.values(), start=tone):
        if any(high > low for _, low, _, high in run):
            rim = [(x(a), y(high)) for a, _, _, high in run] + [(x(a), y(low)) for a, low, _, _ in reversed(run)]
            parts.append(path(f"band s{i % TONES}", rim, closed=True))
        parts.append(path(f"curve s{i % TONES}", [(x(a), y(mean)) for a, _, mean, _ in run]))
    ends = spread([y(run[-1][2]) for run in series.values()], gap=14, low=top + 4, high=bottom)
    for i, (name, at) in enumerate(zip(series, ends, strict=True), start=tone):
        parts.append(text(f"label t{i % TONES}", right + 7, at + 4, name))
    return drawing(440, 232, title, parts)


def _density(times: Sequence[float], x: Axis, floor: float, height: float) -> list[Point]:
    """Counts on a logarithmic grid as a line above `floor`; square roots, so that single slow calls still show."""
    low, high = math.log(x.low), math.log(x.high)
    counts = [0] * _BINS
    for ms in times:
        counts[min(max(int((math.log(ms) - low) / (high - low) * _BINS), 0), _BINS - 1)] += 1
    tallest = math.sqrt(max(counts))
    wide = (x.end - x.start) / _BINS
    return [(x.start + (i + 0.5) * wide, floor - height * math.sqrt(n) / tallest) for i, n in enumerate(counts)]


def _time_axis(times_ms: Sequence[float], deadline_ms: float, start: float, end: float) -> Axis:
    reach = [t for t in times_ms if t > 0] + ([deadline_ms] if deadline_ms else [])
    return Axis(min(reach) / 1.2, max(reach) * 1.2, start, end, log=True)


def _time_ticks(x: Axis, top: float, bottom: float) -> list[str]:
    lines = [line("grid", x(t), top, x(t), bottom + 4) for t in x.ticks()]
    return lines + [text("tick mid", x(t), bottom + 18, figure(t, 1)) for t in x.ticks()]


def _deadline(x: Axis, deadline_ms: float, top: float, bottom: float) -> list[str]:
    if not x.low < deadline_ms < x.high:
        return []
    at = x(deadline_ms)
    return [line("deadline", at, top, at, bottom), text("due mid", at, top - 8, f"{figure(deadline_ms)} ms")]


def _tick(x: float, y: float, value: float) -> str:
    return text("tick end", x, y + 4, f"{value:g}")


def _axis_name(right: float, y: float) -> str:
    return text("name end", right, y, "latency of one call, ms")


def _rank(ordered: Sequence[int], share: float) -> int:
    return ordered[math.ceil(share * len(ordered)) - 1]


def _median(summary: Any) -> float:
    value = finite(summary.get("p50_ms")) if isinstance(summary, Mapping) else None
    return value or 0.0
