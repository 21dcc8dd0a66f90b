"""The line that `edgemt stream` prints at its end."""

from __future__ import annotations

from typing import Any


def stream_summary(record: dict[str, Any]) -> str:
    """Frames, masks, restarts, ages, flicker and drift of the record of a stream, on one line."""
    annotation = record["annotation"]
    age = f", masks shown after {annotation['p50_ms']:.1f} ms (p99 {annotation['p99_ms']:.1f})" if annotation else ""
    counts = f"{record['frames']} frames, {record['masks']} masks, {record['restarts']} restarts"
    return f"{counts}{age}{_flicker(record)}{_drift(record)}"


def _flicker(record: dict[str, Any]) -> str:
    """The estimate of flicker, and the delay of a vote."""
    flicker, vote = record["flicker"], record["vote"]
    text = f", flicker {flicker['mean']:.3f} (estimate)" if flicker and flicker["mean"] is not None else ""
    return (
        text if vote is None else f"{text}, changes {vote['delay_ms']:.0f} ms later by a vote of {vote['masks']} masks"
    )


def _drift(record: dict[str, Any]) -> str:
    """How memory and latency changed from the first third of the stream to the last."""
    drift = record["drift"]
    if drift is None or drift["p50_ratio"] is None or drift["resident_bytes"] is None:
        return ""
    first = next(point["resident_bytes"] for point in record["timeline"] if point["resident_bytes"])
    return (
        f"; last third against first: memory {drift['resident_bytes'] / first:+.1%}, "
        f"masks' age x{drift['p50_ratio']:.2f} (p99 x{drift['p99_ratio']:.2f})"
    )
