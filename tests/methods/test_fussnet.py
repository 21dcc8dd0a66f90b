"""FUSSNet: labels where heads agree."""

from __future__ import annotations

import torch

from edgemt.methods import METHODS
from edgemt.testing.tiny_training import TinyTrainer, random_batch


def test_fussnet_labels_voxels_where_heads_agree():
    stage = TinyTrainer(METHODS["fussnet"], total=1, index=1)
    teacher = stage.nets["teacher"]
    for head in teacher.decoders:  # nearly the main decoder, so that they agree at many voxels
        for mine, main in zip(head.parameters(), teacher.head.parameters(), strict=True):
            mine.data = torch.lerp(main, mine, 0.5)
    _, terms = next(stage.optimiser_steps(random_batch()))
    assert 0.1 < float(terms.notes["accepted"]) < 0.9
    assert set(terms) == {"supervised", "pseudo", "consistency"}
