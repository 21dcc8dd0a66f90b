"""Temporal ensembling: cells, moving average, errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from method_samples import FULL, ConstantOutput, random_logits, seeded_generator

from edgemt.contract import Batch, Step
from edgemt.learning.roles import Memory, Networks, build_networks
from edgemt.methods import METHODS
from edgemt.methods.temporal_ensembling import TemporalEnsembling, cell_means
from edgemt.testing.tiny_training import TinyTrainer, random_batch


def test_cell_means_average_the_voxels_of_each_cell():
    p = torch.rand(1, 2, 4, 4, generator=seeded_generator())
    means, voxels = cell_means(p, torch.eye(2, 3)[None], cells=4)
    assert means.shape == (1, 2, 4) and (voxels == 4).all()
    torch.testing.assert_close(means.view(1, 2, 2, 2), F.avg_pool2d(p, 2))
    half = torch.tensor([[[0.5, 0.0, 0.5], [0.0, 0.5, -0.5]]])  # the patch is the upper right quarter
    means, voxels = cell_means(p, half, cells=4)
    assert voxels[0, 0].tolist() == [0, 16, 0, 0]
    torch.testing.assert_close(means[0, :, 1], p[0].mean((1, 2)))
    beyond = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])  # its right half lies outside of the image
    assert cell_means(p, beyond, cells=4)[1][0, 0].tolist() == [0, 4, 0, 4]


def remembering(rows: int = 2, **options) -> tuple[TemporalEnsembling, Networks, Batch]:
    method = replace(METHODS["temporal_ensembling"], ramp=FULL, images=8, cells=4, **options)
    b = random_batch(classes=3, unlabelled=rows)
    nets = build_networks(method.roles(), lambda kind, init: ConstantOutput(random_logits(2 + rows)))
    return method, nets, b


def test_temporal_ensemble_is_bias_corrected_ema_of_predictions():
    method, nets, b = remembering()
    values = []
    for k in range(3):
        logits = random_logits(4, seed=k)
        nets["student"] = ConstantOutput(logits)
        (_, terms), *_ = list(method.steps(nets, b, Step(1, 1, seeded_generator())))
        values.append(
            (cell_means(logits[2:].softmax(1), b.place[2:], cells=4)[0].detach(), terms["consistency"].item())
        )
    (first, none), (second, gap), (third, last) = values
    assert none == 0.0, "nothing was said before"
    assert gap == pytest.approx(float((second - first).square().mean()), rel=1e-4)
    target = (0.6 * 0.4 * first + 0.4 * second) / (1 - 0.6**2)
    assert last == pytest.approx(float((third - target).square().mean()), rel=1e-4)


def test_failed_step_does_not_change_the_ensemble():
    for name in ("temporal_ensembling", "ss_net"):
        stage = TinyTrainer(METHODS[name])
        memory = next(stage.nets[who] for who in stage.of(Memory))
        turns = stage.optimiser_steps(random_batch())
        next(turns)
        turns.close()  # what the engine does after a loss that is not finite
        assert not memory.vectors.any() and not memory.filled.any()


def test_ensemble_that_is_too_small_is_an_error_with_remedy():
    method, nets, b = remembering()
    for wrong, other, message in (
        (method, replace(b, index=b.index + 5), "images: 8 is too few"),
        (replace(method, classes=2), b, "classes: 2 is too few"),
        (method, replace(b, index=None), "no case index and position"),
    ):
        with pytest.raises(ValueError, match=message):
            list(wrong.steps(nets, other, Step(1, 1, seeded_generator())))
