"""What every room of the house agrees on: plain records and protocols. Imports nothing of the house, and no torch.

Shapes: N batch, L labelled, U unlabelled, C classes, K image channels, *space 2 or 3 axes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, get_args

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

CARD_FORMAT = 1

# What `network(x, disturb=...)` puts each encoder map through before a decoder reads it. It may also give more rows
# than it takes, as many for every map: the decoder then reads several versions of what the encoder saw once.
Disturb: TypeAlias = "Callable[[Tensor], Tensor]"

# What `network(x, disturb_scales=...)` puts each coarser map of the decoder through before its class layer (the head
# "scales") reads it: (level, 0 the coarsest; map) -> map.
DisturbScales: TypeAlias = "Callable[[int, Tensor], Tensor]"

# What a method may require of a network beside logits, with the same meaning on every network: signed distances, the
# last decoder map, logits of the coarser decoder levels, one or two further full-size decoders, and the keyword
# `disturb`.
Head = Literal["sdf", "features", "scales", "decoder2", "decoder3", "disturb"]
HEADS: tuple[Head, ...] = get_args(Head)


@dataclass(frozen=True)
class Case:
    """One image, one volume, or one slice of a volume. `label` is None where training may not look."""

    name: str
    group: str  # what a split keeps together: the patient, or the image itself
    image: str  # a path, or phantom:SEED
    label: str | None = None
    slice: int | None = None  # index along the last axis of a volume; None: all of it
    axes: str = ""  # the order that the volume's axes are brought to (`edgemt.io.geometry`); empty: as stored


@dataclass(frozen=True)
class Batch:
    """A two-stream batch: labelled rows first. There is no label to peek at for the rest."""

    image: Tensor  # [N, K, *space] float, normalised, weakly augmented
    label: Tensor  # [L, *space] int64
    strong: Tensor | None = None  # [U, K, *space] the unlabelled rows, same geometry, strong intensity view
    soft: Tensor | None = None  # [N, C, *space] what a finished teacher said of every row beforehand, same geometry
    index: Tensor | None = None  # int64 [N] which case each row shows: its place in the stacks, labelled ones first
    place: Tensor | None = None  # [N, A, A + 1] where in that case, A axes: rows of `affine_grid`, bending left out

    @property
    def count(self) -> int:
        """L, the number of labelled rows."""
        return len(self.label)

    @property
    def labelled(self) -> Tensor:
        return self.image[: self.count]

    @property
    def unlabelled(self) -> Tensor:
        return self.image[self.count :]


class Output(NamedTuple):
    """What a network says of a batch, at input resolution."""

    logits: Tensor  # [N, C, *space]
    features: Tensor | None = None  # [N, F, *space]
    sdf: Tensor | None = None  # [N, C - 1, *space] in [-1, 1], negative inside
    scales: tuple[Tensor, ...] = ()  # logits of the coarser decoder levels, coarsest first, each [N, C, *space]
    decoders: tuple[Tensor, ...] = ()  # logits of further full-size decoders, each [N, C, *space]
    maps: tuple[Tensor, ...] = ()  # [N, F, *smaller] feature maps, finest first, where the network's `maps` names them


@dataclass(frozen=True)
class Step:
    """Where a run stands. Every random draw of a method comes from `generator`."""

    index: int
    total: int
    generator: torch.Generator | None = None

    @property
    def share(self) -> float:
        """How much of the run is behind us, 0 to 1."""
        return min(max(self.index / max(self.total, 1), 0.0), 1.0)


@dataclass(frozen=True)
class Normalise:
    """uint8 frame / 255, then (x - mean) / std per channel; `per_image` takes both from the frame itself."""

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    per_image: bool = False


@dataclass(frozen=True)
class Card:
    """What a folder of artefacts says of itself. Plain JSON, never executed."""

    task: str = "segmentation"
    stage: str = ""
    name: str = ""
    classes: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)  # height, width of the fixed input, pixels
    patch: tuple[int, ...] | None = None  # X, Y, Z that a 3-D teacher sees at once, voxels; it has no frame size
    channels: int = 3
    channel_order: str = "RGB"  # "RGB", "grey", or "slices": neighbours of a volume's slice, itself in the middle
    normalise: Normalise = field(default_factory=Normalise)
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

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str | Path = "card.json") -> Card:
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
            return cls(normalise=Normalise(**norm), **raw)
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


class Runner(Protocol):
    """One model on one runtime: raw frames in, class masks out."""

    runtime: str  # "torch", "onnxruntime", "openvino", "tensorrt"
    file: str  # the file that runs, relative to its folder
    precision: str  # as executed, not as asked for
    threads: int

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, K] -> uint8 [N, H, W]."""
        ...


Progress = Literal["bar", "lines", "none"]
