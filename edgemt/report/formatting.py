"""How the report reads a record: finite numbers, figures with units, timed points, the delivered stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DASH = "\N{EN DASH}"  # what was not measured
MINUS = "\N{MINUS SIGN}"
THIN = "\N{NARROW NO-BREAK SPACE}"
DEADLINE_MS = 1000.0 / 30.0  # one frame of a 30 Hz camera


@dataclass(frozen=True)
class LatencyPoint:
    """One stage on one runtime. Percentiles in ms, None where they were not taken."""

    stage: str
    key: str  # the record's own name of the runtime
    runtime: str
    dice: float | None
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    precision: str
    n: int | None


def finite(value: Any) -> float | None:
    """A float, or None for NaN, infinities, and what is no number."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def fixed(value: Any, digits: int = 3) -> str:
    """0.9123 -> 0.912; an en dash for what is not finite."""
    number = finite(value)
    return DASH if number is None else f"{number:.{digits}f}".replace("-", MINUS)


def signed(value: Any, digits: int = 3) -> str:
    """A number with its sign and `digits` decimals; without a sign if that is 0, a dash if it is not finite."""
    number = finite(value)
    if number is None:
        return DASH
    text = f"{abs(number):.{digits}f}"
    if float(text) == 0:
        return text
    return f"{MINUS if number < 0 else '+'}{text}"


def figure(value: Any, digits: int = 3) -> str:
    """Three significant digits without an exponent: 0.0421, 1.84, 12.3, 105, 1 240."""
    number = finite(value)
    if number is None:
        return DASH
    if number == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(number))))
    return f"{round(number, places):,.{places}f}".replace(",", THIN).replace("-", MINUS)


def scaled(value: Any, unit: str = "") -> str:
    """A count or a size with its SI prefix: 3 400 000 -> 3.40 M; unit B gives 3.40 MB."""
    number = finite(value)
    if number is None:
        return DASH
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= factor:
            return f"{figure(number / factor)}{THIN}{prefix}{unit}"
    return f"{number:.0f}{THIN}{unit}".rstrip(THIN)


def whole_number(value: Any) -> str:
    """4000 -> 4 000."""
    number = finite(value)
    return DASH if number is None else f"{number:,.0f}".replace(",", THIN).replace("-", MINUS)


def times(ratio: Any) -> str:
    """17.2 -> 17×, 1.34 -> 1.3×."""
    number = finite(ratio)
    if number is None:
        return DASH
    return f"{number:.0f}\N{MULTIPLICATION SIGN}" if number >= 10 else f"{number:.1f}\N{MULTIPLICATION SIGN}"


def timed(stages: Sequence[Mapping[str, Any]]) -> list[LatencyPoint]:
    """Every stage on every runtime that has a median latency, in the order of the record."""
    points = []
    for stage in stages:
        for key, row in (stage.get("latency") or {}).items():
            median = finite(row.get("p50_ms"))
            if median is None or median <= 0:
                continue
            count, precision = finite(row.get("n")), str(row.get("precision") or "")
            points.append(
                LatencyPoint(
                    stage=str(stage.get("name", "")),
                    key=str(key),
                    runtime=str(key).removesuffix(precision).strip() or str(key),
                    dice=finite(stage.get("dice")),
                    p50_ms=median,
                    p90_ms=finite(row.get("p90_ms")),
                    p99_ms=finite(row.get("p99_ms")),
                    precision=precision,
                    n=None if count is None else int(count),
                )
            )
    return points


def family(stage: str) -> str:
    """int8/openvino and int8/onnxruntime are one stage on two runtimes."""
    return stage.split("/", 1)[0]


def families(stages: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Stage family -> its place, which is also its colour everywhere in the report."""
    return {name: i for i, name in enumerate(dict.fromkeys(family(str(s.get("name", ""))) for s in stages))}


def fastest(stage: Mapping[str, Any]) -> LatencyPoint | None:
    """The timing of a stage with the lowest median; None if the stage was not timed."""
    return min(timed([stage]), key=lambda t: t.p50_ms, default=None)


def delivered(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The stage named by record["delivered"]; else the fastest of the last family that has a Dice."""
    stages = [s for s in record.get("stages") or () if finite(s.get("dice")) is not None]
    for stage in stages:
        if stage.get("name") == record.get("delivered"):
            return stage
    if not stages:
        return None
    last = family(str(stages[-1].get("name", "")))
    peers = [s for s in stages if family(str(s.get("name", ""))) == last]
    known = [(t.p50_ms, i) for i, s in enumerate(peers) if (t := fastest(s)) is not None]
    return peers[min(known)[1]] if known else peers[-1]


def candidate_name(step: Mapping[str, Any]) -> str:
    """The name of an INT8 candidate: `mixed (2 layers in float)`. step: its record on the card."""
    return step["rung"] + (f" ({len(step['kept'])} layers in float)" if step["kept"] else "")


def describe_candidate(step: Mapping[str, Any]) -> str:
    """An INT8 candidate in a few words: `distilled 0.5123 on onnxruntime, 0.5131 on openvino`."""
    return f"{candidate_name(step)} " + ", ".join(f"{dice:.4f} on {name}" for name, dice in step["dice"].items())
