"""Precision of networks, losses and optimiser steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgemt.contract import Batch, Output
from edgemt.learning.roles import unwrap
from edgemt.methods import METHODS
from edgemt.training import engine
from edgemt.training.mixed_precision import MixedPrecision
from edgemt.training.options import Schedule

CPU = torch.device("cpu")


class Probe(nn.Module):
    """Returns what it got and what it computed, in the types of the forward pass."""

    depth = 3

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.seen: list[torch.dtype] = []

    def forward(self, image: Tensor, index: Tensor, *, prompts: dict[str, Tensor | None]) -> Output:
        y = self.layer(image)
        assert prompts["box"] is None and prompts["mask"] is not None
        self.seen = [image.dtype, index.dtype, prompts["mask"].dtype, y.dtype]
        return Output(y, scales=(y, y), uncertainty=None)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)])
def test_a_wrapped_network_computes_in_half_precision_and_answers_in_float32(precision, dtype) -> None:
    probe = Probe()
    wrapped = MixedPrecision(precision, CPU).wrap(probe)
    out = wrapped(torch.ones(1, 4), torch.arange(1), prompts={"box": None, "mask": torch.ones(1)})
    assert probe.seen == [dtype, torch.int64, dtype, dtype]
    assert isinstance(out, Output) and out.uncertainty is None
    assert all(x.dtype == torch.float32 for x in (out.logits, *out.scales))
    assert wrapped.depth == 3 and unwrap(wrapped) is probe
    with pytest.raises(AttributeError, match="width"):
        _ = wrapped.width


def test_float32_leaves_the_network_as_it_is() -> None:
    probe = Probe()
    assert MixedPrecision("32-true", CPU).wrap(probe) is probe
    with pytest.raises(ValueError, match=r"schedule.precision: unknown '64'; one of 32-true, bf16-mixed, 16-mixed"):
        MixedPrecision("64", CPU)


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_the_scale_of_float16_is_removed_from_the_gradients_of_every_optimiser(clip: float) -> None:
    """Plain SGD: a scale left in, or removed twice, would move the weights by another amount."""
    ends = []
    for precision in ("32-true", "16-mixed"):
        torch.manual_seed(0)
        networks = [nn.Linear(4, 4) for _ in range(2)]
        optimisers = [torch.optim.SGD(network.parameters(), 0.1) for network in networks]
        mixed = MixedPrecision(precision, CPU)
        first, second = (mixed.wrap(network) for network in networks)
        for _ in range(3):
            for optimiser in optimisers:
                optimiser.zero_grad()
            mixed.backward(second(first(torch.ones(2, 4))).square().mean())
            for optimiser in optimisers:
                if clip:
                    mixed.clip(optimiser, clip)
            mixed.step(optimisers)
        ends.append(torch.cat([p.detach().flatten() for network in networks for p in network.parameters()]))
    assert torch.allclose(*ends, atol=2e-3)


def test_a_gradient_too_large_for_float16_moves_nothing_and_the_scale_falls() -> None:
    layer = nn.Linear(1, 1)
    optimiser = torch.optim.SGD(layer.parameters(), 0.1)
    mixed = MixedPrecision("16-mixed", CPU)
    assert mixed.scaler is not None
    before, scale = layer.weight.detach().clone(), mixed.scaler.get_scale()
    mixed.backward((layer(torch.ones(1, 1)) * torch.inf).sum())
    mixed.clip(optimiser, 1.0)
    mixed.step([optimiser])
    assert torch.equal(layer.weight, before) and mixed.scaler.get_scale() < scale


def test_a_method_of_two_optimisers_trains_in_float16(tmp_path: Path) -> None:
    class Plain(nn.Conv2d):
        def forward(self, image: Tensor) -> Output:
            return Output(super().forward(image))

    def draw(index: int, device: torch.device) -> Batch:
        g = torch.Generator().manual_seed(index)
        image = torch.randn(4, 1, 16, 16, generator=g)
        return Batch(image, torch.randint(0, 3, (2, 16, 16), generator=g), image[2:])

    schedule = Schedule(steps=3, labelled=2, unlabelled=2, precision="16-mixed", validations=0, warmup=1)
    done = engine.train(
        METHODS["cps"],
        build=lambda kind, init: Plain(1, 3, 3, padding=1),
        draw=draw,
        schedule=schedule,
        folder=tmp_path,
    )
    assert done.history["skipped"] == 0
    assert all(torch.isfinite(w).all() for w in done.network.state_dict().values())
