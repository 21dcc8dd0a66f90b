"""Methods in half precision, and the names of those that could not be read."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from edgemt.methods import METHODS
from edgemt.testing.check_losses import check_every_loss_has_gradient
from edgemt.testing.tiny_training import TinyTrainer, random_batch

MINE = (
    *("ac_mt", "ac_mt_label_errors", "ac_mt_most_doubtful", "ac_mt_prototypes", "ac_mt_unstable"),
    *("adaptive_threshold", "affine_mt", "cople", "double_uncertainty", "er_mt", "feature_aggregation", "frcnet"),
    *("fussnet", "label_correction", "lg_er_mt", "ms_mt", "patch_shuffle", "patch_swap", "sco_ssl"),
    *("self_similarity", "tripled_uncertainty", "ug_mcl"),
)


@pytest.mark.parametrize("name", MINE)
def test_half_precision_gives_finite_losses_and_gradients(name):
    stage = TinyTrainer(METHODS[name], dims=3, classes=2, total=1, index=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, terms = next(stage.optimiser_steps(random_batch(dims=3, classes=2)))
        torch.stack([t.float() for t in terms.values()]).sum().backward()
    grads = [p.grad for p in stage.nets.student.parameters() if p.grad is not None]
    assert all(torch.isfinite(t) for t in terms.values())
    assert grads and all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("name", MINE)
def test_inspired_methods_are_named_so_first(name):
    method = METHODS[name]
    for part in (method, getattr(method, "target", None)):
        if getattr(part, "inspired", False):
            assert (type(part).__doc__ or "").startswith("Inspired by")


def test_contract_detects_loss_without_gradient():
    """ASE-Net's bug in a method of several terms: each term is asked for its gradient, not their sum."""

    @dataclass(frozen=True)
    class NoGradient(type(METHODS["double_uncertainty"])):
        def losses_with_unlabelled(self, nets, batch, step):
            terms = super().losses_with_unlabelled(nets, batch, step)
            terms["features"] = terms["features"].detach()
            return terms

    with pytest.raises(AssertionError, match="features: has no gradient"):
        check_every_loss_has_gradient(NoGradient())
