"""What a dossier is made from: the ship, a run, records of `edgemt eval` and `edgemt stream --evidence`, faults."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from deploy.package.files import CARD
from deploy.package.package import Package, card_hash, open_package
from deploy.package.signing import SIGNATURE
from edgemt.io.plain_files import TEXT_LIMIT, parse_json, read_regular
from edgemt.model_card import ModelCard

_REPORT = Path("report") / "report.json"
_EVIDENCE = "evidence.json"
_FAULTS = re.compile(r"^\| fault \|.*\n\|[-| ]+\n((?:\|.*\n?)+)", re.M)


@dataclass(frozen=True)
class Fault:
    """A row of the fault table of deploy/README.md."""

    fault: str
    shown: str
    detected: str
    recovered: str
    test: str


@dataclass(frozen=True)
class Sources:
    """Everything that was read. A record that was not given is None."""

    package: Package
    signature: str  # in words
    report: dict[str, Any] | None = None  # report.json of the run
    metrics: dict[str, Any] | None = None  # of edgemt eval --json
    evidence: dict[str, Any] | None = None  # evidence.json
    faults: tuple[Fault, ...] = ()

    @property
    def card(self) -> ModelCard:
        """The card of the ship."""
        return self.package.card


def read_sources(ship: Path, *, run: Path | None, metrics: Path | None, evidence: Path | None) -> Sources:
    """Verify the ship and read the other records.

    Raises ValueError, naming the file, for what cannot be read and for a record of another model.
    """
    package = open_package(ship, any_version=True)
    return Sources(
        package,
        _signature(package),
        None if run is None else _read_run(run, package.card),
        None if metrics is None else _read_metrics(metrics, package.card),
        None if evidence is None else _read_evidence(evidence, package.card),
        read_faults(),
    )


def read_faults() -> tuple[Fault, ...]:
    """The fault table of the installed deploy/README.md; empty where that file or the table is missing."""
    try:
        text = (resources.files("deploy") / "README.md").read_text(encoding="utf-8")
    except OSError:
        return ()
    return parse_faults(text)


def parse_faults(text: str) -> tuple[Fault, ...]:
    """The rows of five cells of the Markdown tables that begin with `| fault |`."""
    rows = [row for found in _FAULTS.finditer(text) for row in found[1].strip().splitlines()]
    cells = [[cell.strip().replace("`", "") for cell in row.strip().strip("|").split(" | ")] for row in rows]
    return tuple(Fault(*row) for row in cells if len(row) == 5)


def _signature(package: Package) -> str:
    if package.signed:
        return "signed; the signature was checked with a trusted key of this machine"
    if (package.folder / SIGNATURE).exists():
        return "has a signature, which was not checked: no trusted key is set on this machine"
    return "not signed"


def _read_object(path: Path, *, written_by: str) -> dict[str, Any]:
    try:
        raw = parse_json(read_regular(path, limit=TEXT_LIMIT).decode("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; {written_by} writes it") from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:80]
        raise ValueError(f"{path}: cannot be read ({reason}); {written_by} writes it") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: no JSON object; {written_by} writes it")
    return raw


def _read_run(run: Path, card: ModelCard) -> dict[str, Any]:
    """report.json of the run that made this ship."""
    report = _read_object(run / _REPORT, written_by="edgemt run")
    own = _read_object(run / "ship" / CARD, written_by="edgemt run")
    graphs = {name: value for name, value in card.files.items() if name.endswith((".onnx", ".xml", ".bin"))}
    listed = own.get("files")
    if not isinstance(listed, dict) or not any(listed.get(name) == value for name, value in graphs.items()):
        raise ValueError(f"run {run}: its ship has no graph of this one; name the run that made the ship")
    if not isinstance(report.get("counts", {}), dict):
        raise ValueError(f"{run / _REPORT}: counts is no object; run edgemt run again")
    return report


def _read_metrics(path: Path, card: ModelCard) -> dict[str, Any]:
    record = _read_object(path, written_by="edgemt eval SHIP --json FILE")
    rows = record.get("per_class")
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise ValueError(f"metrics {path}: has no per_class; name a file that edgemt eval SHIP --json wrote")
    if record.get("name") != card.name or record.get("file") not in card.files:
        of = f"{record.get('name')} {record.get('file')}"
        raise ValueError(f"metrics {path}: of {of}, not of a file of {card.name}; measure this ship")
    return record


def _read_evidence(folder: Path, card: ModelCard) -> dict[str, Any]:
    record = _read_object(folder / _EVIDENCE, written_by="edgemt stream --evidence")
    if not isinstance(record.get("rates"), list) or not all(isinstance(rate, dict) for rate in record["rates"]):
        raise ValueError(f"{folder / _EVIDENCE}: has no rates; measure again with edgemt stream --evidence")
    if f"@{card_hash(card)[:12]} " not in f"{record.get('model')} ":
        raise ValueError(f"{folder / _EVIDENCE}: of {record.get('model')!r}, which is another card; measure this ship")
    return record
