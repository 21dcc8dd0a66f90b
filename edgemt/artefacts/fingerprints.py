"""What a result depends on, by content: the sha256 of every image and mask of a list, and what changed between two.

A file is hashed once. Its digest stays in the user's cache (`$XDG_CACHE_HOME/edgemt/fingerprints`, one JSON file for
each data folder) beside path, size, inode, mtime and ctime, all of which must be the same for it to be taken again. A
file edited in place with its size and mtime restored has another ctime, which no program can set. A file that changed
in the last two seconds is not cached: a further edit could fall into the same tick of the clock.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgemt.contract import Case
from edgemt.io.atomic import sha256, write_text

FORMAT = 1
_TICK_NS = 2_000_000_000  # of the coarsest clock of a file system (FAT)
_SHOWN = 3  # file names in a line of changes


@dataclass(frozen=True)
class Entry:
    """One image, or one volume, of a list. Digests are empty where there is no mask."""

    name: str
    image: str  # sha256
    label: str  # sha256
    image_path: str = ""  # for messages alone
    label_path: str = ""


@dataclass(frozen=True)
class Content:
    """What the files of a data set hold, list by list, in the order in which they are read."""

    labelled: tuple[Entry, ...]
    unlabelled: tuple[Entry, ...]
    val: tuple[Entry, ...]

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Content:
        """Of what `asdict` gave."""
        return cls(**{name: tuple(Entry(**entry) for entry in raw[name]) for name in ("labelled", "unlabelled", "val")})


def entries(cases: Sequence[Case], *, digests: Mapping[str, str], root: Path | None) -> tuple[Entry, ...]:
    """The files of a list, each once: the slices of a volume are one entry."""
    found: dict[tuple[str, str], Entry] = {}
    for case in cases:
        files = case.image, case.label or ""
        if files not in found:
            name = case.name if case.slice is None else case.name.rpartition("/")[0]
            hashes = _image_digest(case, digests), _label_digest(case, digests)
            found[files] = Entry(name, *hashes, *(_shown(file, root) for file in files))
    return tuple(found.values())


def _image_digest(case: Case, digests: Mapping[str, str]) -> str:
    """Of several channels a hash of theirs, in order."""
    if not case.channels:
        return digests.get(case.image, "")
    return hashlib.sha256(json.dumps([digests.get(path, "") for path in case.channels]).encode()).hexdigest()


def _label_digest(case: Case, digests: Mapping[str, str]) -> str:
    """Of a mask for each class a hash of theirs, in order."""
    if not case.labels:
        return digests.get(case.label or "", "")
    return hashlib.sha256(json.dumps([digests.get(path, "") for path in case.labels]).encode()).hexdigest()


def key_of_entries(*lists: Sequence[Entry]) -> str:
    """A hash of the content and order of lists, wherever the files lie."""
    plain = [FORMAT, *([[entry.name, entry.image, entry.label] for entry in part] for part in lists)]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def digests_of(paths: Iterable[str], *, root: Path | None = None) -> dict[str, str]:
    """By path the SHA-256 of a file, or of the names and contents of a folder of slices.

    `phantom:SEED` is its own digest. Raises ValueError, naming the file, when one cannot be read.
    """
    wanted = list(dict.fromkeys(path for path in paths if path))
    inside = {path: _files_of(path) for path in wanted}
    cache = _Cache(root) if root is not None else None
    flat = [file for files in inside.values() for file in files]
    known = cache.read() if cache is not None else {}
    rows = {file: row for file in flat if (row := known.get(file)) is not None and row[:-1] == _state(file)}
    new = [file for file in flat if file not in rows]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        rows |= zip(new, pool.map(_row, new), strict=True)
    if cache is not None and any(known.get(file) != row for file, row in rows.items()):
        cache.write({**known, **rows})
    return {path: _joined(path, files, rows) for path, files in inside.items()}


def _files_of(path: str) -> list[str]:
    if path.startswith("phantom"):
        return []
    if not os.path.isdir(path):
        return [os.path.abspath(path)]
    return sorted(str(inside.absolute()) for inside in Path(path).iterdir() if inside.is_file())


def _joined(path: str, files: list[str], rows: Mapping[str, list[Any]]) -> str:
    if not files:
        return path
    if not os.path.isdir(path):
        return str(rows[files[0]][-1])
    names = [[os.path.basename(file), rows[file][-1]] for file in files]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def _row(file: str) -> list[Any]:
    """[device, inode, size, mtime, ctime, sha256]; the state is taken before the content."""
    state = _state(file)
    try:
        return [*state, sha256(file)]
    except OSError as error:
        raise _unreadable(file, error) from None


def _state(file: str) -> list[int]:
    try:
        s = os.stat(file)
    except OSError as error:
        raise _unreadable(file, error) from None
    return [s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns]


def _unreadable(file: str, error: OSError) -> ValueError:
    return ValueError(f"{file}: cannot be read ({error.strerror}); mend or remove the file")


class _Cache:
    """The digests of one data folder. It saves time alone: without a writable folder every file is hashed anew."""

    def __init__(self, root: Path):
        name = hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:32]
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        self.file = Path(base, "edgemt", "fingerprints", f"{name}.json")

    def read(self) -> dict[str, list[Any]]:
        try:
            raw = json.loads(self.file.read_text(encoding="utf-8"))
            rows = raw["files"] if raw["format"] == FORMAT else {}
            return {file: row for file, row in rows.items() if len(row) == 6 and isinstance(row[-1], str)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def write(self, rows: Mapping[str, list[Any]]) -> None:
        settled = time.time_ns() - _TICK_NS
        lasting = {file: row for file, row in rows.items() if row[4] < settled}
        try:
            write_text(self.file, json.dumps({"format": FORMAT, "files": lasting}))
        except (OSError, ValueError):
            return


def _shown(file: str, root: Path | None) -> str:
    """Relative to the data folder where it lies inside."""
    return os.path.relpath(file, root) if root is not None and file.startswith(f"{root}{os.sep}") else file


def changes(old: Sequence[Entry], new: Sequence[Entry], *, what: str) -> list[str]:
    """What differs between two states of a list, a line each: `validation masks changed (1 of 20 files: a.png)`."""
    before, after = _numbered(old), _numbered(new)
    both = [name for name in after if name in before]
    lines = []
    for kind in ("image", "label"):
        paths = [
            getattr(after[n], f"{kind}_path") or n for n in both if getattr(before[n], kind) != getattr(after[n], kind)
        ]
        if paths:
            noun = "images" if kind == "image" else "masks"
            lines.append(f"{what} {noun} changed ({len(paths)} of {len(new)} files: {_first(paths)})")
    added = [after[n].image_path for n in after if n not in before]
    gone = [before[n].image_path for n in before if n not in after]
    if added or gone:
        parts = [f"{len(part)} {verb}: {_first(part)}" for part, verb in ((added, "added"), (gone, "removed")) if part]
        lines.append(f"{what} list changed ({'; '.join(parts)})")
    if not lines and key_of_entries(old) != key_of_entries(new):
        lines.append(f"{what} list changed (its order)")
    return lines


def changes_of(old: Content, new: Content, *names: str) -> list[str]:
    """`changes` of the lists `names` (labelled, unlabelled, val)."""
    called = {"val": "validation"}
    return [
        line for name in names for line in changes(getattr(old, name), getattr(new, name), what=called.get(name, name))
    ]


def _numbered(part: Sequence[Entry]) -> dict[str, Entry]:
    """By name; a second entry of one name gets a number."""
    found: dict[str, Entry] = {}
    for entry in part:
        name, count = entry.name, 1
        while name in found:
            count += 1
            name = f"{entry.name} ({count})"
        found[name] = entry
    return found


def _first(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more


def save_content(file: Path, content: Content) -> None:
    """Write what `load_content` reads."""
    write_text(file, json.dumps(asdict(content)))


def load_content(file: Path) -> Content | None:
    """None for a file that is missing or damaged."""
    try:
        return Content.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
