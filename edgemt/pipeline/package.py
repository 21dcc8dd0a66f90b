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
from deploy.package.golden import self_test, write_golden
from deploy.package.input_drift import write_inputs
from deploy.package.package import Ship
from deploy.promptable.add_to_package import put_prompt
from deploy.quantization.accuracy_gate import GateError, agree
from deploy.quantization.float16 import halve
from deploy.runtimes.load import runner
from deploy.runtimes.runner import GraphRunner
from edgemt.artefacts import network_folder, stage_folder
from edgemt.artefacts.network_folder import load_promptable
from edgemt.inference.doctor import golden_masks
from edgemt.pipeline.fallback import given_up
from edgemt.pipeline.quantize import FLOAT, FLOAT_IR, SMALL, SMALL_IR, frames_of, judged
from edgemt.pipeline.run_context import measured_of, record_of
from edgemt.pipeline.train import FORMAT, drop, fits

if TYPE_CHECKING:
    from edgemt.model_card import ModelCard
    from edgemt.pipeline.run_context import Run

PARITY = 0.999  # share of pixels that two runtimes must agree on, at the same precision
GOLDEN = 4  # frames that go along for the device's self-test
HALF, HALF_IR = "model.fp16.onnx", "openvino/model.fp16.xml"
_REMEDY = "another student.network or student.decoder, or another version of the runtime"
_RUNS = {
    SMALL_IR: "openvino",
    FLOAT_IR: "openvino",
    HALF_IR: "openvino",
    SMALL: "onnxruntime",
    FLOAT: "onnxruntime",
    HALF: "onnxruntime",
}


def ship(at: Run) -> Path:
    """One folder to copy: graphs, card and golden frames. What does not pass its check is left out, on record.

    Raises GateError when no runtime gives the masks of torch; with `strict`, when one of them does not.
    """
    source, folder = at.folder("int8"), at.folder("ship")
    parent, prompt = stage_folder.read_card(source), _prompt_input(at)
    parents = (stage_folder.identity(source), *([stage_folder.identity(prompt)] if prompt else []))
    inputs = {"format": FORMAT, "tolerance": at.recipe.tolerance, "training data": at.files}
    inputs |= {"validation list": at.list_key, "given up": parent.given_up}
    inputs |= {"parents": dict(zip(("int8", "promptable"), parents, strict=False))}
    key = stage_folder.key_of(inputs)
    partial_key = stage_folder.key_of("something left out", key)  # no ship for a strict recipe
    if not at.recipe.strict and stage_folder.stands(folder, key=partial_key):
        at.say("ship: stands")
        return folder
    if fits(at, "ship", inputs):
        at.say("ship: stands")
        return folder
    given: list[dict[str, Any]] = []
    with stage_folder.staged(folder, overwrite=at.overwrite) as working:
        for left in working.iterdir():  # of a run that was cut, perhaps with files that this ship lacks
            if not left.name.startswith("."):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        for file in parent.files:
            (working / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, working / file)
        (working / "curves.json").unlink(missing_ok=True)
        frames = at.val.frames[np.linspace(0, len(at.val.frames) - 1, min(64, len(at.val.frames))).astype(int)]
        masks, refused = parity(at, working, frames)
        given += [_without_runtime(at, working, runtime, reason) for runtime, reason in refused.items()]
        parent = replace(parent, measured={f: m for f, m in parent.measured.items() if (working / f).exists()})
        for index in np.linspace(0, len(frames) - 1, min(GOLDEN, len(frames))).astype(int):
            write_golden(working, f"frame{index:03d}", frame=frames[index], mask=masks[index])
        write_inputs(working, _seen_in_training(at))
        if prompt is not None:
            given += _with_prompt(at, working, prompt, of=parent, frames=frames)
        measured = _accuracy(at, working, parent.measured)
        halves, left_out = _half(at, working, frames, masks)
        measured |= halves
        card = replace(
            parent,
            stage="ship",
            parents=parents,
            measured=measured,
            given_up=(*parent.given_up, *given, *left_out),
            created="",
        )
        opened = Ship(working, stage_folder.write_card(working, card))
        measured, failed = _golden(at, opened, measured)
        own_key = partial_key if given or failed else key
        card = replace(card, recipe_hash=own_key, given_up=(*card.given_up, *failed))
        latency = _timed(at, replace(opened, card=replace(opened.card, measured=measured)), frames)
        stage_folder.write_card(working, replace(card, measured=measured, latency=latency))
    at.say(f"ship: {folder} is ready to copy")
    return folder


def _prompt_input(at: Run) -> Path | None:
    """The small promptable network of the run, where it looks at the frames that the student looks at."""
    folder = at.folder("promptable")
    if not (folder / "card.json").is_file() or at.recipe.data.slices > 1:
        return None
    return folder if stage_folder.read_card(folder).patch is None else None


def parity(at: Run, folder: Path, frames: np.ndarray) -> tuple[np.ndarray, dict[str, str]]:
    """The float masks in torch, and for each runtime that gives other ones on real images the reason to leave it out.

    Raises GateError when that leaves no runtime, and with `strict` for the first one.
    """
    expected = at.predict(network_folder.load_network(at.folder("slim")))(frames)
    refused: dict[str, GateError] = {}
    for runtime, file in (("onnxruntime", FLOAT), ("openvino", FLOAT_IR)):
        made = runner(folder / file, runtime=runtime, precision="f32")
        what = f"{file} on {runtime}"
        try:
            same = agree(expected, made(frames), least=PARITY, what=what, knob="to another encoder or decoder")
        except GateError as error:
            if at.recipe.strict:
                raise
            refused[runtime] = error
            continue
        at.say(f"ship: {what} agrees with torch on {same:.3%} of pixels")
    if len(refused) == 2:
        raise next(iter(refused.values()))
    return expected, {runtime: error.reason for runtime, error in refused.items()}


def _without_runtime(at: Run, folder: Path, runtime: str, reason: str) -> dict[str, Any]:
    """Removes the files of a runtime that does not give the masks of torch; the record of that for the card."""
    other = next(name for name in ("onnxruntime", "openvino") if name != runtime)
    _remove(folder, *(file for file, name in _RUNS.items() if name == runtime))
    at.say(f"ship: no files for {runtime}: {reason}")
    return _record(at, f"files for {runtime}", f"files for {other} alone", reason)


def _remove(folder: Path, *files: str) -> None:
    for file in files:
        for part in (file, file.removesuffix(".xml") + ".bin"):
            (folder / part).unlink(missing_ok=True)


def _golden(at: Run, ship: Ship, measured: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The measurements with how near each rounded file comes to the golden masks; what fails them is left out."""
    found, given = dict(measured), []
    for file in (file for file in measured if file not in (FLOAT, FLOAT_IR)):
        try:
            test = self_test(ship, runner(ship, runtime=_RUNS[file], file=file))
        except ValueError as error:
            if at.recipe.strict:
                raise
            _remove(ship.folder, file)
            del found[file]
            at.say(f"ship: no {file}: {error}")
            given.append(_record(at, file, "the other files", str(error)))
            continue
        found[file] = {**found[file], "golden_pixels": test.pixels, "golden_dice": test.foreground}
    if SMALL in found and SMALL_IR in found:
        one, other = (golden_masks(ship, runtime, "int8") for runtime in ("openvino", "onnxruntime"))
        found[SMALL] |= {"golden_agreement": float((one == other).mean())}  # the device is compared with it
    return found, given


def _with_prompt(at: Run, folder: Path, prompt: Path, *, of: ModelCard, frames: np.ndarray) -> list[dict[str, Any]]:
    """Adds the prompt input; where a runtime does not give its masks, removes it and returns the record of that."""
    card = stage_folder.read_card(prompt)
    try:
        put_prompt(folder, load_promptable(prompt), card, of=of, frames=list(frames[:GOLDEN]))
    except ValueError as error:
        if at.recipe.strict:
            raise
        shutil.rmtree(folder / "prompt", ignore_errors=True)
        at.say(f"ship: no prompt input: {error}")
        return [_record(at, "the prompt input", "masks without correction", str(error))]
    return []


def _record(at: Run, wanted: str, shipped: str, reason: str, *, remedy: str = _REMEDY) -> dict[str, Any]:
    """Something that the ship lacks, for its card."""
    return given_up(
        stage="ship",
        wanted=wanted,
        shipped=shipped,
        tried=[{"attempt": wanted, "dice": None, "refused": reason}],
        tolerance=at.recipe.tolerance,
        parent_dice=_parent(at)["dice"],
        remedy=remedy,
    )


def _seen_in_training(at: Run) -> np.ndarray:
    """Frames of both streams, uint8 [N, H, W, K]: what the device's frames are compared with."""
    stacks = [stack for stack in (at.labelled, at.unlabelled) if len(stack.image)]
    return np.concatenate([frames_of(stack, 500, seed=at.recipe.seed) for stack in stacks])


def _parent(at: Run) -> dict[str, Any]:
    return measured_of(at.folder("slim"), measured_on=at.measured_on)


def _accuracy(at: Run, folder: Path, measured: dict[str, Any]) -> dict[str, Any]:
    """The card's measurements with those of the float files, as each runtime likes to run them."""
    found = dict(measured)
    for file in (file for file in (FLOAT, FLOAT_IR) if (folder / file).exists()):
        record = record_of(runner(folder / file, runtime=_RUNS[file]), at.val)
        found[file] = {**found.get(file, {}), **record, "drop": drop(_parent(at)["dice"], record)}
        found[file]["runtime"] = _RUNS[file]
    return found


def _half(
    at: Run, folder: Path, frames: np.ndarray, masks: np.ndarray
) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    """Half precision beside float, under the same parity and gate; left out, on record, where it falls short."""
    found: dict[str, Any] = {}
    exact_graph = at.folder("int8") / FLOAT  # there, whatever runtime the ship leaves out
    try:
        if (folder / FLOAT).exists():
            halve(exact_graph, folder / HALF)
        if (folder / FLOAT_IR).exists():
            export_openvino(exact_graph, folder / HALF_IR, weights="float16")
        for file in (file for file in (HALF, HALF_IR) if (folder / file).exists()):
            runtime, what = _RUNS[file], f"{file} on {_RUNS[file]}"
            exact = runner(folder / file, runtime=runtime, precision="f32")
            same = agree(masks, exact(frames), least=PARITY, what=what, knob="to float")
            record = record_of(runner(folder / file, runtime=runtime), at.val)
            refused = judged(_parent(at), record, tolerance=at.recipe.tolerance, what=what)
            if refused:
                raise ValueError(refused)
            found[file] = {**record, "drop": drop(_parent(at)["dice"], record), "runtime": runtime, "agreement": same}
    except ValueError as error:
        reason = error.reason if isinstance(error, GateError) else str(error)
        at.say(f"ship: no half precision: {reason}")
        _remove(folder, HALF, HALF_IR)
        return {}, (_record(at, "half precision", "the other files", reason, remedy="a larger tolerance"),)
    dice = ", ".join(f"{record['dice']:.4f} on {record['runtime']}" for record in found.values())
    at.say(f"ship: half precision, Dice {dice}")
    return found, ()


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
    if not calls:
        return ()
    records = latency_records(calls, frames[:16], few, device=str(describe().get("cpu", "")))
    if records and records[0]["undecided"]:
        busy = records[0]["foreign_cores"]
        at.say(
            f"ship: other processes used {busy:.1f} cores while files were timed; which is the quickest stays "
            "undecided, and each device finds out for itself"
        )
    for record in records if not (records and records[0]["undecided"]) else ():
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
