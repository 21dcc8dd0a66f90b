"""Teachers of a cross-validation, `--data.folds K`: each learns from all labelled patients but those of one fold.

Together they are the teacher of the run (`edgemt.learning.ensemble`); each one's held-out patients, which no validation
list needs to spare, give an out-of-fold Dice of every labelled image.

Shapes: K folds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgemt.artefacts import network_folder, stage_folder
from edgemt.contract import Case
from edgemt.data.splits import find_list
from edgemt.inference.evaluate import evaluate, prepare
from edgemt.io import process_rank
from edgemt.io.atomic import write_text
from edgemt.io.file_types import is_h5, is_image, is_volume, stem_of
from edgemt.metrics.overlap import Scores
from edgemt.pipeline.log import log
from edgemt.pipeline.run_context import RunContext
from edgemt.pipeline.train import train_stage
from edgemt.training.seeds import member_seed

RECORD = "out_of_fold.json"
_DRAWS = 2000  # of the bootstrap


def fold_patients(patients: Sequence[str], *, folds: int, seed: int) -> list[set[str]]:
    """The patients of each fold: drawn by `seed`, their numbers differ by at most one.

    Raises ValueError for more folds than patients.
    """
    names = sorted(set(patients))
    if len(names) < folds:
        raise ValueError(f"data.folds: {folds} folds for {len(names)} labelled patients; give at most that many")
    order = np.random.default_rng(seed).permutation(len(names))
    return [{names[index] for index in part} for part in np.array_split(order, folds)]


def listed_folds(cases: Sequence[Case], *, file: Path, folds: int) -> list[set[str]]:
    """The patients of each fold that a JSON file names: nnU-Net's `val` lists, or lists of cases or patients.

    Names that are no labelled case are left out: the file may be of a larger set. Raises ValueError, naming the file,
    for another number of folds, for a labelled patient in no fold or in two, and for a fold without one.
    """
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        lists = [[str(name) for name in (fold["val"] if isinstance(fold, dict) else fold)] for fold in raw]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file}: no list of folds ({type(error).__name__} {error}); write [[case, ...]]") from None
    if len(lists) != folds:
        raise ValueError(f"{file}: has {len(lists)} folds, data.folds is {folds}; set --data.folds {len(lists)}")
    by_name = {name: case.patient for case in cases for name in (_unit(case), case.patient)}
    found = [{by_name[name] for name in map(_stem, names) if name in by_name} for names in lists]
    for patient in sorted(set(by_name.values())):
        count = sum(patient in fold for fold in found)
        if count != 1:
            raise ValueError(f"{file}: labelled patient {patient!r} is in {count} folds; name it in one")
    if not all(found):
        raise ValueError(f"{file}: fold {[bool(fold) for fold in found].index(False) + 1} has no labelled patient")
    return found


def _stem(name: str) -> str:
    return stem_of(name) if is_image(name) or is_volume(name) or is_h5(name) else name


def _unit(case: Case) -> str:
    """The name of an image, or of the volume of a slice."""
    return case.name if case.slice is None else case.name.rpartition("/")[0]


def fold_teachers(context: RunContext) -> list[Path]:
    """The folders `folds/1` to `folds/K` of the trained teachers; writes `folds/out_of_fold.json`.

    Images of a held-out patient take no part in the training of that fold, not even without their masks.
    """
    recipe, cohort = context.recipe, context.slices.cohort
    folds = recipe.data.folds
    if recipe.data.fold_file:
        file = find_list(recipe.data.fold_file, root=recipe.data.root or Path(), field="fold_file")
        held_out = listed_folds(cohort.labelled, file=file, folds=folds)
    else:
        held_out = fold_patients([case.patient for case in cohort.labelled], folds=folds, seed=recipe.data.seed)
    alone = replace(recipe.teacher, members=1, flips=1)
    folders, held_out_cases = [], []
    for number, patients in enumerate(held_out):
        fold = replace(context, recipe=replace(recipe, seed=member_seed(recipe.seed, number), teacher=alone))
        inside = tuple(case for case in cohort.labelled if case.patient not in patients)
        unlabelled = tuple(case for case in cohort.unlabelled if case.patient not in patients)
        whole = context.slices
        shared: dict[str, Any] = {"reading": whole.reading, "normalise": whole.normalise, "val": whole.val}
        vars(fold.slices).update(shared, cohort=replace(cohort, labelled=inside, unlabelled=unlabelled))
        folders.append(train_stage(fold, f"folds/{number + 1}", alone, alone.method))
        held_out_cases.append([case for case in cohort.labelled if case.patient in patients])
    teachers = [stage_folder.identity(folder) for folder in folders]
    if process_rank.is_main_process() and not _is_measured(context, teachers):
        measured = [_out_of_fold(context, *pair) for pair in zip(folders, held_out_cases, strict=True)]
        _report(context, [record for records in measured for record in records], teachers)
    return folders


def _is_measured(context: RunContext, teachers: list[str]) -> bool:
    """Whether the record is that of these teachers."""
    try:
        return json.loads((context.folder("folds") / RECORD).read_text(encoding="utf-8"))["teachers"] == teachers
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _out_of_fold(context: RunContext, folder: Path, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """The record of each held-out image or volume: name, patient, Dice of each class."""
    data, slices = context.recipe.data, context.slices
    prepared = prepare(
        cases,
        size=data.size,
        channels=sum(data.planes),
        slices=data.slices,
        channel_names=data.channel_names,
        fill=slices.fill,
        classes=data.classes,
        values=data.mask_values,
        reading=slices.reading,
    )
    scores = evaluate(slices.predict(network_folder.load_network(folder)), prepared, dice_only=True)
    patients = {_unit(case): case.patient for case in cases}
    return [{**record, "patient": patients[record["name"]], "fold": folder.name} for record in scores.cases]


def _report(context: RunContext, records: list[dict[str, Any]], teachers: list[str]) -> None:
    """Log the mean Dice over all labelled patients, with a bootstrap interval over patients, and write it."""
    classes = context.recipe.data.classes[1:]
    by_patient: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_patient.setdefault(record["patient"], []).append(record)
    groups = list(by_patient.values())
    draw, means = np.random.default_rng(0), []
    for _ in range(_DRAWS):
        chosen = draw.integers(0, len(groups), len(groups))
        means.append(Scores(classes, [record for index in chosen for record in groups[index]]).dice)
    low, high = np.nanquantile(means, (0.025, 0.975))
    scores = Scores(classes, records)
    log(f"folds: out-of-fold Dice {scores.dice:.4f}, 95 % {low:.4f} to {high:.4f} over {len(groups)} labelled patients")
    interval = {"low": float(low), "high": float(high), "patients": len(groups)}
    text = stage_folder.to_json({"dice": scores.dice, **interval, "teachers": teachers, "cases": records})
    write_text(context.folder("folds") / RECORD, text)
