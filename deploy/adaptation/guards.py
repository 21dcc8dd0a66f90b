"""The tests that a fitted head must pass before it may run, and those that it must pass on every frame while it runs.

A candidate is judged twice: on the golden frames of the package, where it may not lose, and on corrections that its fit
has not seen, where it must gain. For the second, every correction in turn is left out, the head is fitted to the
others and judged on the one: so one correction alone never changes a mask.

Shapes: D features, h w size of the feature maps, H W size of the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploy.adaptation.fit import Example, fit_head
from deploy.adaptation.head import ClassifierHead
from deploy.adaptation.limits import AdaptLimits, FitOptions

SCALES = (1.0, 0.5, 0.25)  # parts of a fitted change that are tested


@dataclass(frozen=True)
class GuardTest:
    """One test with its limit and what was measured."""

    name: str
    limit: float
    measured: float
    passed: bool

    def text(self) -> str:
        """The result in one phrase."""
        return f"{self.name} {self.measured:.4g}, limit {self.limit:.4g}"


@dataclass(frozen=True, eq=False)
class Judgement:
    """A fitted head and the tests that it went through; it may run where all of them are passed."""

    head: ClassifierHead
    tests: tuple[GuardTest, ...]
    scale: float = 1.0  # part of the fitted change that the head has

    @property
    def refused(self) -> str:
        """The first test that failed, in one phrase; empty where the head may run."""
        return next((test.text() for test in self.tests if not test.passed), "")


def foreground_dice(one: np.ndarray, other: np.ndarray) -> float:
    """Dice of the pixels with the same foreground class; 1 for two empty masks."""
    total = int((one > 0).sum()) + int((other > 0).sum())
    return 1.0 if total == 0 else 2 * int(((one == other) & (one > 0)).sum()) / total


def judge(
    shipped: ClassifierHead, corrections: Sequence[Example], golden: Sequence[Example], *,
    limits: AdaptLimits, options: FitOptions,
) -> Judgement:  # fmt: skip
    """Fit a head to the corrections, and test it on what its fits have not seen.

    The whole change is tested first, then a half and a quarter of it: the first that passes is taken. Where none does,
    the tests are those of the whole change.
    """
    left_out = corrections if sum(one.mask.any() for one in corrections) >= limits.least else ()
    others = [[c for c in corrections if c is not one] for one in left_out]
    candidates = [fit_head(shipped, rest, golden=golden, options=options) for rest in others]
    head = fit_head(shipped, corrections, golden=golden, options=options)
    made = []
    for scale in SCALES:
        pairs = zip(left_out, (_scaled(candidate, scale) for candidate in candidates), strict=True)
        gains = [_dice(candidate, one) - _dice(shipped, one) for one, candidate in pairs]
        tests = _tests(shipped, _scaled(head, scale), corrections, golden, gains=gains, limits=limits)
        made.append(Judgement(_scaled(head, scale), tests, scale))
        if not made[-1].refused:
            return made[-1]
    return made[0]


def _tests(
    shipped: ClassifierHead, head: ClassifierHead, corrections: Sequence[Example], golden: Sequence[Example], *,
    gains: Sequence[float], limits: AdaptLimits,
) -> tuple[GuardTest, ...]:  # fmt: skip
    """`gains`: Dice gained on each correction by the head of a fit that has not seen it; empty if there are too few.

    Masks without a structure count for the least gain alone: a head that finds nothing gains most on them.
    """
    full = [bool(one.mask.any()) for one in corrections]
    unsure, before = (float(np.mean([h.unsure(c.features) for c in corrections])) for h in (head, shipped))
    allowed = _allowed_unsure(before, limits)
    lost = float(np.mean([_dice(shipped, one) - _dice(head, one) for one in golden]))
    mean, worst = (float(np.mean(np.array(gains)[full])), min(gains)) if gains else (float("nan"), float("nan"))
    return (
        GuardTest("confirmed masks with a structure", limits.least, sum(full), sum(full) >= limits.least),
        GuardTest("Dice lost on the golden frames", limits.golden_loss, lost, lost <= limits.golden_loss),
        GuardTest("uncertainty on the corrections", allowed, unsure, unsure <= allowed),
        GuardTest("mean Dice gained on left-out corrections", limits.gain, mean, mean >= limits.gain),
        GuardTest("least Dice gained on a left-out correction", limits.worst, worst, worst >= limits.worst),
    )


def _dice(head: ClassifierHead, example: Example) -> float:
    return foreground_dice(head.mask(example.features), example.mask)


def _scaled(head: ClassifierHead, scale: float) -> ClassifierHead:
    return head.changed(scale * head.change)


def _allowed_unsure(shipped: float, limits: AdaptLimits) -> float:
    return limits.unsure * shipped + 0.01


class FrameGuard:
    """The tests of single frames: how far the two heads differ, how unsure the new one is, how unlike the frame is."""

    def __init__(
        self, shipped: ClassifierHead, head: ClassifierHead, *, corrections: Sequence[Example],
        golden: Sequence[Example], limits: AdaptLimits,
    ) -> None:  # fmt: skip
        self._shipped, self._head, self._limits = shipped, head, limits
        known = np.stack([_summary(example.features) for example in golden])
        self._spread = np.maximum(known.std(0), 1e-3 * float(np.abs(known).max()) + 1e-9)
        self._corrected = np.stack([_summary(example.features) for example in corrections])

    def tests(self, features: np.ndarray, *, shown: np.ndarray, adapted: np.ndarray) -> tuple[GuardTest, ...]:
        """Features [D, h, w], and the masks uint8 [H, W] of the shipped model and of the adapted head."""
        limits = self._limits
        differs = 1 - foreground_dice(shown, adapted)
        unsure, allowed = self._head.unsure(features), _allowed_unsure(self._shipped.unsure(features), limits)
        unlike = self.unlike(features)
        return (
            GuardTest("1 - Dice between the two heads", limits.disagreement, differs, differs <= limits.disagreement),
            GuardTest("uncertainty", allowed, unsure, unsure <= allowed),
            GuardTest("distance to the corrected frames", limits.unlike, unlike, unlike <= limits.unlike),
        )

    def unlike(self, features: np.ndarray) -> float:
        """Distance of a frame to the nearest corrected one: root mean square over means and deviations of features."""
        off = (_summary(features) - self._corrected) / self._spread
        return float(np.sqrt((off**2).mean(1)).min())


def _summary(features: np.ndarray) -> np.ndarray:
    """Mean and deviation of each feature over the frame, [2 D]."""
    flat = features.reshape(len(features), -1)
    return np.concatenate([flat.mean(1), flat.std(1)])
