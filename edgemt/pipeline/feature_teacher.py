"""The frozen encoder that a recipe names as teacher of features: its weights, and what a stage depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from edgemt.artefacts import stage_folder
from edgemt.io.encoder_weights import EncoderWeights
from edgemt.learning.roles import Frozen
from edgemt.methods import Method
from edgemt.model_card import Normalisation
from edgemt.pipeline.recipe import StudentOptions, TeacherOptions
from edgemt.pipeline.run_context import RunContext


@dataclass(frozen=True)
class FeatureTeacher:
    """A frozen encoder whose features a stage compares with: its card and its builder."""

    card: dict[str, Any]  # name, sha256 of its weights and size of its input, for the student's card
    build: Callable[[], nn.Module]

    @property
    def identity(self) -> str:
        """Its fingerprint, for the inputs of a stage."""
        return stage_folder.key_of("feature_teacher", self.card)

    @property
    def line(self) -> str:
        size = f", {self.card['size']} pixels" if self.card["size"] else ""
        return f"features of {self.card['name']}{size}, weights sha256 {self.card['sha256'][:12]}"


def find(context: RunContext, method: Method, of: TeacherOptions | StudentOptions) -> FeatureTeacher | None:
    """The feature teacher of a stage's `method`; None where the method has no such player.

    Raises ValueError where its weights cannot be had. Its network is not built yet.
    """
    wanted = any(isinstance(role, Frozen) and role.kind == "backbone" for role in method.roles().values())
    if not wanted or not isinstance(of, StudentOptions):
        return None
    if not of.feature_teacher:
        raise ValueError("student.method.feature_from: 'backbone' needs a student.feature_teacher; name a timm encoder")
    from teachers.backbone import weights_of

    weights = weights_of(of.feature_teacher, given=of.feature_teacher_weights)
    card = {"name": of.feature_teacher, "sha256": weights.sha256, "size": of.feature_teacher_size}
    # the statistics of the data are computed when the network is built: a complete stage reads no image
    return FeatureTeacher(card, lambda: _built(of, weights, context.slices.normalise))


def _built(of: StudentOptions, weights: EncoderWeights, normalise: Normalisation) -> nn.Module:
    from teachers.backbone import Backbone

    return Backbone(of.feature_teacher, weights=weights, normalise=normalise, size=of.feature_teacher_size).eval()
