"""Whether a dataset of an HDF5 file lies in that file: links and storage may lead to any other.

HDF5 has three ways out: external links, external raw storage (any file as an array) and virtual datasets. None of them
is followed. Source: https://docs.h5py.org/en/stable/high/group.html#external-links and dataset properties there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

_DEEPEST = 16  # soft links in a row


def inside(file: Any, name: str, *, path: str | Path) -> Any:
    """The dataset `name` of an open h5py.File. Raises ValueError, naming the file, for one that lies elsewhere."""
    import h5py

    where = name.strip("/")
    for _ in range(_DEEPEST):
        target = _soft_target(file, where, path=path, asked=name)
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


def _soft_target(file: Any, where: str, *, path: str | Path, asked: str) -> str | None:
    """Where the first soft link on the way leads; None where there is none."""
    import h5py

    parts = where.split("/")
    for i in range(len(parts)):
        step = "/".join(parts[: i + 1])
        link = file.get(step, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise ValueError(
                f"{path}: {asked!r} lies in another file ({link.filename}), which is not opened; copy the values "
                "into this one"
            )
        if isinstance(link, h5py.SoftLink):
            base = [] if link.path.startswith("/") else parts[:i]
            return "/".join([*base, *link.path.strip("/").split("/"), *parts[i + 1 :]])
        if link is None:
            raise ValueError(f"{path}: has no dataset {asked!r}; rename or add it")
    return None
