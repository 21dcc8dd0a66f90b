"""The graph that an entry carries, so that it runs without torch: INT8 of its run, else float16 made here.

It is tried on synthetic frames with each runtime that is installed, and timed. No frame of the training data is read.

Shapes: N frames, H W size in pixels, K channels.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from deploy.export import export_onnx
from deploy.hardware.machine import describe
from deploy.measurement.variants import QUICK, latency_records
from deploy.package.files import IR_FP16, IR_INT8, ONNX_FP16, ONNX_FP32, ONNX_INT8
from deploy.package.golden import self_test, write_golden
from deploy.package.input_drift import INPUTS
from deploy.package.package import Package, finalize, open_package
from deploy.quantization.accuracy_gate import as_number, check_agreement
from deploy.quantization.float16 import to_float16
from deploy.runtimes.load import runner
from deploy.runtimes.registry import CHECKED
from deploy.runtimes.runner import ModelRunner
from edgemt.artefacts import stage_folder
from edgemt.inference.doctor import int8_agreement
from edgemt.io import zoo_paths
from edgemt.model_card import FileMetrics, ModelCard
from edgemt.pipeline.package_steps import GOLDEN, PARITY
from edgemt.zoo import entry as zoo_entry
from edgemt.zoo.synthetic_frames import frames_for, masks_of

Say = Callable[[str], None]
_IR = {ONNX_INT8: IR_INT8, ONNX_FP16: IR_FP16}
TIMED = replace(QUICK, warmup_seconds=0.2, seconds=0.6, rounds=5, block_ms=40)


@dataclass(frozen=True)
class Source:
    """Where an entry comes from: the folder of its weights, and the one of the graphs that were made from them."""

    weights: Path
    graphs: Path | None


def source_of(folder: Path) -> Source:
    """Weights and graphs for a stage of a run, RUN/ship, an entry, or a ship that `edgemt export zoo/NAME` wrote.

    Graphs beside a stage count only when their cards name it as what they were made from. Raises ValueError in one
    line for a ship whose weights are not there, and for one that was changed.
    """
    card, run = stage_folder.read_card(folder), folder.resolve().parent
    if card.stage == "zoo":
        return Source(folder, open_package(folder, trusted="").folder)
    if stage_folder.WEIGHTS in card.files or card.stage != "ship":
        int8 = _made_from(run / "int8", folder)
        return Source(folder, int8 and (_made_from(run / "ship", int8) or int8))
    open_package(folder, trusted="")
    int8 = _made_from(run / "int8", run / "slim")
    if int8 is not None and stage_folder.identity(int8) in card.parents:
        return Source(run / "slim", folder)
    for name in zoo_entry.names():
        entry = zoo_entry.open_entry(zoo_paths.PREFIX + name)
        if entry.identity in card.parents:
            return Source(entry.folder, folder)
    raise ValueError(
        f"{folder}: the weights of this ship are neither in {run / 'slim'} nor in the zoo; name the ship where its run "
        "is, after edgemt export RECIPE has brought it up to date"
    )


def _made_from(folder: Path, parent: Path) -> Path | None:
    """The folder, where it is whole and its card names `parent`."""
    if not (folder / "card.json").is_file() or not (parent / "card.json").is_file():
        return None
    card = stage_folder.read_card(folder)
    whole = stage_folder.stands(folder, key=card.recipe_hash)
    return folder if whole and stage_folder.identity(parent) in card.parents else None


def add_graph(working: Path, source: Source, network: nn.Module, card: ModelCard, *, say: Say = print) -> ModelCard:
    """Put graph, input statistics and golden frames into an entry, try the graph and time it; returns the card.

    `network` has the entry's weights, in float32. `working` holds the weights and gets its card from here, with what
    was found: for INT8 the Dice that was measured where it was made, the lower of two runtimes, and for each graph
    how near it comes to the golden masks. Raises GateError where the float16 graph gives other masks.
    """
    made = stage_folder.read_card(source.graphs) if source.graphs is not None else None
    if source.graphs is not None and made is not None and INPUTS in made.files:
        shutil.copyfile(source.graphs / INPUTS, working / INPUTS)
    else:
        say("no likeness ranges: frames unlike those of training will not be noticed; pack RUN/ship for them")
    file = next((file for file in zoo_entry.GRAPHS if made is not None and file in made.files), "")
    if source.graphs is not None and made is not None and file:
        shutil.copyfile(source.graphs / file, working / file)
        check_weight(working)
        metrics = _metrics(made, file)
    if made is not None:
        card = replace(card, given_up=made.given_up)
    frames = frames_for(card, count=16)
    masks = masks_of(network, card, frames)
    if file != ONNX_INT8:
        say("no INT8 graph of these weights was found; the entry runs in float16")
    if not file:
        file, metrics = ONNX_FP16, _halved(working / ONNX_FP16, network, card, frames, masks)
    for number, index in enumerate(_steady(working / file, frames, masks, classes=len(card.classes))):
        write_golden(working, f"synthetic{number}", frame=frames[index], mask=masks[index])
        if len(np.unique(masks[index])) == 1:
            say(f"golden frame synthetic{number} shows one class alone, which proves little")
    card = replace(card, measured={**card.measured, file: metrics})
    return _tried(Package(working, finalize(working, card)), file, frames, say=say)


def check_weight(folder: Path) -> None:
    """Raises ValueError when what is in the folder is more than may travel with a package."""
    sizes = {path.name: path.stat().st_size / 1e6 for path in folder.rglob("*") if path.is_file()}
    if sum(sizes.values()) <= zoo_entry.LARGEST / 1e6:
        return
    parts = ", ".join(f"{name} {size:.1f}" for name, size in sizes.items() if not name.endswith(".png"))
    remedy = "prune it further"
    if ONNX_FP16 in sizes:
        remedy += ", or finish the run up to INT8, whose graph is half as large"
    raise ValueError(
        f"{folder.name.removesuffix('.partial')}: {sum(sizes.values()):.1f} MB in all ({parts}), an entry has "
        f"{zoo_entry.LARGEST / 1e6:g} at most; {remedy}"
    )


def _metrics(made: ModelCard, file: str) -> FileMetrics:
    """The metrics of a graph: those on the runtime with the lower Dice, and the Dice on both."""
    if made.stage == "zoo":
        return made.measured[file].without_golden()
    on = {made.measured[f].runtime: made.measured[f] for f in (_IR[file], file) if f in made.measured}
    lower = min(on.values(), key=lambda metrics: as_number(metrics.dice))
    noted = made.measured[file].quantization or {}
    return replace(
        lower.without_golden(),
        cases=(),
        quantization={key: noted[key] for key in ("rung", "kept") if key in noted} if file == ONNX_INT8 else None,
        dice_on={runtime: metrics.dice for runtime, metrics in on.items()},
    )


def _halved(path: Path, network: nn.Module, card: ModelCard, frames: np.ndarray, masks: np.ndarray) -> FileMetrics:
    """Write the graph in half precision; its Dice is that of the weights, whose masks it must give."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, ONNX_FP32)
        export_onnx(network, whole, size=card.size, channels=card.channels, normalise=card.normalise)
        to_float16(whole, path)
    given = runner(path, runtime="onnxruntime", precision="f32")(frames)
    same = check_agreement(
        masks, given, least=PARITY, what=f"{ONNX_FP16} on onnxruntime", hint="to another stage of the run"
    )
    return replace(card.measured[stage_folder.WEIGHTS], runtime="onnxruntime", measured_in="torch", agreement=same)


def representative_frames(masks: np.ndarray, *, classes: int, count: int = GOLDEN) -> list[int]:
    """Indices of the masks with many classes, and none of them nearly everywhere. [N, H, W] -> at most `count`."""
    shares = [np.bincount(mask.ravel(), minlength=classes) / mask.size for mask in masks]
    order = sorted(range(len(masks)), key=lambda i: (-int((shares[i] > 0.002).sum()), shares[i].max()))
    return sorted(order[:count])


def _steady(graph: Path, frames: np.ndarray, masks: np.ndarray, *, classes: int) -> list[int]:
    """Of the telling frames those on which rounding moves least: another processor rounds in its own way."""
    chosen = representative_frames(masks, classes=classes, count=2 * GOLDEN)
    given = runner(graph, runtime="onnxruntime")(frames[chosen])
    same = {index: float((masks[index] == mask).mean()) for index, mask in zip(chosen, given, strict=True)}
    shown = {index: len(np.unique(masks[index])) for index in chosen}
    return sorted(sorted(chosen, key=lambda index: (-shown[index], -same[index]))[:GOLDEN])


def _tried(ship: Package, file: str, frames: np.ndarray, *, say: Say) -> ModelCard:
    """The card with golden agreement, the lower of the runtimes', and the time of a frame on each of them."""
    calls: dict[tuple[str, str, str | None], ModelRunner] = {
        (runtime, file, None): runner(ship, runtime=runtime, file=file, tested=False) for runtime in CHECKED
    }
    tests = [self_test(ship, call) for call in calls.values()]
    metrics = replace(
        ship.card.measured[file],
        golden_pixels=min(test.pixels for test in tests),
        golden_dice=min(test.foreground_dice for test in tests),
        golden_agreement=int8_agreement(ship) if file == ONNX_INT8 else None,
    )
    latency = latency_records(calls, frames[:4], TIMED, device=str(describe().get("cpu", "")))
    if (busy := latency[0]["foreign_cores"]) and busy > zoo_entry.BUSY:
        say(f"no latency class: others used {busy:.1f} cores; pack again on a quiet machine")
    measured = {**ship.card.measured, file: metrics}
    return finalize(ship.folder, replace(ship.card, measured=measured, latency=latency, files={}))
