"""Select images of a data folder to label next, and write the lists and the contact sheet.

Shapes: H W size of a frame, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from edgemt.contract import Case
from edgemt.data.decode import CaseReader, FrameSpec
from edgemt.data.options import DataOptions
from edgemt.data.reading import Reading
from edgemt.data_report.against import Teacher
from edgemt.data_report.duplicates import near_duplicates
from edgemt.data_report.encoder_features import Extract, features_of
from edgemt.data_report.listing import Item, Listing, list_folder
from edgemt.data_report.mask_values import decide_meaning
from edgemt.data_report.scan import ScanOptions, as_picture, scan_files
from edgemt.io.atomic import write_text
from edgemt.io.bit_depth import Depth, of_card
from edgemt.io.bit_depth import decide as decide_depth
from edgemt.io.channels import no_channels
from edgemt.report.data_page import drawn
from edgemt.report.selection_page import selection_page
from edgemt.selection.choose import Method, Rules, choose

ProgressCall = Callable[[int, int], None]
Score = Literal["entropy", "variance"]


@dataclass(frozen=True)
class Selection:
    """The chosen images in the order in which to label them, and those that were labelled before."""

    chosen: tuple[Item, ...]
    labelled: tuple[Item, ...]
    candidates: int
    method: Method
    depth: Depth
    uncertainty: tuple[float, ...] = ()  # of the chosen ones
    by: Score = "entropy"  # what `uncertainty` is


def select(
    options: DataOptions,
    *,
    budget: int,
    method: Method,
    extract: Extract,
    identity: str,
    cache: Path,
    per_patient: int = 0,
    ignore_masks: bool = False,
    teacher: Teacher | None = None,
    bank_of: Path | None = None,
    progress: ProgressCall | None = None,
) -> Selection:
    """Choose `budget` images of the training part; masks are not opened, validation images are never chosen.

    ignore_masks: masks in the folder do not make an image labelled. For `uncertain` the score is the entropy of a
    `teacher`, or the variance in the bank of the run folder `bank_of`. Raises ValueError for a folder that cannot be
    listed, where nothing is left to label, and for a bank that is not of these images.
    """
    if budget < 1:
        raise ValueError(f"budget: {budget} images; give 1 or more")
    listing = list_folder(options, classes_given=False)
    pool = [item for item in listing.items if item.part in ("labelled", "unlabelled")]
    before = [] if ignore_masks else [item for item in pool if item.part == "labelled"]
    names = {item.image for item in before}
    candidates = [item for item in pool if item.image not in names]
    if not candidates:
        raise ValueError(
            f"{options.root}: every training image has a mask; add images, name the labelled ones in "
            "--data.labelled, or give --ignore-masks"
        )
    items = [*before, *candidates]
    unsure = _variance(items, bank_of, options, skip=len(before)) if bank_of is not None else None
    depth = decide_depth(options.depth, options.window, list(listing.deep.values()))
    features = features_of(items, depth, extract, identity=identity, cache=cache, progress=progress)
    if teacher is not None:
        unsure = mean_entropy(items, teacher, skip=len(before))
    rules = Rules([item.patient for item in items], per_patient, copies_of(items, listing, depth))
    rows = choose(features, labelled=range(len(before)), budget=budget, method=method, rules=rules, uncertainty=unsure)
    return Selection(
        tuple(items[i] for i in rows),
        tuple(before),
        len(candidates),
        method,
        depth,
        () if unsure is None else tuple(float(unsure[i]) for i in rows),
        "variance" if bank_of else "entropy",
    )


def _variance(items: Sequence[Item], run: Path, options: DataOptions, *, skip: int) -> np.ndarray:
    from edgemt.selection.bank_variance import bank_variance  # imports torch

    return bank_variance(items, run, root=Path(str(options.root)), skip=skip)


def copies_of(items: Sequence[Item], listing: Listing, depth: Depth) -> dict[int, set[int]]:
    """Image -> images that show the same: equal, or near copies as in the data report."""
    meaning, _ = decide_meaning([], classes=("background", "object"), threshold=None)
    bare = [Item(i.name, i.patient, i.image, None, i.part, i.axes) for i in items]
    scans = scan_files(bare, ScanOptions(depth, meaning, listing.options.size), workers=2)
    read = [k for k, s in enumerate(scans) if s.image.hashes is not None]
    hashes = [h for k in read if (h := scans[k].image.hashes) is not None]
    thumbs = [t for k in read if (t := scans[k].image.thumbs) is not None]
    copies: dict[int, set[int]] = {}
    for a, b, *_ in near_duplicates(hashes, thumbs):
        copies.setdefault(read[a], set()).add(read[b])
        copies.setdefault(read[b], set()).add(read[a])
    return copies


def mean_entropy(items: Sequence[Item], teacher: Teacher, *, skip: int = 0) -> np.ndarray:
    """Mean entropy of each image by a trained model, float [n], 0 to 1; the first `skip` are 0.

    H = -sum_c p_c log p_c / log C, its mean over the pixels, of a volume over up to eight slices.
    Raises ValueError for a model that gives masks alone.
    """
    card = teacher.card
    no_channels(card, where=teacher.name, what="select reads one picture a case; name another model")
    sliced = card.channel_order == "slices"
    spec = FrameSpec(card.size, 1 if sliced else card.channels, card.classes, slices=card.channels if sliced else 1)
    meaning, _ = decide_meaning([], classes=card.classes, threshold=None)
    reader = CaseReader(spec, Reading(meaning.rule, of_card(card.data, source="card.json")))
    out = np.zeros(len(items))
    for number, item in enumerate(items[skip:], skip):
        frames = _frames(item, reader)
        _, probs = teacher.predict(frames)
        if probs is None:
            raise ValueError(f"model: {teacher.name} gives masks alone; name the run folder, or a stage with weights")
        p = np.maximum(probs, 1e-7)
        out[number] = float(-(p * np.log(p)).sum(1).mean() / np.log(probs.shape[1]))
    return out


def _frames(item: Item, reader: CaseReader) -> np.ndarray:
    from edgemt.io.volumes import volume_shape

    case = Case(item.name, item.patient, item.image, axes=item.axes)
    shape = () if item.is_frame else volume_shape(item.image, axes=item.axes)
    if len(shape) < 3:
        return reader.frame(case)[None]
    rows = np.unique(np.linspace(0, shape[2] - 1, min(8, shape[2])).astype(int))
    slices = [Case(item.name, item.patient, item.image, slice=int(k), axes=item.axes) for k in rows]
    return np.stack([reader.frame(one) for one in slices])


def write_selection(found: Selection, out: Path, *, root: Path, pictures: bool = True) -> tuple[Path, ...]:
    """Write selected.txt, labelled.txt and selected.html; returns their paths.

    selected.txt names the chosen images, one a line; labelled.txt names those that were labelled before as well, in the
    form that --data.labelled reads.
    """
    paths = out / "selected.txt", out / "labelled.txt", out / "selected.html"
    chosen = [item.name for item in found.chosen]
    write_text(paths[0], "".join(f"{name}\n" for name in chosen))
    write_text(paths[1], "".join(f"{name}\n" for name in (*(item.name for item in found.labelled), *chosen)))
    options = ScanOptions(found.depth, decide_meaning([], classes=("a", "b"), threshold=None)[0], (1, 1))
    shown = [drawn(as_picture(item, options, slice_=None), None) for item in found.chosen] if pictures else []
    rows = [
        {
            "name": item.name,
            "patient": item.patient,
            "uncertainty": found.uncertainty[i] if found.uncertainty else None,
        }
        for i, item in enumerate(found.chosen)
    ]
    counts = {"candidates": found.candidates, "labelled": len(found.labelled)}
    page = selection_page(rows, shown, root=str(root), method=found.method, by=found.by, **counts)
    write_text(paths[2], page)
    return paths
