"""The folder that goes to the device: graphs, card and golden frames, checked before it gets its name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.gate import agree
from deploy.runtime import runner
from deploy.ship import Ship, self_test, write_golden
from edgemt import artefact
from edgemt.contract import Card
from edgemt.evaluate import evaluate
from edgemt.training import measurement

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
        measured = {**parent.measured, **_float_accuracy(at, working, parent)}
        card = replace(parent, stage="ship", parents=parents, recipe_hash=key, measured=measured, created="")
        opened = Ship(working, artefact.write_card(working, card))
        for runtime, file in (("openvino", SMALL_IR), ("onnxruntime", SMALL)):
            test = self_test(opened, runner(opened, runtime=runtime, file=file))
            measured[file] = {**measured[file], "golden_pixels": test.pixels, "golden_dice": test.foreground}
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


def _float_accuracy(at: Run, folder: Path, parent: Card) -> dict[str, Any]:
    scores = evaluate(runner(folder / FLOAT, runtime="onnxruntime"), at.val, distances=True)
    before = artefact.read_card(at.folder("slim")).measured[artefact.WEIGHTS]["dice"]
    return {
        FLOAT: measurement(scores, before, "onnxruntime"),
        FLOAT_IR: measurement(
            evaluate(runner(folder / FLOAT_IR, runtime="openvino"), at.val, distances=True),
            before,
            "openvino",
        ),
    }
