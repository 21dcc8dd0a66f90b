"""Image and mask move as one; intensity leaves shapes alone."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from edgemt.data.augment2d import NO_AUGMENT, AugmentOptions, augment_intensity_2d, warp

STILL = {"rotation": 0, "scale": (1, 1), "translate": 0, "flip_horizontal": False, "elastic": 0}


def _disc(count: int = 4, *, side: int = 64) -> tuple[Tensor, Tensor]:
    """A bright disc, a little off the centre, and its mask."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    inside = (y - 0.4 * side) ** 2 + (x - 0.55 * side) ** 2 < (0.2 * side) ** 2
    label = inside.to(torch.uint8).expand(count, -1, -1).contiguous()
    return label[:, None].float(), label


def _generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_the_mask_follows_the_image(padding: str) -> None:
    image, label = _disc(8)
    options = AugmentOptions(flip_vertical=True, rot90=True, padding=padding)  # type: ignore[arg-type]
    moved, mask = warp(image, label, options=options, generator=_generator())
    assert ((moved[:, 0] > 0.5) == (mask == 1)).float().mean() > 0.985
    assert not torch.equal(mask, label)


def test_only_the_labelled_rows_have_masks() -> None:
    image, label = _disc(6)
    moved, mask = warp(image, label[:2], options=AugmentOptions(), generator=_generator())
    assert moved.shape == image.shape and mask.shape == (2, 64, 64) and mask.dtype == torch.uint8
    assert ((moved[:2, 0] > 0.5) == (mask == 1)).float().mean() > 0.985


def test_class_indices_are_never_blended() -> None:
    label = torch.randint(0, 2, (4, 32, 32), generator=_generator(), dtype=torch.uint8) * 3
    _, mask = warp(torch.zeros(4, 1, 32, 32), label, options=AugmentOptions(), generator=_generator())
    assert set(mask.unique().tolist()) <= {0, 3}


def test_without_augmentation_nothing_changes() -> None:
    image, label = _disc()
    same, mask = warp(image, label, options=NO_AUGMENT, generator=_generator())
    assert torch.equal(same, image) and torch.equal(mask, label)


@pytest.mark.parametrize(("field", "axis"), [("flip_horizontal", -1), ("flip_vertical", -2)])
def test_a_flip_is_an_exact_mirror(field: str, axis: int) -> None:
    image = torch.rand(12, 3, 16, 20, generator=_generator())
    options = AugmentOptions(**{**STILL, field: True})  # type: ignore[arg-type]
    moved, _ = warp(image, image[:0, 0].to(torch.uint8), options=options, generator=_generator())
    flipped = [torch.allclose(m, x.flip(axis), atol=1e-5) for m, x in zip(moved, image, strict=True)]
    kept = [torch.allclose(m, x, atol=1e-5) for m, x in zip(moved, image, strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True)) and any(flipped) and any(kept)


def test_a_rotation_stays_a_rotation_on_frames_that_are_not_square() -> None:
    y, x = torch.meshgrid(torch.arange(48), torch.arange(96), indexing="ij")
    disc = ((y - 23.5) ** 2 + (x - 47.5) ** 2 < 15**2).to(torch.uint8).expand(6, -1, -1)
    options = AugmentOptions(**{**STILL, "rotation": 90})  # type: ignore[arg-type]
    _, mask = warp(disc[:, None].float(), disc, options=options, generator=_generator())
    assert ((mask == disc).float().mean((1, 2)) > 0.99).all()


def test_quarter_turns_need_square_frames() -> None:
    with pytest.raises(ValueError, match="augment.rot90: needs square frames, these are 8 x 12"):
        warp(
            torch.zeros(1, 1, 8, 12),
            torch.zeros(1, 8, 12, dtype=torch.uint8),
            options=AugmentOptions(rot90=True),
            generator=_generator(),
        )


@pytest.mark.parametrize("channels", [1, 3])
def test_intensity_stays_in_range_and_differs_between_images(channels: int) -> None:
    image = torch.rand(1, channels, 32, 32, generator=_generator()).expand(16, -1, -1, -1)
    changed = augment_intensity_2d(image, options=AugmentOptions(), generator=_generator(), cutout=True)
    assert torch.isfinite(changed).all() and changed.min() >= 0 and changed.max() <= 1
    assert len({round(float(x.mean()), 5) for x in changed}) > 12


@pytest.mark.parametrize("slices", [3, 5])
def test_neighbouring_slices_change_alike_and_are_no_colours(slices: int) -> None:
    """Equal slices stay equal: no hue, no saturation, and one contrast for all."""
    grey = torch.rand(8, 1, 24, 24, generator=_generator()).expand(-1, slices, -1, -1)
    strong = AugmentOptions(chance=1, hue=0.5, noise=0)
    changed = augment_intensity_2d(grey, options=strong, generator=_generator(), cutout=True, slices=True)
    assert torch.allclose(changed, changed[:, :1].expand_as(changed), atol=1e-6)
    assert not torch.allclose(changed, grey, atol=0.05)


def test_the_contrast_of_a_volume_has_one_middle() -> None:
    """A dark slice beside bright ones stays darker by as much as the contrast says."""
    frame = torch.stack([torch.full((8, 8), v) for v in (0.4, 0.5, 0.6)])[None]
    only = AugmentOptions(chance=1, brightness=(1, 1), contrast=(0.5, 0.5), gamma=(1, 1), blur=(1e-3, 1e-3), noise=0)
    changed = augment_intensity_2d(frame, options=only, generator=_generator(), cutout=False, slices=True)[0]
    assert torch.allclose(changed[:, 0, 0], torch.tensor([0.45, 0.5, 0.55]), atol=1e-5)


def test_intensity_without_ranges_changes_nothing() -> None:
    image = torch.rand(8, 3, 24, 24, generator=_generator())
    still = AugmentOptions(
        brightness=(1, 1), contrast=(1, 1), gamma=(1, 1), saturation=(1, 1), hue=0, blur=(1e-3, 1e-3), noise=0
    )
    assert torch.allclose(
        augment_intensity_2d(image, options=still, generator=_generator(), cutout=False), image, atol=1e-4
    )


def test_grey_pixels_stay_grey_when_only_the_colour_is_changed() -> None:
    grey = torch.rand(8, 1, 24, 24, generator=_generator()).expand(-1, 3, -1, -1)
    only = AugmentOptions(brightness=(1, 1), contrast=(1, 1), gamma=(1, 1), hue=0.5, blur=(1e-3, 1e-3), noise=0)
    changed = augment_intensity_2d(grey, options=only, generator=_generator(), cutout=False)
    assert torch.allclose(changed, grey, atol=0.01)
    red = torch.zeros(8, 3, 4, 4)
    red[:, 0] = 0.8
    assert not torch.allclose(
        augment_intensity_2d(red, options=only, generator=_generator(), cutout=False), red, atol=0.05
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gamma": (0.0, 1.0)}, r"augment\.gamma: must be \(low, high\)"),
        ({"scale": (1.2, 0.8)}, r"augment\.scale"),
        ({"noise": -0.1}, r"augment\.noise: must not be negative"),
        ({"chance": 1.5}, r"augment\.chance"),
        ({"padding": "wrap"}, r"augment\.padding: 'wrap' is none of"),
    ],
)
def test_a_bad_option_names_its_field(changes: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        AugmentOptions(**changes)
