"""Corrections by hand: clicks and boxes on a frozen picture make its mask anew. The result belongs to that picture, by
its id, and to no other: it never comes to the board, from which live masks are shown.

A page may correct what it was sent a moment ago, and what it froze of that is held for it, a few pictures at most.

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

from deploy.package.package import Package
from deploy.promptable.mask_edit import apply_box, apply_click, bounding_box
from deploy.promptable.runner import Box, Embedding, Prompt, PromptableRunner, has_prompt, open_prompt
from deploy.stream.correction.case_writer import Collector
from deploy.stream.outputs import Stage
from deploy.stream.state.frames import Frame, Result, Shown
from edgemt.model_card import ModelCard

SENT, HELD = 8, 4  # pictures that a page may still freeze, and frozen ones that are kept
STEPS = 32  # clicks and boxes on one picture


class NotHeld(ValueError):
    """The picture is gone."""


@dataclass(frozen=True)
class Step:
    """One click or one box on one structure, in shares of the picture."""

    value: int  # the class
    click: tuple[float, float, bool] | None = None  # x, y, and whether it lies on the structure
    box: Box | None = None


@dataclass(frozen=True)
class Corrected:
    mask: np.ndarray  # uint8 [h, w], all classes
    followed: bool  # whether the network agrees with the last step, or was overruled there


@dataclass(eq=False)
class Held:
    """A frozen picture, the mask that was shown of it, and what corrections made of that so far."""

    frame: Frame
    mask: np.ndarray  # uint8 [h, w]
    embedding: Embedding | None = None
    done: dict[tuple[Step, ...], Corrected] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class CorrectableStage(Stage):
    """What a page may know that takes corrections."""

    correcting: Correcting | None = None


def open_correcting(ship: Package, *, model: str, runtime: str, collect: Path | None) -> Correcting | None:
    """None where the ship has no prompt input. Raises ValueError where there is nothing to collect."""
    if not has_prompt(ship):
        if collect is not None:
            raise ValueError(
                f"collect {collect}: {ship.folder} has no prompt input to correct masks with; "
                "add one with edgemt export SHIP --with-prompt RUN/promptable"
            )
        return None
    prompt = open_prompt(ship, runtime=runtime if runtime in ("openvino", "onnxruntime") else "auto")
    collector = None if collect is None else Collector(collect, classes=ship.card.classes, model=model)
    return Correcting(prompt, ship.card, collector)


class Correcting:
    """For any number of pages, from any thread."""

    def __init__(self, prompt: PromptableRunner, card: ModelCard, collector: Collector | None = None) -> None:
        self.about: dict[str, Any] = {"steps": STEPS, "collect": collector is not None}
        self.classes = len(card.classes)
        self._prompt, self._size, self._collector = prompt, card.size, collector
        self._frames: OrderedDict[int, Frame] = OrderedDict()
        self._results: OrderedDict[int, Result] = OrderedDict()
        self._held: OrderedDict[int, Held] = OrderedDict()
        self._memory, self._one_at_a_time = threading.Lock(), threading.Lock()

    def sent(self, shown: Shown) -> None:
        """A page was sent this look, and may freeze it."""
        with self._memory:
            if shown.frame is not None:
                _keep(self._frames, shown.frame.id, shown.frame, SENT)
            if shown.result is not None:
                _keep(self._results, shown.result.frame.id, shown.result, SENT)

    def hold(self, *, frame: int, mask: int) -> Held:
        """Keep what a page has frozen: the mask made from frame `mask` with that very frame, or, with -1, frame `frame`
        without a mask. Raises NotHeld when it is too late."""
        with self._memory:
            result, bare = self._results.get(mask), self._frames.get(frame)
            if mask in self._held and result is None:
                return self._held[mask]
            if result is not None:
                held = Held(result.frame, result.mask.copy())
            elif mask == -1 and bare is not None:
                held = Held(bare, np.zeros(self._size, np.uint8))
            else:
                raise NotHeld(_gone(frame))
            known = self._held.get(held.frame.id)
            held = known if known is not None and np.array_equal(known.mask, held.mask) else held
            _keep(self._held, held.frame.id, held, HELD)
            return held

    def ask(self, frame: int, steps: tuple[Step, ...]) -> Corrected:
        """The mask of the held picture after these steps, from the one that was shown. Raises ValueError."""
        held = self._of(frame)
        with self._one_at_a_time:
            return self._after(held, steps)

    def keep(self, frame: int, steps: tuple[Step, ...]) -> Path:
        """Write the picture and its mask after these steps as a labelled case. Raises ValueError in a sentence."""
        if self._collector is None:
            raise ValueError("nothing is collected; start with --collect DIR")
        if not steps:
            raise ValueError("nothing is corrected yet; click or draw a box first")
        return self._collector.keep(self._of(frame).frame, self.ask(frame, steps).mask, steps=steps)

    def close(self) -> None:
        if self._collector is not None:
            self._collector.close()

    def _of(self, frame: int) -> Held:
        with self._memory:
            if frame not in self._held:
                raise NotHeld(_gone(frame))
            self._held.move_to_end(frame)
            return self._held[frame]

    def _after(self, held: Held, steps: tuple[Step, ...]) -> Corrected:
        if not steps:
            return Corrected(held.mask, True)
        if steps in held.done:
            return held.done[steps]
        before, last = self._after(held, steps[:-1]).mask, steps[-1]
        points = tuple(step.click for step in steps if step.value == last.value and step.click is not None)
        now = before == last.value
        if held.embedding is None:
            held.embedding = self._prompt.embed(held.frame.pixels)
        # A first mask is not put: networks follow it more than they follow a click against it.
        box = last.box if last.box is not None else bounding_box(now, points)
        inside = self._answered(held.embedding, Prompt(box, () if last.box is not None else points), now.shape)
        if last.box is not None:
            again = any(step.value == last.value and step.box is not None for step in steps[:-1])
            now, followed = apply_box(now, inside, again=again)
        else:
            x, y, on = points[-1]
            now, followed = apply_click(now, inside, at=(x, y), on=on)
        mask = np.where(before == last.value, 0, before).astype(np.uint8)
        mask[now] = last.value
        if len(held.done) >= 2 * STEPS:
            held.done.clear()
        held.done[steps] = Corrected(mask, followed)
        return held.done[steps]

    def _answered(self, embedding: Embedding, question: Prompt, size: tuple[int, ...]) -> np.ndarray:
        """bool [h, w]."""
        logits = self._prompt.segment(embedding, question).logits
        if logits.shape != size:
            logits = np.asarray(Image.fromarray(logits).resize((size[1], size[0]), Image.Resampling.BILINEAR))
        return logits > 0


def _keep(room: OrderedDict[int, Any], key: int, value: Any, most: int) -> None:
    room[key] = value
    room.move_to_end(key)
    while len(room) > most:
        room.popitem(last=False)


def _gone(frame: int) -> str:
    return f"picture {frame} is not held any more; go on, freeze again, and correct that one"
