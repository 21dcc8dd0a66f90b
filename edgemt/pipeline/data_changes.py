"""What changed in the data since the stages of a run were made, in one line each, before anything is done again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgemt.artefacts import reuse, stage_folder
from edgemt.artefacts.fingerprints import Content, changes_of, load_content, save_content
from edgemt.pipeline.log import log
from edgemt.pipeline.run_context import RunContext

_MEASURED = ("teacher", "student", "slim", "int8", "ship")


def log_changes(context: RunContext, stages: Sequence[str]) -> None:
    """Print what changed in the data and which of `stages` are made or measured again, then record the data's state."""
    finished = [stage for stage in _MEASURED if stage in stages and (context.folder(stage) / "card.json").is_file()]
    again = _made_again(context, finished)
    measured = [
        stage
        for stage in finished
        if stage not in again and _lists_of(context.folder(stage)) - {context.slices.list_key}
    ]
    _log_changes(
        context, [_training_of(context.folder(stage)) for stage in again], again, "made again", "labelled", "unlabelled"
    )
    _log_changes(
        context,
        [key for stage in measured for key in _lists_of(context.folder(stage))],
        measured,
        "measured again",
        "val",
    )
    for key in (context.slices.data_fingerprint, context.slices.list_key):
        if load_content(context.list_file(key)) is None:
            save_content(context.list_file(key), _part(context, key))


def _log_changes(context: RunContext, keys: Sequence[str], stages: Sequence[str], what: str, *names: str) -> None:
    if not stages:
        return
    old = next((content for key in keys if key and (content := load_content(context.list_file(key))) is not None), None)
    lines = changes_of(old, context.slices.content, *names) if old is not None else []
    kind = "validation" if names == ("val",) else "training"
    log(
        f"{', '.join(lines) or f'{kind} data changed'}: {', '.join(stages)} {'are' if len(stages) > 1 else 'is'} {what}"
    )


def _made_again(context: RunContext, finished: Sequence[str]) -> list[str]:
    """From the first stage that learned from other training data on, for the later ones come from it."""
    for number, stage in enumerate(finished):
        key = _training_of(context.folder(stage))
        if key and key != context.slices.data_fingerprint:
            return list(finished[number:])
    return []


def _training_of(folder: Path) -> str:
    return str((reuse.recorded(folder) or {}).get("training data", ""))


def _lists_of(folder: Path) -> set[str]:
    """Keys of the validation lists that a stage was measured on; empty where none is recorded."""
    return {metrics.list_key for metrics in stage_folder.read_card(folder).measured.values()}


def _part(context: RunContext, key: str) -> Content:
    """The data lists that a key is the hash of."""
    content = context.slices.content
    return (
        Content((), (), content.val)
        if key == context.slices.list_key
        else Content(content.labelled, content.unlabelled, ())
    )
