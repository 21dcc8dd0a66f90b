"""The dossier of a ship as three files: dossier.html, dossier.json, sbom.cdx.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deploy.package.package import card_hash
from edgemt import __version__
from edgemt.dossier.change_plan import change_plan
from edgemt.dossier.items import count_states
from edgemt.dossier.model import model_sections
from edgemt.dossier.page import dossier_page
from edgemt.dossier.risk import risk_sections
from edgemt.dossier.sbom import make_sbom
from edgemt.dossier.sources import read_sources
from edgemt.io.atomic import make_folder, write_text

FORMAT = 1
PAGE, RECORD, SBOM = "dossier.html", "dossier.json", "sbom.cdx.json"


def write_dossier(
    ship: Path, out: Path, *, run: Path | None = None, metrics: Path | None = None, evidence: Path | None = None
) -> dict[str, Any]:
    """Write the three files to `out` and return the content of dossier.json.

    `run`: the folder of the run that made the ship. `metrics`: JSON of `edgemt eval --json`. `evidence`: folder of
    `edgemt stream --evidence`. Raises ValueError, naming the file, for a ship that does not verify and for a
    record that cannot be read or is of another model.
    """
    sources = read_sources(ship, run=run, metrics=metrics, evidence=evidence)
    card = sources.card
    sbom = make_sbom(sources.package)
    sections = (*model_sections(sources), *risk_sections(sources, components=len(sbom["components"])))
    record = {
        "format": FORMAT,
        "created": sbom["metadata"]["timestamp"],
        "edgemt": __version__,
        "name": card.name,
        "version": card.version,
        "card": card_hash(card),
        "counts": count_states(sections),
        "sections": [one.to_dict() for one in sections],
        "change_plan": change_plan(card),
    }
    make_folder(out)
    write_text(out / SBOM, json.dumps(sbom, indent=1, sort_keys=True) + "\n")
    write_text(out / RECORD, json.dumps(record, indent=1) + "\n")
    write_text(out / PAGE, dossier_page(record, sections))
    return record
