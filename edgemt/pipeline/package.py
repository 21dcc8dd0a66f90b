"""The ship stage: the folder that goes to the device, with graphs, card and golden frames, each file checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgemt.artefacts import stage_folder
from edgemt.pipeline import package_steps as steps
from edgemt.pipeline.log import log
from edgemt.pipeline.package_timing import latency_of
from edgemt.pipeline.stage import FORMAT, Stage

if TYPE_CHECKING:
    from edgemt.pipeline.run_context import RunContext


def ship(context: RunContext) -> Path:
    """One folder to copy: graphs, card and golden frames. What does not pass its check is left out, on record.

    Raises GateError when no runtime gives the masks of torch; with `strict`, when one of them does not.
    """
    prompt = _promptable_network(context)
    stage = _stage(context, prompt)
    key_of_incomplete = stage_folder.key_of("something left out", stage.key)  # not accepted by a strict recipe
    incomplete = not context.recipe.strict and stage_folder.stands(stage.folder, key=key_of_incomplete)
    if incomplete or stage.is_complete():
        log("ship: stands")
        return stage.folder
    with stage.working_folder() as working:
        draft = steps.copy_graphs(context, working)
        steps.compare_with_torch(draft)
        steps.write_golden_frames(draft)
        steps.write_input_statistics(draft)
        if prompt is not None:
            steps.add_prompt(draft, prompt)
        steps.measure_float_files(draft)
        steps.add_half_precision(draft)
        steps.compare_golden_frames(draft)
        latency = latency_of(draft)
        key = key_of_incomplete if draft.incomplete else stage.key
        card = replace(draft.card(), parents=stage.parents, recipe_hash=key, latency=latency)
        stage_folder.write_card(working, card)
    log(f"ship: {stage.folder} is ready to copy")
    return stage.folder


def _stage(context: RunContext, prompt: Path | None) -> Stage:
    source, recipe = context.folder("int8"), context.recipe
    parents = {"int8": stage_folder.identity(source)}
    if prompt is not None:
        parents["promptable"] = stage_folder.identity(prompt)
    inputs = {
        "format": FORMAT,
        "tolerance": recipe.tolerance,
        "training data": context.slices.data_fingerprint,
        "validation list": context.slices.list_key,
        "given up": stage_folder.read_card(source).given_up,
        "parents": parents,
    }
    return Stage(context, "ship", inputs, first_process_only=True)


def _promptable_network(context: RunContext) -> Path | None:
    """The folder of the run's small promptable network, if it takes the frames that the student takes."""
    folder = context.folder("promptable")
    if not (folder / "card.json").is_file() or context.recipe.data.slices > 1:
        return None
    return folder if stage_folder.read_card(folder).patch is None else None
