"""Install a ship on a device: copy, verify, test, run beside the one in use, then switch in one step.

    TO/ships/NAME-v7-3f2a90c1/   every installed ship, by name, version and hash of its card
    TO/current -> ships/...      the one in use: give TO/current to edgemt stream
    TO/previous -> ships/...     the one before

Each step leaves `current` whole: the copy is made under another name and flushed to the disk before it is renamed, and
a link is replaced by renaming a new one. An installation that was interrupted is done by running it again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.package.files import CARD
from deploy.package.golden import golden_pairs, self_test
from deploy.package.package import Package, card_hash, open_package
from deploy.package.signing import SIGNATURE
from deploy.package.versions import allow_version, note_version
from deploy.runtimes.load import runner
from deploy.update.shadow import ShadowResult, compare_masks
from edgemt.io.atomic import fsync_folder, make_folder

CURRENT, PREVIOUS, SHIPS = "current", "previous", "ships"
_PART = ".part"
_NAME_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"


@dataclass(frozen=True)
class Installed:
    """What an installation did. `before`: name of the ship that was in use, empty if there was none."""

    folder: Path
    model: str
    version: int
    card: str  # hash
    signed: bool
    before: str
    test: str
    shadow: ShadowResult | None
    allowed: bool  # although it is older than one seen, or has expired


def install(
    ship: Path,
    to: Path,
    *,
    frames: Iterator[np.ndarray] | None = None,
    min_agreement: float = 0.0,
    allow_older: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> Installed:
    """Install `ship` under `to` and put it in use.

    `frames`: uint8 [H, W] or [H, W, 3], on which the new model runs beside the one in use; without them both run on the
    golden frames of the new ship. A mean agreement below `min_agreement` (foreground Dice) leaves the old one in use.
    Raises ValueError, with the old ship still in use, for a ship that does not verify, that fails its golden frames on
    this machine, that is older than one seen here (unless `allow_older`), or that disagrees.
    """
    package = open_package(ship, any_version=allow_older)
    to = make_folder(to)
    current = in_use(to)
    copy = _copy(package, to)
    run = runner(copy)
    test = self_test(copy, run)
    if not test.ok:
        raise ValueError(f"{ship}: {test.message}; {_unchanged(current)}")
    log(f"golden frames: {test.message}")
    shadow, skipped = _shadow(copy, run, current, frames)
    if skipped and min_agreement > 0:
        raise ValueError(f"{ship}: {skipped}, and an agreement of {min_agreement:g} is required; {_unchanged(current)}")
    if skipped:
        log(f"nothing is compared: {skipped}")
    if shadow is not None and shadow.mean_dice < min_agreement:
        raise ValueError(
            f"{ship}: its masks agree with those in use by {shadow.mean_dice:.3f} (foreground Dice, {shadow.frames} "
            f"frames), {min_agreement:g} are required; {_unchanged(current)}"
        )
    if allow_older:
        allow_version(copy.card)
    before = "" if current is None else current.name
    if current is not None and current != copy.folder:
        _link(to / PREVIOUS, current)
    _link(to / CURRENT, copy.folder)
    if copy.signed:
        note_version(copy.card)
    return Installed(
        copy.folder, copy.card.name, copy.card.version, card_hash(copy.card), copy.signed, before, test.message, shadow,
        allow_older,
    )  # fmt: skip


def back(to: Path) -> tuple[Path, Path]:
    """Put the previous ship in use again; returns (it, the one that was in use). A second call undoes the first.

    Raises ValueError if there is none, or if it no longer verifies.
    """
    current, previous = in_use(to), _target(to / PREVIOUS)
    if current is None or previous is None:
        raise ValueError(f"{to}: no previous ship to go back to; install one")
    package = open_package(previous, any_version=True)
    allow_version(package.card)
    _link(to / CURRENT, previous)
    _link(to / PREVIOUS, current)
    return previous, current


def in_use(to: Path) -> Path | None:
    """The folder of the ship in use; None if there is none."""
    return _target(to / CURRENT)


def _copy(package: Package, to: Path) -> Package:
    """The ship under TO/ships, verified again from there. An interrupted copy is made anew."""
    card = package.card
    name = "".join(c if c in _NAME_CHARACTERS else "_" for c in card.name) or "ship"
    version = f"-v{card.version}" if card.version else ""
    target = make_folder(to / SHIPS) / f"{name}{version}-{card_hash(card)[:8]}"
    if target.is_dir():
        return _verified_copy(target)
    part = target.with_name(target.name + _PART)
    shutil.rmtree(part, ignore_errors=True)
    try:
        for file in (*card.files, CARD, *((SIGNATURE,) if (package.folder / SIGNATURE).exists() else ())):
            (part / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package.folder / file, part / file)
            _flush(part / file)
        _verified_copy(part)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    for folder in {path.parent for path in part.rglob("*")} | {part}:
        fsync_folder(folder)
    part.rename(target)
    fsync_folder(target.parent)
    return _verified_copy(target)


def _verified_copy(folder: Path) -> Package:
    return open_package(folder, any_version=True)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _shadow(
    new: Package, run: Any, current: Path | None, frames: Iterator[np.ndarray] | None
) -> tuple[ShadowResult | None, str]:
    """Both models on the same frames, or None and the reason; no reason where no other model is in use."""
    if current is None or current == new.folder:
        return None, ""
    try:
        old = open_package(current, any_version=True)
        in_use_run = runner(old)
    except ValueError as error:
        return None, f"the ship in use cannot be opened ({error})"
    for name in ("classes", "channels", "channel_order"):
        if getattr(old.card, name) != getattr(new.card, name):
            return None, f"the ship in use has other {name.replace('_', ' ')} ({getattr(old.card, name)})"
    if frames is None:
        golden = (pair.frame[0] for pair in golden_pairs(new))
        frames = (frame[..., 0] if frame.shape[2] == 1 else frame for frame in golden)
    elif new.card.channels not in (1, 3) or new.card.channel_order == "slices":
        return None, f"a model of {new.card.channels} planes reads no single images; leave --frames out"
    return compare_masks(in_use_run, old.card, run, new.card, frames), ""


def _target(link: Path) -> Path | None:
    if not link.is_symlink():
        if link.exists():
            raise ValueError(f"{link}: is no link that edgemt install made; name another folder")
        return None
    folder = link.parent / os.readlink(link)
    return folder if folder.is_dir() else None


def _link(link: Path, target: Path) -> None:
    """Point a link at a folder of `link.parent` in one step."""
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target.relative_to(link.parent), target_is_directory=True)
    os.replace(new, link)
    fsync_folder(link.parent)


def _unchanged(current: Path | None) -> str:
    return "nothing is in use" if current is None else f"{current.name} stays in use"
