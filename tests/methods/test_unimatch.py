"""UniMatch and CrossMatch: views, boxes, thresholds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from method_samples import EchoNetwork, seeded_generator

from edgemt.learning.perturbations.intensity import IntensityJitter
from edgemt.learning.perturbations.mixing import CutMixBox
from edgemt.methods import METHODS
from edgemt.methods.unimatch import UniMatch, confident_pseudo_label
from edgemt.testing.tiny_training import TinyTrainer, random_batch


@pytest.mark.parametrize("name", ["unimatch", "cross_match"])
def test_cutmix_cuts_view_and_label_with_the_same_box(name):
    """A student that says what it sees pays nothing, however the views are cut and whatever is disturbed."""
    quiet = IntensityJitter(contrast=0.0, brightness=0.0, power=0.0)
    stage = TinyTrainer(replace(METHODS[name], box=CutMixBox(chance=1.0), jitter=quiet), classes=2, total=1, index=1)
    stage.nets["student"] = EchoNetwork()
    b = random_batch(classes=2, strong=False)
    sure = torch.sign(b.image[:, :1]) * 6
    _, paid = next(stage.optimiser_steps(replace(b, image=torch.cat([sure, -sure], 1))))
    assert float(paid["strong"]) < 1e-3 and float(paid["features"]) < 1e-3


def test_channel_dropout_affects_the_rows_of_its_view_only():
    seen = {}

    class Watch(EchoNetwork):
        def forward(self, x, disturb=None):
            seen["changed"] = (disturb(torch.ones(len(x), 50, 4, 4)) != 1).flatten(1).any(1).tolist()
            return super().forward(x)

    for name, quiet in (("unimatch", 2 + 3), ("cross_match", 2 + 9)):
        stage = TinyTrainer(METHODS[name], classes=2)
        stage.nets["student"] = Watch()
        next(stage.optimiser_steps(random_batch(classes=2)))
        rows = 3 if name == "unimatch" else 12
        assert seen["changed"][:quiet] == [False] * quiet
        assert seen["changed"][quiet : quiet + rows] == [True] * rows
        assert not any(seen["changed"][quiet + rows :])


def test_contract_detects_threshold_times_ln_2():
    """CrossMatch as released: 0.75 and more, times ln 2, is under 0.7; an unsure teacher is believed."""
    p = torch.rand(1, 1, 64, 64, generator=seeded_generator())
    logits = torch.cat([p.log(), (1 - p).log()], 1)
    accepted = {
        threshold: float(confident_pseudo_label(logits, confidence=threshold)[1].mean())
        for threshold in (0.75, 0.75 * math.log(2))
    }
    assert accepted[0.75] == pytest.approx(0.5, abs=0.05)
    assert accepted[0.75 * math.log(2)] > 0.95
    stage = TinyTrainer(METHODS["cross_match"], classes=2)
    _, terms = next(stage.optimiser_steps(random_batch(classes=2)))
    assert 0.0 <= float(terms.notes["accepted"]) < 0.9


def test_voxels_below_the_threshold_have_no_gradient():
    stage = TinyTrainer(replace(UniMatch(), confidence=0.999), classes=3)
    _, terms = next(stage.optimiser_steps(random_batch()))
    assert float(terms.notes["accepted"]) == 0.0 and float(terms["strong"].detach()) == 0.0
