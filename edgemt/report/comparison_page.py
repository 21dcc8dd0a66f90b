"""A comparison of methods as a table in Markdown, a picture, and a page: from the record of `edgemt.comparison`."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from edgemt.report.css import STYLE
from edgemt.report.formatting import DASH, finite, fixed, signed
from edgemt.report.html import definition_list, flat, name_cell, scrolling, section, table
from edgemt.report.svg import CHAR, Axis, dot, drawing, line, padded_range, text, truncate

Record = Mapping[str, Any]
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_CONTROLS = ("supervised", "supervised_student")


def caption(record: Record) -> str:
    """What was compared, how it was measured, and what an interval and a tier mean."""
    rows, extra = record["batch"]
    count, seeds = record["cases"], ", ".join(map(str, record["seeds"]))
    parts = [
        f"{record['recipe']}: {record['network']}, {record['steps']} steps of {rows} labelled and {extra} unlabelled "
        f"rows, the same batches, augmentation and schedule for all; last weights, {count} validation cases, mean Dice "
        f"over classes. Seeds {seeds}.",
        _of_settings(record),
        _of_draw(record),
        "A method that delivers the average of its student is compared with supervised training that delivers its "
        "average (supervised), one that delivers the student as it is with supervised training that does so "
        f"(supervised_student). Difference: paired by case and seed; the 95 % interval is that of {record['draws']} "
        f"bootstrap draws of the {record['groups']} patients{_of_seeds(record)}.",
        "Tier: the best method heads a tier, and all whose paired difference to it has an interval that contains zero "
        "are in its tier; the best of the others heads the next one. Tiers and rows are ordered by the mean difference "
        "to supervised over the seeds that both have.",
        "Step: time of a training step over that of a supervised one, as `edgemt explain` has it; of a method that it "
        "has no time of, by the log of these runs.",
        "Of twenty intervals about one leaves out zero by chance alone.",
        record.get("published") or "",
        _of_progress(record),
    ]
    return " ".join(part for part in parts if part)


def _of_settings(record: Record) -> str:
    if all(row.get("settings", "common") == "common" for row in record["rows"]):
        return ""
    return (
        'Rows with "published" have optimiser and augmentation of the method\'s release (`edgemt explain METHOD`); '
        "their control has the common settings."
    )


def _of_draw(record: Record) -> str:
    drawn = record.get("drawn") or {}
    if not drawn:
        return f"Labelled: {record['labelled']}, the same for every seed."
    each = "; ".join(f"seed {seed}: {', '.join(names)}" for seed, names in drawn.items())
    return (
        f"Labelled: {record['labelled']}, drawn anew for each seed, the same for every method and its control ({each})."
    )


def _of_seeds(record: Record) -> str:
    if len(record["seeds"]) == 1:
        return ", and states nothing of other seeds"
    return (
        " and of the seeds, each draw one less than there are; of a row with one seed, of patients alone. With two or "
        "three seeds take an interval that barely leaves out zero as open"
    )


def _of_progress(record: Record) -> str:
    left = record["runs"] - record["finished"]
    return f"Not finished: {left} of {record['runs']} runs are to come." if left else ""


def comparison_table(record: Record) -> str:
    """Markdown, ending in a line end: a row for each method, then the differences of each seed where there are more."""
    classes = record["classes"]
    heads = ["tier", "method", "delivers", "Dice", "median", "each seed", "difference [95 %]", *classes, "HD95, px"]
    heads += ["step", *(["published"] if record.get("published") else [])]
    lines = [caption(record), "", f"{record['created']}, {record['device']}.", "", _line(heads)]
    lines.append("|---" * len(heads) + "|")
    lines += [_line([_tier(row), *_cells(row, classes)][: len(heads)]) for row in record["rows"]]
    seeds, rows = _seed_rows(record)
    if rows:
        heads = ["difference [95 %]", *(f"seed {seed}" for seed in seeds)]
        lines += ["", "Difference of each seed; the interval is of patients alone.", "", _line(heads)]
        lines.append("|---" * len(heads) + "|")
        lines += [_line([name, *cells]) for name, cells in rows]
    return "\n".join(lines) + "\n"


def _seed_rows(record: Record) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Seeds, and for each row with a control its difference of each; no rows where there is one seed."""
    seeds = [str(seed) for seed in record["seeds"]]
    if len(seeds) < 2:
        return seeds, []
    rows = [row for row in record["rows"] if row.get("differences")]
    return seeds, [(str(row["method"]), [_gap(row["differences"].get(seed)) for seed in seeds]) for row in rows]


def _gap(gap: Record | None) -> str:
    return f"{signed(gap['mean'])} [{signed(gap['low'])}, {signed(gap['high'])}]" if gap else DASH


def _tier(row: Record) -> str:
    return DASH if row.get("tier") is None else str(row["tier"])


def comparison_picture(record: Record) -> str:
    """picture.svg: the chart with its colours in it, so that it stands alone."""
    chart = comparison_chart(record) or drawing(880, 40, "nothing to compare", [])
    return chart.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(
        ">", f"><style>{escape(STYLE, quote=False)}svg{{font-family:sans-serif;background:var(--paper)}}</style>", 1
    )


def comparison_chart(record: Record) -> str:
    """A row a method, by tier: Dice of each seed and their mean, the differences to its control with their interval."""
    rows = [row for row in record["rows"] if finite(row["dice"]) is not None]
    if not rows:
        return ""
    gaps = [row["difference"] for row in rows if row["difference"]]
    pitch, top = 25.0, 30.0
    left = 40 + CHAR * max(len(truncate(row["method"], 26)) for row in rows)
    bottom, split = top + pitch * len(rows), 12 + left + (850 - left) * (0.55 if gaps else 1.0)
    x = Axis(
        *padded_range([v for row in rows for v in row["each"].values()], least=0.02, low=0.0, high=1.0),
        left + 14,
        split,
    )
    parts = [line("grid", x(t), top, x(t), bottom) for t in x.ticks(5)]
    parts += [text("tick mid", x(t), bottom + 18, f"{t:g}") for t in x.ticks(5)]
    parts += [line("deadline", x(row["dice"]), top, x(row["dice"]), bottom) for row in rows if _is_control(row)]
    parts.append(text("name", left + 14, top - 12, "Dice: mean, and each seed; dashed, its controls"))
    single = [gap for row in rows for gap in row.get("differences", {}).values()]
    reach = [0.0, *(gap[key] for gap in gaps for key in ("low", "high")), *(gap["mean"] for gap in single)]
    z = Axis(*padded_range(reach, least=0.02), split + 40, 862.0)
    if gaps:
        parts += [line("deadline", z(0.0), top, z(0.0), bottom)]
        parts += [text("tick mid", z(t), bottom + 18, signed(t, 2)) for t in z.ticks(4)]
        parts.append(text("name", split + 40, top - 12, "difference to its control, each seed and 95 %"))
    for i, row in enumerate(rows):
        new = i == 0 or row.get("tier") != rows[i - 1].get("tier")
        parts += _tier_mark(row, top + pitch * i, first=i == 0) if new else []
        parts += _mark(row, top + pitch * (i + 0.5), left, x, z)
    return drawing(880, bottom + 26, "Dice of every method, and its difference to supervised training", parts)


def _tier_mark(row: Record, at: float, *, first: bool) -> list[str]:
    """The number of a tier beside its first row, and a line between two tiers."""
    title = f"tier {_tier(row)}" if row.get("tier") is not None else "no seed in common with the best"
    parts = [] if first else [line("grid", 0.0, at, 862.0, at)]
    return [*parts, text("name", 2.0, at + 16.5, _tier(row), title=title)]


def _mark(row: Record, at: float, left: float, x: Axis, z: Axis) -> list[str]:
    name, control, gap = str(row["method"]), _is_control(row), row["difference"]
    parts = [text("label end", left, at + 4, truncate(name, 26), title=name)]
    parts += [dot("key", x(v), at, title=f"{name}, seed {seed}: {v:.4f}", size=2.6) for seed, v in row["each"].items()]
    css = "control" if control else "dot s1"
    parts.append(dot(css, x(row["dice"]), at, title=f"{name}: {row['dice']:.4f}"))
    if gap:
        over = f"{name} over {row['control']}"
        parts.append(line("whisker s1", z(gap["low"]), at, z(gap["high"]), at))
        for seed, one in row.get("differences", {}).items():
            parts.append(dot("key", z(one["mean"]), at, title=f"{over}, seed {seed}: {_gap(one)}", size=2.6))
        parts.append(dot("dot s1", z(gap["mean"]), at, title=f"{over}: {_gap(gap)}", size=4.2))
    return parts


def _is_control(row: Record) -> bool:
    return row["method"] in _CONTROLS


def comparison_page(record: Record) -> str:
    """The whole document; every string of the record is escaped."""
    methods = sum(not _is_control(row) for row in record["rows"])
    name = escape(f"{record['recipe']}: {methods} method{'s' * (methods != 1)} beside supervised training")
    classes = record["classes"]
    heads = ["Method", "Tier", "Delivers", "Dice", "Median", "Difference|95 % interval", *map(escape, classes)]
    heads += ["HD95|px", "Step"]
    heads += ["Published"] if record.get("published") else []
    rows = []
    for row in (row for row in record["rows"] if not _to_come(row)):
        _, delivers, dice, middle, _, *others = _cells(row, classes)  # each seed: the chart; what failed: the note
        cells = [_tier(row), delivers, dice, middle, *others][: len(heads) - 1]
        rows.append((name_cell(row["method"], note=_failed(row)), cells, False))
    waiting = ", ".join(str(row["method"]) for row in record["rows"] if _to_come(row))
    later = f'<p class="say">To come: {escape(waiting)}.</p>' if waiting else ""
    body = [f'<header><p class="over">EdgeMT comparison \N{MIDDLE DOT} {escape(str(record["created"]))} ']
    body += [f"\N{MIDDLE DOT} {escape(str(record['device']))}</p><h1>{name}</h1>"]
    body += [f'<p class="lede">{escape(_lede(record))}</p></header><main>']
    body.append(section("Methods", scrolling(comparison_chart(record)) + table(heads, rows) + later, css="long"))
    seeds, single = _seed_rows(record)
    if single:
        shown = table(["Method", *(f"Seed {seed}" for seed in seeds)], [(name_cell(n), c, False) for n, c in single])
        note_html = "Paired difference to the control and its 95 % interval, of patients alone."
        body.append(section("Each seed", shown, note_html=note_html, css="long"))
    made = {key: value for key, value in record.items() if key not in ("rows", "published", "drawn")}
    body.append(
        section("How it was made", f'<p class="say">{escape(caption(record))}</p>{definition_list(flat(made))}')
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{name}: EdgeMT comparison</title><style>{STYLE}</style></head>
<body>
{"".join(body)}</main><footer>One file, readable without a network. The same numbers are in table.json.</footer>
</body></html>
"""


def _lede(record: Record) -> str:
    others = [row for row in record["rows"] if row["difference"] and not _is_control(row)]
    if not others:
        return "No method has been trained beside its control yet."
    first = [str(row["method"]) for row in record["rows"] if row.get("tier") == 1]
    sure = [row for row in others if row["difference"]["low"] > 0]
    worse = [row for row in others if row["difference"]["high"] < 0]
    heads = f"The first tier has {len(first)} of {len(record['rows'])} rows: {', '.join(first)}. " if first else ""
    counts = f"Of {len(others)} methods, {len(sure)} lie above their control and {len(worse)} below it with an "
    return f"{heads}{counts}interval that leaves out zero; {len(others) - len(sure) - len(worse)} are open."


def _cells(row: Record, classes: list[str]) -> list[str]:
    gap, spread = row["difference"], f" \N{PLUS-MINUS SIGN} {fixed(row['sd'])}" if row["sd"] is not None else ""
    step = DASH if row["times"] is None else f"{row['times']:.1f} x"
    cells = [str(row["method"]), row["delivers"], fixed(row["dice"]) + spread, fixed(row.get("median"))]
    cells.append(", ".join(fixed(value) for value in row["each"].values()) or DASH)
    cells.append(_gap(gap))
    cells += [*(fixed(row["per_class"].get(name)) for name in classes), fixed(row["hd95"], 1), step]
    cells.append(fixed(row.get("published")))  # the last, as most tables have none
    if row["failed"]:
        cells[4] = f"{cells[4]}; {_failed(row)}" if row["each"] else _failed(row)
    return cells


def _to_come(row: Record) -> bool:
    return finite(row["dice"]) is None and not row["failed"]


def _failed(row: Record) -> str:
    return "; ".join(f"seed {seed}: {reason}" for seed, reason in row["failed"].items())


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
