"""What a bench record says in words: its table, what to know before quoting it, whether it keeps a budget."""

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
    said = [f"{record['machine']['cpu']}; {legend}", *(f"note: {note}" for note in record["notes"])]
    return "\n".join([*lines, "", *_more(record), *said, *verdict])


def _more(record: Mapping[str, Any]) -> list[str]:
    """A line a call for what the table has no room for: the parts of a call, several cameras at once, energy."""
    said = []
    for entry in record["calls"]:
        parts = []
        if entry.get("stages"):
            times = " + ".join(f"{entry['stages'][part]['p50_ms']:.3f}" for part in ("copy_in", "infer", "copy_out"))
            parts.append(f"copy in + infer + copy out {times} ms")
        for row in entry.get("streams") or ():
            parts.append(f"{row['streams']} streams {row['throughput_hz']:.0f} fps, p99 {row['p99_ms']:.2f} ms")
        for meter, rails in (entry.get("energy") or {}).items():
            if isinstance(rails, Mapping):
                parts += [f"{meter} {rail} {held['mj_per_mask']:.1f} mJ a mask" for rail, held in rails.items()]
        said += [f"{entry['name']}: {'; '.join(parts)}"] if parts else []
    return [*said, ""] if said else []


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
    """What a reader should know before quoting a number of this record."""
    said = []
    few = [f"{e['name']} n = {e['n']}" for e in record["calls"] if "p99" in e["anecdotal"]]
    if few:
        said.append(f"p99 is anecdotal below 1000 calls: {', '.join(few)}")
    for runtime in {e["runtime"] for e in record["calls"] if e["runtime"]}:
        own = [e for e in record["calls"] if e["runtime"] == runtime]
        whole = [e for e in own if str(e["precision"]).startswith("int8")]
        real = [e for e in own if not str(e["precision"]).startswith("int8")]
        for e in whole:
            quicker = min(real, key=lambda other: other["p50_ms"], default=None)
            if quicker is not None and quicker["ratio"]["median"] <= e["ratio"]["median"]:
                said.append(f"INT8 is not faster than {quicker['precision']} with {runtime} here")
    if (record["foreign_cores"] or 0) > 0.1:
        said.append(f"other processes took {record['foreign_cores']:.2f} cores meanwhile: trust ratios, not times")
    noise = record["calibrator"]
    if noise["p90_ms"] > 1.25 * noise["p10_ms"]:
        said.append(f"fixed arithmetic took {noise['p10_ms']} to {noise['p90_ms']} ms (p10, p90): the speed wandered")
    return said + _watch_notes(record.get("watch") or {}) + list((record.get("soak") or {}).get("notes") or ())


def _watch_notes(watch: Mapping[str, Any]) -> list[str]:
    said = []
    throttled = watch.get("throttled") or {}
    if throttled.get("heat_events"):
        said.append(f"the processor slowed down for heat {throttled['heat_events']:.0f} times meanwhile")
    if (throttled.get("quota_ms") or 0) > 10:
        said.append(f"a processor quota held this process back for {throttled['quota_ms']:.0f} ms: raise the quota")
    if (throttled.get("stolen_s") or 0) > 0.5:
        said.append(f"the hypervisor took {throttled['stolen_s']:.1f} s of processor time meanwhile")
    if watch.get("gpu_throttled"):
        said.append(f"the GPU was slowed down by {', '.join(watch['gpu_throttled'])}")
    clock = watch.get("cpu_mhz")
    if clock and clock["min"] < 0.9 * clock["max"]:
        said.append(f"clocks moved between {clock['min']:.0f} and {clock['max']:.0f} MHz: fix them to compare runs")
    return said


def budget(entries: Sequence[Mapping[str, Any]], *, ms: float) -> dict[str, Any] | None:
    """Whether the quickest call keeps p99 within `ms`; None without a budget.

    One is enough: a device runs one file on one runtime. Name the runtime and the file to judge exactly that one.
    """
    if not ms:
        return None
    best = min(entries, key=lambda entry: entry["p99_ms"])
    within = [entry["name"] for entry in entries if entry["p99_ms"] <= ms]
    said = f"{best['name']} has p99 {best['p99_ms']:.2f} ms (n = {best['n']}), the budget is {ms:g} ms"
    others = [name for name in within if name != best["name"]]
    if within:
        said = f"fast enough: {said}" + (f"; within it too: {', '.join(others)}" if others else "")
    else:
        said = f"too slow: {said}; choose a smaller student, INT8, a smaller frame or a quicker runtime"
    if "p99" in best["anecdotal"]:
        said += "; p99 is an anecdote at this n, measure for longer"
    return {"ms": ms, "percentile": "p99", "passed": bool(within), "within": within, "said": said}
