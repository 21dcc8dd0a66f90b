"""One step of training, and the loop around it. Everything that varies between methods is in the method.

A run is a function of (seed, step number): the generators are seeded anew at each step and batches are drawn
by number, so players, optimisers and the step number are all that a checkpoint needs for a bit-equal resume.

Several processes (`edgemt.training.distributed`) multiply the batch: process r of W draws batch W * step + r,
gradients are averaged, and every process holds the same players. The average is one message after `backward`, and no
player is wrapped in DistributedDataParallel: a method may ask a player any number of times a step, also in another
one's turn, and leave heads out of its losses; and a message of one layout gives the same bits after a resume. Norm
layers see the rows of their own process, as on one device; their running statistics are averaged. SyncBatchNorm exists
on GPUs only, would put other layers into what is pruned and exported, and would exchange once a layer in each of a
teacher's looks.
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
from torch.nn.modules.batchnorm import _NormBase

from edgemt.contract import Batch, Step
from edgemt.data.resize import resize_batch
from edgemt.io import process_rank
from edgemt.io.atomic import NoSpaceError
from edgemt.learning.method import Method, Turn
from edgemt.learning.roles import Ema, Frozen, Memory, Players, Trainable, gather, rest, set_modes, update_averages
from edgemt.training import checkpoint, distributed
from edgemt.training.device import (
    async_bool,
    enable_tf32,
    learning_rate,
    make_fabric,
    make_optimiser,
    resolve_precision,
    to_channels_last,
)
from edgemt.training.options import Schedule
from edgemt.training.progress import TrainingProgress

MAX_ACCEPTED = 0.95  # a confidence threshold that more voxels pass filters nothing


@dataclass(frozen=True)
class Trained:
    """What a finished run leaves: the player that the method delivers, and how it got there."""

    network: nn.Module
    history: dict[str, Any]


BuildNetwork = Callable[[str, int], nn.Module]  # kind of player, number of the initialisation -> network
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
    """Train to the end, from the folder's checkpoint if there is one that carries the same `key`.

    `measured_on` identifies the validation list: a curve that was begun on another list is begun again.
    Raises ValueError when the loss stays NaN, when a checkpoint is damaged, and when the disk is full.
    """
    run = Trainer(method, build=build, schedule=schedule, seed=seed, measured_on=measured_on)
    file = folder / checkpoint.CHECKPOINT
    run.restore(file, key=key)
    if process_rank.is_main_process():
        run.check_disk_space(folder)
    with TrainingProgress(label, total=schedule.steps, done=run.index, events=events) as bar:
        while run.index < schedule.steps:
            terms = run.step(draw)
            if terms is None and run.num_consecutive_nonfinite >= schedule.patience:
                run.recover(file, key=key)
                continue
            due = run.validation_due()
            if due and evaluate is not None and process_rank.is_main_process():
                run.record_validation(evaluate(run.output_network))
            shown = bar.update(run.index, terms, dice=run.history["val"]["dice"][-1:] if due else ())
            if shown:
                run.record_terms(shown)
            if run.index % schedule.checkpoint_every == 0 or run.index == schedule.steps:
                run.save(file, key=key)
    if process_rank.is_main_process():
        warn_if_threshold_accepts_all(method, run.history, label=label)
    return Trained(run.output_network, run.history)


def warn_if_threshold_accepts_all(method: Method, history: Mapping[str, Any], *, label: str) -> None:
    """One line on stderr where a confidence threshold let nearly every voxel pass in the second half of a run."""
    confidence = getattr(method, "confidence", getattr(getattr(method, "target", None), "confidence", None))
    accepted = history["terms"].get("accepted", [])
    late = accepted[len(accepted) // 2 :]
    if confidence is not None and late and sum(late) / len(late) > MAX_ACCEPTED:
        share = 100 * sum(late) / len(late)
        print(
            f"{label}: {share:.1f} % of the voxels passed the confidence threshold {confidence}, so that it filtered "
            "nothing; raise the method's confidence, or take a method with one threshold for each class",
            file=sys.stderr,
            flush=True,
        )


class Trainer:
    """The state of one run: players, optimisers, step number and curves."""

    def __init__(self, method: Method, *, build: BuildNetwork, schedule: Schedule, seed: int, measured_on: str = ""):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        enable_tf32(device)
        self.method, self.schedule, self.seed, self.measured_on = method, schedule, seed, measured_on
        self.roles = method.roles()
        torch.manual_seed(seed)
        self.players: Players = gather(self.roles, build)
        volumes = any(p.ndim == 5 for p in self.players.parameters())
        self.fabric = make_fabric(resolve_precision(schedule.precision, device, learns_volumes=volumes), device)
        # A player without gradients needs no exact arithmetic; averages follow their students unless `auto` parts them.
        quick = (Frozen, Ema) if volumes and schedule.precision == "auto" else Frozen
        self.inference_fabric = make_fabric(resolve_precision("auto", device), device)
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        self.fabric_modules: dict[str, nn.Module] = {}
        for name, player in self.players.items():
            player.to(self.fabric.device)
            to_channels_last(player, self.fabric.device)
            role = self.roles[name]
            fabric = self.inference_fabric if isinstance(role, quick) else self.fabric
            self.fabric_modules[name] = fabric.setup_module(player, move_to_device=False)
            if isinstance(role, Trainable):
                optimiser = make_optimiser(player, role, schedule)
                self.optimisers[name] = self.fabric.setup_optimizers(optimiser)  # type: ignore[assignment]
        distributed.broadcast_([*self.players.parameters(), *self.players.buffers()])
        self.nets = Players(self.fabric_modules)
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
        return self.players[self.method.delivers]

    def step(self, draw: DrawBatch) -> Mapping[str, Tensor] | None:
        """One step; the loss terms, or None when one of them was not finite and nothing was changed by it."""
        number = self.index * process_rank.world_size() + process_rank.rank()
        seed = step_seed(self.seed, number)
        torch.manual_seed(seed)
        device = self.fabric.device
        generator = torch.Generator(device).manual_seed(seed + 1)
        step = Step(self.index, self.schedule.steps, generator)
        batch = resize_batch(draw(number, device), self.schedule.size_fraction(self.index))
        set_modes(self.players, self.roles)
        statistics = [b for name in self.optimisers for b in self.players[name].buffers()]
        before = [b.clone() for b in statistics]  # a forward pass moves them, also one that ends in NaN
        logged: dict[str, Tensor] = {}
        finite = True
        for who, terms in self._steps(batch, step):
            finite = self._optimise(who, torch.stack(list(terms.values())).sum())
            if not finite:
                break
            logged |= {name: term.detach() for name, term in (terms | terms.notes).items()}
        self.index += 1
        self._synchronise_buffers()
        if not finite:
            for buffer, old in zip(statistics, before, strict=True):
                buffer.copy_(old)
            rest(self.players)
            self.num_consecutive_nonfinite += 1
            self.history["skipped"] += 1
            return None
        self.num_consecutive_nonfinite = 0
        update_averages(self.players, self.roles, step)
        return logged

    def _steps(self, batch: Batch, step: Step) -> Iterator[Turn]:
        """The method's moves. Raises ValueError, naming the fields, where a norm layer is left with one value."""
        try:
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

    def _optimise(self, who: tuple[str, ...], total: Tensor) -> bool:
        """One move of the named players down their gradients, or False and none where the loss is not finite."""
        self._forget_gradients(who)
        finite = async_bool(torch.isfinite(total))
        self.fabric.backward(total)
        if not distributed.all_agree(finite()):
            self._forget_gradients(who)
            return False
        self._average_gradients(who)
        for name in who:
            optimiser, role = self.optimisers[name], self.roles[name]
            assert isinstance(role, Trainable)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(role, self.schedule, self.index)
            if self.schedule.clip:
                self.fabric.clip_gradients(
                    self.fabric_modules[name], optimiser, max_norm=self.schedule.clip, error_if_nonfinite=False
                )  # type: ignore[arg-type]
        if not self._gradients_finite(who):
            self._forget_gradients(who)
            return False
        for name in who:
            self.optimisers[name].step()
        return True

    def _gradients_finite(self, who: tuple[str, ...]) -> bool:
        """Whether every gradient is a number: a finite loss does not promise it. A GPU is not kept waiting for that."""
        if self.fabric.device.type != "cpu":
            return True
        gradients = [p.grad for name in who for p in self.players[name].parameters() if p.grad is not None]
        return bool(torch.isfinite(torch.stack(torch._foreach_norm(gradients))).all()) if gradients else True

    def _average_gradients(self, who: tuple[str, ...]) -> None:
        """Over the processes; a weight that had no gradient in any of them gets 0."""
        if process_rank.world_size() == 1:
            return
        weights = [p for name in who for p in self.players[name].parameters() if p.requires_grad]
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        distributed.all_reduce_mean_([weight.grad for weight in weights if weight.grad is not None])

    def _synchronise_buffers(self) -> None:
        """What forward passes left in each process: running statistics are averaged, memories are the first one's."""
        if process_rank.world_size() == 1:
            return
        for name, role in self.roles.items():
            player = self.players[name]
            if isinstance(role, Trainable) or (isinstance(role, Ema) and role.buffers == "own"):
                norms = [m for m in player.modules() if isinstance(m, _NormBase)]
                distributed.all_reduce_mean_(
                    [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
                )
            if isinstance(role, Memory):
                distributed.broadcast_(list(player.buffers()))

    def _forget_gradients(self, who: tuple[str, ...]) -> None:
        for name in who:
            self.optimisers[name].zero_grad(set_to_none=True)

    def validation_due(self) -> bool:
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
        """The first process writes for all, who hold the same: the file fits any number of them."""
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
        """Take up a checkpoint of the same run, or the one before where it is gone; another `key` is left behind."""
        chosen = distributed.run_on_main(lambda: _checkpoint_of(file, key))
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
        """Raises NoSpaceError before the first step where the disk is too small for one checkpoint."""
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
        """After too many NaN losses: back to the last good students and averages, once; then give up."""
        at, self.num_consecutive_nonfinite = self.index, 0
        self.restores += 1
        if self.restores > 1 or not distributed.run_on_main(file.exists):
            raise ValueError(
                f"the loss is not finite, {self.schedule.patience} steps in a row up to step {at}: lower "
                "schedule.learning_rate, or set schedule.precision to 32-true"
            )
        skipped = self.history["skipped"]
        restores = self.restores
        self.restore(file, key=key)
        # the step number goes on, so that other batches are drawn than the ones that failed
        self.index, self.restores, self.history["skipped"] = at, restores, skipped


def _checkpoint_of(file: Path, key: str) -> str:
    """`file`, or the checkpoint before it where `file` is gone, if it carries `key`; empty for none."""
    found = next((path for path in (file, checkpoint.previous_checkpoint(file)) if path.exists()), None)
    return str(found) if found is not None and checkpoint.read_state(found).get("key") == key else ""


def step_seed(seed: int, index: int) -> int:
    """One 62-bit seed for each (seed, step); neighbouring steps get unrelated streams (splitmix64)."""
    z = (seed * 0x9E3779B97F4A7C15 + index * 0xD1B54A32D192ED03 + 0x9E3779B97F4A7C15) & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (z ^ (z >> 31)) >> 2
