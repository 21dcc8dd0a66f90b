"""Errors of the libraries that decode files, as one line: they raise whatever a damaged file leads them to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Refused(ValueError):  # noqa: N818
    """A line that is complete: it names the file and the remedy."""


@contextmanager
def decoding(path: str | Path, kind: str, *, remedy: str = "copy the file again") -> Iterator[None]:
    """What is raised inside becomes a ValueError of one line that names the file.

    A missing file stays FileNotFoundError, missing memory MemoryError. A line of our own goes through as it is when it
    names the file and is one line.
    """
    try:
        yield
    except (FileNotFoundError, MemoryError, Refused):
        raise
    except ValueError as error:
        text = str(error)
        if text.startswith(str(path)) and "\n" not in text:
            raise
        raise Refused(_line(path, kind, error, remedy)) from None
    except Exception as error:
        raise Refused(_line(path, kind, error, remedy)) from None


def _line(path: str | Path, kind: str, error: Exception, remedy: str) -> str:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return f"{path}: cannot be read as {kind} ({reason}); {remedy}"
