"""Eight bits: one quantized graph for every runtime, judged class by class before it is written.

Calibration alone comes first. Where it costs more than the tolerance, the layers that suffer most stay in float; then
the student learns on under eight bits (`edgemt.pipeline.quantization_candidates`). Each rung is measured as each
runtime runs it, and the first that passes is taken. When none does, half precision and float ship alone, and the card
records what was tried.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploy import export
from deploy.package.input_drift import measure, unlike
from deploy.quantization.accuracy_gate import GateError, gate, gate_classes
from deploy.runtimes.load import runner
from edgemt.artefacts import stage_folder
from edgemt.data.slice_dataset import SliceDataset
from edgemt.io.atomic import next_name
from edgemt.pipeline.fallback import given_up
from edgemt.pipeline.quantization_candidates import FLOAT, FLOAT_IR, RUNS, SMALL, SMALL_IR, export_graph, rungs
from edgemt.pipeline.run_context import Run, measured_of, record_of
from edgemt.pipeline.train import FORMAT, drop, fits

SMALL_FILES = (SMALL, SMALL_IR, SMALL_IR.removesuffix(".xml") + ".bin")
_REMEDY = "int8.schedule.steps or int8.kept up, or a larger tolerance"


def int8(at: Run) -> Path:
    """One Q/DQ ONNX for every runtime, of the first rung that costs no more than the tolerance; else float alone.

    Raises GateError when no rung passes and `strict` is set or `int8.otherwise` is "stop".
    """
    source, folder = at.folder("slim"), at.folder("int8")
    parents = (stage_folder.identity(source),)
    inputs = {"format": FORMAT, "int8": at.recipe.int8, "tolerance": at.recipe.tolerance, "seed": at.recipe.seed}
    inputs |= {"strict": at.recipe.strict}
    inputs |= {"training data": at.files, "parents": {"slim": parents[0]}}
    key = stage_folder.key_of(inputs)
    measured_of(source, measured_on=at.measured_on)
    if _current(at, folder, inputs):
        held = stage_folder.read_card(folder).measured
        at.say(f"int8: stands, Dice {held[SMALL]['dice']:.4f}" if SMALL in held else "int8: stands, without INT8")
        return folder
    card = stage_folder.read_card(source)
    with stage_folder.staged(folder, overwrite=at.overwrite) as working:
        for left in SMALL_FILES:  # of a run that was cut
            (working / left).unlink(missing_ok=True)
        export_graph(at, source, working / FLOAT)
        export.export_openvino(working / FLOAT, working / FLOAT_IR)
        measured, given = _climbed(at, working, parent=card.measured[stage_folder.WEIGHTS])
        kept = replace(card, stage="int8", parents=parents, recipe_hash=key, measured=measured)
        stage_folder.write_card(working, replace(kept, given_up=(*card.given_up, *given)))
    return folder


def _current(at: Run, folder: Path, inputs: dict[str, Any]) -> bool:
    """Whether the stage is finished and judged on this validation list, the first rung once more where it changed.

    A later rung was chosen by what the rungs before it gave on the old list: the ladder is then climbed again.
    """
    if not fits(at, "int8", inputs):
        return False
    card = stage_folder.read_card(folder)
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
            stage_folder.rewrite_card(folder, replace(card, measured=measured, data=at.card().data))
            at.say(f"int8: measured again on the changed validation list, {told(first)}")
            return True
    after = "is replaced" if at.overwrite else f"becomes {next_name(folder).name}"
    at.say(f"int8: made again, its rung was chosen on another validation list; the finished stage {after}")
    return False


def _climbed(at: Run, working: Path, *, parent: dict[str, Any]) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    """What the card records of the files of the first rung that passes, and of what was given up if none does."""
    tried: list[dict[str, Any]] = []
    for rung in rungs(at, exact=working / FLOAT, frames=_calibration(at)):
        reasons = [
            judged(parent, found, tolerance=at.recipe.tolerance, what=f"INT8 on {RUNS[file]}")
            for file, found in rung.measured.items()
        ]
        refused = next(filter(None, reasons), "")
        dice = {RUNS[file]: found["dice"] for file, found in rung.measured.items()}
        tried.append({**rung.record, "dice": dice, "passed": not refused, "refused": refused})
        at.say(f"int8: {told(tried[-1])}, its float parent {parent['dice']:.4f}")
        if not refused:
            for file in SMALL_FILES:
                shutil.copyfile(rung.folder / file, working / file)
            noted = {"rungs": [_without(step, "sensitivity") for step in tried], **rung.record}
            return {
                file: {
                    **found,
                    "drop": drop(parent["dice"], found),
                    "runtime": RUNS[file],
                    **({"quantization": noted} if file == SMALL else {}),
                }
                for file, found in rung.measured.items()
            }, ()
        at.say(f"int8: refused, {refused}")
        if len(tried) == 1:
            at.say(f"int8: {_budget(at)}")
    return _without_eight_bits(at, working, tried, parent=parent)


def _budget(at: Run) -> str:
    """The most that the further rungs may cost, and what comes after them, in words."""
    of = at.recipe.int8
    further = {"mixed": f"up to {of.kept} layers in float", "distil": f"{of.schedule.steps} steps under eight bits"}
    steps = [further[name] for name in ("mixed", "distil") if name in of.ladder]
    stops = at.recipe.strict or of.otherwise == "stop"
    last = "refusal" if stops else "half precision and float alone"
    return f"next {', then '.join([*steps, last])}"


def _without_eight_bits(
    at: Run, working: Path, tried: list[dict[str, Any]], *, parent: dict[str, Any]
) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    """The float graph alone and what was given up for it, or the gate's refusal with every rung named."""
    steps = "; ".join(told(step) for step in tried)
    if at.recipe.strict or at.recipe.int8.otherwise == "stop":
        raise GateError(
            f"INT8: no rung stays within {at.recipe.tolerance:g} of its parent's Dice {parent['dice']:.4f}, in mean "
            f"and class by class: {steps}; nothing was written; turn {_REMEDY}, or ship half precision and float "
            "(int8.otherwise float, without --strict)",
            what="INT8",
            expected=parent["dice"],
            measured=max((dice for step in tried for dice in step["dice"].values()), default=float("nan")),
            tolerance=at.recipe.tolerance,
        )
    at.say(f"int8: no rung passes ({steps}); half precision and float are shipped alone")
    found = record_of(runner(working / FLOAT, runtime="onnxruntime"), at.val)
    noted = {"rungs": [_without(step, "sensitivity") for step in tried], "rung": "none", "kept": []}
    record = given_up(
        stage="int8",
        wanted="INT8",
        shipped="half precision and float",
        tried=[
            {"attempt": named(step), "dice": min(step["dice"].values()), "refused": step["refused"]} for step in tried
        ],
        tolerance=at.recipe.tolerance,
        parent_dice=parent["dice"],
        remedy=_REMEDY,
    )
    measured = {**found, "drop": drop(parent["dice"], found), "runtime": "onnxruntime", "quantization": noted}
    return {FLOAT: measured}, (record,)


def judged(parent: dict[str, Any], found: dict[str, Any], *, tolerance: float, what: str) -> str:
    """Why the gates refuse a measurement, mean and class by class; empty when they let it pass."""
    asked: dict[str, Any] = {"tolerance": tolerance, "what": what, "knob": ""}
    try:
        gate(parent["dice"], found["dice"], **asked)
        gate_classes(dice_of(parent), dice_of(found), **asked)
    except GateError as error:
        return error.reason
    return ""


def named(step: dict[str, Any]) -> str:
    """A rung by its name: mixed (2 layers in float)."""
    return step["rung"] + (f" ({len(step['kept'])} layers in float)" if step["kept"] else "")


def told(step: dict[str, Any]) -> str:
    """A rung in a few words: distilled 0.5123 on onnxruntime, 0.5131 on openvino."""
    return f"{named(step)} " + ", ".join(f"{dice:.4f} on {name}" for name, dice in step["dice"].items())


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
    patients = len({case.patient for case in at.cohort.labelled})
    known = measure(frames_of(at.labelled, 500, seed=at.recipe.seed), patients=patients)
    warning = unlike(frames, known, what="int8: calibration")
    if warning is not None:
        at.say(f"warning: {warning}")
    return [frame[None] for frame in frames]


def frames_of(stack: SliceDataset, count: int, *, seed: int) -> np.ndarray:
    """At most `count` frames of a stack, uint8 [N, H, W, K], as the graph takes them."""
    count = min(count, len(stack.image))
    chosen = np.random.default_rng(seed).choice(len(stack.image), count, replace=False)
    frames = stack.frames(torch.from_numpy(np.sort(chosen)), "cpu").permute(0, 2, 3, 1)
    return np.rint(255 * frames.numpy()).astype(np.uint8)
