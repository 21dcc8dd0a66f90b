"""The rungs of the ladder to eight bits: calibrated, some layers left in float, learnt under eight bits, and both.

Each rung is a folder of its own under `int8.tries`: graphs, record, and the accuracy as each runtime runs them. It is
made once, whatever the tolerance; an interrupted run goes on with the rung that it was at.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deploy import export
from deploy.measurement.variants import time_variants
from deploy.package.files import IR_INT8, ONNX_INT8
from deploy.quantization.int8 import quantize
from deploy.quantization.sensitivity import LayerSensitivity, layer_sensitivities
from deploy.runtimes.load import runner
from edgemt.artefacts import network_folder, stage_folder
from edgemt.inference.evaluate import evaluation_record
from edgemt.io import process_rank
from edgemt.pipeline.log import log
from edgemt.pipeline.quantization_aware import distil_in_eight_bits
from edgemt.pipeline.run_context import RunContext
from edgemt.training.progress import file_progress

RUNS = {ONNX_INT8: "onnxruntime", IR_INT8: "openvino"}
TRIES = "int8.tries"
_TELLING = 16  # calibration frames that layers are compared and timed on
_NOTED = 16  # layers whose sensitivity the card keeps


@dataclass(frozen=True)
class Rung:
    """A finished rung. `record`: rung, kept (layers in float), seconds; of a mixed one times_float and sensitivity."""

    folder: Path
    record: dict[str, Any]
    measured: dict[str, dict[str, Any]]  # file -> every metric, as its runtime runs it; empty if it is not quick enough


def rungs(context: RunContext, *, exact: Path, frames: list[np.ndarray]) -> Iterator[Rung]:
    """The rungs in turn, each made when it is asked for and read where it stands.

    `exact` is the float graph of the slim student, `frames` are unlabelled, uint8 [1, H, W, K] each.
    """
    ladder, source = context.recipe.int8.ladder, context.folder("slim")
    calibrated = _calibrated(context, "calibrated", source, exact, frames)
    yield calibrated
    if "mixed" in ladder:
        yield from _mixed(context, "mixed", source, exact, calibrated, frames)
    if "distil" not in ladder:
        return
    if process_rank.world_size() > 1:  # the others wait for this stage and cannot learn along
        log("int8: learning under eight bits is one process's work; give the same command without torchrun or srun")
        return
    learnt = distil_in_eight_bits(context)
    exact = export_graph(context, learnt, context.folder(TRIES) / "distilled.onnx")
    distilled = _calibrated(context, "distilled", learnt, exact, frames)
    yield distilled
    if "mixed" in ladder:
        yield from _mixed(context, "distilled, mixed", learnt, exact, distilled, frames)


def _calibrated(context: RunContext, name: str, source: Path, exact: Path, frames: list[np.ndarray]) -> Rung:
    """Every layer in eight bits. `source` is the folder whose network `exact` is the graph of."""
    folder, key = _place(context, name, source)
    if stage_folder.stands(folder, key=key):
        return _read(folder)
    return _make(context, folder, key, exact, frames, record={"rung": name, "kept": []})


def _mixed(
    context: RunContext, name: str, source: Path, exact: Path, calibrated: Rung, frames: list[np.ndarray]
) -> Iterator[Rung]:
    """The 1, 2, 4, 8 ... worst layers in float, while that is quicker than all of them; no label is looked at."""
    layers: list[LayerSensitivity] | None = None
    few = frames[:: max(1, len(frames) // _TELLING)][:_TELLING]
    count = 1
    while count <= context.recipe.int8.kept:
        folder, key = _place(context, f"{name} {count}", source, context.recipe.int8.gain)
        if stage_folder.stands(folder, key=key):
            rung = _read(folder)
        else:
            layers = layers if layers is not None else _worst(exact, calibrated.folder / ONNX_INT8, few)
            if count > len(layers):
                return
            noted = [
                {"layer": x.layer, "kind": x.kind, "noise": x.output_noise, "changed": x.changed_fraction}
                for x in layers[:_NOTED]
            ]
            record = {"rung": name, "kept": [layer.layer for layer in layers[:count]], "sensitivity": noted}
            rung = _make(context, folder, key, exact, frames, record=record, few=few)
        if not rung.measured:
            gain = rung.record["times_float"]
            log(f"int8: {name}, {count} layers in float: {gain:.2f} times as fast as float, so no more of it")
            return
        yield rung
        count *= 2


def _worst(exact: Path, small: Path, frames: list[np.ndarray]) -> list[LayerSensitivity]:
    """The layers that eight bits change anything for, the worst first."""
    layers = layer_sensitivities(exact, small, frames=frames, progress=file_progress("sensitivity of layers"))
    return [layer for layer in layers if layer.output_noise > 0]


def _place(context: RunContext, name: str, source: Path, *depends: Any) -> tuple[Path, str]:
    """The folder of a rung, and the key of what it is made from."""
    of = context.recipe
    parts = (
        of.int8.images,
        of.seed,
        context.slices.data_fingerprint,
        context.slices.list_key,
        stage_folder.identity(source),
        *depends,
    )
    key = stage_folder.key_of("rung", name, *parts)
    return context.folder(TRIES) / name.replace(", ", "-").replace(" ", "-"), key


def _read(folder: Path) -> Rung:
    card = stage_folder.read_card(folder)
    return Rung(folder, card.network, card.measured)


def _make(
    context: RunContext,
    folder: Path,
    key: str,
    exact: Path,
    frames: list[np.ndarray],
    *,
    record: dict[str, Any],
    few: Sequence[np.ndarray] = (),
) -> Rung:
    """Quantize and measure; on `few` frames it is timed first, and not measured where it is not quick enough."""
    begun = time.monotonic()
    with stage_folder.staged(folder, overwrite=True) as working:
        small = quantize(exact, working / ONNX_INT8, calibration=frames, frames=len(frames), keep=record["kept"])
        export.export_openvino(small, working / IR_INT8)
        gain = _gain(small, exact, list(few)) if few else None
        worth = gain is None or gain > context.recipe.int8.gain
        measured = {
            file: evaluation_record(runner(working / file, runtime=r), context.slices.val)
            for file, r in RUNS.items()
            if worth
        }
        timed_as = {} if gain is None else {"times_float": round(gain, 3)}
        noted = {**record, **timed_as, "seconds": round(time.monotonic() - begun, 1)}
        card = replace(context.slices.card(), stage="rung", network=noted, recipe_hash=key, measured=measured)
        stage_folder.write_card(working, card)
    return _read(folder)


def _gain(small: Path, exact: Path, frames: list[np.ndarray]) -> float:
    """How many times as fast as the float graph on OpenVINO, which picks its own precision for that."""
    calls = {"exact": runner(exact, runtime="openvino"), "small": runner(small, runtime="openvino")}
    return 1 / time_variants(calls, frames)["small"]["ratio"]


def export_graph(context: RunContext, source: Path, path: Path) -> Path:
    """The network of an artefact folder as one float graph, at the size that ships."""
    card, network = stage_folder.read_card(source), network_folder.load_network(source)
    return export.export_onnx(
        network, path, size=context.recipe.data.size, channels=card.channels, normalise=card.normalise
    )
