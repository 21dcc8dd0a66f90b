"""One stream a camera: two programs that share a live source would each get some of its frames, and not know it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows, where a camera cannot be opened twice anyway
    fcntl = None  # type: ignore[assignment]


class SourceLock:
    """Held until `release`, or until the process ends, however it ends."""

    def __init__(self, source: str, *, folder: str | Path | None = None) -> None:
        """Raises ValueError when another process, or another stream of this one, holds it."""
        name = f"edgemt-{hashlib.sha256(source.encode()).hexdigest()[:16]}.lock"
        self._file: IO[str] | None = None
        if fcntl is None:
            return
        folder = Path(folder or os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        self._file = open(folder / name, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            other = self._file.read().strip() or "unknown"
            self._file.close()
            self._file = None
            raise ValueError(f"source {source}: process {other} streams from it already; stop that one first") from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
