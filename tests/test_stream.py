"""Batches are a pure function of (seed, index), and each stream keeps its own epochs."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from edgemt.contract import Normalise
from edgemt.data.augment import NO_AUGMENT, AugmentOptions
from edgemt.data.layouts import DataOptions, find
from edgemt.data.stream import Stack, TwoStream, load, statistics
from edgemt.phantom import CLASSES


def _stack(count: int, *, first: int = 0, labels: bool = True, channels: int = 1, side: int = 8) -> Stack:
    """Image i is filled with the number first + i, so that a batch tells which rows it took."""
    values = torch.arange(first, first + count, dtype=torch.uint8)
    image = values.view(-1, 1, 1, 1).expand(-1, side, side, channels).contiguous()
    label = values.view(-1, 1, 1).expand(-1, side, side) % 2
    return Stack(image, label.contiguous() if labels else None)


def _raw(**changes: object) -> dict:
    return {"augment": NO_AUGMENT, "normalise": Normalise((0.0,), (1 / 255,)), **changes}


def _numbers(rows: torch.Tensor) -> list[int]:
    return [round(float(v)) for v in rows[:, 0, 0, 0]]


def test_the_same_index_gives_the_same_batch_whatever_was_asked_before() -> None:
    a, b = (TwoStream(_stack(6, channels=3), _stack(9, labels=False, channels=3), batch_size=(2, 3)) for _ in range(2))
    for index in range(5):
        a.batch(index)
    again, fresh = a.batch(7), b.batch(7)
    assert again.strong is not None and fresh.strong is not None
    assert torch.equal(again.image, fresh.image) and torch.equal(again.label, fresh.label)
    assert torch.equal(again.strong, fresh.strong)
    assert not torch.equal(again.image, a.batch(8).image)


def test_the_global_random_state_is_neither_read_nor_moved() -> None:
    stream = TwoStream(_stack(6), _stack(9, labels=False), batch_size=(2, 3))
    torch.manual_seed(1)
    first, state = stream.batch(0), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first.image, stream.batch(0).image)
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


def test_every_unlabelled_image_is_visited_once_per_epoch_and_labelled_ones_cycle() -> None:
    stream = TwoStream(_stack(4), _stack(12, first=100, labels=False), batch_size=(3, 4), **_raw())
    assert stream.epoch == 3
    for epoch in range(3):
        batches = [stream.batch(3 * epoch + i) for i in range(3)]
        assert sorted(n for b in batches for n in _numbers(b.unlabelled)) == list(range(100, 112))
    seen = Counter(n for i in range(4) for n in _numbers(stream.batch(i).labelled))
    assert seen == {0: 3, 1: 3, 2: 3, 3: 3}


def test_labels_travel_with_their_images() -> None:
    stream = TwoStream(_stack(7), _stack(5, labels=False), batch_size=(4, 2), **_raw())
    for index in range(5):
        batch = stream.batch(index)
        assert [n % 2 for n in _numbers(batch.labelled)] == batch.label[:, 0, 0].tolist()
        assert batch.label.dtype == torch.int64 and batch.count == 4 and len(batch.unlabelled) == 2


def test_without_unlabelled_images_a_batch_has_no_such_rows() -> None:
    options = DataOptions(layout="phantom", classes=CLASSES, size=(32, 32), phantom=(6, 0, 1))
    cohort = find(options)
    stream = TwoStream(load(cohort.labelled, options), load(cohort.unlabelled, options), batch_size=(2, 2))
    batch = stream.batch(0)
    assert batch.image.shape == (2, 3, 32, 32) and len(batch.unlabelled) == 0 and batch.strong is None


def test_a_stack_with_labels_is_refused_as_the_unlabelled_stream() -> None:
    with pytest.raises(ValueError, match="unlabelled stack carries labels"):
        TwoStream(_stack(3), _stack(3))


def test_cases_with_and_without_labels_are_not_loaded_together() -> None:
    options = DataOptions(layout="phantom", classes=CLASSES, size=(32, 32), phantom=(2, 2, 1))
    cohort = find(options)
    with pytest.raises(ValueError, match="mixed"):
        load(cohort.labelled + cohort.unlabelled, options)


def test_a_stream_of_different_seed_is_shuffled_differently() -> None:
    orders = []
    for seed in (0, 1):
        stream = TwoStream(_stack(40), _stack(40, labels=False), batch_size=(40, 40), seed=seed, **_raw())
        orders += [_numbers(stream.batch(0).labelled), _numbers(stream.batch(0).unlabelled)]
    assert len({tuple(order) for order in orders}) == 4


def test_progress_counts_every_case() -> None:
    options = DataOptions(layout="phantom", classes=CLASSES, size=(32, 32), phantom=(5, 1, 1))
    seen: list[tuple[int, int]] = []
    load(find(options).labelled, options, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]


def test_statistics_are_those_of_all_pixels_together() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (n, 8, 9, 3)).astype(np.uint8) for n in (3, 5)]
    found = statistics(*(Stack(torch.from_numpy(a), None) for a in arrays))
    pixels = np.concatenate([a.reshape(-1, 3) for a in arrays]) / 255
    assert np.allclose(found.mean, pixels.mean(0), atol=1e-6) and np.allclose(found.std, pixels.std(0), atol=1e-6)


def test_per_image_normalisation_forgets_gain_and_offset() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).view(1, 8, 8, 1)
    both = Stack(torch.cat([ramp, ramp * 2 + 30]), torch.zeros(2, 8, 8, dtype=torch.uint8))
    none = Stack(torch.zeros(0, 8, 8, 1, dtype=torch.uint8), None)
    stream = TwoStream(both, none, batch_size=(2, 0), augment=NO_AUGMENT, normalise=Normalise(per_image=True))
    image = stream.batch(0).image
    assert torch.allclose(image[0], image[1], atol=1e-4)
    assert math.isclose(float(image[0].std(correction=0)), 1, abs_tol=1e-4)


def test_the_strong_view_shares_the_geometry_of_the_weak_one() -> None:
    still = {
        "brightness": (1, 1),
        "contrast": (1, 1),
        "gamma": (1, 1),
        "blur": (0.001, 0.001),
        "noise": 0,
        "cutout": 0,
    }
    rng = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (6, 24, 24, 1), generator=rng, dtype=torch.uint8)
    stacks = Stack(image, (image[..., 0] > 128).to(torch.uint8)), Stack(image, None)
    batch = TwoStream(*stacks, batch_size=(2, 4), augment=AugmentOptions(**still)).batch(3)  # type: ignore[arg-type]
    assert batch.strong is not None and torch.allclose(batch.strong, batch.unlabelled, atol=1e-5)
    strong = TwoStream(*stacks, batch_size=(2, 4)).batch(3)
    assert strong.strong is not None and not torch.allclose(strong.strong, strong.unlabelled, atol=0.05)
