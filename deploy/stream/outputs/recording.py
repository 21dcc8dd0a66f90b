"""Whether anything of this process is being written to a disk, so that whoever watches can be told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_under_way: list[str] = []


@contextmanager
def recording(what: str) -> Iterator[None]:
    """From here to the end of the block, `what` is written."""
    _under_way.append(what)
    try:
        yield
    finally:
        _under_way.remove(what)


def under_way() -> bool:
    return bool(_under_way)
