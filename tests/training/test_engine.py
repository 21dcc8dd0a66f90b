"""The loop: a run cut anywhere ends as one that was never cut, and a bad loss loses nothing."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from edgemt.contract import Batch, Output, Step
from edgemt.io import atomic
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.roles import Networks
from edgemt.methods import METHODS, Discriminator
from edgemt.training import checkpoint, engine
from edgemt.training.device import resolve_precision
from edgemt.training.engine import train
from edgemt.training.options import Schedule
from edgemt.training.seeds import step_seed

FAST = Schedule(steps=8, labelled=2, unlabelled=2, precision="32-true", validations=2, checkpoint_every=2, warmup=2)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> Output:
        return Output(self.head(self.body(x)))


def build(kind: str, init: int) -> nn.Module:
    torch.manual_seed(init)
    return Discriminator(classes=3, channels=1) if kind == "discriminator" else Small()


def draw(index: int, device: torch.device) -> Batch:
    g = torch.Generator().manual_seed(index)
    image = torch.randn(4, 1, 16, 16, generator=g)
    return Batch(image, torch.randint(0, 3, (2, 16, 16), generator=g), image[2:] * 1.1)


class Cut(Exception):
    pass


def cut_at(step: int):
    def until(index: int, device: torch.device) -> Batch:
        if index == step:
            raise Cut
        return draw(index, device)

    return until


@pytest.mark.parametrize(
    ("step", "name"),
    [
        *((5, name) for name in ("mean_teacher", "cutmix_mt", "cps", "dan", "distillation")),
        (1, "mean_teacher"),  # before the first checkpoint
        *(pytest.param(1, name, marks=pytest.mark.slow) for name in ("cutmix_mt", "cps", "dan", "distillation")),
    ],
)
def test_a_run_that_was_cut_ends_with_the_same_bits(name: str, step: int, tmp_path: Path) -> None:
    method = METHODS[name]
    whole = train(method, build=build, draw=draw, schedule=FAST, folder=tmp_path / "whole", key="k")
    with pytest.raises(Cut):
        train(method, build=build, draw=cut_at(step), schedule=FAST, folder=tmp_path / "cut", key="k")
    resumed = train(method, build=build, draw=draw, schedule=FAST, folder=tmp_path / "cut", key="k")
    for (key, a), b in zip(whole.network.state_dict().items(), resumed.network.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    assert whole.history == resumed.history


@pytest.fixture
def plain_sigterm() -> Iterator[None]:
    """SIGTERM as a program begins with it; coverage installs a handler, which a training would leave alone."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def stopped_at(step: int, *, times: int = 1):
    def until(index: int, device: torch.device) -> Batch:
        for _ in range(times if index == step else 0):
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(index, device)

    return until


@pytest.mark.parametrize("step", [2, 7])  # in the middle of a checkpoint interval; in the last step
def test_sigterm_saves_the_step_in_progress_and_the_run_resumes_to_the_same_bits(
    step: int, plain_sigterm: None, tmp_path: Path
) -> None:
    method, schedule = METHODS["mean_teacher"], replace(FAST, checkpoint_every=100)
    whole = train(method, build=build, draw=draw, schedule=schedule, folder=tmp_path / "whole", key="k")
    with pytest.raises(KeyboardInterrupt):
        train(method, build=build, draw=stopped_at(step), schedule=schedule, folder=tmp_path / "cut", key="k")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert checkpoint.read_state(tmp_path / "cut" / checkpoint.CHECKPOINT)["index"] == step + 1
    resumed = train(method, build=build, draw=draw, schedule=schedule, folder=tmp_path / "cut", key="k")
    assert all(map(torch.equal, whole.network.state_dict().values(), resumed.network.state_dict().values()))
    assert whole.history == resumed.history


def test_a_second_sigterm_ends_a_training_within_the_step(plain_sigterm: None, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(METHODS["cps"], build=build, draw=stopped_at(1, times=2), schedule=FAST, folder=tmp_path, key="k")
    assert not (tmp_path / checkpoint.CHECKPOINT).exists()


def test_a_program_with_its_own_handler_of_sigterm_keeps_it(plain_sigterm: None, tmp_path: Path) -> None:
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    train(METHODS["cps"], build=build, draw=stopped_at(1), schedule=FAST, folder=tmp_path, key="k")
    assert received == [signal.SIGTERM]


def test_a_checkpoint_of_another_recipe_is_not_taken_up(tmp_path: Path) -> None:
    train(METHODS["supervised"], build=build, draw=draw, schedule=FAST, folder=tmp_path, key="one")
    seen = []

    def watched(index: int, device: torch.device) -> Batch:
        seen.append(index)
        return draw(index, device)

    train(METHODS["supervised"], build=build, draw=watched, schedule=FAST, folder=tmp_path, key="two")
    assert seen == list(range(8))


@pytest.mark.parametrize("size", [0, 7, 400])
def test_a_truncated_checkpoint_is_named_in_one_line(size: int, tmp_path: Path) -> None:
    train(METHODS["supervised"], build=build, draw=draw, schedule=FAST, folder=tmp_path, key="k")
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: damaged or cut short") as caught:
        train(METHODS["supervised"], build=build, draw=draw, schedule=FAST, folder=tmp_path, key="k")
    assert "delete it" in str(caught.value)
    assert file.exists()


@dataclass(frozen=True)
class Exploding(Method):
    """Supervised, but the loss is NaN at some steps."""

    bad: tuple[int, ...] = (3,)

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        loss = nets.student(batch.labelled).logits.square().mean()
        return LossTerms(supervised=loss * float("nan") if step.index in self.bad else loss)


def test_a_nan_loss_skips_the_step_and_training_goes_on(tmp_path: Path) -> None:
    done = train(Exploding(), build=build, draw=draw, schedule=FAST, folder=tmp_path, key="k")
    assert done.history["skipped"] == 1
    assert all(torch.isfinite(p).all() for p in done.network.state_dict().values())


def test_a_skipped_step_leaves_no_trace_in_any_player(tmp_path: Path) -> None:
    run = engine.Trainer(METHODS["mean_teacher"], build=build, schedule=FAST, seed=0)
    run.step(draw)
    before = {k: v.clone() for k, v in run.players.state_dict().items()}

    def broken(index: int, device: torch.device) -> Batch:
        batch = draw(index, device)
        return replace(batch, image=batch.image * float("nan"))

    assert run.step(broken) is None
    for key, value in run.players.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(m.track_running_stats for m in run.players.modules() if isinstance(m, nn.BatchNorm2d))


def test_a_bad_loss_leaves_no_gradient_behind() -> None:
    run = engine.Trainer(Exploding(bad=(0,)), build=build, schedule=FAST, seed=0)
    assert run.step(draw) is None and run.history["skipped"] == 1
    assert all(p.grad is None for p in run.players.parameters())


class Volumes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Dropout3d(0.2))
        self.head = nn.Conv3d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> Output:
        return Output(self.head(self.body(x)))


def draw_volumes(index: int, device: torch.device) -> Batch:
    g = torch.Generator().manual_seed(index)
    image = torch.randn(4, 1, 8, 8, 6, generator=g)
    label = torch.randint(0, 3, (2, 8, 8, 6), generator=g)
    return Batch(image.to(device), label.to(device))


def build_volumes(kind: str, init: int) -> nn.Module:
    torch.manual_seed(init)
    return Volumes()


@pytest.mark.parametrize("name", ["mean_teacher", "ua_mt"])
def test_a_run_on_volumes_that_was_cut_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    def until(index: int, device: torch.device) -> Batch:
        if index == 5:
            raise Cut
        return draw_volumes(index, device)

    kept = {"build": build_volumes, "schedule": FAST, "key": "k"}
    whole = train(METHODS[name], draw=draw_volumes, folder=tmp_path / "whole", **kept)
    with pytest.raises(Cut):
        train(METHODS[name], draw=until, folder=tmp_path / "cut", **kept)
    resumed = train(METHODS[name], draw=draw_volumes, folder=tmp_path / "cut", **kept)
    for (key, a), b in zip(whole.network.state_dict().items(), resumed.network.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_a_network_of_volumes_is_laid_out_for_the_processor() -> None:
    run = engine.Trainer(METHODS["ua_mt"], build=build_volumes, schedule=FAST, seed=0)
    last = run.device.type == "cpu"
    for name in ("student", "teacher"):
        weight = run.players[name].body[0].weight
        assert (weight.stride()[1] == 1) is last
        assert weight.shape == (4, 1, 3, 3, 3)


def test_a_loss_that_stays_nan_is_said_in_one_line_and_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    schedule = replace(FAST, steps=40, patience=3)
    with pytest.raises(ValueError, match="not finite, 3 steps in a row.*learning_rate"):
        train(
            Exploding(bad=tuple(range(4, 40))),
            build=build,
            draw=draw,
            schedule=schedule,
            folder=tmp_path,
            key="k",
        )
    kept = Small()
    checkpoint.load(tmp_path / "checkpoint.safetensors", players={"student": kept}, optimisers={})
    assert all(torch.isfinite(p).all() for p in kept.parameters())


def test_after_a_burst_of_nan_the_last_good_weights_come_back(tmp_path: Path) -> None:
    schedule = replace(FAST, steps=20, patience=3)
    done = train(Exploding(bad=(5, 6, 7)), build=build, draw=draw, schedule=schedule, folder=tmp_path, key="k")
    assert done.history["skipped"] == 3
    assert all(torch.isfinite(p).all() for p in done.network.parameters())


def test_a_full_disk_names_the_file_and_keeps_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Cut):
        train(METHODS["supervised"], build=build, draw=cut_at(3), schedule=FAST, folder=tmp_path, key="k")
    before = (tmp_path / "checkpoint.safetensors").read_bytes()

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(atomic.NoSpaceError, match=r"checkpoint\.safetensors: no space left"):
        train(METHODS["supervised"], build=build, draw=draw, schedule=FAST, folder=tmp_path, key="k")
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    checkpoint.save_weights(tmp_path / "w.safetensors", nn.Linear(2, 2))
    with pytest.raises(ValueError, match="w.safetensors: does not fit this network"):
        checkpoint.load_weights(tmp_path / "w.safetensors", Small())


@pytest.mark.parametrize("field", ["steps", "labelled", "learning_rate"])
def test_a_schedule_refuses_what_cannot_train(field: str) -> None:
    with pytest.raises(ValueError, match=f"schedule.{field}"):
        Schedule(**{field: 0})


def test_the_learning_rate_warms_up_and_ends_near_zero() -> None:
    schedule = Schedule(steps=100, warmup=10, learning_rate=1.0)
    assert schedule.lr_at(0) < schedule.lr_at(9) and schedule.lr_at(99) < 0.05


def test_neighbouring_steps_have_unrelated_seeds() -> None:
    seeds = [step_seed(0, i) for i in range(1000)] + [step_seed(1, i) for i in range(1000)]
    assert len(set(seeds)) == 2000
    assert len({s % 16 for s in seeds[:400]}) == 16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["cutmix_mt", "distillation", "dan"])
def test_every_kind_of_player_trains_on_a_gpu_in_mixed_precision(name: str, tmp_path: Path) -> None:
    def on_device(index: int, device: torch.device) -> Batch:
        batch = draw(index, device)
        assert batch.strong is not None
        return Batch(batch.image.to(device), batch.label.to(device), batch.strong.to(device))

    schedule = replace(FAST, precision="auto")
    done = train(METHODS[name], build=build, draw=on_device, schedule=schedule, folder=tmp_path, key="k")
    weights = list(done.network.state_dict().values())
    assert all(w.device.type == "cuda" and torch.isfinite(w).all() for w in weights)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_nan_on_a_gpu_is_seen_in_the_step_that_had_it() -> None:
    run = engine.Trainer(METHODS["ua_mt"], build=build_volumes, schedule=replace(FAST, precision="auto"), seed=0)
    assert run.step(draw_volumes) is not None
    before = {k: v.clone() for k, v in run.players.state_dict().items()}

    def broken(index: int, device: torch.device) -> Batch:
        batch = draw_volumes(index, device)
        return replace(batch, image=batch.image * float("nan"))

    assert run.step(broken) is None
    assert all(torch.equal(v, before[k]) for k, v in run.players.state_dict().items())
    assert run.step(draw_volumes) is not None


def test_volumes_are_learnt_in_exact_arithmetic_on_a_cpu_and_frames_as_before() -> None:
    """The bf16 backward pass of a 3-D network on a CPU is not to be trusted: it reads memory that nobody wrote."""
    cpu = torch.device("cpu")
    assert resolve_precision("auto", cpu, learns_volumes=True) == "32-true"
    assert resolve_precision("auto", cpu) in ("bf16-mixed", "32-true")
    assert resolve_precision("bf16-mixed", cpu, learns_volumes=True) == "bf16-mixed"  # who asks gets it


def test_a_gradient_that_is_not_a_number_moves_nothing_though_the_loss_was_one() -> None:
    run = engine.Trainer(
        METHODS["supervised"],
        build=lambda kind, init: torch.nn.Linear(1, 1),
        schedule=Schedule(steps=2, precision="32-true"),
        seed=0,
    )
    player = run.players["student"]
    before = player.weight.detach().clone()
    assert not run._optimise(("student",), (player.weight * 0.0).sum().sqrt())  # the slope of sqrt at 0 is infinite
    assert torch.equal(player.weight, before)
