"""Which networks of segmentation_models_pytorch and MONAI fit, and what MONAI's constructors want. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

SMP = (
    "DeepLabV3",
    "DeepLabV3Plus",
    "FPN",
    "Linknet",
    "MAnet",
    "PSPNet",
    "Segformer",
    "UPerNet",
    "Unet",
    "UnetPlusPlus",
)


@dataclass(frozen=True)
class MonaiSpec:
    """A network of MONAI: its fixed options, and the names of its constructor for the options of a teacher."""

    options: dict[str, Any] = field(default_factory=dict)
    widths: str = ""  # channels of each stage; "": cannot be set
    filters: str = ""  # channels of the first stage
    norm: str = ""
    strides: Literal["", "between", "every"] = ""  # wanted between the stages, or of every stage, kernels too
    multiple: int = 32  # what sides must be a multiple of; 0: by the number of stages


ATTENTION = MonaiSpec({"channels": (16, 32, 64, 128, 256)}, widths="channels", strides="between")
BASIC = MonaiSpec({"features": (32, 32, 64, 128, 256, 32)}, widths="features", norm="norm")
RESNET = MonaiSpec({"init_filters": 16, "blocks_down": (1, 2, 2, 4), "blocks_up": (1, 1, 1)}, filters="init_filters")
RESIDUAL = MonaiSpec(
    {"channels": (32, 64, 128, 256, 512), "num_res_units": 2, "act": "RELU"},
    widths="channels",
    norm="norm",
    strides="between",
)

MONAI: dict[str, MonaiSpec] = {
    "AttentionUnet": ATTENTION,
    "BasicUNet": BASIC,
    "BasicUNetPlusPlus": BASIC,
    "FlexibleUNet": MonaiSpec({"backbone": "efficientnet-b0"}, norm="norm"),
    "SegResNet": RESNET,
    "UNet": RESIDUAL,
}
# In three axes a side that is continued without need costs time: each network has its own multiple.
MONAI3D: dict[str, MonaiSpec] = {
    "AttentionUnet": replace(ATTENTION, multiple=0),
    "BasicUNet": replace(BASIC, multiple=16),
    "BasicUNetPlusPlus": replace(BASIC, multiple=16),
    "DynUNet": MonaiSpec(
        {"filters": (32, 64, 128, 256, 320)}, widths="filters", norm="norm_name", strides="every", multiple=0
    ),
    "SegResNet": replace(RESNET, multiple=8),
    "SwinUNETR": MonaiSpec({"feature_size": 24}, filters="feature_size", norm="norm_name"),
    "UNet": replace(RESIDUAL, options={**RESIDUAL.options, "channels": (16, 32, 64, 128, 256)}, multiple=0),
    "VNet": MonaiSpec(multiple=16),
}
