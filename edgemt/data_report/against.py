"""Probable label errors: masks that a trained model contradicts.

With the probabilities of a float network, confident learning (Northcutt et al., 2021, arXiv 1911.00068) on pixels:

    t_j     = mean of p_j(x) over the pixels x with label j               the confidence that the model has in class j
    error   = {x : p_j(x) >= t_j for the class j = argmax p(x), and j is not the label of x}
    score   = |error| / |{x : label or prediction is an object}|          of an image, or of a slice of a volume

A shipped graph gives masks alone; then the score is 1 - Dice.

Shapes: N frames, H W of the model, K channels, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgemt.contract import IGNORE, Case
from edgemt.data.decode import CaseReader, FrameSpec
from edgemt.data.reading import Reading
from edgemt.data_report.checks import example
from edgemt.data_report.finding import Example, Finding, finding
from edgemt.data_report.inspect_folder import Inspection
from edgemt.data_report.scan import FileScan, ProgressCall, class_indices
from edgemt.io.bit_depth import of_card
from edgemt.io.channels import no_channels
from edgemt.io.class_regions import no_overlapping
from edgemt.io.images import fit_label
from edgemt.model_card import ModelCard
from edgemt.report.gallery import dice_of

# Scores from which on a mask is listed. Kvasir, 100 validation frames, teacher of kvasir_cpu: 0.3 lists 3 of the true
# masks and 89 of 100 swapped ones; 1 - Dice of 0.5 lists 8 and 78 (docs/data-report.md).
SUSPECT, SUSPECT_MASK = 0.3, 0.6
_SWAPPED = 0.6  # Dice of a prediction with the mask of another listed image, both ways
_SAMPLE = 200  # frames from which the confidence of each class is estimated
_BATCH = 8
_LEAST = 0.001  # share of the frame: smaller disagreements are not listed

Predicted = tuple[np.ndarray, "np.ndarray | None"]


@dataclass(frozen=True)
class Teacher:
    """A trained model. `predict`: uint8 [N, H, W, K] -> masks uint8 [N, H, W], probabilities [N, C, H, W] or None."""

    card: ModelCard
    predict: Callable[[np.ndarray], Predicted]
    name: str


def open_teacher(folder: Path) -> Teacher:
    """The teacher of a run folder (its student, if the teacher reads volumes), a stage with weights, or a ship.

    Raises ValueError in one line for a folder that is none of them, and for overlapping classes.
    """
    found = _open_teacher(folder)
    what = "reports, choices of images and label tools compare one class a pixel; edgemt predict writes a mask of each"
    no_overlapping(found.card, where=folder, what=what)
    return found


def _open_teacher(folder: Path) -> Teacher:
    if (folder / "teacher" / "card.json").is_file():
        found = _network(folder / "teacher")
        return found or _open_teacher(folder / "student")
    from edgemt.inference.evaluate_package import holds_network

    if holds_network(folder):
        made = _network(folder)
        if made is None:
            raise ValueError(f"against: {folder} holds a 3-D network; name the run folder or its student")
        return made
    from deploy.package.package import open_package
    from deploy.runtimes.load import runner

    ship = open_package(folder)
    run = runner(ship)
    return Teacher(ship.card, lambda frames: (np.asarray(run(frames)), None), f"{folder}, {run.file}")


def _network(folder: Path) -> Teacher | None:
    """The float network of a stage; None for one that reads volumes."""
    import torch

    from deploy.export import DeployableModel
    from deploy.package.package import open_package
    from edgemt.artefacts.network_folder import load_network
    from edgemt.learning.losses import probabilities

    card = open_package(folder).card
    if card.patch is not None:
        return None
    network = load_network(folder)
    whole = DeployableModel(network, normalise=card.normalise, channels=card.channels).eval()

    @torch.inference_mode()
    def predict(frames: np.ndarray) -> Predicted:
        probs = probabilities(network(whole.normalised(torch.from_numpy(frames))).logits).numpy()
        return probs.argmax(1).astype(np.uint8), probs

    return Teacher(card, predict, str(folder))


@dataclass(frozen=True)
class Judged:
    """A frame with its mask [H, W] and the prediction."""

    scan: FileScan
    slice: int | None
    truth: np.ndarray  # IGNORE where nothing is known
    mask: np.ndarray
    probs: np.ndarray | None  # [C, H, W]

    def without_probs(self) -> Judged:
        """The same without what is needed for the score alone."""
        return replace(self, probs=None)

    def score(self, confidence: np.ndarray | None) -> float:
        """How much of the object the model contradicts, 0 to 1; see the formula above."""
        union = ((self.truth > 0) | (self.mask > 0)) & (self.truth != IGNORE)
        if union.sum() < _LEAST * union.size:
            return 0.0
        if self.probs is None or confidence is None:
            return 1.0 - self.dice(self)
        sure = self.probs.max(0) >= confidence[self.mask]
        return float((sure & (self.mask != self.truth) & union).sum() / union.sum())

    def dice(self, other: Judged) -> float:
        """Dice of the prediction with the mask of `other`, pixels without a label left out."""
        known = other.truth != IGNORE
        return dice_of(np.where(known, self.mask, 0), np.where(known, other.truth, 0))


def label_errors(found: Inspection, teacher: Teacher, *, progress: ProgressCall | None = None) -> list[Finding]:
    """Findings on the masks that `teacher` contradicts, the most probable errors first.

    Raises ValueError where the model has other classes than the masks.
    """
    classes, options = found.meaning.classes, found.listing.options
    if found.meaning.overlapping or options.channel_names:
        what = "classes may overlap" if found.meaning.overlapping else "a case has several channels"
        raise ValueError(
            f"{options.root}: {what}, and --against compares one class a pixel of one picture; leave it out"
        )
    if len(teacher.card.classes) != len(classes):
        raise ValueError(
            f"against: {teacher.name} has the classes {' '.join(teacher.card.classes)}, the masks {' '.join(classes)}; "
            "name a model of these classes"
        )
    scans = [s for s in found.scans if s.mask is not None and s.mask.pixels and s.image.shape]
    scans = [s for s in scans if s.mask is not None and s.mask.shape[:2] == s.image.shape[:2]]
    sample = _sample(found, teacher, scans)
    confidence = _confidence(list(sample.values()), len(classes))
    least = SUSPECT_MASK if confidence is None else SUSPECT
    listed: list[tuple[float, Judged]] = []
    for number, scan in enumerate(scans):
        for one in sample.pop(scan.item.image, None) or _judged(found, teacher, [scan]):
            score = one.score(confidence)
            if score >= least:
                listed.append((score, one.without_probs()))
        if progress is not None:
            progress(number + 1, len(scans))
    listed.sort(key=lambda entry: (-entry[0], entry[1].scan.item.image, entry[1].slice or 0))
    swapped = _swapped([one for _, one in listed])
    examples = [_example(score, one, swapped) for score, one in listed]
    name = "confidently contradicts" if confidence is not None else "contradicts"
    return finding(
        "label_error", "warning", examples, one=f"{teacher.name} {name} a mask:",
        several=f"{teacher.name} {name} {{n}} masks",
        remedy="look at each: the label or the model is wrong",
    )  # fmt: skip


def _example(score: float, one: Judged, swapped: dict[int, str]) -> Example:
    dice = one.dice(one)
    words = f"{score:.0%} of the object, Dice {0.0 if np.isnan(dice) else dice:.2f}"
    words += f", slice {one.slice}" if one.slice is not None else ""
    words += f"; fits the mask of {swapped[id(one)]}: swapped?" if id(one) in swapped else ""
    drawn = example(one.scan, words, slice_=one.slice, of_mask=True)
    shape = one.scan.image.shape
    prediction = fit_label(one.mask, size=(int(shape[0]), int(shape[1])))
    return Example(drawn.file, words, drawn.image, drawn.mask, one.slice, axes=drawn.axes, prediction=prediction)


def _swapped(listed: Sequence[Judged]) -> dict[int, str]:
    """The `id` of a frame -> the image whose mask fits its prediction, where the reverse is true as well."""
    frames = [one for one in listed if one.slice is None][:_SAMPLE]
    found: dict[int, str] = {}
    for i, a in enumerate(frames):
        for b in frames[i + 1 :]:
            if min(a.dice(b), b.dice(a)) >= _SWAPPED:
                found[id(a)], found[id(b)] = b.scan.item.image, a.scan.item.image
    return found


def _sample(found: Inspection, teacher: Teacher, scans: Sequence[FileScan]) -> dict[str, list[Judged]]:
    """Image -> its frames, of an even sample of the files with about `_SAMPLE` frames in all."""
    sample: dict[str, list[Judged]] = {}
    rows = (
        np.unique(np.linspace(0, len(scans) - 1, min(_SAMPLE, len(scans))).astype(int)) if scans else np.array([], int)
    )
    for i in np.random.default_rng(0).permutation(rows):
        if sum(map(len, sample.values())) >= _SAMPLE:
            break
        sample[scans[i].item.image] = list(_judged(found, teacher, [scans[i]]))
    return sample


def _confidence(sample: Sequence[Sequence[Judged]], count: int) -> np.ndarray | None:
    """t_j, float [C]; None where the model gives masks alone."""
    total, number = np.zeros(count), np.zeros(count)
    for one in (one for frames in sample for one in frames):
        if one.probs is None:
            return None
        for value in range(count):
            inside = one.truth == value
            total[value] += float(one.probs[value][inside].sum())
            number[value] += int(inside.sum())
    return np.where(number > 0, total / np.maximum(number, 1), 1.0) if sample else None


def _judged(found: Inspection, teacher: Teacher, scans: Sequence[FileScan]) -> Iterator[Judged]:
    """The frames of some files with mask and prediction, in batches."""
    waiting: list[tuple[FileScan, int | None, np.ndarray, np.ndarray]] = []
    for frame in _frames(found, teacher.card, scans):
        waiting.append(frame)
        if len(waiting) == _BATCH:
            yield from _predicted(teacher, waiting)
            waiting = []
    if waiting:
        yield from _predicted(teacher, waiting)


def _predicted(
    teacher: Teacher, frames: Sequence[tuple[FileScan, int | None, np.ndarray, np.ndarray]]
) -> Iterator[Judged]:
    masks, probs = teacher.predict(np.stack([image for *_, image, _ in frames]))
    for i, (scan, slice_, _, truth) in enumerate(frames):
        yield Judged(scan, slice_, truth, masks[i], None if probs is None else probs[i])


def _frames(
    found: Inspection, card: ModelCard, scans: Sequence[FileScan]
) -> Iterator[tuple[FileScan, int | None, np.ndarray, np.ndarray]]:
    """(scan, slice, frame uint8 [H, W, K], mask [H, W]) as the model reads them."""
    no_channels(card, where="model", what="a data report reads one picture a case; name another model")
    sliced = card.channel_order == "slices"
    spec = FrameSpec(card.size, 1 if sliced else card.channels, card.classes, slices=card.channels if sliced else 1)
    reading = Reading(found.meaning.rule, of_card(card.data, source=Path("card.json")), compare=found.options.compare)
    reader = CaseReader(spec, reading)
    for scan in scans:
        item = scan.item
        truth = class_indices(item, found.options)
        if truth is None:
            continue
        for k in [None] if truth.ndim == 2 else range(truth.shape[-1]):
            plane = truth if k is None else np.ascontiguousarray(truth[..., k])
            case = Case(item.name, item.patient, item.image, None, slice=k, axes=item.axes)
            yield scan, k, reader.frame(case), fit_label(plane, size=card.size)
