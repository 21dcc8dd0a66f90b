"""A lock for one program per live source: two programs on one camera would each receive a part of its frames."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import tempfile
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows, where a camera cannot be opened twice anyway
    fcntl = None  # type: ignore[assignment]


class SourceLock:
    """Locked until `release`, or until the process ends for any reason."""

    def __init__(self, source: str, *, folder: str | Path | None = None) -> None:
        """Raises ValueError if another process, or another stream of this process, has the lock."""
        name = f"edgemt-{hashlib.sha256(_device(source).encode()).hexdigest()[:16]}.lock"
        self._file: IO[str] | None = None
        self._name: socket.socket | None = None
        if fcntl is None:
            return
        try:
            folder = Path(folder or os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        except FileNotFoundError:  # a read-only root without a folder for temporary files
            self._name = _bind_abstract_socket(name, source)
            return
        self._file = _open_lock_file(folder / name, source)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            other = self._file.read().strip() or "unknown"
            self.release()
            raise ValueError(f"source {source}: process {other} streams from it already; stop that one first") from None
        if self._file.writable():
            self._file.truncate(0)
            self._file.write(str(os.getpid()))
            self._file.flush()

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._name is not None:
            self._name.close()
            self._name = None


def _bind_abstract_socket(name: str, source: str) -> socket.socket:
    """A socket in Linux's abstract namespace: it needs no file and disappears with the process."""
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(f"\0{name}")
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"source {source}: another process streams from it already; stop that one first") from None
        raise ValueError(
            f"source {source}: cannot be locked, there is no folder for temporary files; set XDG_RUNTIME_DIR"
        ) from None
    return bound


def _device(source: str) -> str:
    """One name per device: camera:0, camera:0:1920x1080 and /dev/video0 give the same."""
    camera = re.fullmatch(r"camera(?::(\d+))?(?::\d+x\d+)?", source)
    return f"/dev/video{camera[1] or 0}" if camera else re.sub(r"^(/dev/video\w+):\d+x\d+$", r"\1", source)


def _open_lock_file(path: Path, source: str) -> IO[str]:
    """Open for writing, or only for reading if the file belongs to another user; that is enough to lock it.

    Symbolic links are not followed.
    """
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "r+", encoding="utf-8")
    except PermissionError:
        pass
    except OSError as error:
        raise ValueError(f"source {source}: cannot be locked ({path}: {error.strerror}); remove that file") from None
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8")
