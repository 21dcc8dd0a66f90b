"""The result of one run of a comparison as a small JSON file, METHOD_SEED.json, that outlives its run folder.

A folder of such files is all that a table needs. They hold no path and can be committed: a table is filled over many
days and on several machines, and a run whose result stands is not trained again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edgemt.artefacts import reuse
from edgemt.io.atomic import make_folder, set_aside, write_text
from edgemt.io.plain_files import TEXT_LIMIT, read_regular

FORMAT = 1
DIGITS = 5  # of a Dice


@dataclass(frozen=True)
class Result:
    """One method with one seed. `cases` and `groups` are empty where the run failed.

    `ground` is what all results of a table have in common; `inputs` is all that this run depends on.
    """

    method: str
    settings: str  # "common": the recipe's; "published": those of the method's release
    seed: int
    delivers: str  # "average" or "student"
    control: str  # the method that its difference is taken to
    recipe: str
    network: str
    steps: int
    batch: tuple[int, int]  # labelled and unlabelled rows
    classes: tuple[str, ...]  # without background
    labelled: int  # patients or volumes
    drawn: tuple[str, ...]  # the labelled ones by name, where they were drawn
    created: str
    device: str
    dims: int  # 2 or 3
    ground: Mapping[str, Any]
    inputs: Mapping[str, Any]
    cases: Mapping[str, Sequence[float | None]]  # Dice of each class; None where it is not defined
    groups: Mapping[str, str]  # case -> patient
    hd95: float | None = None  # pixels, mean over classes
    step_seconds: float | None = None
    seconds: float | None = None  # of the whole run, where it was not resumed
    failed: str = ""

    @property
    def name(self) -> str:
        """The row of the table."""
        return row_name(self.method, self.settings)

    def to_text(self) -> str:
        """JSON with a line for each field and each case, so that a change can be read."""
        raw = {"format": FORMAT, **asdict(self)}
        lines = [f" {json.dumps(key)}: {_value(value, key)}" for key, value in raw.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def read(cls, file: Path) -> Result:
        """Raises ValueError, naming the file, where it is not such a result."""
        try:
            raw = json.loads(read_regular(file, limit=TEXT_LIMIT).decode("utf-8"))
            if raw.pop("format") != FORMAT:
                raise ValueError("another format")
            for name in ("batch", "classes", "drawn"):
                raw[name] = tuple(raw[name])
            result = cls(**raw)
            if any(len(dice) != len(result.classes) for dice in result.cases.values()):
                raise ValueError("cases and classes do not match")
            if set(result.cases) != set(result.groups):
                raise ValueError("cases and groups do not match")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file}: is no result of edgemt compare ({error}); remove it") from None
        return result


def row_name(method: str, settings: str) -> str:
    """The name of a row of the table: the method, with its settings unless they are the common ones."""
    return method if settings == "common" else f"{method}, {settings}"


def file_of(folder: Path, method: str, settings: str, seed: int) -> Path:
    """The result file in `folder`: METHOD_SEED.json, with settings of its own METHOD-SETTINGS_SEED.json."""
    own = "" if settings == "common" else f"-{settings}"
    return folder / f"{method}{own}_{seed}.json"


def write(result: Result, folder: Path) -> Path:
    """An older result of the same run that differs in more than its date is set aside, as NAME.json.previous-1."""
    file = file_of(make_folder(folder), result.method, result.settings, result.seed)
    if file.exists() and not _same(file, result):
        set_aside(file)
    write_text(file, result.to_text())
    return file


def read_all(folder: Path, *, ground: Mapping[str, Any] | None = None) -> list[Result]:
    """Every result of a folder, by name. `ground` is the one of the runs that are to join them.

    Raises ValueError, naming files and fields, where they do not belong into one table.
    """
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    found = [Result.read(file) for file in files]
    other = "the present command" if ground is not None or not files else files[0].name
    for file, result in zip(files, found, strict=True):
        _same_ground(result, found[0].ground if ground is None else ground, file=file, other=other)
    return found


def _same_ground(result: Result, ground: Mapping[str, Any], *, file: Path, other: str) -> None:
    if result.ground == ground:
        return
    what = "; ".join(reuse.changed(ground, result.ground)[:4]) or "its ground"
    raise ValueError(
        f"{file}: differs from {other} in more than method and seed ({what}); give each table a folder of its own "
        "with --out or --results"
    )


def _same(file: Path, result: Result) -> bool:
    try:
        before = Result.read(file)
    except ValueError:
        return False
    passing = ("created", "device", "step_seconds", "seconds")
    return all(getattr(before, f.name) == getattr(result, f.name) for f in fields(Result) if f.name not in passing)


def _value(value: Any, key: str) -> str:
    if key not in ("cases", "groups") or not value:
        return json.dumps(value, allow_nan=False)
    lines = [f"  {json.dumps(name)}: {json.dumps(inner, allow_nan=False)}" for name, inner in value.items()]
    return "{\n" + ",\n".join(lines) + "\n }"
