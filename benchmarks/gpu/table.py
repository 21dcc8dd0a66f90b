"""One page of all records: WORK/table.md, of a real run, or WORK/dry/table.md, where every row is marked as dry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgemt.io.atomic import write_text
from gpu.plan import Part
from gpu.record import Record, read

HEAD = "| part | measured | value | conditions |\n|---|---|---|---|"


def write_table(work: Path, parts: Sequence[Part], reasons: dict[str, str], *, dry: bool) -> Path:
    """Write and return the page; `reasons` are those for which parts are skipped on this machine."""
    records = {part.name: read(work, part.name) for part in parts}
    path = work / "table.md"
    write_text(path, page(parts, records, reasons, dry=dry))
    return path


def page(parts: Sequence[Part], records: dict[str, Record | None], reasons: dict[str, str], *, dry: bool) -> str:
    """The page as Markdown. A record of the other kind (dry or real) fills no cell."""
    title = "# Dry run: not a measurement" if dry else "# Measured on a GPU"
    lines = [title, "", HEAD]
    for part in parts:
        record = records.get(part.name)
        if record is not None and record.dry != dry:
            record = None
        lines += _rows(part, record, reasons.get(part.name, ""))
    return "\n".join([*lines, ""])


def _rows(part: Part, record: Record | None, reason: str) -> list[str]:
    name = f"{part.name} (dry)" if record is not None and record.dry else part.name
    if record is None:
        return [_line(name, part.about, "", f"skipped: {reason}" if reason else "not run yet")]
    where = [record.device, *(f"{package} {found}" for package, found in record.versions.items())]
    calls = f"{record.seconds:.0f} s in {record.calls} call{'s' if record.calls > 1 else ''}"
    state = {"done": "done", "cut": f"cut: {record.why}; {part.resumes}", "failed": f"failed: {record.why}"}
    lines = [_line(name, f"{record.date[:10]}: {state[record.state]}", calls, ", ".join(filter(None, where)))]
    lines += [
        _line(name, f"steps of {stage}", f"{done:,} of {of:,}", "" if done == of else "not finished")
        for stage, (done, of) in record.steps.items()
    ]
    lines += [_line(name, row["what"], _value(row["value"], row["unit"]), row["note"]) for row in record.rows]
    return lines


def _value(value: float | str | None, unit: str) -> str:
    if value is None:
        return "not measured"
    text = value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else _digits(value)
    return f"{text} {unit}".strip()


def _digits(value: float) -> str:
    """Four significant digits, none of them lost before the point."""
    size = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:,.{max(4 - size, 0)}f}"


def _line(*cells: str) -> str:
    return "| " + " | ".join(" ".join(str(cell).replace("|", "/").split()) for cell in cells) + " |"
