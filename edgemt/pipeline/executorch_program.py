"""An ExecuTorch program of a student beside the other files of its ship: `edgemt export --format executorch`.

It is made from the student's weights, calibrated on the frames that the INT8 graph is calibrated on, and passes the
same accuracy gates on the validation list; it must give the masks of the same rounded network in torch on the golden
frames, and pass the self-test of the ship. Only the version of ExecuTorch that wrote it runs it.

Shapes: N frames, H W their size, K channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from deploy.export_executorch import export_executorch
from deploy.package.files import ONNX_FP32, PTE_INT8
from deploy.package.golden import golden_pairs, self_test
from deploy.package.package import Package, card_hash, changed_package, finalize, open_package
from deploy.quantization.accuracy_gate import GateError, as_number, check_agreement
from deploy.runtimes.executorch_backend import executorch_version
from deploy.runtimes.load import runner
from edgemt.artefacts import network_folder
from edgemt.inference.doctor import INT8_AGREEMENT
from edgemt.inference.evaluate import evaluation_record
from edgemt.model_card import FileMetrics
from edgemt.pipeline.accuracy import dice_drop, dice_text, gate_failure, measured_of
from edgemt.pipeline.quantize import frames_of
from edgemt.pipeline.recipe import Recipe
from edgemt.pipeline.run_context import RunContext, open_run
from edgemt.zoo.entry import open_entry

RUNTIME = "executorch"


@dataclass(frozen=True)
class Source:
    """The student that a program is made of."""

    network: nn.Module
    context: RunContext  # whose frames calibrate it, and whose validation list judges it
    parent: FileMetrics | None  # of the float network; None: measured here, with the ship's float graph


def of_run(recipe: Recipe, out: Path) -> Source:
    """The pruned student of the run in `out`."""
    context = open_run(recipe, out)
    folder = context.folder("slim")
    return Source(
        network_folder.load_network(folder), context, measured_of(folder, measured_on=context.slices.measured_on)
    )


def of_entry(target: str | Path, recipe: Recipe, out: Path) -> Source:
    """The student of a zoo entry, with frames of the recipe's data."""
    return Source(network_folder.load_network(open_entry(target).folder), open_run(recipe, out), None)


def add_program(ship: str | Path, source: Source, *, say: Callable[[str], None]) -> Package:
    """Add `PTE_INT8` to the package in `ship`, which is replaced atomically; a signature is removed.

    Raises ValueError (GateError where it was measured and refused), in one line and with the package unchanged, where
    ExecuTorch is not installed, the network cannot be exported, or the program falls short.
    """
    version, slices, recipe = executorch_version(), source.context.slices, source.context.recipe
    with changed_package(ship, what=RUNTIME) as (package, working):
        card, path = package.card, working / PTE_INT8
        stack = slices.unlabelled if len(slices.unlabelled.image) else slices.labelled
        frames = frames_of(stack, recipe.int8.images, seed=recipe.seed)
        say(f"{RUNTIME} {version}: calibrates on {len(frames)} frames and compiles")
        rounded = export_executorch(
            source.network,
            path,
            size=card.size,
            channels=card.channels,
            normalise=card.normalise,
            calibration=(frame[None] for frame in frames),
        )
        golden = np.concatenate([pair.frame for pair in golden_pairs(package)] or [frames[:1]])
        made = runner(path, runtime=RUNTIME)
        same = check_agreement(rounded(golden), made(golden), least=INT8_AGREEMENT, what=f"{PTE_INT8}", hint=_HINT)
        parent = source.parent or evaluation_record(runner(working / ONNX_FP32, runtime="onnxruntime"), slices.val)
        metrics = replace(judged(evaluation_record(made, slices.val), parent, recipe.tolerance), agreement=same)
        metrics = replace(metrics, bound_to=f"{RUNTIME} {version}")
        measured = {**card.measured, PTE_INT8: metrics}
        parents = (*card.parents, card_hash(card))
        opened = Package(working, finalize(working, replace(card, measured=measured, parents=parents, created="")))
        test = self_test(opened, runner(opened, runtime=RUNTIME, file=PTE_INT8))
        metrics = replace(metrics, golden_pixels=test.pixels, golden_dice=test.foreground_dice)
        finalize(working, replace(opened.card, measured={**measured, PTE_INT8: metrics}))
    say(
        f"{PTE_INT8}: {dice_text(metrics)}, in float {as_number(parent.dice):.4f}; {same:.3%} of golden pixels as in "
        f"torch; only {RUNTIME} {version} runs it"
    )
    return open_package(ship)


_HINT = "to another version of executorch"


def judged(found: FileMetrics, parent: FileMetrics, tolerance: float) -> FileMetrics:
    """The metrics of the program with its drop. Raises GateError where an accuracy gate refuses it."""
    what = f"{PTE_INT8} on {RUNTIME}"
    if refused := gate_failure(parent, found, tolerance=tolerance, what=what):
        raise GateError(
            f"{refused}; the ship is unchanged; turn int8.images up, or allow more with a larger tolerance",
            what=what,
            expected=as_number(parent.dice),
            measured=as_number(found.dice),
            tolerance=tolerance,
        )
    return replace(found, drop=dice_drop(parent.dice, found), runtime=RUNTIME)
