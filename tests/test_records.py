"""The records in docs/results: each has a date and a command, and a page that refers to it."""

from __future__ import annotations

import json
import re

from checkout import ROOT
from pages import PAGES


def test_every_record_is_linked_from_a_page() -> None:
    linked = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(((?!https?:)[^)\s#]+)", page.read_text(encoding="utf-8"))
    }
    records = sorted((ROOT / "docs" / "results").glob("*.json"))
    assert records and not [record.name for record in records if record.resolve() not in linked]


def test_every_record_has_a_date_and_a_command() -> None:
    by_hand = {"development.json", "kvasir_resolution_or_channels.json"}  # no program of the repository made them
    for file in sorted((ROOT / "docs" / "results").glob("*.json")):
        of = json.loads(file.read_text(encoding="utf-8"))
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", of["date"]), file.name
        assert ("command" in of) != (file.name in by_hand), file.name
