"""Eight bits: one quantized graph for every runtime, judged class by class before it is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploy import export, quantize
from deploy.gate import gate, gate_classes
from deploy.inputs import measure, unlike
from deploy.runtime import runner
from edgemt import artefact
from edgemt.data.stream import Stack
from edgemt.training import drop
from edgemt.workspace import Run, record_of


def int8(at: Run) -> Path:
    """One Q/DQ ONNX for every runtime, calibrated on unlabelled images, judged class by class as each runs it."""
    source, folder = at.folder("slim"), at.folder("int8")
    parents = (artefact.identity(source),)
    key = artefact.key_of(at.recipe.int8, at.recipe.tolerance, parents)
    if artefact.stands(folder, key=key):
        at.say(f"int8: stands, Dice {artefact.read_card(folder).measured['model.int8.onnx']['dice']:.4f}")
        return folder
    card = artefact.read_card(source)
    parent = card.measured[artefact.WEIGHTS]
    with artefact.staged(folder) as working:
        graph, small = working / "model.onnx", working / "model.int8.onnx"
        export.export_onnx(
            artefact.load_network(source),
            graph,
            size=at.recipe.data.size,
            channels=card.channels,
            normalise=card.normalise,
        )
        quantize.quantize(graph, small, calibration=_calibration(at), frames=at.recipe.int8.images)
        export.export_openvino(graph, working / "openvino" / "model.xml")
        export.export_openvino(small, working / "openvino" / "model.int8.xml")
        measured: dict[str, Any] = {}
        for file, runtime in (("model.int8.onnx", "onnxruntime"), ("openvino/model.int8.xml", "openvino")):
            found = record_of(runner(working / file, runtime=runtime), at.val)
            measured[file] = {**found, "drop": drop(parent["dice"], found), "runtime": runtime}
            at.say(f"int8 on {runtime}: Dice {found['dice']:.4f}, its fp32 parent {parent['dice']:.4f}")
            allowed: dict[str, Any] = {
                "tolerance": at.recipe.tolerance,
                "what": f"the INT8 student on {runtime}",
                "knob": "int8.images up",
            }
            gate(parent["dice"], found["dice"], **allowed)
            gate_classes(dice_of(parent), dice_of(found), **allowed)
        kept = replace(card, stage="int8", parents=parents, recipe_hash=key, measured=measured)
        artefact.write_card(working, kept)
    return folder


def dice_of(measured: dict[str, Any]) -> dict[str, float | None]:
    """Dice by class out of a card's measurement."""
    return {name: values["dice"] for name, values in measured["per_class"].items()}


def _calibration(at: Run) -> list[np.ndarray]:
    stack = at.unlabelled if len(at.unlabelled.image) else at.labelled
    count = min(at.recipe.int8.images, len(stack.image))
    if count < 1:
        raise ValueError(f"int8.images: {at.recipe.int8.images} frames cannot calibrate; give at least 1")
    frames = frames_of(stack, count, seed=at.recipe.seed)
    said = unlike(frames, measure(frames_of(at.labelled, 500, seed=at.recipe.seed)), what="int8: calibration")
    if said is not None:
        at.say(f"warning: {said}")
    return [frame[None] for frame in frames]


def frames_of(stack: Stack, count: int, *, seed: int) -> np.ndarray:
    """At most `count` frames of a stack, uint8 [N, H, W, K], as the graph takes them."""
    count = min(count, len(stack.image))
    chosen = np.random.default_rng(seed).choice(len(stack.image), count, replace=False)
    frames = stack.frames(torch.from_numpy(np.sort(chosen)), "cpu").permute(0, 2, 3, 1)
    return np.rint(255 * frames.numpy()).astype(np.uint8)
