"""The card of a model folder, card.json: what the network is, what it was made from and what was measured. No torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgemt.contour_margins import ContourMargins

if TYPE_CHECKING:
    pass

CARD_FORMAT = 1


@dataclass(frozen=True)
class Normalisation:
    """uint8 frame / 255, then (x - mean) / std per channel; `per_image` takes both from the frame itself."""

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    per_image: bool = False


@dataclass(frozen=True)
class ModelCard:
    """Description of a model folder. Plain JSON, never executed."""

    task: str = "segmentation"
    stage: str = ""
    name: str = ""
    classes: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)  # height, width of the fixed input, pixels
    patch: tuple[int, ...] | None = None  # X, Y, Z that a 3-D teacher sees at once, voxels; it has no frame size
    channels: int = 3
    channel_order: str = "RGB"  # "RGB", "grey", or "slices": neighbours of a volume's slice, itself in the middle
    normalise: Normalisation = field(default_factory=Normalisation)
    spacing_mm: tuple[float, ...] | None = None
    postprocess: str = "argmax"
    network: dict[str, Any] = field(default_factory=dict)  # how to build it again
    data: dict[str, Any] = field(default_factory=dict)  # how the frames were read
    parents: tuple[str, ...] = ()  # card hashes of the artefacts this one came from
    recipe_hash: str = ""
    files: dict[str, str] = field(default_factory=dict)  # relative path -> sha256
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)  # file -> dice, drop, ...
    latency: tuple[dict[str, Any], ...] = ()
    given_up: tuple[dict[str, Any], ...] = ()  # what was wanted, what ships in its place, and why
    params: int = 0
    macs: int = 0
    created: str = ""
    format: int = CARD_FORMAT
    contours: dict[str, ContourMargins] = field(default_factory=dict)  # file -> margins of its outer and inner line

    def to_json(self) -> str:
        raw = asdict(self)
        if not self.contours:  # a card without margins is as versions before them wrote it
            del raw["contours"]
        return json.dumps(raw, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str | Path = "card.json") -> ModelCard:
        """Raises ValueError, naming `source`, when the text is no card that this version reads."""
        try:
            raw = json.loads(text)
            if not isinstance(raw, dict):
                raise TypeError("not an object")
            if raw.get("format") != CARD_FORMAT:
                raise ValueError(f"format {raw.get('format')!r}, this version reads {CARD_FORMAT}")
            unknown = set(raw) - {f.name for f in fields(cls)}
            if unknown:
                raise ValueError(f"unknown fields {', '.join(sorted(unknown))}")
            _check_kinds(raw)
            norm = dict(raw.pop("normalise", {}))
            for key in ("mean", "std"):
                if key in norm:
                    norm[key] = tuple(float(v) for v in norm[key])
            for key in ("classes", "size", "parents", "latency", "given_up"):
                raw[key] = tuple(raw.get(key, ()))
            for key in ("spacing_mm", "patch"):
                if raw.get(key) is not None:
                    raw[key] = tuple(raw[key])
            margins = {file: ContourMargins.from_dict(of) for file, of in raw.pop("contours", {}).items()}
            return cls(normalise=Normalisation(**norm), contours=margins, **raw)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{source}: not a readable card ({error}); export the model again") from error


def _check_kinds(raw: dict[str, Any]) -> None:
    """Raises TypeError for a field of another kind than a Card's: what reads a card relies on them."""
    kinds: dict[str, type] = {
        **dict.fromkeys(("task", "stage", "name", "channel_order", "postprocess", "recipe_hash", "created"), str),
        **dict.fromkeys(("normalise", "network", "data", "files", "measured"), dict),
        **dict.fromkeys(("channels", "params", "macs"), int),
        **dict.fromkeys(("classes", "size", "parents", "latency"), list),
    }
    for key, kind in kinds.items():
        if not isinstance(raw.get(key, kind()), kind):
            raise TypeError(f"{key} is no {kind.__name__}")
    inside = (*raw.get("measured", {}).values(), *raw.get("latency", ()))
    if not all(isinstance(record, dict) for record in inside):
        raise TypeError("measured and latency hold objects")
    if not all(isinstance(name, str) for name in (*raw.get("classes", ()), *raw.get("parents", ()))):
        raise TypeError("classes and parents hold text")
