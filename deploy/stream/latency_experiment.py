"""What a reader of a latency claim wants to see: both delays at camera rates, with and without masks in turns, the
worst frames by number, and a count of pixels that differ outside the marker.

The display is none: a frame counts as shown when its picture lies finished in memory. A screen, its cable and its
refresh come on top, with masks and without.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from deploy.hardware.machine import describe
from deploy.measurement.percentiles import summary
from deploy.stream.inference.load_model import Opened
from deploy.stream.session import Session, StreamOptions
from deploy.stream.sources import open_source
from deploy.stream.state.latency import Delays
from edgemt.io.bit_depth import of_card

FORMAT = 1
_BLOCKS = 2  # of each kind, in turns
_STATED = ("p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms")


def measure(
    opened: Opened,
    source: str,
    *,
    rates: Sequence[float],
    options: StreamOptions,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """`options.frames` frames at each rate with masks, and as many without. Raises ValueError for a live source that
    has a rate of its own and was asked for several."""
    if open_source(source).live:
        rates = rates[:1]
    found = []
    for hz in rates:
        say(f"measuring at {hz:g} Hz, {options.frames} frames with masks and as many without")
        found.append(_at(hz, opened, source, options))
    return {
        "format": FORMAT,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe(),
        "model": opened.model.id,
        "source": source,
        "shown": "the finished picture in memory; no screen",
        "mask_ms": round(opened.mask_ms, 3),
        "budget_ms": options.budget_ms,
        "rates": found,
    }


def _at(hz: float, opened: Opened, source: str, options: StreamOptions) -> dict[str, Any]:
    """Blocks with and without masks in turns, so that a slow minute of the machine weighs on both."""
    block = replace(options, frames=max((options.frames or 2 * _BLOCKS) // _BLOCKS, 1))
    runs: dict[bool, list[tuple[dict[str, Any], Delays]]] = {False: [], True: []}
    for turn in range(2 * _BLOCKS):
        masks, delays = turn % 2 == 1, Delays()
        first = opened.first if masks else None
        session = Session(
            open_source(source, hz=hz, depth=of_card(opened.ship.card.data, source="card.json")),
            opened.model if masks else None,
            first=first,
            options=block,
            watch=opened.watch if masks else None,
            delays=delays,
            standby=False,  # loading one would weigh on some blocks and not on others
        )
        runs[masks].append((session.run(), delays))
    with_masks, without = _together(runs[True]), _together(runs[False])
    added = {key: round(with_masks["video"][key] - without["video"][key], 4) for key in _STATED}
    return {"hz": hz, "with_masks": with_masks, "without": without, "added_video": added}


def _together(runs: Sequence[tuple[dict[str, Any], Delays]]) -> dict[str, Any]:
    """Several blocks as one; frames are numbered BLOCK:FRAME."""
    said: dict[str, Any] = {}
    for kind in ("video", "annotation"):
        raw = [(ns, f"{b}:{i}") for b, (_, delays) in enumerate(runs) for i, ns in getattr(delays, kind).raw()]
        said[kind] = None
        if raw:
            worst = [{"frame": name, "ms": round(ns / 1e6, 3)} for ns, name in sorted(raw, reverse=True)[:5]]
            said[kind] = {**summary([ns for ns, _ in raw]), "worst": worst}
            said[f"raw_{kind}_ns"] = {name: ns for ns, name in raw}
    for key in (
        "frames",
        "masks",
        "skipped_frames",
        "frames_without_mask",
        "pictures_checked",
        "pixels_outside_marker",
    ):
        said[key] = sum(record[key] for record, _ in runs)
    said["states"] = {s: sum(record["states"][s] for record, _ in runs) for s in runs[0][0]["states"]}
    seconds = sum(record["seconds"] for record, _ in runs)
    said["cpu_cores"] = round(sum(record["cpu_cores"] * record["seconds"] for record, _ in runs) / seconds, 3)
    return said


def table(evidence: dict[str, Any]) -> str:
    """Markdown. A percentile that fewer than ten frames lie beyond has a tilde."""
    lines = ["| rate | delay | n | p50 ms | p90 ms | p99 ms | p99.9 ms | max ms | worst frames |", "|---" * 9 + "|"]
    for rate in evidence["rates"]:
        video, without = rate["with_masks"]["video"], rate["without"]["video"]
        hz, thin = f"{rate['hz']:g} Hz", {*video["anecdotal"], *without["anecdotal"]}
        for name, part in (
            ("video, with masks", video),
            ("video, without", without),
            ("annotation", rate["with_masks"]["annotation"]),
        ):
            if part is not None:
                worst = ", ".join(f"{w['frame']} ({w['ms']:.1f})" for w in part["worst"][:3])
                lines.append(f"| {hz} | {name} | {part['n']} | {_numbers(part, part['anecdotal'])} | {worst} |")
        lines.append(f"| {hz} | video, added | | {_numbers(rate['added_video'], thin)} | |")
    return "\n".join(lines)


def _numbers(part: dict[str, Any], thin: Collection[str]) -> str:
    return " | ".join(f"{'~' * (key.removesuffix('_ms') in thin)}{part[key]:.2f}" for key in _STATED)


def sentences(evidence: dict[str, Any]) -> list[str]:
    machine = evidence["machine"]
    said = [
        f"Model {evidence['model']}, source {evidence['source']}, {evidence['created']}. {machine['cpu']}, "
        f"{machine['cores_allowed']} cores, {machine['system']}. A mask alone takes {evidence['mask_ms']:.1f} ms; one "
        f"older than {evidence['budget_ms']:g} ms is withdrawn.",
        f"Video: from a frame's capture to the frame shown. Annotation: from a frame's capture to its own mask shown. "
        f"Shown is {evidence['shown']}. Added: the difference of the two percentiles, with masks and without. Worst "
        "frames are BLOCK:FRAME, as in delays.csv, which has every frame. A tilde marks a percentile with fewer than "
        "ten frames beyond it.",
    ]
    for rate in evidence["rates"]:
        part = rate["with_masks"]
        states = ", ".join(f"{n} {state}" for state, n in part["states"].items() if n)
        said.append(
            f"{rate['hz']:g} Hz: {part['skipped_frames']} of {part['frames']} frames not shown, "
            f"{part['frames_without_mask']} without a mask of their own; pictures by state: {states}; "
            f"{part['pixels_outside_marker']} pixels differ outside the marker in {part['pictures_checked']} pictures "
            f"compared; {part['cpu_cores']:.2f} cores ({rate['without']['cpu_cores']:.2f} without masks)."
        )
    return said


def raw_table(evidence: dict[str, Any]) -> str:
    """CSV: a row a frame, with its delays in nanoseconds."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["hz", "masks", "frame", "video_ns", "annotation_ns"])
    for rate in evidence["rates"]:
        for masks, part in (("with", rate["with_masks"]), ("without", rate["without"])):
            drawn = part.get("raw_annotation_ns", {})
            for frame, ns in part["raw_video_ns"].items():
                rows.writerow([f"{rate['hz']:g}", masks, frame, ns, drawn.get(frame, "")])
    return out.getvalue()
