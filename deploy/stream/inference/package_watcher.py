"""Whether the ship on the disk is still the one that was opened. Sizes and times are looked at; only what changed is
hashed again, so a touched file is no complaint and an edited one is.
"""

from __future__ import annotations

import os

from deploy.package.files import CARD
from deploy.package.package import Package
from edgemt.io.atomic import sha256

Stamp = tuple[int, ...]
_UNKNOWN: Stamp = ()  # so that the first look finds what was edited while the model was loaded


class ModelWatch:
    def __init__(self, ship: Package) -> None:
        self._ship = ship
        self._hashes = {**ship.card.files, CARD: sha256(ship.folder / CARD)}
        self._stamps: dict[str, Stamp | None] = dict.fromkeys(self._hashes, _UNKNOWN)
        self._bad: dict[str, str] = {}

    def look(self) -> str | None:
        """What is wrong with the folder, or None. A file that is put back as it was is right again."""
        for name, before in list(self._stamps.items()):
            now = self._stamp(name)
            if now == before:
                continue
            self._stamps[name] = now
            self._bad.pop(name, None)
            if now is None:
                self._bad[name] = "is gone"
            elif not self._same(name):
                self._bad[name] = "was changed"
        return next((f"model folder: {name} {what}" for name, what in sorted(self._bad.items())), None)

    def _same(self, name: str) -> bool:
        try:
            return sha256(self._ship.folder / name) == self._hashes[name]
        except OSError:
            return False

    def _stamp(self, name: str) -> Stamp | None:
        try:
            found = os.stat(self._ship.folder / name)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
