"""Cold start: import, load, first mask and memory of a runner in a new process."""

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


def cold_start(path: Path, options: Mapping[str, Any], *, frame: np.ndarray) -> dict[str, Any] | None:
    """Milliseconds and bytes, measured in a new process; None where that process failed.

    `path` is a package, of which `options["file"]` is loaded, or one graph. Verifying the package is not timed.
    """
    job = {"path": str(Path(path).resolve()), "shape": list(frame.shape)[-3:], **options}
    command = python_module("deploy.benchmark.cold_start", json.dumps(job))
    start = time.perf_counter_ns()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=True, env=environment())
        result = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return None
    return {"process_ms": round((time.perf_counter_ns() - start) / 1e6, 1), **result}


def report(job: dict[str, Any]) -> None:
    """Entry point of the new process: prints one line of JSON."""
    from deploy.hardware.machine import memory
    from deploy.package.package import open_package
    from deploy.runtimes.load import runner
    from deploy.runtimes.registry import RUNTIMES
    from deploy.runtimes.runner import import_runtime

    frame = np.random.default_rng(0).integers(0, 256, (1, *job["shape"]), dtype=np.uint8)
    choice: dict[str, Any] = {name: job.get(name) for name in ("threads", "precision")}
    package: Any = Path(job["path"])
    if package.is_dir():
        package = open_package(package)
        choice |= {"file": job.get("file"), "tested": False}
    empty = memory()["resident_bytes"] or 0
    marks = [time.perf_counter_ns()]
    import_runtime(RUNTIMES[job["runtime"].partition(":")[0]].package, job["runtime"])
    marks.append(time.perf_counter_ns())
    run = runner(package, runtime=job["runtime"], **choice)
    marks.append(time.perf_counter_ns())
    run(frame)
    marks.append(time.perf_counter_ns())
    used = memory()
    names = ("import_ms", "load_ms", "first_mask_ms")
    milliseconds = {name: round((b - a) / 1e6, 2) for name, a, b in zip(names, marks, marks[1:], strict=False)}
    added = (used["resident_bytes"] or 0) - empty
    print(
        json.dumps(
            {
                **milliseconds,
                "resident_bytes": used["resident_bytes"],
                "added_bytes": added,
                "peak_bytes": used["peak_bytes"],
            }
        )
    )


if __name__ == "__main__":
    report(json.loads(sys.argv[1]))
