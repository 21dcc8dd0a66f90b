"""dossier.html: one file without an outside reference, to read, to print, and to see what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from edgemt.dossier.items import NOT_MEASURED, TO_WRITE, Item, Section, Table, count_sentence
from edgemt.report.css import STYLE
from edgemt.report.html import details, flat, grid, section

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_CSS = """
.state{white-space:nowrap;font-size:13px;color:var(--soft)}
tr.open td,td.open{background:var(--note);color:var(--note-ink)}tr.open .note,tr.open .state{color:var(--note-ink)}
tr.open .state{font-weight:620}
tr.missing .text,td.missing{color:var(--late)}
td.refs{font-size:13px;color:var(--soft);white-space:nowrap}tr.open td.refs{color:var(--note-ink)}
td.text{overflow-wrap:anywhere}
.jump{columns:3 200px;margin:28px 0 0;padding:0;list-style:none;font-size:15px}.jump a{color:var(--mark)}
.scroll{margin-top:18px}h3+.scroll{margin-top:4px}p.small{color:var(--soft);font-size:13px;margin:6px 0 0}
main table td:first-child,main table th:first-child{padding-left:8px}
"""
_ROW = {"filled in": "", "not measured": ' class="missing"', "to be written": ' class="open"'}


def dossier_page(record: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """The whole document. `record`: the content of dossier.json."""
    title = f"{record['name']}, version {record['version']}" if record["version"] else str(record["name"])
    counts = record["counts"]
    jump = "".join(f'<li><a href="#{one.key}">{escape(one.title)}</a>{_open(one)}</li>' for one in sections)
    body = "".join(_section(one) for one in sections) + _plan(record["change_plan"])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{escape(title)}: dossier</title><style>{STYLE}{_CSS}</style></head>
<body><header><p class="over">EdgeMT dossier, {escape(str(record["created"]))}</p><h1>{escape(title)}</h1>
<p class="lede">{escape(count_sentence(counts))} A skeleton with the facts that are on record; no proof of
conformity.</p><ul class="jump">{jump}</ul></header>
<main>{body}</main><footer>Made by edgemt {escape(str(record["edgemt"]))} from the card, the records that were given and
the installed package. dossier.json has the same content, sbom.cdx.json the components.</footer></body></html>
"""


def _open(one: Section) -> str:
    number = sum(item.state == "to be written" for item in one.items)
    return f" ({number} to write)" if number else ""


def _section(one: Section) -> str:
    heads = "<th>item</th><th>state</th><th>content</th><th>required by</th>"
    body = grid(heads, [_item(item) for item in one.items]) if one.items else ""
    body += "".join(_table(table) for table in one.tables)
    return f'<div id="{one.key}">{section(escape(one.title), body, note_html=escape(one.note), css="wide long")}</div>'


def _item(item: Item) -> str:
    source = f'<span class="note">{escape(item.source)}</span>' if item.source else ""
    return (
        f'<tr{_ROW[item.state]}><td>{escape(item.title)}</td><td class="state">{item.state}</td>'
        f'<td class="text">{escape(item.text)}{source}</td>'
        f'<td class="refs">{"<br>".join(map(escape, item.references))}</td></tr>'
    )


def _table(table: Table) -> str:
    heads = "".join(f"<th>{escape(head)}</th>" for head in table.heads)
    rows = ["<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in table.rows]
    note = f'<p class="small">{escape(table.note)}</p>' if table.note else ""
    return f"<h3>{escape(table.title)}</h3>{grid(heads, rows)}{note}"


def _cell(text: str) -> str:
    css = {TO_WRITE: "text open", NOT_MEASURED: "text missing"}.get(text, "text")
    return f'<td class="{css}">{escape(text)}</td>'


def _plan(plan: Mapping[str, Any]) -> str:
    return f'<div id="change_plan">{section("Change plan", details("All fields", flat(plan)), css="wide")}</div>'
