"""The majority vote of masks: what it removes, what it delays, and when it forgets."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.stream.inference.mask_vote import MaskVote


def masks(*values: int) -> list[np.ndarray]:
    """Masks of one pixel."""
    return [np.full((1, 1), value, np.uint8) for value in values]


def voted(vote: MaskVote, values: tuple[int, ...], epoch: int = 0) -> list[int]:
    return [int(vote.add(mask, epoch=epoch)[0, 0]) for mask in masks(*values)]


@pytest.mark.parametrize("classes", [2, 3])
def test_a_vote_of_three_removes_single_masks_and_delays_a_change_by_one(classes: int) -> None:
    vote = MaskVote(3, classes=classes)
    assert voted(vote, (1, 1, 0, 1, 1)) == [1, 1, 1, 1, 1]
    assert voted(vote, (0, 0, 0)) == [1, 0, 0] and vote.delay == 1
    assert MaskVote(5, classes=classes).delay == 2


@pytest.mark.parametrize("classes", [2, 3])
def test_a_tie_of_the_first_masks_is_won_by_the_newest(classes: int) -> None:
    assert voted(MaskVote(3, classes=classes), (1, 0)) == [1, 0]


def test_three_different_classes_give_the_newest() -> None:
    assert voted(MaskVote(3, classes=4), (1, 2, 3)) == [1, 2, 3]
    assert voted(MaskVote(5, classes=4), (3, 3, 2, 2, 1))[-1] == 2, "a class of the majority, not the newest"


def test_masks_of_before_a_reconnect_do_not_vote() -> None:
    vote = MaskVote(3, classes=2)
    voted(vote, (1, 1, 1))
    assert voted(vote, (0,), epoch=1) == [0]


@pytest.mark.parametrize("width", [0, 2, -1])
def test_an_even_vote_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match="vote: must be odd"):
        MaskVote(width, classes=2)
