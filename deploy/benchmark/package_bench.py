"""Benchmark of a package: every file on every runtime that reads it, with cold start, size and accuracy.

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
from deploy.package.golden import golden_pairs
from deploy.package.package import Package, open_package
from deploy.runtimes.load import runner
from deploy.runtimes.registry import INSTALL, RUNTIMES, available
from edgemt.io.channels import neighbours_of
from edgemt.io.images import fit_frame, fit_label
from edgemt.model_card import FileMetrics

Evaluate = Callable[[str, str, str | None], Mapping[str, Any]]  # runtime, file, precision -> "dice", "counted"


def bench_package(
    package: Package | str | Path,
    *,
    runtimes: Sequence[str] = (),
    file: str | None = None,
    threads: int | None = None,
    cpu_fallback: bool = True,
    calls: Mapping[str, Call] | None = None,
    frames: Sequence[np.ndarray] | np.ndarray | None = None,
    options: BenchOptions | None = None,
    evaluate: Evaluate | None = None,
) -> dict[str, Any]:
    """Time every file of a package on every runtime (empty: all that work here), and `calls`, interleaved.

    A runtime may carry its device ("openvino:GPU"); `file` ("int8", "fp32" or a name on the card) restricts the
    benchmark to one file. Without `cpu_fallback` a file of which nodes run on the processor is refused. Frames are the
    golden ones unless given. Adds size, cold start and accuracy to each entry: the Dice of that file on the card, or
    the one that `evaluate` measures on this machine.
    """
    options = options or BenchOptions()
    package = package if isinstance(package, Package) else open_package(package)
    fed = [pair.frame for pair in golden_pairs(package)] if frames is None else frames
    loaded, left_out = _loaded(package, runtimes, file=file, threads=threads, cpu_fallback=cpu_fallback)
    if not loaded and not calls:
        raise ValueError(_why_nothing(left_out, file=file))
    makers = {name: partial(_load_again, package, chosen) for name, (_, chosen) in loaded.items()}
    record = bench({**{name: made for name, (made, _) in loaded.items()}, **(calls or {})}, fed, options, makers=makers)
    for entry in record["calls"]:
        made, chosen = loaded.get(entry["name"], (None, {}))
        if made is not None:
            entry |= _accuracy(package, made.file, chosen, evaluate)
            entry["size_bytes"] = _size(package, made.file)
            entry["sha256"] = package.card.files.get(made.file)
            entry["cold"] = (
                cold_start(package.folder, {**chosen, "file": made.file}, frame=fed[0]) if options.cold else None
            )
    record["ship"] = {"name": package.card.name, "params": package.card.params, "macs": package.card.macs}
    record["host"] = _host_stages(fed[0], package)
    record["notes"] += [f"left out: {why}" for why in left_out]
    return record


def _loaded(
    package: Package, runtimes: Sequence[str], *, file: str | None, threads: int | None, cpu_fallback: bool
) -> tuple[dict[str, tuple[Any, dict[str, Any]]], list[str]]:
    """(name -> (runner, its options), reasons why runtimes that were not named were omitted)."""
    chosen = list(runtimes) or [name for name, (works, _) in available().items() if works and RUNTIMES[name].load]
    found: dict[str, tuple[Any, dict[str, Any]]] = {}
    left_out = []
    for name in chosen:
        for wanted in _variants(package, name) if file is None else [{"file": file}]:
            options = {"runtime": name, "threads": threads, "cpu_fallback": cpu_fallback, **wanted}
            try:
                made = runner(package, **options)
            except ValueError as error:
                if runtimes:
                    raise
                left_out.append(str(error))
                continue
            title = f"{name}/{made.precision}"
            if title in found and found[title][0].file != made.file:
                title += f" {made.file}"
            found.setdefault(title, (made, options))
    return found, left_out


def _why_nothing(left_out: Sequence[str], *, file: str | None) -> str:
    reasons = list(dict.fromkeys(left_out))
    if file is not None and len(reasons) == 1:  # the file is the cause, not the runtimes
        return reasons[0]
    return f"bench: no runtime works here ({'; '.join(reasons) or INSTALL})"


def _load_again(package: Package, options: Mapping[str, Any], threads: int) -> Call:
    return runner(package, **{**options, "threads": threads}, tested=False)


def _accuracy(package: Package, file: str, options: Mapping[str, Any], evaluate: Evaluate | None) -> dict[str, Any]:
    """`dice` and `dice_from`: measured on this machine with the file as it runs here, or taken from the card."""
    metrics = package.card.measured.get(file, FileMetrics())
    result = {"dice": metrics.dice, "drop": metrics.drop}
    if evaluate is None:
        return {**result, "dice_from": "card" if result["dice"] is not None else None}
    here = evaluate(options["runtime"], file, options.get("precision"))
    return {**result, "dice": here["dice"], "dice_from": f"measured here, {here['counted']} cases"}


def _variants(package: Package, runtime: str) -> list[dict[str, Any]]:
    """Options for each variant on a runtime: each file it reads, the float one in default and reference precision."""
    row = RUNTIMES.get(runtime.partition(":")[0])
    if row is None:
        return [{}]  # the runner raises the error
    options: list[dict[str, Any]] = []
    for kind, names in row.files.items():
        if any(name in package.card.files for name in names):
            options.append({"file": kind})
            if kind == "fp32" and row.reference_precision:
                options.append({"file": kind, "precision": row.reference_precision})
    return options or [{}]


def _host_stages(frame: np.ndarray, package: Package) -> dict[str, Any]:
    """Times around the network for a 1280 x 720 source: fit the frame, enlarge the mask; by Pillow."""
    source = (720, 1280)
    slices = neighbours_of(package.card)
    channels, size = package.card.channels // slices, package.card.size  # one new slice, its neighbours are there
    picture = frame.reshape(frame.shape[-3:])[..., : channels if slices > 1 else None]
    big = fit_frame(picture[..., 0] if channels == 1 else picture, size=source, channels=channels)
    big = big[..., 0] if channels == 1 else big
    mask = np.zeros(size, np.uint8)
    result: dict[str, Any] = {"source": list(source)}
    for name, stage in (
        ("fit_frame", lambda: fit_frame(big, size=size, channels=channels)),
        ("enlarge_mask", lambda: fit_label(mask, size=source)),
    ):
        times = []
        for _ in range(35):
            start = time.perf_counter_ns()
            stage()
            times.append(time.perf_counter_ns() - start)
        result[name] = summary(times[5:])
    return result


def _size(package: Package, file: str) -> int:
    weights = file.removesuffix(".xml") + ".bin"
    return sum(package.path(name).stat().st_size for name in {file, weights} if name in package.card.files)
