"""Unsupervised test-time adaptation on the pretend patients of patient_head.py: what it gains, and whom it harms.

    python benchmarks/unsupervised_adaptation.py RUN/slim SHIP --data.root DIR [--style strong] [--json FILE]

The student of RUN/slim in float, in torch. Each method sees all frames of a patient, never a mask:

- batch norm: the running statistics become those of the patient, mixed half with the student's (Schneider et al. 2020,
  arXiv 2006.16971);
- entropy: ten steps on the entropy of the softmax, affine weights of batch norm alone (TENT, Wang et al. 2021, arXiv
  2006.10726), with the batch norm of the first method;
- EMA teacher: ten steps towards the mean softmax of an averaged network over the frame and its mirror image, all
  weights (after CoTTA, Wang et al. 2022, arXiv 2203.13591).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from patient_head import HARM, Patient, make_patients
from patient_head import Options as PatientOptions
from torch import Tensor, nn
from torch.nn import functional as F
from tyro.conf import Positional, arg

from deploy.adaptation.guards import foreground_dice
from deploy.export import DeployableModel
from deploy.hardware.machine import describe
from deploy.package.package import open_package
from deploy.runtimes.load import runner
from edgemt.artefacts import network_folder

STEPS, MOMENTUM = 10, 0.9


@dataclass(frozen=True)
class Options:
    """What is measured."""

    student: Positional[Path]
    ship: Positional[Path]
    root: Annotated[Path, arg(name="data.root")]
    val: Annotated[str, arg(name="data.val")] = ""
    style: Literal["none", "mild", "strong"] = "strong"
    json: Path | None = None


def main(options: Options) -> None:
    torch.manual_seed(0)
    package = open_package(options.ship)
    infer = runner(package, runtime="onnxruntime", file="int8", threads=1)
    patients = make_patients(
        PatientOptions(options.ship, options.root, options.val, style=options.style), package, infer
    )
    network = network_folder.load_network(options.student).eval()
    front = DeployableModel(network, normalise=package.card.normalise, channels=package.card.channels)
    rows = [dice_of(patient, network, front) for patient in patients]
    record: dict[str, object] = {"ship": package.card.name, "style": options.style, "machine": describe()}
    before = np.array([row["student"] for row in rows])
    for name in rows[0]:
        after = np.array([row[name] for row in rows])
        record[name] = {
            "dice": round(float(after.mean()), 4),
            "harmed": int((after < before - HARM).sum()),
            "worst": round(float((after - before).min()), 4),
            "patients": len(rows),
        }
    print(json.dumps({key: value for key, value in record.items() if key != "machine"}, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps({**record, "rows": rows}, indent=1) + "\n")


def dice_of(patient: Patient, network: nn.Module, front: DeployableModel) -> dict[str, float]:
    """Mean Dice over the frames of a patient, by method."""
    with torch.no_grad():
        x = front.normalised(torch.from_numpy(patient.frames))
    methods: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
        "student": lambda net, x: net,
        "batch norm": batch_norm,
        "entropy": entropy,
        "EMA teacher": ema_teacher,
    }
    result = {}
    for name, adapt in methods.items():
        net = adapt(copy.deepcopy(network), x).eval()
        with torch.no_grad():
            masks = [net(one[None]).logits.argmax(1)[0].numpy().astype(np.uint8) for one in x]
        dice = [foreground_dice(mask, truth) for mask, truth in zip(masks, patient.truths, strict=True)]
        result[name] = float(np.mean(dice))
    return result


def batch_norm(net: nn.Module, x: Tensor) -> nn.Module:
    """Running statistics half of the student and half of the patient."""
    for layer in _norms(net):
        layer.momentum = 0.5
        layer.train()
    with torch.no_grad():
        net(x)
    return net.eval()


def entropy(net: nn.Module, x: Tensor) -> nn.Module:
    """Weights and biases of batch norm, against the entropy of the masks."""
    net = batch_norm(net, x)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    weights = [p.requires_grad_(True) for layer in _norms(net) for p in (layer.weight, layer.bias)]
    optimiser = torch.optim.Adam(weights, lr=1e-3)
    for step in range(STEPS):
        logits = net(_batch(x, step)).logits
        loss = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net


def ema_teacher(net: nn.Module, x: Tensor) -> nn.Module:
    """All weights, towards an averaged network that sees the frame and its mirror image. Returns the average."""
    teacher = copy.deepcopy(net)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-4)
    for step in range(STEPS):
        part = _batch(x, step)
        with torch.no_grad():
            target = (teacher(part).logits.softmax(1) + teacher(part.flip(-1)).logits.softmax(1).flip(-1)) / 2
        loss = -(target * F.log_softmax(net(part).logits, 1)).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), net.parameters(), strict=True):
                slow.lerp_(fast, 1 - MOMENTUM)
    return teacher


def _norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]


def _batch(x: Tensor, step: int, size: int = 4) -> Tensor:
    return x[[(step * size + k) % len(x) for k in range(min(size, len(x)))]]


if __name__ == "__main__":
    main(tyro.cli(Options))
