"""Splits by patient: list files, counts and fractions. All files of a patient stay in one part."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from edgemt.data.layouts.case_files import CaseFiles, normalise_name
from edgemt.io.file_types import stem_of

_NUMBERED = re.compile(r"^(.*\d.*?)[ _.-]+[a-z]*\d+$", re.IGNORECASE)
_SIDES = "left|right|l|r|od|os|ed|es|pre|post|cc|mlo"  # eyes, sides, phases, views
_SIDED = re.compile(rf"^(.*\d.*?)[ _.-]+(?:{_SIDES})$", re.IGNORECASE)


def parse_count_or_fraction(text: str, *, field: str) -> int | float | None:
    """`80` is a count (int), `0.1` a fraction (float), anything else (a file name) is None."""
    if re.fullmatch(r"\d+", text):
        return int(text)
    if re.fullmatch(r"\d*\.\d+", text):
        if not 0 < float(text) <= 1:
            raise ValueError(f"data.{field}: a share must lie in (0, 1], not {text}")
        return float(text)
    return None


def sample_patients(items: Sequence[CaseFiles], *, amount: int | float, seed: int, field: str) -> list[CaseFiles]:
    """The items of `amount` patients, drawn by `seed` from the sorted patients; independent of the order of `items`."""
    groups = sorted({item.patient for item in items})
    count = amount if isinstance(amount, int) else max(1, round(amount * len(groups)))
    if not 1 <= count <= len(groups):
        raise ValueError(f"data.{field}: needs {count} patients or images with a mask, {len(groups)} are there")
    order = np.random.default_rng(seed).permutation(len(groups))
    chosen = {groups[i] for i in order[:count]}
    return [item for item in items if item.patient in chosen]


def find_list(text: str, *, root: Path, field: str) -> Path:
    """A list file: as given when absolute, else under `root`, else under `root/splits`."""
    tried = [Path(text)] if Path(text).is_absolute() else [root / text, root / "splits" / text]
    for path in tried:
        if path.is_file():
            return path
    raise ValueError(f"data.{field}: no list file {text!r}; looked for {' and '.join(map(str, tried))}")


def select_listed(items: Sequence[CaseFiles], names: Iterable[str], *, source: Path) -> list[CaseFiles]:
    """The items that a list names: by file name, with or without suffix or folder, or all items of a patient."""
    wanted: set[str] = set()
    by_name: dict[str, CaseFiles] = {}
    files = Counter(item.image.name for item in items)
    for item in items:
        if files[item.image.name] == 1:
            by_name |= {normalise_name(item.image.name): item, normalise_name(stem_of(item.image)): item}
    by_name |= {item.name: item for item in items}
    by_group: dict[str, list[CaseFiles]] = {}
    for item in items:
        by_group.setdefault(item.patient, []).append(item)
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


def named_on(items: Iterable[CaseFiles], names: Iterable[str]) -> list[CaseFiles]:
    """The items that a list names by file name, with or without suffix or folder; other names are passed over."""
    listed = {re.split(r"[/\\]", name)[-1] for name in names}
    return [item for item in items if listed & {item.name, item.image.name, normalise_name(stem_of(item.image))}]


def patients_of(items: Iterable[CaseFiles], *, always: bool) -> dict[str, bool]:
    """Patient in lower case -> whether a file name has more than the patient (`p1_frame2`, not `p1`).

    `always`: True for each patient.
    """
    known: dict[str, bool] = {}
    for item in items:
        patient = item.patient.casefold()
        known[patient] = known.get(patient, always) or item.patient != item.name
    return known


def same_patient(item: CaseFiles, known: dict[str, bool], *, always: bool) -> bool:
    """Whether an item is of a patient in `known` (`patients_of`).

    Without `always`, equal names that are no more than the patient (7 and 7 in two folders) do not count.
    """
    patient = item.patient.casefold()
    return patient in known and (always or known[patient] or item.patient != item.name)


def similar_names_note(training: Iterable[CaseFiles], val: Iterable[CaseFiles]) -> str:
    """A note where names look like PATIENT_NUMBER or PATIENT_left and a PATIENT would be in training and validation.

    Empty where the pattern finds patients, and where all names have the same beginning (KiTS19_00001).
    """
    training, val = list(training), list(val)
    hints = ((_NUMBERED, r"^(.*)[_-][a-z]*\d+$"), (_SIDED, rf"(?i)^(.*)[_-](?:{_SIDES})$"))
    for names, hint in hints:
        prefixes = {item.name: match[1] for item in (*training, *val) if (match := names.match(item.name))}
        if len(set(prefixes.values())) < 2:
            continue
        val_prefixes = {prefixes[item.name] for item in val if item.patient == item.name and item.name in prefixes}
        shared = [item for item in training if item.patient == item.name and prefixes.get(item.name) in val_prefixes]
        if shared:
            return (
                f"{len(shared)} training images begin as validation images do, first {prefixes[shared[0].name]!r}; if "
                f"that is the patient, give --data.patient-pattern '{hint}'"
            )
    return ""


def check_no_patient_leakage(labelled: Iterable[CaseFiles], val: Iterable[CaseFiles], *, always: bool = True) -> None:
    """Raises ValueError where a patient has labelled and validation images."""
    known = patients_of(val, always=always)
    shared = sorted({item.patient for item in labelled if same_patient(item, known, always=always)})
    if shared:
        raise ValueError(
            f"data.labelled and data.val share {len(shared)} patients, first {shared[0]!r}; keep each on one"
        )
