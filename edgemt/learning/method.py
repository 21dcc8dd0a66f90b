"""A method: who plays, and which losses they pay at a step. Everything else is the engine's business."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import ClassVar

from torch import Tensor

from edgemt.contract import Batch, Head, Output, Step
from edgemt.learning.published_settings import PublishedSettings
from edgemt.learning.roles import Networks, Role, Trainable, trainable_names
from edgemt.learning.schedules import SigmoidRampUp


class LossTerms(dict[str, Tensor]):
    """Named losses, to be summed. `notes` are scalars worth logging that nobody is trained on."""

    notes: dict[str, Tensor]

    def __init__(self, **losses: Tensor) -> None:
        super().__init__(losses)
        self.notes = {}


OptimiserStep = tuple[tuple[str, ...], LossTerms]


@dataclass(frozen=True)
class Method:
    """Fields are hyper-parameters. It holds no state and draws only from the generator of the step.

    Of a method's docstring the first line is the idea, and paragraphs that begin with "Target:" (what unlabelled images
    are compared with) and "Differs:" (from the released code) fill their columns of the table (`methods.table`).
    """

    heads: ClassVar[tuple[Head, ...]] = ()  # what the network must also do
    matched_intensity: ClassVar[bool] = (
        False  # unlabelled rows change in intensity as labelled ones do: both are compared
    )
    delivers: ClassVar[str] = "student"  # the player whose weights are kept
    family: ClassVar[str] = ""  # heading of its rows in the table; empty: the name of its module
    citation: ClassVar[str] = ""
    inspired: ClassVar[bool] = False  # only a sentence of it could be read: no reproduction
    release: ClassVar[PublishedSettings | None] = None  # optimiser and augmentation of the released code

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, SigmoidRampUp) and value.is_zero:
                warnings.warn(f"{type(self).__name__}.{item.name}.top is 0: this loss is switched off", stacklevel=3)

    def variant_note(self) -> str:
        """What this value adds to the idea of its class, in a few words: `edgemt list methods` shows them."""
        return ""

    def published(self) -> PublishedSettings | None:
        """Settings of the release that this value follows; None where there is none or its settings are not known."""
        return self.release

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable()}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        raise NotImplementedError

    def steps(self, nets: Networks, batch: Batch, step: Step) -> Iterator[OptimiserStep]:
        """Each yield is one optimiser step for the named players, made before the next is asked for."""
        terms = self.losses(nets, batch, step)
        if not isinstance(terms, LossTerms):
            kind = type(terms).__name__
            raise ValueError(
                f"{type(self).__name__}.losses: gave a {kind}; give edgemt.methods.LossTerms(supervised=...), "
                "named losses"
            )
        yield trainable_names(self.roles()), terms


def every_scale(out: Output) -> tuple[Tensor, ...]:
    """Logits of the finest scale, then of every coarser one. Raises ValueError where the network gave none of those."""
    return _joined(out.logits, out.scales, kind="coarser scales", head="scales")


def every_decoder(out: Output) -> tuple[Tensor, ...]:
    """Logits of the main decoder, then of every further one. Raises ValueError where the network gave none of those."""
    return _joined(out.logits, out.decoders, kind="further decoders", head="decoder2")


def _joined(main: Tensor, others: tuple[Tensor, ...], *, kind: str, head: str) -> tuple[Tensor, ...]:
    if not others:
        raise ValueError(
            f"heads: the network gives no {kind}: name {head!r} in the method's heads, and leave an average that is "
            'compared in mode "train", as some networks give them in train mode only'
        )
    return (main, *others)
