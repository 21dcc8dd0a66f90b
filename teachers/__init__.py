"""The table of teachers: full networks that are trained on a GPU and then distilled.

build("unet", channels=3, classes=2), or "smp/Unet" with encoder="resnet34", or "monai/BasicUNet".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edgemt.names import unknown

if TYPE_CHECKING:
    from torch import nn

HEADS = ("sdf", "aux", "features")


class Teacher(NamedTuple):
    """A row of the table: what it is in one line, the heads it can have, and who builds it."""

    about: str
    heads: tuple[str, ...]
    build: Callable[..., nn.Module]


def _unet(**options: Any) -> nn.Module:
    from teachers.unet import UNet

    return UNet(**options)


def _smp(architecture: str) -> Callable[..., nn.Module]:
    def build(**options: Any) -> nn.Module:
        from teachers.library import from_smp

        return from_smp(architecture, **options)

    return build


def _monai(network: str) -> Callable[..., nn.Module]:
    def build(**options: Any) -> nn.Module:
        from teachers.library import from_monai

        return from_monai(network, **options)

    return build


TEACHERS: dict[str, Teacher] = {
    "unet": Teacher("U-Net 16-32-64-128-256 of the semi-supervised benchmarks", HEADS, _unet),
    "smp/Unet": Teacher("U-Net on an ImageNet encoder (default resnet34)", (), _smp("Unet")),
    "smp/UnetPlusPlus": Teacher("U-Net++ with nested skips", (), _smp("UnetPlusPlus")),
    "smp/DeepLabV3Plus": Teacher("DeepLabV3+ with atrous pyramid pooling", (), _smp("DeepLabV3Plus")),
    "smp/FPN": Teacher("feature pyramid network", (), _smp("FPN")),
    "smp/MAnet": Teacher("U-Net with attention blocks", (), _smp("MAnet")),
    "smp/Segformer": Teacher("all-MLP decoder, made for mit_b* encoders", (), _smp("Segformer")),
    "smp/UPerNet": Teacher("pyramid pooling and FPN, made for hierarchical transformers", (), _smp("UPerNet")),
    "monai/BasicUNet": Teacher("plain U-Net 32-32-64-128-256-32", (), _monai("BasicUNet")),
    "monai/UNet": Teacher("residual U-Net with strided convolutions", (), _monai("UNet")),
    "monai/AttentionUnet": Teacher("U-Net with attention gates on the skips", (), _monai("AttentionUnet")),
    "monai/SegResNet": Teacher("residual encoder and decoder with group norm", (), _monai("SegResNet")),
    "monai/FlexibleUNet": Teacher("U-Net on an EfficientNet encoder", (), _monai("FlexibleUNet")),
    "monai/BasicUNetPlusPlus": Teacher("U-Net++ of MONAI", (), _monai("BasicUNetPlusPlus")),
}


def names() -> tuple[str, ...]:
    """The rows of the table; `find` knows further `smp/Architecture` and `monai/Network` names."""
    return tuple(TEACHERS)


def find(name: str) -> Teacher:
    """The row for `name`. Raises ValueError with the nearest name when there is none."""
    if name in TEACHERS:
        return TEACHERS[name]
    from teachers.library import MONAI, SMP

    further = {f"smp/{rest}": _smp(rest) for rest in SMP} | {f"monai/{rest}": _monai(rest) for rest in MONAI}
    if name not in further:
        raise ValueError(unknown("teacher", name, {*TEACHERS, *further}))
    return Teacher(name.replace("/", ": "), (), further[name])


def build(name: str, *, channels: int, classes: int, heads: Sequence[str] = (), **options: Any) -> nn.Module:
    """A network [N, K, *space] -> contract.Output with logits at input resolution.

    Raises ValueError for an unknown name, a head that the network has not, or an option it does not take.
    """
    teacher = find(name)
    for head in heads:
        if head not in teacher.heads:
            able = ", ".join(teacher.heads) or "none"
            raise ValueError(
                f"teacher {name}: head {head!r} is not available (it offers: {able}); drop the head, or use unet"
            )
    if classes < 2:
        raise ValueError(f"teacher {name}: classes = {classes}: background counts as one, so give at least 2")
    try:
        return teacher.build(channels=channels, classes=classes, heads=tuple(heads), **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ValueError(f"teacher {name}: {str(error).split(') ')[-1]}") from error
