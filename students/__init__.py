"""The table of students: a timm encoder times a light decoder.

build("mobilenetv4_small", channels=3, classes=2); any other timm name builds too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edgemt.contract import HEADS
from edgemt.names import unknown

if TYPE_CHECKING:
    from torch import nn


class Student(NamedTuple):
    """A row of the table."""

    encoder: str  # the name timm knows it by
    about: str


STUDENTS: dict[str, Student] = {
    "mobilenetv3_small": Student("mobilenetv3_small_100", "the fewest multiplications"),
    "mobilenetv3_large": Student("mobilenetv3_large_100", "squeeze-and-excitation, hard-swish"),
    "mobilenetv4_small": Student("mobilenetv4_conv_small", "plain convolutions and ReLU: what INT8 kernels like best"),
    "mobilenetv4_tiny": Student("mobilenetv4_conv_small_050", "half of its channels: about 0.6 of its time"),
    "mobilenetv4_medium": Student("mobilenetv4_conv_medium", "the same family, about five times the work"),
    "efficientnet_b0": Student("efficientnet_b0", "accurate for its size, slow for its multiplications (SiLU)"),
    "efficientnet_lite0": Student("efficientnet_lite0", "EfficientNet without squeeze-and-excitation, ReLU6"),
}
DECODER = "dense"


def names() -> tuple[str, ...]:
    """The named rows; any other convolutional or hierarchical encoder of timm can be named as well."""
    return tuple(STUDENTS)


def build(
    name: str,
    *,
    channels: int,
    classes: int,
    decoder: str = DECODER,
    pretrained: str = "never",
    heads: Sequence[str] = (),
    **options: Any,
) -> nn.Module:
    """A network [N, K, H, W] -> contract.Output with logits at input resolution.

    pretrained: "never", "if-available" (one warning line, then from scratch, where the encoder's weights
    cannot be had) or "always" (ValueError instead). `options` go to timm.create_model (drop_path_rate=0.1).
    Raises ValueError for an unknown name, decoder or head.
    """
    import timm

    from students.network import Network

    encoder = STUDENTS[name].encoder if name in STUDENTS else name
    if not timm.is_model(encoder):
        raise ValueError(unknown("student", name, [*STUDENTS, *timm.list_models()]))
    for head in heads:
        if head not in HEADS:
            raise ValueError(f"student {name}: {unknown('head', head, HEADS)}")
    if classes < 2:
        raise ValueError(f"student {name}: classes = {classes}: background counts as one, so give at least 2")
    return Network(
        encoder,
        channels=channels,
        classes=classes,
        decoder=decoder,
        pretrained=pretrained,
        heads=heads,
        options=options,
    )
