"""The folder that goes to the device: graphs, card and golden frames, checked before it gets its name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.export import export_openvino
from deploy.fastest import QUICK, latency_records
from deploy.gate import agree
from deploy.half import halve
from deploy.inputs import write_inputs
from deploy.machine import describe
from deploy.prompt_ship import put_prompt
from deploy.runners import GraphRunner
from deploy.runtime import runner
from deploy.ship import Ship, self_test, write_golden
from edgemt import artefact
from edgemt.doctor import golden_masks
from edgemt.quantizing import FLOAT, FLOAT_IR, SMALL, SMALL_IR, frames_of, judged
from edgemt.second_teacher import load_promptable
from edgemt.training import FORMAT, drop, fits
from edgemt.workspace import measured_of, record_of

if TYPE_CHECKING:
    from edgemt.workspace import Run

PARITY = 0.999  # share of pixels that two runtimes must agree on, at the same precision
GOLDEN = 4  # frames that go along for the device's self-test
HALF, HALF_IR = "model.fp16.onnx", "openvino/model.fp16.xml"
_BUSY = 0.5  # cores of others that make a choice doubtful
_RUNS = {
    SMALL_IR: "openvino",
    FLOAT_IR: "openvino",
    HALF_IR: "openvino",
    SMALL: "onnxruntime",
    FLOAT: "onnxruntime",
    HALF: "onnxruntime",
}


def ship(at: Run) -> Path:
    """One folder to copy: graphs, card and golden frames. Refused when two runtimes give different masks."""
    source, folder = at.folder("int8"), at.folder("ship")
    parent, prompt = artefact.read_card(source), _prompt_input(at)
    parents = (artefact.identity(source), *([artefact.identity(prompt)] if prompt else []))
    inputs = {"format": FORMAT, "tolerance": at.recipe.tolerance, "training data": at.files}
    inputs |= {"validation list": at.list_key, "parents": dict(zip(("int8", "promptable"), parents, strict=False))}
    key = artefact.key_of(inputs)
    if fits(at, "ship", inputs):
        at.say("ship: stands")
        return folder
    with artefact.staged(folder, overwrite=at.overwrite) as working:
        for file in parent.files:
            (working / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, working / file)
        (working / "curves.json").unlink(missing_ok=True)
        frames = at.val.frames[np.linspace(0, len(at.val.frames) - 1, min(64, len(at.val.frames))).astype(int)]
        masks = parity(at, working, frames)
        for index in np.linspace(0, len(frames) - 1, min(GOLDEN, len(frames))).astype(int):
            write_golden(working, f"frame{index:03d}", frame=frames[index], mask=masks[index])
        write_inputs(working, _seen_in_training(at))
        if prompt is not None:
            put_prompt(
                working, load_promptable(prompt), artefact.read_card(prompt), of=parent, frames=list(frames[:GOLDEN])
            )
        measured = _accuracy(at, working, parent.measured) | _half(at, working, frames, masks)
        card = replace(parent, stage="ship", parents=parents, recipe_hash=key, measured=measured, created="")
        opened = Ship(working, artefact.write_card(working, card))
        for file in (file for file in measured if file not in (FLOAT, FLOAT_IR)):
            test = self_test(opened, runner(opened, runtime=_RUNS[file], file=file))
            measured[file] = {**measured[file], "golden_pixels": test.pixels, "golden_dice": test.foreground}
        if SMALL in measured:
            one, other = (golden_masks(opened, runtime, "int8") for runtime in ("openvino", "onnxruntime"))
            measured[SMALL] |= {"golden_agreement": float((one == other).mean())}  # the device is held to it
        latency = _timed(at, replace(opened, card=replace(opened.card, measured=measured)), frames)
        artefact.write_card(working, replace(card, measured=measured, latency=latency))
    at.say(f"ship: {folder} is ready to copy")
    return folder


def _prompt_input(at: Run) -> Path | None:
    """The small promptable network of the run, where it looks at the frames that the student looks at."""
    folder = at.folder("promptable")
    if not (folder / "card.json").is_file() or at.recipe.data.slices > 1:
        return None
    return folder if artefact.read_card(folder).patch is None else None


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


def _parent(at: Run) -> dict[str, Any]:
    return measured_of(at.folder("slim"), measured_on=at.measured_on)


def _accuracy(at: Run, folder: Path, measured: dict[str, Any]) -> dict[str, Any]:
    """The card's measurements with those of the float files, as each runtime likes to run them."""
    found = dict(measured)
    for file in (FLOAT, FLOAT_IR):
        record = record_of(runner(folder / file, runtime=_RUNS[file]), at.val)
        found[file] = {**found.get(file, {}), **record, "drop": drop(_parent(at)["dice"], record)}
        found[file]["runtime"] = _RUNS[file]
    return found


def _half(at: Run, folder: Path, frames: np.ndarray, masks: np.ndarray) -> dict[str, Any]:
    """Half precision beside float, held to the same parity and gate; left out in one line where it falls short."""
    found: dict[str, Any] = {}
    try:
        halve(folder / FLOAT, folder / HALF)
        export_openvino(folder / FLOAT, folder / HALF_IR, weights="float16")
        for file in (HALF, HALF_IR):
            runtime, what = _RUNS[file], f"{file} on {_RUNS[file]}"
            exact = runner(folder / file, runtime=runtime, precision="f32")
            same = agree(masks, exact(frames), least=PARITY, what=what, knob="to float")
            record = record_of(runner(folder / file, runtime=runtime), at.val)
            refused = judged(_parent(at), record, tolerance=at.recipe.tolerance, what=what)
            if refused:
                raise ValueError(refused)
            found[file] = {**record, "drop": drop(_parent(at)["dice"], record), "runtime": runtime, "agreement": same}
    except ValueError as error:
        at.say(f"ship: no half precision: {str(error).partition('; nothing was written')[0]}")
        for file in (HALF, HALF_IR, HALF_IR.removesuffix(".xml") + ".bin"):
            (folder / file).unlink(missing_ok=True)
        return {}
    at.say(
        f"ship: half precision, Dice {found[HALF]['dice']:.4f} on onnxruntime, {found[HALF_IR]['dice']:.4f} on openvino"
    )
    return found


def _timed(at: Run, ship: Ship, frames: np.ndarray) -> tuple[dict[str, Any], ...]:
    """Every runtime, file and precision that passed its gate, in turns; the card says which was the quickest."""
    calls: dict[tuple[str, str, str | None], GraphRunner] = {}
    for file, runtime in _RUNS.items():
        if file not in ship.card.measured:
            continue
        exact = ("f32",) if file == FLOAT_IR else ()  # held to parity, whatever bf16 does
        for precision in (None, *exact):
            refused = "" if precision else _refused(at, file, ship.card.measured[file])
            try:
                made = runner(ship, runtime=runtime, file=file, precision=precision)
            except ValueError as error:
                refused = refused or str(error)
            if refused:
                at.say(f"ship: {refused}; `runner` will not choose it")
            else:
                calls[runtime, file, precision] = made
    asked = at.recipe.bench
    few = replace(
        QUICK,
        iterations=min(QUICK.iterations, asked.iterations),
        rounds=min(QUICK.rounds, asked.rounds),
        block_ms=min(QUICK.block_ms, asked.block_ms),
    )
    records = latency_records(calls, frames[:16], few, device=str(describe().get("cpu", "")))
    if (busy := records[0]["foreign_cores"] if records else None) and busy > _BUSY:
        at.say(
            f"ship: others used {busy:.1f} cores while files were timed; `edgemt bench` on a quiet machine knows better"
        )
    for record in records:
        if record["fastest"]:
            others = [r for r in records if r["runtime"] == record["runtime"] and r is not record]
            second = (
                f", {others[0]['ratio'] / record['ratio']:.2f} times as fast as {_named(others[0])}" if others else ""
            )
            at.say(f"ship: quickest on {record['runtime']}: {_named(record)}, {record['p50_ms']:.2f} ms{second}")
    return records


def _refused(at: Run, file: str, found: dict[str, Any]) -> str:
    """Why the file, as its runtime likes to run it, is no choice; empty if it is one."""
    return judged(_parent(at), found, tolerance=at.recipe.tolerance, what=f"{file} on {_RUNS[file]}")


def _named(record: dict[str, Any]) -> str:
    return f"{record['file']} ({record['precision']})"
