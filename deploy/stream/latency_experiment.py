"""The latency experiment behind `--evidence`: measures both latencies at camera rates, with and without masks.

It writes evidence.json, evidence.md, evidence.html and delays.csv. Blocks with and without masks alternate. The slowest
frames are listed by number, and pixels that differ outside the overlay are counted. There is no screen: a frame counts
as shown when its picture is complete in memory. The delay of a screen and its cable is added to both, with and without
masks.
"""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from deploy.hardware.machine import describe
from deploy.measurement.percentiles import summary
from deploy.runtimes.registry import DISTRIBUTIONS
from deploy.stream.inference.load_model import LoadedStreamModel
from deploy.stream.session import Session, StreamOptions
from deploy.stream.sources import open_source
from deploy.stream.state.latency import LatencyTracker
from edgemt.io.atomic import write_text
from edgemt.io.bit_depth import of_card

FORMAT = 1
_BLOCKS = 2  # of each kind, alternating
_PERCENTILES = ("p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms")
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Delays</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}}
p{{max-width:52rem}}table{{border-collapse:collapse;font-variant-numeric:tabular-nums;width:100%}}
td,th{{border-bottom:1px solid #ccc;padding:.3rem .6rem;text-align:right}}
td:nth-child(2),th:nth-child(2){{text-align:left}}tr.last td{{border-bottom:2px solid #888}}
figure{{margin:.6rem 0}}figcaption{{font-weight:600}}svg{{fill:#2a7}}svg text{{fill:#555;font-size:10px}}</style>
<h1>Video delay and annotation delay</h1>{paragraphs}<table>{rows}</table>{charts}
"""


def measure_latency(
    opened: LoadedStreamModel,
    source: str,
    *,
    rates: Sequence[float],
    options: StreamOptions,
    log: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure `options.frames` frames at each rate with masks, and as many without.

    A live source has a rate of its own, so only one rate is measured. Returns the record of evidence.json, with the
    latency of every frame.
    """
    if open_source(source).live:
        rates = rates[:1]
    results = []
    for hz in rates:
        log(f"measuring at {hz:g} Hz, {options.frames} frames with masks and as many without")
        results.append(_measure_rate(hz, opened, source, options))
    return {
        "format": FORMAT,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe(DISTRIBUTIONS),
        "model": opened.model.id,
        "source": source,
        "shown": "the finished picture in memory; no screen",
        "mask_ms": round(opened.mask_ms, 3),
        "budget_ms": options.budget_ms,
        "rates": results,
    }


def _measure_rate(hz: float, opened: LoadedStreamModel, source: str, options: StreamOptions) -> dict[str, Any]:
    """Alternate blocks with and without masks, so that a slow phase of the machine affects both."""
    block = replace(options, frames=max((options.frames or 2 * _BLOCKS) // _BLOCKS, 1))
    runs: dict[bool, list[tuple[dict[str, Any], LatencyTracker]]] = {False: [], True: []}
    for block_index in range(2 * _BLOCKS):
        masks, latency = block_index % 2 == 1, LatencyTracker()
        runner = opened.runner if masks else None
        session = Session(
            open_source(source, hz=hz, depth=of_card(opened.package.card.data, source="card.json")),
            opened.model if masks else None,
            runner=runner,
            options=block,
            watcher=opened.watcher if masks else None,
            latency=latency,
            standby=False,  # loading a standby worker would affect some blocks only
        )
        runs[masks].append((session.run(), latency))
    with_masks, without = _merge_blocks(runs[True]), _merge_blocks(runs[False])
    added = {key: round(with_masks["video"][key] - without["video"][key], 4) for key in _PERCENTILES}
    return {"hz": hz, "with_masks": with_masks, "without": without, "added_video": added}


def _merge_blocks(runs: Sequence[tuple[dict[str, Any], LatencyTracker]]) -> dict[str, Any]:
    """One record of several blocks; frames are numbered BLOCK:FRAME."""
    merged: dict[str, Any] = {}
    for kind in ("video", "annotation"):
        raw = [(ns, f"{b}:{i}") for b, (_, latency) in enumerate(runs) for i, ns in getattr(latency, kind).raw()]
        merged[kind] = None
        if raw:
            worst = [{"frame": name, "ms": round(ns / 1e6, 3)} for ns, name in sorted(raw, reverse=True)[:5]]
            merged[kind] = {**summary([ns for ns, _ in raw]), "worst": worst}
            merged[f"raw_{kind}_ns"] = {name: ns for ns, name in raw}
    for key in (
        "frames",
        "masks",
        "skipped_frames",
        "frames_without_mask",
        "pictures_checked",
        "pixels_outside_marker",
    ):
        merged[key] = sum(record[key] for record, _ in runs)
    merged["states"] = {s: sum(record["states"][s] for record, _ in runs) for s in runs[0][0]["states"]}
    seconds = sum(record["seconds"] for record, _ in runs)
    merged["cpu_cores"] = round(sum(record["cpu_cores"] * record["seconds"] for record, _ in runs) / seconds, 3)
    return merged


def markdown_table(evidence: dict[str, Any]) -> str:
    """A Markdown table of all percentiles. A tilde marks a percentile with fewer than ten frames beyond it."""
    lines = ["| rate | delay | n | p50 ms | p90 ms | p99 ms | p99.9 ms | max ms | worst frames |", "|---" * 9 + "|"]
    for rate in evidence["rates"]:
        video, without = rate["with_masks"]["video"], rate["without"]["video"]
        hz, uncertain = f"{rate['hz']:g} Hz", {*video["anecdotal"], *without["anecdotal"]}
        for name, series in (
            ("video, with masks", video),
            ("video, without", without),
            ("annotation", rate["with_masks"]["annotation"]),
        ):
            if series is not None:
                worst = ", ".join(f"{w['frame']} ({w['ms']:.1f})" for w in series["worst"][:3])
                cells = _percentile_cells(series, series["anecdotal"])
                lines.append(f"| {hz} | {name} | {series['n']} | {cells} | {worst} |")
        lines.append(f"| {hz} | video, added | | {_percentile_cells(rate['added_video'], uncertain)} | |")
    return "\n".join(lines)


def _percentile_cells(series: dict[str, Any], uncertain: Collection[str]) -> str:
    return " | ".join(f"{'~' * (key.removesuffix('_ms') in uncertain)}{series[key]:.2f}" for key in _PERCENTILES)


def summary_sentences(evidence: dict[str, Any]) -> list[str]:
    """One paragraph on the setup, one on the terms, and one per rate."""
    machine = evidence["machine"]
    paragraphs = [
        f"Model {evidence['model']}, source {evidence['source']}, {evidence['created']}. {machine['cpu']}, "
        f"{machine['cores_allowed']} cores, {machine['system']}. A mask alone takes {evidence['mask_ms']:.1f} ms; one "
        f"older than {evidence['budget_ms']:g} ms is withdrawn.",
        f"Video: from a frame's capture to the frame shown. Annotation: from a frame's capture to its own mask shown. "
        f"Shown is {evidence['shown']}. Added: the difference of the two percentiles, with masks and without. Worst "
        "frames are BLOCK:FRAME, as in delays.csv, which has every frame. A tilde marks a percentile with fewer than "
        "ten frames beyond it.",
    ]
    for rate in evidence["rates"]:
        run = rate["with_masks"]
        states = ", ".join(f"{n} {state}" for state, n in run["states"].items() if n)
        paragraphs.append(
            f"{rate['hz']:g} Hz: {run['skipped_frames']} of {run['frames']} frames not shown, "
            f"{run['frames_without_mask']} without a mask of their own; pictures by state: {states}; "
            f"{run['pixels_outside_marker']} pixels differ outside the marker in {run['pictures_checked']} pictures "
            f"compared; {run['cpu_cores']:.2f} cores ({rate['without']['cpu_cores']:.2f} without masks)."
        )
    return paragraphs


def frame_csv(evidence: dict[str, Any]) -> str:
    """CSV with one row per frame: both latencies in nanoseconds."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["hz", "masks", "frame", "video_ns", "annotation_ns"])
    for rate in evidence["rates"]:
        for masks, run in (("with", rate["with_masks"]), ("without", rate["without"])):
            annotation = run.get("raw_annotation_ns", {})
            for frame, ns in run["raw_video_ns"].items():
                rows.writerow([f"{rate['hz']:g}", masks, frame, ns, annotation.get(frame, "")])
    return out.getvalue()


def write_evidence(evidence: dict[str, Any], folder: str | Path) -> Path:
    """Write the four files. Returns the path of evidence.html. Raises NoSpaceError on a full disk."""
    folder = Path(folder)
    write_text(folder / "delays.csv", frame_csv(evidence))
    write_text(folder / "evidence.json", json.dumps(without_raw(evidence), indent=1) + "\n")
    text = "\n\n".join(["# Video delay and annotation delay", *summary_sentences(evidence), markdown_table(evidence)])
    write_text(folder / "evidence.md", text + "\n")
    write_text(folder / "evidence.html", _html_page(evidence))
    return folder / "evidence.html"


def without_raw(evidence: dict[str, Any]) -> dict[str, Any]:
    """The evidence without the latencies of single frames."""

    def strip(value: Any) -> Any:
        return {k: strip(v) for k, v in value.items() if not k.startswith("raw_")} if isinstance(value, dict) else value

    return {**evidence, "rates": [strip(rate) for rate in evidence["rates"]]}


def _html_page(evidence: dict[str, Any]) -> str:
    rows = [line.strip("|").split("|") for line in markdown_table(evidence).splitlines() if not line.startswith("|---")]
    cells = [
        ("<tr class=last>" if "added" in row[1] else "<tr>")
        + "".join(f"<{tag}>{html.escape(cell.strip())}</{tag}>" for cell in row)
        + "</tr>"
        for row, tag in zip(rows, ["th"] + ["td"] * len(rows), strict=False)
    ]
    charts = "".join(_charts(rate, budget_ms=evidence["budget_ms"]) for rate in evidence["rates"])
    paragraphs = "".join(f"<p>{html.escape(text)}</p>" for text in summary_sentences(evidence))
    return _PAGE.format(paragraphs=paragraphs, rows="".join(cells), charts=charts)


def _charts(rate: dict[str, Any], *, budget_ms: float) -> str:
    """Histograms of the video latency without and with masks, on one scale, and of the annotation latency."""
    raw_ns = {
        "video without masks": rate["without"].get("raw_video_ns", {}),
        "video with masks": rate["with_masks"].get("raw_video_ns", {}),
        "annotation": rate["with_masks"].get("raw_annotation_ns", {}),
    }
    times = {name: [ns / 1e6 for ns in raw.values()] for name, raw in raw_ns.items()}
    video_max = max([*times["video without masks"], *times["video with masks"], 0.1])
    scales = {name: video_max for name in times} | {"annotation": max([budget_ms, *times["annotation"]])}
    charts = "".join(_histogram(ms, name, max_ms=scales[name]) for name, ms in times.items() if ms)
    note = "Frames by delay; heights are square roots of the counts, so that single frames are visible."
    return f"<h2>{rate['hz']:g} Hz</h2><p>{note}</p>{charts}"


def _histogram(times_ms: list[float], title: str, *, max_ms: float, bins: int = 60) -> str:
    counts = [0] * bins
    for ms in times_ms:
        counts[min(int(ms / max_ms * bins), bins - 1)] += 1
    tallest = max(counts) ** 0.5
    heights = [58 * count**0.5 / tallest for count in counts]
    rects = "".join(
        f'<rect x="{12 * i}" y="{60 - heights[i]:.1f}" width="10" height="{heights[i]:.1f}">'
        f"<title>{i * max_ms / bins:.1f} to {(i + 1) * max_ms / bins:.1f} ms: {count}</title></rect>"
        for i, count in enumerate(counts)
        if count
    )
    marks = "".join(
        f'<text x="{3 * bins * q}" y="74" text-anchor="{anchor}">{q / 4 * max_ms:.1f} ms</text>'
        for q, anchor in enumerate(("start", "middle", "middle", "middle", "end"))
    )
    return (
        f"<figure><figcaption>{html.escape(title)}, n {len(times_ms)}</figcaption>"
        f"<svg viewBox='0 0 {12 * bins} 80' width='100%'><path d='M0 60H{12 * bins}' stroke='#999'/>"
        f"{rects}{marks}</svg></figure>"
    )
