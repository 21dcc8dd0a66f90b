"""Soft-label bank: the probabilities of a finished teacher for every volume or frame, on disk.

With it, no step of a student has to run the teacher.

    bank/  bank.json   NAME.safetensors, one a volume or single frame: {"soft": float16 [S, C - 1, H, W]}

The background is 1 minus the other classes. Half precision resolves probabilities to 6e-8 near 0 and to 2e-4 near 1.
Files are written atomically and listed with their hash; an interrupted filling continues with the missing files.

Shapes: S slices (1 of a single frame), C classes, H W the student's frame, n cases.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgemt.contract import Case
from edgemt.data.decode import ProgressCall, depth_of
from edgemt.io.atomic import NoSpaceError, atomic_write, sha256, write_text

INDEX = "bank.json"
FORMAT = 1
_SPARE = 64 << 20  # bytes of the disk that stay free
PredictProbabilities = Callable[[Case], np.ndarray]
"""A whole volume, or a single frame -> float32 probabilities [S, C, H, W]."""


@dataclass(frozen=True)
class BankSummary:
    """Size of a bank. `num_computed` of its volumes were predicted now, the others were there already."""

    volumes: int
    megabytes: float
    megabytes_per_volume: float
    num_computed: int


def write_bank(
    folder: str | Path,
    cases: Sequence[Case],
    *,
    predict: PredictProbabilities,
    classes: Sequence[str],
    size: tuple[int, int],
    key: str,
    depth: Callable[[Case], int] = lambda case: depth_of(case.image, axes=case.axes),
    progress: ProgressCall | None = None,
    log: Callable[[str], None] | None = None,
) -> BankSummary:
    """Call `predict` for each volume or frame that is missing in the bank, and write its probabilities.

    key: identifies teacher and data; another key, other classes or another size start a new bank. depth: S of a case,
    by default from the file of a volume.
    Raises ValueError for two volumes of one name, for values that are no probabilities and, before the first
    prediction, for a disk that is too small.
    """
    folder = Path(folder)
    stems = _stems(cases)
    header = {"format": FORMAT, "key": key, "classes": list(classes), "size": list(size)}
    index = _matching_index(folder, header)
    depths = {stem: depth(case) for stem, case in stems.items()}
    complete = {s for s in stems if _is_complete(folder, s, index["volumes"].get(s), depth=depths[s])}
    index["volumes"] = {s: entry for s, entry in index["volumes"].items() if s in complete}
    cost = {s: 2 * depth * (len(classes) - 1) * size[0] * size[1] for s, depth in depths.items()}
    _check_disk_space(folder, cost, complete, log)
    for done, (stem, case) in enumerate(stems.items()):
        if stem not in complete:
            soft = _to_half(predict(case), name=case.name, shape=(depths[stem], len(classes), *size))
            index["volumes"][stem] = {"name": case.name, "depth": depths[stem], "sha256": _write(folder, stem, soft)}
            write_text(folder / INDEX, json.dumps(index, indent=1) + "\n")
        if progress is not None:
            progress(done + 1, len(stems))
    megabytes = sum(cost.values()) / 1e6
    return BankSummary(len(stems), megabytes, megabytes / max(len(stems), 1), num_computed=len(stems) - len(complete))


def read_bank(folder: str | Path, cases: Sequence[Case]) -> np.ndarray:
    """float16 [n, C - 1, H, W]: the soft labels of `cases` (slices or single frames), in their order.

    Raises ValueError, naming the file, for a volume or slice that is missing in the bank, and for a damaged file.
    """
    folder = Path(folder)
    index = _index(folder)
    if index is None:
        raise ValueError(f"{folder}: holds no bank of soft labels; fill it first")
    rows: dict[str, list[int]] = {}
    for row, case in enumerate(cases):
        rows.setdefault(unit_name(case), []).append(row)
    out = np.empty((len(cases), len(index["classes"]) - 1, *index["size"]), np.float16)
    for name, own_rows in rows.items():
        soft = _read(folder, name, index)
        wanted = np.array([cases[row].slice or 0 for row in own_rows])
        if wanted.max() >= len(soft):
            raise ValueError(f"{folder}: {name} has {len(soft)} slices here and others on the list; fill it again")
        out[own_rows] = soft[wanted]
    return out


def bank_fingerprint(folder: str | Path) -> str:
    """sha256 over file hashes, classes and size of the bank: what a student that is trained with it depends on."""
    index = _index(Path(folder))
    if index is None:
        raise ValueError(f"{folder}: holds no bank of soft labels; fill it first")
    files = {name: entry["sha256"] for name, entry in index["volumes"].items()}
    content = json.dumps([index["classes"], index["size"], files], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _stems(cases: Sequence[Case]) -> dict[str, Case]:
    """File stem -> case. Characters that are not safe in a file name are replaced."""
    stems: dict[str, Case] = {}
    for case in cases:
        stem = _stem(case.name)
        if case.slice is not None:
            raise ValueError(f"{case.name}: is one slice, a bank is filled from whole volumes")
        if stem in stems:
            raise ValueError(f"{case.image}: has the same name as {stems[stem].image}; rename one of the two")
        stems[stem] = case
    return stems


def _stem(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "_"


def unit_name(case: Case) -> str:
    """The case name of a file of the bank: VOLUME for a slice VOLUME/NUMBER, or the name of the frame."""
    return case.name if case.slice is None else case.name.rpartition("/")[0]


def _index(folder: Path) -> dict[str, Any] | None:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        usable = index["format"] == FORMAT and isinstance(index["volumes"], dict)
        return index if usable and len(index["size"]) == 2 and index["classes"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _matching_index(folder: Path, header: dict[str, Any]) -> dict[str, Any]:
    """The index on disk where its header is `header`; else a new one, and the old files are removed."""
    index = _index(folder)
    if index is not None and {name: index.get(name) for name in header} == header:
        return index
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / INDEX).unlink(missing_ok=True)
    return {**header, "volumes": {}}


def _is_complete(folder: Path, stem: str, entry: dict[str, Any] | None, *, depth: int) -> bool:
    if entry is None or entry.get("depth") != depth:
        return False
    path = folder / f"{stem}.safetensors"
    return path.is_file() and sha256(path) == entry.get("sha256")


def _check_disk_space(
    folder: Path, cost: dict[str, int], complete: set[str], log: Callable[[str], None] | None
) -> None:
    """Log the size of what is missing. Raises NoSpaceError, a ValueError, where the disk has no space for it."""
    missing = sum(cost.values()) - sum(cost[stem] for stem in complete)
    if not missing:
        return
    each = missing / (len(cost) - len(complete)) / 1e6
    text = f"{len(cost) - len(complete)} files of {each:.1f} MB, {missing / 1e6:.0f} MB in all"
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free - _SPARE
    if missing > free:
        raise NoSpaceError(
            f"{folder}: soft labels need {text}, {max(free, 0) / 1e6:.0f} MB are free; free some or lower data.size"
        )
    if log is not None:
        log(f"soft labels: {text}, {len(complete)} are complete")


def _to_half(soft: np.ndarray, *, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float16 [S, C - 1, H, W] of probabilities [S, C, H, W]."""
    if soft.shape != shape:
        raise ValueError(f"{name}: soft labels have shape {soft.shape}, wanted {shape} (slices, classes, frame)")
    if not (soft.min() >= -1e-3 and soft.max() <= 1 + 1e-3):  # NaN fails too
        raise ValueError(f"{name}: soft labels are no probabilities; give a softmax over classes")
    return np.ascontiguousarray(soft[:, 1:].clip(0, 1), np.float16)


def _write(folder: Path, stem: str, soft: np.ndarray) -> str:
    from safetensors.numpy import save

    data = save({"soft": soft})
    with atomic_write(folder / f"{stem}.safetensors") as part:
        part.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _read(folder: Path, name: str, index: dict[str, Any]) -> np.ndarray:
    from safetensors.numpy import load

    path = folder / f"{_stem(name)}.safetensors"
    entry = index["volumes"].get(_stem(name))
    if entry is None or not path.is_file():
        raise ValueError(f"{path}: the bank holds no soft labels of {name}; fill it again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ValueError(f"{path}: damaged since it was written (sha256 differs); fill the bank again")
    return load(data)["soft"]
