"""Rows of every_student.py as markdown: a table a size, what is on the front, and why a cell is empty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

SHIPPED = "OpenVINO INT8"
Row = Mapping[str, Any]


def report(rows: Sequence[Row], *, columns: Sequence[str]) -> str:
    """A table a size, and below it the front and the quickest network. `rows` are the JSON of every_student.py."""
    sizes = sorted({row["size"] for row in rows})
    parts = [part for size in sizes for part in _of_size([r for r in rows if r["size"] == size], size, columns)]
    return "\n".join([*_head(rows), "", *parts])


def _head(rows: Sequence[Row]) -> list[str]:
    times = sorted(row["created"] for row in rows)
    foreign = [row["foreign_cores"] for row in rows if row["foreign_cores"] is not None]
    busy = f"; others used {max(foreign):.2f} cores at most meanwhile" if foreign else ""
    threads = {call["threads"] for row in rows for call in row["calls"] if call["threads"]}
    where = f"{rows[0]['machine']['cpu']}, {max(threads, default=0)} threads{busy}"
    return [
        f"{times[0][:16]} to {times[-1][:16]} UTC, {where}. Batch 1, uint8 frame in, mask out; p50 / p99 in "
        "milliseconds, ~ where p99 had fewer than 1000 calls. Dice is of the run's own size."
    ]


def _of_size(rows: Sequence[Row], size: int, columns: Sequence[str]) -> list[str]:
    front = accuracy_front(rows)
    head = ["network", "params (M)", "MMACs", *columns, "INT8, times the first", "p99 / p50", "copies add"]
    head += ["of the INT8 peak", "fp32 / INT8 MB", "INT8 = fp32, % of pixels", "Dice fp32 / INT8"]
    lines = [head, ["---"] * len(head), *(_line(row, columns, row["network"] in front) for row in rows)]
    table = ["| " + " | ".join(line) + " |" for line in lines]
    missing = sorted({f"{column}: {why}" for row in rows for column, why in row["missing"].items()})
    return [f"### {size} x {size}", "", *table, "", *_notes(rows, front), *(f"- no {line}" for line in missing), ""]


def _line(row: Row, columns: Sequence[str], first: bool) -> list[str]:
    calls = {call["name"]: call for call in row["calls"]}
    shipped = calls.get(SHIPPED)
    stages = (shipped or {}).get("stages")
    share = share_of_peak(row)
    sizes = [_cell(row["bytes"].get(file), 1e-6, "{:.2f}") for file in ("model.onnx", "model.int8.onnx")]
    return [
        f"**{row['network']}**" if first else row["network"],
        f"{row['params'] / 1e6:.2f}",
        f"{row['macs'] / 1e6:.0f}",
        *(_time(calls.get(column)) for column in columns),
        f"{shipped['ratio']['median']:.2f}" if shipped else "-",
        f"{shipped['p99_ms'] / shipped['p50_ms']:.2f}" if shipped else "-",
        f"{stages['overhead']:.0%}" if stages else "-",
        "-" if share is None else f"{share:.0%}",
        " / ".join(sizes),
        _cell(row["agreement"], 100, "{:.1f}"),
        f"{_cell(row['dice'].get('float'))} / {_cell(row['dice'].get('int8'))}" if row["dice"] else "-",
    ]


def share_of_peak(row: Row) -> float | None:
    """Multiply-accumulates a second of the INT8 file over those of the dense pile, by ratios inside a round."""
    calls = {call["name"]: call for call in row["calls"]}
    if not {SHIPPED, "peak"} <= set(calls):
        return None
    work = row["macs"] / row["peak_macs"]
    return float(work * calls["peak"]["ratio"]["median"] / calls[SHIPPED]["ratio"]["median"])


def accuracy_front(rows: Sequence[Row]) -> set[str]:
    """Names of the networks with a Dice that none beats in both INT8 time and Dice."""
    points = {}
    for row in rows:
        ratio = [call["ratio"]["median"] for call in row["calls"] if call["name"] == SHIPPED]
        dice = row["dice"].get("int8") or row["dice"].get("float")
        if ratio and dice is not None:
            points[row["network"]] = (ratio[0], dice)
    return {
        name
        for name, (time, dice) in points.items()
        if not any(t <= time and d >= dice and (t, d) != (time, dice) for t, d in points.values())
    }


def _notes(rows: Sequence[Row], front: set[str]) -> list[str]:
    peaks = [
        2e-6 * row["peak_macs"] / call["p50_ms"] for row in rows for call in row["calls"] if call["name"] == "peak"
    ]
    shipped = [(call["p50_ms"], call, row) for row in rows for call in row["calls"] if call["name"] == SHIPPED]
    notes = [f"- measured INT8 peak: {min(peaks):.0f} to {max(peaks):.0f} GOPS over the rows"] if peaks else []
    if shipped:
        p50, call, row = min(shipped, key=lambda entry: entry[0])
        notes.append(
            f"- quickest in INT8: {row['network']}, p50 {p50:.2f} ms, p99 {call['p99_ms'] / p50:.2f} times that"
        )
    if front:
        notes.append(f"- on the front of INT8 time and Dice: {', '.join(sorted(front))}")
    return notes


def _time(call: Mapping[str, Any] | None) -> str:
    if call is None:
        return "-"
    return f"{call['p50_ms']:.2f} / {'~' if 'p99' in call['anecdotal'] else ''}{call['p99_ms']:.2f}"


def _cell(value: float | None, scale: float = 1.0, form: str = "{:.3f}") -> str:
    return "-" if value is None or math.isnan(value) else form.format(value * scale)
