"""Checks of losses: finite, detached targets, gradients that reach the right networks."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from edgemt.learning.auxiliary_tasks import Discriminator
from edgemt.learning.ema import Ema
from edgemt.learning.method import Method
from edgemt.learning.roles import Frozen
from edgemt.testing.require import not_none, require, with_low_confidence
from edgemt.testing.tiny_training import OracleDiscriminator, TinyNetwork, TinyTrainer, random_batch

ROWS = ((1, 3), (3, 1), (2, 0))  # labelled and unlabelled rows of a batch


def check_finite(trainer: TinyTrainer, *, labelled: int, unlabelled: int) -> None:
    """Every logged loss of the next two steps is finite, with and without a strong view."""
    sizes = {"dims": trainer.dims, "classes": trainer.classes, "labelled": labelled, "unlabelled": unlabelled}
    for strong in (True, False):
        logged = trainer.step(random_batch(**sizes, strong=strong))
        require(bool(logged), "no loss at all")
        require(all(map(math.isfinite, logged.values())), f"{labelled}+{unlabelled} rows: not finite: {logged}")


def check_any_batch_composition(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    """Losses are finite for each pair of labelled and unlabelled rows in `ROWS`."""
    trainer = TinyTrainer(method, dims=dims, classes=classes)
    for labelled, unlabelled in ROWS:
        check_finite(trainer, labelled=labelled, unlabelled=unlabelled)


def check_every_loss_has_gradient(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    """Every loss term has a non-zero gradient with respect to the parameters it trains."""
    trainer = TinyTrainer(with_low_confidence(method), dims=dims, classes=classes, total=1, index=1)  # ramps are full
    trainer.nets.double()
    b = random_batch(dims=dims, classes=classes)
    b = replace(b, image=b.image.double(), strong=not_none(b.strong).double(), soft=not_none(b.soft).double())
    for names, terms in trainer.optimiser_steps(b):
        weights = [p for name in names for p in trainer.nets[name].parameters()]
        for name, term in terms.items():
            require(term.requires_grad, f"{name}: has no gradient")
            gradients = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
            norm = sum(float(g.norm()) for g in gradients if g is not None)
            require(norm > 1e-7, f"{name}: its gradient is {norm}")


def check_named_losses_reach_one_network(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    """With several students, a term named after one has no gradient in the others: a peer's output is a target."""
    trainer = TinyTrainer(method, dims=dims, classes=classes, total=1, index=1)
    for names, terms in trainer.optimiser_steps(random_batch(dims=dims, classes=classes)):
        for name, term in terms.items():
            owner = name.rpartition("_")[2]
            for other in [o for o in names if owner in names and o != owner]:
                weights = list(trainer.nets[other].parameters())
                gradients = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
                require(all(g is None or not g.any() for g in gradients), f"{name}: reaches {other}")


def check_targets_are_detached(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    """No gradient enters a teacher, even if its parameters require one."""
    trainer = TinyTrainer(method, dims=dims, classes=classes, total=1, index=1)
    teachers = trainer.of(Ema) + trainer.of(Frozen)
    for name in teachers:
        trainer.nets[name].requires_grad_(True)
    for _, terms in trainer.optimiser_steps(random_batch(dims=dims, classes=classes)):
        torch.stack(list(terms.values())).sum().backward()
    for name in teachers:
        require(all(p.grad is None for p in trainer.nets[name].parameters()), f"{name}: a gradient reached it")


def check_unlabelled_images_have_gradient(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    """Two batches that differ only in their unlabelled images give different gradients, neither of them 0."""
    gradients = []
    for changed in (False, True):
        b = random_batch(dims=dims, classes=classes)
        image = b.image.clone()
        if changed:
            image[b.count :] = image[b.count :].flip(-1) * 1.5
        trainer = TinyTrainer(with_low_confidence(method), dims=dims, classes=classes, total=1, index=1)
        _, terms = next(trainer.optimiser_steps(replace(b, image=image, strong=image[b.count :])))
        unsupervised = [term for name, term in terms.items() if not name.startswith("supervised")]
        weights = list(trainer.nets.student.parameters())
        require(bool(unsupervised), "no term of its own for the unlabelled images")
        found = torch.autograd.grad(torch.stack(unsupervised).sum(), weights, allow_unused=True)
        gradients.append(torch.cat([g.flatten() for g in found if g is not None]))
    require(bool(gradients[0].norm() > 1e-7), "the unlabelled images teach nothing")
    require(not torch.allclose(gradients[0], gradients[1], rtol=1e-3), "the unlabelled images make no difference")


def check_class_permutation_invariance(method: Method, *, dims: int = 2, classes: int = 4) -> None:
    """Foreground classes permuted in networks and labels: every loss keeps its value."""
    order = [0, classes - 1, *range(1, classes - 1)]

    def losses(permuted: bool) -> dict[str, Tensor]:
        trainer = TinyTrainer(with_low_confidence(method), dims=dims, classes=classes)
        b = random_batch(dims=dims, classes=classes)
        if permuted:
            label = torch.tensor([order.index(c) for c in range(classes)])[b.label]
            b = replace(b, label=label, soft=not_none(b.soft)[:, order])
            for net in trainer.nets.values():
                if isinstance(net, TinyNetwork):
                    net.permute_classes(order)
                elif isinstance(net, Discriminator):
                    net.probability_conv.weight.data = net.probability_conv.weight.data[:, order]
        return {name: term.detach() for _, terms in trainer.optimiser_steps(b) for name, term in terms.items()}

    plain, permuted = losses(False), losses(True)
    for name, value in plain.items():
        torch.testing.assert_close(
            permuted[name], value, rtol=1e-4, atol=1e-6, msg=f"{name}: depends on the order of classes"
        )


def check_discriminator_targets(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    """For any number of labelled and unlabelled rows, a perfect discriminator has loss 0."""
    for labelled, unlabelled in ((1, 3), (3, 1), (2, 2)):
        trainer = TinyTrainer(method, dims=dims, classes=classes)
        trainer.nets["discriminator"] = OracleDiscriminator()
        b = random_batch(dims=dims, classes=classes, labelled=labelled, unlabelled=unlabelled)
        image = b.image * 0.01
        image[:labelled] += 1.0
        image[labelled:] -= 1.0
        *_, (_, terms) = trainer.optimiser_steps(replace(b, image=image))
        loss = float(terms["discriminator"].detach())
        require(loss < 1e-3, f"{labelled}+{unlabelled} rows: loss of a perfect discriminator is {loss:.3g}, not 0")
