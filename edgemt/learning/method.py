"""Base class of methods: the networks of a run (roles), and the losses of a training step."""

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
    """Named scalar losses; the engine minimises their sum. `notes` are scalars for the log, not trained on."""

    notes: dict[str, Tensor]

    def __init__(self, **losses: Tensor) -> None:
        super().__init__(losses)
        self.notes = {}


OptimiserStep = tuple[tuple[str, ...], LossTerms]

# A class of another package that still overrides an old name would run without its override, so it is refused.
_RENAMED = {"compared": "losses_with_unlabelled", "aside": "variant_note", "alike": "matched_intensity"}


@dataclass(frozen=True)
class Method:
    """A training method as a frozen dataclass: its fields are the hyper-parameters.

    A method has no state, calls no optimiser, and draws random numbers from the generator of the step only. A subclass
    defines `roles` and either `losses` (one optimiser step) or `steps` (several).

    Of a method's docstring the first line is the idea, and paragraphs that begin with "Target:" (what unlabelled images
    are compared with) and "Differs:" (from the released code) fill their columns of the table (`methods.catalogue`).
    """

    heads: ClassVar[tuple[Head, ...]] = ()  # outputs that the network must have besides logits
    matched_intensity: ClassVar[bool] = False  # unlabelled rows get the intensity augmentation of labelled ones
    delivers: ClassVar[str] = "student"  # name of the network whose weights are the result
    family: ClassVar[str] = ""  # heading of its rows in the table; empty: the name of its module
    citation: ClassVar[str] = ""
    takes_ignored_pixels: ClassVar[bool] = True  # False: reads labels otherwise than by the losses for labels
    takes_overlapping: ClassVar[bool] = False  # True: compares classes by the losses of `edgemt.learning.losses` alone
    uses_unlabelled: ClassVar[bool] = True  # False: trains on labelled rows alone
    inspired: ClassVar[bool] = False  # the paper could not be read in full: no reproduction
    release: ClassVar[PublishedSettings | None] = None  # optimiser and augmentation of the released code

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        for old, new in _RENAMED.items():
            if old in cls.__dict__:
                raise TypeError(f"{cls.__name__}.{old}: is called {new} now; rename it")

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, SigmoidRampUp) and value.is_zero:
                warnings.warn(f"{type(self).__name__}.{item.name}.top is 0: this loss is switched off", stacklevel=3)

    def variant_note(self) -> str:
        """What this value changes in its class, in a few words, for `edgemt list methods`; empty for the defaults."""
        return ""

    def published(self) -> PublishedSettings | None:
        """Optimiser settings of the release that this value follows; None if unknown."""
        return self.release

    def roles(self) -> dict[str, Role]:
        """Name of each network -> its role."""
        return {"student": Trainable()}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        """The losses of a step that trains all trainable networks at once."""
        raise NotImplementedError

    def steps(self, nets: Networks, batch: Batch, step: Step) -> Iterator[OptimiserStep]:
        """Yields (names of networks, losses): one optimiser step each, made before the generator goes on."""
        terms = self.losses(nets, batch, step)
        if not isinstance(terms, LossTerms):
            kind = type(terms).__name__
            raise ValueError(
                f"{type(self).__name__}.losses: gave a {kind}; give edgemt.methods.LossTerms(supervised=...), "
                "named losses"
            )
        yield trainable_names(self.roles()), terms


def every_scale(out: Output) -> tuple[Tensor, ...]:
    """Logits of the finest scale, then of every coarser one. Raises ValueError if the network has no coarser ones."""
    return _with_main(out.logits, out.scales, kind="coarser scales", head="scales")


def every_decoder(out: Output) -> tuple[Tensor, ...]:
    """Logits of the main decoder, then of every further one. Raises ValueError if the network has no further ones."""
    return _with_main(out.logits, out.decoders, kind="further decoders", head="decoder2")


def _with_main(main: Tensor, others: tuple[Tensor, ...], *, kind: str, head: str) -> tuple[Tensor, ...]:
    if not others:
        raise ValueError(
            f"heads: the network gives no {kind}: name {head!r} in the method's heads, and leave an average that is "
            'compared in mode "train", as some networks give them in train mode only'
        )
    return (main, *others)
