"""The evidence as files: evidence.json, evidence.md, evidence.html, and delays.csv with a row a frame."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from deploy.stream.evidence import raw_table, sentences, table
from edgemt.files import write_text

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Delays</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse}}td,th{{border-bottom:1px solid #ccc;padding:.3rem .7rem;text-align:right}}
td:nth-child(2),th:nth-child(2){{text-align:left}}</style>
<h1>Video delay and annotation delay</h1>{paragraphs}<table>{rows}</table>{bars}
"""


def write_evidence(evidence: dict[str, Any], folder: str | Path) -> Path:
    """Returns the page. Raises NoSpaceError on a full disk."""
    folder = Path(folder)
    write_text(folder / "delays.csv", raw_table(evidence))
    write_text(folder / "evidence.json", json.dumps(without_raw(evidence), indent=1) + "\n")
    text = "\n\n".join(["# Video delay and annotation delay", *sentences(evidence), table(evidence)])
    write_text(folder / "evidence.md", text + "\n")
    write_text(folder / "evidence.html", page(evidence))
    return folder / "evidence.html"


def without_raw(evidence: dict[str, Any]) -> dict[str, Any]:
    def plain(part: Any) -> Any:
        return {k: plain(v) for k, v in part.items() if not k.startswith("raw_")} if isinstance(part, dict) else part

    return {**evidence, "rates": [plain(rate) for rate in evidence["rates"]]}


def page(evidence: dict[str, Any]) -> str:
    rows = [line.strip("|").split("|") for line in table(evidence).splitlines() if not line.startswith("|---")]
    cells = [
        "<tr>" + "".join(f"<{tag}>{html.escape(cell.strip())}</{tag}>" for cell in row) + "</tr>"
        for row, tag in zip(rows, ["th"] + ["td"] * len(rows), strict=False)
    ]
    bars = [
        _histogram(list(part[f"raw_{kind}_ns"].values()), f"{rate['hz']:g} Hz, {name}")
        for rate in evidence["rates"]
        for part, kind, name in (
            (rate["without"], "video", "video without masks"),
            (rate["with_masks"], "video", "video with masks"),
            (rate["with_masks"], "annotation", "annotation"),
        )
        if part.get(f"raw_{kind}_ns")
    ]
    paragraphs = "".join(f"<p>{html.escape(said)}</p>" for said in sentences(evidence))
    return _PAGE.format(paragraphs=paragraphs, rows="".join(cells), bars="".join(bars))


def _histogram(times_ns: list[int], title: str, *, bins: int = 60) -> str:
    """Counts on a square-root scale, so that a single late frame is seen."""
    top_ms = max(max(times_ns) / 1e6, 0.1)
    counts = [0] * bins
    for ns in times_ns:
        counts[min(int(ns / 1e6 / top_ms * bins), bins - 1)] += 1
    most = max(counts) ** 0.5
    bars = "".join(
        f'<rect x="{12 * i}" y="{80 - 78 * count**0.5 / most:.1f}" width="10" height="{78 * count**0.5 / most:.1f}"/>'
        for i, count in enumerate(counts)
        if count
    )
    return (
        f"<h2>{html.escape(title)}</h2><svg viewBox='0 0 {12 * bins} 100' width='100%' fill='#2a7'>{bars}"
        f"<text y='96' fill='#333' font-size='12'>0 ms</text>"
        f"<text x='{12 * bins}' y='96' text-anchor='end' fill='#333' font-size='12'>{top_ms:.1f} ms</text></svg>"
    )
