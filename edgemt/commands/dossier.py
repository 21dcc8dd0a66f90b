"""`edgemt dossier`: what is known of a ship, for the technical file of its manufacturer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from edgemt.commands.console import log


@dataclass(frozen=True)
class Dossier:
    """Write dossier.html, dossier.json and sbom.cdx.json of a ship: what it is, what was measured, what is open.

    Figures come from the card and from the records named below; what was not measured reads "not measured". What only a
    person can write (intended use, risk estimation, ...) is marked and counted. The structure is that of ISO 14971, IEC
    62304, FDA's predetermined change control plan and annex IV of the EU AI Act. sbom.cdx.json (CycloneDX 1.6) lists
    the files of the ship and the Python packages of this machine: run it on the device. With SOURCE_DATE_EPOCH it is
    the same at every run.
    """

    ship: Positional[Path]
    """The ship, or zoo/NAME. Every hash is verified first."""
    run: Path | None = None
    """The folder of the run that made the ship: numbers of labelled, unlabelled and validation cases."""
    metrics: Path | None = None
    """A file of edgemt eval SHIP --json: accuracy on a test list, by group where it was measured by group."""
    evidence: Path | None = None
    """The folder of edgemt stream SHIP --evidence: delays of video and masks on the device."""
    out: Path = Path("dossier")
    """Folder for the three files."""


def dossier(command: Dossier) -> None:
    """Write the three files and print how many items are open."""
    from edgemt.dossier.items import count_sentence
    from edgemt.dossier.write import PAGE, SBOM, write_dossier

    if command.out.exists() and not command.out.is_dir():
        raise ValueError(f"out {command.out}: a file is in its way; name another folder")
    record = write_dossier(
        command.ship, command.out, run=command.run, metrics=command.metrics, evidence=command.evidence
    )
    print(f"{record['name'] or 'ship'}: {count_sentence(record['counts'])}")
    log(f"{command.out / PAGE}, with the components in {SBOM}")
