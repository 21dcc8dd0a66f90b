"""The table of teachers: full networks that are trained on a GPU and then distilled.

build("unet", channels=3, classes=2), or "smp/Unet" with encoder="resnet34", or "vnet" for volumes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edgemt.contract import HEADS, Head
from edgemt.errors import unknown_name_message

if TYPE_CHECKING:
    from torch import nn


class Teacher(NamedTuple):
    """A row of the table: what it is in one line, the heads it can have, and who builds it."""

    about: str
    heads: tuple[Head, ...]
    build: Callable[..., nn.Module]
    dims: int = 2  # axes of its images


def _unet(**options: Any) -> nn.Module:
    from teachers.unet import UNet

    return UNet(**options)


def _unet3d(**options: Any) -> nn.Module:
    from teachers.unet import UNet

    return UNet(dims=3, **options)


def _vnet(**options: Any) -> nn.Module:
    from teachers.vnet import VNet

    return VNet(**options)


def _smp(architecture: str) -> Callable[..., nn.Module]:
    def build(**options: Any) -> nn.Module:
        from teachers.external import from_smp

        return from_smp(architecture, **options)

    return build


def _monai(network: str, dims: int = 2) -> Callable[..., nn.Module]:
    def build(**options: Any) -> nn.Module:
        from teachers.external import from_monai

        return from_monai(network, dims=dims, **options)

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
    "vnet": Teacher("V-Net of the left-atrium benchmarks, additive skips", HEADS, _vnet, 3),
    "unet3d": Teacher("the U-Net above in three axes", HEADS, _unet3d, 3),
    "monai3d/UNet": Teacher("3-D residual U-Net with strided convolutions", (), _monai("UNet", 3), 3),
    "monai3d/BasicUNet": Teacher("3-D plain U-Net 32-32-64-128-256-32", (), _monai("BasicUNet", 3), 3),
    "monai3d/DynUNet": Teacher("3-D U-Net as nnU-Net builds it, isotropic strides", (), _monai("DynUNet", 3), 3),
    "monai3d/AttentionUnet": Teacher("3-D U-Net with attention gates", (), _monai("AttentionUnet", 3), 3),
    "monai3d/SegResNet": Teacher("3-D residual encoder and decoder with group norm", (), _monai("SegResNet", 3), 3),
}


def names() -> tuple[str, ...]:
    """The rows of the table; `find` accepts further `smp/`, `monai/` and `monai3d/` names."""
    return tuple(TEACHERS)


def find(name: str) -> Teacher:
    """The row for `name`. Raises ValueError with the nearest name when there is none."""
    from teachers.external_networks import MONAI, MONAI3D, SMP

    rows = {
        **{f"smp/{rest}": Teacher(f"smp: {rest}", (), _smp(rest)) for rest in SMP},
        **{f"monai/{rest}": Teacher(f"monai: {rest}", (), _monai(rest)) for rest in MONAI},
        **{f"monai3d/{rest}": Teacher(f"monai3d: {rest}", (), _monai(rest, 3), 3) for rest in MONAI3D},
        **TEACHERS,
    }
    if name not in rows:
        raise ValueError(unknown_name_message("teacher", name, rows))
    return rows[name]


def dims(name: str) -> int:
    """2 for a network of images, 3 for one of volumes. Raises ValueError for an unknown name."""
    return find(name).dims


def build(name: str, *, channels: int, classes: int, heads: Sequence[str] = (), **options: Any) -> nn.Module:
    """A network [N, K, *space] -> contract.Output with logits at input resolution.

    Raises ValueError for an unknown name, a head that the network has not, or an option it does not take.
    """
    teacher = find(name)
    for head in heads:
        if head not in teacher.heads:
            able = ", ".join(teacher.heads) or "none"
            other = "unet" if teacher.dims == 2 else "vnet"
            raise ValueError(
                f"teacher {name}: head {head!r} is not available (it offers: {able}); drop the head, or use {other}"
            )
    if classes < 2:
        raise ValueError(f"teacher {name}: classes = {classes}: background counts as one, so give at least 2")
    try:
        return teacher.build(channels=channels, classes=classes, heads=tuple(heads), **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ValueError(f"teacher {name}: {str(error).split(') ')[-1]}") from error
