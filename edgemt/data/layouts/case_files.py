"""The files of one case, its patient, and lists of file names."""

from __future__ import annotations

import codecs
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Item:
    """A file that may become cases: one image, or one volume."""

    name: str  # file name without its suffix
    group: str  # the patient
    image: Path
    label: Path | None


def group_of(name: str, *, pattern: str) -> str:
    """The patient a file belongs to: what the first bracket of `pattern` catches."""
    try:
        match = re.match(pattern, name)
        return match.group(1) if match and match.group(1) else name
    except (re.error, IndexError) as error:
        raise ValueError(f"data.patient_pattern: {pattern!r} is no pattern with one bracket ({error})") from None


def read_list(path: Path) -> list[str]:
    """One name a line, in UTF-8 or, with its byte order mark, UTF-16; blank lines and lines that start with # are
    passed over. Names are composed (NFC), as those of files are."""
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable text list ({error}); save it as UTF-8") from None
    lines = [composed(line.strip().strip("\ufeff")) for line in text.splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise ValueError(f"{path}: the list is empty; write one file name a line")
    if any("\0" in name for name in names):
        raise ValueError(f"{path}: not a readable text list (UTF-16 without a byte order mark?); save it as UTF-8")
    return names


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC): macOS writes others, and both look the same."""
    return unicodedata.normalize("NFC", name)
