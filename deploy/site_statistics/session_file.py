"""The file of one session: how often each feature had which value. No pixels, no names, no time of day."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.site_statistics.features import Feature
from edgemt.io.atomic import write_text

FORMAT = 1
SUFFIX = ".statistics.json"
_MAX_BYTES = 1 << 20
_MAX_BINS = 256


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts int64 [bins] of a feature; `edges` are the inner edges of the bins."""

    edges: tuple[float, ...]
    counts: np.ndarray
    about: str
    unit: str

    @property
    def total(self) -> int:
        return int(self.counts.sum())


@dataclass(frozen=True, eq=False)
class SessionStatistics:
    """What one stream left: its day (UTC), device, model and the hash of its card, and a histogram for each feature."""

    session: str
    day: str
    device: str
    model: str
    card: str
    seconds: float
    samples: int
    histograms: Mapping[str, Histogram]


def histogram_of(feature: Feature) -> Histogram:
    """An empty histogram."""
    return Histogram(feature.edges, np.zeros(feature.bins, np.int64), feature.about, feature.unit)


def file_name(statistics: SessionStatistics) -> str:
    """The name of the file of a session, which sorts by day."""
    return f"{statistics.day}-{statistics.session}{SUFFIX}"


def write_session(folder: Path, statistics: SessionStatistics) -> None:
    """Replace the file of this session by what was counted so far."""
    record = {name: value for name, value in vars(statistics).items() if name != "histograms"}
    rows = {
        name: {"about": one.about, "unit": one.unit, "edges": list(one.edges), "counts": one.counts.tolist()}
        for name, one in statistics.histograms.items()
    }
    text = json.dumps({"format": FORMAT, **record, "features": rows}, allow_nan=False)
    write_text(folder / file_name(statistics), text + "\n")


def read_session(path: Path) -> SessionStatistics:
    """Raises ValueError, naming the file, for one that is damaged or of another format."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("larger than 1 MB")
        record = json.loads(path.read_text(encoding="utf-8"))
        return _from_record(record)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:120]
        raise ValueError(f"{path}: no statistics of a session ({why}); remove the file") from None


def _from_record(record: Any) -> SessionStatistics:
    if record["format"] != FORMAT:
        raise ValueError(f"format {record['format']!r}, this version reads {FORMAT}; update edgemt")
    histograms = {}
    for name, row in record["features"].items():
        edges, counts = tuple(float(x) for x in row["edges"]), np.asarray(row["counts"])
        if len(counts) != len(edges) + 1 or len(counts) > _MAX_BINS or counts.dtype.kind != "i" or counts.min() < 0:
            raise ValueError(f"counts of {name!r} do not fit its bins")
        if not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
            raise ValueError(f"bins of {name!r} do not increase")
        histograms[str(name)] = Histogram(edges, counts.astype(np.int64), str(row["about"]), str(row["unit"]))
    texts = {name: str(record[name]) for name in ("session", "day", "device", "model", "card")}
    return SessionStatistics(
        **texts, seconds=float(record["seconds"]), samples=int(record["samples"]), histograms=histograms
    )


def read_folder(folder: Path) -> list[SessionStatistics]:
    """All sessions of a folder and of the folders in it, by day. Raises ValueError if there are none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no folder; name one that edgemt stream --statistics wrote to")
    found = [read_session(path) for path in sorted(folder.rglob(f"*{SUFFIX}"))]
    if not found:
        raise ValueError(f"{folder}: no file *{SUFFIX}; edgemt stream SHIP --statistics DIR writes them")
    twice = {one.session for one in found}
    if len(twice) < len(found):
        raise ValueError(f"{folder}: the same session lies there twice; remove the copies")
    return sorted(found, key=lambda one: (one.day, one.session))
