"""What can be done with a ship folder, on a machine without torch: eval, predict, doctor."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deploy.package.package import Package, open_package
from deploy.runtimes.load import runner
from edgemt.contour_margins import margins_of
from edgemt.contract import Case
from edgemt.data.cohort import all_cases, split_dataset
from edgemt.data.decode import FrameSpec
from edgemt.data.options import DataOptions
from edgemt.data.reading import Reading, print_note
from edgemt.inference.by_group import by_group, case_dice, group_table, read_groups
from edgemt.inference.contours import coverage_text, list_digest, measure_contours, patients_of, unit_of
from edgemt.inference.doctor import doctor
from edgemt.inference.evaluate import EvalSet, fit_masks, frame_masks, prepare, score
from edgemt.inference.evaluate_uncertainty import keeping_maps, maps_record
from edgemt.inference.predict import predict
from edgemt.io.channels import card_fill, card_names, neighbours_of
from edgemt.io.class_regions import each_class
from edgemt.metrics.postprocess import through_plane as vote
from edgemt.model_card import ModelCard

_NO_CALIBRATION: dict[str, Any] = {"calibration": "", "calibration_share": 0.0}  # a named list is taken whole
__all__ = ["doctor", "evaluate_ship", "metrics_table", "predict"]


def evaluate_ship(
    folder: Path,
    *,
    data_root: Path | None = None,
    val: str = "",
    runtime: str = "auto",
    file: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    through_plane: int = 1,
    contours: bool | None = None,
    without_channel: str = "",
    groups: Path | None = None,
    cpu_fallback: bool = True,
) -> dict[str, Any]:
    """Every metric on the validation list, by the file as it runs here: a JSON record.

    `through_plane` slices of a volume vote on each voxel between them; 1 scores the masks as they are.
    `contours`: coverage and width of the contours too; None: where the card has margins of the file.
    `data_root` replaces the folder on the card; one with nothing but images and masks is measured whole.
    `without_channel`: one of several channels, missing in every case. `groups`: a table of cases or patients and their
    groups (`edgemt.inference.by_group`), for the key `by`.
    Raises ValueError in one line for whatever is wrong with ship, data or runtime.
    """
    columns = read_groups(groups) if groups is not None else None
    ship = open_package(folder)
    made = runner(ship, runtime=runtime, file=file, threads=threads, precision=precision, cpu_fallback=cpu_fallback)
    options, cases = find_cases(ship, data_root, val)
    cases = without(cases, card_names(ship.card), without_channel)
    eval_set = read_cases(ship.card, options, cases)
    predict_all, maps = keeping_maps(made, made.with_uncertainty if made.has_uncertainty else None)
    frames = frame_masks(predict_all, eval_set)
    record = measured(ship, frames, eval_set, made.file, through_plane=through_plane)
    if made.has_uncertainty:
        found = maps_record(frames, maps, eval_set.frame_truths())
        record |= {"uncertainty": found, "card_uncertainty": card_uncertainty(ship, made.file)}
    if contours is not False:
        record |= _contours(ship, made.file, frames, eval_set, cases, needed=bool(contours))
    record |= grouped(record, cases, columns)
    return {
        **record,
        "runtime": made.runtime,
        "file": made.file,
        "precision": made.precision,
        "threads": made.threads,
        "root": str(options.root) if options.root else None,
    }


def grouped(
    record: dict[str, Any], cases: tuple[Case, ...], columns: dict[str, dict[str, str]] | None
) -> dict[str, Any]:
    """{"by": results by group} of a record; empty without a table."""
    if columns is None:
        return {}
    names = [case["name"] for case in record["cases"]]
    return {"by": by_group(case_dice(record["cases"]), dict(zip(names, patients_of(cases), strict=True)), columns)}


def card_uncertainty(ship: Package, file: str) -> dict[str, Any] | None:
    """What the card states of the uncertainty of a file; None if nothing."""
    return ship.card.measured[file].uncertainty or None if file in ship.card.measured else None


def uncertainty_name(before: dict[str, Any] | None) -> str:
    """What the second output of a file is, from what the card states of it."""
    return "uncertainty (of the logits, no head)" if before and before.get("source") == "softmax" else "uncertainty"


def holds_network(folder: Path) -> bool:
    """Whether a folder is a stage of a run with weights and no graph, such as `student` or `slim`."""
    return (Path(folder) / "weights.safetensors").is_file() and not any(Path(folder).glob("*.onnx"))


def measured(
    ship: Package, frames: list[np.ndarray], eval_set: EvalSet, file: str, *, through_plane: int = 1
) -> dict[str, Any]:
    """Every metric of the masks of all frames, uint8 [H, W] each, which are those of `file`."""
    if through_plane != 1 and not any(truth.ndim == 3 for truth in eval_set.truths):
        raise ValueError("through_plane: slices of a volume vote, and every case is one image; leave it at 1")
    with_distances = _has_scipy()
    masks = fit_masks(frames, eval_set)
    if through_plane != 1:
        voted, kind = partial(vote, width=through_plane), {"overlapping": eval_set.overlapping}
        masks = [each_class(m, voted, classes=len(eval_set.classes), **kind) if m.ndim == 3 else m for m in masks]
    return {
        "ship": str(ship.folder),
        "name": ship.card.name,
        "counted": len(eval_set),
        "card_dice": ship.card.measured[file].dice if file in ship.card.measured else None,
        "distances": with_distances,
        "through_plane": through_plane,
        **score(masks, eval_set, distances=with_distances).to_json(),
    }


def _contours(
    ship: Package, file: str, frames: list[np.ndarray], eval_set: EvalSet, cases: tuple[Case, ...], *, needed: bool
) -> dict[str, Any]:
    """{"contours": record} of `edgemt.inference.contours`; empty without margins, unless `needed`."""
    margins, reason = margins_of(ship.card.contours, ship.card.files, file=file)
    if margins is None:
        if needed:
            raise ValueError(f"{ship.folder}: {reason}")
        return {}
    if not needed and unit_of(eval_set) != margins.unit:
        return {}
    return {
        "contours": measure_contours(frames, eval_set, margins, patients=patients_of(cases), digest=list_digest(cases))
    }


def read_cases(card: ModelCard, options: DataOptions, cases: tuple[Case, ...]) -> EvalSet:
    """The cases as the model of `card` needs them. Prints what was assumed of their files."""
    names, slices = card_names(card), neighbours_of(card)
    form: dict[str, Any] = {
        "size": card.size,
        "channels": card.channels // slices,
        "slices": slices,
        "classes": card.classes,
        "channel_names": names,
        "channel_depth": options.channel_depth,
        "values": replace(options.mask_values, overlapping=card.overlapping),
        "depth": options.depth,
        "window": options.window,
        "compare": options.affines == "compare",
    }
    reading = _reading(FrameSpec(**form, mask_threshold=options.mask_threshold), cases) if cases else None
    fill = card_fill(card) if names else None
    return prepare(cases, **form, mask_threshold=options.mask_threshold, fill=fill, reading=reading)


def _reading(form: FrameSpec, cases: tuple[Case, ...]) -> Reading:
    """How the files are read: masks by the threshold of the card or, where it does not fit them, by their values."""
    notes: tuple[str, ...] = ()
    try:
        reading = form.reading(cases)
    except ValueError as refused:
        if form.mask_threshold is None:
            raise
        try:
            reading = replace(form, mask_threshold=None).reading(cases)
        except ValueError:
            raise refused from None
        notes = (f"{reading.masks.text}; data.mask_threshold {form.mask_threshold} of the card does not fit them",)
    for note in (*notes, *reading.notes):
        print_note(note)
    return reading


def without(cases: tuple[Case, ...], names: tuple[str, ...], channel: str) -> tuple[Case, ...]:
    """The cases without one of the channels `names`; as they are where `channel` is empty.

    Raises ValueError for a channel that is none of them, and for a case that has no other one.
    """
    if not channel:
        return cases
    if channel not in names:
        raise ValueError(f"without_channel: {channel!r} is none of the model's channels ({', '.join(names) or 'one'})")
    at, found = names.index(channel), []
    for case in cases:
        files = tuple("" if k == at else path for k, path in enumerate(case.channels))
        if not any(files):
            raise ValueError(f"without_channel: {case.name} has no other channel than {channel!r}; leave it out")
        found.append(replace(case, image=next(path for path in files if path), channels=files))
    return tuple(found)


def metrics_table(record: dict[str, Any]) -> str:
    """The record of `evaluate_ship` as text: a row a class."""
    unit = record["unit"]
    columns = {
        "dice": "Dice",
        "jaccard": "Jaccard",
        "recall": "recall",
        "specificity": "specif.",
        "hd95": f"HD95 {unit}",
        "asd": f"ASD {unit}",
        "hd95_mm": "HD95 mm",
        "asd_mm": "ASD mm",
        "counted": "cases",
        "missed": "missed",
        "invented": "invented",
    }
    shown = [key for key in columns if key in next(iter(record["per_class"].values()))]
    rows = [["class", *(columns[key] for key in shown)]]
    for name, values in record["per_class"].items():
        rows.append([name, *(_cell(values[key], whole=key in ("counted", "missed", "invented")) for key in shown)])
    width = max(len(row[0]) for row in rows)
    lines = ["  ".join([row[0].ljust(width), *(cell.rjust(8) for cell in row[1:])]) for row in rows]
    text = f"{record['file']} on {record['runtime']} ({record['precision']}), {record['counted']} cases"
    before = record["card_dice"]
    card = f"; on the card {before:.4f}" if before is not None else ""
    lines += ["", f"mean Dice {_cell(record['dice'])}{card}; {text}"]
    if "contours" in record:
        lines.append(coverage_text(record["contours"]))
    if "uncertainty" in record:
        before = record["card_uncertainty"]
        lines.append(uncertainty_line(uncertainty_name(before), record["uncertainty"], before))
    if "softmax_entropy" in record:
        lines.append(uncertainty_line("softmax entropy", record["softmax_entropy"], None))
    if "by" in record:
        lines.append(group_table(record["by"]))
    if not record["distances"]:
        lines.append("note: no surface distances without scipy; pip install scipy")
    return "\n".join(lines)


_UNCERTAINTY = {"auroc": "AUROC of wrong pixels", "ece": "calibration error", "brier": "Brier", "aurc": "AURC"}


def uncertainty_line(name: str, found: dict[str, Any], before: dict[str, Any] | None) -> str:
    """How well the uncertainty finds wrong pixels, in one line."""
    card = f"; AUROC on the card {_cell(before['auroc'])}" if before is not None else ""
    figures = ", ".join(f"{label} {_cell(found[key])}" for key, label in _UNCERTAINTY.items())
    return f"{name}: {figures}; {found['wrong']:.2%} of {found['pixels']} pixels are wrong{card}"


def find_cases(ship: Package, root: Path | None, val: str) -> tuple[DataOptions, tuple[Case, ...]]:
    """The validation cases under `root`, found as in training as far as the folder is laid out like that."""
    if not ship.card.data and root is None:
        raise ValueError(f"{ship.folder}: the card does not say where the data was; give --data.root")
    try:
        trained = DataOptions.from_dict(dict(ship.card.data))
    except TypeError as error:
        raise ValueError(f"{ship.folder}/card.json: its data cannot be read ({error}); export it again") from None
    if root is None:
        options = replace(trained, val=val or trained.val, **(_NO_CALIBRATION if val else {}))
        return options, split_dataset(options).val
    root = Path(root)
    same = trained.root is not None and root.resolve() == Path(trained.root).resolve()
    layout = trained.layout if same else "auto"
    options = replace(
        trained,
        root=root,
        layout=layout,
        labelled=trained.labelled if same else "",
        unlabelled="",
        val=val or (trained.val if same or (root / trained.val).is_file() else ""),
        **({} if same and not val else _NO_CALIBRATION),
    )
    if options.val or (root / "train").is_dir() or (root / "val").is_dir() or (root / "val.txt").is_file():
        return options, split_dataset(options).val
    return options, all_cases(options)


def _has_scipy() -> bool:
    try:
        import scipy.ndimage  # noqa: F401
    except ImportError:
        return False
    return True


def _cell(value: float | None, *, whole: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if whole else f"{value:.4f}"
