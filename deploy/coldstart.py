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

_LIMIT_S = 120
_ROOT = Path(__file__).resolve().parent.parent
# -c and not -m: `-m` would put the caller's folder, whatever it is, first on the import path
_PROGRAM = """import json, sys
sys.path.insert(0, {root!r})
from deploy.coldstart import report
report(json.loads(sys.argv[1]))"""


def cold_start(path: Path, asked: Mapping[str, Any], *, frame: np.ndarray) -> dict[str, Any] | None:
    """Milliseconds and bytes, in a process of its own; None when that process did not get through."""
    job = {"path": str(Path(path).resolve()), "shape": list(frame.shape)[-3:], **asked}
    job.pop("file", None)
    command = [sys.executable, "-c", _PROGRAM.format(root=str(_ROOT)), json.dumps(job)]
    start = time.perf_counter_ns()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=True)
        said = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return None
    return {"process_ms": round((time.perf_counter_ns() - start) / 1e6, 1), **said}


def report(job: dict[str, Any]) -> None:
    """The child's side: prints one line of JSON."""
    from deploy.machine import memory
    from deploy.runtime import RUNTIMES, imported, runner

    frame = np.random.default_rng(0).integers(0, 256, (1, *job["shape"]), dtype=np.uint8)
    empty = memory()["resident_bytes"] or 0
    marks = [time.perf_counter_ns()]
    imported(RUNTIMES[job["runtime"].partition(":")[0]].package, job["runtime"])
    marks.append(time.perf_counter_ns())
    run = runner(job["path"], runtime=job["runtime"], threads=job.get("threads"), precision=job.get("precision"))
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
