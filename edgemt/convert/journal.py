"""What an import has written so far: a line for each file in OUT.partial, so that the same command goes on.

A line is appended when its files are complete under their own names. A unit whose source files changed since is
written again. The last line may be cut short by a kill; it is ignored.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgemt.io.atomic import make_folder
from edgemt.io.file_locks import try_lock

JOURNAL, _PART = "import.jsonl", "import.part"


def _locked(folder: Path) -> int | None:
    """A lock on a folder, which the system releases when the process ends. Raises ValueError where another has it."""
    if os.name == "nt":  # folders cannot be opened
        return None
    handle = os.open(folder, os.O_RDONLY)
    if try_lock(handle) is False:
        os.close(handle)
        raise ValueError(f"{folder}: another import writes there; wait for it, or give another --out")
    return handle


class Journal:
    """The lines of one import. `done` has the samples of a unit by name, `finished` the units that are complete."""

    def __init__(self, folder: Path, key: str) -> None:
        """Opens the journal of `folder`, or begins one. What another import left there is removed.

        Raises ValueError for a folder that is no import, and for one that another process writes.
        """
        self.folder, self.path = folder, folder / JOURNAL
        make_folder(folder)
        self._lock = _locked(folder)
        lines = self._read()
        if not lines and any(path.name != _PART for path in folder.iterdir()):
            self._release()
            raise ValueError(f"{folder}: is not what an import left; move it away")
        if lines and lines[0].get("key") != key:
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            lines = []
        self.resumed = bool(lines[1:])
        self.units: dict[str, dict[str, Any]] = {}
        for line in lines[1:]:
            self._apply(line)
        self._rewrite({"key": key})
        self._file = self.path.open("a", encoding="utf-8")

    def begin(self, unit: str, identity: list[list[int]]) -> None:
        """Start or go on with a unit; what was written of other source files is removed."""
        found = self.units.get(unit)
        if found is not None and found["identity"] == identity:
            return
        self._remove(unit)
        self._write({"unit": unit, "identity": identity})

    def done(self, unit: str) -> dict[str, dict[str, Any]]:
        """Samples of a unit that are written, by name."""
        return {name: row for name, row in self.units[unit]["samples"].items() if self._whole(row)}

    def finished(self, unit: str) -> bool:
        """Whether a unit is complete, with all its files."""
        found = self.units[unit]
        return bool(found["finished"]) and all(map(self._whole, found["samples"].values()))

    def add(self, unit: str, sample: str, row: dict[str, Any]) -> None:
        self._write({"unit": unit, "sample": sample, "row": row})

    def finish(self, unit: str, hashes: list[str]) -> None:
        self._write({"unit": unit, "finished": hashes})

    def drop_others(self, units: set[str]) -> None:
        """Remove what was written of units that are no longer in the source."""
        for unit in set(self.units) - units:
            self._remove(unit)

    def close(self) -> None:
        self._file.close()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _whole(self, row: dict[str, Any]) -> bool:
        """Whether the files of a sample have the size that they had when they were written."""
        files = [self.folder / name for name in row["files"]]
        return all(
            file.is_file() and file.stat().st_size == size for file, size in zip(files, row["bytes"], strict=True)
        )

    def _remove(self, unit: str) -> None:
        for row in self.units.pop(unit, {"samples": {}})["samples"].values():
            for name in row["files"]:
                path = self.folder / name
                path.unlink(missing_ok=True)
                with suppress(OSError):  # the folder of a clip, once it is empty
                    path.parent.rmdir()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self._apply(line)

    def _apply(self, line: dict[str, Any]) -> None:
        if "identity" in line:
            self.units[line["unit"]] = {"identity": line["identity"], "samples": {}, "finished": []}
        elif "sample" in line:
            self.units[line["unit"]]["samples"][line["sample"]] = line["row"]
        else:
            self.units[line["unit"]]["finished"] = line["finished"]

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        lines = []
        for text in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
        return lines

    def _rewrite(self, header: dict[str, Any]) -> None:
        """The journal without a last line that was cut short."""
        lines = [header]
        for unit, found in self.units.items():
            lines.append({"unit": unit, "identity": found["identity"]})
            lines += [{"unit": unit, "sample": name, "row": row} for name, row in found["samples"].items()]
            if found["finished"]:
                lines.append({"unit": unit, "finished": found["finished"]})
        part = self.folder / _PART
        part.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        os.replace(part, self.path)
