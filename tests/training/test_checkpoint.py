"""One flipped bit in a checkpoint or in weights is found, wherever it lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgemt.contract import Batch
from edgemt.methods import METHODS
from edgemt.training import checkpoint, engine
from edgemt.training.options import Schedule

FAST = Schedule(steps=6, labelled=2, unlabelled=2, precision="32-true", validations=0, checkpoint_every=2, warmup=2)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor):
        from edgemt.contract import Output

        return Output(self.head(self.body(x)))


def build(kind: str, init: int) -> nn.Module:
    torch.manual_seed(init)
    return Small()


def draw(index: int, device: torch.device) -> Batch:
    g = torch.Generator().manual_seed(index)
    image = torch.randn(4, 1, 8, 8, generator=g)
    return Batch(image, torch.randint(0, 3, (2, 8, 8), generator=g), image[2:])


def train(folder: Path, **changes: object) -> engine.Trained:
    given = {"build": build, "draw": draw, "schedule": FAST, "key": "k", **changes}
    return engine.train(METHODS["mean_teacher"], folder=folder, **given)  # type: ignore[arg-type]


def load(file: Path, run: engine.Trainer) -> None:
    checkpoint.read_state(file)
    checkpoint.load(file, players=run.players, optimisers=run.optimisers)


def test_every_flipped_bit_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    train(tmp_path)
    file = tmp_path / checkpoint.CHECKPOINT
    whole = file.read_bytes()
    run = engine.Trainer(METHODS["mean_teacher"], build=build, schedule=FAST, seed=0)
    load(file, run)
    draws = np.random.default_rng(0)
    places = [*draws.integers(0, len(whole), 60), *range(0, 200, 8), len(whole) - 1]
    for place in map(int, places):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(draws.integers(8))
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors: ") as caught:
            load(file, run)
        assert "\n" not in str(caught.value) and "delete it" in str(caught.value), place


def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_taken_up_when_it_is_deleted(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole").network.state_dict()

    def until(index: int, device: torch.device) -> Batch:
        if index == 5:
            raise KeyboardInterrupt
        return draw(index, device)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", draw=until)
    file = tmp_path / "run" / checkpoint.CHECKPOINT
    assert checkpoint.read_state(file)["index"] == 4
    assert checkpoint.read_state(checkpoint.previous_checkpoint(file))["index"] == 2
    damaged = bytearray(file.read_bytes())
    damaged[-3] ^= 4
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"sha256 differs.*delete it to go on from .* checkpoint\.previous\.safeten"):
        train(tmp_path / "run")
    file.unlink()
    seen: list[int] = []
    done = train(tmp_path / "run", draw=lambda index, device: seen.append(index) or draw(index, device))
    assert seen[0] == 2
    assert all(torch.equal(value, whole[name]) for name, value in done.network.state_dict().items())


def test_weights_are_checked_and_those_of_earlier_versions_are_read(tmp_path: Path) -> None:
    network = nn.Linear(3, 3)
    checkpoint.save_weights(tmp_path / "w.safetensors", network)
    damaged = bytearray((tmp_path / "w.safetensors").read_bytes())
    damaged[-6] ^= 1  # a mantissa bit
    (tmp_path / "w.safetensors").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"w\.safetensors: damaged since it was written"):
        checkpoint.load_weights(tmp_path / "w.safetensors", nn.Linear(3, 3))
    save_file(dict(network.state_dict()), tmp_path / "old.safetensors")
    read = checkpoint.load_weights(tmp_path / "old.safetensors", nn.Linear(3, 3))
    assert torch.equal(read.weight, network.weight)


def test_a_checkpoint_without_a_sum_is_refused(tmp_path: Path) -> None:
    file = tmp_path / checkpoint.CHECKPOINT
    save_file({"player/student/weight": torch.zeros(1)}, file, metadata={"edgemt": "{}"})
    with pytest.raises(ValueError, match="sha256 differs"):
        checkpoint.load(file, players={}, optimisers={})


def test_half_precision_and_scalars_have_a_sum_too(tmp_path: Path) -> None:
    network = nn.BatchNorm1d(3).to(torch.bfloat16)
    checkpoint.save_weights(tmp_path / "w.safetensors", network)
    checkpoint.load_weights(tmp_path / "w.safetensors", nn.BatchNorm1d(3).to(torch.bfloat16))


def test_a_curve_of_another_validation_list_is_begun_again(tmp_path: Path) -> None:
    def until(index: int, device: torch.device) -> Batch:
        if index == 5:
            raise KeyboardInterrupt
        return draw(index, device)

    often = Schedule(**{**vars(FAST), "validations": 6})
    for measured_on, expected in (("one", [1, 2, 3, 4, 5, 6]), ("another", [5, 6])):
        folder = tmp_path / measured_on
        given = {"schedule": often, "evaluate": lambda network: 0.5}
        with pytest.raises(KeyboardInterrupt):
            train(folder, draw=until, measured_on="one", **given)
        assert train(folder, measured_on=measured_on, **given).history["val"]["step"] == expected


def test_a_norm_layer_with_one_value_names_the_fields(tmp_path: Path) -> None:
    class Deep(Small):
        def forward(self, x: torch.Tensor):
            return super().forward(nn.functional.adaptive_avg_pool2d(x, 1))

    def one(index: int, device: torch.device) -> Batch:
        return Batch(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 1, dtype=torch.long))

    schedule = Schedule(steps=1, labelled=1, unlabelled=0, precision="32-true", validations=0)
    with pytest.raises(ValueError) as caught:
        engine.train(
            METHODS["supervised"], build=lambda kind, init: Deep(), draw=one, schedule=schedule, folder=tmp_path
        )
    line = str(caught.value)
    assert "schedule.labelled (now 1)" in line and "data.size to at least 32 32 (now 16 16)" in line
    assert "torch.Size" not in line
