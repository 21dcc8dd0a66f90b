"""Label files: JSON, XML and lines of text, read whole, as UTF-8, within a size."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from edgemt.io.plain_files import parse_json, read_regular

_LIMIT = 1 << 30  # bytes; a COCO file of 100,000 polygons has some 100 MB


def read_text(path: Path) -> str:
    """The text of a file in UTF-8. Raises ValueError, naming it, for another encoding, or a file that is too large."""
    try:
        return read_regular(path, limit=_LIMIT).decode("utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not UTF-8 text; save it as UTF-8, or export it again") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises ValueError, naming it, for one that is damaged or cut short."""
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: is not whole JSON ({error}); export it again") from None


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file. Raises ValueError, naming it, for damaged ones and for a document type or entities.

    Entities can grow a few bytes to gigabytes, and label files need none.
    """
    return parse_xml(read_text(path), path)


def parse_xml(text: str, path: Path) -> ElementTree.Element:
    """The same of a text; `path` names it in messages."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(
            f"{path}: declares a document type or entities, which label files do not need; export it again"
        )
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: is not whole XML ({error}); export it again") from None


def starts_like(path: Path, *texts: str, within: int = 4096) -> bool:
    """Whether the first bytes of a file hold one of `texts`."""
    try:
        with path.open("rb") as file:
            start = file.read(within)
    except OSError:
        return False
    return any(text.encode() in start for text in texts)


def files_like(source: Path, suffix: str, *, levels: int = 2) -> list[Path]:
    """Files of a suffix in `source` and so many levels of folders, sorted; the file itself where it is one."""
    if source.is_file():
        return [source] if source.name.lower().endswith(suffix) else []
    patterns = ["*/" * level + "*" for level in range(levels + 1)]
    found = (p for pattern in patterns for p in source.glob(pattern) if p.name.lower().endswith(suffix) and p.is_file())
    return sorted(p for p in found if not p.name.startswith("."))


def whole_number(value: Any, *, source: Path, field: str) -> int:
    """A whole number of a label file. Raises ValueError, naming file and field, for anything else."""
    number = float(value) if isinstance(value, (int, float)) or (isinstance(value, str) and _is_number(value)) else None
    if number is None or number != number or number != int(number):
        raise ValueError(f"{source}: {field} is {value!r}, no whole number; export it again")
    return int(number)


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < 1e15
    except ValueError:
        return False
