"""Artefact folders: a stage's weights beside the card that says what they are. Whole, or absent.

A stage works in `NAME.partial`; when it is done the folder takes its name, and the card carries the key of
everything the stage depended on, so that the same command again skips what stands.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from deploy.package.files import CARD
from deploy.package.package import finalize
from deploy.pruning.plan import Plan, apply_plan
from edgemt.io.atomic import fsync_folder, fsync_tree, make_folder, set_aside, sha256, write_text
from edgemt.io.plain_files import TEXT_LIMIT, read_regular
from edgemt.learning.ensemble import ROOM, Ensemble
from edgemt.model_card import ModelCard
from edgemt.training import checkpoint

WEIGHTS = "weights.safetensors"
CURVES = "curves.json"
_FINISHED = ".finished."  # before the name of a checkpoint whose stage has its card, but not yet its name


# class of a recipe's value -> its name in keys and records; an old name stays, so that a finished stage still fits
KEY_NAMES: dict[str, str] = {"Normalisation": "Normalise"}


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as JSON; "is" names the class of a dataclass (`KEY_NAMES`)."""
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        kind = type(value).__name__
        return {"is": KEY_NAMES.get(kind, kind), **own}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A recipe as `field.sub` -> plain value, for the report."""
    rows: dict[str, Any] = {}
    for key, inner in plain(value).items() if not isinstance(value, dict) else value.items():
        rows |= flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return rows


def to_json(value: Any) -> str:
    return json.dumps(plain(value), indent=2) + "\n"


def key_of(*parts: Any) -> str:
    """A hash of everything a stage depends on."""
    return hashlib.sha256(json.dumps([plain(p) for p in parts], sort_keys=True).encode()).hexdigest()


def read_card(folder: Path) -> ModelCard:
    file = folder / "card.json"
    try:
        text = read_regular(file, limit=TEXT_LIMIT).decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder}: holds no card.json; is it an artefact folder?") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: cannot be read ({error}); copy the folder again") from None
    return ModelCard.from_json(text, source=file)


def stands(folder: Path, *, key: str) -> bool:
    """Whether the stage is done: its card carries this key and every file it names is there, unchanged."""
    if not (folder / "card.json").exists():
        return False
    card = read_card(folder)
    if card.recipe_hash != key:
        return False
    for name, digest in card.files.items():
        file = folder / name
        if not file.exists() or sha256(file) != digest:
            raise ValueError(f"{file}: missing or changed since it was written; remove {folder} to make it again")
    return True


def identity(folder: Path) -> str:
    """What a child depends on: its parent's files, not the moment they were written."""
    return key_of({name: digest for name, digest in read_card(folder).files.items() if name != CURVES})


@contextmanager
def staged(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A working folder that outlives an interruption, and becomes `folder` when the block ends well.

    A folder that is there is set aside as `folder.previous-1` (the count goes up), or replaced with `overwrite`.
    """
    working = folder.with_name(folder.name + ".partial")
    make_folder(working)
    for finished in working.glob(f"{_FINISHED}*"):  # the last run ended between the card and the name
        (working / CARD).unlink(missing_ok=True)
        os.replace(finished, working / finished.name.removeprefix(_FINISHED))
    yield working
    fsync_tree(working)
    old = folder.with_name(folder.name + ".old")
    if folder.exists() and overwrite:
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    elif folder.exists():
        set_aside(folder)
    os.replace(working, folder)
    fsync_folder(folder.parent)
    for finished in folder.glob(f"{_FINISHED}*"):
        finished.unlink()
    shutil.rmtree(old, ignore_errors=True)


def write_card(folder: Path, card: ModelCard) -> ModelCard:
    """Seal the folder: the card, written last, carries the hash of every file beside it.

    A checkpoint is renamed, so that the card does not list it; `staged` removes it when the folder has its name.
    """
    for file in (checkpoint.CHECKPOINT, checkpoint.previous(Path(checkpoint.CHECKPOINT)).name):
        if (folder / file).exists():
            os.replace(folder / file, folder / f"{_FINISHED}{file}")
    return finalize(folder, replace(card, created=""))


def rewrite_card(folder: Path, card: ModelCard) -> None:
    """Replace the card of a finished stage; its files are as they were."""
    write_text(folder / CARD, card.to_json())


def replace_file(folder: Path, name: str, text: str) -> None:
    """Replace a text file of a finished stage, and its hash on the card.

    The card is written twice: without the file first, so that a run that is cut in between leaves a card that fits.
    """
    card = read_card(folder)
    rewrite_card(folder, replace(card, files={file: h for file, h in card.files.items() if file != name}))
    write_text(folder / name, text)
    rewrite_card(folder, replace(card, files={**card.files, name: sha256(folder / name)}))


def save_network(folder: Path, network: nn.Module, card: ModelCard) -> ModelCard:
    checkpoint.save_weights(folder / WEIGHTS, network)
    return write_card(folder, card)


def build_network(network: dict[str, Any]) -> nn.Module:
    """A fresh network from a card's `network`: room, name, options and, if it was pruned, the plan.

    Raises ValueError for a description that lacks a field or that no builder takes; nothing of it is executed, and
    options that would load a file are refused (`edgemt.io.network_options`).
    """
    try:
        return _built(network)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"network of a card: cannot be built ({error!r}); train or export it again") from error


def _built(network: dict[str, Any]) -> nn.Module:
    import students
    import teachers

    if network["room"] == ROOM:
        return Ensemble([_built(member) for member in network["members"]], flips=network["options"]["flips"])
    rooms: dict[str, Any] = {"teachers": teachers, "students": students}
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in network["options"].items()}
    fresh = rooms[network["room"]].build(
        network["name"],
        channels=network["channels"],
        classes=network["classes"],
        heads=tuple(network["heads"]),
        **options,
    )
    if network.get("plan"):
        apply_plan(fresh, Plan.from_dict(network["plan"]))
    return fresh


def load_network(folder: Path) -> nn.Module:
    """The trained network of an artefact folder, in eval mode."""
    try:
        network = offline(read_card(folder).network)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / 'card.json'}: describes no network ({error!r}); train it again") from error
    fresh = build_network(network)
    return checkpoint.load_weights(folder / WEIGHTS, fresh).eval()


def offline(network: dict[str, Any]) -> dict[str, Any]:
    """The same network, all its weights to come from the artefact's own file."""
    options = {key: value for key, value in network["options"].items() if key not in ("weights_file", "first_conv")}
    members = {"members": [offline(member) for member in network["members"]]} if "members" in network else {}
    return {
        **network,
        **members,
        "options": {**options, **({"pretrained": "never"} if "pretrained" in options else {})},
    }


def encoder_identity(folder: Path) -> str:
    """`EncoderWeights.identity` of the weights that a finished stage began with; empty where it began without."""
    if not (folder / "card.json").is_file():
        return ""
    record = read_card(folder).network.get("encoder_weights")
    return f"{record.get('encoder')} {record.get('sha256')}" if isinstance(record, dict) else ""
