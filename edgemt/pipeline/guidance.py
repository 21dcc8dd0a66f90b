"""What a method learns from besides images: a frozen teacher, its stored predictions, a frozen feature teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from edgemt.artefacts import network_folder, stage_folder
from edgemt.data import soft_labels
from edgemt.learning.roles import Frozen
from edgemt.methods import Method
from edgemt.pipeline import feature_teacher
from edgemt.pipeline.feature_teacher import FeatureTeacher
from edgemt.pipeline.recipe import StudentOptions, TeacherOptions, uses_soft_label_bank
from edgemt.pipeline.run_context import RunContext


@dataclass(frozen=True)
class Guidance:
    """The guides of a stage; None for each that its method has no use for."""

    teacher: Path | None  # folder of the frozen network "teacher"
    bank: Path | None  # folder of the teacher's stored probabilities
    features: FeatureTeacher | None  # the frozen network "backbone"
    variance: bool = False  # the method also learns from the bank's variance between teachers

    def parents(self, others: Mapping[str, str] | None = None) -> dict[str, str]:
        """Name -> fingerprint, for the inputs of a stage; `others` stand before the feature teacher."""
        return {
            **({"teacher": stage_folder.identity(self.teacher)} if self.teacher is not None else {}),
            **({"bank": soft_labels.bank_fingerprint(self.bank)} if self.bank is not None else {}),
            **({"variance": soft_labels.variance_fingerprint(self.bank)} if self.bank and self.variance else {}),
            **(others or {}),
            **({"feature teacher": self.features.identity} if self.features is not None else {}),
        }

    def networks(self) -> dict[str, Callable[[], nn.Module]]:
        """Kind of a frozen player -> builder of its network."""
        return {
            **({"teacher": partial(network_folder.load_network, self.teacher)} if self.teacher is not None else {}),
            **({"backbone": self.features.build} if self.features is not None else {}),
        }


def find_guidance(
    context: RunContext, method: Method, of: TeacherOptions | StudentOptions, *, teacher: Path | None
) -> Guidance:
    """The guides that `method` needs; `teacher` is the folder of the finished teacher, None where there is none.

    Raises ValueError where the weights of a feature teacher cannot be had. No network is built.
    """
    return Guidance(
        teacher=teacher if "teacher" in frozen_kinds(method) else None,
        bank=context.folder("bank") if uses_soft_label_bank(method) else None,
        features=feature_teacher.find(context, method, of),
        variance=getattr(method, "uncertainty", 0.0) > 0,
    )


def student_guidance(context: RunContext, method: Method) -> Guidance:
    """The guides of a stage that trains the student further with its own method."""
    return find_guidance(context, method, context.recipe.student, teacher=context.folder("teacher"))


def frozen_kinds(method: Method) -> set[str]:
    """The kinds of a method's frozen players."""
    return {role.kind for role in method.roles().values() if isinstance(role, Frozen)}
