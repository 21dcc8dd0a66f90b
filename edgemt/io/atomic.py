"""Files that are whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_UNWRITABLE = {
    errno.EROFS: "a read-only file system",
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a file, not a folder",
    errno.EISDIR: "a folder, not a file",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "a circle of symbolic links",
}


class NoSpaceError(ValueError):
    """The disk is full. What was written before stands."""


def unwritable(error: BaseException) -> str:
    """Why a path cannot be written, in a few plain terms; empty for every other error."""
    if no_space(error):
        return "no space left on the disk"
    return _UNWRITABLE.get(error.errno or 0, "") if isinstance(error, OSError) else ""


def make_folder(path: str | Path) -> Path:
    """The folder `path` with all its parents. Raises ValueError in one line where it cannot be made."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = unwritable(error) or (error.errno == errno.ENOENT and "no folder can be made there")
        if not reason:
            raise
        kind = NoSpaceError if no_space(error) else ValueError
        raise kind(f"{path}: cannot be made ({reason}); give another folder, or mend that") from error
    return path


def fsync_folder(folder: str | Path) -> None:
    """Flush the names in a folder to the disk, so that a rename survives a power cut. Does nothing on Windows."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems flush no folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def fsync_tree(folder: str | Path) -> None:
    """Flush every file under `folder`, then every folder, the deepest first."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            with open(Path(root, name), "rb") as file:
                os.fsync(file.fileno())
        fsync_folder(root)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` on success, remove it otherwise.

    Raises NoSpaceError, naming the file, when the disk is full, and ValueError where nothing can be written.
    """
    path = Path(path)
    make_folder(path.parent)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb") as written:
            os.fsync(written.fileno())
        os.replace(part, path)
        fsync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if no_space(error):
            raise NoSpaceError(
                f"{path}: no space left on the disk; free some and run the same command again"
            ) from error
        if reason := unwritable(error):
            raise ValueError(
                f"{path}: cannot be written ({reason}); mend that and run the same command again"
            ) from error
        raise


def previous_folders(folder: Path) -> list[Path]:
    """What was set aside of `folder`: `folder.previous-N`, the newest first."""
    found = folder.parent.glob(f"{folder.name}.previous-*")
    return sorted((path for path in found if _number(path)), key=_number, reverse=True)


def next_name(folder: Path) -> Path:
    """Where `folder` goes when it is set aside."""
    highest = max(map(_number, previous_folders(folder)), default=0)
    return folder.with_name(f"{folder.name}.previous-{highest + 1}")


def set_aside(folder: Path) -> Path:
    """Rename `folder` to its `next_name`; returns that."""
    aside = next_name(folder)
    os.replace(folder, aside)
    fsync_folder(folder.parent)
    return aside


def _number(path: Path) -> int:
    tail = path.name.rpartition(".previous-")[2]
    return int(tail) if tail.isdecimal() else 0


def no_space(error: BaseException) -> bool:
    """Whether an error, or what caused it, is a full disk. Native writers say it only in words."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8 through `atomic_write`."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write bytes through `atomic_write`."""
    with atomic_write(path) as part:
        part.write_bytes(data)


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file in hexadecimal, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


class Failures:
    """Collects inputs that could not be used: a warning for each on stderr, and one ValueError with all at the end."""

    def __init__(self, *, total: int = 2) -> None:
        """total: number of inputs; with one input there is no warning, only the error at the end."""
        self._why: dict[str, str] = {}
        self._one = total < 2

    def __len__(self) -> int:
        return len(self._why)

    def add(self, path: str | Path, error: Exception) -> None:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        self._why[str(path)] = text if text.startswith(str(path)) else f"{path}: {text}"
        if not self._one:
            print(f"edgemt: warning: left out: {self._why[str(path)]}", file=sys.stderr, flush=True)

    def raise_if_any(self) -> None:
        """Raises ValueError in one line: the only one with its reason, several with their names."""
        if len(self._why) == 1:
            raise ValueError(next(iter(self._why.values())))
        if self._why:
            shown = ", ".join(list(self._why)[:20])
            more = f" and {len(self._why) - 20} more" if len(self._why) > 20 else ""
            raise ValueError(f"{len(self._why)} inputs were left out, the others are done: {shown}{more}")
