"""What each run of a comparison depends on, before anything is trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgemt.artefacts import stage_folder
from edgemt.comparison.runs import TrainingRun, method_of, recipe_of
from edgemt.pipeline import run_context, train
from edgemt.pipeline.recipe import Recipe
from edgemt.pipeline.recipe_checks import needs_unlabelled

_OF_ONE_RUN = ("seed", "parents", "all_labels")


@dataclass(frozen=True)
class RunInputs:
    """The inputs of the runs that compare methods on one recipe. The files of a draw are read once."""

    recipe: Recipe
    out: Path
    draw: int = 0
    _runs: dict[int, run_context.RunContext] = field(default_factory=dict)

    def context_of(self, run: TrainingRun) -> run_context.RunContext:
        """The context of a run; its data are shared with the other runs of the same labelled patients."""
        context = run_context.open_run(recipe_of(run, self.recipe), run.folder)
        draw = run.seed if self.draw else 0
        first = self._runs.setdefault(draw, context)
        if first is not context:
            first.slices.cohort  # noqa: B018  read before it is shared
            first.slices.content  # noqa: B018
            first.share_data(context)
        return context

    def inputs(self, run: TrainingRun) -> dict[str, Any]:
        """All that its weights and figures depend on, as JSON's own types."""
        context, of = self.context_of(run), recipe_of(run, self.recipe).teacher
        inputs, _ = train.stage_inputs(context, "teacher", of, of.method, parents={})
        return _plain({**inputs, "measured on": train.training_data_for(context, of).measured_on})

    def ground(self, run: TrainingRun) -> dict[str, Any]:
        """What all runs of a table have in common, whatever their methods, seeds and settings."""
        run = replace(run, settings="common")
        inputs, context = self.inputs(run), self.context_of(run)
        common = {name: value for name, value in inputs.items() if name not in _OF_ONE_RUN}
        common["teacher"] = {name: value for name, value in inputs["teacher"].items() if name != "method"}
        if self.draw:
            images = sorted(
                (entry.name, entry.image)
                for entry in (*context.slices.content.labelled, *context.slices.content.unlabelled)
            )
            common["training data"] = hashlib.sha256(json.dumps(images).encode()).hexdigest()
        return {**common, "drawn": self.draw}

    def check_unlabelled(self, run: TrainingRun) -> None:
        """Raises ValueError for a semi-supervised method on data without unlabelled images: a second supervised run."""
        if needs_unlabelled(method_of(run.method)) and not self.context_of(run).slices.cohort.unlabelled:
            raise ValueError(
                f"compare: {run.method} learns from unlabelled images and there are none; label fewer with "
                "--draw-labelled or --data.labelled, or add images with --data.unlabelled"
            )

    def drawn(self, run: TrainingRun) -> tuple[str, ...]:
        """The labelled patients or images of a run by name, sorted; empty where none are drawn."""
        return (
            tuple(sorted({case.patient for case in self.context_of(run).slices.cohort.labelled})) if self.draw else ()
        )


def groups_of(context: run_context.RunContext) -> dict[str, str]:
    """Case of the validation list -> patient. A volume's slices are one case, which has the volume's name."""
    return {_case_name(case.name, case.slice): case.patient for case in context.slices.cohort.val}


def draws_of(plan: Sequence[TrainingRun], run_inputs: RunInputs) -> dict[int, tuple[str, ...]]:
    """Seed -> its labelled patients; empty where none are drawn."""
    seeds = {run.seed: run for run in plan}
    return {seed: run_inputs.drawn(run) for seed, run in seeds.items()} if run_inputs.draw else {}


def _case_name(name: str, slice: int | None) -> str:
    return name if slice is None else name.rpartition("/")[0]


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(stage_folder.plain(dict(value)))))
