"""Which finished stage or checkpoint fits a command, and what happens to one that does not.

The rule of the whole flow: nothing that was finished or begun is lost. A folder of other inputs becomes
`STAGE.previous-1` (the count goes up), an interrupted run's `STAGE.partial` becomes `STAGE.partial.previous-1`, and the
fields that differ are printed with old and new value. The command that made such a folder takes it up again. With
`overwrite` the folder is replaced instead.

`.inputs.json` in a stage's folder holds the plain inputs of its key: fields and hashes, no file names. No
card lists it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgemt.artefacts import stage_folder
from edgemt.io.atomic import fsync_folder, next_name, previous_folders, set_aside, write_text
from edgemt.training import checkpoint

INPUTS = ".inputs.json"
Explain = Callable[[str, str], str]
"""Two keys of data lists -> what differs between them; empty where that is not recorded."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHOWN = 4  # fields in a line of changes


def fits(
    folder: Path,
    *,
    inputs: Mapping[str, Any],
    say: Callable[[str], None],
    overwrite: bool = False,
    explain: Explain | None = None,
) -> bool:
    """Whether `folder` is the finished stage of `inputs`. If not, `folder.partial` is ready for this command.

    Raises ValueError when a file of the finished stage is damaged.
    """
    key, stage = stage_folder.key_of(inputs), _stage(folder)
    if stage_folder.stands(folder, key=key):
        return True
    found = next((old for old in previous_folders(folder) if _key_of_finished(old) == key), None)
    if found is not None and stage_folder.stands(found, key=key):
        _exchange(folder, found)
        say(f"{stage}: {found.name} was made from these inputs and is taken up again")
        return True
    if folder.exists():
        after = "is replaced" if overwrite else f"becomes {next_name(folder).name}"
        say(f"{stage}: {_why(folder, inputs, explain)}: made again; the finished stage {after}")
    _ready(folder.with_name(f"{folder.name}.partial"), inputs, key=key, say=say, overwrite=overwrite, explain=explain)
    return False


def make_way(
    folder: Path,
    *,
    inputs: Mapping[str, Any],
    say: Callable[[str], None],
    overwrite: bool = False,
    explain: Explain | None = None,
) -> None:
    """For a folder that is filled in place and not renamed: set aside what is in it for other inputs."""
    key = stage_folder.key_of(inputs)
    if folder.exists() and _raw(folder).get("key") != key:
        after = "is replaced" if overwrite else f"becomes {next_name(folder).name}"
        say(f"{folder.name}: {_why(folder, inputs, explain)}: made again; what was there {after}")
        if not overwrite:
            set_aside(folder)
    found = next((old for old in previous_folders(folder) if _raw(old).get("key") == key), None)
    if found is not None and not folder.exists():
        _exchange(folder, found)
        say(f"{folder.name}: {found.name} was made from these inputs and is taken up again")
    write_text(folder / INPUTS, stage_folder.to_json({"key": key, "inputs": inputs}))


def _ready(
    partial: Path,
    inputs: Mapping[str, Any],
    *,
    key: str,
    say: Callable[[str], None],
    overwrite: bool,
    explain: Explain | None,
) -> None:
    """`partial` holds a checkpoint of `key`, or none."""
    if _has_checkpoint(partial) and _key_of_begun(partial) != key:
        after = "is replaced" if overwrite else f"moves to {next_name(partial).name}"
        say(f"{_stage(partial)}: {_why(partial, inputs, explain)}: the {_begun(partial)} does not fit and {after}")
        if not overwrite:
            set_aside(partial)
    if not _has_checkpoint(partial):
        found = next(
            (old for old in previous_folders(partial) if _has_checkpoint(old) and _key_of_begun(old) == key), None
        )
        if found is not None:
            _exchange(partial, found)
            say(f"{_stage(partial)}: the {_begun(partial)} in {found.name} fits and is taken up again")
    write_text(partial / INPUTS, stage_folder.to_json({"key": key, "inputs": inputs}))


def _stage(folder: Path) -> str:
    """The name of a stage in a line: `teacher`, and `members/2` of a folder that has a number for its name."""
    name = folder.name.removesuffix(".partial")
    return f"{folder.parent.name}/{name}" if name.isdigit() else name


def _exchange(folder: Path, found: Path) -> None:
    """`found` becomes `folder`, which is set aside if it is there."""
    if folder.exists():
        set_aside(folder)
    os.replace(found, folder)
    fsync_folder(folder.parent)


def recorded(folder: Path) -> dict[str, Any] | None:
    """The plain inputs of a folder's key; None where they are not recorded, or not readable."""
    raw = _raw(folder)
    return raw["inputs"] if isinstance(raw.get("inputs"), dict) else None


def _raw(folder: Path) -> dict[str, Any]:
    try:
        raw = json.loads((folder / INPUTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}


def _key_of_finished(folder: Path) -> str:
    try:
        return stage_folder.read_card(folder).recipe_hash
    except (ValueError, OSError):
        return ""


def _checkpoints(partial: Path) -> list[Path]:
    return sorted(partial.rglob("*checkpoint*.safetensors"))


def _has_checkpoint(partial: Path) -> bool:
    return bool(_checkpoints(partial))


def _key_of_begun(partial: Path) -> str:
    """Of `.inputs.json`, or of the checkpoint where an earlier version left none; a damaged one fits nothing."""
    if key := _raw(partial).get("key"):
        return str(key)
    try:
        return str(checkpoint.read_state(_checkpoints(partial)[0]).get("key", ""))
    except ValueError:
        return ""


def _begun(partial: Path) -> str:
    """`checkpoint of step 520`."""
    try:
        step = max(int(checkpoint.read_state(file)["index"]) for file in _checkpoints(partial))
    except (ValueError, KeyError, TypeError):
        return "checkpoint"
    return f"checkpoint of step {step}"


def _why(folder: Path, inputs: Mapping[str, Any], explain: Explain | None) -> str:
    old = recorded(folder)
    if old is None:
        return "made from other inputs, which an earlier version did not record"
    lines = changed(old, inputs, explain=explain)
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return ", ".join(lines[:_SHOWN]) + more if lines else "made from other inputs"


def changed(old: Mapping[str, Any], new: Mapping[str, Any], *, explain: Explain | None = None) -> list[str]:
    """The fields in which two sets of inputs differ: `student.schedule.steps 600 -> 800`. Hashes are not shown."""
    before, after = _flat(old), _flat(new)
    lines: list[str] = []
    replaced: list[str] = []  # a part of another kind: its own fields are not compared
    for name in sorted({**before, **after}, key=_kinds_first):
        one, other = before.get(name), after.get(name)
        if one == other or any(name.startswith(prefix) for prefix in replaced):
            continue
        if name.endswith(".is"):
            replaced.append(name.removesuffix("is"))
            name = name.removesuffix(".is")
        if _is_hash(one) or _is_hash(other):
            lines.append((explain(f"{one}", f"{other}") if explain is not None else "") or f"{name} changed")
        else:
            lines.append(f"{name} {_shown(one)} -> {_shown(other)}")
    return lines


def _is_hash(value: Any) -> bool:
    """Whether a plain value is a hash, or a list of nothing else."""
    values = value if isinstance(value, list) and value else [value]
    return all(_DIGEST.fullmatch(f"{one}") for one in values)


def _flat(value: Mapping[str, Any]) -> dict[str, Any]:
    return stage_folder.flat(json.loads(json.dumps(stage_folder.plain(value))))


def _kinds_first(name: str) -> tuple[str, ...]:
    """Sorts the kind of a part, `method.is`, before its fields."""
    *parts, last = name.split(".")
    return (*parts, "" if last == "is" else last)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(v) for v in value) or "(empty)"
    return "(none)" if value is None or value == "" else str(value)
