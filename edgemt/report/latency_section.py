"""The report's latency section: a row for every stage on every runtime, and the bench records behind them."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from edgemt.report.charts import latency_axis, latency_heading, latency_span
from edgemt.report.formatting import DASH, families, family, figure, finite, scaled, timed, whole_number
from edgemt.report.html import details, flat, grid, name_cell, section, table

_UNIT = '<span class="unit">ms</span>'


def latency_section(record: Mapping[str, Any]) -> str:
    """The section of a record's latencies; empty if nothing was timed."""
    benches = "".join(_bench(b, i) for i, b in enumerate(record.get("bench") or ()) if isinstance(b, Mapping))
    rows = _rows(record)
    if not rows and not benches:
        return ""
    note_html = "One frame at a time, from raw pixels to the mask. The dashed line is one frame of a 30 Hz camera."
    return section("Latency", rows + benches, note_html=note_html, css="long")


def _rows(record: Mapping[str, Any]) -> str:
    stages = list(record.get("stages") or ())
    points = {(t.stage, t.key): t for t in timed(stages)}
    colour, axis, body = families(stages), latency_axis(list(points.values())), []
    for stage in stages:
        name = str(stage.get("name", ""))
        for key, row in (stage.get("latency") or {}).items():
            point, tone = points.get((name, str(key))), colour[family(name)]
            runtime = point.runtime if point else str(key)
            why = escape(str(row.get("error") or row.get("note") or "not measured"))
            span = latency_span(point, axis, tone=tone) if point else f'<span class="note">{why}</span>'
            numbers = [figure(row.get(k)) for k in ("p50_ms", "p90_ms", "p99_ms")] + [whole_number(row.get("n"))]
            body.append(
                f"<tr><td>{name_cell(name, tone=tone)}</td><td>{escape(runtime)}</td>"
                f'<td class="dim">{escape(str(row.get("precision") or DASH))}</td>'
                + "".join(f'<td class="n">{v}</td>' for v in numbers)
                + f'<td class="span">{span}</td></tr>'
            )
    heads = '<th>Stage</th><th>Runtime</th><th>Precision<span class="unit">as executed</span></th>'
    heads += "".join(f'<th class="n">{h}</th>' for h in (f"Median{_UNIT}", f"p90{_UNIT}", f"p99{_UNIT}", "Frames"))
    return grid(f'{heads}<th class="span">{latency_heading(axis)}</th>', body) if body else ""


def _bench(bench: Mapping[str, Any], index: int) -> str:
    """What one bench run adds to the percentiles: tails, ratios, camera pace, cold start, memory."""
    calls = [c for c in bench.get("calls") or () if isinstance(c, Mapping)]
    rest = {k: v for k, v in bench.items() if k != "calls"}
    size = bench.get("size")
    where = (
        f", input {size[0]} \N{MULTIPLICATION SIGN} {size[1]}"
        if isinstance(size, list | tuple) and len(size) == 2
        else ""
    )
    title = str(bench.get("name") or f"Benchmark{f' {index + 1}' if index else ''}{where}")
    fold = details(f"{title}: machine and options", flat(rest))
    if not calls:
        return fold
    heads = (
        "Call",
        "Threads",
        "p99.9|ms",
        "Worst|ms",
        "Jitter|ms",
        "Ratio",
        "Rate|frames/s",
        "Missed",
        "Load|ms",
        "Added|memory",
    )
    rows = [(name_cell(str(c.get("name", ""))), _cells(c), False) for c in calls]
    to = next((r["to"] for c in calls if isinstance(r := c.get("ratio"), Mapping) and r.get("to")), None)
    hz = next((finite(p.get("hz")) for c in calls if isinstance(p := c.get("paced"), Mapping)), None)
    notes = ["Jitter is p99 minus the median."]
    notes += [f"Ratio is the median latency against {escape(str(to))}, over rounds taken in turns."] if to else []
    notes += [f"Missed are masks that were not there within one frame of a {hz:g} Hz camera."] if hz else []
    notes += ["~ marks a percentile with too few frames beyond it."] if any(c.get("anecdotal") for c in calls) else []
    return f'<h3>{escape(title)}</h3><p class="say">{" ".join(notes)}</p>{table(heads, rows)}{fold}'


def _cells(call: Mapping[str, Any]) -> list[str]:
    ratio, paced, cold = (_mapping(call.get(k)) for k in ("ratio", "paced", "cold"))
    few = "~" if "p99_9" in (call.get("anecdotal") or ()) else ""
    missed = DASH if finite(paced.get("offered")) is None else f"{paced.get('misses')}/{paced['offered']}"
    tail = figure(call.get("p99_9_ms"))
    return [
        whole_number(call.get("threads")),
        tail if tail == DASH else few + tail,
        figure(call.get("max_ms")),
        figure(call.get("jitter_ms")),
        figure(ratio.get("median")),
        figure(call.get("throughput_hz")),
        missed,
        figure(cold.get("load_ms")),
        scaled(cold.get("added_bytes"), "B"),
    ]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
