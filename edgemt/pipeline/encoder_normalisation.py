"""The normalisation of a student's pretrained encoder, where a recipe uses it."""

from __future__ import annotations

import students
from edgemt.io import encoder_weights
from edgemt.model_card import Normalisation
from edgemt.pipeline.recipe import Recipe


def expected_by_encoder(recipe: Recipe) -> Normalisation | None:
    """The normalisation that the student's pretrained weights were trained with, where the recipe uses it.

    It follows from the recipe alone, not from which weights this machine has: teacher, student and the graph that
    ships see the same input.
    """
    student, wanted = recipe.student, recipe.normalise
    if wanted == "data" or (wanted == "auto" and (recipe.per_image or student.pretrained == "never")):
        return None
    if recipe.data.channel_names:  # each channel by its own mean and deviation
        if wanted == "encoder":
            names = ", ".join(recipe.data.channel_names)
            raise ValueError(f"normalise: no weights state a normalisation of the channels {names}; use data")
        return None
    expected = encoder_weights.expected_input(students.encoder_name(student.network))
    if expected is None:
        if wanted == "encoder":
            raise ValueError(
                f"normalise: no input normalisation is documented for the weights of {student.network}; use data"
            )
        return None
    mean, std = (values if recipe.data.frame_channels == 3 else (sum(values) / len(values),) for values in expected)
    if recipe.data.slices > 1 or recipe.data.frame_channels == 1:
        return Normalisation(mean[:1], std[:1])
    return Normalisation(mean, std)
