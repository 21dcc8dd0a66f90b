"""A bench record as one HTML page: what was measured, how it was spread, how it moved, what it is worth."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from edgemt.report.bench_charts import (
    accuracy_front,
    distributions,
    front,
    parts_of_a_call,
    soak_lines,
    tails,
    time_line,
)
from edgemt.report.css import STYLE
from edgemt.report.formatting import DASH, THIN, figure, finite, fixed, scaled, whole_number
from edgemt.report.html import definition_list, details, flat, name_cell, scrolling, section, table

Record = Mapping[str, Any]
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def bench_page(record: Record) -> str:
    """The whole document, from the record that `edgemt bench --json` writes, raw times included."""
    name = escape(str((record.get("ship") or {}).get("name") or "bench"))
    due = _deadline_ms(record)
    body = [_head(record, name), "<main>", _messages(record), _calls(record, due), _front(record, due)]
    body += [_spread(record, due), _lines(record, due), _parts(record), _cameras(record), _soak(record, due)]
    body += [_cost(record), _machine(record), "</main>", _FOOT]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{name}: EdgeMT bench</title><style>{STYLE}</style></head>
<body>
{"".join(part for part in body if part)}
</body></html>
"""


_FOOT = "<footer>One file, readable without a network. edgemt bench --json FILE keeps every time.</footer>"


def _deadline_ms(record: Record) -> float:
    """The budget, or one frame of the camera, or nothing."""
    budget, hz = (record.get("budget") or {}).get("ms"), (record.get("options") or {}).get("paced_hz")
    return float(budget or (1000 / hz if hz else 0.0))


def _head(record: Record, name: str) -> str:
    quick = min(record["calls"], key=lambda call: call["p50_ms"])
    shape = (record.get("frames") or {}).get("shape") or []
    size = f" of {shape[1]} \N{MULTIPLICATION SIGN} {shape[2]} pixels" if len(shape) == 4 else ""
    sentence = (
        f"The quickest of {len(record['calls'])} calls, <em>{escape(str(quick['name']))}</em>, turns a raw frame{size} "
    )
    sentence += f"into its mask in <em>{figure(quick['p50_ms'])}{THIN}ms</em> at the median and "
    sentence += f"<em>{figure(quick['p99_ms'])}{THIN}ms</em> at p99, over {whole_number(quick['n'])} calls."
    verdict = (record.get("budget") or {}).get("said")
    sentence += f" {escape(verdict[:1].upper() + verdict[1:])}." if verdict else ""
    made = f"{escape(str(record.get('created', '')))} \N{MIDDLE DOT} {escape(str(record['machine'].get('cpu')))}"
    over = f'<p class="over">EdgeMT bench \N{MIDDLE DOT} {made}</p>'
    return f'<header>{over}<h1>{name}</h1><p class="lede">{sentence}</p></header>'


def _messages(record: Record) -> str:
    items = "".join(f"<li>{escape(str(m))}</li>" for m in record.get("notes") or ())
    title = "<h2>Read this with the numbers</h2>"
    return f'<div class="messages" role="note">{title}<ul>{items}</ul></div>' if items else ""


def _calls(record: Record, due: float) -> str:
    heads = ("Call", "Dice", "p10|ms", "Median|ms", "p90|ms", "p99|ms", "p99.9|ms", "Worst|ms", "Tail|ms")
    best = front(record["calls"])
    rows = []
    for i, call in enumerate(record["calls"]):
        few = set(call.get("anecdotal") or ())
        cells = [fixed(call.get("dice")), figure(call.get("p10_ms"))]
        cells += [("~" if p in few else "") + figure(call.get(f"{p}_ms")) for p in ("p50", "p90", "p99", "p99_9")]
        cells += [figure(call.get("max_ms")), figure(call.get("tail_ms"))]
        note = ", ".join(str(call[k]) for k in ("precision", "file") if call.get(k))
        note += f", {call['threads']} threads" if call.get("threads") else ""
        sentence = f"{note}, n = {call['n']}" if note else f"n = {call['n']}"
        if call.get("dice_from"):
            sentence += f", Dice: {call['dice_from']}"
        rows.append((name_cell(str(call["name"]), tone=i, note=sentence), cells, call["name"] in best))
    note_html = (
        "Back to back, one camera. Every kept call counts; ~ marks a percentile with fewer than ten calls beyond it. "
        "Tail is the worst call minus p95. Bold: no other call is both quicker and more accurate."
    )
    return section("Calls", table(heads, rows), note_html=note_html, css="long")


def _front(record: Record, due: float) -> str:
    chart = accuracy_front(record["calls"], deadline_ms=due)
    note_html = "The line joins the calls that no other beats in both; hollow ones are beaten."
    return section("Accuracy and latency", scrolling(chart), note_html=note_html) if chart else ""


def _spread(record: Record, due: float) -> str:
    chart, tail = distributions(record["calls"], deadline_ms=due), tails(record["calls"], deadline_ms=due)
    note_html = (
        "Height is the square root of how often a latency was taken, so that single slow calls show. Long stroke: "
        "median; short stroke: p99; dot: the worst call. Below: how slow the rare calls are."
    )
    return section("Distribution", scrolling(chart) + scrolling(tail), note_html=note_html, css="long") if chart else ""


def _lines(record: Record, due: float) -> str:
    charts = "".join(time_line(call, tone=i, deadline_ms=due) for i, call in enumerate(record["calls"]))
    note_html = "Every kept call in order, ms: mean of neighbours and their range."
    return section("Time line", f'<div class="pair">{charts}</div>', note_html=note_html, css="long") if charts else ""


def _parts(record: Record) -> str:
    host = record.get("host") or {}
    chart = parts_of_a_call(record["calls"], host)
    source = list(host.get("source") or [])
    source_note = f" Fitting and enlarging are those of a {source[1]} x {source[0]} source." if len(source) == 2 else ""
    return (
        section("Where the time goes", scrolling(chart), note_html=f"Medians.{source_note}", css="long")
        if chart
        else ""
    )


def _cameras(record: Record) -> str:
    rows = []
    for i, call in enumerate(record["calls"]):
        for paced in (call.get("paced"), call.get("paced_second")):
            if paced:
                age = paced["age"]
                cells = [figure(age["p50_ms"]), figure(age["p99_ms"]), figure(age["max_ms"]), DASH]
                cells += [f"{paced['misses']}/{paced['offered']}", whole_number(paced["dropped"])]
                rows.append((name_cell(str(call["name"]), tone=i, note=f"camera at {paced['hz']:g} Hz"), cells, False))
        for many in call.get("streams") or ():
            cells = [figure(many["p50_ms"]), figure(many["p99_ms"]), figure(many["max_ms"])]
            cells += [figure(many["throughput_hz"]), DASH, DASH]
            note = f"{many['streams']} at once, flat out, {many['threads']} threads each"
            rows.append((name_cell(str(call["name"]), tone=i, note=note), cells, False))
    heads = ("Call", "Median|ms", "p99|ms", "Worst|ms", "Together|masks/s", "Missed", "Dropped")
    note_html = (
        "On a camera's clock the times are the age of a mask: from the moment its frame appeared, waiting included."
    )
    return section("Cameras", table(heads, rows), note_html=note_html, css="long") if rows else ""


def _soak(record: Record, due: float) -> str:
    found = record.get("soak")
    if not found:
        return ""
    line = found["timeline"]
    charts = soak_lines(
        line, {"p50_ms": "p50", "p99_ms": "p99", "max_ms": "worst"}, title="Latency, ms", deadline_ms=due
    )
    scaled_line = [
        {**point, **{k: point[k] / 2**20 for k in ("resident_bytes", "gpu_bytes") if point.get(k)}} for point in line
    ]
    charts += soak_lines(scaled_line, {"resident_bytes": "host", "gpu_bytes": "device"}, title="Memory, MiB")
    charts += soak_lines(line, {"cpu_mhz": "processor", "gpu_mhz": "GPU"}, title="Clocks, MHz")
    charts += soak_lines(line, {"temperature_c": "hottest", "gpu_temperature_c": "GPU"}, title="Heat, degrees Celsius")
    note_html = (
        f"{escape(str(found['call']))} flat out for {figure(found['minutes'])} minutes, n = {whole_number(found['n'])}."
    )
    return section("Soak", f'<div class="pair">{charts}</div>', note_html=note_html, css="long")


def _cost(record: Record) -> str:
    rows = []
    for i, call in enumerate(record["calls"]):
        cold, used = call.get("cold") or {}, _energy(call)
        if not cold and not used and not call.get("size_bytes"):
            continue
        cells = [scaled(call.get("size_bytes"), "B"), figure(cold.get("process_ms")), figure(cold.get("load_ms"))]
        cells += [figure(cold.get("first_mask_ms")), scaled(cold.get("added_bytes"), "B"), used or DASH]
        rows.append((name_cell(str(call["name"]), tone=i), cells, False))
    why = [f"{name}: {words}" for name, words in (record.get("energy_meters") or {}).items() if words != "ok"]
    note_html = "In a process of its own: the whole process, loading the graph, the first mask, the memory it added."
    note_html += f" No energy from {escape('; '.join(why))}." if why else ""
    heads = ("Call", "File", "Process|ms", "Load|ms", "First mask|ms", "Added|memory", "Energy|mJ a mask")
    return section("Start, memory, energy", table(heads, rows), note_html=note_html, css="long") if rows else ""


def _energy(call: Record) -> str:
    rails = [
        (rail, rail_energy)
        for rail_energy in (call.get("energy") or {}).values()
        if isinstance(rail_energy, Mapping)
        for rail, rail_energy in rail_energy.items()
    ]
    return ", ".join(f"{rail} {figure(rail_energy['mj_per_mask'])}" for rail, rail_energy in rails)


def _machine(record: Record) -> str:
    watch = {k: v for k, v in (record.get("watch") or {}).items() if k != "timeline"}
    load = [("cores others used", figure(record.get("foreign_cores")) if finite(record.get("foreign_cores")) else DASH)]
    shown = (
        definition_list(flat(record.get("machine") or {}))
        + "<h3>Meanwhile</h3>"
        + definition_list([*load, *flat(watch)])
    )
    return section("Machine", shown + details("Options", flat(record.get("options") or {})), css="long")
