"""The int8 stage: one quantized graph for every runtime, which must pass the accuracy gates class by class.

Calibration alone comes first. Where it costs more than the tolerance, the most sensitive layers stay in float; then
the student is trained further with simulated 8-bit rounding (`edgemt.pipeline.quantization_candidates`). Each candidate
is measured on each runtime, and the first that passes is taken. When none does, half precision and float ship alone,
and the card records what was tried.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploy import export
from deploy.package.files import IR_FP32, IR_INT8, ONNX_FP32, ONNX_INT8
from deploy.package.input_drift import drift_message, measure
from deploy.quantization.accuracy_gate import GateError
from deploy.runtimes.load import runner
from edgemt.artefacts import stage_folder
from edgemt.data.slice_dataset import SliceDataset
from edgemt.inference.evaluate import evaluation_record
from edgemt.io.atomic import next_name
from edgemt.pipeline.accuracy import AUROC_TOLERANCE, dice_drop, gate_failure, measured_of, uncertainty_failure
from edgemt.pipeline.fallback import given_up
from edgemt.pipeline.log import log
from edgemt.pipeline.quantization_candidates import RUNS, Candidate, candidates, export_graph
from edgemt.pipeline.run_context import RunContext
from edgemt.pipeline.stage import FORMAT, Stage
from edgemt.report.formatting import candidate_name, describe_candidate

SMALL_FILES = (ONNX_INT8, IR_INT8, IR_INT8.removesuffix(".xml") + ".bin")
_REMEDY = "int8.schedule.steps or int8.kept up, or a larger tolerance"


def int8(context: RunContext) -> Path:
    """One Q/DQ ONNX for every runtime, of the first candidate within the tolerance; else float alone.

    Raises GateError when no candidate passes and `strict` is set or `int8.otherwise` is "stop".
    """
    source, recipe = context.folder("slim"), context.recipe
    inputs = {
        "format": FORMAT,
        "int8": recipe.int8,
        "tolerance": recipe.tolerance,
        "seed": recipe.seed,
        "strict": recipe.strict,
        "training data": context.slices.data_fingerprint,
        "parents": {"slim": stage_folder.identity(source)},
    }
    stage = Stage(context, "int8", inputs, first_process_only=True)
    measured_of(source, measured_on=context.slices.measured_on)
    if _is_current(stage):
        metrics = stage_folder.read_card(stage.folder).measured
        log(
            f"int8: stands, Dice {metrics[ONNX_INT8]['dice']:.4f}"
            if ONNX_INT8 in metrics
            else "int8: stands, without INT8"
        )
        return stage.folder
    card = stage_folder.read_card(source)
    with stage.working_folder() as working:
        for file in SMALL_FILES:  # of an interrupted run
            (working / file).unlink(missing_ok=True)
        export_graph(context, source, working / ONNX_FP32)
        export.export_openvino(working / ONNX_FP32, working / IR_FP32)
        measured, given = _first_passing(context, working, parent=card.measured[stage_folder.WEIGHTS])
        card = replace(card, stage="int8", parents=stage.parents, recipe_hash=stage.key, measured=measured)
        stage_folder.write_card(working, replace(card, given_up=(*card.given_up, *given)))
    return stage.folder


def _is_current(stage: Stage) -> bool:
    """Whether the stage is complete and measured on this validation list; the first candidate is measured again.

    A later candidate was chosen by the results of earlier ones on the old list: then all are measured again.
    """
    if not stage.is_complete():
        return False
    context, folder = stage.context, stage.folder
    card = stage_folder.read_card(folder)
    if all(found.get("list") == context.slices.list_key for found in card.measured.values()):
        return True
    noted = card.measured.get(ONNX_INT8, {}).get("quantization")
    if noted is not None and noted.get("rung") == "calibrated":
        parent = measured_of(context.folder("slim"), measured_on=context.slices.measured_on)
        measured = {
            file: evaluation_record(runner(folder / file, runtime=runtime), context.slices.val)
            for file, runtime in RUNS.items()
        }
        refused = [
            gate_failure(parent, found, tolerance=context.recipe.tolerance, what=f"INT8 on {RUNS[file]}")
            for file, found in measured.items()
        ]
        if not any(refused):
            for file, found in measured.items():
                found |= {"drop": dice_drop(parent["dice"], found), "runtime": RUNS[file]}
            dice = {RUNS[file]: found["dice"] for file, found in measured.items()}
            first = {**noted["rungs"][0], "dice": dice}
            measured[ONNX_INT8] |= {"quantization": {**noted, "rungs": [first]}}
            stage_folder.rewrite_card(folder, replace(card, measured=measured, data=context.slices.card().data))
            log(f"int8: measured again on the changed validation list, {describe_candidate(first)}")
            return True
    after = "is replaced" if context.overwrite else f"becomes {next_name(folder).name}"
    log(f"int8: made again, its candidate was chosen on another validation list; the finished stage {after}")
    return False


def _first_passing(
    context: RunContext, working: Path, *, parent: dict[str, Any]
) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    """The metrics of the files of the first candidate that passes, and the record of what was given up if none does."""
    tried: list[dict[str, Any]] = []
    for candidate in candidates(context, float_graph=working / ONNX_FP32, frames=_calibration(context)):
        reasons = [
            gate_failure(parent, found, tolerance=context.recipe.tolerance, what=f"INT8 on {RUNS[file]}")
            for file, found in candidate.measured.items()
        ]
        refused = next(filter(None, reasons), "")
        dice = {RUNS[file]: found["dice"] for file, found in candidate.measured.items()}
        tried.append({**candidate.record, "dice": dice, "passed": not refused, "refused": refused})
        log(f"int8: {describe_candidate(tried[-1])}, its float parent {parent['dice']:.4f}")
        if not refused:
            for file in SMALL_FILES:
                shutil.copyfile(candidate.folder / file, working / file)
            candidate, given = _with_passing_uncertainty(context, working, candidate, parent=parent)
            noted = {"rungs": [_without(step, "sensitivity") for step in tried], **candidate.record}
            return {
                file: {
                    **found,
                    "drop": dice_drop(parent["dice"], found),
                    "runtime": RUNS[file],
                    **({"quantization": noted} if file == ONNX_INT8 else {}),
                }
                for file, found in candidate.measured.items()
            }, given
        log(f"int8: refused, {refused}")
        if len(tried) == 1:
            log(f"int8: {_budget(context)}")
    return _without_eight_bits(context, working, tried, parent=parent)


def _with_passing_uncertainty(
    context: RunContext, working: Path, candidate: Candidate, *, parent: dict[str, Any]
) -> tuple[Candidate, tuple[dict[str, Any], ...]]:
    """The candidate and, where its uncertainty fails the gate, that output removed from its files and the record of it.

    Raises GateError with `strict`.
    """
    reasons = [uncertainty_failure(parent, found, what=f"INT8 on {RUNS[f]}") for f, found in candidate.measured.items()]
    refused = next(filter(None, reasons), "")
    if not refused:
        return candidate, ()
    if context.recipe.strict:
        raise ValueError(f"{refused}; nothing was written; turn {_REMEDY}, or set student.method.uncertainty 0")
    log(f"int8: without its uncertainty: {refused}")
    export.drop_uncertainty(working / ONNX_INT8)
    export.export_openvino(working / ONNX_INT8, working / IR_INT8)
    record = given_up(
        stage="int8",
        wanted="uncertainty in INT8",
        shipped="masks alone in INT8, the uncertainty in float",
        tried=[{"attempt": "uncertainty in INT8", "dice": None, "refused": refused}],
        tolerance=AUROC_TOLERANCE,
        parent_dice=parent["dice"],
        remedy=_REMEDY,
    )
    measured = {file: _without(found, "uncertainty") for file, found in candidate.measured.items()}
    return replace(candidate, measured=measured), (record,)


def _budget(context: RunContext) -> str:
    """The most that the further candidates may cost, and what follows them, for a log line."""
    of = context.recipe.int8
    further = {
        "mixed": f"up to {of.kept} layers in float",
        "distil": f"{of.schedule.steps} steps of quantization-aware distillation",
    }
    steps = [further[name] for name in ("mixed", "distil") if name in of.ladder]
    stops = context.recipe.strict or of.otherwise == "stop"
    last = "refusal" if stops else "half precision and float alone"
    return f"next {', then '.join([*steps, last])}"


def _without_eight_bits(
    context: RunContext, working: Path, tried: list[dict[str, Any]], *, parent: dict[str, Any]
) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    """The metrics of the float graph and the record of what was given up. Raises GateError, naming every candidate."""
    steps = "; ".join(describe_candidate(step) for step in tried)
    if context.recipe.strict or context.recipe.int8.otherwise == "stop":
        raise GateError(
            f"INT8: no candidate stays within {context.recipe.tolerance:g} of its parent's Dice "
            f"{parent['dice']:.4f}, in mean and class by class: {steps}; nothing was written; turn {_REMEDY}, or "
            f"ship half precision and float "
            "(int8.otherwise float, without --strict)",
            what="INT8",
            expected=parent["dice"],
            measured=max((dice for step in tried for dice in step["dice"].values()), default=float("nan")),
            tolerance=context.recipe.tolerance,
        )
    log(f"int8: no candidate passes ({steps}); half precision and float are shipped alone")
    found = evaluation_record(runner(working / ONNX_FP32, runtime="onnxruntime"), context.slices.val)
    noted = {"rungs": [_without(step, "sensitivity") for step in tried], "rung": "none", "kept": []}
    record = given_up(
        stage="int8",
        wanted="INT8",
        shipped="half precision and float",
        tried=[
            {"attempt": candidate_name(step), "dice": min(step["dice"].values()), "refused": step["refused"]}
            for step in tried
        ],
        tolerance=context.recipe.tolerance,
        parent_dice=parent["dice"],
        remedy=_REMEDY,
    )
    measured = {**found, "drop": dice_drop(parent["dice"], found), "runtime": "onnxruntime", "quantization": noted}
    return {ONNX_FP32: measured}, (record,)


def _without(step: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in step.items() if name != key}


def _calibration(context: RunContext) -> list[np.ndarray]:
    stack = context.slices.unlabelled if len(context.slices.unlabelled.image) else context.slices.labelled
    count = min(context.recipe.int8.images, len(stack.image))
    if count < 1:
        raise ValueError(f"int8.images: {context.recipe.int8.images} frames cannot calibrate; give at least 1")
    frames = frames_of(stack, count, seed=context.recipe.seed)
    patients = len({case.patient for case in context.slices.cohort.labelled})
    known = measure(frames_of(context.slices.labelled, 500, seed=context.recipe.seed), patients=patients)
    warning = drift_message(frames, known, what="int8: calibration")
    if warning is not None:
        log(f"warning: {warning}")
    return [frame[None] for frame in frames]


def frames_of(stack: SliceDataset, count: int, *, seed: int) -> np.ndarray:
    """At most `count` frames of a stack, uint8 [N, H, W, K], as the graph takes them."""
    count = min(count, len(stack.image))
    chosen = np.random.default_rng(seed).choice(len(stack.image), count, replace=False)
    frames = stack.frames(torch.from_numpy(np.sort(chosen)), "cpu").permute(0, 2, 3, 1)
    return np.rint(255 * frames.numpy()).astype(np.uint8)
