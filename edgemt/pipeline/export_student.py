"""An entry of the zoo with float graphs beside its INT8; INT8 anew where there are frames to calibrate it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from deploy.export import export_onnx, export_openvino, write_graph
from deploy.graph_tail import with_tail_of
from deploy.package.files import IR_FP32, IR_INT8, ONNX_FP32, ONNX_INT8
from deploy.package.golden import self_test, write_golden
from deploy.package.input_drift import INPUTS, write_inputs
from deploy.package.package import Package, open_package
from deploy.quantization.accuracy_gate import check_agreement, gate, gate_classes
from deploy.runtimes.load import runner
from deploy.runtimes.registry import RUNTIME_OF
from edgemt.artefacts import network_folder, stage_folder
from edgemt.contract import UncertaintySource
from edgemt.inference.doctor import int8_agreement
from edgemt.model_card import FileMetrics, ModelCard
from edgemt.pipeline.package_steps import PARITY
from edgemt.pipeline.recipe import Recipe
from edgemt.pipeline.zoo_graphs import Say, representative_frames
from edgemt.zoo.entry import Entry, open_entry
from edgemt.zoo.synthetic_frames import frames_for, masks_of

_OF_AN_ENTRY = frozenset({"data", "int8", "tolerance", "seed", "threads", "uncertainty"})  # fields of a recipe


def export(target: str | Path, *, out: Path | None = None, recipe: Recipe | None = None, say: Say = print) -> Path:
    """Write the ship folder of `zoo/NAME` (or of a folder that `edgemt pack` wrote) to `out`; returns it.

    Golden frames are synthetic; torch, ONNX Runtime and OpenVINO must give the same masks on such frames. The card's
    accuracy is the entry's, measured where it was trained, and so are its INT8 graph and input statistics. With a
    `recipe` that has frames, INT8 is calibrated on its images instead, and judged on its validation list. With its
    `uncertainty` "softmax" every graph has that second output; an INT8 graph of the entry gets it behind its logits.
    Raises ValueError in one line for a refused entry, a folder that holds something else, and files that fall short.
    """
    entry = open_entry(target)
    folder = (out or Path("runs") / entry.folder.name / "ship").resolve()
    uncertainty: UncertaintySource = recipe.uncertainty if recipe else "head"
    calibration = recipe if recipe is not None and has_frames(recipe) else None
    recipe_part = (calibration.data, calibration.int8, calibration.tolerance, calibration.seed) if calibration else None
    parts = [*([recipe_part] if recipe_part else []), *([uncertainty] if uncertainty != "head" else [])]
    key = stage_folder.key_of("zoo", entry.identity, entry.card.files, *parts)
    _may_replace(folder)
    if folder.exists() and stage_folder.stands(folder, key=key):
        say(f"{folder}: stands")
        return folder
    card, network = entry.card, network_folder.load_network(entry.folder)
    with stage_folder.staged(folder) as working:
        export_onnx(
            network, working / ONNX_FP32, size=card.size, channels=card.channels, normalise=card.normalise,
            uncertainty=uncertainty,
        )  # fmt: skip
        export_openvino(working / ONNX_FP32, working / IR_FP32)
        frames = frames_for(card, count=16)
        masks = masks_of(network, card, frames)
        measured = _parity(working, entry, frames, masks, say=say)
        if calibration is not None:
            measured |= _int8(working, entry, calibration, say=say)
        else:
            measured |= _carried(working, entry, uncertainty, say=say)
        for number, index in enumerate(representative_frames(masks, classes=len(card.classes))):
            write_golden(working, f"synthetic{number}", frame=frames[index], mask=masks[index])
        finished = replace(card, stage="ship", parents=(entry.identity,), recipe_hash=key, measured=measured)
        finished = replace(finished, files={}, latency=())
        opened = Package(working, stage_folder.write_card(working, finished))
        for file in measured:
            test = self_test(opened, runner(opened, runtime=RUNTIME_OF[file], file=file, tested=False))
            measured[file] = replace(measured[file], golden_pixels=test.pixels, golden_dice=test.foreground_dice)
        if ONNX_INT8 in measured:
            measured[ONNX_INT8] = replace(measured[ONNX_INT8], golden_agreement=int8_agreement(opened))
        stage_folder.write_card(working, replace(finished, measured=measured))
    say(f"{folder} is ready to copy; {entry.facts['terms']}")
    return folder


def recipe_for(target: str | Path, flags: Sequence[str]) -> Recipe | None:
    """A recipe for frames like the entry's, found by the user's flags; None where there are no flags.

    Raises ValueError for flags that change nothing of an entry, and for those that need frames where there are none.
    """
    from edgemt.data.options import DataOptions
    from edgemt.pipeline.overrides import override
    from edgemt.pipeline.unused_options import check_flags

    entry = open_entry(target)
    if not flags:
        return None
    elsewhere = {"root": None, "layout": "auto", "labelled": "", "unlabelled": "", "val": ""}
    before = Recipe(name=entry.folder.name, data=DataOptions.from_dict({**entry.card.data, **elsewhere}))
    recipe = override(before, flags, prog=f"edgemt export {target}")
    changed = {of.name for of in fields(Recipe) if getattr(recipe, of.name) != getattr(before, of.name)}
    if others := sorted(changed - _OF_AN_ENTRY):
        raise ValueError(f"{entry.name}: is trained; leave the flags of {', '.join(others)} away")
    if changed - {"uncertainty", "threads"} and not has_frames(recipe):
        raise ValueError(f"{entry.name}: INT8 takes frames to calibrate and judge it; add --data.root DIR")
    check_flags(recipe, flags)
    margins = ("calibration", "calibration_share")
    if any(getattr(recipe.data, name) != getattr(before.data, name) for name in margins):
        raise ValueError(f"{entry.name}: edgemt calibrate fits margins of a ship; leave data.calibration away")
    if replace(recipe.int8, images=before.int8.images) != before.int8:
        raise ValueError(
            f"{entry.name}: of int8 only int8.images counts, an entry has no teacher; leave the others away"
        )
    fixed = (recipe.data.size, recipe.data.frame_channels, recipe.data.classes)
    if fixed != (entry.card.size, entry.card.channels, entry.card.classes):
        raise ValueError(f"{entry.name}: its size, channels and classes are fixed; leave those --data flags away")
    return recipe


def has_frames(recipe: Recipe) -> bool:
    """Whether the recipe names images to calibrate and judge INT8."""
    return recipe.data.root is not None or recipe.data.layout == "phantom"


def _parity(working: Path, entry: Entry, frames: np.ndarray, masks: np.ndarray, *, say: Say) -> dict[str, FileMetrics]:
    """The entry's accuracy for each float file, once the file is shown to give the masks of the entry in torch."""
    measured = {}
    for file in (ONNX_FP32, IR_FP32):
        made = runner(working / file, runtime=RUNTIME_OF[file], precision="f32")
        what = f"{file} on {RUNTIME_OF[file]}"
        same = check_agreement(masks, made(frames), least=PARITY, what=what, hint="to another version of the runtime")
        say(f"{what} agrees with torch on {same:.3%} of pixels")
        measured[file] = replace(entry.measured, runtime=RUNTIME_OF[file], measured_in="torch", agreement=same)
    return measured


def _carried(working: Path, entry: Entry, uncertainty: UncertaintySource, *, say: Say) -> dict[str, FileMetrics]:
    """The INT8 graph and the input statistics that the entry carries, copied, and what is on its card of INT8.

    With "softmax" the graph ends as the float one does; its masks are the same, to the pixel.
    """
    if entry.card.files.keys() & {ONNX_INT8, INPUTS}:
        opened = open_package(entry.folder, trusted="")  # all of its files, not the weights alone
        for file in opened.card.files.keys() & {ONNX_INT8, INPUTS}:
            shutil.copyfile(opened.path(file), working / file)
    if ONNX_INT8 not in entry.card.files:
        say(f"no INT8: it takes frames to calibrate and judge it; add --data.root DIR ({entry.name} once had them)")
        return {}
    if uncertainty == "softmax":
        with_softmax(working / ONNX_INT8, working / ONNX_FP32)
        say("int8 with the uncertainty behind its logits; how well it finds wrong pixels: edgemt eval on your frames")
    export_openvino(working / ONNX_INT8, working / IR_INT8)
    metrics = replace(entry.card.measured[ONNX_INT8].without_golden(), dice_on={})
    return {file: replace(metrics, runtime=RUNTIME_OF[file]) for file in (ONNX_INT8, IR_INT8)}


def with_softmax(int8: Path, floats: Path) -> None:
    """Give the INT8 file the outputs of the float file of the same student, in place."""
    import onnx

    write_graph(with_tail_of(onnx.load(str(int8)), onnx.load(str(floats)), source=int8), int8)


def _int8(working: Path, entry: Entry, recipe: Recipe, *, say: Say) -> dict[str, FileMetrics]:
    """INT8 files that pass the accuracy gates against the float file on the recipe's own validation list."""
    from deploy.quantization.int8 import quantize
    from edgemt.inference.evaluate import evaluation_record
    from edgemt.pipeline.accuracy import class_dice, dice_figure, dice_text, uncertainty_failure, with_source
    from edgemt.pipeline.quantize import frames_of
    from edgemt.pipeline.run_context import open_run

    slices = open_run(recipe, working).slices
    stack = slices.unlabelled if len(slices.unlabelled.image) else slices.labelled
    frames = frames_of(stack, recipe.int8.images, seed=recipe.seed)
    quantize(working / ONNX_FP32, working / ONNX_INT8, calibration=(f[None] for f in frames), frames=len(frames))
    export_openvino(working / ONNX_INT8, working / IR_INT8)
    write_inputs(working, np.concatenate([frames_of(s, 500, seed=recipe.seed) for s in (slices.labelled, stack)]))
    before = evaluation_record(runner(working / ONNX_FP32, runtime="onnxruntime"), slices.val)
    cases_of = "" if recipe.data.val == entry.card.data.get("val") else f"{len(slices.val)} cases of its own"
    measured = {}
    for file in (ONNX_INT8, IR_INT8):
        found = evaluation_record(runner(working / file, runtime=RUNTIME_OF[file]), slices.val)
        say(f"int8 on {RUNTIME_OF[file]}: {dice_text(found)} on these cases, in float {dice_figure(before)}")
        allowed: dict[str, Any] = {
            "tolerance": recipe.tolerance,
            "what": f"{entry.name} in INT8 on {RUNTIME_OF[file]}",
            "hint": "int8.images up",
        }
        if refused := uncertainty_failure(before, found, what=f"{entry.name} in INT8 on {RUNTIME_OF[file]}"):
            raise ValueError(f"{refused}; nothing was written; leave --uncertainty away")
        found = with_source(found, recipe.uncertainty)
        lost = gate(before.dice, found.dice, **allowed)
        gate_classes(class_dice(before), class_dice(found), **allowed)
        measured[file] = replace(found, drop=lost, runtime=RUNTIME_OF[file], cases_of=cases_of)
    return measured


def _may_replace(folder: Path) -> None:
    """Raises ValueError for a folder with anything in it but a ship: it would be lost."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; --out names a folder")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / "card.json").exists() or _stage_of(folder) != "ship":
        raise ValueError(f"{folder}: holds something else than a ship; give another --out")


def _stage_of(folder: Path) -> str:
    card: ModelCard = stage_folder.read_card(folder)
    return card.stage
