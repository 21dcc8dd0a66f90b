"""A whole ship timed: every file on every runtime that reads it, with cold start, size and accuracy.

Shapes: H W size in pixels, K channels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deploy.benchmark.bench import BenchOptions, Call, bench
from deploy.benchmark.cold_start import cold_start
from deploy.measurement.percentiles import summary
from deploy.package.golden import golden
from deploy.package.package import Ship, open_ship
from deploy.runtimes.load import runner
from deploy.runtimes.registry import RUNTIMES, available
from edgemt.io.images import fit_frame, fit_label

Evaluate = Callable[[str, str, str | None], Mapping[str, Any]]  # runtime, file, precision -> "dice", "counted"


def bench_ship(
    ship: Ship | str | Path,
    *,
    runtimes: Sequence[str] = (),
    file: str | None = None,
    threads: int | None = None,
    calls: Mapping[str, Call] | None = None,
    frames: Sequence[np.ndarray] | np.ndarray | None = None,
    options: BenchOptions | None = None,
    evaluate: Evaluate | None = None,
) -> dict[str, Any]:
    """Every file of a ship on every runtime (empty: all that work here), and `calls`, in turns.

    A runtime may carry its device ("openvino:GPU"); `file` ("int8", "fp32" or a name on the card) times that one
    alone. Frames are the golden ones unless given. Adds size, cold start and accuracy to each entry: the card's
    Dice of that very file, or what `evaluate` measures with it on this machine.
    """
    options = options or BenchOptions()
    ship = ship if isinstance(ship, Ship) else open_ship(ship)
    fed = [pair.frame for pair in golden(ship)] if frames is None else frames
    loaded, left_out = _loaded(ship, runtimes, file=file, threads=threads)
    if not loaded and not calls:
        raise ValueError(_why_nothing(left_out, file=file))
    makers = {name: partial(_another, ship, asked) for name, (_, asked) in loaded.items()}
    record = bench({**{name: made for name, (made, _) in loaded.items()}, **(calls or {})}, fed, options, makers=makers)
    for entry in record["calls"]:
        made, asked = loaded.get(entry["name"], (None, {}))
        if made is not None:
            entry |= _accuracy(ship, made.file, asked, evaluate)
            entry["size_bytes"] = _size(ship, made.file)
            entry["sha256"] = ship.card.files.get(made.file)
            entry["cold"] = (
                cold_start(ship.folder, {**asked, "file": made.file}, frame=fed[0]) if options.cold else None
            )
    record["ship"] = {"name": ship.card.name, "params": ship.card.params, "macs": ship.card.macs}
    record["host"] = _host_stages(fed[0], ship)
    record["notes"] += [f"left out: {why}" for why in left_out]
    return record


def _loaded(
    ship: Ship, runtimes: Sequence[str], *, file: str | None, threads: int | None
) -> tuple[dict[str, tuple[Any, dict[str, Any]]], list[str]]:
    """name -> (runner, what was asked for), and why runtimes that nobody asked for by name were left out."""
    chosen = list(runtimes) or [name for name, (works, _) in available().items() if works and RUNTIMES[name].load]
    found: dict[str, tuple[Any, dict[str, Any]]] = {}
    left_out = []
    for name in chosen:
        for wanted in _variants(ship, name) if file is None else [{"file": file}]:
            asked = {"runtime": name, "threads": threads, **wanted}
            try:
                made = runner(ship, **asked)
            except ValueError as error:
                if runtimes:
                    raise
                left_out.append(str(error))
                continue
            title = f"{name}/{made.precision}"
            if title in found and found[title][0].file != made.file:
                title += f" {made.file}"
            found.setdefault(title, (made, asked))
    return found, left_out


def _why_nothing(left_out: Sequence[str], *, file: str | None) -> str:
    said = list(dict.fromkeys(left_out))
    if file is not None and len(said) == 1:  # the file is at fault, the runtimes are not
        return said[0]
    return f"bench: no runtime works here ({'; '.join(said) or 'pip install openvino'})"


def _another(ship: Ship, asked: Mapping[str, Any], threads: int) -> Call:
    return runner(ship, **{**asked, "threads": threads}, tested=False)


def _accuracy(ship: Ship, file: str, asked: Mapping[str, Any], evaluate: Evaluate | None) -> dict[str, Any]:
    """`dice`, and where it was measured: on this machine by the file as it runs here, or where the ship was made."""
    card = ship.card.measured.get(file, {})
    said = {"dice": card.get("dice"), "drop": card.get("drop")}
    if evaluate is None:
        return {**said, "dice_from": "card" if said["dice"] is not None else None}
    here = evaluate(asked["runtime"], file, asked.get("precision"))
    return {**said, "dice": here["dice"], "dice_from": f"measured here, {here['counted']} cases"}


def _variants(ship: Ship, runtime: str) -> list[dict[str, Any]]:
    """What to ask a runtime for: each file it reads, the float one as the runtime likes it and exactly."""
    row = RUNTIMES.get(runtime.partition(":")[0])
    if row is None:
        return [{}]  # the runner says what is wrong
    asked: list[dict[str, Any]] = []
    for kind, names in row.files.items():
        if any(name in ship.card.files for name in names):
            asked.append({"file": kind})
            if kind == "fp32" and row.reference_precision:
                asked.append({"file": kind, "precision": row.reference_precision})
    return asked or [{}]


def _host_stages(frame: np.ndarray, ship: Ship) -> dict[str, Any]:
    """What a 1280 x 720 source adds around the network: fit the frame, enlarge the mask; by Pillow."""
    source = (720, 1280)
    sliced = ship.card.channel_order == "slices"  # each frame brings one new slice, its neighbours are there
    channels, size = 1 if sliced else ship.card.channels, ship.card.size
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
