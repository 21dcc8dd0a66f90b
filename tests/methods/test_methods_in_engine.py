"""Methods in the real engine with real networks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from method_samples import seeded_generator
from torch import nn

import teachers
from edgemt.contract import Batch
from edgemt.methods import METHODS, Discriminator
from edgemt.testing.tiny_training import CHANNELS
from edgemt.training.engine import Trainer
from edgemt.training.options import Schedule

MINE = (
    "bcp",
    "cct",
    "dtc",
    "ict",
    "mc_net",
    "mc_net_plus",
    "pi_model",
    "sassnet",
    "ss_net",
    "urpc",
    "vat",
    "temporal_ensembling",
)


@dataclass(frozen=True)
class World:
    name: str
    dims: int

    def build(self, kind: str, init: int) -> nn.Module:
        torch.manual_seed(init)
        if kind == "discriminator":
            return Discriminator(classes=3, channels=CHANNELS, dimensions=self.dims, width=4)
        small = {"filters": 2} if self.dims == 3 else {"widths": (4, 4, 8), "dropout": (0.1,) * 3}
        name = "vnet" if self.dims == 3 else "unet"
        return teachers.build(name, channels=CHANNELS, classes=3, heads=METHODS[self.name].heads, **small)

    def sample(self, index: int, device: torch.device) -> Batch:
        g, size = seeded_generator(index), (16,) * self.dims
        image = torch.randn(4, CHANNELS, *size, generator=g)
        place = torch.eye(self.dims, self.dims + 1).repeat(4, 1, 1)
        label = torch.randint(0, 3, (2, *size), generator=g)
        moved = (x.to(device) for x in (image, label, image[2:] * 1.1))
        return Batch(*moved, index=torch.arange(4), place=place.to(device))


@pytest.mark.parametrize("name", MINE)
@pytest.mark.parametrize(
    ("dims", "precision"),  # test_method_steps.py takes steps of every method in 2-D
    [pytest.param(2, "bf16-mixed", marks=pytest.mark.slow), (3, "32-true")],
)
def test_method_trains_in_the_engine_with_real_networks(name: str, dims: int, precision, tmp_path: Path):
    world = World(name, dims)
    schedule = Schedule(steps=4, labelled=2, unlabelled=2, precision=precision, warmup=1)
    method = replace(METHODS[name], **({"images": 8, "cells": 16} if name == "temporal_ensembling" else {}))
    run = Trainer(method, build=world.build, schedule=schedule, seed=0)
    for _ in range(3):
        terms = run.step(world.sample)
        assert terms and all(math.isfinite(float(v)) for v in terms.values())
    run.save(tmp_path / "c.safetensors", key="k")
    again = Trainer(method, build=world.build, schedule=schedule, seed=1)
    again.restore(tmp_path / "c.safetensors", key="k")
    assert all(torch.equal(a, b) for a, b in zip(run.players.buffers(), again.players.buffers(), strict=True))
    assert again.index == 3
