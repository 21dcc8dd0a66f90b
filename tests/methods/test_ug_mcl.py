"""UG-MCL: its threshold."""

from __future__ import annotations

import pytest

from edgemt.methods import METHODS
from edgemt.testing.tiny_training import TinyTrainer, random_batch


@pytest.mark.parametrize("classes", [2, 4])
def test_ug_mcl_threshold_depends_on_number_of_classes(classes):
    """UA-MT and UG-MCL write ln 2: with four classes, much would be refused even when everything should pass."""
    stage = TinyTrainer(METHODS["ug_mcl"], classes=classes, total=1, index=1)
    _, terms = next(stage.optimiser_steps(random_batch(classes=classes)))
    assert float(terms.notes["accepted"]) == 1.0
