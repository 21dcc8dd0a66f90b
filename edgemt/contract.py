"""Records and protocols that all packages share. Imports no other module of this project, and no torch.

Shapes: N batch, L labelled, U unlabelled, C classes, K image channels, *space 2 or 3 axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias, get_args

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


# What `network(x, disturb=...)` puts each encoder map through before a decoder reads it. It may also give more rows
# than it takes, as many for every map: the decoder then reads several versions of what the encoder saw once.
Disturb: TypeAlias = "Callable[[Tensor], Tensor]"

# What `network(x, disturb_scales=...)` puts each coarser map of the decoder through before its class layer (the head
# "scales") reads it: (level, 0 the coarsest; map) -> map.
DisturbScales: TypeAlias = "Callable[[int, Tensor], Tensor]"

# What a method may require of a network beside logits, with the same meaning on every network: signed distances, the
# last decoder map, logits of the coarser decoder levels, one or two further full-size decoders, the keyword `disturb`,
# and the probability that the class of a pixel is wrong.
UncertaintySource = Literal["head", "softmax"]  # of a graph's output `uncertainty`: the student's head, or its logits
Head = Literal["sdf", "features", "scales", "decoder2", "decoder3", "disturb", "uncertainty"]
HEADS: tuple[Head, ...] = get_args(Head)


IGNORE = 255  # in a label: the pixel counts in no loss, no metric and no statistics


@dataclass(frozen=True)
class LabelRules:
    """How labels count in losses: whether some pixels are ignored, and a weight for each class; empty: 1 for each.

    `overlapping`: a pixel may be of several classes. Labels are bit masks (`edgemt.io.class_regions`), networks have a
    logit for each class but the background, and probabilities are their sigmoids.
    """

    ignore: bool = False
    class_weights: tuple[float, ...] = ()
    overlapping: bool = False


# `field(default=..., metadata=ADDED_LATER)`: a field of a recipe that earlier versions did not have. While it has its
# default, the inputs and keys of a stage leave it out, so that run folders of those versions still fit.
ADDED_LATER = {"in_key": "unless default"}


@dataclass(frozen=True)
class Case:
    """One image, one volume, or one slice of a volume. `label` is None for unlabelled images."""

    name: str
    patient: str  # all cases of a patient are in one part of a split; without patients the image
    image: str  # a path, or phantom:SEED
    label: str | None = None
    slice: int | None = None  # index along the last axis of a volume; None: all of it
    axes: str = ""  # the order that the volume's axes are brought to (`edgemt.io.geometry`); empty: as stored
    # paths of several channels, "" for one that is missing, the same for all of a 4-D file; empty: `image` alone
    channels: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()  # of overlapping classes: a mask for each, `label` the first; empty: `label` alone

    @property
    def files(self) -> tuple[str, ...]:
        """The image files: one for each channel that is there, or one that holds them all along its fourth axis."""
        return tuple(dict.fromkeys(path for path in self.channels if path)) or (self.image,)

    @property
    def label_files(self) -> tuple[str, ...]:
        """The mask files; none of an unlabelled image."""
        return self.labels or (() if self.label is None else (self.label,))


@dataclass(frozen=True)
class Batch:
    """A two-stream batch, labelled rows first. Unlabelled rows have no label."""

    image: Tensor  # [N, K, *space] float, normalised, weakly augmented
    label: Tensor  # [L, *space] int64; IGNORE where `rules` say so, bits where they have overlapping classes
    strong: Tensor | None = None  # [U, K, *space] the unlabelled rows, same geometry, strong intensity view
    soft: Tensor | None = None  # [N, C, *space] probabilities of a finished teacher (soft-label bank), same geometry
    index: Tensor | None = None  # int64 [N] case number of each row; unlabelled cases count after the labelled ones
    place: Tensor | None = (
        None  # [N, A, A + 1] affine map into that case as for `affine_grid`, A axes; without elastic part
    )
    deviation: Tensor | None = None  # [N, *space] standard deviation between several teachers, 0 to 1, same geometry
    rules: LabelRules | None = None  # None: every pixel of the labels counts, and each class the same

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
    """Output of a network for a batch, at input resolution."""

    logits: Tensor  # [N, C, *space]; of overlapping classes without the background
    features: Tensor | None = None  # [N, F, *space]
    sdf: Tensor | None = None  # [N, C - 1, *space] in [-1, 1], negative inside
    scales: tuple[Tensor, ...] = ()  # logits of the coarser decoder levels, coarsest first, each [N, C, *space]
    decoders: tuple[Tensor, ...] = ()  # logits of further full-size decoders, each [N, C, *space]
    maps: tuple[Tensor, ...] = ()  # [N, F, *smaller] feature maps, finest first, where the network's `maps` names them
    uncertainty: Tensor | None = None  # [N, 1, *space] logit of the probability that the class of a pixel is wrong


@dataclass(frozen=True)
class Step:
    """The step of a run. Every random number of a method comes from `generator`."""

    index: int
    total: int
    generator: torch.Generator | None = None

    @property
    def progress(self) -> float:
        """Finished fraction of the run, 0 to 1."""
        return min(max(self.index / max(self.total, 1), 0.0), 1.0)


class Runner(Protocol):
    """One model on one runtime: raw frames in, class masks out."""

    runtime: str  # "torch", "onnxruntime", "openvino", "tensorrt"
    file: str  # the file that runs, relative to its folder
    precision: str  # as executed, which may differ from the requested one
    threads: int

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, K] -> uint8 [N, H, W]."""
        ...


Progress = Literal["bar", "lines", "none"]
