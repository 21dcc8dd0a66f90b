"""Where a method follows a release, the numbers that the release has."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

import teachers
from edgemt import recipes
from edgemt.contract import Batch, Output, Step
from edgemt.data.augment2d import NO_AUGMENT, warp
from edgemt.data.slice_dataset import SliceDataset, TwoStreamBatches
from edgemt.learning.ema import AlternatingEma
from edgemt.learning.perturbations.intensity import IntensityJitter
from edgemt.learning.pseudo_labels import largest_component
from edgemt.learning.roles import Networks
from edgemt.methods import METHODS, Discriminator, Method
from edgemt.methods.bcp import mixed_region_loss
from edgemt.model_card import Normalisation
from edgemt.pipeline import run_context
from edgemt.pipeline.train import train_stage
from edgemt.testing.tiny_training import CHANNELS, TinyNetwork, TinyTrainer, random_batch
from edgemt.training import engine, progress
from edgemt.training.engine import Trainer
from edgemt.training.options import Schedule


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Constant(nn.Module):
    """The same logits for every voxel."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: Tensor) -> Output:
        view = self.logits.view(1, -1, *[1] * (x.ndim - 2))
        return Output(view.expand(len(x), -1, *x.shape[2:]))


# --- entropy, and noise on what a teacher sees ---


@pytest.mark.parametrize("classes", [2, 4])
def test_entropy_is_a_share_of_its_maximum(classes: int) -> None:
    method = METHODS["entropy"]
    batch = random_batch(classes=classes)
    step = Step(1, 1, chance())
    terms = method.losses(Networks({"student": Constant([0.0] * classes)}), batch, step)  # type: ignore[attr-defined]
    assert terms["entropy"].item() == pytest.approx(0.1, abs=1e-5), "weight 0.1 of an entropy of 1, ramped up"


@pytest.mark.parametrize("name", ["mean_teacher", "ua_mt"])
@pytest.mark.parametrize(("dims", "std", "clip"), [(2, 0.1 / 0.18, 0.2 / 0.18), (3, 0.1, 0.2)])
def test_the_teachers_noise_has_the_strength_of_the_release(name: str, dims: int, std: float, clip: float) -> None:
    """SSL4MIS adds N(0, 0.1) to slices in [0, 1], whose deviation is about 0.18, and to volumes of deviation 1."""
    noise = METHODS[name].target.noise  # type: ignore[attr-defined]
    image = torch.randn(4, 1, *((64, 64) if dims == 2 else (16, 16, 16)), generator=chance())
    added = noise(image, chance(1)) - image
    clipped = torch.randn(100_000, generator=chance(2)).clamp(-2, 2).std()
    assert float(added.std()) == pytest.approx(std * float(clipped), rel=0.05)
    assert float(added.abs().max()) == pytest.approx(clip, rel=0.05)


# --- probed and pushed images leave batch-norm statistics alone ---


@pytest.mark.parametrize(("name", "forwards"), [("vat", 1), ("ss_net", 1), ("cmmt", 2)])
def test_adversarial_images_move_no_running_statistics(name: str, forwards: int) -> None:
    """`forwards` are those of images as they are, or mixed; the probe and the push are two more."""
    stage = TinyTrainer(METHODS[name], total=1, index=1)
    stage.index = 0
    batch = random_batch()
    student = stage.nets["student"]
    norm = next(module for module in student.modules() if isinstance(module, nn.BatchNorm2d))
    before = norm.running_mean.clone()  # type: ignore[union-attr]
    seen: list[Tensor] = []
    norm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach().mean((0, 2, 3))))
    next(iter(stage.optimiser_steps(batch)))
    assert len(seen) == forwards + 2
    assert int(norm.num_batches_tracked) == forwards  # type: ignore[arg-type]
    want = before
    for mean in (seen[0], *seen[3:]):  # the first, then the probe and the push, then mixtures
        want = 0.9 * want + 0.1 * mean
    torch.testing.assert_close(norm.running_mean, want)
    assert norm.track_running_stats


# --- BCP ---


@pytest.mark.parametrize(("dims", "share"), [(2, 0.25), (3, 2000 / 17000)])
def test_the_first_stage_of_copy_paste_lasts_as_long_as_in_its_release(dims: int, share: float) -> None:
    stage = TinyTrainer(METHODS["bcp"], dims=dims, total=100)
    first = []
    for index in (0, 10, 13, 20, 24, 26, 50):
        stage.index = index
        (_, terms), *_ = stage.optimiser_steps(random_batch(dims=dims))
        first.append((index, "pasted" not in terms))
    assert first == [(index, index < 100 * share) for index, _ in first]


def test_one_block_is_pasted_in_the_whole_batch() -> None:
    stage = TinyTrainer(METHODS["bcp"], total=100)
    stage.index = 50
    seen: list[Tensor] = []
    stage.nets["student"].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    batch = random_batch(labelled=3, unlabelled=3)
    next(iter(stage.optimiser_steps(batch)))
    pasted = seen[0][:3] == batch.unlabelled
    assert 0.2 < float(pasted.float().mean()) < 0.7
    assert (pasted == pasted[:1]).all()


def test_pseudo_labels_that_touch_by_a_corner_are_one_piece() -> None:
    label = torch.zeros(1, 6, 6, dtype=torch.int64)
    label[0, 0:2, 0:2] = label[0, 2:4, 2:4] = 1
    assert torch.equal(largest_component(label, classes=2), label)
    label[0, 5, 0] = 1
    assert int(largest_component(label, classes=2).sum()) == 8


def test_dice_of_copy_paste_counts_the_background() -> None:
    """A teacher and labels without any foreground still give a Dice term, as in the release."""
    label = torch.zeros(2, 8, 8, dtype=torch.int64)
    logits = torch.randn(2, 3, 8, 8, generator=chance(), requires_grad=True)
    weight = torch.zeros(2, 1, 8, 8)
    weight[..., 2:6, 2:6] = 1
    loss = mixed_region_loss(logits, logits, label, weight)
    p, gap = logits.softmax(1)[:, 0], nn.functional.cross_entropy(logits, label, reduction="none")
    want = 0.0
    for w in (weight[:, 0], 1 - weight[:, 0]):
        background = 1 - 2 * (w * p).sum() / (w * (p.square() + 1)).sum()
        want += 0.5 * (background + (w * gap).sum() / w.sum())
    torch.testing.assert_close(loss, want, rtol=1e-4, atol=1e-5)


# --- URPC ---


def scales_of(name: str, dims: int) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """What each coarser head reads in a step of a method beside the map that the decoder gave; the main head's too."""
    small = {"widths": (4, 6, 8, 10, 12), "dropout": (0.0,) * 5} if dims == 2 else {"filters": 4, "dropout": 0.0}
    torch.manual_seed(0)
    network = teachers.build("unet" if dims == 2 else "vnet", channels=1, classes=3, heads=("scales",), **small)
    maps: list[Tensor] = []
    read: list[Tensor] = []
    levels = network.up if dims == 2 else network.up.blocks  # type: ignore[union-attr]
    for level in levels:  # type: ignore[union-attr]
        level.register_forward_hook(lambda _, __, out: maps.append(out.detach()))
    for head in (*network.scales, network.head):  # type: ignore[misc]
        head.register_forward_hook(lambda _, inputs, __: read.append(inputs[0].detach()))
    image = torch.randn(4, 1, *((64, 64) if dims == 2 else (32, 32, 32)), generator=chance())
    batch = Batch(image, torch.randint(0, 3, (2, *image.shape[2:]), generator=chance()))
    network.train()
    next(iter(METHODS[name].steps(Networks({"student": network}), batch, Step(1, 1, chance()))))
    main = next(x for x in read if x.shape == maps[-1].shape)
    return [(m, next(x for x in read if x.shape == m.shape)) for m in maps[:-1]], (maps[-1], main)


def test_the_coarser_heads_of_urpc_read_disturbed_maps_of_slices() -> None:
    (dropped, cut, noisy), (finest, main) = scales_of("urpc", 2)
    silent = (dropped[1] == 0) & (dropped[0] != 0)
    assert float(silent.float().mean()) == pytest.approx(0.5, abs=0.05), "single places, at 0.5"
    torch.testing.assert_close(dropped[1][~silent], 2 * dropped[0][~silent])
    attention = cut[0].mean(1)
    share = attention / attention.flatten(1).amax(1).view(-1, 1, 1)
    gone = (cut[1] == 0).all(1)
    assert gone[share > 0.9].all() and not gone[share < 0.7].any() and gone.any()
    factor = (noisy[1] / noisy[0])[noisy[0].abs() > 1e-3]
    assert 0.69 < float(factor.min()) < 0.75 and 1.25 < float(factor.max()) < 1.31
    assert torch.equal(finest, main), "the finest prediction is clean"


def test_the_coarser_heads_of_urpc_read_maps_of_volumes_without_some_channels() -> None:
    pairs, (finest, main) = scales_of("urpc", 3)
    for (clean, read), rate in zip(pairs, (0.5, 0.3, 0.2), strict=True):
        silent = (read == 0).flatten(2).all(2)
        assert float(silent.float().mean()) == pytest.approx(rate, abs=0.25) and silent.any()
        torch.testing.assert_close(read[~silent], clean[~silent] / (1 - rate))
    assert torch.equal(finest, main)


def test_other_methods_of_scales_read_them_as_they_are() -> None:
    small = {"widths": (4, 6, 8), "dropout": (0.0,) * 3}
    network = teachers.build("unet", channels=1, classes=3, heads=("scales",), **small).train()
    x = torch.randn(2, 1, 32, 32, generator=chance())
    plain, disturbed = network(x), network(x, disturb_scales=lambda level, m: m * 0)
    assert torch.equal(plain.logits, disturbed.logits)
    assert not any(torch.equal(a, b) for a, b in zip(plain.scales, disturbed.scales, strict=True))


# --- discriminators ---


@pytest.mark.parametrize(("dims", "dropouts"), [(2, 2), (3, 3)])
def test_the_discriminator_is_as_wide_and_as_dropped_as_in_the_release(dims: int, dropouts: int) -> None:
    network = Discriminator(classes=4, channels=1, dimensions=dims)
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
    assert [c.out_channels for c in convs] == [64, 64, 128, 256, 512]
    assert all(c.kernel_size == (4,) * dims and c.stride == (2,) * dims for c in convs)
    drops = [m for m in network.modules() if isinstance(m, nn.Dropout2d | nn.Dropout3d)]
    assert [m.p for m in drops] == [0.5] * dropouts
    side = (40,) * dims
    assert network(torch.rand(2, 4, *side), torch.rand(2, 1, *side)).shape == (2, 2)


@pytest.mark.parametrize("name", ["dan", "sassnet"])
def test_the_discriminator_learns_with_its_own_adam_and_drops_nothing_while_the_student_learns(name: str) -> None:
    def build(kind: str, init: int) -> nn.Module:
        return Discriminator(classes=3, channels=CHANNELS, width=4) if kind == "discriminator" else TinyNetwork(2, 3)

    schedule = Schedule(steps=10, labelled=2, unlabelled=3, warmup=5, precision="32-true")
    run = Trainer(METHODS[name], build=build, schedule=schedule, seed=0)
    modes: list[bool] = []
    run.players["discriminator"].register_forward_hook(lambda module, *_: modes.append(module.training))
    for _ in range(3):
        assert run.step(lambda index, device: random_batch(seed=index)) is not None
        (group,) = run.optimisers["discriminator"].param_groups
        assert (group["lr"], tuple(group["betas"])) == (1e-4, (0.9, 0.99))
    assert modes == [False, True] * 3


@pytest.mark.parametrize("name", ["dan", "sassnet"])
def test_a_discriminator_cannot_tell_the_rows_by_their_intensity(name: str) -> None:
    """All images are the same, so labelled and unlabelled rows must be changed equally often."""
    image = torch.full((4, 8, 8, 1), 120, dtype=torch.uint8)
    options = replace(
        NO_AUGMENT, labelled_intensity=0.5, chance=1.0, brightness=(1.5, 1.5), contrast=(1, 1), gamma=(1, 1)
    )
    stacks = SliceDataset(image, torch.zeros(4, 8, 8, dtype=torch.uint8)), SliceDataset(image, None)
    raw = Normalisation((0.0,), (1.0,))
    alike = METHODS[name].matched_intensity
    batches = [TwoStreamBatches(*stacks, (8, 8), options, raw, alike=alike).batch(k).image for k in range(20)]
    changed = torch.stack([(x.flatten(1).mean(1) - 120 / 255).abs() > 0.05 for x in batches]).float().mean(0)
    assert float(changed[:8].mean()) == pytest.approx(0.5, abs=0.12)
    assert float(changed[8:].mean()) == pytest.approx(0.5, abs=0.12)


def test_a_training_gives_the_wish_of_its_method_to_its_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Drawn(Exception):
        pass

    def train(method: Method, *, draw: Callable, **_: object) -> None:
        raise Drawn(method.matched_intensity, draw.__self__.alike)  # type: ignore[attr-defined]

    monkeypatch.setattr(engine, "train", train)
    recipe = replace(recipes.load("phantom"), data=replace(recipes.load("phantom").data, size=(32, 32)))
    at = run_context.open_run(recipe, out=tmp_path / "run")
    for name, want in (("dan", True), ("mean_teacher", False)):
        with pytest.raises(Drawn) as caught:
            train_stage(at, "teacher", recipe.teacher, METHODS[name])
        assert caught.value.args == (want, want)


# --- teachers that take turns ---


@pytest.mark.parametrize(
    ("name", "released", "turn", "decay"), [("ad_mt", 15_000, 19, 0.99), ("pmt", 24_000, 80, 0.999)]
)
def test_a_run_as_long_as_the_release_has_its_turns_and_its_decay(
    name: str, released: int, turn: int, decay: float
) -> None:
    role = next(role for role in METHODS[name].roles().values() if isinstance(role, AlternatingEma))
    turns = [role.turns(Step(index, released)) for index in range(released)]
    longest = max(len(list(run)) for _, run in itertools.groupby(turns))
    assert longest == turn
    assert role.rate(Step(released - 1, released)) == pytest.approx(decay, abs=1e-5)


@pytest.mark.parametrize("total", [100, 400, 1_200])
def test_a_turn_is_more_than_a_step_and_the_average_moves_in_it(total: int) -> None:
    for name in ("ad_mt", "pmt"):
        role = next(role for role in METHODS[name].roles().values() if isinstance(role, AlternatingEma))
        turns = [role.turns(Step(index, total)) for index in range(total)]
        lengths = [len(list(run)) for _, run in itertools.groupby(turns)][1:-1]
        assert sum(lengths) / len(lengths) >= 4
        assert len(lengths) >= 8, "and there are several turns"
        moved = 1 - role.rate(Step(total // 2, total)) ** (sum(lengths) / len(lengths))
        assert moved > 0.04, "in a turn an average takes over more than a little"


# --- UniMatch ---


def heart(count: int = 64) -> Tensor:
    """Grey images in [0, 1] that fill their range, most of them dark as slices of the heart are."""
    smooth = nn.functional.interpolate(torch.rand(count, 1, 6, 6, generator=chance()), size=(24, 24), mode="bilinear")
    low, high = smooth.amin((2, 3), keepdim=True), smooth.amax((2, 3), keepdim=True)
    return ((smooth - low) / (high - low)) ** 2


def test_the_jitter_of_unimatch_changes_images_as_much_as_the_release_does() -> None:
    """ColorJitter(0.5, 0.5) in four images of five, before the images are normalised."""
    image = heart()
    mean, deviation = image.mean((1, 2, 3), keepdim=True), image.std((1, 2, 3), keepdim=True)
    torch.manual_seed(0)
    colour = v2.ColorJitter(0.5, 0.5)
    released = torch.stack([colour(x) if torch.rand(()) < 0.8 else x for x in image.repeat(4, 1, 1, 1)])
    want = float(((released - image.repeat(4, 1, 1, 1)) / deviation.repeat(4, 1, 1, 1)).abs().mean())
    clean = (image - mean) / deviation
    jitter = METHODS["unimatch"].jitter  # type: ignore[attr-defined]
    found = sum(float((jitter(clean, chance(seed)) - clean).abs().mean()) for seed in range(4)) / 4
    assert found == pytest.approx(want, rel=0.15)


def test_brightness_of_a_normalised_image_is_that_of_the_image_before() -> None:
    image = heart(8)
    mean, deviation = image.mean((1, 2, 3), keepdim=True), image.std((1, 2, 3), keepdim=True)
    changed = IntensityJitter(contrast=0.0, brightness=0.5, chance=1.0)((image - mean) / deviation, chance())
    factor = 1 + 0.5 * (2 * torch.rand((3, 8), generator=chance())[1] - 1).view(-1, 1, 1, 1)
    torch.testing.assert_close(changed, ((factor * image).clamp(0, 1) - mean) / deviation, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("share", "noticed"), [(0.98, True), (0.6, False)])
def test_a_threshold_that_nearly_every_voxel_passes_is_noticed(
    share: float, noticed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    history = {"terms": {"accepted": [0.1, 0.2, share, share]}}
    for name in ("unimatch", "cutmix_mt"):
        progress.warn_if_threshold_accepts_all(METHODS[name], history, label="teacher")
        message = capsys.readouterr().err
        assert ("98.0 % of the voxels passed the confidence threshold" in message) == noticed and message.count(
            "\n"
        ) <= 1
    progress.warn_if_threshold_accepts_all(METHODS["ua_mt"], history, label="teacher")
    assert capsys.readouterr().err == "", "the mask of UA-MT is meant to open"


# --- the ground on which methods are compared ---


def test_methods_are_compared_on_the_ground_of_their_releases() -> None:
    recipe = recipes.load("acdc_methods")
    assert recipe.teacher.widths == (16, 32, 64, 128, 256) and recipe.per_image
    schedule = recipe.teacher.schedule
    assert (schedule.steps, schedule.labelled, schedule.unlabelled) == (2000, 4, 4)
    light = recipe.augment
    image = torch.zeros(64, 1, 32, 32)
    image[..., 12:20, 12:20] = 1
    label = image[:, 0].to(torch.uint8)
    moved, mask = warp(image, label, options=light, generator=chance())
    area = mask.flatten(1).sum(1).float()
    assert float(area.min()) > 0.85 * 64 and float(area.max()) < 1.15 * 64, "nothing is enlarged or made smaller"
    middle = torch.stack(
        [(mask == 1).nonzero()[(mask == 1).nonzero()[:, 0] == n, 1:].float().mean(0) for n in range(64)]
    )
    assert float((middle - 15.5).abs().max()) < 0.6, "nothing is shifted"
    assert light.flip_horizontal and light.flip_vertical and light.rot90 and light.rotation == 20
    assert light.labelled_intensity == 0 and light.strong
