"""Several teachers, several students, strong views, attention: maths by hand, published bugs planted again."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

import teachers
from edgemt.contract import Output, Step
from edgemt.learning.auxiliary_tasks import grid_means
from edgemt.learning.ema import AlternatingEma, AlternationSchedule, Ema, ResidualEma, SwitchingEma
from edgemt.learning.losses import cross_entropy, dice, focal_contrast, onehot, probabilities, uncertain_mse
from edgemt.learning.method import LossTerms
from edgemt.learning.perturbations.features import RowwiseChannelDropout
from edgemt.learning.perturbations.intensity import IntensityJitter
from edgemt.learning.perturbations.mixing import CutMixBox, cutmix
from edgemt.learning.pseudo_labels import entropy_weighted_mean, predict_probabilities
from edgemt.methods import METHODS
from edgemt.methods.ad_mt import ADMT
from edgemt.methods.cds import CDS
from edgemt.methods.cmmt import two_heads
from edgemt.methods.dual_teacher import teacher_agreement
from edgemt.methods.unimatch import UniMatch, confident_pseudo_label
from edgemt.testing.tiny_training import ConstantTeacher, TinyTrainer, random_batch
from teachers.attention import Attend, Dual, Dynamic, Gate, SqueezeExcite


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spread(*p: float) -> torch.Tensor:
    """Probabilities [1, C, 1, 1] of one voxel."""
    return torch.tensor(p).view(1, -1, 1, 1)


class Echo(nn.Module):
    """Says of an image what its channels are."""

    def forward(self, x, disturb=None):
        return Output(x, x, x[:, 1:].tanh(), (x, x))


# --- losses, views and pseudo-targets ---


def test_doubtful_voxels_may_differ_more_and_pay_for_their_doubt():
    p, q, beta = spread(0.5, 0.5), spread(1.0, 0.0), 2.0
    want = 2 * 0.25 / (math.exp(beta * math.log(2)) + 1.0) + beta * math.log(2)
    assert float(uncertain_mse(p, q, beta=beta)) == pytest.approx(want, rel=1e-5)
    assert float(uncertain_mse(q, q, beta=beta)) == pytest.approx(0.0, abs=1e-6)


def test_contrast_of_three_places_is_what_a_pocket_calculator_says():
    """Two alike places at a right angle to one of another class: share = e^(1/T) / (e^(1/T) + 1)."""
    features = torch.tensor([[[3.0, 1.0, 0.0], [0.0, 0.0, 2.0]]])
    share = math.exp(1 / 0.6) / (math.exp(1 / 0.6) + 1.0)
    want = -((1 - share) ** 2) * math.log(share)
    got = focal_contrast(features, torch.tensor([[0, 0, 1]]), temperature=0.6, gamma=2.0)
    torch.testing.assert_close(got, torch.tensor([[want, want, 0.0]]), rtol=1e-5, atol=1e-7)


def test_contrast_without_foes_or_without_friends_is_zero_and_has_a_finite_slope():
    features = torch.randn(2, 4, 5, generator=seeded(), requires_grad=True)
    label = torch.stack([torch.zeros(5), torch.arange(5)]).long()
    cost = focal_contrast(features, label)
    assert float(cost.detach().abs().max()) < 1e-6
    (slope,) = torch.autograd.grad(cost.sum(), features)
    assert torch.isfinite(slope).all()


def test_a_voice_counts_by_e_to_minus_its_entropy():
    even, sure = spread(0.5, 0.5), spread(1.0, 0.0)
    said = entropy_weighted_mean(torch.stack([even, sure]))
    torch.testing.assert_close(said, spread(0.5 / 3 + 2 / 3, 0.5 / 3))  # e^-ln 2 against e^0: 1 to 2


def test_jitter_draws_from_the_step_and_for_each_image_alone():
    image = torch.randn(1, 2, 16, 16, generator=seeded()).repeat(3, 1, 1, 1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again = (IntensityJitter()(image, seeded(1)) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(before, torch.get_rng_state())
    assert not torch.allclose(first[0], first[1])
    torch.testing.assert_close(
        IntensityJitter(contrast=0, brightness=0, power=0)(image, None), image, rtol=1e-4, atol=1e-4
    )


def test_dropped_channels_are_whole_in_the_named_rows_only_and_keep_the_mean():
    x = torch.ones(4, 400, 3, 3)
    out = RowwiseChannelDropout(0.25, 1, 3, seeded())(x)
    assert torch.equal(out[0], x[0]) and torch.equal(out[3], x[3])
    assert out[1:3].unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(out.amax((2, 3)), out.amin((2, 3)))
    assert float(out[1:3].mean()) == pytest.approx(1.0, abs=0.05)


def test_a_place_that_holds_two_classes_alike_is_neither_by_the_order_of_classes():
    truth = onehot(torch.tensor([[[0, 1], [1, 0]]]), 2)
    for teacher, want in ((spread(0.4, 0.6), 1), (spread(0.6, 0.4), 0)):
        place = grid_means(truth + 1e-3 * teacher, grid=1).argmax(1)
        assert int(place) == want


# --- averages ---


def test_drawn_turns_last_from_one_step_to_the_longest_and_each_as_often():
    turns, longest = AlternationSchedule(longest=0.001, drawn=True), 5
    whose = [turns(Step(i, 5000)) for i in range(5000)]
    assert set(whose) == {0, 1}
    lengths, count = Counter(), 1
    for a, b in zip(whose, whose[1:], strict=False):
        lengths[count] += a != b
        count = count + 1 if a == b else 1
    assert set(k for k, v in lengths.items() if v) == set(range(1, longest + 1))
    assert max(lengths.values()) < 1.3 * min(v for v in lengths.values() if v)


def test_fixed_turns_are_shares_of_the_run_and_at_least_a_step():
    assert [AlternationSchedule(longest=0.2)(Step(i, 10)) for i in range(8)] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert [AlternationSchedule(longest=0.0001, drawn=True)(Step(i, 10)) for i in range(4)] == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="longest: 0.7"):
        AlternationSchedule(longest=0.7)


def pair(mine: float, *theirs: float) -> list[nn.Module]:
    nets = [nn.Linear(1, 1, bias=False) for _ in range(1 + len(theirs))]
    for net, value in zip(nets, (mine, *theirs), strict=True):
        nn.init.constant_(net.weight, value)
    return nets


def test_an_alternating_average_moves_in_its_turn_only():
    average, student = pair(0.0, 1.0)
    role = AlternatingEma(decay=0.5, warmup=False, turns=AlternationSchedule(longest=0.1), place=1)
    role.update(average, [student], Step(0, 10))
    assert float(average.weight.detach()) == 0.0
    role.update(average, [student], Step(1, 10))
    assert float(average.weight.detach()) == 0.5


def test_an_average_in_turn_follows_one_player_at_a_time_and_not_their_mean():
    average, student, peer = pair(0.0, 1.0, -1.0)
    role = SwitchingEma(decay=0.5, warmup=False)
    role.update(average, [student, peer], Step(0, 10))
    assert float(average.weight.detach()) == 0.5
    role.update(average, [student, peer], Step(1, 10))
    assert float(average.weight.detach()) == -0.25


@pytest.mark.parametrize(
    ("mine", "gain", "want"), [(2.0, 0.0, 2.1), (2.0, 1.0, 2.15), (2.0, 9.0, 2.55), (0.1, 50.0, 3.0)]
)
def test_a_residual_is_fed_back_by_its_share_and_never_overshoots(mine, gain, want):
    """From 2 to 3 with decay 0.9: a move of 0.1 and a residual of half the weight's size."""
    average, student = pair(mine, 3.0)
    ResidualEma(decay=0.9, warmup=False, gain=gain).update(average, [student], Step(5, 10))
    assert float(average.weight.detach()) == pytest.approx(want)


# --- several teachers ---


def test_guides_that_part_are_not_believed_and_those_that_agree_are():
    looks = torch.stack(
        [torch.cat([spread(0.9, 0.1), spread(0.9, 0.1)]), torch.cat([spread(0.9, 0.1), spread(0.4, 0.6)])]
    )
    _, weight = teacher_agreement(looks)
    torch.testing.assert_close(weight.flatten(), torch.tensor([1.0, 0.0]))


def test_in_a_conflict_of_teachers_the_student_speaks_if_it_is_surer():
    method = ADMT(confidence=0.8)
    teachers_part = torch.stack([spread(0.7, 0.3), spread(0.3, 0.7)])
    target, weight = method.combine(teachers_part, spread(0.1, 0.9))
    assert int(target.argmax(1)) == 1 and float(weight) == 1.0
    agreeing = torch.stack([spread(0.7, 0.3), spread(0.6, 0.4)])
    target, weight = method.combine(agreeing, spread(0.1, 0.9))
    assert int(target.argmax(1)) == 0 and float(weight) == 0.0


def parting_stage(method) -> tuple[TinyTrainer, object]:
    """Teachers that say of an image the opposite of each other, faintly; the student says surely what it sees."""

    class Faint(nn.Module):
        def __init__(self, sign: float) -> None:
            super().__init__()
            self.sign = sign

        def forward(self, x, disturb=None):
            return Output(self.sign * 0.05 * x)

    stage = TinyTrainer(method, classes=2, total=1, index=1)
    for name, net in (("student", Echo()), ("teacher", Faint(1.0)), ("tutor", Faint(-1.0))):
        stage.nets[name] = net
    b = random_batch(classes=2, strong=False)
    sure = torch.sign(b.image[:, :1]) * 6
    return stage, replace(b, image=torch.cat([sure, -sure], 1))


@dataclass(frozen=True)
class Uncut(ADMT):
    """AD-MT as released: the target is cut by CutMix, the student's own word that competes with it is not."""

    def losses(self, nets, batch, step):
        count, rows, weak = batch.count, len(batch.unlabelled), batch.unlabelled
        looks = torch.stack([predict_probabilities(nets[name], weak) for name in ("teacher", "tutor")])
        box = self.box.sample(weak, step.generator)
        logits = nets.student(torch.cat([batch.image, cutmix(box, weak)])).logits
        own = probabilities(logits[count : count + rows])
        target, weight = self.combine(torch.stack([cutmix(box, look) for look in looks]), own)
        return LossTerms(consistency=2.0 * cross_entropy(logits[count + rows :], target, weight=weight))


def test_the_students_own_word_is_cut_like_the_image_it_is_compared_with():
    stage, b = parting_stage(ADMT())
    _, paid = next(stage.optimiser_steps(b))
    assert float(paid["consistency"]) < 1e-3
    stage, b = parting_stage(Uncut())
    _, paid = next(stage.optimiser_steps(b))
    assert float(paid["consistency"]) > 1.0


def test_two_teachers_of_one_student_grow_apart():
    stage = TinyTrainer(METHODS["ad_mt"])
    for i in range(6):
        stage.step(random_batch(seed=i))
    mine, other = (stage.nets[name].head.weight for name in ("teacher", "tutor"))
    assert not torch.allclose(mine, other)


def test_a_number_of_teachers_that_has_no_names_is_refused():
    with pytest.raises(ValueError, match="decays: "):
        replace(METHODS["dual_teacher"], decays=(0.9,))


# --- several students ---


@dataclass(frozen=True)
class LoserTimesZero(CDS):
    """CDS as released: the loser's logits times 0 are an even guess that stays in the mean."""

    def losses(self, nets, batch, step):
        terms = super().losses(nets, batch, step)
        logits = {who: nets[who](batch.image).logits[batch.count :] for who in ("student", "peer")}
        label = predict_probabilities(nets.teacher, batch.unlabelled).argmax(1)
        sure = {who: said.softmax(1).amax(1, keepdim=True) for who, said in logits.items()}
        won = (sure["student"] > sure["peer"]).float()
        return LossTerms(**{**terms, "pseudo_student": cross_entropy(won * logits["student"], label)})


@pytest.mark.parametrize(("rule", "counts"), [(CDS, False), (LoserTimesZero, True)])
def test_voxels_that_a_student_lost_are_not_in_its_mean(rule, counts):
    """The student wins the left half and says there what the teacher says; what it lost costs it nothing."""
    stage = TinyTrainer(replace(rule(), noise=replace(rule().noise, std=0.0)), classes=2, total=1, index=1)
    half = torch.zeros(2, 8, 8)
    half[0, :, :4], half[0, :, 4:] = 1 - 1e-7, 0.6
    half[1] = 1 - half[0]
    stage.nets["student"], stage.nets["teacher"] = ConstantTeacher(half), ConstantTeacher(half)
    stage.nets["peer"] = ConstantTeacher(torch.tensor([0.9, 0.1]).view(2, 1, 1).expand(2, 8, 8))
    b = random_batch(classes=2)
    b = replace(b, image=b.image[..., :8, :8], label=b.label[:, :8, :8])
    _, paid = next(stage.optimiser_steps(b))
    cost = float(paid["pseudo_student"])
    assert cost == pytest.approx(0.5 * math.log(2), rel=1e-3) if counts else cost < 1e-5


def test_students_of_one_kind_start_from_their_own_weights():
    for name in ("cds", "dsst", "ddl", "pmt", "hybrid_mt"):
        nets = TinyTrainer(METHODS[name]).nets
        peer = "peer1" if name == "ddl" else "peer"
        assert not torch.equal(nets.student.head.weight, nets[peer].head.weight), name


def test_two_students_that_outvote_nobody_are_cross_pseudo_supervision():
    two = TinyTrainer(replace(METHODS["ddl"], students=2), total=1, index=1)
    cps = TinyTrainer(METHODS["cps"], total=1, index=1)
    (_, got), (_, want) = next(two.optimiser_steps(random_batch())), next(cps.optimiser_steps(random_batch()))
    for mine, theirs in (("pseudo_student", "pseudo_student"), ("pseudo_peer1", "pseudo_peer")):
        torch.testing.assert_close(got[mine], want[theirs])


def test_only_the_student_whose_turn_it_is_learns_and_its_teacher_with_it():
    stage = TinyTrainer(METHODS["pmt"])
    first, second = ("peer", "tutor"), ("student", "teacher")
    for index, moving, resting in ((0, first, second), (10, second, first)):
        stage.index = index
        before = {name: stage.nets[name].head.weight.clone() for name in (*moving, *resting)}
        stage.step(random_batch(seed=stage.index))
        changed = {name for name, weight in before.items() if not torch.equal(weight, stage.nets[name].head.weight)}
        assert changed == set(moving)


def test_only_who_is_behind_follows_the_other():
    """The other contradicts the student on every unlabelled voxel; it matters only where the other is ahead."""

    def paid(*, behind: bool) -> float:
        stage, b = TinyTrainer(METHODS["pmt"], classes=2, total=1, index=1), random_batch(classes=2)
        right = 6.0 * onehot(b.label, 2) - 3.0
        sure = torch.sign(b.unlabelled[:, :1]) * 6
        own = torch.cat([sure, -sure], 1)
        stage.nets["teacher"] = Fixed(own)
        stage.nets["student"] = Fixed(torch.cat([-right if behind else right, own]))
        stage.nets["peer"] = Fixed(torch.cat([right if behind else -right, -own]))
        return float(next(stage.optimiser_steps(b))[1]["consistency"])

    assert paid(behind=False) < 1e-3
    assert paid(behind=True) > 0.9


class Fixed(nn.Module):
    """Says the same logits whatever it sees."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x, disturb=None):
        return Output(self.logits[-len(x) :])


# --- strong views ---


@pytest.mark.parametrize("name", ["unimatch", "cross_match"])
def test_every_box_cuts_view_and_label_alike(name):
    """A student that says what it sees pays nothing, however the views are cut and whatever is disturbed."""
    quiet = IntensityJitter(contrast=0.0, brightness=0.0, power=0.0)
    stage = TinyTrainer(replace(METHODS[name], box=CutMixBox(chance=1.0), jitter=quiet), classes=2, total=1, index=1)
    stage.nets["student"] = Echo()
    b = random_batch(classes=2, strong=False)
    sure = torch.sign(b.image[:, :1]) * 6
    _, paid = next(stage.optimiser_steps(replace(b, image=torch.cat([sure, -sure], 1))))
    assert float(paid["strong"]) < 1e-3 and float(paid["features"]) < 1e-3


def test_disturbed_rows_are_those_of_their_view_and_no_other():
    seen = {}

    class Watch(Echo):
        def forward(self, x, disturb=None):
            seen["changed"] = (disturb(torch.ones(len(x), 50, 4, 4)) != 1).flatten(1).any(1).tolist()
            return super().forward(x)

    for name, quiet in (("unimatch", 2 + 3), ("cross_match", 2 + 9)):
        stage = TinyTrainer(METHODS[name], classes=2)
        stage.nets["student"] = Watch()
        next(stage.optimiser_steps(random_batch(classes=2)))
        rows = 3 if name == "unimatch" else 12
        assert seen["changed"][:quiet] == [False] * quiet
        assert seen["changed"][quiet : quiet + rows] == [True] * rows
        assert not any(seen["changed"][quiet + rows :])


def test_a_bar_times_ln_2_lets_almost_everything_pass():
    """CrossMatch as released: 0.75 and more, times ln 2, is under 0.7; an unsure teacher is believed."""
    p = torch.rand(1, 1, 64, 64, generator=seeded())
    logits = torch.cat([p.log(), (1 - p).log()], 1)
    accepted = {
        bar: float(confident_pseudo_label(logits, confidence=bar)[1].mean()) for bar in (0.75, 0.75 * math.log(2))
    }
    assert accepted[0.75] == pytest.approx(0.5, abs=0.05)
    assert accepted[0.75 * math.log(2)] > 0.95
    stage = TinyTrainer(METHODS["cross_match"], classes=2)
    _, terms = next(stage.optimiser_steps(random_batch(classes=2)))
    assert 0.0 <= float(terms.notes["accepted"]) < 0.9


def test_what_is_not_believed_teaches_nothing():
    stage = TinyTrainer(replace(UniMatch(), confidence=0.999), classes=3)
    _, terms = next(stage.optimiser_steps(random_batch()))
    assert float(terms.notes["accepted"]) == 0.0 and float(terms["strong"].detach()) == 0.0


def test_an_adversarial_push_costs_more_than_a_push_at_random():
    stage = TinyTrainer(METHODS["cmmt"], total=1, index=1)
    for module in stage.nets.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    b = random_batch()
    _, terms = next(stage.optimiser_steps(b))
    chance = torch.randn(b.unlabelled.shape, generator=seeded(3))
    chance = 10.0 * nn.functional.normalize(chance.flatten(1), dim=1).view_as(chance)
    with torch.no_grad():
        own, pushed = (two_heads(stage.nets.student, x) for x in (b.unlabelled, b.unlabelled + chance))
        random = [dice(probabilities(q), probabilities(p)) for p, q in zip(own, pushed, strict=True)]
    assert float(terms["push"].detach()) > 1.2 * float(torch.stack(random).mean())


def test_doubt_is_discounted_less_and_less():
    costs = []
    for index in (0, 100):
        stage = TinyTrainer(METHODS["dycon"], index=index, total=100)
        _, terms = next(stage.optimiser_steps(random_batch()))
        costs.append(float(terms["uncertainty"].detach()))
    assert costs[0] > 5 * costs[1]  # beta falls from 5 to 0.5


# --- attention of teachers ---

KINDS = ("dual", "gate", "se", "dynamic")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "size"), [("unet", (32, 48)), ("vnet", (20, 16, 33))])
def test_teachers_take_attention_and_every_weight_of_it_learns(kind, name, size):
    small = {"widths": (4, 8, 8, 16, 16)} if name == "unet" else {"filters": 4}
    torch.manual_seed(0)
    network = teachers.build(name, channels=1, classes=3, attention=kind, **small).train()
    for weight in network.attend.parameters():
        if not weight.detach().any():
            nn.init.constant_(weight, 0.1)  # what begins at 0 shuts off what lies before it
    out = network(torch.randn(2, 1, *size))
    assert out.logits.shape == (2, 3, *size)
    out.logits.square().mean().backward()
    assert all(
        p.grad is not None and p.grad.any() and torch.isfinite(p.grad).all() for p in network.attend.parameters()
    )


@pytest.mark.parametrize("name", ["unet", "vnet"])
def test_without_attention_a_teacher_has_no_further_weights(name):
    plain, gated = (teachers.build(name, channels=1, classes=2, attention=kind) for kind in ("none", "gate"))
    further = set(gated.state_dict()) - set(plain.state_dict())
    assert further and all(key.startswith("attend.") for key in further)
    assert set(plain.state_dict()) <= set(gated.state_dict())


@pytest.mark.parametrize("name", ["unet", "vnet"])
def test_an_unknown_attention_is_named_in_one_line(name):
    with pytest.raises(ValueError, match=f"{name}: attention = 'duel': choose none, dual, gate, se, dynamic"):
        teachers.build(name, channels=1, classes=2, attention="duel")


@pytest.mark.parametrize("part", [Dual, Dynamic])
@pytest.mark.parametrize("dims", [2, 3])
def test_what_begins_at_weight_0_begins_as_the_same_network(part, dims):
    x = torch.randn(2, 8, *(6, 4, 5)[:dims])
    torch.testing.assert_close(part(8, dims=dims)(x), x)


def test_a_gate_says_where_and_never_shuts_what_it_is_given():
    torch.manual_seed(0)
    skip, deep = torch.rand(1, 4, 8, 8) + 0.1, torch.randn(1, 8, 4, 4)
    share = Gate(4, 8, dims=2)(skip, deep) / skip
    assert (share > 1).all() and (share < 2).all()
    torch.testing.assert_close(share, share[:, :1].expand_as(share))  # one answer a voxel, for all channels


def test_squeeze_excite_weighs_channels_and_begins_near_the_same_network():
    torch.manual_seed(0)
    part, x = SqueezeExcite(8, dims=3), torch.randn(2, 8, 6, 6, 6)
    with torch.no_grad():
        assert float((part(x) - x).abs().mean()) < 0.3 * float(x.abs().mean())


def test_a_dynamic_kernel_is_each_images_own():
    torch.manual_seed(0)
    part, x = Dynamic(8, dims=2).double(), torch.randn(3, 8, 6, 6).double()
    nn.init.constant_(part.scale, 1.0)
    torch.testing.assert_close(part(x)[1:2], part(x[1:2]))


def test_places_that_look_alike_speak_for_each_other():
    """Attention over places mixes far voxels in; without its weight a voxel hears nobody."""
    torch.manual_seed(0)
    part, x = Dual(8, dims=2), torch.randn(1, 8, 4, 4)
    far = x.clone()
    far[..., -1, -1] += 3.0
    assert torch.equal(part(x)[..., 0, 0], part(far)[..., 0, 0])
    nn.init.constant_(part.places, 1.0)
    assert not torch.allclose(part(x)[..., 0, 0], part(far)[..., 0, 0])


def test_gates_listen_to_the_map_below_them():
    torch.manual_seed(0)
    attend = Attend("gate", (4, 8, 16), dims=2)
    maps = [torch.rand(1, 4, 16, 16), torch.rand(1, 8, 8, 8), torch.rand(1, 16, 4, 4)]
    out = attend(maps)
    assert [o.shape for o in out] == [m.shape for m in maps] and torch.equal(out[-1], maps[-1])
    moved = attend([maps[0], maps[1], maps[2] + 1.0])
    assert not torch.allclose(out[1], moved[1]) and not torch.allclose(out[0], moved[0])


def test_a_plain_average_is_a_residual_one_without_gain():
    torch.manual_seed(0)
    one, student = nn.Linear(3, 3), nn.Linear(3, 3)
    two = nn.Linear(3, 3)
    two.load_state_dict(one.state_dict())
    Ema().update(one, [student], Step(50, 100))
    ResidualEma(gain=0.0).update(two, [student], Step(50, 100))
    torch.testing.assert_close(one.weight, two.weight)
