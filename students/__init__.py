"""The table of students: a timm encoder times a light decoder.

build("mobilenetv4_small", channels=3, classes=2); any other timm name builds too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edgemt.contract import HEADS
from edgemt.errors import unknown_name_message
from edgemt.io.network_options import TIMM, checked, plain_name

if TYPE_CHECKING:
    from torch import nn


class Student(NamedTuple):
    """A row of the table."""

    encoder: str  # timm's name
    about: str
    params: float  # millions, RGB, two classes, default decoder
    mmacs: float  # million multiply-accumulates at 256 x 256
    int8_time: float  # INT8 on OpenVINO at 256 x 256, times that of mobilenetv4_small; deploy/README.md has the runs


STUDENTS: dict[str, Student] = {
    "mobilenetv3_small": Student("mobilenetv3_small_100", "the fewest multiplications", 1.09, 142, 0.85),
    "mobilenetv3_large": Student("mobilenetv3_large_100", "squeeze-and-excitation, hard-swish", 3.18, 355, 1.98),
    "mobilenetv4_small": Student(
        "mobilenetv4_conv_small", "plain convolutions and ReLU: what INT8 kernels like best", 1.47, 317, 1.0
    ),
    "mobilenetv4_tiny": Student(
        "mobilenetv4_conv_small_050", "half of its channels: about 0.7 of its time", 0.50, 152, 0.69
    ),
    "mobilenetv4_medium": Student(
        "mobilenetv4_conv_medium", "the same family, about 2.4 times its time", 7.42, 1159, 2.43
    ),
    "efficientnet_b0": Student(
        "efficientnet_b0", "accurate for its size, slow for its multiplications (SiLU)", 3.74, 548, 2.98
    ),
    "efficientnet_lite0": Student(
        "tf_efficientnet_lite0", "plain convolutions, ReLU6; ImageNet weights from a package", 3.11, 547, 1.91
    ),
    "efficientnet_lite1": Student("tf_efficientnet_lite1", "deeper: 1.3 times the time of lite0", 3.87, 700, 2.4),
    "efficientnet_lite2": Student(
        "tf_efficientnet_lite2", "wider and deeper: 1.5 times the time of lite0", 4.51, 795, 2.8
    ),
}
DECODER = "dense"
LOWEST_RESOLUTION = 0.25


def names() -> tuple[str, ...]:
    """The named rows; any other convolutional or hierarchical encoder of timm can be named as well."""
    return tuple(STUDENTS)


def encoder_name(name: str) -> str:
    """The name in timm of a student's encoder: of a row of the table its own, any other name as it is."""
    return STUDENTS[name].encoder if name in STUDENTS else name


def build(
    name: str,
    *,
    channels: int,
    classes: int,
    decoder: str = DECODER,
    pretrained: str = "never",
    weights_file: str = "",
    first_conv: str = "auto",
    heads: Sequence[str] = (),
    resolution: float = 1.0,
    overlapping: bool = False,
    **options: Any,
) -> nn.Module:
    """A network [N, K, H, W] -> contract.Output with logits at input resolution.

    pretrained: "never", "if-available" (one warning line, then from scratch, where the encoder's weights
    cannot be had) or "always" (ValueError instead). weights_file: a file of them, which comes first.
    first_conv: how its RGB filters are fitted to other channels (`edgemt.io.load_encoder.adapt_first_conv`).
    resolution: the part of the sides at which the network works inside, 0.25 to 1; logits have the size of the input.
    overlapping: classes may overlap, `classes` is then their number without a background.
    `options` go to timm.create_model (drop_path_rate=0.1), those in `edgemt.io.network_options.TIMM`.
    Raises ValueError for an unknown name, decoder, head or option, and for a resolution out of range.
    """
    import timm

    from students.network import StudentNetwork

    encoder = encoder_name(name)
    options = checked(options, TIMM, network=name)
    if not timm.is_model(plain_name(encoder, network=name)):
        raise ValueError(unknown_name_message("student", name, [*STUDENTS, *timm.list_models()]))
    for head in heads:
        if head not in HEADS:
            raise ValueError(f"student {name}: {unknown_name_message('head', head, HEADS)}")
    if not (isinstance(resolution, (int, float)) and LOWEST_RESOLUTION <= resolution <= 1):
        raise ValueError(f"student {name}: resolution = {resolution!r}: give a part of the sides, 0.25 to 1")
    if classes < 2 and not overlapping:
        raise ValueError(f"student {name}: classes = {classes}: background counts as one, so give at least 2")
    return StudentNetwork(
        encoder,
        channels=channels,
        classes=classes,
        decoder=decoder,
        pretrained=pretrained,
        weights_file=weights_file,
        first_conv=first_conv,
        heads=heads,
        resolution=float(resolution),
        overlapping=overlapping,
        options=options,
    )
