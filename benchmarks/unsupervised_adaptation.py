"""Test-time adaptation without labels on the pretend patients of patient_head.py: Dice without and with, and harm.

    python benchmarks/unsupervised_adaptation.py RUN/slim --data.root DIR [--style strong] [--json FILE]

RUN/slim is a stage with a 2-D network in torch. Each method begins anew at each patient and sees its frames once, in a
random order, in batches; the Dice is that of the masks that it shows for a batch when the batch arrives. As in their
papers, each with one rate that is written for networks of this size:

    bn_statistics  batch normalisation by the batch: mu = n / (n + 16) mu_batch + 16 / (n + 16) mu_training, the same
                   for the variance (Schneider et al., 2020, arXiv 2006.16971, a prior of 16 images)
    entropy        TENT (Wang et al., 2021, arXiv 2006.10726): these statistics, and a step of Adam on scale and shift
                   of the normalisations to minimise the mean entropy of the softmax of each pixel
    mean_teacher   CoTTA (Wang et al., 2022, arXiv 2203.13591): all weights follow, by cross-entropy, a teacher that is
                   their moving average (0.999) and predicts the mean of two flips; 1 % of the weights are restored at
                   random after a step; the teacher's mask is shown

Shapes: N frames, H W of the model, K channels, C classes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from patient_head import HARM, STYLES, like_frames, restyle
from torch import Tensor, nn
from tyro.conf import Positional, arg

from deploy.adaptation.guards import foreground_dice
from deploy.export import DeployableModel
from deploy.hardware.machine import describe
from deploy.package.package import open_package
from edgemt.artefacts.network_folder import load_network
from edgemt.inference.contours import patients_of
from edgemt.inference.evaluate_package import find_cases, read_cases

PRIOR = 16  # images of the training that the statistics of a batch are mixed with
RATE, TEACHER_RATE, DECAY, RESTORED = 1e-3, 1e-4, 0.999, 0.01
Logits = Callable[[Tensor], Tensor]
"""Normalised frames [N, K, H, W] -> logits [N, C, H, W], for the batch that arrives."""


@dataclass(frozen=True)
class Options:
    """What is measured."""

    stage: Positional[Path]
    root: Annotated[Path, arg(name="data.root")]
    val: Annotated[str, arg(name="data.val")] = ""
    style: Literal["none", "mild", "strong"] = "strong"
    batch: int = 4
    repeats: int = 1  # orders of the frames
    json: Path | None = None


def fixed(network: nn.Module) -> Logits:
    """The network as it is."""
    return torch.no_grad()(lambda x: network(x).logits)


def bn_statistics(network: nn.Module) -> Logits:
    """Statistics of the batch, mixed with those of the training."""
    _mix_statistics(network)
    return torch.no_grad()(lambda x: network(x).logits)


def entropy(network: nn.Module) -> Logits:
    """TENT: one step on scale and shift of the normalisations after each batch."""
    layers = _mix_statistics(network)
    network.requires_grad_(False)
    weights = [p.requires_grad_() for layer in layers for p in (layer.weight, layer.bias)]
    optimiser = torch.optim.Adam(weights, lr=RATE)

    def step(x: Tensor) -> Tensor:
        logits = network(x).logits
        loss = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return logits.detach()

    return step


def mean_teacher(network: nn.Module) -> Logits:
    """CoTTA: all weights follow a teacher that is their average; the teacher is shown."""
    _mix_statistics(network)
    source = [p.detach().clone() for p in network.parameters()]
    teacher = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.Adam(network.parameters(), lr=TEACHER_RATE)
    generator = torch.Generator().manual_seed(0)

    def step(x: Tensor) -> Tensor:
        with torch.no_grad():
            probs = (teacher(x).logits.softmax(1) + teacher(x.flip(3)).logits.softmax(1).flip(3)) / 2
        loss = -(probs * network(x).logits.log_softmax(1)).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for mean, new, old in zip(teacher.parameters(), network.parameters(), source, strict=True):
                restored = torch.rand(new.shape, generator=generator) < RESTORED
                new.copy_(torch.where(restored, old, new))
                mean.lerp_(new, 1 - DECAY)
        return probs.log()

    return step


METHODS: dict[str, Callable[[nn.Module], Logits]] = {
    "none": fixed,
    "bn_statistics": bn_statistics,
    "entropy": entropy,
    "mean_teacher": mean_teacher,
}


class _Mixed(nn.Module):
    """A batch normalisation by the statistics of the batch and of the training."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias, self.layer = layer.weight, layer.bias, layer
        self.rest = nn.Sequential(getattr(layer, "drop", nn.Identity()), getattr(layer, "act", nn.Identity()))  # timm

    def forward(self, x: Tensor) -> Tensor:
        share = len(x) / (len(x) + PRIOR)
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), unbiased=False)
        mean = share * mean + (1 - share) * self.layer.running_mean
        variance = share * variance + (1 - share) * self.layer.running_var
        scale = self.weight / (variance + self.layer.eps).sqrt()
        return self.rest((x - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None])


def _mix_statistics(network: nn.Module) -> list[_Mixed]:
    """Replace every batch normalisation of the network; returns the new layers. Raises ValueError without one."""
    made = []
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and not isinstance(parent, _Mixed):
                made.append(_Mixed(child))
                setattr(parent, name, made[-1])
    if not made:
        raise ValueError("the network has no batch normalisation to adapt")
    return made


def patients(options: Options, card: Any, stage: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(frames uint8 [N, H, W, K] in the style of a patient, masks [N, H, W]) of each patient."""
    data, cases = find_cases(stage, options.root, options.val)
    prepared, names = read_cases(card, data, cases), patients_of(cases)
    truths = np.stack(prepared.frame_truths())
    if len(set(names)) < len(prepared.frames) / 4:
        counts = [rows.stop - rows.start for rows in prepared.rows]
        of = np.repeat(names, counts)
        groups = [np.flatnonzero(of == name) for name in dict.fromkeys(names)]
    else:
        groups = like_frames(prepared.frames)
    for number, group in enumerate(groups):
        yield restyle(prepared.frames[group], number, STYLES[options.style]), truths[group]


def main(options: Options) -> None:
    stage = open_package(options.stage)
    card, network = stage.card, load_network(options.stage)
    normalised = DeployableModel(network, normalise=card.normalise, channels=card.channels).eval().normalised
    found: dict[str, list[list[float]]] = {name: [] for name in METHODS}
    for number, (frames, truths) in enumerate(patients(options, card, stage)):
        inputs = normalised(torch.from_numpy(frames))
        for repeat in range(options.repeats):
            order = np.random.default_rng(1000 * repeat + number).permutation(len(frames))
            for name, method in METHODS.items():
                logits, masks = method(copy.deepcopy(network)), {}
                for start in range(0, len(order), options.batch):
                    rows = order[start : start + options.batch]
                    shown = logits(inputs[torch.from_numpy(rows)]).argmax(1).numpy().astype(np.uint8)
                    masks |= dict(zip(rows.tolist(), shown, strict=True))
                dice = [foreground_dice(masks[n], truths[n]) for n in range(len(frames))]
                found[name].append([float(np.mean(dice)), *dice])
    before = np.array([session[0] for session in found["none"]])
    record: dict[str, Any] = {
        "stage": card.name, "style": options.style, "batch": options.batch, "sessions": len(before), "methods": {},
        "machine": describe(),
    }  # fmt: skip
    for name, sessions in found.items():
        after = np.array([session[0] for session in sessions])
        record["methods"][name] = {
            "dice": round(float(after.mean()), 4),
            "harmed": int((after < before - HARM).sum()),
            "worst": round(float((after - before).min()), 4),
            "error_removed": round(float(1 - (1 - after).sum() / (1 - before).sum()), 4),
        }
        print(f"{name:14} {record['methods'][name]}")
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
