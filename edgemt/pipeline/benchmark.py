"""Latency of a run: the package on every runtime, and the networks in torch, timed in turns."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy import export
from deploy.benchmark.bench import BenchOptions
from deploy.benchmark.package_bench import bench_package
from deploy.package.files import IR_FP32, IR_INT8, ONNX_FP32, ONNX_INT8
from deploy.package.package import finalize
from deploy.quantization import int8
from deploy.runtimes.runner import TorchRunner
from edgemt.artefacts import network_folder, stage_folder
from edgemt.io.images import fit_frame
from edgemt.model_card import ModelCard
from edgemt.pipeline.slice_data import evenly_spaced

if TYPE_CHECKING:
    from edgemt.pipeline.run_context import RunContext


def bench(
    context: RunContext,
    *,
    size: tuple[int, int] | None = None,
    threads: int | None = None,
    options: BenchOptions | None = None,
) -> dict[str, Any]:
    """The ship on every runtime, the slim student and the teacher in eager torch; real frames, in turns.

    At another `size` than the recipe's the student is exported and quantized anew into a folder that is thrown
    away: such a record holds times alone, no accuracy.
    """
    options = options or context.recipe.bench
    wanted = size or context.recipe.data.size
    own = wanted == tuple(context.recipe.data.size)
    frames = _frames(context, wanted, 32)
    flat = [name for name in ("slim", "student", "teacher") if name != "teacher" or not context.is_3d]
    calls = {f"torch/{name}": _eager(context, name, wanted, threads) for name in flat}
    with tempfile.TemporaryDirectory() as scratch:
        ship = context.folder("ship") if own else _resized(context, wanted, Path(scratch))
        record = bench_package(ship, threads=threads, calls=calls, frames=frames, options=options)
    for entry in record["calls"]:
        name = entry["name"].removeprefix("torch/")
        if own and name in flat:
            entry["dice"] = stage_folder.read_card(context.folder(name)).measured[stage_folder.WEIGHTS].dice
        if not own:
            entry["dice"] = entry["drop"] = None
    record["size"] = list(wanted)
    return record


def _eager(context: RunContext, stage: str, size: tuple[int, int], threads: int | None) -> TorchRunner:
    network = network_folder.load_network(context.folder(stage))
    whole = export.DeployableModel(network, normalise=context.slices.normalise, channels=context.slices.channels)
    return TorchRunner(whole.cpu(), size=size, channels=context.slices.channels, name=stage, threads=threads)


def _frames(context: RunContext, size: tuple[int, int], count: int) -> np.ndarray:
    frames = evenly_spaced(context.slices.val.frames, count)
    if context.recipe.data.colour and context.recipe.data.slices == 1:
        return np.stack([fit_frame(frame, size=size, channels=3) for frame in frames])
    planes = [
        [fit_frame(frame[..., k], size=size, channels=1) for k in range(context.slices.channels)] for frame in frames
    ]
    return np.stack([np.concatenate(each, axis=-1) for each in planes])


def _resized(context: RunContext, size: tuple[int, int], folder: Path) -> Path:
    card = stage_folder.read_card(context.folder("slim"))
    graph, small = folder / ONNX_FP32, folder / ONNX_INT8
    export.export_onnx(
        network_folder.load_network(context.folder("slim")),
        graph,
        size=size,
        channels=card.channels,
        normalise=card.normalise,
    )
    frames = _frames(context, size, 64)
    quantized = stage_folder.read_card(context.folder("int8")).measured.get(ONNX_INT8)
    if quantized is not None:
        keep = (quantized.quantization or {}).get("kept", [])
        int8.quantize(graph, small, calibration=[frames[i : i + 1] for i in range(len(frames))], keep=keep)
        export.export_openvino(small, folder / IR_INT8)
    export.export_openvino(graph, folder / IR_FP32)
    finalize(
        folder,
        ModelCard(
            name=card.name,
            stage="bench",
            classes=card.classes,
            size=size,
            channels=card.channels,
            params=card.params,
        ),
    )
    return folder
