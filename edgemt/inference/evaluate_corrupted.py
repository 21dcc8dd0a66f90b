"""Dice of a package on corrupted images, corruption by corruption and severity by severity. No torch.

The frames are corrupted at the size of the network, by `edgemt.data.corruptions`; the labels stay. A volume is
corrupted slice by slice with one pattern, before its neighbouring slices become channels.

Shapes: N frames, H W their size, K channels, S slices of a volume.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deploy.package.package import Package, open_package
from deploy.runtimes.load import runner
from edgemt.data.corruptions import (
    SEVERITIES,
    Modality,
    check_severities,
    corrupt,
    corrupt_volume,
    corruption_names,
    hidden_pixels,
    modality_of,
)
from edgemt.data.decode import ProgressCall
from edgemt.data.options import DataOptions
from edgemt.inference.evaluate import EvalSet, Predict, predict_masks, score
from edgemt.inference.evaluate_package import find_cases, holds_network, read_cases
from edgemt.inference.evaluate_uncertainty import PredictBoth, keeping_maps, to_probability
from edgemt.io.channels import no_channels
from edgemt.io.images import fit_label
from edgemt.io.opencv import require_opencv
from edgemt.io.volumes import neighbour_indices


@dataclass(frozen=True)
class Corrupted:
    """The record of an evaluation under corruptions, and the frames of one case for a picture."""

    record: dict[str, Any]
    frame: np.ndarray  # uint8 [H, W] or [H, W, 3]


def evaluate_corrupted(
    folder: Path,
    *,
    names: Sequence[str] = (),
    severities: Sequence[int] = SEVERITIES,
    data_root: Path | None = None,
    val: str = "",
    runtime: str = "auto",
    file: str | None = None,
    threads: int | None = None,
    cpu_fallback: bool = True,
    seed: int = 0,
    progress: ProgressCall | None = None,
) -> Corrupted:
    """Dice of every corruption at every severity on the validation list, beside that of the clean images.

    `names` are kinds, modalities, "all", or none: those of the modality that the recipe or the card shows. `folder` is
    a package, or a run that holds one. Raises ValueError in one line for whatever is wrong with ship, data or names.
    """
    severities = check_severities(severities)
    if holds_network(folder):
        raise ValueError(f"{folder}: has weights and no graph, and --corrupt measures a ship; name RUN or RUN/ship")
    ship = open_package(package_of(folder))
    no_channels(ship.card, where=folder, what="corruptions are those of one picture; leave --corrupt out")
    modality, reason = modality_of_package(ship)
    kinds = corruption_names(names, modality=modality, colour=ship.card.channel_order == "RGB")
    require_opencv("corruptions")
    made = runner(ship, runtime=runtime, file=file, threads=threads, cpu_fallback=cpu_fallback)
    options, cases = find_cases(ship, data_root, val)
    clean = read_cases(ship.card, options, cases)
    both = made.with_uncertainty if made.has_uncertainty else None
    record = corruption_record(made, clean, kinds=kinds, severities=severities, seed=seed, both=both, progress=progress)
    about = {
        "ship": str(folder),
        "name": ship.card.name,
        "runtime": made.runtime,
        "file": made.file,
        "precision": made.precision,
        "threads": made.threads,
        "root": str(options.root) if options.root else None,
        "modality": modality,
        "modality_reason": reason,
        "chosen": list(names),
    }
    return Corrupted(about | record, _picture(clean))


def corruption_record(
    predict: Predict,
    clean: EvalSet,
    *,
    kinds: Sequence[str],
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    both: PredictBoth | None = None,
    progress: ProgressCall | None = None,
) -> dict[str, Any]:
    """Dice (mean over cases, then over classes) without corruption, and of each kind and severity.

    `loss` is relative: (clean - dice) / clean. `visible_dice`, of `black_rim` alone, leaves out the pixels that the rim
    hides, in mask and label. `both` also gives an uncertainty map: its mean over all pixels is recorded beside. `mean`
    holds the mean over the kinds at each severity. `progress` counts passes over the list.
    """
    total, done = 1 + len(kinds) * len(severities), 0

    def measure(cases: EvalSet, kind: str = "", severity: int = 0) -> dict[str, Any]:
        nonlocal done
        predict_kept, maps = keeping_maps(predict, both)
        masks = predict_masks(predict_kept, cases)
        scores = score(masks, cases, dice_only=True)
        found: dict[str, Any] = {"dice": scores.dice}
        if len(cases.classes) > 2:
            found["per_class"] = {name: values["dice"] for name, values in scores.per_class.items()}
        if maps:
            found["uncertainty"] = float(np.mean([to_probability(part).mean() for part in maps]))
        if kind == "black_rim":
            found["visible_dice"] = _visible_dice(masks, cases, severity, seed=seed)
        done += 1
        if progress is not None:
            progress(done, total)
        return found

    before = measure(clean)
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for kind in kinds:
        for severity in severities:
            found = measure(corrupted_set(clean, kind, severity, seed=seed), kind, severity)
            rows.setdefault(kind, {})[str(severity)] = found | {"loss": _loss(before["dice"], found["dice"])}
    mean = {}
    for at in map(str, severities):
        dice = float(np.mean([row[at]["dice"] for row in rows.values()]))
        mean[at] = {"dice": dice, "loss": _loss(before["dice"], dice)}
    return {"counted": len(clean), "seed": seed, "clean": before, "corruptions": rows, "mean": mean}


def corrupted_set(clean: EvalSet, kind: str, severity: int, *, seed: int = 0) -> EvalSet:
    """The same cases with corrupted frames; a case's pattern depends on its name."""
    frames = np.empty_like(clean.frames)
    channels = clean.frames.shape[-1]
    for name, rows, truth in zip(clean.names, clean.rows, clean.truths, strict=True):
        if truth.ndim == 3:  # slices of a volume, each with its neighbours as channels
            volume = clean.frames[rows][..., channels // 2]
            changed = corrupt_volume(volume, kind, severity, seed=seed, case=name)
            frames[rows] = np.moveaxis(changed[neighbour_indices(len(volume), channels)], 1, -1)
        else:
            frames[rows] = corrupt(clean.frames[rows.start], kind, severity, seed=seed, case=name)
    return replace(clean, frames=frames)


def package_of(folder: Path) -> Path:
    """The package of a run folder; any other folder, and zoo/NAME, as it is."""
    return folder / "ship" if (folder / "ship" / "card.json").is_file() else folder


def modality_of_package(ship: Package) -> tuple[Modality, str]:
    """The modality, and the reason: the preset of its recipe, where that is beside it, or the images of the card."""
    card = ship.card
    recipe = card.network.get("zoo", {}).get("recipe", {})
    beside = ship.folder.parent / "recipe.json"
    if not recipe and beside.is_file():
        try:
            recipe = json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            recipe = {}
    augment = recipe.get("augment", {}) if isinstance(recipe, dict) else {}
    preset = augment.get("preset", "") if isinstance(augment, dict) else ""
    try:
        data = DataOptions.from_dict(dict(card.data)) if card.data else DataOptions()
    except TypeError:
        data = DataOptions()
    volumes = card.channel_order == "slices" or data.layout in ("volumes", "decathlon", "h5", "phantom_volumes")
    return modality_of(str(preset), colour=card.channel_order == "RGB", volumes=volumes, window=data.window is not None)


def corruption_table(record: dict[str, Any]) -> str:
    """The record as text: a row a corruption, Dice and relative loss at each severity."""
    severities = list(record["mean"])
    width = max(len(name) for name in (*record["corruptions"], "corruption"))
    head = "corruption".ljust(width) + "".join(f"  severity {s}".rjust(16) for s in severities)
    lines = [head]
    rows = {**record["corruptions"], **({"mean": record["mean"]} if len(record["corruptions"]) > 1 else {})}
    for name, row in rows.items():
        cells = (f"{row[s]['dice']:.3f} ({_percent(row[s]['loss'])})".rjust(16) for s in severities)
        lines.append(name.ljust(width) + "".join(cells))
    for name, row in record["corruptions"].items():
        if "visible_dice" in row[severities[0]]:
            cells = (f"{row[s]['visible_dice']:.3f}".ljust(8).rjust(16) for s in severities)
            lines.append("  visible".ljust(width) + "".join(cells))
            lines.append(f"{name} is scored with the whole label; 'visible' leaves out the pixels under the rim")
    clean = record["clean"]["dice"]
    text = f"{record['file']} on {record['runtime']} ({record['precision']}), {record['counted']} cases"
    lines += ["", f"clean Dice {clean:.4f}; in brackets the relative change; {text}"]
    lines.append(f"modality: {record['modality']} ({record['modality_reason']})")
    return "\n".join(lines)


def _visible_dice(masks: Sequence[np.ndarray], cases: EvalSet, severity: int, *, seed: int) -> float:
    """Dice where the pixels under the black rim are background in mask and label."""
    seen, truths = [], []
    for name, mask, truth in zip(cases.names, masks, cases.truths, strict=True):
        hidden = hidden_pixels(cases.frames.shape[1:3], "black_rim", severity, seed=seed, case=name)
        visible = fit_label(1 - np.asarray(hidden, np.uint8), size=truth.shape[-2:])
        seen.append(mask * visible)
        truths.append(truth * visible)
    return score(seen, replace(cases, truths=tuple(truths)), dice_only=True).dice


def _picture(clean: EvalSet) -> np.ndarray:
    """The frame whose label covers the most of it; of a volume its middle channel."""
    shares = []
    for rows, truth in zip(clean.rows, clean.truths, strict=True):
        slices = truth if truth.ndim == 3 else truth[None]
        shares += [(float((label > 0).mean()), rows.start + k) for k, label in enumerate(slices)]
    wanted = sorted(shares)[int(0.75 * (len(shares) - 1))]  # neither the largest nor one that is hardly there
    frame = clean.frames[wanted[1]]
    colour = frame.shape[-1] == 3 and clean.truths[0].ndim == 2
    return frame if colour else frame[..., frame.shape[-1] // 2]


def _loss(before: float, dice: float) -> float | None:
    """None where nothing was found in the clean images."""
    return (before - dice) / before if before else None


def _percent(loss: float | None) -> str:
    return "-" if loss is None else f"{-100 * loss:+.0f} %"
