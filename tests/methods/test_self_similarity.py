"""Self-similarity student: neighbouring patches."""

from __future__ import annotations

import torch

from edgemt.methods.self_similarity import neighbouring_patches


def test_neighbouring_patches_exclude_the_patch_itself():
    close = neighbouring_patches(torch.zeros(1, 1, 3, 3), radius=1.5)
    assert close.sum(1).tolist() == [3, 5, 3, 5, 8, 5, 3, 5, 3]
    assert not close.diagonal().any()
