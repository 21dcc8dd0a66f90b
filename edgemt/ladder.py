"""The rungs of the ladder to eight bits: calibrated, some layers left in float, learnt under eight bits, and both."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from deploy import export
from deploy.fastest import timed
from deploy.quantize import quantize
from deploy.runtime import runner
from deploy.sensitivity import sensitivity
from edgemt import artefact, ranks
from edgemt.progress import counter
from edgemt.quantization_aware import distil_in_eight_bits
from edgemt.workspace import Run

_TELLING = 16  # calibration frames that layers are compared and timed on
_NOTED = 16  # layers whose sensitivity the card keeps


def rungs(at: Run, *, exact: Path, small: Path, frames: list[np.ndarray]) -> Iterator[dict[str, Any]]:
    """Writes the INT8 graph `small` of each rung in turn, and says which it is.

    `exact` is the float graph of the slim student, `frames` are unlabelled, uint8 [1, H, W, K] each.
    """
    ladder = at.recipe.int8.ladder
    quantize(exact, small, calibration=frames, frames=len(frames))
    yield {"rung": "calibrated", "kept": []}
    if "mixed" in ladder:
        yield from _mixed(at, exact, small, frames, rung="mixed")
    if "distil" not in ladder:
        return
    if ranks.world() > 1:  # the others wait for this stage and cannot learn along
        at.say("int8: learning under eight bits is one process's work; give the same command without torchrun or srun")
        return
    learnt = distil_in_eight_bits(at)
    with tempfile.TemporaryDirectory() as scratch:
        graph = export_graph(at, learnt, Path(scratch) / "model.onnx")
        quantize(graph, small, calibration=frames, frames=len(frames))
        yield {"rung": "distilled", "kept": []}
        if "mixed" in ladder:
            yield from _mixed(at, graph, small, frames, rung="distilled, mixed")


def _mixed(at: Run, exact: Path, small: Path, frames: list[np.ndarray], *, rung: str) -> Iterator[dict[str, Any]]:
    """The 1, 2, 4, 8 ... worst layers in float, while that is quicker than all of them; no label is looked at."""
    telling = frames[:: max(1, len(frames) // _TELLING)][:_TELLING]
    layers = sensitivity(exact, small, frames=telling, progress=counter("sensitivity of layers"))
    worst = [layer for layer in layers if layer.noise > 0]
    noted = [{"layer": x.layer, "kind": x.kind, "noise": x.noise, "changed": x.changed} for x in layers[:_NOTED]]
    count = 1
    while count <= min(at.recipe.int8.kept, len(worst)):
        kept = [layer.layer for layer in worst[:count]]
        quantize(exact, small, calibration=frames, frames=len(frames), keep=kept)
        gain = _gain(small, exact, telling)
        if gain <= at.recipe.int8.gain:
            at.say(f"int8: {rung}, {count} layers in float: {gain:.2f} times as fast as float, so no more of it")
            return
        yield {"rung": rung, "kept": kept, "times_float": round(gain, 3), "sensitivity": noted}
        count *= 2


def _gain(small: Path, exact: Path, frames: list[np.ndarray]) -> float:
    """How many times as fast as the float graph on OpenVINO, which picks its own precision for that."""
    calls = {"exact": runner(exact, runtime="openvino"), "small": runner(small, runtime="openvino")}
    return 1 / timed(calls, frames)["small"]["ratio"]


def export_graph(at: Run, source: Path, path: Path) -> Path:
    """The network of an artefact folder as one float graph, at the size that ships."""
    card, network = artefact.read_card(source), artefact.load_network(source)
    return export.export_onnx(network, path, size=at.recipe.data.size, channels=card.channels, normalise=card.normalise)
