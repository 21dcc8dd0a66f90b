"""The evidence as files: evidence.json, evidence.md, evidence.html, and delays.csv with a row a frame."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from deploy.stream.latency_experiment import raw_table, sentences, table
from edgemt.io.atomic import write_text

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Delays</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}}
p{{max-width:52rem}}table{{border-collapse:collapse;font-variant-numeric:tabular-nums;width:100%}}
td,th{{border-bottom:1px solid #ccc;padding:.3rem .6rem;text-align:right}}
td:nth-child(2),th:nth-child(2){{text-align:left}}tr.last td{{border-bottom:2px solid #888}}
figure{{margin:.6rem 0}}figcaption{{font-weight:600}}svg{{fill:#2a7}}svg text{{fill:#555;font-size:10px}}</style>
<h1>Video delay and annotation delay</h1>{paragraphs}<table>{rows}</table>{charts}
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
        ("<tr class=last>" if "added" in row[1] else "<tr>")
        + "".join(f"<{tag}>{html.escape(cell.strip())}</{tag}>" for cell in row)
        + "</tr>"
        for row, tag in zip(rows, ["th"] + ["td"] * len(rows), strict=False)
    ]
    charts = "".join(_charts(rate, budget_ms=evidence["budget_ms"]) for rate in evidence["rates"])
    paragraphs = "".join(f"<p>{html.escape(said)}</p>" for said in sentences(evidence))
    return _PAGE.format(paragraphs=paragraphs, rows="".join(cells), charts=charts)


def _charts(rate: dict[str, Any], *, budget_ms: float) -> str:
    """The two of the video on one axis, one above the other, and the masks'."""
    found = {
        "video without masks": rate["without"].get("raw_video_ns", {}),
        "video with masks": rate["with_masks"].get("raw_video_ns", {}),
        "annotation": rate["with_masks"].get("raw_annotation_ns", {}),
    }
    times = {name: [ns / 1e6 for ns in raw.values()] for name, raw in found.items()}
    longest = max([*times["video without masks"], *times["video with masks"], 0.1])
    tops = {name: longest for name in times} | {"annotation": max([budget_ms, *times["annotation"]])}
    bars = "".join(_histogram(of, name, top_ms=tops[name]) for name, of in times.items() if of)
    return f"<h2>{rate['hz']:g} Hz</h2><p>Frames by delay; heights are square roots, so that one is seen.</p>{bars}"


def _histogram(times_ms: list[float], title: str, *, top_ms: float, bins: int = 60) -> str:
    counts = [0] * bins
    for ms in times_ms:
        counts[min(int(ms / top_ms * bins), bins - 1)] += 1
    most = max(counts) ** 0.5
    bars = "".join(
        f'<rect x="{12 * i}" y="{60 - 58 * count**0.5 / most:.1f}" width="10" height="{58 * count**0.5 / most:.1f}">'
        f"<title>{i * top_ms / bins:.1f} to {(i + 1) * top_ms / bins:.1f} ms: {count}</title></rect>"
        for i, count in enumerate(counts)
        if count
    )
    marks = "".join(
        f'<text x="{3 * bins * q}" y="74" text-anchor="{anchor}">{q / 4 * top_ms:.1f} ms</text>'
        for q, anchor in enumerate(("start", "middle", "middle", "middle", "end"))
    )
    return (
        f"<figure><figcaption>{html.escape(title)}, n {len(times_ms)}</figcaption>"
        f"<svg viewBox='0 0 {12 * bins} 80' width='100%'><path d='M0 60H{12 * bins}' stroke='#999'/>{bars}{marks}</svg>"
        "</figure>"
    )
