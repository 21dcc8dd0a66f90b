"""The spool folder: the images that were received and the segmentations that are to be sent.

Every file is written whole and flushed before it is counted, so the program may end at any moment.

    spool/key                              random; UIDs become names by a hash with this key, so a log reveals none
    spool/series/NAME/images/UID-CONTENT.dcm   one image, as it was received
    spool/series/NAME/segs/N.dcm               one segmentation
    spool/series/NAME/state.json               which images the segmentations are of, and where they were sent

A series is `received` while it has an image that no segmentation was computed with, then `predicted`, and `sent` when
every destination has every segmentation; `failed` after several attempts, until another image arrives.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from deploy.pacs.series_state import SeriesState, read_state
from edgemt.io.atomic import NoSpaceError, fsync_folder, make_folder, no_space, unwritable
from edgemt.io.file_locks import try_lock

Phase = Literal["received", "predicted", "sent", "failed"]
STATE = "state.json"


class Stored(NamedTuple):
    """`name` of the series; `known`: this image was here already; `replaced`: with another content."""

    name: str
    known: bool
    replaced: bool


@dataclass
class _Series:
    images: set[str] = field(default_factory=set)
    state: SeriesState = field(default_factory=SeriesState)

    @property
    def phase(self) -> Phase:
        if self.state.failed:
            return "failed"
        if self.images - set(self.state.covered):
            return "received"
        return "predicted" if self.state.unsent else "sent"


class Spool:
    """The folder, for one process. Safe for any number of threads.

    Raises ValueError in one line for a folder that another process uses, that cannot be written, or that is damaged.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.exists():
            make_folder(folder).chmod(0o700)  # images of patients
        self.folder = folder
        self._lock = threading.RLock()
        self._file: int | None = _lock_folder(folder)
        try:
            self._key = self._read_key()
            make_folder(folder / "series")
            shutil.rmtree(folder / "incoming", ignore_errors=True)
            make_folder(folder / "incoming")
            self._series = {path.name: self._opened(path) for path in sorted((folder / "series").iterdir())}
            self._phases = {name: series.phase for name, series in self._series.items()}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def store(self, ids: tuple[str, str, str], instance: str, data: bytes) -> Stored:
        """Store an image of the series with `ids` (patient, study, series); `instance` is its SOP instance UID.

        An image of the same UID with another content takes the place of the one before. Raises NoSpaceError when the
        disk is full, OSError where it cannot be written.
        """
        name, short = self._hashed("\0".join(ids))[:12], self._hashed(instance)[:16]
        file = f"{short}-{hashlib.sha256(data).hexdigest()[:16]}.dcm"
        with self._lock:
            series = self._series.get(name)
            before = {other for other in series.images if other.startswith(short)} if series else set()
            if file in before:
                return Stored(name, known=True, replaced=False)
        self._put(self._images(name) / file, data)
        with self._lock:
            series = self._series.setdefault(name, _Series())
            series.images.add(file)
            for other in before:
                series.images.discard(other)
                (self._images(name) / other).unlink(missing_ok=True)
            self._phases[name] = series.phase
            if series.state.failed:
                self.update(name, lambda state: replace(state, failed="", attempts=0))
        return Stored(name, known=bool(before), replaced=bool(before))

    def names(self, phase: Phase | None = None) -> list[str]:
        """The series, or those in a phase."""
        with self._lock:
            return [name for name, now in self._phases.items() if phase in (None, now)]

    def state(self, name: str) -> SeriesState:
        with self._lock:
            return self._series[name].state

    def images(self, name: str) -> list[Path]:
        """The images of a series, by name."""
        with self._lock:
            return [self._images(name) / file for file in sorted(self._series[name].images)]

    def seg(self, name: str, file: str) -> Path:
        return self._home(name) / "segs" / file

    def phase(self, name: str) -> Phase:
        with self._lock:
            return self._phases[name]

    def put_seg(self, name: str, file: str, data: bytes) -> None:
        """Write a segmentation; it counts when the state names it. Raises as `store` does."""
        self._put(self.seg(name, file), data)

    def update(self, name: str, change: Callable[[SeriesState], SeriesState]) -> SeriesState:
        """Replace the state by `change` of it, and remove segmentations that it does not name. Raises as `store`."""
        with self._lock:
            series = self._series[name]
            state = change(series.state)
            self._put(self._home(name) / STATE, state.to_json().encode())
            series.state, self._phases[name] = state, _Series(series.images, state).phase
            named = {seg.file for seg in state.segs}
            if not state.attempts:  # else a prediction is about to name the files that it writes
                for path in self._home(name).glob("segs/*.dcm"):
                    if path.name not in named:
                        path.unlink(missing_ok=True)
            return state

    def unsent(self, destination: str) -> list[tuple[str, str]]:
        """(series, file) of the segmentations that a destination is to have and has not."""
        with self._lock:
            states = [(name, self._series[name].state) for name, phase in self._phases.items() if phase != "sent"]
        return [
            (name, seg.file) for name, state in states if destination in state.destinations
            for seg in state.segs if destination not in seg.sent
        ]  # fmt: skip

    def note_sent(self, name: str, file: str, destination: str) -> None:
        """Note that a destination has a segmentation."""

        def change(state: SeriesState) -> SeriesState:
            return replace(state, segs=tuple(seg.given(destination) if seg.file == file else seg for seg in state.segs))

        self.update(name, change)

    def remove(self, name: str) -> None:
        """Remove a series and its files."""
        with self._lock:
            self._series.pop(name, None)
            self._phases.pop(name, None)
            gone = self.folder / "incoming" / f"gone-{name}-{secrets.token_hex(4)}"
            with contextlib.suppress(OSError):
                os.replace(self._home(name), gone)
            shutil.rmtree(gone, ignore_errors=True)

    def remove_sent(self, *, hours: float) -> int:
        """Remove the series that were sent so many hours ago. Returns how many."""
        old = [name for name in self.names("sent") if _age_h(self._home(name)) > hours]
        for name in old:
            self.remove(name)
        return len(old)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def _home(self, name: str) -> Path:
        return self.folder / "series" / name

    def _images(self, name: str) -> Path:
        return self._home(name) / "images"

    def _hashed(self, text: str) -> str:
        return hmac.new(self._key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()

    def _read_key(self) -> bytes:
        path = self.folder / "key"
        if not path.exists():
            if (self.folder / "series").exists():
                raise ValueError(f"{path}: is gone, and series are there; restore it, or move the folder away")
            self._put_anywhere(path, secrets.token_bytes(32))
        key = path.read_bytes()
        if len(key) != 32:
            raise ValueError(f"{path}: holds {len(key)} bytes, not 32; restore it, or move the folder away")
        return key

    def _opened(self, home: Path) -> _Series:
        """A series as it is on the disk. Of two contents of one image, which a kill can leave, the newer one counts."""
        newest: dict[str, Path] = {}
        for path in sorted(home.glob("images/*.dcm"), key=lambda path: path.stat().st_mtime_ns):
            if (older := newest.pop(path.name.partition("-")[0], None)) is not None:
                older.unlink(missing_ok=True)
            newest[path.name.partition("-")[0]] = path
        return _Series({path.name for path in newest.values()}, read_state(home / STATE))

    def _put(self, path: Path, data: bytes) -> None:
        make_folder(path.parent)
        self._put_anywhere(path, data)

    def _put_anywhere(self, path: Path, data: bytes) -> None:
        part = make_folder(self.folder / "incoming") / f"{secrets.token_hex(8)}.part"
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
            fsync_folder(path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            if no_space(error):
                raise NoSpaceError(f"{self.folder}: no space left on the disk; free some") from error
            raise


@contextlib.contextmanager
def open_spool(folder: Path) -> Iterator[Spool]:
    """The spool, closed at the end."""
    spool = Spool(folder)
    try:
        yield spool
    finally:
        spool.close()


class Listed(NamedTuple):
    """A series as it is on the disk."""

    name: str
    phase: Phase
    images: int
    state: SeriesState
    age_h: float


def list_spool(folder: Path) -> list[Listed]:
    """The series, the oldest first; also while a service uses the spool. Raises ValueError where there is none."""
    if not (folder / "key").is_file():
        raise ValueError(f"spool {folder}: is no spool of edgemt pacs; name its folder")
    found = []
    for home in (folder / "series").iterdir():
        images = {path.name for path in home.glob("images/*.dcm")}
        series = _Series(images, read_state(home / STATE))
        found.append(Listed(home.name, series.phase, len(images), series.state, _age_h(home)))
    return sorted(found, key=lambda row: -row.age_h)


def _age_h(home: Path) -> float:
    """Hours since the last image or change of state."""
    times = [path.stat().st_mtime for path in (home / STATE, home / "images") if path.exists()]
    return (time.time() - max(times, default=time.time())) / 3600


def _lock_folder(folder: Path) -> int:
    try:
        file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    except OSError as error:
        raise ValueError(f"spool {folder}: cannot be written ({unwritable(error) or error.strerror})") from None
    if try_lock(file) is False:
        os.close(file)
        raise ValueError(f"spool {folder}: another process uses it; stop that one, or name another folder")
    return file
