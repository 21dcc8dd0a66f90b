"""Shuffled epochs and case numbers as a pure function of (seed, index)."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Labelled(Protocol):
    """Images or volumes, with or without labels."""

    @property
    def label(self) -> object | None: ...

    def __len__(self) -> int: ...


def check_two_streams(labelled: Labelled, unlabelled: Labelled, batch_size: tuple[int, int], *, name: str) -> None:
    """Raise ValueError, with `name` of the class, where two streams cannot give batches of (labelled, unlabelled)."""
    if labelled.label is None or not len(labelled):
        raise ValueError(f"{name}: the labelled stack is empty or has no labels")
    if unlabelled.label is not None:
        raise ValueError(f"{name}: the unlabelled stack carries labels; build it from cases without a label")
    if batch_size[0] < 1 or batch_size[1] < 0:
        raise ValueError(f"batch_size: needs at least 1 labelled and 0 unlabelled rows, not {batch_size}")


def mixed_seed(*parts: int) -> int:
    """One seed from several numbers (numpy's SeedSequence); nearby numbers give unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1


@lru_cache(maxsize=64)
def _permutation(seed: int, stream: int, epoch: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(mixed_seed(seed, stream, epoch))
    return torch.randperm(count, generator=generator)


def shuffled_indices(seed: int, stream: int, *, count: int, first: int, length: int) -> Tensor:
    """int64 [length]: entries `first` to `first + length` of an endless sequence of shuffled epochs over `count` cases.

    stream: 0 for labelled, 1 for unlabelled cases, so that both have permutations of their own.
    """
    positions = range(first, first + length)
    return torch.stack([_permutation(seed, stream, i // count, count)[i % count] for i in positions])


def grouped_indices(seed: int, stream: int, *, groups: Sequence[int], first: int, length: int) -> Tensor:
    """int64 [length]: as `shuffled_indices`, with one case of each group in an epoch, so that no large group prevails.

    `groups` has the group of each case, 0 to G - 1. An epoch is a permutation of the groups; each gives its next case,
    in an order that is shuffled again when all of its cases were drawn. Neighbouring frames of one clip therefore
    have about G draws between them.
    """
    members = _members(tuple(groups))
    count = len(members)
    rows = []
    for i in range(first, first + length):
        epoch = i // count
        group = int(_permutation(seed, stream, epoch, count)[i % count])
        cases = members[group]
        order = _permutation(mixed_seed(seed, group), stream, epoch // len(cases), len(cases))
        rows.append(cases[int(order[epoch % len(cases)])])
    return torch.tensor(rows, dtype=torch.int64)


@lru_cache(maxsize=8)
def _members(groups: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The cases of each group."""
    found: list[list[int]] = [[] for _ in range(max(groups, default=-1) + 1)]
    for case, group in enumerate(groups):
        found[group].append(case)
    return tuple(tuple(cases) for cases in found if cases)


def global_case_index(rows: Sequence[Tensor | Sequence[int]], labelled: Sized) -> Tensor:
    """int64 [N]: case numbers of labelled and unlabelled rows; unlabelled cases count after the labelled ones."""
    return torch.cat([torch.as_tensor(r, dtype=torch.int64) + k * len(labelled) for k, r in enumerate(rows)])
