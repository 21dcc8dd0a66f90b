"""Inputs, tiny networks and small functions that tests of methods and losses share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgemt.contract import Batch, Output, Step
from edgemt.learning.method import LossTerms
from edgemt.learning.roles import Networks
from edgemt.learning.schedules import SigmoidRampUp

FULL = SigmoidRampUp(top=1.0, length=0.0)


def seeded_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class ConstantOutput(nn.Module):
    """A network with constant outputs, which are leaves with gradients."""

    def __init__(self, logits: Tensor, *others: Tensor, sdf: Tensor | None = None) -> None:
        super().__init__()
        leaves = tuple(x.requires_grad_() for x in others)
        self.out = Output(logits.requires_grad_(), None, sdf, scales=leaves, decoders=leaves)

    def forward(self, x: Tensor, disturb_scales: object = None) -> Output:
        return self.out


def losses_of(method, network: nn.Module, batch: Batch, step: Step | None = None) -> LossTerms:
    _, terms = next(method.steps(Networks({"student": network}), batch, step or Step(1, 1, seeded_generator())))
    return terms


def random_logits(count: int, *, classes: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, classes, 12, 10, generator=seeded_generator(seed))


SPACES = pytest.mark.parametrize("size", [(9, 6), (8, 6, 5)])


def random_tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def at(share: float) -> Step:
    return Step(round(100 * share), 100, seeded_generator())


def places(size: tuple[int, ...]) -> torch.Tensor:
    """[1, D, *space]: where each voxel lies, from -1 to 1."""
    return torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, n) for n in size], indexing="ij"))[None]


def probs_of_voxels(*rows: tuple[float, ...]) -> torch.Tensor:
    """Probabilities [1, C, 1, n], a tuple a voxel."""
    return torch.tensor(rows).T[None, :, None]


class NoNetworks(Networks):
    """An empty set of networks, for rules that use none."""


class FixedProbabilities(nn.Module):
    """A network with the given logits, repeated over the rows of any batch, times one trainable weight."""

    def __init__(self, logits):
        super().__init__()
        self.scale, self.logits = nn.Parameter(torch.ones(1)), logits

    def forward(self, x):
        return Output(self.scale * self.logits[torch.arange(len(x)) % len(self.logits)])


def probs_of_voxel(*p: float) -> torch.Tensor:
    """Probabilities [1, C, 1, 1] of one voxel."""
    return torch.tensor(p).view(1, -1, 1, 1)


class EchoNetwork(nn.Module):
    """A network whose outputs are the channels of the image."""

    def forward(self, x, disturb=None):
        return Output(x, x, x[:, 1:].tanh(), (x, x))


class ConstantTeacher(nn.Module):
    """A teacher that predicts the probabilities `p` [C, *space] for every image."""

    def __init__(self, p: Tensor) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Output:
        return Output(self.p.log().expand(len(x), *self.p.shape))
