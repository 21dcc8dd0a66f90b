"""The skeleton of a stage: one folder of a run, made once from its inputs, then skipped.

    stage = Stage(context, "student", inputs)
    if stage.is_complete():
        return stage.reuse()
    with stage.working_folder() as working:
        done = stage.train(method, networks=networks, draw=draw, schedule=schedule, folder=working)
        stage.measure_and_save(working, done, network)
    return stage.folder

The hash of `inputs` is the stage's key: it is on the card, and a folder whose card has another key is made again.
An interrupted stage leaves `NAME.partial`, which the next call resumes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from deploy.pruning import prune
from edgemt.artefacts import network_folder, reuse, stage_folder
from edgemt.io import process_rank
from edgemt.io.atomic import write_text
from edgemt.methods import Method
from edgemt.model_card import ModelCard
from edgemt.pipeline.accuracy import dice_drop, dice_figure, dice_text, measured_of, weights_metrics
from edgemt.pipeline.log import log
from edgemt.pipeline.network_spec import network_factory
from edgemt.pipeline.run_context import RunContext
from edgemt.pipeline.training_data import TrainingData
from edgemt.training import distributed, engine
from edgemt.training.options import Schedule

FORMAT = 2  # part of the inputs of every stage; counts up when the same inputs no longer give the same files
Judge = Callable[[float, float | None], object]


@dataclass(frozen=True)
class Stage:
    """A stage of a run, by its folder and its inputs.

    With `first_process_only` the first process calls all of this alone, while the others wait elsewhere; otherwise all
    processes call each method together.
    """

    context: RunContext
    name: str  # its folder in the run
    inputs: Mapping[str, Any]  # everything that its files depend on, by the names of the recipe
    data: TrainingData | None = None  # what its network learns from and is measured on; None: the frames
    label: str = ""  # its name in log lines; empty: `name`
    first_process_only: bool = False

    @cached_property
    def key(self) -> str:
        """The hash of the inputs."""
        return stage_folder.key_of(self.inputs)

    @property
    def folder(self) -> Path:
        return self.context.folder(self.name)

    @property
    def title(self) -> str:
        return self.label or self.name

    @property
    def training_data(self) -> TrainingData:
        return self.data or self.context.slices

    @property
    def parents(self) -> tuple[str, ...]:
        """Fingerprints of the stages that this one is made from, for its card."""
        return tuple(self.inputs.get("parents", {}).values())

    def is_complete(self) -> bool:
        """Whether the folder was made from these inputs.

        If not, what does not fit is renamed, or removed later with `overwrite` (`edgemt.artefacts.reuse`).
        """
        return self._fits() if self.first_process_only else distributed.run_on_main(self._fits)

    def _fits(self) -> bool:
        context = self.context
        return reuse.fits(
            self.folder, inputs=self.inputs, say=log, overwrite=context.overwrite, explain=context.explain
        )

    def reuse(self, *, parent: Path | None = None, note: str = "") -> Path:
        """The folder of a complete stage, its network measured again where the validation list changed."""
        self.measure_again(parent=parent)
        log(f"{self.title}: stands, {dice_text(weights_metrics(self.folder))}{note}")
        return self.folder

    @contextmanager
    def working_folder(self, *, overwrite: bool | None = None) -> Iterator[Path]:
        """The folder `NAME.partial`, which becomes `folder` when the block ends without an error.

        The first process renames it; the others wait until it has.
        """
        if self.first_process_only or process_rank.is_main_process():
            replaced = self.context.overwrite if overwrite is None else overwrite
            with stage_folder.staged(self.folder, overwrite=replaced) as working:
                yield working
        else:
            yield self.folder.with_name(self.folder.name + ".partial")
        if not self.first_process_only:
            distributed.barrier()

    def train(
        self,
        method: Method,
        *,
        networks: Mapping[str, Callable[[], nn.Module]],
        draw: engine.DrawBatch,
        schedule: Schedule,
        folder: Path,
        seed: int | None = None,
        label: str = "",
        events: str = "",
        validate: bool = True,
    ) -> engine.Trained:
        """Train with `method`, resumed from the checkpoint in `folder` if it has the stage's key.

        `networks`: kind of a player -> builder of its network. `seed` is the recipe's if not given; `events` names the
        folder of the TensorBoard events below `log/`; without `validate` no Dice is measured on the way.
        """
        recipe, data = self.context.recipe, self.training_data
        return engine.train(
            method,
            build=network_factory(networks, data, method=method, seed=recipe.seed),
            draw=draw,
            schedule=schedule,
            folder=folder,
            seed=recipe.seed if seed is None else seed,
            evaluate=data.dice if validate else None,
            key=self.key,
            label=label or self.name,
            events=self.context.out / "log" / (events or self.name),
            measured_on=data.measured_on if validate else "",
        )

    def measure_and_save(
        self,
        working: Path,
        done: engine.Trained,
        network: dict[str, Any],
        *,
        stage: str = "",
        parents: tuple[str, ...] | None = None,
        parent_dice: float | None = None,
    ) -> None:
        """Measure a trained network and write weights, curves and card, in the first process.

        `network` is its description for the card; `stage` its name there, the stage's own if not given.
        """
        if not process_rank.is_main_process():
            return
        measured = self.training_data.measured(done.network)
        params, macs = prune.count(done.network.cpu().eval(), self.training_data.example)
        metrics = replace(measured, drop=dice_drop(parent_dice, measured), runtime="torch")
        fields: dict[str, Any] = {"measured": {stage_folder.WEIGHTS: metrics}, "params": params, "macs": macs}
        fields |= {} if parents is None else {"parents": parents}
        self.save(working, done, network, **{"stage": stage or self.name, **fields})
        log(f"{stage or self.name}: {dice_text(measured)} on the validation list")

    def save(self, working: Path, done: engine.Trained, network: dict[str, Any], **fields: Any) -> None:
        """Write weights, curves and card without measuring. `fields` are further fields of the card."""
        write_text(working / stage_folder.CURVES, stage_folder.to_json(done.history))
        own = {"stage": self.name, "parents": self.parents, "recipe_hash": self.key}
        card = replace(
            self.training_data.card(), network=network_folder.without_pretrained(network), **{**own, **fields}
        )
        network_folder.save_network(working, done.network.cpu(), card)

    def measure_again(self, *, parent: Path | None = None, judge: Judge | None = None) -> None:
        """Measure a complete stage again where its card's metrics are of another validation list; nothing is trained.

        `judge` takes the parent's Dice and the new one and raises GateError where the drop is too large: the card then
        stays as it was.
        """
        distributed.run_on_main(lambda: self._measure_again(parent, judge))

    def _measure_again(self, parent: Path | None, judge: Judge | None) -> None:
        data, card = self.training_data, stage_folder.read_card(self.folder)
        before = card.measured[stage_folder.WEIGHTS]
        if (before.measured_on or before.list_key) == data.measured_on:
            return
        measured = data.measured(network_folder.load_network(self.folder).to(data.device))
        parent_dice = None if parent is None else measured_of(parent, measured_on=data.measured_on).dice
        if judge is not None and parent_dice is not None:
            judge(parent_dice, measured.dice)
        _clear_validation_curve(self.folder, card)
        # of the attempts at pruning, this network is the last one
        attempts = before.attempts
        if attempts:
            attempts = (*attempts[:-1], {**attempts[-1], "dice": measured.dice})
        metrics = replace(measured, drop=dice_drop(parent_dice, measured), runtime="torch", attempts=attempts)
        card = replace(
            stage_folder.read_card(self.folder), measured={stage_folder.WEIGHTS: metrics}, data=data.card().data
        )
        stage_folder.rewrite_card(self.folder, card)
        changed = "validation list" if before.list_key != measured.list_key else "options"
        figures = f"{dice_text(measured)} (was {dice_figure(before)})"
        log(f"{self.title}: measured again with the changed {changed}, {figures}")


def remove_leftovers(working: Path) -> None:
    """Remove the files of an interrupted run, except those whose name begins with a dot."""
    for path in working.iterdir():
        if not path.name.startswith("."):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _clear_validation_curve(folder: Path, card: ModelCard) -> None:
    """Remove the validation curve of a finished training: it belongs to the earlier list."""
    curves = json.loads((folder / stage_folder.CURVES).read_text(encoding="utf-8"))
    if curves.get("val", {}).get("step") or stage_folder.CURVES not in card.files:
        stage_folder.replace_file(
            folder, stage_folder.CURVES, stage_folder.to_json({**curves, "val": {"step": [], "dice": []}})
        )
