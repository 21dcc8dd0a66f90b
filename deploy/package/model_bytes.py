"""A graph as it was read, once: the bytes that were verified are the bytes that a runtime gets."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgemt.io.plain_files import read_regular


@dataclass(frozen=True)
class ModelBytes:
    """`path` names the file in messages; no runtime opens it again."""

    path: Path
    data: bytes
    weights: bytes | None = None  # the .bin of an OpenVINO graph

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def read_model(path: str | Path) -> ModelBytes:
    """A graph that no card lists, with its .bin where it is an .xml. Raises ValueError for a file that is not there.

    An .engine is not read here: its record beside it lists the bytes that it must have
    (`deploy.runtimes.tensorrt_engine_cache`).
    """
    path = Path(path)
    try:
        data = b"" if path.suffix == ".engine" else read_regular(path)
        weights = read_regular(path.with_suffix(".bin")) if path.suffix == ".xml" else None
    except OSError as error:
        raise ValueError(f"{error.filename}: cannot be read ({error.strerror}); copy the file again") from None
    return ModelBytes(path, data, weights)
