"""The sections with figures: accuracy, uncertainty and contours, latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemt.contour_margins import margins_of
from edgemt.dossier.items import NOT_MEASURED, Section, Table, filled, not_measured, to_write
from edgemt.dossier.sources import Sources
from edgemt.model_card import FileMetrics
from edgemt.report.formatting import finite

_METRICS = {  # key of the record -> head of the column
    "dice": "Dice", "jaccard": "Jaccard", "recall": "recall", "hd95": "HD95", "asd": "ASD", "nsd": "NSD",
    "missed": "missed", "invented": "invented", "counted": "cases",
}  # fmt: skip
_UNCERTAINTY = ("auroc", "aurc", "ece", "brier")
_RATES = (("video", "video delay"), ("annotation", "annotation delay"))


def number(value: Any, digits: int = 4) -> str:
    """A figure with `digits` decimals, or NOT_MEASURED."""
    found = finite(value)
    return NOT_MEASURED if found is None else f"{found:.{digits}f}"


def whole(value: Any) -> str:
    """A count, or NOT_MEASURED."""
    return number(value, 0)


def accuracy_section(sources: Sources) -> Section:
    """Accuracy of each file and class, and what INT8 cost."""
    card, refs = sources.card, ("Annex IV 2(g)", "Annex IV 4", "IEC 62304 5.7")
    deployed = {file: found for file, found in card.measured.items() if found.dice is not None}
    remedy = "edgemt eval SHIP --data.root DIR measures it"
    items = [
        filled("accuracy", "Accuracy on the validation list", f"{len(deployed)} files, in the table", refs=refs)
        if deployed
        else not_measured("accuracy", "Accuracy on the validation list", remedy=remedy, refs=refs)
    ]
    before = [(file, found) for file, found in deployed.items() if "int8" in file and found.drop is not None]
    title = "Loss by INT8"
    drops = ", ".join(f"{file} {number(found.drop)}" for file, found in before)
    items.append(filled("int8", title, f"Dice lost: {drops}") if before else not_measured("int8", title, remedy=remedy))
    items.append(
        to_write("choice", "Why these metrics", "Why they show that the masks serve the intended purpose, and the "
                 "lowest values that are acceptable.", refs=("Annex IV 4",))
    )  # fmt: skip
    tables = [_class_table(file, found.unit, found.per_class) for file, found in deployed.items() if found.per_class]
    if before:
        rows = tuple((file, number(_before(m)), number(m.dice), number(m.drop), _how(m)) for file, m in before)
        tables.append(Table("Before and after INT8", ("file", "Dice before", "Dice after", "lost", "by"), rows))
    if sources.metrics is not None:
        new = sources.metrics
        title = f"Measured by edgemt eval: {new['file']} on {new.get('runtime')}, {new.get('counted')} cases"
        tables.insert(0, _class_table(title, str(new.get("unit", "")), new["per_class"]))
    return Section("figures", "Measured accuracy", tuple(items), tuple(tables))


def _before(found: FileMetrics) -> float | None:
    return None if found.dice is None or found.drop is None else found.dice + found.drop


def _how(found: FileMetrics) -> str:
    """How INT8 was reached."""
    steps = found.quantization or {}
    floats = f", {len(steps['kept'])} layers in float" if steps.get("kept") else ""
    return f"{steps.get('rung', 'unknown')}{floats}"


def _class_table(title: str, unit: str, per_class: Mapping[str, Mapping[str, Any]]) -> Table:
    keys = [key for key in _METRICS if any(key in row for row in per_class.values())]
    rows = tuple(
        (name, *(number(row.get(key), 0 if key == "counted" else 2 if key in ("hd95", "asd") else 4) for key in keys))
        for name, row in per_class.items()
    )
    note = f"Distances in {unit}; missed and invented are shares of the cases." if unit else ""
    return Table(title, ("class", *(_METRICS[key] for key in keys)), rows, note)


def uncertainty_section(sources: Sources) -> Section:
    """The uncertainty output, the margins of contours, and their coverage on other cases."""
    card = sources.card
    found = {file: m.uncertainty for file, m in card.measured.items() if m.uncertainty}
    title, remedy = "Uncertainty of a pixel", "edgemt run RECIPE --uncertainty softmax gives the graph that output"
    text = f"output of {', '.join(found)}"
    items = [filled("uncertainty", title, text) if found else not_measured("uncertainty", title, remedy=remedy)]
    heads = ("file", *_UNCERTAINTY)
    rows = tuple((file, *(number(row.get(key)) for key in _UNCERTAINTY)) for file, row in found.items())
    tables = [Table("How well it finds wrong pixels", heads, rows)] if found else []
    usable = {
        file: margins for file in card.contours if (margins := margins_of(card.contours, card.files, file=file)[0])
    }
    title = "Contours with a guarantee"
    if not usable:
        items.append(not_measured("contours", title, remedy="edgemt calibrate SHIP --data.root DIR fits them"))
    else:
        items.append(filled("contours", title, next(iter(usable.values())).claim()))
        fitted = tuple(
            (file, f"{m.alpha:g}", f"{m.tolerance:g}", str(m.patients), str(m.cases), m.created or "unknown")
            for file, m in usable.items()
        )
        columns = ("file", "alpha", "tolerance", "patients", "cases", "date")
        tables.append(Table("Calibration", columns, fitted, "1 - alpha is the coverage of each line, over patients."))
    coverage = (sources.metrics or {}).get("contours")
    title = "Coverage of the contours on other cases"
    if isinstance(coverage, dict):
        shown = {key: value for key, value in coverage.items() if isinstance(value, int | float | str)}
        text = ", ".join(f"{key} {value}" for key, value in shown.items())
        items.append(filled("coverage", title, text, source="--metrics"))
    else:
        items.append(
            not_measured("coverage", title, remedy="edgemt eval SHIP --data.root DIR --json, as --metrics FILE")
        )
    return Section("uncertainty", "Uncertainty and contours", tuple(items), tuple(tables))


def latency_section(sources: Sources) -> Section:
    """The time of one mask from the card, and the delays of a stream from its evidence."""
    card, refs = sources.card, ("Annex IV 1(e)", "IEC 62304 5.7")
    keys = ("file", "runtime", "precision", "device", "threads", "n")
    rows = tuple(
        (*(str(row.get(key, NOT_MEASURED)) for key in keys), number(row.get("p50_ms"), 2), number(row.get("p90_ms"), 2))
        for row in card.latency
    )
    title, remedy = "Time of one mask where the ship was made", "edgemt bench SHIP measures it on the device"
    items = [
        filled("call", title, f"{len(rows)} files, in the table", refs=refs)
        if rows
        else not_measured("call", title, remedy=remedy, refs=refs)
    ]
    tables = [Table("Time of one mask", (*keys, "p50 ms", "p90 ms"), rows)] if rows else []
    title = "Delay of video and masks on the device"
    if sources.evidence is None:
        remedy = "edgemt stream SHIP --source SOURCE --evidence DIR, then --evidence DIR here"
        items.append(not_measured("delay", title, remedy=remedy, refs=refs))
    else:
        items.append(filled("delay", title, _evidence_text(sources.evidence), source="evidence.json", refs=refs))
        tables.append(_evidence_table(sources.evidence["rates"]))
    hint = "The longest delay that is acceptable for the intended use, with screen and cable, and its verification."
    items.append(to_write("screen", "Delay to the screen", hint))
    return Section("latency", "Latency", tuple(items), tuple(tables))


def _evidence_text(evidence: Mapping[str, Any]) -> str:
    machine = evidence.get("machine")
    cpu = machine.get("cpu") if isinstance(machine, dict) else None
    return (
        f"{evidence.get('created')}, {cpu or 'processor unknown'}, source {evidence.get('source')}, masks older than "
        f"{evidence.get('budget_ms')} ms withdrawn; without screen and cable"
    )


def _evidence_table(rates: Sequence[Mapping[str, Any]]) -> Table:
    keys = ("p50_ms", "p90_ms", "p99_ms", "max_ms")
    rows = []
    for rate in rates:
        run = rate.get("with_masks") or {}
        for key, name in _RATES:
            series = run.get(key) or {}
            figures = (number(series.get(each), 2) for each in keys)
            rows.append((f"{rate.get('hz')} Hz", name, whole(series.get("n")), *figures))
    return Table("Delays with masks", ("rate", "delay", "n", "p50 ms", "p90 ms", "p99 ms", "max ms"), tuple(rows))
