"""The INT8 candidates: calibrated, some layers in float, quantization-aware distillation, and the last two together.

Each candidate is a folder of its own under `int8.tries`: graphs, record, and the accuracy on each runtime. It is made
once, whatever the tolerance; an interrupted run continues with the candidate that it was making.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deploy import export
from deploy.measurement.timing import BenchOptions
from deploy.measurement.variants import quick_options, time_variants
from deploy.package.files import IR_INT8, ONNX_INT8
from deploy.quantization.int8 import quantize
from deploy.quantization.sensitivity import LayerSensitivity, layer_sensitivities
from deploy.runtimes.load import runner
from deploy.runtimes.registry import RUNTIME_OF
from edgemt.artefacts import network_folder, stage_folder
from edgemt.inference.evaluate import evaluation_record
from edgemt.io import process_rank
from edgemt.model_card import FileMetrics
from edgemt.pipeline.log import log
from edgemt.pipeline.quantization_aware import distil_in_eight_bits
from edgemt.pipeline.run_context import RunContext
from edgemt.training.progress import file_progress

RUNS = {file: RUNTIME_OF[file] for file in (ONNX_INT8, IR_INT8)}
TRIES = "int8.tries"
_NUM_TIMED = 16  # calibration frames that layers are compared and timed on
_NUM_RECORDED = 16  # layers whose sensitivity the card keeps


@dataclass(frozen=True)
class Candidate:
    """A finished candidate.

    `record`: rung (its name), kept (layers in float), seconds; of a mixed one also times_float and sensitivity.
    """

    folder: Path
    record: dict[str, Any]
    measured: dict[str, FileMetrics]  # file -> every metric on its runtime; empty if it is not fast enough


def candidates(context: RunContext, *, float_graph: Path, frames: list[np.ndarray]) -> Iterator[Candidate]:
    """The candidates in order; each is made when the iterator reaches it, or read if its folder is complete.

    `float_graph` is the one of the pruned student, `frames` are unlabelled, uint8 [1, H, W, K] each.
    """
    ladder, source = context.recipe.int8.ladder, context.folder("slim")
    calibrated = _calibrated(context, "calibrated", source, float_graph, frames)
    yield calibrated
    if "mixed" in ladder:
        yield from _mixed_precision(context, "mixed", source, float_graph, calibrated, frames)
    if "distil" not in ladder:
        return
    if process_rank.world_size() > 1:  # the other processes wait for this stage and cannot train
        log("int8: quantization-aware distillation runs in one process; give the same command without torchrun or srun")
        return
    distilled_student = distil_in_eight_bits(context)
    float_graph = export_graph(context, distilled_student, context.folder(TRIES) / "distilled.onnx")
    distilled = _calibrated(context, "distilled", distilled_student, float_graph, frames)
    yield distilled
    if "mixed" in ladder:
        yield from _mixed_precision(context, "distilled, mixed", distilled_student, float_graph, distilled, frames)


def _calibrated(context: RunContext, name: str, source: Path, float_graph: Path, frames: list[np.ndarray]) -> Candidate:
    """Every layer in eight bits. `source` is the folder of the network that `float_graph` was exported from."""
    folder, key = _place(context, name, source)
    if stage_folder.stands(folder, key=key):
        return _read(folder)
    return _make(context, folder, key, float_graph, frames, record={"rung": name, "kept": []})


def _mixed_precision(
    context: RunContext, name: str, source: Path, float_graph: Path, calibrated: Candidate, frames: list[np.ndarray]
) -> Iterator[Candidate]:
    """The 1, 2, 4, 8 ... most sensitive layers in float, while the graph is faster than float; no label is used."""
    layers: list[LayerSensitivity] | None = None
    few_frames = frames[:: max(1, len(frames) // _NUM_TIMED)][:_NUM_TIMED]
    count = 1
    while count <= context.recipe.int8.float_layers:
        folder, key = _place(context, f"{name} {count}", source, context.recipe.int8.min_speedup)
        if stage_folder.stands(folder, key=key):
            candidate = _read(folder)
        else:
            layers = layers if layers is not None else _worst(float_graph, calibrated.folder / ONNX_INT8, few_frames)
            if count > len(layers):
                return
            noted = [
                {"layer": x.layer, "kind": x.kind, "noise": x.output_noise, "changed": x.changed_fraction}
                for x in layers[:_NUM_RECORDED]
            ]
            record = {"rung": name, "kept": [layer.layer for layer in layers[:count]], "sensitivity": noted}
            candidate = _make(context, folder, key, float_graph, frames, record=record, few_frames=few_frames)
        if not candidate.measured:
            speedup = candidate.record["times_float"]
            log(f"int8: {name}, {count} layers in float: {speedup:.2f} times as fast as float, so no more layers")
            return
        yield candidate
        count *= 2


def _worst(float_graph: Path, int8_graph: Path, frames: list[np.ndarray]) -> list[LayerSensitivity]:
    """The layers whose output INT8 changes, the most sensitive first."""
    layers = layer_sensitivities(
        float_graph, int8_graph, frames=frames, progress=file_progress("sensitivity of layers")
    )
    return [layer for layer in layers if layer.output_noise > 0]


def _place(context: RunContext, name: str, source: Path, *depends: Any) -> tuple[Path, str]:
    """The folder of a candidate, and the key of what it is made from."""
    of = context.recipe
    parts = (
        of.int8.images,
        of.seed,
        context.slices.data_fingerprint,
        context.slices.list_key,
        stage_folder.identity(source),
        *depends,
        *([of.uncertainty] if of.uncertainty != "head" else []),
    )
    key = stage_folder.key_of("rung", name, *parts)
    return context.folder(TRIES) / name.replace(", ", "-").replace(" ", "-"), key


def _read(folder: Path) -> Candidate:
    card = stage_folder.read_card(folder)
    return Candidate(folder, card.network, card.measured)


def _make(
    context: RunContext,
    folder: Path,
    key: str,
    float_graph: Path,
    frames: list[np.ndarray],
    *,
    record: dict[str, Any],
    few_frames: Sequence[np.ndarray] = (),
) -> Candidate:
    """Quantize and measure. Timed first on `few_frames`, if given; a graph that is not fast enough is not measured."""
    begun = time.monotonic()
    with stage_folder.staged(folder, overwrite=True) as working:
        int8_graph = quantize(
            float_graph, working / ONNX_INT8, calibration=frames, frames=len(frames), keep=record["kept"]
        )
        export.export_openvino(int8_graph, working / IR_INT8)
        bench = context.recipe.bench
        speedup = _speedup(int8_graph, float_graph, list(few_frames), bench) if few_frames else None
        worth = speedup is None or speedup > context.recipe.int8.min_speedup
        measured = {
            file: evaluation_record(runner(working / file, runtime=r), context.slices.val)
            for file, r in RUNS.items()
            if worth
        }
        timed_as = {} if speedup is None else {"times_float": round(speedup, 3)}
        noted = {**record, **timed_as, "seconds": round(time.monotonic() - begun, 1)}
        card = replace(context.slices.card(), stage="rung", network=noted, recipe_hash=key, measured=measured)
        stage_folder.write_card(working, card)
    return _read(folder)


def _speedup(int8_graph: Path, float_graph: Path, frames: list[np.ndarray], options: BenchOptions) -> float:
    """Speed of the INT8 graph over that of the float graph on OpenVINO, which chooses the precision of the latter."""
    calls = {"exact": runner(float_graph, runtime="openvino"), "small": runner(int8_graph, runtime="openvino")}
    return 1 / time_variants(calls, frames, quick_options(options))["small"]["ratio"]


def export_graph(context: RunContext, source: Path, path: Path) -> Path:
    """Export the network of an artefact folder as one float graph, at the size of the package."""
    card, network = stage_folder.read_card(source), network_folder.load_network(source)
    return export.export_onnx(
        network,
        path,
        size=context.recipe.data.size,
        channels=card.channels,
        normalise=card.normalise,
        uncertainty=context.recipe.uncertainty,
    )
