"""The files of one case, its patient, and lists of file names."""

from __future__ import annotations

import codecs
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CaseFiles:
    """Image and label file of one image or one volume."""

    name: str  # file name without its suffix
    patient: str  # the patient
    image: Path
    label: Path | None
    channels: tuple[Path | None, ...] = ()  # of a case of several files: one a channel, `image` the first that is there
    labels: tuple[Path, ...] = ()  # of overlapping classes: a mask for each, `label` the first


def patient_of(name: str, *, pattern: str) -> str:
    """The patient of a file name: the first group of the regular expression `pattern`, or else the whole name."""
    try:
        match = re.match(pattern, name)
        return match.group(1) if match and match.group(1) else name
    except (re.error, IndexError) as error:
        raise ValueError(f"data.patient_pattern: {pattern!r} is no pattern with one bracket ({error})") from None


def read_list(path: Path) -> list[str]:
    """The names of a list file, one per line, in Unicode's composed form. Blank lines and lines with # are skipped.

    The file is UTF-8, or UTF-16 with a byte order mark. Raises ValueError, naming it, where it cannot be read.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable text list ({error}); save it as UTF-8") from None
    lines = [normalise_name(line.strip().strip("\ufeff")) for line in text.splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise ValueError(f"{path}: the list is empty; write one file name a line")
    if any("\0" in name for name in names):
        raise ValueError(f"{path}: not a readable text list (UTF-16 without a byte order mark?); save it as UTF-8")
    return names


def normalise_name(name: str) -> str:
    """A name in Unicode's composed form (NFC); macOS writes decomposed ones."""
    return unicodedata.normalize("NFC", name)
