"""The feature term of distillation: which maps of which networks are compared, and by which loss.

Shapes: N batch, L labelled, C D channels of a map, *space 2 or 3 axes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from edgemt.contract import Output
from edgemt.learning.feature_losses import (
    Feature,
    Maps,
    Projection,
    cutmix_maps,
    feature_loss,
    forward_maps,
    maps_of,
    pairs,
)
from edgemt.learning.roles import Frozen, Networks, Role, Trainable


@dataclass(frozen=True)
class FeatureTerm:
    """weight * loss(P(student's maps), teacher's maps), mean over pairs of maps; all kinds but "similarity" train a P.

    `at` "encoder" compares the encoders' maps of equal stride, "decoder" the finest map of each decoder, whatever their
    strides. `source` "backbone" compares with another frozen encoder than the teacher's; a recipe sets it where
    `student.feature_teacher` names one. The formulas are in edgemt/learning/feature_losses.py.
    """

    kind: Feature = "none"
    weight: float = 1.0
    at: Maps = "encoder"
    strides: tuple[int, ...] = ()  # strides of the encoders' maps; empty: all that both have
    temperature: float = 4.0  # of "cwd"
    source: Literal["teacher", "backbone"] = "teacher"

    def __post_init__(self) -> None:
        for name, allowed in (("kind", get_args(Feature)), ("at", get_args(Maps)), ("source", ("teacher", "backbone"))):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"feature.{name}: {getattr(self, name)!r} is not known; use one of {', '.join(allowed)}"
                )
        if self.weight < 0:
            raise ValueError(f"feature.weight: {self.weight} is below 0; 1 is usual, 10 for similarity")
        if self.temperature <= 0:
            raise ValueError(f"feature.temperature: {self.temperature} must be above 0; 1 to 4 is usual")
        if self.kind != "none" and not self.weight:
            warnings.warn("FeatureTerm.weight is 0: this loss is switched off", stacklevel=3)

    @property
    def on(self) -> bool:
        return self.kind != "none" and self.weight > 0

    @property
    def given_by(self) -> tuple[str, ...]:
        """Kinds of networks that need `enable_maps`. A backbone is an encoder alone, whose output is its maps."""
        if not self.on:
            return ()
        return ("student", "teacher") if self.source == "teacher" else ("student",)

    def roles(self) -> dict[str, Role]:
        """Roles that this term adds to a student and a teacher."""
        players: dict[str, Role] = {}
        if self.on and self.source == "backbone":
            players["backbone"] = Frozen("backbone")
        if self.on and self.kind != "similarity":
            players["projection"] = Trainable("projection")
        return players

    def projection(self, built: Mapping[str, nn.Module], example: Tensor) -> nn.Module:
        """The projection for the networks of a run, `built` by kind; example [1, K, *space].

        Its channels are those of the maps of `example`, so that a pruned student gets a projection of its own size.
        Raises ValueError if the two have no maps of equal stride.
        """
        maps = (forward_maps(built[kind], example) for kind in ("student", self.source))
        student, teacher = self._select(*maps, space=example.shape[2:])
        channels = [(s.shape[1], t.shape[1]) for s, t in zip(student, teacher, strict=True)]
        return Projection(self.kind, channels=channels, dims=example.ndim - 2)

    def target_maps(self, nets: Networks, image: Tensor, teacher: Output | None) -> list[Tensor]:
        """The target maps: those in the output of `teacher` for `image`, or the backbone's; without gradient."""
        if self.source == "backbone":
            with torch.no_grad():
                return maps_of(nets.backbone(image))
        if teacher is None:
            raise ValueError("feature.kind: a bank has no feature maps; name a student.feature_teacher, or set none")
        return maps_of(teacher)

    def loss(
        self,
        nets: Networks,
        out: Output | Sequence[Tensor],
        guide: Sequence[Tensor],
        *,
        space: Sequence[int],
        box: Tensor | None = None,
        count: int = 0,
    ) -> Tensor:
        """Scalar: weight times the feature loss of the student's output `out` and the target maps `guide`.

        `space` is the size of an image. With `box` the student's rows from `count` on were mixed by CutMix and those of
        the target maps were not; the target maps are then mixed by the same box.
        """
        student, teacher = self._select(maps_of(out), guide, space=space)
        if box is not None:
            teacher = [torch.cat([m[:count], cutmix_maps(box, m[count:])]) for m in teacher]
        projection = None if self.kind == "similarity" else nets.projection
        loss = feature_loss(self.kind, student, teacher, projection=projection, temperature=self.temperature)
        return self.weight * loss

    def _select(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], *, space: Sequence[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The maps that are compared: those of the student, and those of the teacher in the same order."""
        if self.at == "decoder" and self.source == "teacher":
            return [student[0]], [teacher[0]]
        indices = pairs(student, teacher, space=space, strides=self.strides)
        return [student[i] for i, _ in indices], [teacher[j] for _, j in indices]
