"""A finished student becomes an entry of the zoo."""

from __future__ import annotations

import copy
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from torch import nn

from deploy.quantization.accuracy_gate import check_agreement
from edgemt.artefacts import network_folder, stage_folder
from edgemt.io import zoo_paths
from edgemt.io.atomic import write_text
from edgemt.io.class_regions import no_overlapping
from edgemt.model_card import FileMetrics, ModelCard
from edgemt.pipeline.zoo_graphs import Say, add_graph, check_weight, source_of
from edgemt.training import checkpoint
from edgemt.zoo import entry
from edgemt.zoo.entry import open_entry
from edgemt.zoo.synthetic_frames import frames_for, masks_of

SAME = 0.999  # share of pixels on which half-precision weights must give the mask of the full ones
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def pack(
    stage: str | Path,
    name: str,
    *,
    into: str | Path | None = None,
    note: str = "",
    overwrite: bool = False,
    say: Say = print,
) -> Path:
    """Write the entry NAME from RUN/ship, RUN/slim or RUN/student; returns its folder.

    Weights become float16 and must still give the same masks. The run's INT8 graph goes along where it was made from
    these weights, else a float16 graph made here; input statistics too; golden frames are synthetic. The card loses
    what belongs to the machine that trained it, and what was measured of single cases. A ship that `edgemt export
    zoo/NAME` wrote gives that entry a new graph; zoo/NAME itself is tried and timed again. A README with a table
    beside the entry is brought up to date.
    Raises ValueError in one line, leaving nothing behind, for a stage that is not finished or no student's, an entry
    that stands (without `overwrite`) or would be too large, and weights that do not bear half precision.
    """
    home = Path(into) if into is not None else zoo_paths.HOME
    folder = home / name
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} names no entry: take lower-case letters, digits, - and _, as in atrium_small")
    if folder.exists() and not (overwrite and (folder / entry.WEIGHTS).is_file()):
        raise ValueError(f"{folder}: is there already; choose another name, remove it, or add --overwrite to an entry")
    source = source_of(zoo_paths.located(stage))
    card = _finished(source.weights)
    no_overlapping(card, where=source.weights, what="an entry of the zoo has one class a pixel; copy the ship instead")
    whole = network_folder.load_network(source.weights)
    half = copy.deepcopy(whole).half()
    heavy = sum(tensor.nbytes for tensor in half.state_dict().values())
    if heavy > entry.LARGEST - 200_000:  # names and shapes come on top
        raise ValueError(
            f"{source.weights}: {heavy / 1e6:.1f} MB in float16, an entry has {entry.LARGEST / 1e6:g} at most; "
            "prune it further"
        )
    same = _agreement(whole, half, card)
    described = _described(card, source.weights, note=note, same=same)
    rounded = _rounded(whole, half)
    try:
        with stage_folder.staged(folder, overwrite=True) as working:
            shutil.rmtree(working)  # of a packing that was cut
            working.mkdir()
            if card.stage == "zoo":  # byte for byte: students that started from it stand
                shutil.copyfile(source.weights / entry.WEIGHTS, working / entry.WEIGHTS)
            else:
                checkpoint.save_weights(working / entry.WEIGHTS, half)
            add_graph(working, source, rounded, described, say=say)
            check_weight(working)
            for file in working.rglob("*"):
                file.chmod(0o755 if file.is_dir() else 0o644)
            open_entry(working)
    except BaseException:
        shutil.rmtree(folder.with_name(folder.name + ".partial"), ignore_errors=True)
        raise
    readme = home / "README.md"
    if readme.exists():
        write_text(readme, entry.with_table(readme.read_text(encoding="utf-8"), home))
    return folder


def _finished(source: Path) -> ModelCard:
    """The card of a student's stage, every file of which has its hash."""
    card = stage_folder.read_card(source)
    if stage_folder.WEIGHTS not in card.files or card.network.get("room") != "students":
        raise ValueError(f"{source}: holds no student's {stage_folder.WEIGHTS}; name RUN/slim or RUN/student")
    stage_folder.stands(source, key=card.recipe_hash)
    if stage_folder.WEIGHTS not in card.measured or card.measured[stage_folder.WEIGHTS].dice is None:
        raise ValueError(f"{source}: its accuracy was not measured, so it is no finished stage; finish the run")
    return card


def _agreement(whole: nn.Module, half: nn.Module, card: ModelCard) -> float:
    """The smaller share of equal pixels, on random and on phantom frames. Raises GateError when it is too small."""
    for name, value in half.state_dict().items():
        if not value.isfinite().all():
            raise ValueError(f"{name}: holds NaN, or numbers too large for float16; this student cannot be packed")
    rounded = _rounded(whole, half)
    noise = np.random.default_rng(0).integers(0, 256, (4, *card.size, card.channels), dtype=np.uint8)
    return min(
        check_agreement(
            masks_of(whole, card, frames),
            masks_of(rounded, card, frames),
            least=SAME,
            what=f"the float16 student on {kind} frames",
            hint="to another stage of the run: this one does not bear half precision",
        )
        for kind, frames in (("random", noise), ("phantom", frames_for(card)))
    )


def _rounded(whole: nn.Module, half: nn.Module) -> nn.Module:
    """In float32 again, with the values of half precision."""
    rounded = copy.deepcopy(whole)
    rounded.load_state_dict(half.state_dict())
    return rounded


def _described(card: ModelCard, source: Path, *, note: str, same: float) -> ModelCard:
    """The card as it travels: without paths, without single cases, with the entry's own facts."""
    metrics = replace(card.measured[stage_folder.WEIGHTS], cases=(), float16_agreement=same)
    network = {"plan": None, **network_folder.without_pretrained(card.network)}
    if card.stage == "zoo":  # packed before: its facts stand
        network["zoo"] = {**network["zoo"], **({"note": note} if note else {})}
    else:
        network["zoo"] = {**_run_of(source), "labels": _labels(card, source)}
        network["zoo"] |= {"terms": entry.TERMS, "note": note, "stage": card.stage}
    return replace(
        card,
        stage="zoo",
        network=_without_paths(network),
        data=_without_paths({**card.data, "root": None}),
        measured={stage_folder.WEIGHTS: FileMetrics.from_dict(_without_paths(metrics.to_dict()))},
        contours={},  # of the run's own files
        latency=(),
        files={},
        created="",
    )


def _run_of(source: Path) -> dict[str, Any]:
    """Recipe and seeds out of the run's recipe.json; bare where the stage lies alone."""
    try:
        recipe = json.loads((source.parent / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"recipe": {}, "seeds": {}}
    fields = ("name", "augment", "volume", "per_image", "teacher", "student", "slim")
    seeds = {"training": recipe.get("seed"), "split": recipe.get("data", {}).get("seed")}
    return {"recipe": {key: recipe[key] for key in fields if key in recipe}, "seeds": seeds}


def _labels(card: ModelCard, source: Path) -> str:
    """How many labels were looked at, in the words of the recipe, counted where the list is at hand."""
    data = card.data
    if str(data.get("layout", "")).startswith("phantom"):
        return f"{data['phantom'][0]} synthetic"
    listed = str(data.get("labelled") or "")
    file = Path(str(data.get("root") or source), listed)
    if not listed or not file.is_file():
        return listed or "every image with a mask"
    count = sum(bool(line.strip()) for line in file.read_text(encoding="utf-8").splitlines())
    return f"{count} ({PurePosixPath(listed).name})"


def _without_paths(value: Any) -> Any:
    """The same JSON, where a string that is a full path is its last part alone."""
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_paths(inner) for inner in value]
    if isinstance(value, str):
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(value).is_absolute() or value.startswith("~"):
                return kind(value).name
    return value
