"""The folder that goes to the device: graphs, card and golden frames, checked before it gets its name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.gate import agree
from deploy.inputs import write_inputs
from deploy.runtime import runner
from deploy.ship import Ship, self_test, write_golden
from edgemt import artefact
from edgemt.doctor import golden_masks
from edgemt.quantizing import frames_of
from edgemt.training import drop
from edgemt.workspace import record_of

if TYPE_CHECKING:
    from edgemt.workspace import Run

PARITY = 0.999  # share of pixels that two runtimes must agree on, at the same precision
GOLDEN = 4  # frames that go along for the device's self-test
FLOAT, SMALL = "model.onnx", "model.int8.onnx"
FLOAT_IR, SMALL_IR = "openvino/model.xml", "openvino/model.int8.xml"


def ship(at: Run) -> Path:
    """One folder to copy: graphs, card and golden frames. Refused when two runtimes give different masks."""
    source, folder = at.folder("int8"), at.folder("ship")
    parents = (artefact.identity(source),)
    key = artefact.key_of("ship", parents)
    if artefact.stands(folder, key=key):
        at.say("ship: stands")
        return folder
    parent = artefact.read_card(source)
    with artefact.staged(folder) as working:
        for file in parent.files:
            (working / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, working / file)
        (working / "curves.json").unlink(missing_ok=True)
        frames = at.val.frames[np.linspace(0, len(at.val.frames) - 1, min(64, len(at.val.frames))).astype(int)]
        masks = parity(at, working, frames)
        for index in np.linspace(0, len(frames) - 1, min(GOLDEN, len(frames))).astype(int):
            write_golden(working, f"frame{index:03d}", frame=frames[index], mask=masks[index])
        write_inputs(working, _seen_in_training(at))
        measured = {**parent.measured, **_float_accuracy(at, working)}
        card = replace(parent, stage="ship", parents=parents, recipe_hash=key, measured=measured, created="")
        opened = Ship(working, artefact.write_card(working, card))
        for runtime, file in (("openvino", SMALL_IR), ("onnxruntime", SMALL)):
            test = self_test(opened, runner(opened, runtime=runtime, file=file))
            measured[file] = {**measured[file], "golden_pixels": test.pixels, "golden_dice": test.foreground}
        one, other = (golden_masks(opened, runtime, "int8") for runtime in ("openvino", "onnxruntime"))
        measured[SMALL] |= {"golden_agreement": float((one == other).mean())}  # the device is held to it
        artefact.write_card(working, replace(card, measured=measured))
    at.say(f"ship: {folder} is ready to copy")
    return folder


def parity(at: Run, folder: Path, frames: np.ndarray) -> np.ndarray:
    """The float masks, after checking that torch, ONNX Runtime and OpenVINO agree on real images."""
    expected = at.predict(artefact.load_network(at.folder("slim")))(frames)
    for runtime, file in (("onnxruntime", FLOAT), ("openvino", FLOAT_IR)):
        made = runner(folder / file, runtime=runtime, precision="f32")
        what = f"{file} on {runtime}"
        same = agree(expected, made(frames), least=PARITY, what=what, knob="to another encoder or decoder")
        at.say(f"ship: {what} agrees with torch on {same:.3%} of pixels")
    return expected


def _seen_in_training(at: Run) -> np.ndarray:
    """Frames of both streams, uint8 [N, H, W, K]: what the device's frames are compared with."""
    stacks = [stack for stack in (at.labelled, at.unlabelled) if len(stack.image)]
    return np.concatenate([frames_of(stack, 500, seed=at.recipe.seed) for stack in stacks])


def _float_accuracy(at: Run, folder: Path) -> dict[str, Any]:
    before = artefact.read_card(at.folder("slim")).measured[artefact.WEIGHTS]["dice"]
    found = {}
    for file, runtime in ((FLOAT, "onnxruntime"), (FLOAT_IR, "openvino")):
        record = record_of(runner(folder / file, runtime=runtime), at.val)
        found[file] = {**record, "drop": drop(before, record), "runtime": runtime}
    return found
