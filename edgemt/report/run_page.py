"""report.html as one string: a record and a gallery in, a page that needs nothing from outside out."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from edgemt.report.charts import dice_dots
from edgemt.report.css import STYLE
from edgemt.report.figures import Picture
from edgemt.report.formatting import (
    DASH,
    THIN,
    LatencyPoint,
    delivered,
    families,
    family,
    fastest,
    figure,
    finite,
    fixed,
    scaled,
    signed,
    times,
)
from edgemt.report.gallery import Gallery, gallery_section
from edgemt.report.html import definition_list, details, flat, grid, name_cell, scrolling, section, table
from edgemt.report.latency_section import latency_section

Record = Mapping[str, Any]
# a browser enforces that nothing is fetched
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(record: Record, gallery: Gallery = (), pictures: Mapping[Picture, str] | None = None) -> str:
    """The whole document. Every string of `record` and `gallery` is escaped; what is missing is left out.

    pictures: <svg> elements by name; None where matplotlib is missing.
    """
    name = escape(str(record.get("name") or "run"))
    classes = [str(c) for c in record.get("classes") or ()]
    parts = [_head(record, name), "<main>", _messages(record), _given_up(record)]
    parts += [_trade(record, pictures), _stages(record)]
    drawn = gallery_section(classes, gallery, overlapping=bool(record.get("overlapping")))
    parts += [drawn, _classes(record), _volumes(record)]
    parts += [_controls(record), latency_section(record)]
    parts += [_curves(record, pictures), _made(record), "</main>", _FOOT]
    body = "\n".join(part for part in parts if part)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{name}: EdgeMT report</title><style>{STYLE}</style></head>
<body>
{body}
</body></html>
"""


_FOOT = "<footer>One file, readable without a network. The same numbers are in report.json beside it.</footer>"


def _head(record: Record, name: str) -> str:
    created = f" \N{MIDDLE DOT} {escape(str(record['created']))}" if record.get("created") else ""
    parts = [f'<header><p class="over">EdgeMT report{created}</p><h1>{name}</h1>']
    last = delivered(record)
    if last is not None:
        stages = record.get("stages") or ()
        teacher: Record = next((s for s in stages if family(str(s.get("name", ""))) == "teacher" and s is not last), {})
        parts += [_lede(record, last, teacher), _figures(last, teacher)]
    return "".join(parts) + "</header>"


def _lede(record: Record, last: Record, teacher: Record) -> str:
    counts, quick = record.get("counts") or {}, fastest(last)
    val, labelled, unlabelled = (finite(counts.get(k)) for k in ("val", "labelled", "unlabelled"))
    sentence = f"The delivered model, <em>{escape(str(last.get('name', '')))}</em>, reaches a mean Dice of "
    sentence += f"<em>{fixed(last['dice'])}</em>" + (f" on {val:.0f} validation cases" if val is not None else "")
    if quick is not None:
        sentence += f" and takes <em>{figure(quick.p50_ms)}{THIN}ms</em> a frame with {escape(quick.runtime)}"
    sentence += "."
    if finite(teacher.get("dice")) is not None:
        gap = float(teacher["dice"]) - float(last["dice"])
        much = f"{abs(gap):.3f}"
        sentence += f" The teacher it learned from reaches {fixed(teacher['dice'])}"
        sentence += ", the same." if float(much) == 0 else f", {much} {'more' if gap > 0 else 'less'}."
    if labelled is not None and unlabelled is not None:
        sentence += f" Trained with {labelled:.0f} labelled and {unlabelled:.0f} unlabelled cases."
    return f'<p class="lede">{sentence}</p>'


def _figures(last: Record, teacher: Record) -> str:
    """The delivered model in five numbers, each beside the teacher's."""
    quick, drop = fastest(last), finite(last.get("drop"))

    def against(key: str, unit: str = "") -> str:
        mine, theirs = finite(last.get(key)), finite(teacher.get(key))
        return f"teacher: {scaled(theirs, unit)}, {times(theirs / mine)}" if mine and theirs else ""

    rows = [
        (
            "Dice, validation",
            fixed(last.get("dice")),
            "" if drop is None else f"{signed(-drop)} from its parent",
        ),
        ("Median latency", f"{figure(quick.p50_ms)}{THIN}ms" if quick else DASH, _quick(quick)),
        ("File size", scaled(last.get("size_bytes"), "B"), against("size_bytes", "B")),
        ("Multiply-adds a frame", scaled(last.get("macs")), against("macs")),
        ("Parameters", scaled(last.get("params")), against("params")),
    ]
    cells = []
    for what, words, by in rows:
        number, _, unit = words.rpartition(THIN) if words[-1:].isalpha() else (words, "", "")
        big = f"{number}<small>{unit}</small>" if unit else number
        cells.append(f'<div><dt>{what}</dt><dd class="big">{big}</dd><dd class="by">{by}</dd></div>' * (words != DASH))
    return f'<dl class="figures">{"".join(cells)}</dl>'


def _quick(quick: LatencyPoint | None) -> str:
    if quick is None:
        return ""
    tail = f", p99 {figure(quick.p99_ms)} ms" if quick.p99_ms else ""
    return escape(f"{quick.runtime} {quick.precision}".strip()) + tail


def _messages(record: Record) -> str:
    items = "".join(f"<li>{escape(str(m))}</li>" for m in record.get("messages") or ())
    title = "<h2>Read this with the numbers</h2>"
    return f'<div class="messages" role="note">{title}<ul>{items}</ul></div>' if items else ""


def _given_up(record: Record) -> str:
    """What the gates refused, each attempt with its Dice and the reason, and what ships in its place."""
    rows = []
    for entry in record.get("given_up") or ():
        for step in entry.get("tried") or ():
            drop = None
            if finite(step.get("dice")) is not None and finite(entry.get("parent_dice")) is not None:
                drop = step["dice"] - entry["parent_dice"]
            name = name_cell(str(step.get("attempt", "")), note=step.get("refused") or "passed")
            rows.append((name, [fixed(step.get("dice"), 4), signed(drop, 4), fixed(entry.get("tolerance"), 3)], False))
    lines = [
        f"{entry.get('stage')}: {entry.get('wanted')} was given up for {entry.get('shipped')}; "
        f"to get it: {entry.get('remedy')}."
        for entry in record.get("given_up") or ()
    ]
    heads = ("Attempt", "Dice", "Change", "Tolerance")
    return section("Given up", table(heads, rows), note_html=" ".join(escape(line) for line in lines)) if rows else ""


def _trade(record: Record, pictures: Mapping[Picture, str] | None) -> str:
    there = any(finite(stage.get("dice")) is not None for stage in record.get("stages") or ())
    return section("Accuracy and latency", _picture(pictures, "accuracy_latency")) if there else ""


def _picture(pictures: Mapping[Picture, str] | None, name: Picture) -> str:
    """A picture, or one line that states why there is none."""
    if pictures is None:
        return '<p class="say">This picture needs matplotlib: pip install matplotlib</p>'
    return scrolling(pictures.get(name, ""))


def _stages(record: Record) -> str:
    stages, last, rows = list(record.get("stages") or ()), delivered(record), []
    for s in stages:
        name, drop, quick = str(s.get("name", "")), finite(s.get("drop")), fastest(s)
        cells = [fixed(s.get("dice")), signed(None if drop is None else -drop), fixed(s.get("hd95_px"), 1)]
        cells += [scaled(s.get("params")), scaled(s.get("macs")), scaled(s.get("size_bytes"), "B")]
        cells += [figure(quick.p50_ms) if quick else DASH]
        rows.append((name_cell(name, tone=families(stages)[family(name)], note=s.get("note")), cells, s is last))
    heads = ("Stage", "Dice", "Change", "HD95|px", "Parameters", "Multiply-adds", "Size", "Median|ms")
    note_html = (
        "Dice is the mean over classes and validation cases. Change is against the stage it was made from. "
        "The median latency is that of the fastest runtime. The delivered stage is set bold."
    )
    return section("Stages", table(heads, rows), note_html=note_html) if rows else ""


def _controls(record: Record) -> str:
    stages = list(record.get("stages") or ())
    controls = [{**c, "name": str(c.get("name", "")).removeprefix("controls/")} for c in record.get("controls") or ()]
    rows = []
    for c in controls:
        cells = [
            fixed(c.get("dice")),
            fixed(c.get("hd95_px"), 1),
            scaled(c.get("params")),
            scaled(c.get("macs")),
        ]
        rows.append((name_cell(str(c.get("name", "")), note=c.get("note")), cells, False))
    made = table(("Control", "Dice", "HD95|px", "Parameters", "Multiply-adds"), rows)
    note_html = "What is reached without a part of the method, measured in the same way. Hollow marks are controls."
    return (
        section("Controls", scrolling(dice_dots(stages, controls=controls)) + made, note_html=note_html) if rows else ""
    )


def _classes(record: Record) -> str:
    rows = [r for r in (*(record.get("stages") or ()), *(record.get("controls") or ())) if r.get("per_class")]
    names = list(dict.fromkeys(str(c) for r in rows for c in r["per_class"]))
    if not names:
        return ""
    groups = "".join(f'<th class="group" colspan="2">{escape(c)}</th>' for c in names)
    heads = "<th>Stage</th>" + '<th class="n">Dice</th><th class="n">HD95<span class="unit">px</span></th>' * len(names)
    body = []
    for r in rows:
        values = [r["per_class"].get(c) or {} for c in names]
        cells = (
            f'<td class="n">{fixed(v.get("dice"))}</td><td class="n dim">{fixed(v.get("hd95"), 1)}</td>' for v in values
        )
        body.append(f"<tr><td>{name_cell(str(r.get('name', '')))}</td>{''.join(cells)}</tr>")
    note_html = f"{DASH} stands for what no case defines, such as the distance to an empty mask."
    return section("Classes", grid(f'<th class="none"></th>{groups}</tr><tr>{heads}', body), note_html=note_html)


def _volumes(record: Record) -> str:
    """Volumes as they were put together again: before and after clean-up, in voxels and in millimetres."""
    rows = []
    for s in record.get("stages") or ():
        cleaned, mean = (s.get("measured") or {}).get("largest_component"), s.get("mean") or {}
        if cleaned is None:
            continue
        cells = [fixed(s.get("dice")), fixed(cleaned.get("dice"))]
        cells += [fixed(s.get("hd95_px"), 1), fixed(cleaned.get("hd95"), 1), fixed(mean.get("hd95_mm"), 1)]
        cells += [fixed(mean.get("asd"), 2), fixed(mean.get("asd_mm"), 2), fixed(mean.get("nsd"))]
        rows.append((name_cell(str(s.get("name", ""))), [*cells, scaled(s.get("macs_per_volume"))], False))
    hd95 = ("HD95|voxels", "HD95|largest part", "HD95|mm")
    heads = ("Stage", "Dice", "Dice|largest part", *hd95, "ASD|voxels", "ASD|mm", "NSD", "Multiply-adds|a volume")
    note_html = (
        "Volumes in their own size. Largest part: only the largest connected component of each class is kept; "
        f"published tables mix both. {DASH} where the files do not say how large a voxel is."
    )
    return section("Volumes", table(heads, rows), note_html=note_html) if rows else ""


def _curves(record: Record, pictures: Mapping[Picture, str] | None) -> str:
    if not any((record.get("curves") or {}).values()) or (pictures is not None and "curves" not in pictures):
        return ""
    note_html = "A line is the mean of neighbouring steps, the band their range."
    return section("Training", _picture(pictures, "curves"), note_html=note_html, css="long")


def _made(record: Record) -> str:
    shown = [(title, flat(record.get(key) or {})) for title, key in (("Data", "counts"), ("Device", "device"))]
    parts = [f"<h3>{title}</h3>{definition_list(rows)}" for title, rows in shown if rows]
    recipe = flat(record.get("recipe") or {})
    parts.append(details(f"Recipe, {len(recipe)} fields", recipe))
    return section("How it was made", "".join(parts), css="long") if any(parts) else ""
