"""Who is labelled, who is not, who validates: lists, counts and shares that never tear a patient apart."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


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


def amount(text: str, *, field: str) -> int | float | None:
    """`80` is a count, `0.1` a share, anything else (a file name) is None."""
    if re.fullmatch(r"\d+", text):
        return int(text)
    if re.fullmatch(r"\d*\.\d+", text):
        if not 0 < float(text) <= 1:
            raise ValueError(f"data.{field}: a share must lie in (0, 1], not {text}")
        return float(text)
    return None


def draw(items: Sequence[Item], *, how_many: int | float, seed: int, field: str) -> list[Item]:
    """Whole patients, drawn by `seed` from the sorted names: the order on disk or in a list is nothing."""
    groups = sorted({item.group for item in items})
    count = how_many if isinstance(how_many, int) else max(1, round(how_many * len(groups)))
    if not 1 <= count <= len(groups):
        raise ValueError(f"data.{field}: asks for {count} patients or images with a mask, {len(groups)} are there")
    order = np.random.default_rng(seed).permutation(len(groups))
    chosen = {groups[i] for i in order[:count]}
    return [item for item in items if item.group in chosen]


def find_list(text: str, *, root: Path, field: str) -> Path:
    """A list file: as given when absolute, else under `root`, else under `root/splits`."""
    tried = [Path(text)] if Path(text).is_absolute() else [root / text, root / "splits" / text]
    for path in tried:
        if path.is_file():
            return path
    raise ValueError(f"data.{field}: no list file {text!r}; looked for {' and '.join(map(str, tried))}")


def read_list(path: Path) -> list[str]:
    """One name a line; blank lines and lines that start with # are passed over."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable text list ({error})") from None
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise ValueError(f"{path}: the list is empty; write one file name a line")
    return names


def pick(items: Sequence[Item], names: Iterable[str], *, source: Path) -> list[Item]:
    """The items that a list names: by file, with or without suffix, or by patient, all of them."""
    wanted: set[str] = set()
    by_name = {item.name: item for item in items} | {item.image.name: item for item in items}
    by_group: dict[str, list[Item]] = {}
    for item in items:
        by_group.setdefault(item.group, []).append(item)
    unknown = []
    for name in names:
        if name in by_name:
            wanted.add(by_name[name].name)
        elif name in by_group:
            wanted.update(item.name for item in by_group[name])
        else:
            unknown.append(name)
    if unknown:
        near = difflib.get_close_matches(unknown[0], list(by_name), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; names must match the image files"
        raise ValueError(f"{source}: names {len(unknown)} unknown file(s), first {unknown[0]!r}{hint}")
    return [item for item in items if item.name in wanted]


def refuse_shared(labelled: Iterable[Item], val: Iterable[Item]) -> None:
    """Raises ValueError when a patient both teaches and validates."""
    shared = sorted({item.group for item in labelled} & {item.group for item in val})
    if shared:
        raise ValueError(
            f"data.labelled and data.val share {len(shared)} patients, first {shared[0]!r}; keep each on one"
        )
