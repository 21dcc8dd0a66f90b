"""What every method must keep, as functions that raise AssertionError: the table is held to it."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
import torch.nn.functional as F
from small_stage import Oracle, Says, Stage, Tiny, batch_of
from torch import Tensor, nn

from edgemt.contract import Step
from edgemt.losses import distance, onehot
from edgemt.methods import Discriminator, Method
from edgemt.methods.mean_teacher import MeanTeacher
from edgemt.roles import Ema, Frozen, Role, Trainable, set_modes, trainable, update_averages
from edgemt.targets import Confident


def eager(method: Method) -> Method:
    """The same method where a teacher that has learnt nothing is already believed."""
    if isinstance(method, MeanTeacher) and isinstance(method.target, Confident):
        return replace(method, target=replace(method.target, confidence=0.3))
    if hasattr(method, "confidence"):
        return replace(method, confidence=0.3)  # type: ignore[call-arg]
    return method


def same_state(a: nn.Module, b: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, b[key]) for key, value in a.state_dict().items())


def check_finite(method: Method, *, dims: int, classes: int, labelled: int, unlabelled: int) -> None:
    stage = Stage(method, dims=dims, classes=classes)
    sizes = {"dims": dims, "classes": classes, "labelled": labelled, "unlabelled": unlabelled}
    for strong in (True, False):
        logged = stage.step(batch_of(**sizes, strong=strong))
        assert logged, "no loss at all"
        assert all(torch.isfinite(torch.tensor(v)) for v in logged.values()), f"not finite: {logged}"


def check_every_term_teaches(method: Method) -> None:
    """Each term's gradient reaches the weights of who pays it, and is not the zero of a constant."""
    stage = Stage(method, total=1, index=1)  # the ramps are up
    stage.nets.double()
    b = batch_of()
    b = replace(b, image=b.image.double(), strong=b.strong.double(), soft=b.soft.double())
    for who, terms in stage.turns(b):
        weights = [p for name in who for p in stage.nets[name].parameters()]
        for name, term in terms.items():
            assert term.requires_grad, f"{name}: has no gradient"
            slopes = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
            size = sum(float(s.norm()) for s in slopes if s is not None)
            assert size > 1e-7, f"{name}: its gradient is {size}"


def check_named_terms_stay_with_their_player(method: Method) -> None:
    """With several students, a term named after one must not move the other: what a peer says is a target."""
    stage = Stage(method, total=1, index=1)
    for who, terms in stage.turns(batch_of()):
        for name, term in terms.items():
            owner = name.rpartition("_")[2]
            for other in [o for o in who if owner in who and o != owner]:
                weights = list(stage.nets[other].parameters())
                slopes = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
                assert all(s is None or not s.any() for s in slopes), f"{name}: reaches {other}"


def check_targets_are_detached(method: Method) -> None:
    """No gradient enters a teacher, not even if someone forgets to freeze it."""
    stage = Stage(method, total=1, index=1)
    guides = stage.of(Ema) + stage.of(Frozen)
    for name in guides:
        stage.nets[name].requires_grad_(True)
    for _, terms in stage.turns(batch_of()):
        torch.stack(list(terms.values())).sum().backward()
    for name in guides:
        assert all(p.grad is None for p in stage.nets[name].parameters()), f"{name}: a gradient reached it"


def check_unlabelled_images_matter(method: Method) -> None:
    """Two batches that differ only in their unlabelled images give different gradients, neither of them 0."""
    slopes = []
    for turn in (False, True):
        b = batch_of()
        image = b.image.clone()
        if turn:
            image[b.count :] = image[b.count :].flip(-1) * 1.5
        stage = Stage(method, total=1, index=1)
        _, terms = next(stage.turns(replace(b, image=image, strong=image[b.count :])))
        free = [term for name, term in terms.items() if not name.startswith("supervised")]
        weights = list(stage.nets.student.parameters())
        assert free, "no term of its own for the unlabelled images"
        found = torch.autograd.grad(torch.stack(free).sum(), weights, allow_unused=True)
        slopes.append(torch.cat([s.flatten() for s in found if s is not None]))
    assert slopes[0].norm() > 1e-7, "the unlabelled images teach nothing"
    assert not torch.allclose(slopes[0], slopes[1], rtol=1e-3), "the unlabelled images make no difference"


def check_only_trainable_players_learn(method: Method) -> None:
    stage = Stage(method)
    before = {name: copy.deepcopy(net.state_dict()) for name, net in stage.nets.items()}
    for i in range(2):
        stage.step(batch_of(seed=i))
    for name, role in stage.roles.items():
        net = stage.nets[name]
        if isinstance(role, Frozen):
            assert same_state(net, before[name]), f"{name}: a frozen player changed"
            assert not net.training, f"{name}: a frozen player left eval mode"
        else:
            assert not same_state(net, before[name]), f"{name}: did not move"
        if not isinstance(role, Trainable):
            assert all(p.grad is None and not p.requires_grad for p in net.parameters()), f"{name}: was trained"


def check_resume_is_exact(method: Method) -> None:
    """Four steps, and four steps with everything saved and taken up again in between: the same bits."""

    def run(cut: bool) -> Stage:
        stage = Stage(method)
        for i in range(4):
            if cut and i == 2:
                saved = copy.deepcopy(stage.nets.state_dict())
                slots = copy.deepcopy({name: o.state_dict() for name, o in stage.optimisers.items()})
                stage = Stage(method, index=2)
                stage.nets.load_state_dict(saved)
                for name, optimiser in stage.optimisers.items():
                    optimiser.load_state_dict(slots[name])
            stage.step(batch_of(seed=i))
        return stage

    straight, resumed = run(False), run(True)
    assert same_state(straight.nets, resumed.nets.state_dict()), "resuming changed the weights"


def check_nothing_global_is_drawn(method: Method) -> None:
    """With dropout off, the global generator is not touched: all chance comes from the step."""
    stage = Stage(method)
    for module in stage.nets.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    torch.manual_seed(0)
    set_modes(stage.nets, stage.roles)
    before = torch.get_rng_state()
    for _ in method.steps(stage.nets, batch_of(), Step(1, 10, torch.Generator().manual_seed(0))):
        pass
    assert torch.equal(before, torch.get_rng_state()), "the method drew from the global generator"


def check_names_of_classes_do_not_matter(method: Method) -> None:
    """Foreground classes renamed in networks and labels alike: no loss notices."""
    order = [0, 3, 1, 2]

    def terms(renamed: bool) -> dict[str, Tensor]:
        stage, b = Stage(method, classes=4), batch_of(classes=4)
        if renamed:
            b = replace(b, label=torch.tensor([order.index(c) for c in range(4)])[b.label], soft=b.soft[:, order])
            for net in stage.nets.values():
                if isinstance(net, Tiny):
                    net.rename(order)
                elif isinstance(net, Discriminator):
                    net.said.weight.data = net.said.weight.data[:, order]
        return {name: term.detach() for _, found in stage.turns(b) for name, term in found.items()}

    plain, renamed = terms(False), terms(True)
    for name, value in plain.items():
        torch.testing.assert_close(renamed[name], value, rtol=1e-4, atol=1e-6, msg=f"{name}: knows a class")


def check_averages_converge(roles: dict[str, Role], method: Method) -> None:
    """While its student stands still, every average becomes it, and says in eval mode what it says."""
    stage = Stage(method)
    quick = {n: replace(r, decay=0.5, warmup=False) if isinstance(r, Ema) else r for n, r in roles.items()}
    stage.roles = quick
    for i in range(3):
        stage.step(batch_of(seed=i))
    with torch.no_grad():
        for p in stage.nets.student.parameters():
            p.add_(torch.randn_like(p))
    for role in quick.values():
        for peer in role.of[1:] if isinstance(role, Ema) else ():
            stage.nets[peer].load_state_dict(stage.nets[role.of[0]].state_dict())  # the mean of several is the first
    still = {n: copy.deepcopy(stage.nets[n].state_dict()) for n in trainable(quick)}
    for i in range(40):
        for _ in stage.turns(batch_of(seed=i)):
            pass
        for name, state in still.items():
            stage.nets[name].load_state_dict(state)
        update_averages(stage.nets, quick, Step(i, 40))
    probe = batch_of(seed=99).image
    for name in stage.of(Ema):
        source = quick[name].of[0]  # type: ignore[union-attr]
        with torch.no_grad():
            mine, theirs = (stage.nets[n].eval()(probe).logits for n in (name, source))
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4, msg=f"{name}: does not become {source}")


def check_the_discriminator_is_told_the_truth(method: Method) -> None:
    """For any number of labelled and unlabelled rows: an all-knowing discriminator has nothing to pay."""
    for labelled, unlabelled in ((1, 3), (3, 1), (2, 2)):
        stage = Stage(method)
        stage.nets["discriminator"] = Oracle()
        b = batch_of(labelled=labelled, unlabelled=unlabelled)
        image = b.image * 0.01
        image[:labelled] += 1.0
        image[labelled:] -= 1.0
        *_, (_, terms) = stage.turns(replace(b, image=image))
        assert float(terms["discriminator"].detach()) < 1e-3, f"{labelled}+{unlabelled} rows: it was told a lie"


def check_masked_voxels_do_not_count(far=distance) -> None:
    """What has no weight is not in the mean, and what the student says there changes nothing."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, generator=g)
    q = onehot(torch.randint(0, 3, (2, 8, 8), generator=g), 3)
    weight = torch.zeros(2, 1, 8, 8)
    weight[:, :, :3] = 1.0
    other = torch.where(weight.bool(), logits, torch.randn(2, 3, 8, 8, generator=g) * 5)
    for kind in ("mse", "kl", "ce", "dice", "dice_ce"):
        masked = far(kind, logits, q, weight=weight)
        torch.testing.assert_close(far(kind, other, q, weight=weight), masked, msg=f"{kind}: looks behind the mask")
        alone = far(kind, logits[:, :, :3], q[:, :, :3])
        torch.testing.assert_close(masked, alone, msg=f"{kind}: masked voxels are in the mean")


def check_the_bar_knows_the_number_of_classes(rule, *, classes: int) -> None:
    """At the end of the run everything passes; at the start an even guess does not and a fair one does."""
    even = torch.full((classes,), 1.0 / classes)
    fair = F.normalize(torch.tensor([1.0] + [0.25 / (classes - 1)] * (classes - 1)), p=1, dim=0)
    image = torch.zeros(2, 1, 4, 4)

    def accepted(p: Tensor, index: int) -> float:
        step = Step(index, 100, torch.Generator().manual_seed(0))
        _, weight = rule(Says(p.view(-1, 1, 1).expand(classes, 4, 4)), image, step)
        return float(weight.mean())

    assert accepted(fair, 100) == 1.0, "at the end something is still refused"
    assert accepted(even * 0.9 + fair * 0.1, 100) == 1.0, "at the end something is still refused"
    assert accepted(even, 0) == 0.0, "an even guess was believed"
    assert accepted(fair, 0) == 1.0, "a fair guess was refused"
