"""Soft-label bank: the probabilities of a finished teacher for every volume or frame, on disk.

With it, no step of a student has to run the teacher.

    bank/  bank.json   NAME.safetensors, one a volume or single frame: {"soft": float16 [S, C - 1, H, W]}
           variance/   bank.json   NAME.safetensors: {"variance": uint8 [S, H, W]}   for students that learn it

The background is 1 minus the other classes; overlapping classes have none, and all of them are stored. Half precision
resolves probabilities to 6e-8 near 0 and to 2e-4 near 1. Files are written atomically and listed with their hash; an
interrupted filling continues with the missing files.

The variance between K teachers with probabilities p_k is summed over classes, as the classes of a pixel sum to 1:

    v = sum_c [ 1/K sum_k p_kc^2 - (1/K sum_k p_kc)^2 ],   0 <= v < 1,  at most 0.5 with two classes

Of overlapping classes each is a yes or no with a variance v of its own, and that of the pixel is the largest of them.
It is the part of the ensemble's total variance 1 - sum_c mean_k(p_kc)^2 that the teachers do not agree on (deep
ensembles: Lakshminarayanan et al., NeurIPS 2017, arXiv 1612.01474; the split into disagreement and the teachers' own
uncertainty, there for entropies: Malinin et al., ICLR 2020, arXiv 1905.00076). Stored is round(255 sqrt(v)): a standard
deviation in steps of 0.004. The variance is a folder of its own, so that a bank without it keeps its fingerprint.

Shapes: S slices (1 of a single frame), C classes, H W the student's frame, n cases, K teachers.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgemt.contract import Case
from edgemt.data.decode import ProgressCall, depth_of
from edgemt.io.atomic import NoSpaceError, atomic_write, make_folder, sha256, write_text

INDEX = "bank.json"
VARIANCE = "variance"  # folder in the bank
FORMAT = 1
_SPARE = 64 << 20  # bytes of the disk that stay free


class TeacherPrediction(NamedTuple):
    """The prediction of one or several teachers for a volume or frame."""

    mean: np.ndarray  # float32 [S, C, H, W] probabilities
    variance: np.ndarray | None = None  # float32 [S, H, W] between the teachers, summed over classes


PredictProbabilities = Callable[[Case], np.ndarray | TeacherPrediction]
"""A whole volume, or a single frame -> float32 probabilities [S, C, H, W], or these with their variance."""


@dataclass(frozen=True)
class BankSummary:
    """Size of a bank. `num_computed` of its volumes were predicted now, the others were there already."""

    volumes: int
    megabytes: float
    megabytes_per_volume: float
    num_computed: int


class _Part(NamedTuple):
    """One kind of array in a bank: its folder, its index, and which of its files are complete."""

    folder: Path
    tensor: str  # its name in a file
    listing: dict[str, Any]  # content of its bank.json
    complete: set[str]
    bytes_per_slice: int


def write_bank(
    folder: str | Path,
    cases: Sequence[Case],
    *,
    predict: PredictProbabilities,
    classes: Sequence[str],
    size: tuple[int, int],
    key: str,
    overlapping: bool = False,
    variance: bool = False,
    depth: Callable[[Case], int] = lambda case: depth_of(case.image, axes=case.axes),
    progress: ProgressCall | None = None,
    log: Callable[[str], None] | None = None,
) -> BankSummary:
    """Call `predict` for each volume or frame that is missing in the bank, and write its probabilities.

    key: identifies teacher and data; another key, other classes or another size start a new bank. depth: S of a case,
    by default from the file of a volume. Predictions of `overlapping` classes have no background. With `variance`,
    `predict` returns a TeacherPrediction and the variance is written as well; probabilities that are complete stay as
    they are.
    Raises ValueError for two volumes of one name, for values that are no probabilities and, before the first
    prediction, for a disk that is too small.
    """
    folder = Path(folder)
    stems = _stems(cases)
    header = {"format": FORMAT, "key": key, "classes": list(classes), "size": list(size)}
    depths = {stem: depth(case) for stem, case in stems.items()}
    area = size[0] * size[1]
    parts = [_open_part(folder, "soft", header, depths, bytes_per_slice=2 * (len(classes) - 1) * area)]
    if variance:
        parts.append(_open_part(folder / VARIANCE, "variance", header, depths, bytes_per_slice=area))
    _check_disk_space(folder, parts, depths, log)
    complete = set.intersection(*(part.complete for part in parts))
    for done, (stem, case) in enumerate(stems.items()):
        if stem not in complete:
            predicted = predict(case)
            if isinstance(predicted, np.ndarray):
                predicted = TeacherPrediction(predicted)
            shape = (depths[stem], len(classes) - overlapping, *size)
            drop = 0 if overlapping else 1  # the background
            for part in (part for part in parts if stem not in part.complete):
                encoded = _encoded(part.tensor, predicted, name=case.name, shape=shape, drop=drop)
                digest = _write(part, stem, encoded)
                part.listing["volumes"][stem] = {"name": case.name, "depth": depths[stem], "sha256": digest}
                write_text(part.folder / INDEX, json.dumps(part.listing, indent=1) + "\n")
        if progress is not None:
            progress(done + 1, len(stems))
    megabytes = sum(part.bytes_per_slice * sum(depths.values()) for part in parts) / 1e6
    return BankSummary(len(stems), megabytes, megabytes / max(len(stems), 1), num_computed=len(stems) - len(complete))


def read_variance(folder: str | Path, cases: Sequence[Case]) -> np.ndarray:
    """uint8 [n, H, W]: 255 times the standard deviation between the teachers, of slices or frames in their order.

    Raises ValueError as `read_bank`.
    """
    return _read_rows(Path(folder) / VARIANCE, cases, "variance")


def has_bank(folder: str | Path, *, variance: bool = False) -> bool:
    """Whether a folder holds a bank; with `variance` also the variance between its teachers, of the same filling."""
    index = _index(Path(folder))
    if index is None or not variance:
        return index is not None
    other = _index(Path(folder) / VARIANCE)
    return (
        other is not None
        and other["volumes"].keys() >= index["volumes"].keys()
        and other.get("key") == index.get("key")
    )


def mean_variance(folder: str | Path, names: Sequence[str]) -> list[float]:
    """The variance between the teachers of whole volumes or frames by name, its mean over all pixels, 0 to 1.

    Raises ValueError as `read_bank`.
    """
    part = Path(folder) / VARIANCE
    index = _index(part)
    if index is None:
        raise ValueError(f"{part}: holds no variance between teachers; fill it first")
    return [float(np.square(_read(part, name, index, "variance") / 255.0).mean()) for name in names]


def read_bank(folder: str | Path, cases: Sequence[Case]) -> np.ndarray:
    """float16 [n, C - 1, H, W]: the soft labels of `cases` (slices or single frames), in their order.

    Raises ValueError, naming the file, for a volume or slice that is missing in the bank, and for a damaged file.
    """
    return _read_rows(Path(folder), cases, "soft")


def _read_rows(folder: Path, cases: Sequence[Case], tensor: str) -> np.ndarray:
    index = _index(folder)
    if index is None:
        raise ValueError(f"{folder}: holds no bank of soft labels; fill it first")
    rows: dict[str, list[int]] = {}
    for row, case in enumerate(cases):
        rows.setdefault(unit_name(case), []).append(row)
    if tensor == "soft":
        out = np.empty((len(cases), len(index["classes"]) - 1, *index["size"]), np.float16)
    else:
        out = np.empty((len(cases), *index["size"]), np.uint8)
    for name, own_rows in rows.items():
        values = _read(folder, name, index, tensor)
        wanted = np.array([cases[row].slice or 0 for row in own_rows])
        if wanted.max() >= len(values):
            raise ValueError(f"{folder}: {name} has {len(values)} slices here and others on the list; fill it again")
        out[own_rows] = values[wanted]
    return out


def variance_fingerprint(folder: str | Path) -> str:
    """`bank_fingerprint` of the bank's variance."""
    return bank_fingerprint(Path(folder) / VARIANCE)


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


def _open_part(
    folder: Path, tensor: str, header: dict[str, Any], depths: dict[str, int], *, bytes_per_slice: int
) -> _Part:
    index = _matching_index(folder, header)
    complete = {s for s, depth in depths.items() if _is_complete(folder, s, index["volumes"].get(s), depth=depth)}
    index["volumes"] = {s: entry for s, entry in index["volumes"].items() if s in complete}
    return _Part(folder, tensor, index, complete, bytes_per_slice)


def _is_complete(folder: Path, stem: str, entry: dict[str, Any] | None, *, depth: int) -> bool:
    if entry is None or entry.get("depth") != depth:
        return False
    path = folder / f"{stem}.safetensors"
    return path.is_file() and sha256(path) == entry.get("sha256")


def _check_disk_space(
    folder: Path, parts: Sequence[_Part], depths: dict[str, int], log: Callable[[str], None] | None
) -> None:
    """Log the size of what is missing. Raises NoSpaceError, a ValueError, where the disk has no space for it."""
    missing = {
        part.tensor: [part.bytes_per_slice * depth for stem, depth in depths.items() if stem not in part.complete]
        for part in parts
    }
    total = sum(map(sum, missing.values()))
    if not total:
        return
    count = sum(map(len, missing.values()))
    text = f"{count} files of {total / count / 1e6:.1f} MB, {total / 1e6:.0f} MB in all"
    for part in parts:
        make_folder(part.folder)
    free = shutil.disk_usage(folder).free - _SPARE
    if total > free:
        raise NoSpaceError(
            f"{folder}: soft labels need {text}, {max(free, 0) / 1e6:.0f} MB are free; free some or lower data.size"
        )
    if log is not None:
        what = "soft labels" if missing["soft"] else "variance between the teachers (soft labels are complete)"
        ready = sum(len(part.complete) for part in parts if missing[part.tensor])
        log(f"{what}: {text}, {ready} are complete")


def _encoded(tensor: str, predicted: TeacherPrediction, *, name: str, shape: tuple[int, ...], drop: int) -> np.ndarray:
    """The array of a file; shape is [S, C, H, W], of which the first `drop` classes are not stored."""
    if tensor == "soft":
        return _to_half(predicted.mean, name=name, shape=shape, drop=drop)
    if predicted.variance is None:
        raise ValueError(f"{name}: one teacher has no variance; set teacher.members or teacher.flips to 2 or more")
    return _to_bytes(predicted.variance, name=name, shape=(shape[0], *shape[2:]))


def _to_half(soft: np.ndarray, *, name: str, shape: tuple[int, ...], drop: int) -> np.ndarray:
    """float16 [S, C - drop, H, W] of probabilities [S, C, H, W]."""
    if soft.shape != shape:
        raise ValueError(f"{name}: soft labels have shape {soft.shape}, wanted {shape} (slices, classes, frame)")
    if not (soft.min() >= -1e-3 and soft.max() <= 1 + 1e-3):  # NaN fails too
        raise ValueError(f"{name}: soft labels are no probabilities; give a softmax over classes")
    return np.ascontiguousarray(soft[:, drop:].clip(0, 1), np.float16)


def _to_bytes(variance: np.ndarray, *, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 [S, H, W]: round(255 sqrt(variance))."""
    if variance.shape != shape:
        raise ValueError(f"{name}: variance has shape {variance.shape}, wanted {shape} (slices, frame)")
    if not (variance.min() >= -1e-3 and variance.max() <= 1 + 1e-3):  # NaN fails too
        raise ValueError(f"{name}: the teachers' variance is not between 0 and 1; give probabilities over classes")
    return np.rint(255 * np.sqrt(variance.clip(0, 1))).astype(np.uint8)


def _write(part: _Part, stem: str, values: np.ndarray) -> str:
    from safetensors.numpy import save

    data = save({part.tensor: values})
    with atomic_write(part.folder / f"{stem}.safetensors") as file:
        file.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _read(folder: Path, name: str, index: dict[str, Any], tensor: str) -> np.ndarray:
    from safetensors.numpy import load

    path = folder / f"{_stem(name)}.safetensors"
    entry = index["volumes"].get(_stem(name))
    if entry is None or not path.is_file():
        raise ValueError(f"{path}: the bank holds no soft labels of {name}; fill it again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ValueError(f"{path}: damaged since it was written (sha256 differs); fill the bank again")
    return load(data)[tensor]
