"""The steps of the ship stage, in the order of this file. Each takes the `Draft` and adds files and figures to it.

Shapes: N frames, H W their size, K channels.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.export import export_openvino
from deploy.package.files import IR_FP16, IR_FP32, IR_INT8, ONNX_FP16, ONNX_FP32, ONNX_INT8
from deploy.package.golden import self_test, write_golden
from deploy.package.input_drift import write_inputs
from deploy.package.package import Package
from deploy.promptable.add_to_package import put_prompt
from deploy.quantization.accuracy_gate import GateError, check_agreement
from deploy.quantization.float16 import to_float16
from deploy.runtimes.load import runner
from deploy.runtimes.registry import RUNTIME_OF
from edgemt.artefacts import network_folder, stage_folder
from edgemt.inference.doctor import int8_agreement
from edgemt.inference.evaluate import evaluation_record
from edgemt.model_card import FileMetrics, ModelCard
from edgemt.pipeline.accuracy import dice_drop, dice_text, gate_failure, measured_of, with_source
from edgemt.pipeline.fallback import given_up
from edgemt.pipeline.log import log
from edgemt.pipeline.quantize import frames_of
from edgemt.pipeline.slice_data import evenly_spaced
from edgemt.pipeline.stage import remove_leftovers

if TYPE_CHECKING:
    from edgemt.pipeline.run_context import RunContext

PARITY = 0.999  # fraction of pixels that two runtimes must agree on, at the same precision
GOLDEN = 4  # frames that go along for the device's self-test
_NUM_COMPARED = 64  # validation frames on which files are compared with torch
_FLOAT = (ONNX_FP32, IR_FP32)
_HALF = (ONNX_FP16, IR_FP16)
_REMEDY = "another student.network or student.decoder, or another version of the runtime"


@dataclass
class Draft:
    """A package while it is made: its folder, and what the steps have found so far."""

    context: RunContext
    folder: Path
    source: ModelCard  # of the int8 stage
    frames: np.ndarray  # uint8 [N, H, W, K], of the validation list
    masks: np.ndarray  # uint8 [N, H, W], of the pruned student in torch
    measured: dict[str, FileMetrics]  # of the files that passed
    given_up: list[dict[str, Any]] = field(default_factory=list)
    incomplete: bool = False  # lacks what a strict recipe requires

    @cached_property
    def parent(self) -> FileMetrics:
        """The metrics of the pruned student."""
        return measured_of(self.context.folder("slim"), measured_on=self.context.slices.measured_on)

    def has(self, file: str) -> bool:
        return (self.folder / file).exists()

    def card(self) -> ModelCard:
        """The card as far as it is known."""
        records = (*self.source.given_up, *self.given_up)
        return replace(self.source, stage="ship", measured=self.measured, given_up=records, created="")

    def package(self) -> Package:
        """The package with a preliminary card, for a runner."""
        return Package(self.folder, stage_folder.write_card(self.folder, self.card()))

    def failure(self, metrics: FileMetrics, file: str) -> str:
        """Why the accuracy gates refuse a file on its runtime; empty if they do not."""
        tolerance = self.context.recipe.tolerance
        return gate_failure(self.parent, metrics, tolerance=tolerance, what=f"{file} on {RUNTIME_OF[file]}")

    def leave_out(self, wanted: str, shipped: str, reason: str, *files: str, remedy: str = _REMEDY) -> None:
        """Remove files that failed a check, and record for the card what ships instead of them."""
        for file in files:
            (self.folder / file).unlink(missing_ok=True)
            (self.folder / file).with_suffix(".bin").unlink(missing_ok=True)  # weights of an OpenVINO graph
            self.measured.pop(file, None)
        self.given_up.append(
            given_up(
                stage="ship",
                wanted=wanted,
                shipped=shipped,
                tried=[{"attempt": wanted, "dice": None, "refused": reason}],
                tolerance=self.context.recipe.tolerance,
                parent_dice=self.parent.dice,
                remedy=remedy,
            )
        )


def copy_graphs(context: RunContext, folder: Path) -> Draft:
    """Copy the graphs of the int8 stage, and predict the masks that every file must give."""
    source = context.folder("int8")
    card = stage_folder.read_card(source)
    remove_leftovers(folder)  # perhaps files that this package lacks
    for file in card.files:
        if file != stage_folder.CURVES:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, folder / file)
    frames = evenly_spaced(context.slices.val.frames, _NUM_COMPARED)
    masks = context.slices.predict(network_folder.load_network(context.folder("slim")))(frames)
    return Draft(context, folder, card, frames, masks, dict(card.measured))


def compare_with_torch(draft: Draft) -> None:
    """Leave out the files of a runtime whose float masks are not those of torch.

    Raises GateError when no runtime is left, and with `strict` for the first one.
    """
    refused: dict[str, GateError] = {}
    for file in _FLOAT:
        runtime, what = RUNTIME_OF[file], f"{file} on {RUNTIME_OF[file]}"
        masks = runner(draft.folder / file, runtime=runtime, precision="f32")(draft.frames)
        try:
            same = check_agreement(draft.masks, masks, least=PARITY, what=what, hint="to another encoder or decoder")
            log(f"ship: {what} agrees with torch on {same:.3%} of pixels")
        except GateError as error:
            if draft.context.recipe.strict:
                raise
            refused[runtime] = error
    if len(refused) == len(_FLOAT):
        raise next(iter(refused.values()))
    for runtime, refusal in refused.items():
        other = next(RUNTIME_OF[file] for file in _FLOAT if RUNTIME_OF[file] != runtime)
        files = [file for file, name in RUNTIME_OF.items() if name == runtime]
        log(f"ship: no files for {runtime}: {refusal.reason}")
        draft.leave_out(f"files for {runtime}", f"files for {other} alone", refusal.reason, *files)
        draft.incomplete = True


def write_golden_frames(draft: Draft) -> None:
    """A few frames with their masks, for the self-test on the device."""
    for index in np.linspace(0, len(draft.frames) - 1, min(GOLDEN, len(draft.frames))).astype(int):
        write_golden(draft.folder, f"frame{index:03d}", frame=draft.frames[index], mask=draft.masks[index])


def write_input_statistics(draft: Draft) -> None:
    """Statistics of the training frames of both streams, which the frames of the device are compared with."""
    slices, seed = draft.context.slices, draft.context.recipe.seed
    streams = [stream for stream in (slices.labelled, slices.unlabelled) if len(stream.image)]
    write_inputs(draft.folder, np.concatenate([frames_of(stream, 500, seed=seed) for stream in streams]))


def add_prompt(draft: Draft, promptable: Path) -> None:
    """Add the promptable network; left out where a runtime does not give its masks."""
    network, card = network_folder.load_promptable(promptable), stage_folder.read_card(promptable)
    try:
        put_prompt(draft.folder, network, card, of=draft.card(), frames=list(draft.frames[:GOLDEN]))
    except ValueError as error:
        if draft.context.recipe.strict:
            raise
        shutil.rmtree(draft.folder / "prompt", ignore_errors=True)
        log(f"ship: no prompt input: {error}")
        draft.leave_out("the prompt input", "masks without correction", str(error))
        draft.incomplete = True


def measure_float_files(draft: Draft) -> None:
    """Measure the float files, each in the precision that its runtime chooses."""
    for file in filter(draft.has, _FLOAT):
        runtime = RUNTIME_OF[file]
        metrics = evaluation_record(runner(draft.folder / file, runtime=runtime), draft.context.slices.val)
        quantization = draft.measured[file].quantization if file in draft.measured else None
        drop, metrics = dice_drop(draft.parent.dice, metrics), with_source(metrics, draft.context.recipe.uncertainty)
        draft.measured[file] = replace(metrics, drop=drop, runtime=runtime, quantization=quantization)


def add_half_precision(draft: Draft) -> None:
    """Add float16 files beside the float ones; left out where one falls short of parity or accuracy."""
    exact_graph = draft.context.folder("int8") / ONNX_FP32  # there, whatever runtime the package leaves out
    try:
        if draft.has(ONNX_FP32):
            to_float16(exact_graph, draft.folder / ONNX_FP16)
        if draft.has(IR_FP32):
            export_openvino(exact_graph, draft.folder / IR_FP16, weights="float16")
        halves = {file: _measure_half(draft, file) for file in _HALF if draft.has(file)}
    except ValueError as error:
        reason = error.reason if isinstance(error, GateError) else str(error)
        log(f"ship: no half precision: {reason}")
        draft.leave_out("half precision", "the other files", reason, *_HALF, remedy="a larger tolerance")
        return
    draft.measured |= halves
    dice = ", ".join(f"{dice_text(metrics)} on {metrics.runtime}" for metrics in halves.values())
    log(f"ship: half precision, {dice}")


def _measure_half(draft: Draft, file: str) -> FileMetrics:
    """Raises GateError without parity, ValueError without accuracy."""
    runtime = RUNTIME_OF[file]
    masks = runner(draft.folder / file, runtime=runtime, precision="f32")(draft.frames)
    same = check_agreement(draft.masks, masks, least=PARITY, what=f"{file} on {runtime}", hint="to float")
    metrics = evaluation_record(runner(draft.folder / file, runtime=runtime), draft.context.slices.val)
    if refused := draft.failure(metrics, file):
        raise ValueError(refused)
    metrics = with_source(metrics, draft.context.recipe.uncertainty)
    return replace(metrics, drop=dice_drop(draft.parent.dice, metrics), runtime=runtime, agreement=same)


def compare_golden_frames(draft: Draft) -> None:
    """Measure how near each rounded file comes to the golden masks; what fails the self-test is left out."""
    package = draft.package()
    for file in [file for file in draft.measured if file not in _FLOAT]:
        try:
            test = self_test(package, runner(package, runtime=RUNTIME_OF[file], file=file))
        except ValueError as error:
            if draft.context.recipe.strict:
                raise
            log(f"ship: no {file}: {error}")
            draft.leave_out(file, "the other files", str(error), file)
            draft.incomplete = True
            continue
        metrics = replace(draft.measured[file], golden_pixels=test.pixels, golden_dice=test.foreground_dice)
        draft.measured[file] = metrics
    if ONNX_INT8 in draft.measured and IR_INT8 in draft.measured:  # the device is compared with it
        metrics = replace(draft.measured[ONNX_INT8], golden_agreement=int8_agreement(package))
        draft.measured[ONNX_INT8] = metrics
