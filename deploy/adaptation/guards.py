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
from deploy.adaptation.head import ClassifierHead, Scores, on_grid, unsure
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
    total = _total(one, other)
    return 1.0 if total == 0 else 2 * int(np.count_nonzero((one == other) & (one > 0))) / total


def judge(
    shipped: ClassifierHead, corrections: Sequence[Example], golden: Sequence[Example], *,
    limits: AdaptLimits, options: FitOptions,
) -> Judgement:  # fmt: skip
    """Fit a head to the corrections, and test it on what its fits have not seen.

    The whole change is tested first, then a half and a quarter of it: the first that passes is taken. Where none does,
    the tests are those of the whole change. Golden frames and uncertainty judge the whole change in any case: a quarter
    of one that inverts every mask, or that fits noise, would lose little there.
    """
    left_out = corrections if sum(one.mask.any() for one in corrections) >= limits.least else ()
    others = [[c for c in corrections if c is not one] for one in left_out]
    candidates = [fit_head(shipped, rest, golden=golden, options=options) for rest in others]
    head = fit_head(shipped, corrections, golden=golden, options=options)
    lost, uncertainty = _golden_loss(shipped, head, golden), _unsure_on(head, corrections)
    made = []
    for scale in SCALES:
        pairs = zip(left_out, (_scaled(candidate, scale) for candidate in candidates), strict=True)
        gains = [_dice(candidate, one) - _dice(shipped, one) for one, candidate in pairs]
        part = _scaled(head, scale)
        lost = max(lost, _golden_loss(shipped, part, golden))
        uncertainty = max(uncertainty, _unsure_on(part, corrections))
        tests = _tests(corrections, lost=lost, uncertainty=uncertainty, gains=gains, limits=limits)
        made.append(Judgement(part, tests, scale))
        if not made[-1].refused:
            return made[-1]
    return made[0]


def _tests(
    corrections: Sequence[Example], *, lost: float, uncertainty: tuple[float, float], gains: Sequence[float],
    limits: AdaptLimits,
) -> tuple[GuardTest, ...]:  # fmt: skip
    """Judge by the Dice `lost` on golden frames, the uncertainty (changed, shipped) and the Dice gained.

    `gains`, each on a correction by a fit without it, is empty if there are too few. Masks without a structure count
    for the least gain alone: a head that finds nothing gains most on them.
    """
    full = [bool(one.mask.any()) for one in corrections]
    after, allowed = uncertainty[0], _allowed_unsure(uncertainty[1], limits)
    mean, worst = (float(np.mean(np.array(gains)[full])), min(gains)) if gains else (float("nan"), float("nan"))
    return (
        GuardTest("confirmed masks with a structure", limits.least, sum(full), sum(full) >= limits.least),
        GuardTest("Dice lost on the golden frames", limits.golden_loss, lost, lost <= limits.golden_loss),
        GuardTest("uncertainty on the corrections", allowed, after, after <= allowed),
        GuardTest("mean Dice gained on left-out corrections", limits.gain, mean, mean >= limits.gain),
        GuardTest("least Dice gained on a left-out correction", limits.worst, worst, worst >= limits.worst),
    )


def _golden_loss(shipped: ClassifierHead, head: ClassifierHead, golden: Sequence[Example]) -> float:
    return float(np.mean([_dice(shipped, one) - _dice(head, one) for one in golden]))


def _dice(head: ClassifierHead, example: Example) -> float:
    return foreground_dice(head.mask(example.features), example.mask)


def _unsure_on(head: ClassifierHead, examples: Sequence[Example]) -> tuple[float, float]:
    """Mean uncertainty of the changed head and of the shipped one."""
    scores = [head.scores(one.features) for one in examples]
    values = [(unsure(one.changed), unsure(one.shipped)) for one in scores]
    changed, shipped = np.mean(values, axis=0)
    return float(changed), float(shipped)


def _scaled(head: ClassifierHead, scale: float) -> ClassifierHead:
    return head.changed(scale * head.change)


def _allowed_unsure(shipped: float, limits: AdaptLimits) -> float:
    return limits.unsure * shipped + 0.01


class FrameGuard:
    """The tests of single frames: how far the two heads differ, how unsure the new one is, how unlike the frame is.

    Two small masks, as at the end of a structure, may differ in all their pixels: the difference is a share of the
    pixels of both, or of those of the shipped and the confirmed masks of the corrected frames where these are more.
    """

    def __init__(
        self, shipped: ClassifierHead, *, corrections: Sequence[Example], golden: Sequence[Example],
        limits: AdaptLimits,
    ) -> None:  # fmt: skip
        self._limits = limits
        totals = [_total(shipped.mask(one.features), one.mask) for one in corrections if one.mask.any()]
        self._usual = float(np.mean(totals)) if totals else 0.0  # pixels of two masks
        known = np.stack([_summary(example.features) for example in golden])
        self._spread = np.maximum(known.std(0), 1e-3 * float(np.abs(known).max()) + 1e-9)
        self._corrected = np.stack([_summary(example.features) for example in corrections])

    def tests(
        self, features: np.ndarray, scores: Scores, *, shown: np.ndarray, adapted: np.ndarray
    ) -> tuple[GuardTest, ...]:
        """Features [D, h, w], their scores, and the masks uint8 [H, W] of the shipped model and of the adapted head."""
        limits = self._limits
        total = _total(shown, adapted)
        differs = (1 - foreground_dice(shown, adapted)) * total / max(total, self._usual, 1.0)
        now, allowed = unsure(scores.changed), _allowed_unsure(unsure(scores.shipped), limits)
        unlike = self.unlike(features)
        return (
            GuardTest("difference between the two heads", limits.disagreement, differs, differs <= limits.disagreement),
            GuardTest("uncertainty", allowed, now, now <= allowed),
            GuardTest("distance to the corrected frames", limits.unlike, unlike, unlike <= limits.unlike),
        )

    def unlike(self, features: np.ndarray) -> float:
        """Distance of a frame to the nearest corrected one: root mean square over means and deviations of features."""
        off = (_summary(features) - self._corrected) / self._spread
        return float(np.sqrt((off**2).mean(1)).min())


def _total(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.count_nonzero(one)) + int(np.count_nonzero(other))


def _summary(features: np.ndarray) -> np.ndarray:
    """Mean and deviation of each feature over a grid of pixels of the frame, [2 D]."""
    some = on_grid(features).reshape(len(features), -1)
    mean = some.mean(1)
    square = np.einsum("dn,dn->d", some, some) / some.shape[1]
    return np.concatenate([mean, np.sqrt(np.maximum(square - mean**2, 0))])
