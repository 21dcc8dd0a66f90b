"""A disk that is full for the event log."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import pytest

from deploy.event_log import log_file


def full_disk(monkeypatch: pytest.MonkeyPatch, *, room: int) -> SimpleNamespace:
    """A disk with so many bytes left; `room` may be raised later."""
    disk, write = SimpleNamespace(room=room), os.write

    def limited(file: int, data: bytes) -> int:
        if disk.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = write(file, data[: disk.room])
        disk.room -= done
        return done

    monkeypatch.setattr(log_file.os, "write", limited)
    return disk
