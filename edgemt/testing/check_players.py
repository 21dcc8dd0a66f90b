"""Promises about players: who moves, who stays, and that a run can be cut anywhere."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from edgemt.contract import Step
from edgemt.learning.method import Method
from edgemt.learning.roles import Ema, Frozen, Role, Trainable, set_modes, trainable, update_averages
from edgemt.testing.require import must, same_state
from edgemt.testing.tiny_training import TinyTrainer, batch_of


def check_only_trainable_players_learn(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    stage = TinyTrainer(method, dims=dims, classes=classes, total=2)  # players that take turns have one each
    before = {name: copy.deepcopy(net.state_dict()) for name, net in stage.nets.items()}
    for i in range(2):
        stage.step(batch_of(dims=dims, classes=classes, seed=i))
    for name, role in stage.roles.items():
        net = stage.nets[name]
        if isinstance(role, Frozen):
            must(same_state(net, before[name]), f"{name}: a frozen player changed")
            must(not net.training, f"{name}: a frozen player left eval mode")
        else:
            must(not same_state(net, before[name]), f"{name}: did not move")
        if not isinstance(role, Trainable):
            idle = all(p.grad is None and not p.requires_grad for p in net.parameters())
            must(idle, f"{name}: was trained")


def check_resume_is_exact(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    """Four steps, and four steps with everything saved and taken up again in between: the same bits."""

    def run(cut: bool) -> TinyTrainer:
        stage = TinyTrainer(method, dims=dims, classes=classes)
        for i in range(4):
            if cut and i == 2:
                saved = copy.deepcopy(stage.nets.state_dict())
                slots = copy.deepcopy({name: o.state_dict() for name, o in stage.optimisers.items()})
                stage = TinyTrainer(method, dims=dims, classes=classes, index=2)
                stage.nets.load_state_dict(saved)
                for name, optimiser in stage.optimisers.items():
                    optimiser.load_state_dict(slots[name])
            stage.step(batch_of(dims=dims, classes=classes, seed=i))
        return stage

    straight, resumed = run(False), run(True)
    must(same_state(straight.nets, resumed.nets.state_dict()), "resuming changed the weights")


def check_nothing_global_is_drawn(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    """With dropout off, the global generator is not touched: all chance comes from the step."""
    stage = TinyTrainer(method, dims=dims, classes=classes)
    for module in stage.nets.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d | nn.Dropout3d):
            module.p = 0.0
    torch.manual_seed(0)
    set_modes(stage.nets, stage.roles)
    before = torch.get_rng_state()
    batch = batch_of(dims=dims, classes=classes)
    for _ in method.steps(stage.nets, batch, Step(1, 10, torch.Generator().manual_seed(0))):
        pass
    must(torch.equal(before, torch.get_rng_state()), "the method drew from the global generator")


def check_averages_converge(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    """While its student stands still, every average becomes it, and says in eval mode what it says."""
    stage = TinyTrainer(method, dims=dims, classes=classes)
    quick: dict[str, Role] = {
        name: replace(role, decay=0.5, warmup=False) if isinstance(role, Ema) else role
        for name, role in stage.roles.items()
    }
    stage.roles = quick
    for i in range(3):
        stage.step(batch_of(dims=dims, classes=classes, seed=i))
    with torch.no_grad():
        for p in stage.nets.student.parameters():
            p.add_(torch.randn_like(p))
    for role in quick.values():
        if isinstance(role, Ema):
            for peer in role.of[1:]:  # the mean of several is the first
                stage.nets[peer].load_state_dict(stage.nets[role.of[0]].state_dict())
    still = {n: copy.deepcopy(stage.nets[n].state_dict()) for n in trainable(quick)}
    for i in range(40):
        if i % 4 == 0:  # what a step does to an average beside its update: its own looks, its mode
            for _ in stage.turns(batch_of(dims=dims, classes=classes, seed=i)):
                pass
        for name, state in still.items():
            stage.nets[name].load_state_dict(state)
        update_averages(stage.nets, quick, Step(i, 40))
    probe = batch_of(dims=dims, classes=classes, seed=99).image
    for name in stage.of(Ema):
        source = quick[name].of[0]  # type: ignore[union-attr]
        with torch.no_grad():
            mine, theirs = (stage.nets[n].eval()(probe).logits for n in (name, source))
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4, msg=f"{name}: does not become {source}")


def check_it_learns_an_easy_task(method: Method, *, dims: int = 2, classes: int = 2) -> None:
    """The class is the sign of the first channel; forty steps on fresh batches lower the supervised loss."""
    stage = TinyTrainer(method, dims=dims, classes=classes, total=40)
    paid = []
    for i in range(40):
        b = batch_of(dims=dims, classes=classes, seed=i)
        terms = stage.step(replace(b, label=(b.image[: b.count, 0] > 0).long()))
        paid.append(next((v for k, v in terms.items() if k.startswith("supervised")), 0.0))
    must(paid[0] > 0, "no term is named supervised")
    must(
        sum(paid[-5:]) < 0.8 * sum(paid[:5]), f"its loss went from {sum(paid[:5]) / 5:.3f} to {sum(paid[-5:]) / 5:.3f}"
    )
