"""From a ship folder to a model that a session can run: checked, tried on its golden frame, named."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from deploy.measurement.variants import undecided
from deploy.package.golden import golden_pairs
from deploy.package.input_drift import read_inputs
from deploy.package.package import Package, card_hash, open_package
from deploy.runtimes.load import fastest_here, runner
from deploy.stream.inference.inference_thread import Infer, Model
from deploy.stream.inference.package_watcher import ModelWatch
from deploy.stream.inference.worker_process import ChildRunner
from deploy.stream.state.overlay import Colour, palette

Isolation = Literal["thread", "process"]


class Opened(NamedTuple):
    ship: Package
    model: Model
    first: Infer
    watch: ModelWatch
    mask_ms: float  # what one mask takes here, the second slowest of a few


def open_model(
    folder: str | Path,
    *,
    runtime: str = "auto",
    file: str | None = None,
    threads: int | None = None,
    isolation: Isolation = "thread",
    hang_ms: float = 2000.0,
    colours: Callable[[int], Sequence[Colour]] = palette,
) -> Opened:
    """Raises ValueError in one line for a ship that is refused and for one that reads slices of a volume."""
    ship = open_package(folder)
    card = ship.card
    if card.channel_order == "slices":
        raise ValueError(
            f"{folder}: reads {card.channels} slices of a volume at once; a stream needs a model of frames"
        )
    if isolation not in ("thread", "process"):
        raise ValueError(f"isolation {isolation}: thread or process")
    choice: dict[str, Any] = {"runtime": runtime, "file": file, "threads": threads}
    if (
        file is None
        and ":" not in runtime
        and undecided(card)
        and (found := fastest_here(ship, runtime=runtime)) is not None
    ):
        choice |= {
            "runtime": found.runtime,
            "file": found.file,
            "precision": found.precision,
        }  # the same for every process

    def make() -> Infer:
        if isolation == "process":
            return ChildRunner(folder, hang_ms=hang_ms, **choice)
        return runner(open_package(folder), **choice)  # checked again: the folder may have changed since

    first: Any = make() if isolation == "process" else runner(ship, **choice)
    pairs = golden_pairs(ship)
    tried = (pairs[0].frame, first(pairs[0].frame).copy()) if pairs else None
    name = f"{card.name or ship.folder.resolve().name}@{card_hash(card)[:12]}"
    model = Model(
        id=f"{name} {first.file} {first.runtime} {first.precision}",
        make=make,
        size=card.size,
        channels=card.channels,
        colours=colours(len(card.classes)),
        known=read_inputs(ship),
        golden=tried,
    )
    return Opened(ship, model, first, ModelWatch(ship), _mask_ms(first, model))


def budget_warning(opened: Opened, budget_ms: float) -> str | None:
    """A sentence when masks cannot be there in time."""
    if opened.mask_ms <= budget_ms:
        return None
    return (
        f"budget {budget_ms:g} ms is below the {opened.mask_ms:.1f} ms that one mask takes here; most masks will be "
        "withdrawn before they are seen"
    )


def _mask_ms(infer: Infer, model: Model, calls: int = 8) -> float:
    frame = model.golden[0] if model.golden else np.zeros((1, *model.size, model.channels), np.uint8)
    times = []
    for _ in range(calls):
        start = time.monotonic_ns()
        infer(frame)
        times.append(time.monotonic_ns() - start)
    return sorted(times)[calls - 2] / 1e6
