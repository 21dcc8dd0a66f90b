"""Files that are whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NoSpaceError(ValueError):
    """The disk is full. What was written before stands."""


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` on success, remove it otherwise.

    Raises NoSpaceError, naming the file, when the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb") as written:
            os.fsync(written.fileno())
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if no_space(error):
            raise NoSpaceError(
                f"{path}: no space left on the disk; free some and run the same command again"
            ) from error
        raise


def no_space(error: BaseException) -> bool:
    """Whether an error, or what caused it, is a full disk. Native writers say it only in words."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)


def write_text(path: str | Path, text: str) -> None:
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def write_bytes(path: str | Path, data: bytes) -> None:
    with whole(path) as part:
        part.write_bytes(data)


def sha256(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


class Failures:
    """Inputs that could not be used while the others were: told one by one on stderr, and named together at the end."""

    def __init__(self, *, total: int = 2) -> None:
        """Of one input alone, only the end tells."""
        self._why: dict[str, str] = {}
        self._one = total < 2

    def __bool__(self) -> bool:
        return bool(self._why)

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
