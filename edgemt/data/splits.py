"""Who is labelled, who is not, who validates: lists, counts and shares that never tear a patient apart."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from edgemt.data.layouts.case_files import Item, composed
from edgemt.io.file_types import stem_of

_NUMBERED = re.compile(r"^(.*\d.*?)[ _.-]+[a-z]*\d+$", re.IGNORECASE)


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


def pick(items: Sequence[Item], names: Iterable[str], *, source: Path) -> list[Item]:
    """The items that a list names: by file, with or without suffix or folder, or by patient, all of them."""
    wanted: set[str] = set()
    by_name: dict[str, Item] = {}
    files = Counter(item.image.name for item in items)
    for item in items:
        if files[item.image.name] == 1:
            by_name |= {composed(item.image.name): item, composed(stem_of(item.image)): item}
    by_name |= {item.name: item for item in items}
    by_group: dict[str, list[Item]] = {}
    for item in items:
        by_group.setdefault(item.group, []).append(item)
    unknown = []
    for name in names:
        base = re.split(r"[/\\]", name)[-1]
        if name in by_name:
            wanted.add(by_name[name].name)
        elif name in by_group:
            wanted.update(item.name for item in by_group[name])
        elif base in by_name:
            wanted.add(by_name[base].name)
        else:
            unknown.append(name)
    if unknown:
        near = difflib.get_close_matches(unknown[0], list(by_name), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; names must match the image files"
        raise ValueError(f"{source}: names {len(unknown)} unknown file(s), first {unknown[0]!r}{hint}")
    return [item for item in items if item.name in wanted]


def patients(items: Iterable[Item], *, always: bool) -> dict[str, bool]:
    """Each patient, in lower case, and whether a file name tells more than the patient: `p1_frame2`, not `p1`.
    `always`: as if."""
    found: dict[str, bool] = {}
    for item in items:
        patient = item.group.casefold()
        found[patient] = found.get(patient, always) or item.group != item.name
    return found


def same_patient(item: Item, known: dict[str, bool], *, always: bool) -> bool:
    """Whether an item belongs to one of `known` (`patients`). A plain name in two folders, 7 and 7, means nothing."""
    patient = item.group.casefold()
    return patient in known and (always or known[patient] or item.group != item.name)


def alike(training: Iterable[Item], val: Iterable[Item]) -> str:
    """What to say where names look like PATIENT_NUMBER, the pattern takes each for a patient of its own, and such a
    patient would both train and validate; empty otherwise. One beginning for all names (KiTS19_00001) is no patient."""
    training, val = list(training), list(val)
    begins = {item.name: found[1] for item in (*training, *val) if (found := _NUMBERED.match(item.name))}
    if len(set(begins.values())) < 2:
        return ""
    tested = {begins[item.name] for item in val if item.group == item.name and item.name in begins}
    shared = [item for item in training if item.group == item.name and begins.get(item.name) in tested]
    if not shared:
        return ""
    return (
        f"{len(shared)} training images begin as validation images do, first {begins[shared[0].name]!r}; if that is "
        "the patient, give --data.patient-pattern '^(.*)[_-][a-z]*\\d+$'"
    )


def refuse_shared(labelled: Iterable[Item], val: Iterable[Item], *, always: bool = True) -> None:
    """Raises ValueError when a patient both teaches and validates."""
    known = patients(val, always=always)
    shared = sorted({item.group for item in labelled if same_patient(item, known, always=always)})
    if shared:
        raise ValueError(
            f"data.labelled and data.val share {len(shared)} patients, first {shared[0]!r}; keep each on one"
        )
