"""Read datasets of HDF5 files. Data outside the file itself is refused.

Three features of HDF5 refer to other files: external links, external raw storage and virtual datasets. None of them is
followed. Source: https://docs.h5py.org/en/stable/high/group.html#external-links and dataset properties there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgemt.io.decode_errors import decoding
from edgemt.io.decode_limits import check_bytes

_MAX_SOFT_LINKS = 16  # soft links in a row


def local_dataset(file: Any, name: str, *, path: str | Path) -> Any:
    """The dataset `name` of an open h5py.File. Raises ValueError, naming the file, for one that lies elsewhere."""
    import h5py

    where = name.strip("/")
    for _ in range(_MAX_SOFT_LINKS):
        target = _soft_target(file, where, path=path, name=name)
        if target is None:
            break
        where = target
    else:
        raise ValueError(f"{path}: {name!r} is a circle of links; write the dataset itself")
    found = file.get(where)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{path}: {name!r} is no dataset; write an array of that name")
    if found.external or found.is_virtual:
        raise ValueError(f"{path}: {name!r} lies in another file, which is not opened; copy the values into this one")
    return found


def _soft_target(file: Any, where: str, *, path: str | Path, name: str) -> str | None:
    """The target of the first soft link on the path `where`; None without one."""
    import h5py

    parts = where.split("/")
    for i in range(len(parts)):
        step = "/".join(parts[: i + 1])
        link = file.get(step, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise ValueError(
                f"{path}: {name!r} lies in another file ({link.filename}), which is not opened; copy the values "
                "into this one"
            )
        if isinstance(link, h5py.SoftLink):
            base = [] if link.path.startswith("/") else parts[:i]
            return "/".join([*base, *link.path.strip("/").split("/"), *parts[i + 1 :]])
        if link is None:
            raise ValueError(f"{path}: has no dataset {name!r}; rename or add it")
    return None


def read_dataset(path: str | Path, name: str, *, axes: int) -> np.ndarray:
    """Read one dataset completely; the other datasets of the file are not read."""
    with decoding(path, "HDF5"), open_h5(path) as file:
        if name not in file:
            raise ValueError(f"{path}: has no dataset {name!r}, only {sorted(file)}; rename it")
        found = local_dataset(file, name, path=path)
        shape = found.shape
        if len(shape) != axes:
            hint = "a 3-D recipe needs whole volumes" if axes == 3 else "is it a volume?"
            raise ValueError(f"{path}: {name!r} must have {axes} axes, it has shape {shape}; {hint}")
        if found.dtype.kind not in "biuf":
            raise ValueError(f"{path}: {name!r} holds {found.dtype}, no plain numbers; write one real number a voxel")
        try:
            check_bytes(path, shape, found.dtype.itemsize)
            return np.asarray(found)
        except OSError as error:
            raise ValueError(f"{path}: {name!r} cannot be read ({error}); copy the file again") from None


def dataset_names(path: str | Path) -> tuple[str, ...]:
    """The names inside an .h5 file; nothing is read."""
    with decoding(path, "HDF5"), open_h5(path) as file:
        return tuple(sorted(file))


def image_shape(path: str | Path) -> tuple[int, ...]:
    """The shape of the dataset `image`, 2 or 3 axes; no values are read. Raises ValueError for any other file."""
    with decoding(path, "HDF5"), open_h5(path) as file:
        if "image" not in file:
            raise ValueError(f"{path}: has no dataset 'image', only {sorted(file)}; rename it")
        shape = tuple(int(n) for n in local_dataset(file, "image", path=path).shape)
    if len(shape) not in (2, 3):
        raise ValueError(f"{path}: 'image' must have 2 or 3 axes, it has shape {shape}; split it first")
    return shape


def open_h5(path: str | Path) -> Any:
    """The file, opened by h5py for reading. Raises ValueError if it cannot be read or h5py is not installed."""
    try:
        import h5py
    except ImportError:
        raise ValueError(f"{path}: reading .h5 needs h5py; pip install h5py") from None
    try:
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as HDF5 ({error}); copy the file again") from None
