"""Load a package as the model of a stream: verify it, run it on its golden frame, measure the time of a mask."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from deploy.adaptation.head import read_head
from deploy.adaptation.limits import AdaptLimits, FitOptions
from deploy.adaptation.session import PatientHead, golden_examples
from deploy.measurement.variants import undecided
from deploy.package.golden import golden_pairs
from deploy.package.input_drift import read_inputs
from deploy.package.package import Package, card_hash, open_package
from deploy.package.versions import note_version
from deploy.package.watcher import PackageWatcher
from deploy.runtimes.load import fastest_here, runner
from deploy.stream.inference.contours import stream_contours
from deploy.stream.inference.inference_thread import InferFn, StreamModel
from deploy.stream.inference.worker_process import WorkerProcess
from deploy.stream.state.overlay import Colour, palette
from edgemt.io.channels import no_channels
from edgemt.io.uncertain_region import UNCERTAIN_ABOVE, check_threshold

Isolation = Literal["thread", "process"]


class LoadedStreamModel(NamedTuple):
    """A package that is ready for a stream: verified, loaded, and timed on this machine."""

    package: Package
    model: StreamModel
    runner: InferFn  # loaded; the caller closes it
    watcher: PackageWatcher
    mask_ms: float  # time of one mask on this machine, the second slowest of eight


def load_stream_model(
    folder: str | Path,
    *,
    runtime: str = "auto",
    file: str | None = None,
    threads: int | None = None,
    isolation: Isolation = "thread",
    hang_ms: float = 2000.0,
    colours: Callable[[int], Sequence[Colour]] = palette,
    uncertain_above: float = UNCERTAIN_ABOVE,
    adapt: tuple[AdaptLimits, FitOptions] | None = None,
    cpu_fallback: bool = True,
) -> LoadedStreamModel:
    """The model of a ship folder, with a loaded runner.

    `uncertain_above`: the probability of a wrong class from which on pixels are hatched, if the file has that output.
    `hang_ms` is the time limit of one mask in a worker process. `colours` gives one colour per class. `adapt`: limits
    of a head that is fitted to corrections (`deploy.adaptation`); None: none is. `cpu_fallback`: as of `runner`.
    Raises ValueError in one line for a package that is invalid, and for a model of volume slices.
    """
    check_threshold(uncertain_above)
    package = open_package(folder)
    card = package.card
    if card.channel_order == "slices":
        raise ValueError(
            f"{folder}: reads {card.channels} slices of a volume at once; a stream needs a model of frames"
        )
    no_channels(card, where=folder, what="a stream delivers one picture at a time; edgemt predict reads files")
    if isolation not in ("thread", "process"):
        raise ValueError(f"isolation {isolation}: thread or process")
    shipped = None if adapt is None else read_head(package)
    if adapt is not None and isolation == "process":
        raise ValueError("isolation process: a head is adapted in the process of the stream; leave it at thread")
    choice: dict[str, Any] = {"runtime": runtime, "file": file, "threads": threads, "cpu_fallback": cpu_fallback}
    if file is None and ":" not in runtime and undecided(card):
        fastest = fastest_here(package, runtime=runtime)
        if fastest is not None:  # measured once, so that all processes use the same one
            choice |= {"runtime": fastest.runtime, "file": fastest.file, "precision": fastest.precision}

    def load() -> InferFn:
        if isolation == "process":
            return WorkerProcess(folder, hang_ms=hang_ms, **choice)
        return runner(open_package(folder), **choice)  # verified again: the folder may have changed since

    first: Any = load() if isolation == "process" else runner(package, **choice)
    pairs = golden_pairs(package)
    golden_here = (pairs[0].frame, first(pairs[0].frame).copy()) if pairs else None
    patient = None
    if shipped is not None and adapt is not None:
        golden = golden_examples(first, [(pair.frame, pair.mask) for pair in pairs])
        patient = PatientHead(shipped, golden, limits=adapt[0], options=adapt[1])
    name = f"{card.name or package.folder.resolve().name}@{card_hash(card)[:12]}"
    model = StreamModel(
        id=f"{name} {first.file} {first.runtime} {first.precision}",
        load=load,
        size=card.size,
        channels=card.channels,
        colours=colours(len(card.classes)),
        input_statistics=read_inputs(package),
        golden=golden_here,
        contours=stream_contours(card, file=first.file),
        uncertain_above=uncertain_above if first.has_uncertainty else None,
        patient=patient,
    )
    if package.signed:
        note_version(card)
    return LoadedStreamModel(package, model, first, PackageWatcher(package), _mask_ms(first, model))


def budget_warning(opened: LoadedStreamModel, budget_ms: float) -> str | None:
    """A warning if one mask takes longer than the budget; else None."""
    if opened.mask_ms <= budget_ms:
        return None
    return (
        f"budget {budget_ms:g} ms is below the {opened.mask_ms:.1f} ms that one mask takes here; most masks will be "
        "withdrawn before they are shown"
    )


def _mask_ms(infer: InferFn, model: StreamModel, calls: int = 8) -> float:
    frame = model.golden[0] if model.golden else np.zeros((1, *model.size, model.channels), np.uint8)
    times = []
    for _ in range(calls):
        start = time.monotonic_ns()
        infer(frame)
        times.append(time.monotonic_ns() - start)
    return sorted(times)[calls - 2] / 1e6
