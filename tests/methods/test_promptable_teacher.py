"""A promptable network as second teacher: what it is asked, what counts of its word, and that no label leaks in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from edgemt.contract import Batch, Step
from edgemt.learning.losses import onehot
from edgemt.learning.prompts import corrupt_label, inside_of, merge_object_logits, prompts_from_prediction
from edgemt.learning.pseudo_labels import predict_probabilities
from edgemt.learning.sam_guidance import PromptableTeacherOptions
from edgemt.methods import METHODS
from edgemt.methods.promptable_supervised import PromptableSupervised
from edgemt.testing.method_checks import CHECKS
from edgemt.testing.tiny_training import CHANNELS, TinyTrainer, random_batch
from teachers.promptable import Promptable, PromptedOutput

ROWS = ("s_acmt", "sam_handover")


def blob(height: int = 40, width: int = 60, *, top: int = 10, left: int = 30) -> Tensor:
    """[1, 2, H, W]: a network sure of a rectangle of 12 x 18."""
    label = torch.zeros(1, height, width, dtype=torch.int64)
    label[:, top : top + 12, left : left + 18] = 1
    return onehot(label, 2) * 0.9 + 0.05


def small(**options) -> Promptable:
    torch.manual_seed(0)
    return Promptable(
        **{"channels": CHANNELS, "widths": (12, 12, 12, 12), "features": 24, "layers": 1, **options}
    ).eval()


# --- what is asked ---


def test_a_box_holds_the_region_and_is_written_in_shares_x_before_y():
    prompts, asked = prompts_from_prediction(blob(), margin=0.0)
    torch.testing.assert_close(prompts.boxes[0, 0], torch.tensor([30 / 60, 10 / 40, 48 / 60, 22 / 40]))
    assert asked.tolist() == [[True]]


def test_a_stray_pixel_does_not_stretch_a_box():
    p = blob()
    p[:, :, 39, 2] = torch.tensor([0.05, 0.95])
    torch.testing.assert_close(prompts_from_prediction(p)[0].boxes, prompts_from_prediction(blob())[0].boxes)


def test_one_point_lies_on_the_object_and_one_in_its_box_where_it_is_not():
    p = blob()
    p[:, 0, 10:16, 30:39], p[:, 1, 10:16, 30:39] = 0.98, 0.02  # a corner of the rectangle is missing
    prompts, _ = prompts_from_prediction(p)
    (on, beside), signs = (
        (prompts.points[0, 0] * torch.tensor([60, 40])).long().tolist(),
        prompts.point_labels[0, 0].tolist(),
    )
    assert signs == [1, 0]
    assert p[0, 1, on[1], on[0]] > 0.5
    assert 10 <= beside[1] < 16 and 30 <= beside[0] < 39


def test_where_a_box_is_full_there_is_no_point_beside_the_object():
    assert prompts_from_prediction(blob(), margin=0.0)[0].point_labels[0, 0].tolist() == [1, -1]


def test_a_class_that_is_not_shown_is_not_asked_about_and_is_nowhere_in_the_answer():
    p = torch.cat([blob(), torch.zeros(1, 1, 40, 60)], 1)
    prompts, asked = prompts_from_prediction(p)
    assert asked.tolist() == [[True, False]] and prompts.point_labels[0, 1].tolist() == [-1, -1]
    q = merge_object_logits(torch.full((1, 2, 40, 60), 5.0), asked)
    assert float(q[:, 2].max()) < 1e-3
    torch.testing.assert_close(q.sum(1), torch.ones(1, 40, 60))


def test_a_spoiled_label_is_wrong_somewhere_and_right_in_most_places():
    label = blob().argmax(1).repeat(16, 1, 1)
    p = corrupt_label(label, classes=2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(p.sum(1), torch.ones(16, 40, 60))
    right = (p.argmax(1) == label).float().flatten(1).mean(1)
    assert right.mean() > 0.7 and right.min() < 0.95 and len(right.unique()) > 8


# --- no label of an unlabelled image ---


class Spy(nn.Module):
    """A promptable network that writes down what it is asked and answers with the first mask."""

    promptable = True

    def __init__(self, quality: float = 1.0) -> None:
        super().__init__()
        self.weight, self.quality, self.heard = nn.Parameter(torch.zeros(1)), quality, []

    def forward(self, image: Tensor, boxes=None, points=None, signs=None, masks=None) -> PromptedOutput:
        self.heard.append((image, boxes, points, signs, masks))
        return PromptedOutput(masks, masks.new_full(masks.shape[:2], self.quality))


@pytest.mark.parametrize("name", ROWS)
def test_prompts_are_made_of_the_mean_teachers_prediction_and_of_no_label(name):
    """Other labels, the same questions; and they are those that the mean teacher's own words raise."""
    heard = []
    for turn in range(2):
        stage, b = TinyTrainer(replace(METHODS[name], noise=replace(METHODS[name].noise, std=0.0))), random_batch()
        stage.nets["sam"] = Spy()
        stage.nets["teacher"].eval()
        stage.roles["teacher"] = replace(stage.roles["teacher"], mode="eval")
        list(stage.optimiser_steps(replace(b, label=(b.label + turn) % 3)))
        heard.append(stage.nets["sam"].heard)
        wanted, _ = prompts_from_prediction(predict_probabilities(stage.nets["teacher"], b.unlabelled))
        (image, *asked), *more = heard[-1]
        assert not more and torch.equal(image, b.unlabelled)
        for got, want in zip(asked, wanted, strict=True):
            assert torch.equal(got, want)
    assert all(torch.equal(a, b) for a, b in zip(heard[0][0], heard[1][0], strict=True))


def test_the_labels_of_labelled_images_alone_teach_the_small_one(monkeypatch):
    b, classes = random_batch(unlabelled=3), 3
    monkeypatch.setattr(TinyTrainer, "build", lambda *_: small())
    stages = [TinyTrainer(PromptableSupervised(classes=classes), classes=classes) for _ in range(2)]
    other = b.image.clone()
    other[b.count :] = 100.0
    paid = [stage.step(x) for stage, x in zip(stages, (b, replace(b, image=other, strong=None)), strict=True)]
    assert paid[0] == paid[1] and set(paid[0]) == {"overlap", "pixels", "quality"}


# --- what counts of its word ---


@pytest.mark.parametrize("dims", [2, 3])
def test_its_word_counts_where_it_is_sure_and_not_where_nothing_was_asked(dims):
    rule, b = PromptableTeacherOptions(min_predicted_iou=0.6, slices=2), random_batch(dims=dims)
    p = predict_probabilities(TinyTrainer(METHODS["s_acmt"], dims=dims).nets["teacher"], b.unlabelled)
    p[0] = onehot(torch.zeros_like(p[:1, 0]).long(), 3)[0]  # of the first image the mean teacher shows nothing
    step = Step(0, 1, torch.Generator().manual_seed(0))
    _, sure = rule.pseudo_label(Spy(quality=0.7), b, p, step)
    _, unsure = rule.pseudo_label(Spy(quality=0.5), b, p, step)
    assert not unsure.any() and not sure[0].any() and sure[1:].any()
    if dims == 3:
        assert sure[1:].flatten(0, 3).any(0).sum() == 2  # the other slices were not asked about


@pytest.mark.parametrize("name", ROWS)
def test_a_player_that_takes_no_prompts_is_asked_without(name):
    stage = TinyTrainer(METHODS[name])
    assert all(torch.isfinite(torch.tensor(v)) for v in stage.step(random_batch()).values())


def test_the_handover_begins_with_sam_and_ends_with_the_mean_teacher():
    method = METHODS["sam_handover"]
    for index, wanted in ((0, 1.0), (100, 0.0)):
        stage = TinyTrainer(method, index=index, total=100)
        stage.nets["sam"] = Spy()
        (_, terms), *_ = stage.optimiser_steps(random_batch())
        assert float(terms.notes["sam"]) == pytest.approx(wanted, abs=0.01)


def test_second_teacher_requires_at_least_one_prompt_kind():
    with pytest.raises(ValueError, match="boxes, points, masks"):
        PromptableTeacherOptions(boxes=False, points=False, masks=False)


class RemembersFrames(Spy):
    """As if its embeddings were of whole frames: answers with the first mask, and says where it was asked."""

    remembers = True

    def forward(self, image, boxes=None, points=None, signs=None, masks=None, case=None, depth=None) -> PromptedOutput:
        self.heard.append((case, depth))
        return super().forward(image, boxes, points, signs, masks)


def test_a_network_that_remembers_whole_images_answers_in_the_augmented_view():
    """A view that is shifted and mirrored: asked in the frame, answered in the view, and back where it was."""
    p = blob(40, 40, top=14, left=16).repeat(2, 1, 1, 1)
    place = torch.tensor([[[-0.8, 0.0, 0.1], [0.0, 0.9, -0.1]]]).repeat(3, 1, 1)
    image = torch.zeros(3, 1, 40, 40)
    batch = Batch(image, torch.zeros(1, 40, 40).long(), index=torch.tensor([0, 7, 9]), place=place)
    spy = RemembersFrames()
    q, trust = PromptableTeacherOptions().pseudo_label(spy, batch, p, Step(0, 1))
    assert spy.heard[0][0].tolist() == [7, 9]
    assert bool(trust[:, :, 8:32, 8:32].all())
    agree = (q.argmax(1) == p.argmax(1)).float().mean()
    assert agree > 0.98
    box = spy.heard[1][1][0, 0]  # in the frame the mirrored blob lies on the other side
    assert box[0] + box[2] < 1.1 and abs(float(box[0] + box[2]) / 2 - (-0.8 * (25 / 20 - 1) + 0.1 + 1) / 2) < 0.03


def test_of_a_volume_it_is_told_which_slices_the_patch_shows():
    """A patch of 4 of 8 slices, from the third on."""
    p = blob(40, 40, top=14, left=16)[..., None].repeat(1, 1, 1, 1, 4)
    place = torch.tensor([[[0.5, 0, 0, 0.0], [0, 1, 0, 0], [0, 0, 1, 0]]]).repeat(2, 1, 1)
    batch = Batch(torch.zeros(2, 1, 40, 40, 4), torch.zeros(1, 40, 40, 4).long(), index=torch.arange(2), place=place)
    spy = RemembersFrames()
    q, _ = PromptableTeacherOptions(slices=4).pseudo_label(spy, batch, p, Step(0, 1, torch.Generator().manual_seed(0)))
    assert sorted((spy.heard[0][1] * 8).long().tolist()) == [2, 3, 4, 5]
    assert (q.argmax(1) == p.argmax(1)).float().mean() > 0.98


# --- the contract, with a network that is really asked ---


@pytest.fixture
def promptable_on_stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    plain = TinyTrainer.build
    monkeypatch.setattr(
        TinyTrainer, "build", lambda s, kind, init: small() if kind == "promptable" else plain(s, kind, init)
    )
    yield


CHEAP = [check for check in CHECKS if "averages" not in check.description and "easy" not in check.description]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("check", CHEAP, ids=lambda p: p.description.replace(" ", "-"))
def test_the_contract_is_kept_with_a_promptable_network(name, check, promptable_on_stage):
    method = replace(METHODS[name], second=replace(METHODS[name].second, min_predicted_iou=0.0))
    if check.applies_to(method):
        for dims, classes in check.configurations or ((2, 2),):
            check.run(method, dims=dims, classes=classes)


# --- the small network itself ---


@pytest.mark.parametrize("size", [(37, 50), (32, 32)])
@pytest.mark.parametrize("left_out", [(), ("boxes",), ("points", "masks"), ("boxes", "points")])
def test_it_answers_any_kind_of_question_at_any_size(size, left_out):
    prompts, _ = prompts_from_prediction(torch.rand(2, 4, *size).softmax(1))
    said = small()(torch.randn(2, CHANNELS, *size), *prompts.without(*left_out))
    assert said.logits.shape == (2, 3, *size) and said.quality.shape == (2, 3)
    assert torch.isfinite(said.logits).all() and 0 <= said.quality.min() <= said.quality.max() <= 1


def test_nothing_asked_is_refused():
    with pytest.raises(ValueError, match="no prompt is given"):
        small()(torch.randn(1, CHANNELS, 32, 32))


def test_what_it_keeps_of_an_image_answers_as_the_image_does_in_half_precision_too():
    net, image = small(), torch.randn(2, CHANNELS, 32, 32)
    prompts, _ = prompts_from_prediction(torch.rand(2, 3, 32, 32).softmax(1))
    with torch.no_grad():
        whole = net(image, *prompts).logits
        kept = net.embed(image)
        torch.testing.assert_close(net.decode(kept, (32, 32), *prompts).logits, whole)
        half = net.decode([x.half().float() for x in kept], (32, 32), *prompts).logits
    torch.testing.assert_close(half, whole, rtol=0.02, atol=0.02)


def test_objects_are_answered_one_by_one():
    """What is asked about one object changes nothing of what is said of another."""
    net, image, p = small(), torch.randn(1, CHANNELS, 32, 32), torch.rand(1, 4, 32, 32).softmax(1)
    prompts, _ = prompts_from_prediction(p)
    turned = prompts._replace(**{k: v.flip(1) for k, v in prompts._asdict().items()})
    with torch.no_grad():
        one, other = net(image, *prompts), net(image, *turned)
    torch.testing.assert_close(one.logits, other.logits.flip(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.quality, other.quality.flip(1), rtol=1e-4, atol=1e-5)


def test_it_learns_to_mend_a_wrong_prediction(monkeypatch):
    """Bright rectangles: after some lessons its answer overlaps the truth more than the prediction it was told."""
    monkeypatch.setattr(TinyTrainer, "build", lambda *_: small().train())
    stage = TinyTrainer(PromptableSupervised(classes=2), classes=2, rate=0.0)
    stage.optimisers = {"student": torch.optim.AdamW(stage.nets["student"].parameters(), 5e-3)}
    for index in range(60):
        image, label = rectangles(8, seed=index)
        stage.step(Batch(image, label))
    image, label = rectangles(32, seed=1000)
    p = corrupt_label(label, classes=2, generator=torch.Generator().manual_seed(1))
    prompts, asked = prompts_from_prediction(p)
    with torch.no_grad():
        answer = stage.nets["student"].eval()(image, *prompts).logits[:, 0] > 0
    truth, rows = label > 0, asked[:, 0]
    before, after = (
        (hit & truth).flatten(1).sum(1) / (hit | truth).flatten(1).sum(1) for hit in (p[:, 1] > 0.5, answer)
    )
    assert after[rows].mean() > before[rows].mean() + 0.1


def rectangles(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """float [N, K, 32, 32] with one brighter rectangle each in noise, and int64 [N, 32, 32] where it is."""
    g = torch.Generator().manual_seed(seed)
    at = torch.rand(count, 2, generator=g) * 0.4 + 0.05
    boxes = torch.cat([at, at + 0.25 + 0.25 * torch.rand(count, 2, generator=g)], 1).unsqueeze(1)
    label = inside_of(boxes, (32, 32))[:, 0].long()
    return label[:, None] * 2.0 + 0.5 * torch.randn(count, CHANNELS, 32, 32, generator=g), label


def test_the_target_of_a_labelled_row_is_never_a_prediction(monkeypatch):
    """The supervised term of both methods is that of AC-MT and of a mean teacher: SAM has no say in it."""
    for name in ROWS:
        paid = []
        for quality in (0.0, 1.0):
            stage = TinyTrainer(METHODS[name], index=5)
            stage.nets["sam"] = Spy(quality=quality)
            (_, terms), *_ = stage.optimiser_steps(random_batch())
            paid.append(float(terms["supervised"].detach()))
        assert paid[0] == paid[1]
