"""Distillation in feature space: the losses, the maps that networks give, the term in a method, and its projection."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import students
import teachers
from edgemt.contract import Output
from edgemt.learning.feature_losses import (
    Projection,
    cutmix_maps,
    enable_maps,
    feature_loss,
    fitnet,
    pairs,
    similarity,
    stride_of,
    vid,
)
from edgemt.learning.feature_term import FeatureTerm
from edgemt.learning.perturbations.mixing import CutMixBox, cutmix
from edgemt.methods import METHODS
from edgemt.testing.method_checks import CHECKS
from edgemt.testing.tiny_training import TinyTrainer, random_batch
from edgemt.training import engine
from students.pyramid import TimmPyramid
from teachers.external import ExternalNetwork

KINDS = ("fitnet", "vid", "cwd", "similarity")
TINY = "test_efficientnet"


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- formulas ---


@pytest.mark.parametrize("space", [(6, 5), (4, 3, 2)])
def test_fitnet_is_two_minus_twice_the_correlation_of_each_channel(space: tuple[int, ...]) -> None:
    s, t = normal(3, 4, *space), normal(3, 4, *space, seed=1)
    rows = [x.movedim(1, 0).flatten(1) for x in (s, t)]
    r = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*rows, strict=True)])
    torch.testing.assert_close(fitnet(s, t), (2 - 2 * r).mean(), rtol=1e-4, atol=1e-4)
    scale, shift = normal(1, 4, *[1] * len(space), seed=2).abs() + 0.5, normal(1, 4, *[1] * len(space), seed=3)
    assert fitnet(s * scale + shift, s) < 1e-4


def test_vid_is_the_negative_log_likelihood_of_a_gaussian() -> None:
    mean, t, variance = normal(3, 4, 6, 5), normal(3, 4, 6, 5, seed=1), normal(4, seed=2).abs() + 0.1
    z = (t - t.mean((0, 2, 3), keepdim=True)) / t.std((0, 2, 3), keepdim=True, correction=0)
    want = nn.GaussianNLLLoss(eps=0.0)(mean, z, variance.view(1, 4, 1, 1).expand_as(z))
    torch.testing.assert_close(vid(mean, variance, t), want, rtol=1e-4, atol=1e-4)


def test_similarity_compares_places_and_not_channels() -> None:
    t = normal(2, 4, 6, 5)
    turn = torch.linalg.qr(normal(4, 4, seed=1))[0]
    assert similarity(torch.einsum("dc,nchw->ndhw", turn, t) * 3, t) < 1e-10
    assert similarity(normal(2, 7, 6, 5, seed=2), t) > 0.05
    assert similarity(normal(1, 4, 64, 64), normal(1, 4, 64, 64, seed=1)).isfinite()  # 256 places, not 4096


def test_vid_begins_with_variance_five_and_every_kind_lowers_its_loss() -> None:
    s, t = [normal(4, 3, 8, 8)], [torch.einsum("dc,nchw->ndhw", normal(5, 3, seed=1), normal(4, 3, 8, 8))]
    torch.manual_seed(0)
    first = Projection("vid", channels=[(3, 5)], dims=2)(s)[0].variance
    torch.testing.assert_close(first, torch.full((5,), 5.0))
    for kind in KINDS[:3]:
        projection = Projection(kind, channels=[(3, 5)], dims=2)
        optimiser = torch.optim.Adam(projection.parameters(), 0.05)
        values = []
        for _ in range(60):
            loss = feature_loss(kind, s, t, projection=projection)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            values.append(float(loss.detach()))
        assert values[-1] < values[0] - 0.3 * abs(values[0]), kind


def test_the_teachers_maps_take_the_size_of_the_students_and_no_gradient() -> None:
    s = normal(2, 4, 6, 5).requires_grad_()
    for size in ((12, 10), (6, 5), (3, 3)):
        t = normal(2, 4, *size, seed=1).requires_grad_()
        feature_loss("similarity", [s], [t], projection=None).backward()
        assert t.grad is None and s.grad.any()


# --- which maps belong together ---


def test_maps_are_paired_by_stride_and_the_deepest_of_a_stride_counts() -> None:
    space = (96, 80)
    mine = [torch.zeros(1, 1, 96 // s, 80 // s) for s in (4, 8, 16, 32)]
    theirs = [torch.zeros(1, 1, 96 // s, 80 // s) for s in (1, 2, 4, 8, 16, 16)]
    assert [stride_of(m, space) for m in mine] == [4, 8, 16, 32]
    assert pairs(mine, theirs, space=space) == [(0, 2), (1, 3), (2, 5)]
    assert pairs(mine, theirs, space=space, strides=(16, 8)) == [(1, 3), (2, 5)]
    with pytest.raises(ValueError, match=r"feature.strides.*\[4, 8, 16, 32\].*\[1, 2, 4, 8, 16\].*\[32\] must be"):
        pairs(mine, theirs, space=space, strides=(32,))
    with pytest.raises(ValueError, match="among both"):
        pairs(mine, [torch.zeros(1, 1, 96, 80)], space=space)


def test_the_map_of_mixed_images_is_the_mixed_map() -> None:
    image = normal(3, 2, 16, 16)
    box = CutMixBox(chance=1.0).sample(image, torch.Generator().manual_seed(0))
    assert torch.equal(cutmix_maps(box, image), cutmix(box, image))
    flat = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 16, 16)
    coarse = nn.functional.avg_pool2d(flat, 4)
    torch.testing.assert_close(cutmix_maps(box, coarse), nn.functional.avg_pool2d(cutmix(box, flat), 4))


NETWORKS = [
    ("student", lambda: students.build(TINY, channels=3, classes=2), (4, 8, 16, 32), 4),
    ("unet", lambda: teachers.build("unet", channels=3, classes=2, widths=(4,) * 5), (1, 2, 4, 8, 16), 1),
    ("smp", lambda: teachers.build("smp/Unet", channels=3, classes=2, encoder=f"tu-{TINY}"), (2, 4, 8, 16, 32), 1),
    ("fpn", lambda: teachers.build("smp/FPN", channels=3, classes=2, encoder=f"tu-{TINY}"), (2, 4, 8, 16, 32), 4),
]


@pytest.mark.parametrize(("name", "build", "strides", "finest"), NETWORKS, ids=[row[0] for row in NETWORKS])
def test_networks_give_their_maps_when_they_are_switched_on(name, build, strides, finest) -> None:
    torch.manual_seed(0)
    network, image = build().eval(), normal(2, 3, 72, 100)
    with torch.no_grad():
        plain = network(image)
        encoder = enable_maps(network, "encoder")(image)
        decoder = enable_maps(network, "decoder")(image)
    assert plain.maps == ()
    assert torch.equal(plain.logits, encoder.logits) and torch.equal(plain.logits, decoder.logits)
    assert tuple(stride_of(m, (72, 100)) for m in encoder.maps) == strides
    cells = (-(-100 // s) for s in strides)
    assert name == "unet" or all(m.shape[3] == wide for m, wide in zip(encoder.maps, cells, strict=True))
    assert stride_of(decoder.maps[0], (72, 100)) == finest


def test_a_network_without_maps_is_refused_with_a_remedy() -> None:
    with pytest.raises(ValueError, match="ExternalNetwork gives no feature maps; distil from a unet, an smp/ network"):
        enable_maps(ExternalNetwork(nn.Conv2d(3, 2, 1)), "encoder")


def test_a_volume_network_gives_its_maps() -> None:
    network = enable_maps(
        teachers.build("unet3d", channels=1, classes=2, widths=(4,) * 3, dropout=(0.0,) * 3), "encoder"
    )
    maps = network(normal(1, 1, 16, 16, 8)).maps
    assert [stride_of(m, (16, 16, 8)) for m in maps] == [1, 2, 4]


# --- the term in a method ---


def featured(kind: str, **options) -> object:
    return replace(METHODS["distillation"], feature=FeatureTerm(kind, **options))


@pytest.mark.parametrize(
    ("kind", "source", "dims", "classes"),  # the whole suite for one kind of each form
    [
        ("fitnet", "teacher", 2, 2),
        ("vid", "backbone", 3, 2),
        pytest.param("cwd", "teacher", 2, 4, marks=pytest.mark.slow),
        pytest.param("similarity", "backbone", 2, 3, marks=pytest.mark.slow),
    ],
)
def test_distillation_with_features_keeps_every_promise_of_a_method(kind, source, dims, classes) -> None:
    method = featured(kind, source=source)
    for check in CHECKS:
        if check.applies_to(method) and "easy task" not in check.description:  # the base method is held to it
            check.run(method, dims=dims, classes=classes)


@pytest.mark.parametrize("at", ["encoder", "decoder"])
def test_the_decoders_finest_maps_can_be_compared_instead(at) -> None:
    stage = TinyTrainer(featured("fitnet", at=at))
    assert len(stage.nets.projection.regress) == (2 if at == "encoder" else 1)
    assert stage.step(random_batch())["feature"] > 0


def test_the_projection_learns_and_is_no_part_of_what_is_delivered() -> None:
    stage = TinyTrainer(featured("fitnet"))
    before = [layer.weight.clone() for layer in stage.nets.projection.regress]
    stage.step(random_batch())
    assert not any(torch.equal(a, b.weight) for a, b in zip(before, stage.nets.projection.regress, strict=True))
    assert set(stage.nets.average.state_dict()) == set(stage.nets.student.state_dict())
    assert not any("regress" in name for name in stage.nets.student.state_dict())


@pytest.mark.parametrize("separate", [False, True])
def test_weight_zero_is_plain_distillation_to_the_bit(separate: bool) -> None:
    with pytest.warns(UserWarning, match="switched off"):
        off = replace(featured("fitnet", weight=0.0), separate_streams=separate)
    base = replace(METHODS["distillation"], separate_streams=separate)
    assert list(off.roles()) == list(base.roles())
    plain, other = TinyTrainer(base), TinyTrainer(off)
    for i in range(3):
        assert plain.step(random_batch(seed=i)) == other.step(random_batch(seed=i))
    assert all(torch.equal(a, b) for a, b in zip(plain.nets.parameters(), other.nets.parameters(), strict=True))


def test_two_streams_are_compared_as_one_list_of_rows() -> None:
    """Where no batch statistics tell the streams apart, the feature term is that of one pass; where some do, not."""

    def term(separate: bool, *, norm: bool) -> float:
        stage = TinyTrainer(replace(featured("fitnet"), separate_streams=separate))
        batch = random_batch(labelled=2, unlabelled=3)
        for network in [] if norm else [stage.nets.student]:
            network.body[1], network.body[3] = nn.Identity(), nn.Identity()
        _, terms = next(
            stage.optimiser_steps(replace(batch, image=batch.image + torch.tensor([0, 0, 3, 3, 3]).view(5, 1, 1, 1)))
        )
        return float(terms["feature"].detach())

    assert term(True, norm=False) == pytest.approx(term(False, norm=False), rel=1e-5)
    assert term(True, norm=True) != pytest.approx(term(False, norm=True), rel=1e-3)


class Echo(nn.Module):
    """Its map is the image."""

    def forward(self, x):
        return Output(x, maps=(x,))


@pytest.mark.parametrize("sees", ["weak", "same"])
def test_cutmix_cuts_the_maps_of_image_and_teacher_alike(sees) -> None:
    """A student with the teacher's features has no feature loss, wherever the boxes fall."""
    method = replace(featured("similarity"), box=CutMixBox(chance=1.0), teacher_view=sees)
    stage = TinyTrainer(method, classes=2, total=1, index=1)
    for name in stage.nets:
        stage.nets[name] = Echo()
    _, terms = next(stage.optimiser_steps(random_batch(classes=2, strong=False)))
    assert float(terms["feature"]) < 1e-6


def test_a_backbone_guides_beside_a_bank_and_the_teacher_cannot() -> None:
    banked = replace(METHODS["slice_distillation"], feature=FeatureTerm("cwd", source="backbone"))
    assert list(banked.roles()) == ["student", "backbone", "projection", "average"]
    assert TinyTrainer(banked).step(random_batch())["feature"] > 0
    with pytest.raises(ValueError, match="a bank has no feature maps; name a student.feature_teacher"):
        TinyTrainer(replace(METHODS["slice_distillation"], feature=FeatureTerm("similarity"))).step(random_batch())


def test_a_bare_pyramid_can_be_the_backbone() -> None:
    torch.manual_seed(0)
    nets = {
        "student": enable_maps(students.build(TINY, channels=3, classes=2), "encoder"),
        "backbone": TimmPyramid("test_convnext", channels=3),
    }
    term, image = FeatureTerm("fitnet", source="backbone"), normal(2, 3, 64, 64)
    players = engine.Networks({**nets, "projection": term.projection(nets, image[:1])})
    guide = term.target_maps(players, image, None)
    assert not guide[0].requires_grad
    loss = term.loss(players, nets["student"](image), guide, space=(64, 64))
    loss.backward()
    assert loss > 0 and all(p.grad is not None for p in nets["student"].pyramid.encoder.conv_stem.parameters())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "fitnets"}, "feature.kind: 'fitnets' is not known; use one of none, fitnet, vid"),
        ({"kind": "cwd", "weight": -1.0}, "feature.weight: -1.0 is below 0"),
        ({"kind": "cwd", "temperature": 0.0}, "feature.temperature: 0.0 must be above 0"),
        ({"at": "head"}, "feature.at: 'head'"),
    ],
)
def test_a_bad_field_is_named(options, says) -> None:
    with pytest.raises(ValueError, match=says):
        FeatureTerm(**options)
