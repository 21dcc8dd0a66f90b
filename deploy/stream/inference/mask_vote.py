"""Majority vote of the last masks: removes what appears in single masks, at the price of a delay.

A ship gives class masks without probabilities, so the filter votes on classes. Shapes: h w size of the mask.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from edgemt.io.class_regions import from_regions, in_class


class MaskVote:
    """`add` returns, for each pixel, the class that most of the last `width` masks have; in a tie that of the newest.

    Overlapping classes are voted on one by one.

    What appears or vanishes is visible after (width + 1) / 2 masks instead of one: `delay` masks later.
    """

    def __init__(self, width: int, *, classes: int, overlapping: bool = False) -> None:
        """Raises ValueError for a width that is even or below 1: an even one cannot have a majority of two classes."""
        check_vote(width)
        self.width, self.classes, self.overlapping = width, classes, overlapping
        self._masks: deque[np.ndarray] = deque(maxlen=width)
        self._times: deque[int] = deque(maxlen=width)
        self._epoch: int | None = None

    @property
    def delay(self) -> int:
        """Masks by which a change is shown later than without the vote."""
        return (self.width - 1) // 2

    @property
    def delay_ms(self) -> float:
        """The same in milliseconds, from the capture times of the masks that vote now; 0 while there is no vote."""
        if len(self._masks) < 3:
            return 0.0
        return (self._times[-1] - self._times[-1 - (len(self._times) - 1) // 2]) / 1e6

    def add(self, mask: np.ndarray, *, epoch: int, captured_ns: int = 0) -> np.ndarray:
        """The vote with the newest mask, uint8 [h, w]. Masks of another `epoch` of the source are forgotten.

        Until `width` masks are there, those that are there vote.
        """
        if epoch != self._epoch:
            self._masks.clear()
            self._times.clear()
            self._epoch = epoch
        self._masks.append(mask)
        self._times.append(captured_ns)
        if len(self._masks) < 3:
            return mask  # a tie, which the newest wins
        if self.overlapping:
            return from_regions([self._majority(k) for k in range(1, self.classes)])
        if len(self._masks) == 3:
            first, second, _ = self._masks
            return np.where(first == second, first, mask)
        counts = np.stack(
            [np.sum([one == c for one in self._masks], axis=0, dtype=np.uint8) for c in range(self.classes)]
        )
        newest = np.take_along_axis(counts, mask[None].astype(np.intp), axis=0)[0]
        return np.where(newest == counts.max(axis=0), mask, counts.argmax(axis=0)).astype(np.uint8)

    def _majority(self, index: int) -> np.ndarray:
        """Bool [h, w]: where most masks have a class, in a tie the newest."""
        regions = [in_class(mask, index, overlapping=True) for mask in self._masks]
        votes = np.sum(regions, axis=0, dtype=np.uint8)
        tie = 2 * votes == len(regions)
        return np.where(tie, regions[-1], 2 * votes > len(regions))


def check_vote(width: int) -> None:
    """Raises ValueError for a width that `MaskVote` does not take."""
    if width < 1 or width % 2 == 0:
        raise ValueError(f"vote: must be odd and above 0, not {width}; 3 is usual, 1 is off")
