"""The bytes of a graph, read once: the runtime loads exactly the bytes that were verified."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgemt.io.plain_files import read_regular


@dataclass(frozen=True)
class ModelBytes:
    """A graph in memory. `path` is for messages only; no runtime opens the file again."""

    path: Path
    data: bytes
    weights: bytes | None = None  # the .bin of an OpenVINO graph

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def read_model(path: str | Path) -> ModelBytes:
    """Read a graph that no card lists, with its .bin where it is an .xml. Raises ValueError for a missing file.

    An .engine is not read here: its JSON record holds the hash that it must have
    (`deploy.runtimes.tensorrt_engine_cache`).
    """
    path = Path(path)
    try:
        data = b"" if path.suffix == ".engine" else read_regular(path)
        weights = read_regular(path.with_suffix(".bin")) if path.suffix == ".xml" else None
    except OSError as error:
        raise ValueError(f"{error.filename}: cannot be read ({error.strerror}); copy the file again") from None
    return ModelBytes(path, data, weights)
