"""A bench record as text: its table, notes for the reader, and the verdict on a latency budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(record: Mapping[str, Any]) -> str:
    """A bench record as text, units in the header, its notes below. A tilde marks an anecdotal p99."""
    rows = [_HEADER, *(_row(entry) for entry in record["calls"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    hz = record["options"]["paced_hz"]
    legend = f"ratio: p50 to {record['reference']}, median over rounds"
    legend += f"; missed: later than one frame at {hz:g} Hz" if hz else ""
    verdict = [record["budget"]["said"]] if record.get("budget") else []
    footer = [f"{record['machine']['cpu']}; {legend}", *(f"note: {note}" for note in record["notes"])]
    return "\n".join([*lines, "", *_more(record), *footer, *verdict])


def _more(record: Mapping[str, Any]) -> list[str]:
    """One line per call with the stages of a call, concurrent cameras and energy."""
    lines = []
    for entry in record["calls"]:
        parts = []
        if entry.get("stages"):
            times = " + ".join(f"{entry['stages'][part]['p50_ms']:.3f}" for part in ("copy_in", "infer", "copy_out"))
            parts.append(f"copy in + infer + copy out {times} ms")
        for row in entry.get("streams") or ():
            parts.append(f"{row['streams']} streams {row['throughput_hz']:.0f} fps, p99 {row['p99_ms']:.2f} ms")
        for meter, rails in (entry.get("energy") or {}).items():
            if isinstance(rails, Mapping):
                parts += [f"{meter} {rail} {values['mj_per_mask']:.1f} mJ a mask" for rail, values in rails.items()]
        lines += [f"{entry['name']}: {'; '.join(parts)}"] if parts else []
    return [*lines, ""] if lines else []


_HEADER = [
    "call",
    "precision",
    "threads",
    "n",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "max ms",
    "ratio",
    "fps",
    "missed",
    "Dice",
]


def _row(entry: Mapping[str, Any]) -> list[str]:
    tail = "~" if "p99" in entry["anecdotal"] else ""
    cell = [entry["name"], entry["precision"] or "-", str(entry["threads"] or "-"), str(entry["n"])]
    cell += [
        f"{entry['p50_ms']:.2f}",
        f"{entry['p90_ms']:.2f}",
        f"{tail}{entry['p99_ms']:.2f}",
        f"{entry['max_ms']:.2f}",
    ]
    cell += [f"{entry['ratio']['median']:.2f}", f"{entry['throughput_hz']:.0f}"]
    cell.append(f"{entry['paced']['misses']}/{entry['paced']['offered']}" if entry["paced"] else "-")
    return [*cell, f"{entry['dice']:.4f}" if entry.get("dice") is not None else "-"]


def notes(record: Mapping[str, Any]) -> list[str]:
    """Notes on the reliability of a record, to read before quoting a number of it."""
    found = []
    few = [f"{e['name']} n = {e['n']}" for e in record["calls"] if "p99" in e["anecdotal"]]
    if few:
        found.append(f"p99 is anecdotal below 1000 calls: {', '.join(few)}")
    for runtime in {e["runtime"] for e in record["calls"] if e["runtime"]}:
        own = [e for e in record["calls"] if e["runtime"] == runtime]
        whole = [e for e in own if str(e["precision"]).startswith("int8")]
        real = [e for e in own if not str(e["precision"]).startswith("int8")]
        for e in whole:
            quicker = min(real, key=lambda other: other["p50_ms"], default=None)
            if quicker is not None and quicker["ratio"]["median"] <= e["ratio"]["median"]:
                found.append(f"INT8 is not faster than {quicker['precision']} with {runtime} here")
    for e in record["calls"]:
        if len(counts := (e.get("details") or {}).get("placement") or {}) > 1:
            where = ", ".join(f"{name} {count}" for name, count in counts.items())
            found.append(f"{e['name']} runs on more than one provider, nodes: {where}")
    if (record["foreign_cores"] or 0) > 0.1:
        found.append(f"other processes took {record['foreign_cores']:.2f} cores meanwhile: trust ratios, not times")
    noise = record["calibrator"]
    if noise["p90_ms"] > 1.25 * noise["p10_ms"]:
        found.append(f"fixed arithmetic took {noise['p10_ms']} to {noise['p90_ms']} ms (p10, p90): the speed wandered")
    return found + _watch_notes(record.get("watch") or {}) + list((record.get("soak") or {}).get("notes") or ())


def _watch_notes(watch: Mapping[str, Any]) -> list[str]:
    found = []
    throttled = watch.get("throttled") or {}
    if throttled.get("heat_events"):
        found.append(f"the processor slowed down for heat {throttled['heat_events']:.0f} times meanwhile")
    if (throttled.get("quota_ms") or 0) > 10:
        found.append(f"a processor quota stopped this process for {throttled['quota_ms']:.0f} ms: raise the quota")
    if (throttled.get("stolen_s") or 0) > 0.5:
        found.append(f"the hypervisor took {throttled['stolen_s']:.1f} s of processor time meanwhile")
    if watch.get("gpu_throttled"):
        found.append(f"the GPU was slowed down by {', '.join(watch['gpu_throttled'])}")
    clock = watch.get("cpu_mhz")
    if clock and clock["min"] < 0.9 * clock["max"]:
        found.append(f"clocks moved between {clock['min']:.0f} and {clock['max']:.0f} MHz: fix them to compare runs")
    return found


def budget(entries: Sequence[Mapping[str, Any]], *, ms: float) -> dict[str, Any] | None:
    """Verdict on p99 of the quickest call against a budget of `ms`; None without a budget.

    One call within the budget is enough, since a device runs one file on one runtime. Name the runtime and the file to
    judge exactly that one.
    """
    if not ms:
        return None
    best = min(entries, key=lambda entry: entry["p99_ms"])
    within = [entry["name"] for entry in entries if entry["p99_ms"] <= ms]
    sentence = f"{best['name']} has p99 {best['p99_ms']:.2f} ms (n = {best['n']}), the budget is {ms:g} ms"
    others = [name for name in within if name != best["name"]]
    if within:
        sentence = f"fast enough: {sentence}" + (f"; within it too: {', '.join(others)}" if others else "")
    else:
        sentence = f"too slow: {sentence}; choose a smaller student, INT8, a smaller frame or a quicker runtime"
    if "p99" in best["anecdotal"]:
        sentence += "; p99 is an anecdote at this n, measure for longer"
    return {"ms": ms, "percentile": "p99", "passed": bool(within), "within": within, "said": sentence}
