"""The networks that every_student.py times, and the frames that it shows them.

Shapes: N batch, K channels, H W size in pixels, C classes, h w coarse size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import students
import teachers
from edgemt.artefacts import network_folder, stage_folder
from edgemt.contract import Output
from edgemt.io.file_types import is_image
from edgemt.io.images import fit_frame, read_image, to_uint8
from edgemt.model_card import ModelCard, Normalisation

CLASSES = 2
PEAK_SIZE = 32


@dataclass(frozen=True)
class Entrant:
    """A network to be timed; `dice` is what its run measured, "float" and, of what shipped, "int8"."""

    name: str
    build: Callable[[], nn.Module]
    channels: int = 3
    normalise: Normalisation = field(default_factory=Normalisation)
    dice: Mapping[str, Any] = field(default_factory=dict)
    trained: bool = False
    baseline: bool = False

    @property
    def slug(self) -> str:
        return re.sub(r"[^\w.]+", "-", self.name)


class Peak(nn.Module):
    """Dense 3x3 convolutions of 512 channels at 32 x 32: what INT8 kernels like best. frame -> a mask of nothing."""

    def __init__(self, width: int = 512, depth: int = 2) -> None:
        super().__init__()
        body = [layer for _ in range(depth) for layer in (nn.Conv2d(width, width, 3, padding=1), nn.ReLU())]
        self.layers = nn.Sequential(nn.Conv2d(3, width, 1), nn.ReLU(), *body, nn.Conv2d(width, 1, 1))

    def forward(self, x: Tensor) -> Output:
        return Output(logits=self.layers(x))

    def mask(self, x: Tensor) -> Tensor:
        return (self.layers(x)[:, 0] > 0).to(torch.uint8)


class Foreign(nn.Module):
    """A segmentation network of torchvision behind this project's contract; it sees a grey frame three times."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Output:
        return Output(logits=self.network(x.expand(-1, 3, -1, -1))["out"])


def named(names: Sequence[str], *, channels: int) -> list[Entrant]:
    """NAME or NAME/DECODER of the table of students, or of timm."""
    return [Entrant(given, _student(*given.partition("/")[::2], channels=channels), channels) for given in names]


def _student(name: str, decoder: str, *, channels: int) -> Callable[[], nn.Module]:
    return lambda: students.build(name, channels=channels, classes=CLASSES, decoder=decoder or students.DECODER)


def _torchvision(channels: int) -> nn.Module:
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # its 0.01 is for long trainings: after 500 steps statistics are those of the start
    return Foreign(network)


def _teacher(name: str, **options: Any) -> Callable[[int], nn.Module]:
    return lambda channels: teachers.build(name, channels=channels, classes=CLASSES, **options)


BASELINES: dict[str, Callable[[int], nn.Module]] = {
    "V-Net, one slice": _teacher("vnet", dims=2),
    "U-Net 16-256": _teacher("unet"),
    "U-Net on MobileNetV2 (smp)": _teacher("smp/Unet", encoder="mobilenet_v2"),
    "U-Net on EfficientNet-Lite0 (smp)": _teacher("smp/Unet", encoder="efficientnet_lite0"),
    "LR-ASPP MobileNetV3-large (torchvision)": _torchvision,
}


def baselines(names: Sequence[str], *, channels: int) -> list[Entrant]:
    """What a student is measured against: networks that people train, of this house and of others."""
    return [Entrant(name, partial(BASELINES[name], channels), channels, baseline=True) for name in names]


def trained(run: Path, *, channels: int) -> list[Entrant]:
    """Student and pruned student of a finished run, with its weights and its Dice."""
    found = []
    for stage in ("student", "slim"):
        card = stage_folder.read_card(run / stage)
        if card.channels != channels:
            raise ValueError(f"{run}: its frames have {card.channels} channels; give --channels {card.channels}")
        dice = {"float": _dice(card, stage_folder.WEIGHTS), "size": list(card.size), "run": run.name}
        if stage == "slim" and (run / "int8" / "card.json").is_file():
            dice["int8"] = _dice(stage_folder.read_card(run / "int8"), "openvino/model.int8.xml")
        name = f"{card.network['name']}{', pruned' if stage == 'slim' else ''}, of {run.name}"
        load = partial(network_folder.load_network, run / stage)
        found.append(Entrant(name, load, channels, card.normalise, dice, trained=True))
    return found


def _dice(card: ModelCard, file: str) -> float | None:
    return card.measured[file].dice if file in card.measured else None


def settled(entrant: Entrant, frames: np.ndarray) -> nn.Module:
    """The network in eval mode; random weights get batch-norm statistics of the frames [N, H, W, K]."""
    torch.manual_seed(0)
    network = entrant.build()
    if entrant.trained:
        return network.eval()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    images = torch.from_numpy(frames[:4]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        network.train()((images - 0.5) / 0.25)
    return network.eval()


def real_frames(folder: Path | None, *, size: int, channels: int, count: int) -> np.ndarray:
    """uint8 [count, size, size, K]: images of the folder in the order of their names, or noise of several scales."""
    if folder is None:
        return _noise(size, channels, count)
    files = sorted(p for p in folder.iterdir() if is_image(p)) if folder.is_dir() else []
    if not files:
        raise ValueError(f"--frames {folder}: no folder of images")
    pictures = [to_uint8(read_image(files[i % len(files)])) for i in range(count)]
    return np.stack([fit_frame(picture, size=(size, size), channels=channels) for picture in pictures])


def _noise(size: int, channels: int, count: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(count, channels, size, size)
    for grid in (4, 16, 64):
        coarse = torch.randn(count, channels, grid, grid, generator=generator)
        total += nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)
    return ((total * 32) + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
