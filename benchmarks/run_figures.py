"""The figures of a finished run, short enough to be kept: docs/results/RECIPE_seedN.json out of RUN/report/report.json.

    python benchmarks/run_figures.py RUN --command "edgemt run kvasir_cpu --data.root DIR" --json docs/results/X.json

No path of the machine and no curve goes along. Latency is that of the report, with the load of the machine beside it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

STAGE = ("name", "dice", "drop", "hd95_px", "params", "macs", "bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--command", required=True, help="what a reader types to repeat it")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--note", default="", help="what else a reader must know")
    given = parser.parse_args()
    source = given.run / "report" / "report.json"
    if not source.is_file():
        raise SystemExit(f"{source}: no report; finish the run first: edgemt run ... --out {given.run}")
    figures = condensed(json.loads(source.read_text(encoding="utf-8")), command=given.command, note=given.note)
    given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def condensed(report: dict[str, Any], *, command: str, note: str = "") -> dict[str, Any]:
    """What a table needs of a report: Dice by stage and class, sizes, what was given up."""
    return {
        "recipe": report["name"],
        "seed": report["recipe"]["seed"],
        "date": report["created"][:10],
        "command": command,
        "device": f"{report['device']['cpu']}, {report['device']['cores_allowed']} cores",
        "cases": report["counts"],
        "note": note,
        "stages": [_stage(stage) for stage in report["stages"]],
        "controls": [_stage(stage) for stage in report["controls"]],
        "delivered": report["delivered"],
        "given_up": [
            {name: record[name] for name in ("stage", "wanted", "shipped") if name in record}
            | {"tried": [{k: t[k] for k in ("attempt", "dice") if k in t} for t in record["tried"]]}
            for record in report["given_up"]
        ],
    }


def _stage(stage: dict[str, Any]) -> dict[str, Any]:
    fields = {name: _rounded(stage[name]) for name in STAGE if name in stage}
    return fields | {"dice_by_class": {name: _rounded(m["dice"]) for name, m in stage.get("per_class", {}).items()}}


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
