"""What the report's page is set from: sections, tables and lists of facts, each an HTML string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from edgemt.report.formatting import DASH, finite
from edgemt.report.svg import TONES


def section(title: str, body: str, *, note_html: str = "", css: str = "") -> str:
    """A section of the page. `title` and `note_html` are inserted unescaped: never pass user input."""
    intro = f'<p class="say">{note_html}</p>' if note_html else ""
    kind = f' class="{css}"' if css else ""
    return f"<section{kind}><h2>{title}</h2><div>{intro}{body}</div></section>"


def table(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str], bool]]) -> str:
    """First column words (HTML), the others plain figures. `Head|unit` sets a unit; True marks a row."""
    units = [(h.partition("|")[0], h.partition("|")[2]) for h in heads]
    marked = [f'{h}<span class="unit">{u}</span>' if u else h for h, u in units]
    top = f"<th>{marked[0]}</th>" + "".join(f'<th class="n">{h}</th>' for h in marked[1:])
    body = []
    for first, cells, last in rows:
        numbers = "".join(f'<td class="n">{escape(c)}</td>' for c in cells)
        mark = ' class="last"' if last else ""
        body.append(f"<tr{mark}><td>{first}</td>{numbers}</tr>")
    return grid(top, body)


def grid(heads: str, rows: Sequence[str]) -> str:
    """A table in a box that scrolls sideways. `heads` and `rows` are HTML and are inserted unescaped."""
    made = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="scroll">{made}</div>'


def name_cell(name: str, *, tone: int | None = None, note: Any = None) -> str:
    """A row's first cell: its name, the colour it has in the charts, a line of small print."""
    tag = "" if tone is None else f'<i class="tag s{tone % TONES}"></i>'
    small = f'<span class="note">{escape(str(note))}</span>' if note else ""
    return f"{tag}{escape(name)}{small}"


def scrolling(chart: str) -> str:
    """A chart that scrolls sideways on a narrow screen instead of shrinking its words away."""
    return f'<div class="scroll"><div class="figure">{chart}</div></div>' if chart else ""


def definition_list(rows: Sequence[tuple[str, str]]) -> str:
    """Pairs of name and value as a definition list; both are escaped."""
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in rows)
    return f'<dl class="facts">{items}</dl>'


def details(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """A definition list that is folded under its title; empty if there are no rows."""
    return f"<details><summary>{escape(title)}</summary>{definition_list(rows)}</details>" if rows else ""


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as dotted names; a long list as its count."""
    if isinstance(value, Mapping):
        return [row for k, v in value.items() for row in flat(v, f"{prefix}.{k}" if prefix else str(k))]
    if isinstance(value, list | tuple):
        if len(value) > 12:
            return [(prefix, f"{len(value)} values, in report.json")]
        if any(isinstance(v, Mapping) for v in value):
            return [row for i, v in enumerate(value) for row in flat(v, f"{prefix}.{i + 1}")]
        return [(prefix, ", ".join(_plain_text(v) for v in value) or DASH)]
    return [(prefix, _plain_text(value))]


def _plain_text(value: Any) -> str:
    if isinstance(value, float):
        return DASH if finite(value) is None else f"{value:.6g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return DASH if value is None or value == "" else str(value)
