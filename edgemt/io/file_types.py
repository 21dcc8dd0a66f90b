"""Which kind a file is, by its name: image, volume, .h5 file, slice folder, or none that is read."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
VOLUME_SUFFIXES = (".nii", ".nii.gz")
H5_SUFFIXES = (".h5", ".hdf5")
_IMPORT = "edgemt import FOLDER --out DIR"
_CONVERT = {
    **dict.fromkeys((".nrrd", ".nhdr", ".mha", ".mhd"), _IMPORT),
    **dict.fromkeys((".mgz", ".mgh", ".img", ".hdr", ".mnc"), "nibabel.save(nibabel.load(IN), 'OUT.nii.gz')"),
    **dict.fromkeys((".dcm", ".dicom", ".ima"), _IMPORT),
    **dict.fromkeys((".gif", ".jp2", ".j2k", ".ppm", ".pgm", ".npy", ".npz", ".mat", ".svg", ".heic", ".avif"), "PNG"),
}  # fmt: skip
_RENAME = {".jfif": ".jpg", ".jpe": ".jpg", ".jif": ".jpg", ".dib": ".bmp"}  # of kinds that are read
_TEXTS = (".txt", ".csv", ".tsv", ".json", ".xml", ".md", ".yaml", ".yml", ".html", ".pdf", ".xls", ".xlsx", ".doc",
          ".docx", ".log", ".ini", ".lst", ".list", ".md5", ".sha256", ".py", ".ipynb", ".lnk", ".url")  # fmt: skip
_STRAY = ("__macosx", "thumbs.db", "desktop.ini", "@eadir")


def is_image(path: str | Path) -> bool:
    """Whether the name has a suffix of an image, in any case."""
    return str(path).lower().endswith(IMAGE_SUFFIXES)


def is_volume(path: str | Path) -> bool:
    """Whether the name has a suffix of a NIfTI volume, in any case."""
    return str(path).lower().endswith(VOLUME_SUFFIXES)


def is_stray(path: str | Path) -> bool:
    """Whether a file or folder was left by the system or an editor: a dot name, __MACOSX, Thumbs.db ..."""
    name = os.path.basename(path)
    return name.startswith(".") or name.lower() in _STRAY


def is_slice_folder(path: str | Path) -> bool:
    """Whether the path is a folder with at least one image in it, stray files aside."""
    if is_stray(path) or not Path(path).is_dir():
        return False
    return any(is_image(inside) and not is_stray(inside) for inside in Path(path).iterdir())


def is_h5(path: str | Path) -> bool:
    """Whether the name has a suffix of an HDF5 file, in any case."""
    return str(path).lower().endswith(H5_SUFFIXES)


def stem_of(path: str | Path) -> str:
    """The file name without its suffix; `.nii.gz` is one suffix."""
    name = os.path.basename(path)
    return name[:-7] if name.lower().endswith(".nii.gz") else os.path.splitext(name)[0]


def conversion_hint(path: str | Path) -> str | None:
    """For a file of a known format that is not supported: one line on how to convert it. None for any other file."""
    name = Path(path).name.lower()
    if name.endswith((".nii.gz.gz", ".nii.zip", ".nii.bz2", ".nii.xz")):
        return f"{path}: is packed {'twice' if name.endswith('.gz') else 'otherwise than by gzip'}; unpack it to .nii"
    if (kind := os.path.splitext(name)[1]) in _RENAME:
        return f"{path}: {kind} is not read; rename it to {_RENAME[kind]}"
    name = name.removesuffix(".gz")
    how = next((how for suffix, how in _CONVERT.items() if name.endswith(suffix)), None)
    if how is None:
        return None
    way = "with" if " " in how or "(" in how else "to"
    return f"{path}: {Path(name).suffix} is not read; convert it {way} {how}"


def is_unknown(path: str | Path) -> bool:
    """Whether a file is of no kind that is read or expected beside images; without a suffix its first bytes tell."""
    name = os.path.basename(path).lower()
    suffix = os.path.splitext(name)[1]
    if is_stray(path) or suffix in _TEXTS or is_image(path) or is_volume(path) or is_h5(path):
        return False
    if suffix:
        return True
    try:
        with open(path, "rb") as file:
            start = file.read(132)
    except OSError:
        return False
    return start.startswith((b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM")) or start[128:] == b"DICM"


def natural_sort_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts `slice_9` before `slice_10`."""
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", name) if part)


def slice_files(folder: str | Path) -> list[Path]:
    """The images of a slice folder in natural order. Raises ValueError if there are none."""
    inside = (p for p in Path(folder).iterdir() if is_image(p) and not is_stray(p))
    files = sorted(inside, key=lambda p: natural_sort_key(p.stem))
    if not files:
        raise ValueError(f"{folder}: holds no slice images; a volume is a NIfTI file, an .h5 file or such a folder")
    for before, path in itertools.pairwise(files):
        if before.stem == path.stem:
            raise ValueError(f"{path}: a second slice named {path.stem!r}, beside {before.name}; remove one")
    return files


def slice_gap(files: Sequence[Path]) -> Path | None:
    """The slice after which one is missing, where a single number in the names counts the slices; else None."""
    rows = [[int(part) for part in re.findall(r"\d+", path.stem)] for path in files]
    if len(rows) < 3 or len({len(row) for row in rows}) > 1:
        return None
    counting = [k for k in range(len(rows[0])) if len({row[k] for row in rows}) > 1]
    if len(counting) != 1:
        return None
    steps = [after[counting[0]] - before[counting[0]] for before, after in itertools.pairwise(rows)]
    usual = min(steps)
    return next((path for path, step in zip(files, steps, strict=False) if step != usual), None)
