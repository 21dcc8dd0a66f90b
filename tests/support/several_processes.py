"""What the processes of test_distributed.py do: each scenario runs in all of them and answers in JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgemt.contract import Batch, Output, Step
from edgemt.io import process_rank
from edgemt.learning.ema import Ema
from edgemt.learning.losses import cross_entropy
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.roles import Memory, Networks, Role, Trainable
from edgemt.methods import METHODS, Discriminator
from edgemt.training import distributed, engine
from edgemt.training.options import Schedule

FAST = Schedule(steps=4, labelled=2, unlabelled=2, precision="32-true", validations=2, checkpoint_every=1, warmup=2)
NAMES = ("dan", "cps", "ua_mt", "cutmix_mt", "distillation")


class Small(nn.Module):
    """With a head that no loss asks for, batch statistics and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2))
        self.head, self.sdf = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> Output:
        f = self.body(x)
        return Output(self.head(f), None, self.sdf(f).tanh())


class Plain(nn.Module):
    """Rows do not meet, so the mean of two halves is the mean of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(1, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> Output:
        return Output(self.head(x))


@dataclass(frozen=True)
class ByRows(Method):
    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        return LossTerms(supervised=cross_entropy(nets.student(batch.labelled).logits, batch.label))


@dataclass(frozen=True)
class Remembering(Method):
    """An average that keeps its own statistics, and a memory: both see other rows in each process."""

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "teacher": Ema(buffers="own"), "memory": Memory(size=4, features=4)}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        with torch.no_grad():
            said = nets.teacher(batch.unlabelled).logits
        nets.memory.push(batch.image.flatten(1)[:, :4], label=1)
        logits = nets.student(batch.image).logits
        return LossTerms(
            supervised=cross_entropy(logits[: batch.count], batch.label),
            consistency=(logits[batch.count :] - said).square().mean(),
        )


def build(kind: str, init: int) -> nn.Module:
    torch.manual_seed(
        init + 7 * process_rank.rank()
    )  # as if a download had failed on one node: the first one's must count
    return Discriminator(classes=3, channels=1) if kind == "discriminator" else Small()


def build_plain(kind: str, init: int) -> nn.Module:
    torch.manual_seed(init)
    return Plain()


def draw(index: int, device: torch.device) -> Batch:
    g = torch.Generator().manual_seed(index)
    image = torch.randn(4, 1, 16, 16, generator=g)
    return Batch(image, torch.randint(0, 3, (2, 16, 16), generator=g), image[2:] * 1.1)


def draw_two(index: int, device: torch.device) -> Batch:
    """What two processes draw at a step, as one batch."""
    a, b = draw(2 * index, device), draw(2 * index + 1, device)
    return Batch(torch.cat([a.labelled, b.labelled]), torch.cat([a.label, b.label]))


class Cut(Exception):
    pass


def cut_at(step: int) -> engine.DrawBatch:
    def until(index: int, device: torch.device) -> Batch:
        if index // process_rank.world_size() == step:
            raise Cut
        return draw(index, device)

    return until


def digest(module: nn.Module) -> str:
    state = hashlib.sha256()
    for name, value in module.state_dict().items():
        state.update(name.encode() + value.contiguous().numpy().tobytes())
    return state.hexdigest()


def after(method: Method, steps: int, *, draw: engine.DrawBatch = draw, **options: Any) -> engine.Trainer:
    run = engine.Trainer(method, schedule=FAST, seed=0, **({"build": build} | options))
    for _ in range(steps):
        run.step(draw)
    return run


def every_player_is_the_same(folder: Path) -> dict[str, Any]:
    methods = {**{name: METHODS[name] for name in NAMES}, "remembering": Remembering()}
    runs = {name: after(method, 3) for name, method in methods.items()}
    return {name: {who: digest(player) for who, player in run.players.items()} for name, run in runs.items()}


def weights_of_two_halves(folder: Path) -> list[float]:
    run = after(ByRows(), 4, build=build_plain)
    return [float(v) for p in run.output_network.parameters() for v in p.detach().flatten()]


def chance(folder: Path) -> list[float]:
    drawn: list[float] = []

    @dataclass(frozen=True)
    class Watched(ByRows):
        def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
            drawn.extend([float(torch.rand(())), float(torch.rand((), generator=step.generator))])
            drawn.append(float(batch.image.sum()))
            return super().losses(nets, batch, step)

    after(Watched(), 2)
    return drawn


def nan_in_one(folder: Path) -> dict[str, Any]:
    run = after(METHODS["mean_teacher"], 1)
    before = digest(run.players)

    def broken(index: int, device: torch.device) -> Batch:
        batch = draw(index, device)
        return replace(batch, image=batch.image * float("nan")) if process_rank.rank() == 1 else batch

    skipped = run.step(broken) is None
    kept = digest(run.players) == before
    return {"skipped": skipped, "kept": kept, "goes_on": run.step(draw) is not None, "after": digest(run.players)}


def cut_and_resumed(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    seen: list[int] = []

    def evaluate(network: nn.Module) -> float:
        seen.append(process_rank.rank())
        return 0.5

    for name in ("dan", "cutmix_mt"):
        given: dict[str, Any] = {"build": build, "schedule": FAST, "key": "k", "evaluate": evaluate}
        whole = engine.train(METHODS[name], draw=draw, folder=folder / name / "whole", **given)
        with suppress(Cut):
            engine.train(METHODS[name], draw=cut_at(2), folder=folder / name / "cut", **given)
        distributed.barrier()
        resumed = engine.train(METHODS[name], draw=draw, folder=folder / name / "cut", **given)
        found[name] = {"whole": digest(whole.network), "resumed": digest(resumed.network)}
    with suppress(Cut):
        engine.train(METHODS["dan"], draw=cut_at(2), folder=folder / "one", **given)
    return {**found, "measured_by": sorted(set(seen))}


def failing_in_one(folder: Path) -> str:
    def bad(index: int, device: torch.device) -> Batch:
        if index == 3:  # the second batch of the second process
            raise ValueError("scan7.nii.gz: is cut short; copy it again")
        return draw(index, device)

    try:
        engine.train(METHODS["supervised"], build=build, draw=bad, schedule=FAST, folder=folder / "bad")
    except (ValueError, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return "went on"


def failing_alone_where_the_others_wait(folder: Path) -> str:
    @distributed.distributed_run()
    def stage() -> str:
        made = distributed.run_on_main(lambda: {"from": process_rank.rank(), "odd": ["é", 1.5]})
        assert made == {"from": 0, "odd": ["é", 1.5]}

        def fails() -> str:
            raise PermissionError(13, "Permission denied", "ship")

        return distributed.run_on_main(fails)

    try:
        return stage()
    except (OSError, SystemExit) as error:
        return f"{type(error).__name__}: {error}"


SCENARIOS: tuple[Callable[[Path], Any], ...] = (
    every_player_is_the_same,
    weights_of_two_halves,
    chance,
    nan_in_one,
    cut_and_resumed,
    failing_in_one,
    failing_alone_where_the_others_wait,
)


def process(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world)
    found = {scenario.__name__: scenario(Path(folder)) for scenario in SCENARIOS}
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    distributed.barrier()
    torch.distributed.destroy_process_group()
