"""Small files read once and whole: what is verified is the bytes that are used, and only a regular file is opened."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

TEXT_LIMIT = 64 << 20  # bytes of a card, a list or another JSON file


def read_regular(path: str | Path, *, limit: int | None = None) -> bytes:
    """The bytes of a regular file, at most `limit`.

    Raises FileNotFoundError and other OSErrors as `open` does, and ValueError, naming the file, for a FIFO, a device
    or a folder, which would block or never end, and for a larger file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise ValueError(f"{path}: is no regular file; replace it by a copy of the file itself")
    with os.fdopen(descriptor, "rb") as file:
        if limit is not None and found.st_size > limit:
            raise ValueError(f"{path}: holds {found.st_size} bytes, at most {limit} are read; is it the right file?")
        data = file.read() if limit is None else file.read(limit + 1)
    if limit is not None and len(data) > limit:
        raise ValueError(f"{path}: grew beyond {limit} bytes while it was read; is it the right file?")
    return data


def parse_json(text: str) -> Any:
    """As `json.loads`, but what is nested too deeply raises ValueError as well."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
