"""A whole ship timed: every file on every runtime that reads it, with cold start, size and accuracy.

Shapes: H W size in pixels, K channels.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy.bench import BenchOptions, Call, bench
from deploy.coldstart import cold_start
from deploy.percentiles import summary
from deploy.runtime import RUNTIMES, available, runner
from deploy.ship import Ship, golden, open_ship
from edgemt.frames import fit_frame, fit_label


def bench_ship(
    ship: Ship | str | Path,
    *,
    runtimes: Sequence[str] = (),
    threads: int | None = None,
    calls: Mapping[str, Call] | None = None,
    frames: Sequence[np.ndarray] | np.ndarray | None = None,
    options: BenchOptions | None = None,
) -> dict[str, Any]:
    """Every file of a ship on every runtime (empty: all installed ones), and `calls`, in turns.

    Frames are the golden ones unless given. Adds the artefact's Dice, size and cold start to each entry.
    """
    options = options or BenchOptions()
    ship = ship if isinstance(ship, Ship) else open_ship(ship)
    fed = [pair.frame for pair in golden(ship)] if frames is None else frames
    chosen = list(runtimes) or [name for name, (works, _) in available().items() if works and RUNTIMES[name].load]
    if not chosen and not calls:
        raise ValueError("bench: no runtime is installed here; pip install openvino or onnxruntime")
    loaded: dict[str, tuple[Any, dict[str, Any]]] = {}
    for name in chosen:
        for asked in _variants(ship, name):
            made = runner(ship, runtime=name, threads=threads, **asked)
            loaded.setdefault(f"{name}/{made.precision}", (made, {"runtime": name, "threads": threads, **asked}))
    record = bench({**{name: made for name, (made, _) in loaded.items()}, **(calls or {})}, fed, options)
    for entry in record["calls"]:
        made, asked = loaded.get(entry["name"], (None, {}))
        if made is not None:
            measured = ship.card.measured.get(made.file, {})
            entry |= {
                "dice": measured.get("dice"),
                "drop": measured.get("drop"),
                "size_bytes": _size(ship, made.file),
                "cold": cold_start(made.path, asked, frame=fed[0]) if options.cold else None,
            }
    record["ship"] = {"name": ship.card.name, "params": ship.card.params, "macs": ship.card.macs}
    record["host"] = _host_stages(fed[0], ship)
    return record


def _variants(ship: Ship, runtime: str) -> list[dict[str, Any]]:
    """What to ask a runtime for: each file it reads, the float one as the runtime likes it and in f32."""
    row = RUNTIMES.get(runtime)
    if row is None:
        return [{}]  # the runner says what is wrong
    asked: list[dict[str, Any]] = []
    for kind, names in row.files.items():
        if any(name in ship.card.files for name in names):
            asked.append({"file": kind})
            if kind == "fp32" and len(row.precisions) > 1:
                asked.append({"file": kind, "precision": "f32"})
    return asked or [{}]


def _host_stages(frame: np.ndarray, ship: Ship) -> dict[str, Any]:
    """What a 1280 x 720 source adds around the network: fit the frame, enlarge the mask; by Pillow."""
    source = (720, 1280)
    channels, size = ship.card.channels, ship.card.size
    picture = frame.reshape(frame.shape[-3:])
    big = fit_frame(picture[..., 0] if channels == 1 else picture, size=source, channels=channels)
    big = big[..., 0] if channels == 1 else big
    mask = np.zeros(size, np.uint8)
    said: dict[str, Any] = {"source": list(source)}
    for name, stage in (
        ("fit_frame", lambda: fit_frame(big, size=size, channels=channels)),
        ("enlarge_mask", lambda: fit_label(mask, size=source)),
    ):
        times = []
        for _ in range(35):
            start = time.perf_counter_ns()
            stage()
            times.append(time.perf_counter_ns() - start)
        said[name] = summary(times[5:])
    return said


def _size(ship: Ship, file: str) -> int:
    weights = file.removesuffix(".xml") + ".bin"
    return sum(ship.path(name).stat().st_size for name in {file, weights} if name in ship.card.files)
