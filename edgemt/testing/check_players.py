"""Checks of networks: which are updated, that averages converge, and that a run can be resumed at any step."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from edgemt.contract import Step
from edgemt.learning.ema import Ema
from edgemt.learning.method import Method
from edgemt.learning.roles import Frozen, Role, Trainable, set_modes, trainable_names, update_averages
from edgemt.testing.require import require, same_state
from edgemt.testing.tiny_training import TinyTrainer, random_batch


def check_only_trainable_networks_change(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    """Two steps change every trainable network and average; frozen ones keep their bits and stay in eval mode."""
    trainer = TinyTrainer(method, dims=dims, classes=classes, total=2)  # each of two alternating networks moves once
    before = {name: copy.deepcopy(net.state_dict()) for name, net in trainer.nets.items()}
    for i in range(2):
        trainer.step(random_batch(dims=dims, classes=classes, seed=i))
    for name, role in trainer.roles.items():
        net = trainer.nets[name]
        if isinstance(role, Frozen):
            require(same_state(net, before[name]), f"{name}: a frozen player changed")
            require(not net.training, f"{name}: a frozen player left eval mode")
        else:
            require(not same_state(net, before[name]), f"{name}: did not move")
        if not isinstance(role, Trainable):
            untrained = all(p.grad is None and not p.requires_grad for p in net.parameters())
            require(untrained, f"{name}: was trained")


def check_resume_is_exact(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    """Four steps, and four steps with everything saved and loaded after the second: the same bits."""

    def run(interrupted: bool) -> TinyTrainer:
        trainer = TinyTrainer(method, dims=dims, classes=classes)
        for i in range(4):
            if interrupted and i == 2:
                saved = copy.deepcopy(trainer.nets.state_dict())
                slots = copy.deepcopy({name: o.state_dict() for name, o in trainer.optimisers.items()})
                trainer = TinyTrainer(method, dims=dims, classes=classes, index=2)
                trainer.nets.load_state_dict(saved)
                for name, optimiser in trainer.optimisers.items():
                    optimiser.load_state_dict(slots[name])
            trainer.step(random_batch(dims=dims, classes=classes, seed=i))
        return trainer

    straight, resumed = run(False), run(True)
    require(same_state(straight.nets, resumed.nets.state_dict()), "resuming changed the weights")


def check_no_global_rng(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    """With dropout off, the global generator is not touched: every random draw uses the generator of the step."""
    trainer = TinyTrainer(method, dims=dims, classes=classes)
    for module in trainer.nets.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d | nn.Dropout3d):
            module.p = 0.0
    torch.manual_seed(0)
    set_modes(trainer.nets, trainer.roles)
    before = torch.get_rng_state()
    batch = random_batch(dims=dims, classes=classes)
    for _ in method.steps(trainer.nets, batch, Step(1, 10, torch.Generator().manual_seed(0))):
        pass
    require(torch.equal(before, torch.get_rng_state()), "the method drew from the global generator")


def check_ema_converges(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    """While its student is constant, every average converges to it, and gives the same logits in eval mode."""
    trainer = TinyTrainer(method, dims=dims, classes=classes)
    fast: dict[str, Role] = {
        name: replace(role, decay=0.5, warmup=False) if isinstance(role, Ema) else role
        for name, role in trainer.roles.items()
    }
    trainer.roles = fast
    for i in range(3):
        trainer.step(random_batch(dims=dims, classes=classes, seed=i))
    with torch.no_grad():
        for p in trainer.nets.student.parameters():
            p.add_(torch.randn_like(p))
    for role in fast.values():
        if isinstance(role, Ema):
            for peer in role.of[1:]:  # the mean of several networks is then the first of them
                trainer.nets[peer].load_state_dict(trainer.nets[role.of[0]].state_dict())
    constant = {n: copy.deepcopy(trainer.nets[n].state_dict()) for n in trainable_names(fast)}
    for i in range(40):
        if i % 4 == 0:  # what a step changes in an average besides its update: running statistics, mode
            for _ in trainer.optimiser_steps(random_batch(dims=dims, classes=classes, seed=i)):
                pass
            for name, state in constant.items():
                trainer.nets[name].load_state_dict(state)
        update_averages(trainer.nets, fast, Step(i, 40))
    image = random_batch(dims=dims, classes=classes, seed=99).image
    for name in trainer.of(Ema):
        source = fast[name].of[0]  # type: ignore[union-attr]
        with torch.no_grad():
            average, student = (trainer.nets[n].eval()(image).logits for n in (name, source))
        torch.testing.assert_close(average, student, rtol=1e-3, atol=1e-4, msg=f"{name}: does not become {source}")


def check_learns_easy_task(method: Method, *, dims: int = 2, classes: int = 2) -> None:
    """The class is the sign of the first channel; forty steps on fresh batches lower the supervised loss by 20 %."""
    trainer = TinyTrainer(method, dims=dims, classes=classes, total=40)
    losses = []
    for i in range(40):
        b = random_batch(dims=dims, classes=classes, seed=i)
        terms = trainer.step(replace(b, label=(b.image[: b.count, 0] > 0).long()))
        losses.append(next((v for k, v in terms.items() if k.startswith("supervised")), 0.0))
    first, last = sum(losses[:5]), sum(losses[-5:])
    require(losses[0] > 0, "no term is named supervised")
    require(last < 0.8 * first, f"its loss went from {first / 5:.3f} to {last / 5:.3f}")
