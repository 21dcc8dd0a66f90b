"""A UA-MT step of the engine against the published loop at full size: `benchmarks/ua_mt_step.py` with its record.

2 labelled and 2 unlabelled patches of 112 x 112 x 80, a V-Net of 16 filters, 8 stochastic passes of the teacher.
"""

from __future__ import annotations

import json
import statistics
from typing import Any

import ua_mt_step

from gpu import record

PATCH, FILTERS, ROUNDS = (112, 112, 80), 16, 30
DRY_PATCH, DRY_FILTERS, DRY_ROUNDS = (16, 16, 16), 2, 1


def main() -> None:
    parser = record.options(__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="timed steps of each loop")
    given = parser.parse_args()
    patch, filters, rounds = (DRY_PATCH, DRY_FILTERS, DRY_ROUNDS) if given.dry else (PATCH, FILTERS, given.rounds)
    with record.recorded(given) as (found, _):
        found.facts = ua_mt_step.measure(patch, filters=filters, rounds=rounds)
        fill(found)
        print(json.dumps(found.rows, indent=1))


def fill(found: record.Record) -> None:
    """The rows of the table, from the times."""
    facts: dict[str, Any] = found.facts
    times = facts["ms"]
    size = f"2 + 2 patches of {' x '.join(map(str, facts['patch']))}, V-Net {facts['filters']}, 8 passes"
    tf32 = "TF32 convolutions" if facts["tf32_in_convolutions"] else "fp32"
    notes = {
        ua_mt_step.OURS: f"{size}; {facts['precision']}",
        ua_mt_step.SINGLE: tf32,
        ua_mt_step.PUBLISHED: f"{tf32}, passes one after the other, average weight by weight",
    }
    found.rows = []
    for name, took in times.items():
        low, high = min(took), max(took)
        spread = f"median of {len(took)} ({low:.1f} to {high:.1f})"
        found.row(f"UA-MT step, {name}", statistics.median(took), "ms", f"{notes[name]}; {spread}")
    for name, gib in facts["gib"].items():
        found.row(f"memory of a step, {name}", gib, "GiB", "peak, beside weights and optimiser")
    for name in (ua_mt_step.OURS, ua_mt_step.SINGLE):
        each = ua_mt_step.ratios(times, ua_mt_step.PUBLISHED, name)
        found.row(f"published / {name}", statistics.median(each), "times", f"median of {len(each)} rounds in turns")


if __name__ == "__main__":
    main()
