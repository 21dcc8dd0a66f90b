"""The short form of a finished run's figures that goes into docs/results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from checkout import ROOT

from edgemt.artefacts import stage_folder

SCRIPT = ROOT / "benchmarks" / "run_figures.py"


def condensed(run: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(run), "--command", "edgemt run phantom", "--json", str(out)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_figures_are_those_of_the_cards_and_hold_no_path(tiny_run: Path, tmp_path: Path) -> None:
    done = condensed(tiny_run, tmp_path / "figures.json")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "figures.json").read_text()
    figures = json.loads(text)
    found = {stage["name"]: stage["dice"] for stage in figures["stages"]}
    for stage in ("teacher", "student", "slim"):
        dice = stage_folder.read_card(tiny_run / stage).measured[stage_folder.WEIGHTS].dice
        assert found[stage] == round(dice, 4)
    assert figures["recipe"] == "phantom" and figures["seed"] == 0 and figures["date"]
    assert str(tiny_run) not in text and len(text) < 20_000


def test_a_folder_without_a_report_is_named(tmp_path: Path) -> None:
    done = condensed(tmp_path, tmp_path / "figures.json")
    assert done.returncode != 0 and "finish the run first" in done.stderr and "Traceback" not in done.stderr
