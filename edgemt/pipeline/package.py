"""The folder that goes to the device: graphs, card and golden frames, checked before it gets its name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.export import export_openvino
from deploy.hardware.machine import describe
from deploy.measurement.variants import QUICK, latency_records
from deploy.package.files import IR_FP16, IR_FP32, IR_INT8, ONNX_FP16, ONNX_FP32, ONNX_INT8
from deploy.package.golden import self_test, write_golden
from deploy.package.input_drift import write_inputs
from deploy.package.package import Package
from deploy.promptable.add_to_package import put_prompt
from deploy.quantization.accuracy_gate import GateError, check_agreement
from deploy.quantization.float16 import to_float16
from deploy.runtimes.load import runner
from deploy.runtimes.runner import ModelRunner
from edgemt.artefacts import network_folder, stage_folder
from edgemt.artefacts.network_folder import load_promptable
from edgemt.inference.doctor import golden_masks
from edgemt.inference.evaluate import evaluation_record
from edgemt.pipeline.accuracy import dice_drop, gate_failure, measured_of
from edgemt.pipeline.contours import calibration_inputs, fit_contours
from edgemt.pipeline.fallback import given_up
from edgemt.pipeline.log import log
from edgemt.pipeline.quantize import frames_of
from edgemt.pipeline.slice_data import evenly_spaced
from edgemt.pipeline.stage import FORMAT, Stage, remove_leftovers

if TYPE_CHECKING:
    from edgemt.model_card import ModelCard
    from edgemt.pipeline.run_context import RunContext

PARITY = 0.999  # share of pixels that two runtimes must agree on, at the same precision
GOLDEN = 4  # frames that go along for the device's self-test
_REMEDY = "another student.network or student.decoder, or another version of the runtime"
_RUNS = {
    IR_INT8: "openvino",
    IR_FP32: "openvino",
    IR_FP16: "openvino",
    ONNX_INT8: "onnxruntime",
    ONNX_FP32: "onnxruntime",
    ONNX_FP16: "onnxruntime",
}


def ship(context: RunContext) -> Path:
    """One folder to copy: graphs, card and golden frames. What does not pass its check is left out, on record.

    Raises GateError when no runtime gives the masks of torch; with `strict`, when one of them does not.
    """
    source, recipe = context.folder("int8"), context.recipe
    parent, prompt = stage_folder.read_card(source), _prompt_input(context)
    inputs = {
        "format": FORMAT,
        "tolerance": recipe.tolerance,
        "training data": context.slices.data_fingerprint,
        "validation list": context.slices.list_key,
        "given up": parent.given_up,
        "parents": {
            "int8": stage_folder.identity(source),
            **({"promptable": stage_folder.identity(prompt)} if prompt else {}),
        },
        **calibration_inputs(context),
    }
    stage = Stage(context, "ship", inputs, first_process_only=True)
    partial_key = stage_folder.key_of("something left out", stage.key)  # not accepted by a strict recipe
    incomplete = not recipe.strict and stage_folder.stands(stage.folder, key=partial_key)
    if incomplete or stage.is_complete():
        log("ship: stands")
        return stage.folder
    given: list[dict[str, Any]] = []
    with stage.working_folder() as working:
        remove_leftovers(working)  # perhaps files that this package lacks
        for file in parent.files:
            (working / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, working / file)
        (working / "curves.json").unlink(missing_ok=True)
        frames = evenly_spaced(context.slices.val.frames, 64)
        masks, refused = parity(context, working, frames)
        given += [_without_runtime(context, working, runtime, reason) for runtime, reason in refused.items()]
        parent = replace(parent, measured={f: m for f, m in parent.measured.items() if (working / f).exists()})
        for index in np.linspace(0, len(frames) - 1, min(GOLDEN, len(frames))).astype(int):
            write_golden(working, f"frame{index:03d}", frame=frames[index], mask=masks[index])
        write_inputs(working, _seen_in_training(context))
        if prompt is not None:
            given += _with_prompt(context, working, prompt, of=parent, frames=frames)
        measured = _accuracy(context, working, parent.measured)
        halves, left_out = _half(context, working, frames, masks)
        measured |= halves
        card = replace(
            parent,
            stage="ship",
            parents=stage.parents,
            measured=measured,
            given_up=(*parent.given_up, *given, *left_out),
            created="",
        )
        opened = Package(working, stage_folder.write_card(working, card))
        measured, failed = _golden(context, opened, measured)
        own_key = partial_key if given or failed else stage.key
        contours = fit_contours(context, opened, {file: _RUNS[file] for file in measured})
        card = replace(card, recipe_hash=own_key, given_up=(*card.given_up, *failed), contours=contours)
        latency = _timed(context, replace(opened, card=replace(opened.card, measured=measured)), frames)
        stage_folder.write_card(working, replace(card, measured=measured, latency=latency))
    log(f"ship: {stage.folder} is ready to copy")
    return stage.folder


def _prompt_input(context: RunContext) -> Path | None:
    """The small promptable network of the run, where it looks at the frames that the student looks at."""
    folder = context.folder("promptable")
    if not (folder / "card.json").is_file() or context.recipe.data.slices > 1:
        return None
    return folder if stage_folder.read_card(folder).patch is None else None


def parity(context: RunContext, folder: Path, frames: np.ndarray) -> tuple[np.ndarray, dict[str, str]]:
    """The float masks in torch, and for each runtime that gives other ones on real images the reason to leave it out.

    Raises GateError when that leaves no runtime, and with `strict` for the first one.
    """
    expected = context.slices.predict(network_folder.load_network(context.folder("slim")))(frames)
    refused: dict[str, GateError] = {}
    for runtime, file in (("onnxruntime", ONNX_FP32), ("openvino", IR_FP32)):
        made = runner(folder / file, runtime=runtime, precision="f32")
        what = f"{file} on {runtime}"
        try:
            same = check_agreement(
                expected, made(frames), least=PARITY, what=what, hint="to another encoder or decoder"
            )
        except GateError as error:
            if context.recipe.strict:
                raise
            refused[runtime] = error
            continue
        log(f"ship: {what} agrees with torch on {same:.3%} of pixels")
    if len(refused) == 2:
        raise next(iter(refused.values()))
    return expected, {runtime: error.reason for runtime, error in refused.items()}


def _without_runtime(context: RunContext, folder: Path, runtime: str, reason: str) -> dict[str, Any]:
    """Removes the files of a runtime that does not give the masks of torch; the record of that for the card."""
    other = next(name for name in ("onnxruntime", "openvino") if name != runtime)
    _remove(folder, *(file for file, name in _RUNS.items() if name == runtime))
    log(f"ship: no files for {runtime}: {reason}")
    return _record(context, f"files for {runtime}", f"files for {other} alone", reason)


def _remove(folder: Path, *files: str) -> None:
    for file in files:
        for part in (file, file.removesuffix(".xml") + ".bin"):
            (folder / part).unlink(missing_ok=True)


def _golden(
    context: RunContext, ship: Package, measured: dict[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The measurements with how near each rounded file comes to the golden masks; what fails them is left out."""
    found, given = dict(measured), []
    for file in (file for file in measured if file not in (ONNX_FP32, IR_FP32)):
        try:
            test = self_test(ship, runner(ship, runtime=_RUNS[file], file=file))
        except ValueError as error:
            if context.recipe.strict:
                raise
            _remove(ship.folder, file)
            del found[file]
            log(f"ship: no {file}: {error}")
            given.append(_record(context, file, "the other files", str(error)))
            continue
        found[file] = {**found[file], "golden_pixels": test.pixels, "golden_dice": test.foreground_dice}
    if ONNX_INT8 in found and IR_INT8 in found:
        one, other = (golden_masks(ship, runtime, "int8") for runtime in ("openvino", "onnxruntime"))
        found[ONNX_INT8] |= {"golden_agreement": float((one == other).mean())}  # the device is compared with it
    return found, given


def _with_prompt(
    context: RunContext, folder: Path, prompt: Path, *, of: ModelCard, frames: np.ndarray
) -> list[dict[str, Any]]:
    """Adds the prompt input; where a runtime does not give its masks, removes it and returns the record of that."""
    card = stage_folder.read_card(prompt)
    try:
        put_prompt(folder, load_promptable(prompt), card, of=of, frames=list(frames[:GOLDEN]))
    except ValueError as error:
        if context.recipe.strict:
            raise
        shutil.rmtree(folder / "prompt", ignore_errors=True)
        log(f"ship: no prompt input: {error}")
        return [_record(context, "the prompt input", "masks without correction", str(error))]
    return []


def _record(context: RunContext, wanted: str, shipped: str, reason: str, *, remedy: str = _REMEDY) -> dict[str, Any]:
    """Something that the ship lacks, for its card."""
    return given_up(
        stage="ship",
        wanted=wanted,
        shipped=shipped,
        tried=[{"attempt": wanted, "dice": None, "refused": reason}],
        tolerance=context.recipe.tolerance,
        parent_dice=_parent(context)["dice"],
        remedy=remedy,
    )


def _seen_in_training(context: RunContext) -> np.ndarray:
    """Frames of both streams, uint8 [N, H, W, K]: what the device's frames are compared with."""
    stacks = [stack for stack in (context.slices.labelled, context.slices.unlabelled) if len(stack.image)]
    return np.concatenate([frames_of(stack, 500, seed=context.recipe.seed) for stack in stacks])


def _parent(context: RunContext) -> dict[str, Any]:
    return measured_of(context.folder("slim"), measured_on=context.slices.measured_on)


def _accuracy(context: RunContext, folder: Path, measured: dict[str, Any]) -> dict[str, Any]:
    """The card's measurements with those of the float files, each in the precision that its runtime chooses."""
    found = dict(measured)
    for file in (file for file in (ONNX_FP32, IR_FP32) if (folder / file).exists()):
        record = evaluation_record(runner(folder / file, runtime=_RUNS[file]), context.slices.val)
        found[file] = {**found.get(file, {}), **record, "drop": dice_drop(_parent(context)["dice"], record)}
        found[file]["runtime"] = _RUNS[file]
    return found


def _half(
    context: RunContext, folder: Path, frames: np.ndarray, masks: np.ndarray
) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    """Half precision beside float, under the same parity and gate; left out, on record, where it falls short."""
    found: dict[str, Any] = {}
    exact_graph = context.folder("int8") / ONNX_FP32  # there, whatever runtime the ship leaves out
    try:
        if (folder / ONNX_FP32).exists():
            to_float16(exact_graph, folder / ONNX_FP16)
        if (folder / IR_FP32).exists():
            export_openvino(exact_graph, folder / IR_FP16, weights="float16")
        for file in (file for file in (ONNX_FP16, IR_FP16) if (folder / file).exists()):
            runtime, what = _RUNS[file], f"{file} on {_RUNS[file]}"
            exact = runner(folder / file, runtime=runtime, precision="f32")
            same = check_agreement(masks, exact(frames), least=PARITY, what=what, hint="to float")
            record = evaluation_record(runner(folder / file, runtime=runtime), context.slices.val)
            refused = gate_failure(_parent(context), record, tolerance=context.recipe.tolerance, what=what)
            if refused:
                raise ValueError(refused)
            found[file] = {
                **record,
                "drop": dice_drop(_parent(context)["dice"], record),
                "runtime": runtime,
                "agreement": same,
            }
    except ValueError as error:
        reason = error.reason if isinstance(error, GateError) else str(error)
        log(f"ship: no half precision: {reason}")
        _remove(folder, ONNX_FP16, IR_FP16)
        return {}, (_record(context, "half precision", "the other files", reason, remedy="a larger tolerance"),)
    dice = ", ".join(f"{record['dice']:.4f} on {record['runtime']}" for record in found.values())
    log(f"ship: half precision, Dice {dice}")
    return found, ()


def _timed(context: RunContext, ship: Package, frames: np.ndarray) -> tuple[dict[str, Any], ...]:
    """Every runtime, file and precision that passed its gate, in turns; the card marks the fastest."""
    calls: dict[tuple[str, str, str | None], ModelRunner] = {}
    for file, runtime in _RUNS.items():
        if file not in ship.card.measured:
            continue
        exact = ("f32",) if file == IR_FP32 else ()  # compared with torch, also where bf16 is the default
        for precision in (None, *exact):
            refused = "" if precision else _refused(context, file, ship.card.measured[file])
            try:
                made = runner(ship, runtime=runtime, file=file, precision=precision)
            except ValueError as error:
                refused = refused or str(error)
            if refused:
                log(f"ship: {refused}; `runner` will not choose it")
            else:
                calls[runtime, file, precision] = made
    options = context.recipe.bench
    few = replace(
        QUICK,
        iterations=min(QUICK.iterations, options.iterations),
        rounds=min(QUICK.rounds, options.rounds),
        block_ms=min(QUICK.block_ms, options.block_ms),
    )
    if not calls:
        return ()
    records = latency_records(calls, frames[:16], few, device=str(describe().get("cpu", "")))
    if records and records[0]["undecided"]:
        busy = records[0]["foreign_cores"]
        log(
            f"ship: other processes used {busy:.1f} cores while files were timed; which is the quickest stays "
            "undecided, and each device finds out for itself"
        )
    for record in records if not (records and records[0]["undecided"]) else ():
        if record["fastest"]:
            others = [r for r in records if r["runtime"] == record["runtime"] and r is not record]
            second = (
                f", {others[0]['ratio'] / record['ratio']:.2f} times as fast as {_named(others[0])}" if others else ""
            )
            log(f"ship: quickest on {record['runtime']}: {_named(record)}, {record['p50_ms']:.2f} ms{second}")
    return records


def _refused(context: RunContext, file: str, found: dict[str, Any]) -> str:
    """Why the gate refuses the file, in the precision that its runtime chooses; empty if it does not."""
    return gate_failure(_parent(context), found, tolerance=context.recipe.tolerance, what=f"{file} on {_RUNS[file]}")


def _named(record: dict[str, Any]) -> str:
    return f"{record['file']} ({record['precision']})"
