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
from deploy.quantization.accuracy_gate import GateError, as_number
from deploy.runtimes.load import runner
from edgemt.artefacts import network_folder, stage_folder
from edgemt.data.slice_dataset import SliceDataset
from edgemt.inference.evaluate import evaluation_record
from edgemt.io.atomic import next_name
from edgemt.model_card import FileMetrics
from edgemt.pipeline.accuracy import (
    AUROC_TOLERANCE,
    dice_drop,
    dice_figure,
    dice_text,
    gate_failure,
    measured_of,
    uncertainty_failure,
    with_source,
)
from edgemt.pipeline.fallback import given_up
from edgemt.pipeline.log import log
from edgemt.pipeline.quantization_candidates import RUNS, Candidate, candidates, export_graph
from edgemt.pipeline.run_context import RunContext
from edgemt.pipeline.stage import FORMAT, Stage
from edgemt.report.formatting import candidate_name, describe_candidate

SMALL_FILES = (ONNX_INT8, IR_INT8, IR_INT8.removesuffix(".xml") + ".bin")
_REMEDY = "int8.schedule.steps or int8.float_layers up, or a larger tolerance"


def int8(context: RunContext) -> Path:
    """One Q/DQ ONNX for every runtime, of the first candidate within the tolerance; else float alone.

    Raises GateError when no candidate passes and `strict` is set or `int8.fallback` is "stop".
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
        **({"uncertainty": recipe.uncertainty} if recipe.uncertainty != "head" else {}),
    }
    stage = Stage(context, "int8", inputs, first_process_only=True)
    measured_of(source, measured_on=context.slices.measured_on)
    if _is_current(stage):
        metrics = stage_folder.read_card(stage.folder).measured
        log(f"int8: stands, {dice_text(metrics[ONNX_INT8])}" if ONNX_INT8 in metrics else "int8: stands, without INT8")
        return stage.folder
    card = stage_folder.read_card(source)
    with stage.working_folder() as working:
        for file in SMALL_FILES:  # of an interrupted run
            (working / file).unlink(missing_ok=True)
        export_graph(context, source, working / ONNX_FP32)
        export.export_openvino(working / ONNX_FP32, working / IR_FP32)
        measured, given = _first_passing(context, working, parent=_parent(context, source))
        card = replace(card, stage="int8", parents=stage.parents, recipe_hash=stage.key, measured=measured)
        stage_folder.write_card(working, replace(card, given_up=(*card.given_up, *given)))
    return stage.folder


def _parent(context: RunContext, source: Path) -> FileMetrics:
    """The metrics of the float student, with those of the uncertainty that is shipped."""
    metrics, wanted = stage_folder.read_card(source).measured[stage_folder.WEIGHTS], context.recipe.uncertainty
    if wanted == "head":
        return metrics
    found = context.slices.measured_uncertainty(network_folder.load_network(source), wanted)
    area = "undefined" if found["auroc"] is None else f"{found['auroc']:.4f}"
    log(f"int8: uncertainty by {wanted}, AUROC of wrong pixels {area} in float")
    return replace(metrics, uncertainty=found)


def _is_current(stage: Stage) -> bool:
    """Whether the stage is complete and measured on this validation list; the first candidate is measured again.

    A later candidate was chosen by the results of earlier ones on the old list: then all are measured again.
    """
    if not stage.is_complete():
        return False
    context, folder = stage.context, stage.folder
    card = stage_folder.read_card(folder)
    if all(metrics.list_key == context.slices.list_key for metrics in card.measured.values()):
        return True
    noted = card.measured[ONNX_INT8].quantization if ONNX_INT8 in card.measured else None
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
            first = {**noted["rungs"][0], "dice": _dice_on(measured)}
            measured = _on_card(context, measured, parent, {**noted, "rungs": [first]})
            stage_folder.rewrite_card(folder, replace(card, measured=measured, data=context.slices.card().data))
            log(f"int8: measured again on the changed validation list, {describe_candidate(first)}")
            return True
    after = "is replaced" if context.overwrite else f"becomes {next_name(folder).name}"
    log(f"int8: made again, its candidate was chosen on another validation list; the finished stage {after}")
    return False


def _first_passing(
    context: RunContext, working: Path, *, parent: FileMetrics
) -> tuple[dict[str, FileMetrics], tuple[dict[str, Any], ...]]:
    """The metrics of the files of the first candidate that passes, and the record of what was given up if none does."""
    tried: list[dict[str, Any]] = []
    for candidate in candidates(context, float_graph=working / ONNX_FP32, frames=_calibration(context)):
        reasons = [
            gate_failure(parent, found, tolerance=context.recipe.tolerance, what=f"INT8 on {RUNS[file]}")
            for file, found in candidate.measured.items()
        ]
        refused = next(filter(None, reasons), "")
        dice = _dice_on(candidate.measured)
        tried.append({**candidate.record, "dice": dice, "passed": not refused, "refused": refused})
        log(f"int8: {describe_candidate(tried[-1])}, its float parent {dice_figure(parent)}")
        if not refused:
            for file in SMALL_FILES:
                shutil.copyfile(candidate.folder / file, working / file)
            candidate, given = _with_passing_uncertainty(context, working, candidate, parent=parent)
            noted = {"rungs": _without_sensitivity(tried), **candidate.record}
            return _on_card(context, candidate.measured, parent, noted), given
        log(f"int8: refused, {refused}")
        if len(tried) == 1:
            log(f"int8: {_budget(context)}")
    return _without_eight_bits(context, working, tried, parent=parent)


def _with_passing_uncertainty(
    context: RunContext, working: Path, candidate: Candidate, *, parent: FileMetrics
) -> tuple[Candidate, tuple[dict[str, Any], ...]]:
    """The candidate and, where its uncertainty fails the gate, that output removed from its files and the record of it.

    Raises GateError with `strict`.
    """
    reasons = [uncertainty_failure(parent, found, what=f"INT8 on {RUNS[f]}") for f, found in candidate.measured.items()]
    refused = next(filter(None, reasons), "")
    if not refused:
        return candidate, ()
    if context.recipe.strict:
        raise ValueError(
            f"{refused}; nothing was written; turn {_REMEDY}, or leave the uncertainty out (--uncertainty head, "
            "--student.method.uncertainty 0)"
        )
    log(f"int8: without its uncertainty: {refused}")
    export.drop_uncertainty(working / ONNX_INT8)
    export.export_openvino(working / ONNX_INT8, working / IR_INT8)
    record = given_up(
        stage="int8",
        wanted="uncertainty in INT8",
        shipped="masks alone in INT8, the uncertainty in float",
        tried=[{"attempt": "uncertainty in INT8", "dice": None, "refused": refused}],
        tolerance=AUROC_TOLERANCE,
        parent_dice=parent.dice,
        remedy=_REMEDY,
    )
    measured = {file: replace(found, uncertainty={}) for file, found in candidate.measured.items()}
    return replace(candidate, measured=measured), (record,)


def _dice_on(measured: dict[str, FileMetrics]) -> dict[str, float | None]:
    """Runtime -> Dice of the INT8 file that it runs."""
    return {RUNS[file]: metrics.dice for file, metrics in measured.items()}


def _on_card(
    context: RunContext, measured: dict[str, FileMetrics], parent: FileMetrics, quantization: dict[str, Any]
) -> dict[str, FileMetrics]:
    """The metrics of the INT8 files with drop and runtime, and how INT8 was reached, which the ONNX file states."""
    return {
        file: replace(
            with_source(metrics, context.recipe.uncertainty),
            drop=dice_drop(parent.dice, metrics),
            runtime=RUNS[file],
            quantization=quantization if file == ONNX_INT8 else None,
        )
        for file, metrics in measured.items()
    }


def _budget(context: RunContext) -> str:
    """The most that the further candidates may cost, and what follows them, for a log line."""
    of = context.recipe.int8
    further = {
        "mixed": f"up to {of.float_layers} layers in float",
        "distil": f"{of.schedule.steps} steps of quantization-aware distillation",
    }
    steps = [further[name] for name in ("mixed", "distil") if name in of.ladder]
    stops = context.recipe.strict or of.fallback == "stop"
    last = "refusal" if stops else "half precision and float alone"
    return f"next {', then '.join([*steps, last])}"


def _without_eight_bits(
    context: RunContext, working: Path, tried: list[dict[str, Any]], *, parent: FileMetrics
) -> tuple[dict[str, FileMetrics], tuple[dict[str, Any], ...]]:
    """The metrics of the float graph and the record of what was given up. Raises GateError, naming every candidate."""
    steps = "; ".join(describe_candidate(step) for step in tried)
    if context.recipe.strict or context.recipe.int8.fallback == "stop":
        raise GateError(
            f"INT8: no candidate stays within {context.recipe.tolerance:g} of its parent's Dice "
            f"{dice_figure(parent)}, in mean and class by class: {steps}; nothing was written; turn {_REMEDY}, or "
            f"ship half precision and float "
            "(int8.fallback float, without --strict)",
            what="INT8",
            expected=as_number(parent.dice),
            measured=max((as_number(dice) for step in tried for dice in step["dice"].values()), default=float("nan")),
            tolerance=context.recipe.tolerance,
        )
    log(f"int8: no candidate passes ({steps}); half precision and float are shipped alone")
    metrics = evaluation_record(runner(working / ONNX_FP32, runtime="onnxruntime"), context.slices.val)
    metrics = with_source(metrics, context.recipe.uncertainty)
    noted = {"rungs": _without_sensitivity(tried), "rung": "none", "kept": []}
    record = given_up(
        stage="int8",
        wanted="INT8",
        shipped="half precision and float",
        tried=[
            {"attempt": candidate_name(step), "dice": min(step["dice"].values()), "refused": step["refused"]}
            for step in tried
        ],
        tolerance=context.recipe.tolerance,
        parent_dice=parent.dice,
        remedy=_REMEDY,
    )
    drop = dice_drop(parent.dice, metrics)
    return {ONNX_FP32: replace(metrics, drop=drop, runtime="onnxruntime", quantization=noted)}, (record,)


def _without_sensitivity(tried: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in step.items() if key != "sensitivity"} for step in tried]


def _calibration(context: RunContext) -> list[np.ndarray]:
    stack = context.slices.unlabelled if len(context.slices.unlabelled.image) else context.slices.labelled
    count = min(context.recipe.int8.images, len(stack.image))
    if count < 1:
        raise ValueError(f"int8.images: {context.recipe.int8.images} frames cannot calibrate; give at least 1")
    if count < context.recipe.int8.images:
        log(f"int8: all {count} frames that there are calibrate it, of int8.images {context.recipe.int8.images}")
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
