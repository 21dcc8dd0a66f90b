"""The tests that are marked gpu: how many passed, failed and were skipped, with the reason of each that did not pass.

In a dry run they are collected and skipped, as there is no device.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from gpu import record

ROOT = Path(__file__).resolve().parents[2]
MARK = "mark.gpu"


def main() -> None:
    given = record.options(__doc__).parse_args()
    with record.recorded(given) as (found, work):
        report = work / "logs" / f"{given.part}.xml"
        report.parent.mkdir(parents=True, exist_ok=True)
        report.unlink(missing_ok=True)
        status = subprocess.run(command(report), cwd=ROOT, check=False).returncode
        if not report.exists():
            raise ValueError(f"pytest ended with status {status} and wrote no report")
        failed = fill(found, report)
        if failed or status not in (0, 5):
            raise ValueError(f"{failed} tests failed, pytest ended with status {status}")


def marked_files(root: Path = ROOT / "tests") -> list[Path]:
    """The test files that hold the mark; the others need not be imported."""
    return sorted(path for path in root.rglob("test_*.py") if MARK in path.read_text(encoding="utf-8"))


def command(report: Path) -> list[str]:
    """Of pytest, in one process: workers would share one device."""
    files = [str(path) for path in marked_files()]
    quiet = ["-p", "no:cacheprovider", "-rs"]
    return [sys.executable, "-m", "pytest", "-n0", "-m", "gpu", *quiet, f"--junitxml={report}", *files]


def fill(found: record.Record, report: Path) -> int:
    """The rows of the table from a JUnit file; returns the number of failures."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    kinds = ("failure", "error", "skipped")
    outcome = {kind: [case for case in cases if case.find(kind) is not None] for kind in kinds}
    wrong = [*outcome["failure"], *outcome["error"]]
    passed = len(cases) - len(wrong) - len(outcome["skipped"])
    found.rows = []
    found.row("tests marked gpu", f"{passed} passed, {len(wrong)} failed, {len(outcome['skipped'])} skipped")
    for kind, chosen in outcome.items():
        for case in chosen:
            reason = (case.find(kind).get("message") or "").splitlines() or [""]  # type: ignore[union-attr]
            found.row(f"{case.get('name')}", kind, note=reason[0][:160])
    return len(wrong)


if __name__ == "__main__":
    main()
