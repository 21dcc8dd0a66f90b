"""`edgemt install`: put a ship in use on a device, or go back to the one before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from edgemt.commands.console import log, write_json

if TYPE_CHECKING:
    import numpy as np

    from deploy.update.install import Installed


@dataclass(frozen=True)
class Install:
    """Copy a ship to the folder TO, verify and test it there, run it beside the one in use, then put it in use.

    Afterwards TO/current is the ship in use: edgemt stream TO/current. Whatever stops the installation, the ship that
    was in use stays in use. A version lower than one that has run on this device, and one that has expired, is refused
    (edgemt sign --version --expires; checked where a key is trusted).
    """

    ship: Positional[Path | None] = None
    """The new ship; leave it out with --back."""
    to: Path = Path("models")
    """The folder of the models of this device."""
    back: bool = False
    """Put the previous ship in use again."""
    frames: Path | None = None
    """Folder of images on which both models run, such as the images/ that edgemt stream --collect saved. Without it the
    golden frames of the new ship."""
    min_agreement: float = 0.0
    """Mean foreground Dice between both models that is required; 0: it is only printed."""
    allow_older: bool = False
    """Install it although this device has run a newer version, or although it has expired; the event log states it."""
    log: Path | None = None
    """Append what was done to this event log, as edgemt stream --log writes it."""
    json: Path | None = None


def install_ship(command: Install) -> None:
    """Install, or go back, and print what is in use."""
    from deploy.update.install import back, install

    _check_arguments(command)
    if command.back:
        now, before = back(command.to)
        _write_event(command, "went-back", {"to": now.name, "from": before.name})
        write_json(command.json, {"in_use": now.name, "before": before.name})
        print(f"{now.name} is in use again; before it was {before.name}")
        return
    assert command.ship is not None
    try:
        done = install(
            command.ship,
            command.to,
            frames=None if command.frames is None else _frames(command.frames),
            min_agreement=command.min_agreement,
            allow_older=command.allow_older,
            log=log,
        )
    except ValueError as error:
        _write_event(command, "install-refused", {"reason": str(error)[:200]})
        raise
    if done.shadow is not None:
        log(str(done.shadow))
    record = _record(done)
    _write_event(command, "installed", {key: value for key, value in record.items() if key != "test"})
    write_json(command.json, record)
    version = f" version {done.version}" if done.version else ""
    print(f"{done.folder.name} is in use: {done.model}{version}{'' if done.signed else ', no trusted key checked it'}")


def _check_arguments(command: Install) -> None:
    if command.back == (command.ship is not None):
        raise ValueError("ship: name the new ship, or give --back without one")
    if not 0 <= command.min_agreement <= 1:
        raise ValueError(f"min-agreement: must be between 0 and 1, not {command.min_agreement:g}")
    if command.frames is not None and not command.frames.is_dir():
        raise ValueError(f"frames {command.frames}: no such folder")


def _frames(folder: Path) -> Iterator[np.ndarray]:
    """The images of a folder by name, upright. Raises ValueError, naming the file, for a damaged one."""
    from edgemt.io import file_types
    from edgemt.io.images import read_image

    for path in sorted(folder.iterdir()):
        if file_types.is_image(path):
            yield read_image(path)


def _record(done: Installed) -> dict[str, Any]:
    return {
        "in_use": done.folder.name,
        "before": done.before,
        "model": done.model,
        "version": done.version,
        "card": done.card,
        "signed": done.signed,
        "allowed_older": done.allowed,
        "test": done.test,
        "shadow": None if done.shadow is None else asdict(done.shadow),
    }


def _write_event(command: Install, name: str, fields: dict[str, Any]) -> None:
    if command.log is None:
        return
    from deploy.event_log.log_file import EventLogFile

    file = EventLogFile(command.log)
    try:
        file.append(name, fields)
    finally:
        file.close()
