"""Batches are a pure function of (seed, index), and each stream keeps its own epochs."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgemt.contract import Case
from edgemt.data.augment2d import NO_AUGMENT, AugmentOptions
from edgemt.data.cohort import split_dataset
from edgemt.data.options import DataOptions
from edgemt.data.phantom2d import CLASSES
from edgemt.data.phantom3d import CLASSES as HEART
from edgemt.data.phantom3d import SHAPE
from edgemt.data.slice_dataset import (
    SliceDataset,
    TwoStreamBatches,
    load_slices,
    neighbour_rows,
    slice_statistics,
    with_background,
)
from edgemt.inference.evaluate import prepare
from edgemt.io.volumes import neighbour_indices, stack_neighbours
from edgemt.model_card import Normalisation


def _stack(count: int, *, first: int = 0, labels: bool = True, channels: int = 1, side: int = 8) -> SliceDataset:
    """Image i is filled with the number first + i, so that a batch tells which rows it took."""
    values = torch.arange(first, first + count, dtype=torch.uint8)
    image = values.view(-1, 1, 1, 1).expand(-1, side, side, channels).contiguous()
    label = values.view(-1, 1, 1).expand(-1, side, side) % 2
    return SliceDataset(image, label.contiguous() if labels else None)


def _raw(**changes: object) -> dict:
    return {"augment": NO_AUGMENT, "normalise": Normalisation((0.0,), (1 / 255,)), **changes}


def _numbers(rows: torch.Tensor) -> list[int]:
    return [round(float(v)) for v in rows[:, 0, 0, 0]]


def test_the_same_index_gives_the_same_batch_whatever_was_asked_before() -> None:
    a, b = (
        TwoStreamBatches(_stack(6, channels=3), _stack(9, labels=False, channels=3), batch_size=(2, 3))
        for _ in range(2)
    )
    for index in range(5):
        a.batch(index)
    again, fresh = a.batch(7), b.batch(7)
    assert again.strong is not None and fresh.strong is not None
    assert torch.equal(again.image, fresh.image) and torch.equal(again.label, fresh.label)
    assert torch.equal(again.strong, fresh.strong)
    assert not torch.equal(again.image, a.batch(8).image)


def test_the_global_random_state_is_neither_read_nor_moved() -> None:
    stream = TwoStreamBatches(_stack(6), _stack(9, labels=False), batch_size=(2, 3))
    torch.manual_seed(1)
    first, state = stream.batch(0), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first.image, stream.batch(0).image)
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


def test_every_unlabelled_image_is_visited_once_per_epoch_and_labelled_ones_cycle() -> None:
    stream = TwoStreamBatches(_stack(4), _stack(12, first=100, labels=False), batch_size=(3, 4), **_raw())
    assert stream.epoch == 3
    for epoch in range(3):
        batches = [stream.batch(3 * epoch + i) for i in range(3)]
        assert sorted(n for b in batches for n in _numbers(b.unlabelled)) == list(range(100, 112))
    seen = Counter(n for i in range(4) for n in _numbers(stream.batch(i).labelled))
    assert seen == {0: 3, 1: 3, 2: 3, 3: 3}


def test_labels_travel_with_their_images() -> None:
    stream = TwoStreamBatches(_stack(7), _stack(5, labels=False), batch_size=(4, 2), **_raw())
    for index in range(5):
        batch = stream.batch(index)
        assert [n % 2 for n in _numbers(batch.labelled)] == batch.label[:, 0, 0].tolist()
        assert batch.label.dtype == torch.int64 and batch.count == 4 and len(batch.unlabelled) == 2


def test_without_unlabelled_images_a_batch_has_no_such_rows() -> None:
    options = DataOptions(layout="phantom", classes=CLASSES, size=(32, 32), phantom=(6, 0, 1))
    cohort = split_dataset(options)
    stream = TwoStreamBatches(
        load_slices(cohort.labelled, options), load_slices(cohort.unlabelled, options), batch_size=(2, 2)
    )
    batch = stream.batch(0)
    assert batch.image.shape == (2, 3, 32, 32) and len(batch.unlabelled) == 0 and batch.strong is None


def test_a_stack_with_labels_is_refused_as_the_unlabelled_stream() -> None:
    with pytest.raises(ValueError, match="unlabelled stack carries labels"):
        TwoStreamBatches(_stack(3), _stack(3))


def test_cases_with_and_without_labels_are_not_loaded_together() -> None:
    options = DataOptions(layout="phantom", classes=CLASSES, size=(32, 32), phantom=(2, 2, 1))
    cohort = split_dataset(options)
    with pytest.raises(ValueError, match="mixed"):
        load_slices(cohort.labelled + cohort.unlabelled, options)


def test_a_stream_of_different_seed_is_shuffled_differently() -> None:
    orders = []
    for seed in (0, 1):
        stream = TwoStreamBatches(_stack(40), _stack(40, labels=False), batch_size=(40, 40), seed=seed, **_raw())
        orders += [_numbers(stream.batch(0).labelled), _numbers(stream.batch(0).unlabelled)]
    assert len({tuple(order) for order in orders}) == 4


def test_progress_counts_every_case() -> None:
    options = DataOptions(layout="phantom", classes=CLASSES, size=(32, 32), phantom=(5, 1, 1))
    seen: list[tuple[int, int]] = []
    load_slices(split_dataset(options).labelled, options, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]


def test_statistics_are_those_of_all_pixels_together() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (n, 8, 9, 3)).astype(np.uint8) for n in (3, 5)]
    found = slice_statistics(*(SliceDataset(torch.from_numpy(a), None) for a in arrays))
    pixels = np.concatenate([a.reshape(-1, 3) for a in arrays]) / 255
    assert np.allclose(found.mean, pixels.mean(0), atol=1e-6) and np.allclose(found.std, pixels.std(0), atol=1e-6)


def test_per_image_normalisation_forgets_gain_and_offset() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).view(1, 8, 8, 1)
    both = SliceDataset(torch.cat([ramp, ramp * 2 + 30]), torch.zeros(2, 8, 8, dtype=torch.uint8))
    none = SliceDataset(torch.zeros(0, 8, 8, 1, dtype=torch.uint8), None)
    stream = TwoStreamBatches(
        both, none, batch_size=(2, 0), augment=NO_AUGMENT, normalise=Normalisation(per_image=True)
    )
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
    stacks = SliceDataset(image, (image[..., 0] > 128).to(torch.uint8)), SliceDataset(image, None)
    batch = TwoStreamBatches(*stacks, batch_size=(2, 4), augment=AugmentOptions(**still)).batch(3)  # type: ignore[arg-type]
    assert batch.strong is not None and torch.allclose(batch.strong, batch.unlabelled, atol=1e-5)
    strong = TwoStreamBatches(*stacks, batch_size=(2, 4)).batch(3)
    assert strong.strong is not None and not torch.allclose(strong.strong, strong.unlabelled, atol=0.05)


def _plateaus(count: int, *, side: int = 32) -> SliceDataset:
    """Images of two levels, none of them black: 60 around a square of 140."""
    image = torch.full((count, side, side, 1), 60, dtype=torch.uint8)
    image[:, 8:24, 8:24] = 140
    return SliceDataset(image, (image[..., 0] > 100).to(torch.uint8))


def _of_one_image(augment: AugmentOptions, *, unlabelled: int = 3) -> tuple[TwoStreamBatches, list[float]]:
    """A stream of `_plateaus` that normalises each image by itself, and the two levels of the clean image then."""
    stacks = _plateaus(2), replace(_plateaus(4), label=None)
    stream = TwoStreamBatches(*stacks, (2, unlabelled), augment, Normalisation(per_image=True))
    clean = replace(stream, augment=NO_AUGMENT).batch(0).image
    return stream, sorted({round(float(v), 3) for v in clean.flatten()})


@pytest.mark.parametrize("change", [{"brightness": (1.4, 1.4)}, {"contrast": (0.6, 0.6)}])
def test_a_change_of_intensity_survives_the_normalisation_of_each_image(change: dict) -> None:
    still = {"brightness": (1, 1), "contrast": (1, 1), "gamma": (1, 1), "blur": (0.001, 0.001), "noise": 0, "cutout": 0}
    options = replace(NO_AUGMENT, **{**still, **change}, strong=True, chance=1.0, labelled_intensity=1.0)
    stream, levels = _of_one_image(options)
    batch = stream.batch(0)
    pixels = torch.tensor([60, 140]) / 255
    share = 0.25  # of the square
    mean = float(pixels[0] * (1 - share) + pixels[1] * share)
    changed = pixels * 1.4 if "brightness" in change else mean + 0.6 * (pixels - mean)
    deviation = float(((pixels - mean) ** 2 * torch.tensor([1 - share, share])).sum().sqrt())
    want = sorted(((changed - mean) / deviation).tolist())
    for rows in (batch.strong, batch.labelled):
        found = sorted(float(v) for v in (rows.min(), rows.max()))
        assert found == pytest.approx(want, abs=0.02) and found != pytest.approx(levels, abs=0.1)


def test_what_lies_beyond_the_rim_moves_no_value_inside() -> None:
    options = replace(NO_AUGMENT, rotation=25, scale=(0.6, 0.6), translate=0.08)
    stream, levels = _of_one_image(options)
    image = torch.cat([stream.batch(k).image for k in range(4)])
    assert float(image.amin()) == pytest.approx(levels[0], abs=0.01), "beyond the rim stands the darkest value"
    brightest = image.flatten(1).amax(1)
    assert brightest.tolist() == pytest.approx([levels[1]] * len(image), abs=0.01)


def test_padding_is_the_darkest_value_of_the_image_itself() -> None:
    stacks = _plateaus(2), replace(_plateaus(4), label=None)
    options = replace(NO_AUGMENT, translate=0.3)
    stream = TwoStreamBatches(*stacks, (2, 3), options, Normalisation((0.0,), (1 / 255,)))
    image = torch.cat([stream.batch(k).image for k in range(4)])
    assert float(image.amin()) == pytest.approx(60, abs=0.01)


# --- neighbouring slices ---


def _slices(volume: str, count: int) -> list[Case]:
    return [Case(f"{volume}/{k:03d}", volume, volume, slice=k) for k in range(count)]


def test_neighbours_are_taken_on_both_sides_and_the_ends_repeated() -> None:
    assert neighbour_indices(4, 3).tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]
    assert neighbour_indices(2, 5).tolist() == [[0, 0, 0, 1, 1], [0, 0, 1, 1, 1]]
    assert neighbour_indices(3, 1).tolist() == [[0], [1], [2]]
    with pytest.raises(ValueError, match="slices: 2 has no middle"):
        neighbour_indices(4, 2)


def test_a_slice_never_sees_another_volume() -> None:
    """Volumes of different depth one after another, and slices in any order."""
    assert neighbour_rows([*_slices("a", 2), *_slices("b", 3)], slices=3).tolist() == [
        [0, 0, 1], [0, 1, 1], [2, 2, 3], [2, 3, 4], [3, 4, 4],
    ]  # fmt: skip
    assert neighbour_rows(_slices("a", 3)[::-1], slices=3).tolist() == [[1, 0, 0], [2, 1, 0], [2, 2, 1]]


def test_a_volume_with_a_missing_slice_and_a_single_image_are_refused() -> None:
    with pytest.raises(ValueError, match="some slices are not on the list"):
        neighbour_rows([*_slices("a", 2), *_slices("b", 4)[1:]], slices=3)
    with pytest.raises(ValueError, match="picture is no slice of a volume"):
        neighbour_rows([Case("picture", "p", "picture.png")], slices=3)


def _sliced(count: int, *, labels: bool, first: int = 0, slices: int = 3) -> SliceDataset:
    """Two volumes of `count` slices."""
    cases = [*_slices("a", count), *_slices("b", count)]
    plain = _stack(2 * count, first=first, labels=labels)
    return SliceDataset(plain.image, plain.label, neighbour_rows=neighbour_rows(cases, slices=slices))


@pytest.mark.parametrize("slices", [3, 5])
def test_a_frame_of_slices_has_its_own_in_the_middle(slices: int) -> None:
    stack = _sliced(6, labels=True, slices=slices)
    stream = TwoStreamBatches(stack, _sliced(6, labels=False, first=100, slices=slices), batch_size=(4, 4), **_raw())
    batch = stream.batch(3)
    assert batch.image.shape == (8, slices, 8, 8)
    numbers = batch.image[:, :, 0, 0].round().long()
    middle = numbers[:, slices // 2]
    base = middle // 100 * 100
    volume = (middle - base) // 6
    for offset in range(-(slices // 2), slices // 2 + 1):
        want = base + (middle - base + offset).clamp(volume * 6, volume * 6 + 5)
        assert torch.equal(numbers[:, slices // 2 + offset], want)
    assert torch.equal(batch.label[:, 0, 0], middle[:4] % 2)


def _heart(*, slices: int, seen: bool) -> tuple[DataOptions, list[Case]]:
    path = "phantom3d:5"
    cases = [replace(case, label=path if seen else None) for case in _slices(path, SHAPE[2])]
    return DataOptions(classes=HEART, channels=1, slices=slices, size=(32, 32)), cases  # type: ignore[arg-type]


def test_every_slice_is_kept_once_whatever_the_student_sees() -> None:
    (one, cases), (five, _) = (_heart(slices=n, seen=False) for n in (1, 5))
    narrow, wide = load_slices(cases, one), load_slices(cases, five)
    assert narrow.neighbour_rows is None and torch.equal(narrow.image, wide.image)
    assert wide.neighbour_rows is not None and wide.neighbour_rows.shape == (len(cases), 5)
    assert slice_statistics(wide) == slice_statistics(narrow) and len(slice_statistics(wide).mean) == 1


def test_training_and_evaluation_make_the_same_frames() -> None:
    options, cases = _heart(slices=5, seen=True)
    stack = load_slices(cases, options)
    held = prepare(cases, size=options.size, channels=1, slices=5, classes=HEART)
    frames = (stack.frames(torch.arange(len(cases)), "cpu") * 255).round().to(torch.uint8)
    assert np.array_equal(frames.permute(0, 2, 3, 1).numpy(), held.frames)
    assert np.array_equal(stack_neighbours(stack.image.numpy(), 3, slices=5), held.frames[3])


def test_a_single_image_has_no_neighbours_in_evaluation_either() -> None:
    alone = Case("phantom:1", "phantom:1", "phantom:1", "phantom:1")
    with pytest.raises(ValueError, match="data.slices: phantom:1 is no slice of a volume"):
        prepare([alone], size=(32, 32), channels=1, slices=3, classes=CLASSES)


# --- soft labels ---


def test_soft_labels_move_with_the_image_in_every_row() -> None:
    """The image itself is the soft label: after any warp the two are still the same."""
    rng = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (8, 24, 24, 1), generator=rng, dtype=torch.uint8)
    image[:, 12, 12] = 0  # beyond the rim an image shows its darkest value, and a soft label 0
    stacks = [
        SliceDataset(part, label, soft=(part.permute(0, 3, 1, 2) / 255).half())
        for part, label in ((image[:4], (image[:4, ..., 0] > 128).to(torch.uint8)), (image[4:], None))
    ]
    augment = AugmentOptions(flip_vertical=True, rot90=True, labelled_intensity=0)
    for index in range(3):
        batch = TwoStreamBatches(
            *stacks, batch_size=(3, 2), augment=augment, normalise=Normalisation((0.0,), (1.0,))
        ).batch(index)
        assert batch.soft is not None and batch.soft.shape == (5, 2, 24, 24) and batch.soft.dtype == torch.float32
        assert torch.allclose(batch.soft[:, 1], batch.image[:, 0], atol=1e-3)
        assert torch.allclose(batch.soft.sum(1), torch.ones(5, 24, 24))


def test_soft_labels_do_not_move_the_draws_of_the_augmentation() -> None:
    bare = _stack(6, side=16), _stack(9, labels=False, side=16)
    said = [SliceDataset(s.image, s.label, soft=torch.rand(len(s), 2, 16, 16).half() / 2) for s in bare]
    a, b = TwoStreamBatches(*bare, batch_size=(2, 3)).batch(4), TwoStreamBatches(*said, batch_size=(2, 3)).batch(4)
    assert a.soft is None and b.soft is not None
    assert torch.equal(a.image, b.image) and torch.equal(a.label, b.label)
    assert a.strong is not None and b.strong is not None and torch.equal(a.strong, b.strong)


def test_the_background_is_what_the_others_leave() -> None:
    foreground = torch.tensor([[0.0, 0.25, 0.6, 0.9], [0.0, 0.25, 0.4, 0.9]])[None, :, None]
    full = with_background(foreground)
    assert torch.allclose(full[0, 0, 0], torch.tensor([1.0, 0.5, 0.0, 0.0]))
    assert torch.allclose(full[0, 1:, 0, 3], torch.tensor([0.5, 0.5]))
    assert torch.allclose(full.sum(1), torch.ones(1, 1, 4))


def test_a_bank_for_one_stack_alone_or_of_another_size_is_refused() -> None:
    labelled, other = _stack(3), _stack(4, labels=False)
    said = SliceDataset(labelled.image, labelled.label, soft=torch.zeros(3, 1, 8, 8).half())
    with pytest.raises(ValueError, match="only one of the two stacks has soft labels"):
        TwoStreamBatches(said, other)
    with pytest.raises(ValueError, match="soft labels .* do not fit"):
        TwoStreamBatches(
            SliceDataset(labelled.image, labelled.label, soft=torch.zeros(3, 1, 8, 4).half()), _stack(0, labels=False)
        )
    none = _stack(0, labels=False)
    assert TwoStreamBatches(said, none).batch(0).soft is not None


def test_a_stack_goes_to_a_device_whole() -> None:
    stack = _sliced(4, labels=True)
    stack = SliceDataset(stack.image, stack.label, stack.names, stack.neighbour_rows, torch.zeros(8, 1, 8, 8).half())
    moved = stack.to("meta")
    assert all(x is not None and x.is_meta for x in (moved.image, moved.label, moved.neighbour_rows, moved.soft))
