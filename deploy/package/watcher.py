"""Detects changes of a package on disk while it is in use.

Sizes and times of its files are compared; a file is hashed again only if they changed. So an edited file is reported,
and a file with a new date and the same content is not.
"""

from __future__ import annotations

import os

from deploy.package.files import CARD
from deploy.package.package import Package
from edgemt.io.atomic import sha256

Stamp = tuple[int, ...]
_UNKNOWN: Stamp = ()  # the first check hashes all files: one may have changed while the model was loaded


class PackageWatcher:
    """Compares the files of a package with the hashes on its card."""

    def __init__(self, package: Package) -> None:
        self._package = package
        self._hashes = {**package.card.files, CARD: sha256(package.folder / CARD)}
        self._stamps: dict[str, Stamp | None] = dict.fromkeys(self._hashes, _UNKNOWN)
        self._bad: dict[str, str] = {}

    def check(self) -> str | None:
        """The first file that is missing or changed, as a message; None if all files are as they were."""
        for name, previous in list(self._stamps.items()):
            current = self._stamp(name)
            if current == previous:
                continue
            self._stamps[name] = current
            self._bad.pop(name, None)
            if current is None:
                self._bad[name] = "is gone"
            elif not self._has_expected_hash(name):
                self._bad[name] = "was changed"
        return next((f"model folder: {name} {change}" for name, change in sorted(self._bad.items())), None)

    def _has_expected_hash(self, name: str) -> bool:
        try:
            return sha256(self._package.folder / name) == self._hashes[name]
        except OSError:
            return False

    def _stamp(self, name: str) -> Stamp | None:
        try:
            stat = os.stat(self._package.folder / name)
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino
