"""Comparison of two bench records: ratios of their percentiles with confidence intervals.

The interval covers the variation inside each record, but no difference between the two days (heat, other programs). The
fixed computation that both records timed (`SpeedReference`) shows that one, so a verdict requires a difference beyond
it.

Calls of one block share the state of the machine, so whole blocks are resampled, not calls: an interval from single
calls would be far too narrow. (Cluster bootstrap: Davison and Hinkley 1997, section 3.8.)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

COMPARED = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_FEW_BLOCKS = 5
_SAME_MACHINE = ("cpu", "cores_allowed", "governor", "versions", "gpu")


def read_record(file: str | Path) -> dict[str, Any]:
    """A record of `edgemt bench --json`. Raises ValueError, one line that names the file, for anything else."""
    try:
        record = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read ({error}); give a file of edgemt bench --json") from None
    calls = record.get("calls") if isinstance(record, dict) else None
    if not isinstance(calls, list) or not all(isinstance(c, dict) and c.get("raw_ns") for c in calls):
        raise ValueError(f"{file}: holds no raw times; give a file of edgemt bench --json")
    return record


def compare(before: Mapping[str, Any], after: Mapping[str, Any], *, draws: int = 2000, seed: int = 0) -> dict[str, Any]:
    """`after` divided by `before` for every call that both records have: a ratio above 1 is slower.

    {"calls": [{name, p50: {before_ms, after_ms, ratio, low, high}, p90, p99, blocks, verdict}], "only_before",
    "only_after", "machine", "notes"}; low and high are a 95 % percentile interval. Raises ValueError when the records
    share no call.
    """
    old, new = ({str(c["name"]): c for c in record["calls"]} for record in (before, after))
    shared = [name for name in old if name in new]
    if not shared:
        raise ValueError(f"compare: no call in common; one has {', '.join(old)}, the other {', '.join(new)}")
    draw = np.random.default_rng(seed)
    noise = _ratio_of(before, after)
    rows = [_row(name, old[name], new[name], noise=noise or 1.0, draws=draws, draw=draw) for name in shared]
    record = {
        "calls": rows,
        "only_before": [name for name in old if name not in new],
        "only_after": [name for name in new if name not in old],
        "calibrator_ratio": noise,
        "foreign_cores": [before.get("foreign_cores"), after.get("foreign_cores")],
        "machine": _changed(before.get("machine") or {}, after.get("machine") or {}),
    }
    return {**record, "notes": _notes(record)}


def comparison_table(record: Mapping[str, Any]) -> str:
    """The result of `compare` as text."""
    rows = [["call", "p50 before", "p50 after", "ratio", "95 %", "p90 ratio", "95 %", "p99 ratio", "95 %", "verdict"]]
    for call in record["calls"]:
        cells = [call["name"], f"{call['p50']['before_ms']:.3f}", f"{call['p50']['after_ms']:.3f}"]
        for key in COMPARED:
            cells += [f"{call[key]['ratio']:.3f}", f"{call[key]['low']:.3f}..{call[key]['high']:.3f}"]
        rows.append([*cells, call["verdict"]])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([*lines, "", "ms; ratio: after / before", *(f"note: {note}" for note in record["notes"])])


def _row(
    name: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    *,
    noise: float,
    draws: int,
    draw: np.random.Generator,
) -> dict[str, Any]:
    sides = [_blocks(before), _blocks(after)]
    samples = [_resampled(blocks, draws=draws, draw=draw) for blocks in sides]
    row: dict[str, Any] = {"name": name, "blocks": [len(blocks) for blocks in sides]}
    for i, (key, share) in enumerate(COMPARED.items()):
        old, new = (_rank(np.sort(np.concatenate(blocks)), share) for blocks in sides)
        low, high = np.quantile(samples[1][:, i] / samples[0][:, i], (0.025, 0.975))
        row[key] = {
            "before_ms": round(old / 1e6, 4),
            "after_ms": round(new / 1e6, 4),
            "ratio": round(new / old, 4),
            "low": round(float(low), 4),
            "high": round(float(high), 4),
        }
    row["verdict"] = verdict(row["p50"]["low"], row["p50"]["high"], noise=noise)
    return row


def verdict(low: float, high: float, *, noise: float) -> str:
    """Verdict on the interval [low, high] of a ratio: it must exclude 1 and `noise`, the ratio of the fixed task."""
    if low > max(1.0, noise):
        return "slower"
    if high < min(1.0, noise):
        return "faster"
    return "no more than the machine moved" if low > 1 or high < 1 else "no difference seen"


def _blocks(entry: Mapping[str, Any]) -> list[np.ndarray]:
    raw, counts = np.asarray(entry["raw_ns"], dtype=np.float64), entry.get("raw_rounds") or [len(entry["raw_ns"])]
    if sum(counts) != len(raw) or min(counts) < 1:
        raise ValueError(f"compare: the raw times of {entry['name']} do not fit their blocks; take the record again")
    return np.split(raw, np.cumsum(counts)[:-1])


def _resampled(blocks: Sequence[np.ndarray], *, draws: int, draw: np.random.Generator) -> np.ndarray:
    """[draws, percentiles] of blocks drawn with replacement, computed with weights on the sorted times."""
    times = np.concatenate(blocks)
    owner = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
    order = np.argsort(times)
    times, owner = times[order], owner[order]
    picked = draw.multinomial(len(blocks), np.full(len(blocks), 1 / len(blocks)), size=draws)
    out = np.empty((draws, len(COMPARED)))
    for i, weights in enumerate(picked):
        reached = np.cumsum(weights[owner])
        out[i] = [times[np.searchsorted(reached, math.ceil(share * reached[-1]))] for share in COMPARED.values()]
    return out


def _rank(ordered: np.ndarray, share: float) -> float:
    return float(ordered[math.ceil(share * len(ordered)) - 1])


def _ratio_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    old, new = ((record.get("calibrator") or {}).get("p50_ms") for record in (before, after))
    return round(new / old, 4) if old and new else None


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Facts of the machine that differ: name -> [before, after]."""
    return {key: [before.get(key), after.get(key)] for key in _SAME_MACHINE if before.get(key) != after.get(key)}


def _notes(record: Mapping[str, Any]) -> list[str]:
    notes = []
    if record["machine"]:
        notes.append(f"the machines differ in {', '.join(record['machine'])}: this is no comparison of models alone")
    noise = record["calibrator_ratio"]
    if noise is not None and not 0.95 <= noise <= 1.05:
        notes.append(f"fixed arithmetic took {noise:.2f} times as long in the second record: the machine moved too")
    busy = [cores for cores in record["foreign_cores"] if (cores or 0) > 0.1]
    if busy:
        notes.append(f"other processes took up to {max(busy):.2f} cores meanwhile: repeat it on a quiet machine")
    few = [call["name"] for call in record["calls"] if min(call["blocks"]) < _FEW_BLOCKS]
    if few:
        notes.append(f"too few blocks for an interval to be trusted: {', '.join(few)}; measure for longer")
    for kind in ("before", "after"):
        if record[f"only_{kind}"]:
            notes.append(f"only {kind}: {', '.join(record[f'only_{kind}'])}")
    return notes
