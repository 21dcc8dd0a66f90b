"""Promises about losses: what they are made of, and whom their gradients reach."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from edgemt.learning.auxiliary_tasks import Discriminator
from edgemt.learning.method import Method
from edgemt.learning.roles import Ema, Frozen
from edgemt.testing.require import eager, given, must
from edgemt.testing.tiny_training import OracleDiscriminator, TinyNetwork, TinyTrainer, batch_of

ROWS = ((1, 3), (3, 1), (2, 0))  # labelled and unlabelled rows of a batch


def check_finite(method: Method, *, dims: int, classes: int, labelled: int, unlabelled: int) -> None:
    stage = TinyTrainer(method, dims=dims, classes=classes)
    for strong in (True, False):
        logged = stage.step(
            batch_of(dims=dims, classes=classes, labelled=labelled, unlabelled=unlabelled, strong=strong)
        )
        must(bool(logged), "no loss at all")
        must(
            all(torch.isfinite(torch.tensor(v)) for v in logged.values()),
            f"{labelled}+{unlabelled} rows: not finite: {logged}",
        )


def check_it_steps_with_any_rows(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    for labelled, unlabelled in ROWS:
        check_finite(method, dims=dims, classes=classes, labelled=labelled, unlabelled=unlabelled)


def check_every_term_teaches(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    """Each term's gradient reaches the weights of who pays it, and is not the zero of a constant."""
    stage = TinyTrainer(eager(method), dims=dims, classes=classes, total=1, index=1)  # the ramps are up
    stage.nets.double()
    b = batch_of(dims=dims, classes=classes)
    b = replace(b, image=b.image.double(), strong=given(b.strong).double(), soft=given(b.soft).double())
    for who, terms in stage.turns(b):
        weights = [p for name in who for p in stage.nets[name].parameters()]
        for name, term in terms.items():
            must(term.requires_grad, f"{name}: has no gradient")
            slopes = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
            size = sum(float(s.norm()) for s in slopes if s is not None)
            must(size > 1e-7, f"{name}: its gradient is {size}")


def check_named_terms_stay_with_their_player(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    """With several students, a term named after one must not move the other: what a peer says is a target."""
    stage = TinyTrainer(method, dims=dims, classes=classes, total=1, index=1)
    for who, terms in stage.turns(batch_of(dims=dims, classes=classes)):
        for name, term in terms.items():
            owner = name.rpartition("_")[2]
            for other in [o for o in who if owner in who and o != owner]:
                weights = list(stage.nets[other].parameters())
                slopes = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
                must(all(s is None or not s.any() for s in slopes), f"{name}: reaches {other}")


def check_targets_are_detached(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    """No gradient enters a teacher, not even if someone forgets to freeze it."""
    stage = TinyTrainer(method, dims=dims, classes=classes, total=1, index=1)
    guides = stage.of(Ema) + stage.of(Frozen)
    for name in guides:
        stage.nets[name].requires_grad_(True)
    for _, terms in stage.turns(batch_of(dims=dims, classes=classes)):
        torch.stack(list(terms.values())).sum().backward()
    for name in guides:
        must(all(p.grad is None for p in stage.nets[name].parameters()), f"{name}: a gradient reached it")


def check_unlabelled_images_matter(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    """Two batches that differ only in their unlabelled images give different gradients, neither of them 0."""
    slopes = []
    for turn in (False, True):
        b = batch_of(dims=dims, classes=classes)
        image = b.image.clone()
        if turn:
            image[b.count :] = image[b.count :].flip(-1) * 1.5
        stage = TinyTrainer(eager(method), dims=dims, classes=classes, total=1, index=1)
        _, terms = next(stage.turns(replace(b, image=image, strong=image[b.count :])))
        free = [term for name, term in terms.items() if not name.startswith("supervised")]
        weights = list(stage.nets.student.parameters())
        must(bool(free), "no term of its own for the unlabelled images")
        found = torch.autograd.grad(torch.stack(free).sum(), weights, allow_unused=True)
        slopes.append(torch.cat([s.flatten() for s in found if s is not None]))
    must(bool(slopes[0].norm() > 1e-7), "the unlabelled images teach nothing")
    must(not torch.allclose(slopes[0], slopes[1], rtol=1e-3), "the unlabelled images make no difference")


def check_names_of_classes_do_not_matter(method: Method, *, dims: int = 2, classes: int = 4) -> None:
    """Foreground classes renamed in networks and labels alike: no loss notices."""
    order = [0, classes - 1, *range(1, classes - 1)]

    def terms(renamed: bool) -> dict[str, Tensor]:
        stage, b = TinyTrainer(eager(method), dims=dims, classes=classes), batch_of(dims=dims, classes=classes)
        if renamed:
            label = torch.tensor([order.index(c) for c in range(classes)])[b.label]
            b = replace(b, label=label, soft=given(b.soft)[:, order])
            for net in stage.nets.values():
                if isinstance(net, TinyNetwork):
                    net.rename(order)
                elif isinstance(net, Discriminator):
                    net.said.weight.data = net.said.weight.data[:, order]
        return {name: term.detach() for _, found in stage.turns(b) for name, term in found.items()}

    plain, renamed = terms(False), terms(True)
    for name, value in plain.items():
        torch.testing.assert_close(renamed[name], value, rtol=1e-4, atol=1e-6, msg=f"{name}: knows a class")


def check_the_discriminator_is_told_the_truth(method: Method, *, dims: int = 2, classes: int = 3) -> None:
    """For any number of labelled and unlabelled rows: an all-knowing discriminator has nothing to pay."""
    for labelled, unlabelled in ((1, 3), (3, 1), (2, 2)):
        stage = TinyTrainer(method, dims=dims, classes=classes)
        stage.nets["discriminator"] = OracleDiscriminator()
        b = batch_of(dims=dims, classes=classes, labelled=labelled, unlabelled=unlabelled)
        image = b.image * 0.01
        image[:labelled] += 1.0
        image[labelled:] -= 1.0
        *_, (_, terms) = stage.turns(replace(b, image=image))
        told = float(terms["discriminator"].detach())
        must(told < 1e-3, f"{labelled}+{unlabelled} rows: it was told a lie")
