"""Which version of a model a device has run: an older ship, or one that has expired, is not opened again.

`edgemt sign --version 7 --expires 2028-01-31` writes both into the signed card. A device notes in `versions.json` of
its state folder the highest version of every model (by the name and the classes on the card) that it has installed or
streamed with a trusted key, and the latest day; a clock that is set back does not make an expired ship valid again.
`edgemt install --allow-older` allows one version explicitly. Other commands only check: to try a new ship does not
lock out the one in use.

The record protects against a mistake and against a folder that was exchanged. A program that can write the record can
remove it: give the state folder to another user (`state` in the policy) where that matters.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from deploy.package.policy import read_policy
from edgemt.io.atomic import write_text
from edgemt.io.plain_files import TEXT_LIMIT, read_regular
from edgemt.model_card import ModelCard

log = logging.getLogger("edgemt.deploy")
RECORD = "versions.json"
_warned: set[str] = set()


@dataclass(frozen=True)
class SeenVersions:
    """Of one model: the highest version that was opened, and those that were allowed although older or expired."""

    highest: int = 0
    allowed: tuple[int, ...] = ()


@dataclass(frozen=True)
class VersionRecord:
    """What this device has seen: `models` by name, and the latest day (UTC, YYYY-MM-DD)."""

    models: dict[str, SeenVersions] = field(default_factory=dict)
    latest_day: str = ""


def model_line(card: ModelCard) -> str:
    """What versions are counted for: the name of the recipe and the classes."""
    return f"{card.name}: {', '.join(card.classes[1:])}"


def record_path() -> Path:
    """versions.json in the state folder of the policy, else of the user."""
    if state := read_policy().state:
        return Path(state) / RECORD
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "edgemt" / RECORD


def read_record(path: Path) -> VersionRecord:
    """An empty record where there is no file. Raises ValueError, naming the file, for a damaged one."""
    try:
        raw: Any = json.loads(read_regular(path, limit=TEXT_LIMIT).decode("utf-8"))
        models = {
            str(name): SeenVersions(int(row["highest"]), tuple(int(n) for n in row["allowed"]))
            for name, row in raw["models"].items()
        }
        return VersionRecord(models, str(raw["latest_day"]))
    except FileNotFoundError:
        return VersionRecord()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: the record of versions is damaged ({' '.join(str(error).split())[:80]}); restore it, or check "
            "which ship should run and remove it"
        ) from None


def check_version(card: ModelCard, *, source: Path, today: str = "") -> None:
    """Raises ValueError for a signed card that is older than one that ran here, or that has expired.

    A card without a version and without an expiry is always accepted. `today`: YYYY-MM-DD, by default of the clock.
    """
    if not card.version and not card.expires:
        return
    record = read_record(record_path())
    seen = record.models.get(model_line(card), SeenVersions())
    if card.version in seen.allowed:
        return
    day = max(today or _today(), record.latest_day)
    remedy = "install a newer ship, or edgemt install it with --allow-older"
    if card.version < seen.highest:
        newer = f"this device has run version {seen.highest}"
        raise ValueError(f"{source}: version {card.version} of {card.name}, {newer}; {remedy}")
    if card.expires and day > card.expires:
        raise ValueError(f"{source}: expired on {card.expires}, the latest day seen here is {day}; {remedy}")


def note_version(card: ModelCard, *, today: str = "") -> None:
    """Note that this signed card runs here. A record that cannot be written gives one warning."""
    if not card.version and not card.expires:
        return
    path = record_path()
    record = read_record(path)
    seen = record.models.get(model_line(card), SeenVersions())
    noted = replace(seen, highest=max(seen.highest, card.version))
    after = VersionRecord({**record.models, model_line(card): noted}, max(today or _today(), record.latest_day))
    if after == record:
        return
    try:
        write_record(path, after)
    except ValueError as error:
        if str(path) not in _warned:
            _warned.add(str(path))
            log.warning("%s; an older ship would not be noticed on this device", error)


def allow_version(card: ModelCard) -> None:
    """Allow this version although it is older than another or has expired. Raises ValueError if it cannot be noted."""
    path = record_path()
    record = read_record(path)
    seen = record.models.get(model_line(card), SeenVersions())
    allowed = replace(seen, allowed=tuple(sorted({*seen.allowed, card.version})))
    write_record(path, replace(record, models={**record.models, model_line(card): allowed}))


def write_record(path: Path, record: VersionRecord) -> None:
    """Replace the record. Raises ValueError, naming the file, where it cannot be written."""
    models = {
        name: {"highest": seen.highest, "allowed": list(seen.allowed)} for name, seen in sorted(record.models.items())
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"models": models, "latest_day": record.latest_day}, indent=1) + "\n")
    except OSError as error:
        raise ValueError(f"{path}: the record of versions cannot be written ({error.strerror})") from None


def _today() -> str:
    return f"{datetime.now(timezone.utc):%Y-%m-%d}"
