"""Eight bits: one quantized graph for every runtime, judged class by class before it is written.

Calibration alone comes first. Where it costs more than the tolerance, the layers that suffer most stay in float; then
the student learns on under eight bits. Each rung is measured as each runtime runs it, and the first that holds is
kept. When none does, nothing is written and what was tried is said.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploy import export
from deploy.gate import GateError, gate, gate_classes
from deploy.inputs import measure, unlike
from deploy.runtime import runner
from edgemt import artefact
from edgemt.data.stream import Stack
from edgemt.files import next_name
from edgemt.ladder import export_graph, rungs
from edgemt.training import FORMAT, drop, fits
from edgemt.workspace import Run, measured_of, record_of

FLOAT, FLOAT_IR = "model.onnx", "openvino/model.xml"
SMALL, SMALL_IR = "model.int8.onnx", "openvino/model.int8.xml"
RUNS = {SMALL: "onnxruntime", SMALL_IR: "openvino"}


def int8(at: Run) -> Path:
    """One Q/DQ ONNX for every runtime, of the first rung that costs no more than the tolerance."""
    source, folder = at.folder("slim"), at.folder("int8")
    parents = (artefact.identity(source),)
    inputs = {"format": FORMAT, "int8": at.recipe.int8, "tolerance": at.recipe.tolerance, "seed": at.recipe.seed}
    inputs |= {"training data": at.files, "parents": {"slim": parents[0]}}
    key = artefact.key_of(inputs)
    measured_of(source, measured_on=at.measured_on)
    if _current(at, folder, inputs):
        held = artefact.read_card(folder).measured
        at.say(f"int8: stands, Dice {held[SMALL]['dice']:.4f}" if SMALL in held else "int8: stands, without INT8")
        return folder
    card = artefact.read_card(source)
    with artefact.staged(folder, overwrite=at.overwrite) as working:
        for left in (SMALL, SMALL_IR, SMALL_IR.removesuffix(".xml") + ".bin"):  # of a run that was cut
            (working / left).unlink(missing_ok=True)
        export_graph(at, source, working / FLOAT)
        export.export_openvino(working / FLOAT, working / FLOAT_IR)
        measured = _climbed(at, working, parent=card.measured[artefact.WEIGHTS])
        kept = replace(card, stage="int8", parents=parents, recipe_hash=key, measured=measured)
        artefact.write_card(working, kept)
    return folder


def _current(at: Run, folder: Path, inputs: dict[str, Any]) -> bool:
    """Whether the stage is finished and judged on this validation list, the first rung once more where it changed.

    A later rung was chosen by what the rungs before it gave on the old list: the ladder is then climbed again.
    """
    if not fits(at, "int8", inputs):
        return False
    card = artefact.read_card(folder)
    if all(found.get("list") == at.list_key for found in card.measured.values()):
        return True
    noted = card.measured.get(SMALL, {}).get("quantization")
    if noted is not None and noted.get("rung") == "calibrated":
        parent = measured_of(at.folder("slim"), measured_on=at.measured_on)
        measured = {file: record_of(runner(folder / file, runtime=runtime), at.val) for file, runtime in RUNS.items()}
        refused = [
            judged(parent, found, tolerance=at.recipe.tolerance, what=f"INT8 on {RUNS[file]}")
            for file, found in measured.items()
        ]
        if not any(refused):
            for file, found in measured.items():
                found |= {"drop": drop(parent["dice"], found), "runtime": RUNS[file]}
            dice = {RUNS[file]: found["dice"] for file, found in measured.items()}
            first = {**noted["rungs"][0], "dice": dice}
            measured[SMALL] |= {"quantization": {**noted, "rungs": [first]}}
            artefact.rewrite_card(folder, replace(card, measured=measured, data=at.card().data))
            at.say(f"int8: measured again on the changed validation list, {told(first)}")
            return True
    after = "is replaced" if at.overwrite else f"is kept as {next_name(folder).name}"
    at.say(f"int8: made again, its rung was chosen on another validation list; the finished stage {after}")
    return False


def _climbed(at: Run, working: Path, *, parent: dict[str, Any]) -> dict[str, Any]:
    """What the card says of the files of the first rung that holds. Raises GateError when none does."""
    tried: list[dict[str, Any]] = []
    begun = time.monotonic()
    for rung in rungs(at, exact=working / FLOAT, small=working / SMALL, frames=_calibration(at)):
        export.export_openvino(working / SMALL, working / SMALL_IR)
        measured = {file: record_of(runner(working / file, runtime=runtime), at.val) for file, runtime in RUNS.items()}
        refused = [
            judged(parent, found, tolerance=at.recipe.tolerance, what=f"INT8 on {RUNS[file]}")
            for file, found in measured.items()
        ]
        dice = {RUNS[file]: found["dice"] for file, found in measured.items()}
        tried.append({**rung, "dice": dice, "passed": not any(refused), "seconds": round(time.monotonic() - begun, 1)})
        begun = time.monotonic()
        at.say(f"int8: {told(tried[-1])}, its float parent {parent['dice']:.4f}")
        if tried[-1]["passed"]:
            noted = {"rungs": [_without(step, "sensitivity") for step in tried], **rung}
            return {
                file: {
                    **found,
                    "drop": drop(parent["dice"], found),
                    "runtime": RUNS[file],
                    **({"quantization": noted} if file == SMALL else {}),
                }
                for file, found in measured.items()
            }
        at.say(f"int8: refused, {next(filter(None, refused))}")
    return _without_eight_bits(at, working, tried, parent=parent)


def _without_eight_bits(
    at: Run, working: Path, tried: list[dict[str, Any]], *, parent: dict[str, Any]
) -> dict[str, Any]:
    """The float graph alone where the recipe wants that, else the gate's word on every rung."""
    for file in (SMALL, SMALL_IR, SMALL_IR.removesuffix(".xml") + ".bin"):
        (working / file).unlink(missing_ok=True)
    best = max((dice for step in tried for dice in step["dice"].values()), default=float("nan"))
    said = "; ".join(told(step) for step in tried)
    if at.recipe.int8.otherwise == "float":
        at.say(f"int8: no rung holds ({said}); half precision and float are shipped alone")
        found = record_of(runner(working / FLOAT, runtime="onnxruntime"), at.val)
        noted = {"rungs": [_without(step, "sensitivity") for step in tried], "rung": "none", "kept": []}
        return {FLOAT: {**found, "drop": drop(parent["dice"], found), "runtime": "onnxruntime", "quantization": noted}}
    raise GateError(
        f"INT8: no rung stays within {at.recipe.tolerance:g} of its parent's Dice {parent['dice']:.4f}, in mean and "
        f"class by class: {said}; nothing was written; turn int8.schedule.steps or int8.kept up, take int8.otherwise "
        "float to ship half precision, or allow more with a larger tolerance",
        what="INT8",
        expected=parent["dice"],
        measured=best,
        tolerance=at.recipe.tolerance,
    )


def judged(parent: dict[str, Any], found: dict[str, Any], *, tolerance: float, what: str) -> str:
    """Why the gates refuse a measurement, mean and class by class; empty when they let it pass."""
    asked: dict[str, Any] = {"tolerance": tolerance, "what": what, "knob": ""}
    try:
        gate(parent["dice"], found["dice"], **asked)
        gate_classes(dice_of(parent), dice_of(found), **asked)
    except GateError as error:
        return str(error).partition("; nothing was written")[0]
    return ""


def told(step: dict[str, Any]) -> str:
    """A rung in a few words: distilled 0.5123 on onnxruntime, 0.5131 on openvino."""
    kept = f" ({len(step['kept'])} layers in float)" if step["kept"] else ""
    return f"{step['rung']}{kept} " + ", ".join(f"{dice:.4f} on {name}" for name, dice in step["dice"].items())


def dice_of(measured: dict[str, Any]) -> dict[str, float | None]:
    """Dice by class out of a card's measurement."""
    return {name: values["dice"] for name, values in measured["per_class"].items()}


def _without(step: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in step.items() if name != key}


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
