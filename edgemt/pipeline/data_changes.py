"""What changed in the data since the stages of a run were made, in one line each, before anything is done again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgemt.artefacts import reuse, stage_folder
from edgemt.artefacts.fingerprints import Content, changes_of, load_content, save_content
from edgemt.pipeline.run_context import Run

_MEASURED = ("teacher", "student", "slim", "int8", "ship")


def tell_changes(at: Run, stages: Sequence[str]) -> None:
    """Print what changed in the data and which of `stages` are made or measured again, then record the data's state."""
    finished = [stage for stage in _MEASURED if stage in stages and (at.folder(stage) / "card.json").is_file()]
    again = _made_again(at, finished)
    measured = [stage for stage in finished if stage not in again and _lists_of(at.folder(stage)) - {at.list_key}]
    _say(at, [_training_of(at.folder(stage)) for stage in again], again, "made again", "labelled", "unlabelled")
    _say(at, [key for stage in measured for key in _lists_of(at.folder(stage))], measured, "measured again", "val")
    for key in (at.files, at.list_key):
        if load_content(at.list_file(key)) is None:
            save_content(at.list_file(key), _part(at, key))


def _say(at: Run, keys: Sequence[str], stages: Sequence[str], what: str, *names: str) -> None:
    if not stages:
        return
    old = next((content for key in keys if key and (content := load_content(at.list_file(key))) is not None), None)
    lines = changes_of(old, at.content, *names) if old is not None else []
    kind = "validation" if names == ("val",) else "training"
    at.say(
        f"{', '.join(lines) or f'{kind} data changed'}: {', '.join(stages)} {'are' if len(stages) > 1 else 'is'} {what}"
    )


def _made_again(at: Run, finished: Sequence[str]) -> list[str]:
    """From the first stage that learned from other training data on, for the later ones come from it."""
    for number, stage in enumerate(finished):
        key = _training_of(at.folder(stage))
        if key and key != at.files:
            return list(finished[number:])
    return []


def _training_of(folder: Path) -> str:
    return str((reuse.recorded(folder) or {}).get("training data", ""))


def _lists_of(folder: Path) -> set[str]:
    """The validation lists that a stage's figures are of; empty where none is recorded."""
    measured: dict[str, Any] = stage_folder.read_card(folder).measured
    return {str(found.get("list", "")) for found in measured.values()}


def _part(at: Run, key: str) -> Content:
    """The lists that a key speaks of."""
    content = at.content
    return Content((), (), content.val) if key == at.list_key else Content(content.labelled, content.unlabelled, ())
