"""One run in one folder: `OUT/.lock` states the process that works there, its host and its start.

On one machine the operating system decides: the lock ends with its process, however that ended. Where the file names
another machine, only that machine can tell, so the folder stays locked until the file is removed.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgemt.io.atomic import NoSpaceError, make_folder, no_space, unwritable
from edgemt.io.file_locks import try_lock

LOCK = ".lock"
_CLOSED = -1


class FolderInUseError(ValueError):
    """Another process works in the folder."""


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Make `folder` and lock it for this process.

    Raises FolderInUseError, with the process, host and start of the other run, and ValueError where nothing can be
    written: on a read-only file system, on or under a file, on a full disk.
    """
    path = make_folder(folder) / LOCK
    handle = _take(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        if handle != _CLOSED:
            os.close(handle)


def _take(path: Path) -> int:
    while True:
        handle = _open(path)
        try:
            alone = try_lock(handle)
            holder = _read(handle)
            if alone is False or (holder and not _ended(holder, flock=alone is True)):
                raise FolderInUseError(_in_use(path, holder))
            if not _same_file(handle, path):  # the other process removed it between the two calls
                os.close(handle)
                continue
            _write(handle, path)
        except BaseException:
            with suppress(OSError):
                os.close(handle)
            raise
        if os.name == "nt":  # an open file cannot be removed there
            os.close(handle)
            return _CLOSED
        return handle


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if not (reason := unwritable(error)):
            raise
        kind = NoSpaceError if no_space(error) else ValueError
        raise kind(f"{path.parent}: cannot be written ({reason}); give another --out, or mend that") from error


def _read(handle: int) -> dict[str, Any]:
    os.lseek(handle, 0, os.SEEK_SET)
    try:
        holder = json.loads(os.read(handle, 4096).decode())
        return holder if isinstance(holder, dict) else {}
    except ValueError:
        return {}


def _ended(holder: dict[str, Any], *, flock: bool) -> bool:
    """Whether the process that wrote the file is gone. One on another machine counts as working."""
    boot = _boot()
    same_kernel = bool(boot) and holder.get("boot") == boot
    if not same_kernel and holder.get("host") != socket.gethostname():
        return False
    if not same_kernel and boot and holder.get("boot"):
        return True  # this host was started anew since
    return flock or not _lives(holder.get("pid"))


def _lives(pid: Any) -> bool:
    if not isinstance(pid, int) or pid < 1 or os.name == "nt":
        return isinstance(pid, int)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _write(handle: int, path: Path) -> None:
    began = datetime.now(timezone.utc).isoformat(timespec="seconds")
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": began, "boot": _boot()}) + "\n"
    try:
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, text.encode())
        os.fsync(handle)
    except OSError as error:
        if not no_space(error):
            raise
        raise NoSpaceError(f"{path.parent}: no space left on the disk; free some, or give another --out") from error


def _in_use(path: Path, holder: dict[str, Any]) -> str:
    who = (
        f"process {holder.get('pid', '?')} on {holder.get('host', 'an unnamed host')}" if holder else "another process"
    )
    since = f" since {holder['since']} ({_age(str(holder['since']))})" if holder.get("since") else ""
    elsewhere = bool(holder) and holder.get("host") != socket.gethostname()
    remedy = f"if that run is over, remove {path}" if elsewhere else "wait for it, stop it, or give another --out"
    return f"{path.parent}: in use by {who}{since}; {remedy}"


def _age(since: str) -> str:
    try:
        seconds = time.time() - datetime.fromisoformat(since).timestamp()
    except ValueError:
        return "age unknown"
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _boot() -> str:
    """What identifies the running kernel: the containers of one machine share it. Empty outside Linux."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
