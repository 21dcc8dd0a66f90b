"""The training step and the training loop. Everything that differs between methods is in the method.

A run is a function of (seed, step number): the random generators are seeded anew at each step and batches are drawn by
their number. So a checkpoint of networks, optimisers and the step number is enough for a bit-equal resume.

With several processes (`edgemt.training.distributed`) process r of W draws batch W * step + r, gradients are averaged
and every process has the same weights (`edgemt.training.synchronise`).
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgemt.contract import Batch, Step
from edgemt.data.resize import resize_batch
from edgemt.io import process_rank
from edgemt.io.atomic import NoSpaceError
from edgemt.learning.ema import Ema
from edgemt.learning.label_rules import label_rules
from edgemt.learning.method import Method, OptimiserStep
from edgemt.learning.roles import (
    Frozen,
    Networks,
    Trainable,
    build_networks,
    restore_norm_tracking,
    set_modes,
    update_averages,
)
from edgemt.training import checkpoint, distributed, synchronise
from edgemt.training.checkpoint import find_checkpoint
from edgemt.training.device import (
    async_bool,
    enable_tf32,
    learning_rate,
    make_optimiser,
    resolve_precision,
    to_channels_last,
    training_device,
)
from edgemt.training.mixed_precision import MixedPrecision
from edgemt.training.options import Schedule
from edgemt.training.progress import TrainingProgress, warn_if_threshold_accepts_all
from edgemt.training.seeds import step_seed
from edgemt.training.stop_signal import received_signals


@dataclass(frozen=True)
class Trained:
    """Result of a finished run: the network that the method gives as output, and the curves of the run."""

    network: nn.Module
    history: dict[str, Any]


BuildNetwork = Callable[[str, int], nn.Module]  # (kind of player, number of the initialisation) -> network
DrawBatch = Callable[[int, torch.device], Batch]
Evaluate = Callable[[nn.Module], float]


@distributed.distributed_run()
def train(
    method: Method,
    *,
    build: BuildNetwork,
    draw: DrawBatch,
    schedule: Schedule,
    folder: Path,
    seed: int = 0,
    evaluate: Evaluate | None = None,
    key: str = "",
    label: str = "train",
    events: Path | None = None,
    measured_on: str = "",
) -> Trained:
    """Train `schedule.steps` steps, resuming from the checkpoint in `folder` where it has the same `key`.

    build: makes the network of each player. draw: (batch number, device) -> batch. evaluate: network -> Dice on the
    validation list. measured_on: identifies that list; its curve starts again when another list is given.
    Raises ValueError where the loss stays non-finite, a checkpoint is damaged, or the disk is full; KeyboardInterrupt
    after SIGTERM, once the step in progress is in a checkpoint (one process only).
    """
    trainer = Trainer(method, build=build, schedule=schedule, seed=seed, measured_on=measured_on)
    file = folder / checkpoint.CHECKPOINT
    trainer.restore(file, key=key)
    if process_rank.is_main_process():
        trainer.check_disk_space(folder)
    progress_bar = TrainingProgress(label, total=schedule.steps, done=trainer.index, events=events)
    with received_signals() as stop, progress_bar as progress:
        while trainer.index < schedule.steps:
            terms = trainer.step(draw)
            if terms is None and trainer.num_consecutive_nonfinite >= schedule.patience:
                trainer.recover(file, key=key)
                continue
            due = trainer.validation_due()
            if due and evaluate is not None and process_rank.is_main_process():
                trainer.record_validation(evaluate(trainer.output_network))
            logged = progress.update(trainer.index, terms, dice=trainer.history["val"]["dice"][-1:] if due else ())
            if logged:
                trainer.record_terms(logged)
            if stop or trainer.index % schedule.checkpoint_every == 0 or trainer.index == schedule.steps:
                trainer.save(file, key=key)
            if stop:
                raise KeyboardInterrupt
    if process_rank.is_main_process():
        warn_if_threshold_accepts_all(method, trainer.history, label=label)
    return Trained(trainer.output_network, trainer.history)


class Trainer:
    """State of one run: networks (`players`), their optimisers, step number and curves."""

    def __init__(self, method: Method, *, build: BuildNetwork, schedule: Schedule, seed: int, measured_on: str = ""):
        self.device = device = training_device()
        enable_tf32(device)
        self.method, self.schedule, self.seed, self.measured_on = method, schedule, seed, measured_on
        self.roles = method.roles()
        torch.manual_seed(seed)
        self.players: Networks = build_networks(self.roles, build)
        volumes = any(p.ndim == 5 for p in self.players.parameters())
        self.precision = MixedPrecision(resolve_precision(schedule.precision, device, learns_volumes=volumes), device)
        # Networks without gradients run in the fastest precision; an EMA does so only on volumes with `auto`.
        without_gradient = (Frozen, Ema) if volumes and schedule.precision == "auto" else Frozen
        inference_precision = MixedPrecision(resolve_precision("auto", device), device)
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        self.nets = Networks()  # the players in their precision: what the method calls
        for name, player in self.players.items():
            player.to(device)
            to_channels_last(player, device)
            role = self.roles[name]
            precision = inference_precision if isinstance(role, without_gradient) else self.precision
            self.nets[name] = precision.wrap(player)
            if isinstance(role, Trainable):
                self.optimisers[name] = make_optimiser(player, role, schedule)
        distributed.broadcast_([*self.players.parameters(), *self.players.buffers()])
        self.index = 0
        self.num_consecutive_nonfinite = 0
        self.restores = 0
        self.history: dict[str, Any] = {
            "step": [],
            "terms": {},
            "val": {"step": [], "dice": []},
            "skipped": 0,
        }

    @property
    def output_network(self) -> nn.Module:
        """The network that the method gives as its result."""
        return self.players[self.method.delivers]

    def step(self, draw: DrawBatch) -> Mapping[str, Tensor] | None:
        """Run one step. Returns the loss terms, or None where one was not finite: weights and buffers are unchanged."""
        number = self.index * process_rank.world_size() + process_rank.rank()
        seed = step_seed(self.seed, number)
        torch.manual_seed(seed)
        generator = torch.Generator(self.device).manual_seed(seed + 1)
        step = Step(self.index, self.schedule.steps, generator)
        batch = resize_batch(draw(number, self.device), self.schedule.size_fraction(self.index))
        set_modes(self.players, self.roles)
        statistics = [b for name in self.optimisers for b in self.players[name].buffers()]
        before = [b.clone() for b in statistics]  # a forward pass changes them, also one that ends in NaN
        logged: dict[str, Tensor] = {}
        finite = True
        for names, terms in self._steps(batch, step):
            finite = self._optimise(names, torch.stack(list(terms.values())).sum())
            if not finite:
                break
            logged |= {name: term.detach() for name, term in (terms | terms.notes).items()}
        self.index += 1
        synchronise.synchronise_buffers(self.players, self.roles)
        if not finite:
            for buffer, old in zip(statistics, before, strict=True):
                buffer.copy_(old)
            restore_norm_tracking(self.players)
            self.num_consecutive_nonfinite += 1
            self.history["skipped"] += 1
            return None
        self.num_consecutive_nonfinite = 0
        update_averages(self.players, self.roles, step)
        return logged

    def _steps(self, batch: Batch, step: Step) -> Iterator[OptimiserStep]:
        """The optimiser steps of the method.

        Raises ValueError, with the options to change, where a norm layer would normalise over a single value.
        """
        try:
            with label_rules(batch.rules):
                yield from self.method.steps(self.nets, batch, step)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error) and "more than 1 spatial element" not in str(error):
                raise
            space = tuple(batch.image.shape[2:])
            field = "data.size" if len(space) == 2 else "volume.patch"
            larger, now = (" ".join(str(n * times) for n in space) for times in (2, 1))
            raise ValueError(
                "a norm layer is left with one value per channel at the network's lowest resolution, and cannot "
                f"normalise it: set schedule.labelled (now {self.schedule.labelled}) and schedule.unlabelled (now "
                f"{self.schedule.unlabelled}), where it is not 0, to at least 2, or {field} to at least {larger} "
                f"(now {now})"
            ) from error

    def _optimise(self, names: tuple[str, ...], total: Tensor) -> bool:
        """Backward pass and optimiser step of the named networks; False, without a step, for a non-finite loss."""
        self._clear_gradients(names)
        finite = async_bool(torch.isfinite(total))
        self.precision.backward(total)
        if not distributed.all_agree(finite()):
            self._clear_gradients(names)
            return False
        synchronise.average_gradients(self.players, names)
        for name in names:
            optimiser, role = self.optimisers[name], self.roles[name]
            assert isinstance(role, Trainable)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(role, self.schedule, self.index)
            if self.schedule.clip:
                self.precision.clip(optimiser, self.schedule.clip)
        if not self._gradients_finite(names):
            self._clear_gradients(names)
            return False
        self.precision.step(self.optimisers[name] for name in names)
        return True

    def _gradients_finite(self, names: tuple[str, ...]) -> bool:
        """Whether every gradient is finite, which a finite loss does not guarantee.

        Checked on CPUs alone: on a GPU it would synchronise. There True, and in float16, where the scaler checks.
        """
        if self.device.type != "cpu" or self.precision.scaler is not None:
            return True
        gradients = [p.grad for name in names for p in self.players[name].parameters() if p.grad is not None]
        return bool(torch.isfinite(torch.stack(torch._foreach_norm(gradients))).all()) if gradients else True

    def _clear_gradients(self, names: tuple[str, ...]) -> None:
        for name in names:
            self.optimisers[name].zero_grad(set_to_none=True)

    def validation_due(self) -> bool:
        """Whether the validation list is measured after this step."""
        count = self.schedule.validations
        if not count:
            return False
        every = max(1, math.ceil(self.schedule.steps / count))
        return self.index % every == 0 or self.index == self.schedule.steps

    def record_validation(self, dice: float) -> None:
        self.history["val"]["step"].append(self.index)
        self.history["val"]["dice"].append(dice)

    def record_terms(self, terms: Mapping[str, float]) -> None:
        self.history["step"].append(self.index)
        for name, value in terms.items():
            self.history["terms"].setdefault(name, []).append(value)

    def save(self, file: Path, *, key: str) -> None:
        """Write a checkpoint. Rank 0 writes it; all ranks have the same state, so it fits any number of processes."""
        if not process_rank.is_main_process():
            return
        state = {
            "index": self.index,
            "restores": self.restores,
            "bad_in_a_row": self.num_consecutive_nonfinite,
            "history": self.history,
            "key": key,
            "measured_on": self.measured_on,
            "processes": process_rank.world_size(),
        }
        checkpoint.save(file, players=self.players, optimisers=self.optimisers, state=state)

    def restore(self, file: Path, *, key: str) -> None:
        """Load the checkpoint `file`, or the previous one where it is missing, if it has the same `key`."""
        chosen = distributed.run_on_main(lambda: find_checkpoint(file, key))
        if not chosen:
            return
        file = Path(chosen)
        state = checkpoint.read_state(file)
        checkpoint.load(file, players=self.players, optimisers=self.optimisers)
        self.index, self.restores, self.history = state["index"], state["restores"], state["history"]
        self.num_consecutive_nonfinite = state["bad_in_a_row"]
        if state.get("measured_on", self.measured_on) != self.measured_on:
            self.history["val"] = {"step": [], "dice": []}
        began, now = state.get("processes", 1), process_rank.world_size()
        if began != now and process_rank.is_main_process():
            rows = f"a step sees {now} times the rows of schedule, before {began} times"
            print(f"begun by {began} process(es), resumed by {now}: {rows}", file=sys.stderr, flush=True)

    def check_disk_space(self, folder: Path) -> None:
        """Raises NoSpaceError where the disk has no space for one checkpoint."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = [p for player in self.players.values() for p in (*player.parameters(), *player.buffers())]
        moving = [p for name in self.optimisers for p in self.players[name].parameters()]
        need = sum(p.nbytes for p in weights) + 2 * sum(p.nbytes for p in moving)
        free = shutil.disk_usage(folder).free
        if free < need:
            raise NoSpaceError(
                f"{folder}: a checkpoint needs about {need / 1e6:.1f} MB, no space left on the disk beyond "
                f"{free / 1e6:.1f} MB; free some or give another --out"
            )

    def recover(self, file: Path, *, key: str) -> None:
        """After too many non-finite losses: restore the last checkpoint, once. Raises ValueError the second time."""
        index, self.num_consecutive_nonfinite = self.index, 0
        self.restores += 1
        if self.restores > 1 or not distributed.run_on_main(file.exists):
            raise ValueError(
                f"the loss is not finite, {self.schedule.patience} steps in a row up to step {index}: lower "
                "schedule.learning_rate, or set schedule.precision to 32-true"
            )
        skipped = self.history["skipped"]
        restores = self.restores
        self.restore(file, key=key)
        # the step number is not restored, so that other batches are drawn than those that failed
        self.index, self.restores, self.history["skipped"] = index, restores, skipped
