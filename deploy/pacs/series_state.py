"""What is noted of a series in the spool: which images its segmentations are of, and where they were sent."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

_FORMAT = 1


@dataclass(frozen=True)
class SegFile:
    """A segmentation: its file in segs/, the names of the images it is of, and the destinations that have it."""

    file: str
    images: tuple[str, ...]
    sent: tuple[str, ...] = ()

    def given(self, destination: str) -> SegFile:
        return replace(self, sent=tuple(dict.fromkeys((*self.sent, destination))))


@dataclass(frozen=True)
class SeriesState:
    """What is noted of a series, beside its images."""

    covered: tuple[str, ...] = ()  # images that the segmentations were computed from, or that could not be read
    segs: tuple[SegFile, ...] = ()
    destinations: tuple[str, ...] = ()  # that are to have them
    generation: int = 0  # how often the series was predicted
    attempts: int = 0  # that began and did not end since the last one that did
    unreadable: int = 0  # images that could not be decoded
    failed: str = ""  # why no further attempt is made

    def to_json(self) -> str:
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n"

    @property
    def unsent(self) -> bool:
        return any(set(self.destinations) - set(seg.sent) for seg in self.segs)


def read_state(path: Path) -> SeriesState:
    """Raises ValueError, naming the file, for a damaged one."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw.pop("format") != _FORMAT:
            raise ValueError("another format")
        segs = tuple(SegFile(row["file"], tuple(row["images"]), tuple(row["sent"])) for row in raw.pop("segs"))
        lists: dict[str, Any] = {name: tuple(raw.pop(name)) for name in ("covered", "destinations")}
        return SeriesState(segs=segs, **lists, **raw)
    except FileNotFoundError:
        return SeriesState()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError(f"{path}: is damaged; remove it, then the series is predicted and sent again") from None
