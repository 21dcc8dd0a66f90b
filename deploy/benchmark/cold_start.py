"""The first mask of a fresh process: importing the runtime, loading the graph, the first call, the memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgemt.io.child_process import environment, python_module

_LIMIT_S = 120


def cold_start(path: Path, asked: Mapping[str, Any], *, frame: np.ndarray) -> dict[str, Any] | None:
    """Milliseconds and bytes, in a process of its own; None when that process did not get through.

    `path` is a ship, of which `asked["file"]` is loaded, or one graph. Checking the ship is not counted.
    """
    job = {"path": str(Path(path).resolve()), "shape": list(frame.shape)[-3:], **asked}
    command = python_module("deploy.benchmark.cold_start", json.dumps(job))
    start = time.perf_counter_ns()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=True, env=environment())
        said = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return None
    return {"process_ms": round((time.perf_counter_ns() - start) / 1e6, 1), **said}


def report(job: dict[str, Any]) -> None:
    """The child's side: prints one line of JSON."""
    from deploy.hardware.machine import memory
    from deploy.package.package import open_ship
    from deploy.runtimes.load import runner
    from deploy.runtimes.registry import RUNTIMES
    from deploy.runtimes.runner import imported

    frame = np.random.default_rng(0).integers(0, 256, (1, *job["shape"]), dtype=np.uint8)
    choice: dict[str, Any] = {name: job.get(name) for name in ("threads", "precision")}
    ship: Any = Path(job["path"])
    if ship.is_dir():
        ship = open_ship(ship)
        choice |= {"file": job.get("file"), "tested": False}
    empty = memory()["resident_bytes"] or 0
    marks = [time.perf_counter_ns()]
    imported(RUNTIMES[job["runtime"].partition(":")[0]].package, job["runtime"])
    marks.append(time.perf_counter_ns())
    run = runner(ship, runtime=job["runtime"], **choice)
    marks.append(time.perf_counter_ns())
    run(frame)
    marks.append(time.perf_counter_ns())
    used = memory()
    names = ("import_ms", "load_ms", "first_mask_ms")
    said = {name: round((b - a) / 1e6, 2) for name, a, b in zip(names, marks, marks[1:], strict=False)}
    added = (used["resident_bytes"] or 0) - empty
    print(
        json.dumps(
            {
                **said,
                "resident_bytes": used["resident_bytes"],
                "added_bytes": added,
                "peak_bytes": used["peak_bytes"],
            }
        )
    )


if __name__ == "__main__":
    report(json.loads(sys.argv[1]))
