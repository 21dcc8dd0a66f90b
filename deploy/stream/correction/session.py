"""Interactive correction of the mask of a frozen frame by clicks and boxes, with a promptable model.

A correction belongs to one frame, by its id. It is never written to the display state, so it cannot appear as a live
mask. A page can freeze the frames that it was sent recently; a few frozen frames are stored at a time.

Shapes: H W of the picture, h w of the mask.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deploy.adaptation.session import PatientHead
from deploy.package.package import Package
from deploy.promptable.mask_edit import apply_box, apply_click, bounding_box
from deploy.promptable.runner import Box, Embedding, Prompt, PromptableRunner, has_prompt, open_prompt
from deploy.runtimes.registry import RUNTIMES
from deploy.stream.correction.case_writer import CorrectedCaseWriter
from deploy.stream.outputs.base import OutputContext
from deploy.stream.state.frames import DisplaySnapshot, Frame, InferenceResult
from edgemt.io.class_regions import no_overlapping
from edgemt.io.images import fit_frame
from edgemt.model_card import ModelCard

MAX_OFFERED, MAX_FROZEN = 8, 4  # frames that a page can still freeze, and frozen frames that are stored
MAX_STEPS = 32  # clicks and boxes on one frame


class FrameNotFrozenError(ValueError):
    """The frame is not stored any more."""


@dataclass(frozen=True)
class CorrectionStep:
    """One click or one box on one structure, in coordinates from 0 to 1."""

    value: int  # the class
    click: tuple[float, float, bool] | None = None  # x, y, and whether the point belongs to the structure
    box: Box | None = None


@dataclass(frozen=True)
class CorrectionResult:
    """The corrected mask after a number of steps."""

    mask: np.ndarray  # uint8 [h, w], all classes
    network_followed: bool  # False if the network contradicts the last step and was overruled there


@dataclass(eq=False)
class FrozenFrame:
    """A frozen frame, the mask that was shown with it, and the results of corrections so far."""

    frame: Frame
    mask: np.ndarray  # uint8 [h, w]
    embedding: Embedding | None = None
    results: dict[tuple[CorrectionStep, ...], CorrectionResult] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class CorrectableOutputContext(OutputContext):
    """The context of an output that offers corrections (the page)."""

    corrections: CorrectionSession | None = None


def open_correction_session(
    package: Package, *, model: str, runtime: str, collect: Path | None, patient: PatientHead | None = None
) -> CorrectionSession | None:
    """The session for the promptable model of a package; None if it has none.

    `collect` is the folder for corrected cases, `patient` learns from them. Raises ValueError for either one without a
    promptable model.
    """
    if collect is not None or patient is not None:
        no_overlapping(package.card, where=package.folder, what="corrections are of one class a pixel; leave them out")
    if not has_prompt(package):
        if collect is not None or patient is not None:
            what = "adapt" if collect is None else f"collect {collect}"
            raise ValueError(
                f"{what}: {package.folder} has no prompt input to correct masks with; "
                "add one with edgemt export SHIP --with-prompt RUN/promptable"
            )
        return None
    can_prompt = runtime in RUNTIMES and RUNTIMES[runtime].load_graph is not None
    prompt = open_prompt(package, runtime=runtime if can_prompt else "auto")
    case_writer = None if collect is None else CorrectedCaseWriter(collect, classes=package.card.classes, model=model)
    return CorrectionSession(prompt, package.card, case_writer, patient=patient)


class CorrectionSession:
    """Corrections for any number of pages; safe for any number of threads."""

    def __init__(
        self, prompt: PromptableRunner, card: ModelCard, case_writer: CorrectedCaseWriter | None = None, *,
        patient: PatientHead | None = None,
    ) -> None:  # fmt: skip
        """`patient`: a head that learns from the masks that are confirmed."""
        self.about: dict[str, Any] = {
            "steps": MAX_STEPS,
            "collect": case_writer is not None,
            "adapt": patient is not None,
        }
        self.patient = patient
        self.classes = len(card.classes)
        self.saved_cases = 0
        self._prompt, self._card, self._case_writer = prompt, card, case_writer
        self._frames: OrderedDict[int, Frame] = OrderedDict()
        self._results: OrderedDict[int, InferenceResult] = OrderedDict()
        self._frozen: OrderedDict[int, FrozenFrame] = OrderedDict()
        self._cache_lock, self._predict_lock = threading.Lock(), threading.Lock()

    def offer(self, snapshot: DisplaySnapshot) -> None:
        """Store a snapshot that was sent to a page, so that the page can freeze it."""
        with self._cache_lock:
            if snapshot.frame is not None:
                _put(self._frames, snapshot.frame.id, snapshot.frame, MAX_OFFERED)
            if snapshot.result is not None:
                _put(self._results, snapshot.result.frame.id, snapshot.result, MAX_OFFERED)

    def freeze(self, *, frame: int, mask: int) -> FrozenFrame:
        """Freeze the mask that was computed from frame `mask`, with that frame.

        With `mask` -1, frame `frame` with an empty mask. Raises FrameNotFrozenError if the frame is not stored any
        more.
        """
        with self._cache_lock:
            result, without_mask = self._results.get(mask), self._frames.get(frame)
            if mask in self._frozen and result is None:
                return self._frozen[mask]
            if result is not None:
                frozen = FrozenFrame(result.frame, result.mask.copy())
            elif mask == -1 and without_mask is not None:
                frozen = FrozenFrame(without_mask, np.zeros(self._card.size, np.uint8))
            else:
                raise FrameNotFrozenError(_not_frozen_message(frame))
            existing = self._frozen.get(frozen.frame.id)
            frozen = existing if existing is not None and np.array_equal(existing.mask, frozen.mask) else frozen
            _put(self._frozen, frozen.frame.id, frozen, MAX_FROZEN)
            return frozen

    def predict(self, frame: int, steps: tuple[CorrectionStep, ...]) -> CorrectionResult:
        """The mask of a frozen frame after these steps, starting from the mask that was shown. Raises ValueError."""
        frozen = self._find(frame)
        with self._predict_lock:
            return self._apply_steps(frozen, steps)

    def save(self, frame: int, steps: tuple[CorrectionStep, ...]) -> Path:
        """Write the frame and its mask after these steps as a labelled case. Returns the image file.

        Raises ValueError without a folder to write to, without steps, and if the case cannot be written.
        """
        if self._case_writer is None:
            raise ValueError("nothing is collected; start with --collect DIR")
        if not steps:
            raise ValueError("nothing is corrected yet; click or draw a box first")
        path = self._case_writer.save(self._find(frame).frame, self.predict(frame, steps).mask, steps=steps)
        self.saved_cases += 1
        return path

    def learn(self, frame: int, steps: tuple[CorrectionStep, ...]) -> dict[str, Any]:
        """Give the mask of a frozen frame after these steps to the patient head; returns its status.

        Without steps the mask is confirmed as it was shown. Raises ValueError without --adapt.
        """
        if self.patient is None:
            raise ValueError("the head is not adapted; start with --adapt")
        frozen = self._find(frame)
        fitted = fit_frame(frozen.frame.pixels, size=self._card.size, channels=self._card.channels)
        self.patient.correct(fitted, self.predict(frame, steps).mask)
        return self.patient.status()

    def close(self) -> None:
        if self._case_writer is not None:
            self._case_writer.close()

    def _find(self, frame: int) -> FrozenFrame:
        with self._cache_lock:
            if frame not in self._frozen:
                raise FrameNotFrozenError(_not_frozen_message(frame))
            self._frozen.move_to_end(frame)
            return self._frozen[frame]

    def _apply_steps(self, frozen: FrozenFrame, steps: tuple[CorrectionStep, ...]) -> CorrectionResult:
        if not steps:
            return CorrectionResult(frozen.mask, True)
        if steps in frozen.results:
            return frozen.results[steps]
        previous, last = self._apply_steps(frozen, steps[:-1]).mask, steps[-1]
        points = tuple(step.click for step in steps if step.value == last.value and step.click is not None)
        region = previous == last.value
        if frozen.embedding is None:
            frozen.embedding = self._prompt.embed(frozen.frame.pixels)
        # No mask prompt: networks follow it more closely than a click that contradicts it.
        box = last.box if last.box is not None else bounding_box(region, points)
        segmented = self._segment(frozen.embedding, Prompt(box, () if last.box is not None else points), region.shape)
        if last.box is not None:
            again = any(step.value == last.value and step.box is not None for step in steps[:-1])
            region, network_followed = apply_box(region, segmented, again=again)
        else:
            x, y, on = points[-1]
            region, network_followed = apply_click(region, segmented, at=(x, y), on=on)
        mask = np.where(previous == last.value, 0, previous).astype(np.uint8)
        mask[region] = last.value
        if len(frozen.results) >= 2 * MAX_STEPS:
            frozen.results.clear()
        frozen.results[steps] = CorrectionResult(mask, network_followed)
        return frozen.results[steps]

    def _segment(self, embedding: Embedding, prompt: Prompt, size: tuple[int, ...]) -> np.ndarray:
        """The structure that the network finds for the prompt, bool [h, w]."""
        logits = self._prompt.segment(embedding, prompt).logits
        if logits.shape != size:
            logits = np.asarray(Image.fromarray(logits).resize((size[1], size[0]), Image.Resampling.BILINEAR))
        return logits > 0


def _put(cache: OrderedDict[int, Any], key: int, value: Any, max_items: int) -> None:
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > max_items:
        cache.popitem(last=False)


def _not_frozen_message(frame: int) -> str:
    return f"picture {frame} is not stored any more; unfreeze, freeze again, and correct the new picture"
