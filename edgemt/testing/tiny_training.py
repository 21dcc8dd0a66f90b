"""Training of a method on tiny networks and random batches, with an engine of thirty lines.

Shapes: N batch, L labelled, U unlabelled, C classes, K image channels, *space 2 or 3 axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from edgemt.contract import HEADS, Batch, Disturb, DisturbScales, Output, Step
from edgemt.learning.auxiliary_tasks import Discriminator
from edgemt.learning.feature_losses import enable_maps
from edgemt.learning.feature_term import FeatureTerm
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.roles import FeatureBank, Memory, build_networks, set_modes, trainable_names, update_averages

CHANNELS = 2


class TinyNetwork(nn.Module):
    """A small network with batch norm, dropout and the extra heads named in `heads`."""

    def __init__(self, dims: int, classes: int, heads: Sequence[str] = HEADS) -> None:
        super().__init__()
        self.heads = frozenset(heads)
        self.num_extra_decoders = len({"decoder2", "decoder3"} & self.heads)
        conv, norm = (nn.Conv3d, nn.BatchNorm3d) if dims == 3 else (nn.Conv2d, nn.BatchNorm2d)
        self.body = nn.Sequential(conv(CHANNELS, 8, 3, padding=1), norm(8), nn.ReLU(), nn.Dropout(0.2))
        self.head = conv(8, classes, 1)
        self.sdf = conv(8, classes - 1, 1) if "sdf" in self.heads else None
        counts = 2 if "scales" in self.heads else 0, self.num_extra_decoders
        self.scales, self.decoders = (nn.ModuleList(conv(8, classes, 1) for _ in range(n)) for n in counts)
        self.maps = ""  # set by `enable_maps`, as in students and teachers
        self.halve = (nn.AvgPool3d if dims == 3 else nn.AvgPool2d)(2)

    def forward(self, x: Tensor, disturb: Disturb | None = None, disturb_scales: DisturbScales | None = None) -> Output:
        if disturb is not None and "disturb" not in self.heads:
            raise ValueError("disturb: the method passes it to the network, and heads does not name it")
        f = self.body(x)
        f = f if disturb is None else disturb(f)
        coarser = [f if disturb_scales is None else disturb_scales(level, f) for level in range(len(self.scales))]
        scales = tuple(head(m) for head, m in zip(self.scales, coarser, strict=True))
        decoders = tuple(head(f) for head in self.decoders)
        sdf = None if self.sdf is None else self.sdf(f).tanh()
        maps = (f, self.halve(f)) if self.maps else ()
        return Output(self.head(f), f if "features" in self.heads else None, sdf, scales, decoders, maps=maps)

    def permute_classes(self, order: list[int]) -> None:
        """Class i takes the weights of class order[i]."""
        heads = [(head, order) for head in (self.head, *self.scales, *self.decoders)]
        if self.sdf is not None:
            heads.append((self.sdf, [c - 1 for c in order[1:]]))
        for layer, indices in heads:
            for p in layer.parameters():
                p.data = p.data[indices]


@dataclass
class TinyTrainer:
    """A method with its networks and SGD optimisers; each step is seeded by its index."""

    method: Method
    dims: int = 2
    classes: int = 3
    rate: float = 0.05
    total: int = 100
    index: int = 0

    def __post_init__(self) -> None:
        self.roles = self.method.roles()
        self.built: dict[str, nn.Module] = {}
        self.nets = build_networks(self.roles, self.build)
        for name in self.of(Memory) if self.index else ():  # from step 1 on memories are full
            memory = self.nets[name]
            assert isinstance(memory, FeatureBank)
            memory.vectors.uniform_(generator=torch.Generator().manual_seed(0))
            memory.filled.fill_(memory.vectors.shape[1])
        self.optimisers = {
            name: torch.optim.SGD(self.nets[name].parameters(), self.rate, momentum=0.9)
            for name in trainable_names(self.roles)
        }

    def build(self, kind: str, init: int) -> nn.Module:
        """A new network of a role's `kind`, with weights drawn from seed `init`."""
        torch.manual_seed(init + 100 * (kind == "teacher"))
        term = getattr(self.method, "feature", None) or FeatureTerm()
        if kind == "discriminator":
            return Discriminator(classes=self.classes, channels=CHANNELS, dimensions=self.dims, width=4)
        if kind == "projection":
            return term.projection(self.built, random_batch(dims=self.dims).image[:1])
        self.built[kind] = network = TinyNetwork(self.dims, self.classes, self.method.heads)
        return enable_maps(network, term.at) if kind in (*term.given_by, "backbone") else network

    def optimiser_steps(self, batch: Batch) -> Iterator[tuple[tuple[str, ...], LossTerms]]:
        """The optimiser steps of one training step, as the method yields them: (names, losses)."""
        torch.manual_seed(self.index)
        set_modes(self.nets, self.roles)
        generator = torch.Generator().manual_seed(self.index)
        yield from self.method.steps(self.nets, batch, Step(self.index, self.total, generator))

    def step(self, batch: Batch) -> dict[str, float]:
        """One training step: every optimiser step, then the averages. Returns the losses by name."""
        logged: dict[str, float] = {}
        for names, terms in self.optimiser_steps(batch):
            for name in names:
                self.optimisers[name].zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
            for name in names:
                self.optimisers[name].step()
            logged |= {name: float(term.detach()) for name, term in terms.items()}
        update_averages(self.nets, self.roles, Step(self.index, self.total))
        self.index += 1
        return logged

    def of(self, kind: type) -> list[str]:
        """Names of the networks whose role is of this class."""
        return [name for name, role in self.roles.items() if isinstance(role, kind)]


def random_batch(
    *,
    dims: int = 2,
    classes: int = 3,
    labelled: int = 2,
    unlabelled: int = 3,
    seed: int = 0,
    strong: bool = True,
) -> Batch:
    """Noise images, random labels, and `soft` labels of a linear classifier of the image, voxel by voxel."""
    image, label, strong_view, soft = (t.clone() for t in _random_tensors(dims, classes, labelled, unlabelled, seed))
    affine = torch.eye(dims, dims + 1).repeat(len(image), 1, 1)
    return Batch(image, label, strong_view if strong else None, soft, torch.arange(len(image)), affine)


@lru_cache(maxsize=1024)
def _random_tensors(dims: int, classes: int, labelled: int, unlabelled: int, seed: int) -> tuple[Tensor, ...]:
    """image, label, strong view and soft labels; every check of every method draws the same few hundred."""
    g = torch.Generator().manual_seed(seed)
    size = (12, 10) if dims == 2 else (6, 5, 4)
    image = torch.randn(labelled + unlabelled, CHANNELS, *size, generator=g)
    label = torch.randint(0, classes, (labelled, *size), generator=g)
    strong_view = image[labelled:] + 0.3 * torch.randn(image[labelled:].shape, generator=g)
    weights = torch.randn(classes, CHANNELS, generator=g) * 2
    return image, label, strong_view, torch.einsum("ck,nk...->nc...", weights, image).softmax(1)


class OracleDiscriminator(nn.Module):
    """A discriminator with loss 0 on batches whose labelled images are bright and whose unlabelled ones are dark."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(50.0))

    def forward(self, probability: Tensor, image: Tensor) -> Tensor:
        bright = self.scale * image.flatten(1).mean(1)
        return torch.stack([-bright, bright], 1)
