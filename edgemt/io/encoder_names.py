"""Tensor names of encoder weights: wrapper prefixes are removed, EfficientNet-Lite is renamed to the names of timm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_PREFIXES = ("module.", "model.", "encoder.", "backbone.", "network.")
_STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
    **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
}


def timm_names(state: Mapping[str, Tensor], encoder: Any) -> dict[str, Tensor]:
    """The same tensors under timm's names: prefixes of wrappers fall away, the reference EfficientNet is renamed.

    encoder: timm's name, or the built encoder, whose blocks count through the stages in order.
    """
    state = _without_prefix(state)
    if "_conv_stem.weight" not in state:
        return dict(state)
    return efficientnet_lite_names(state, _blocks(encoder))


def efficientnet_lite_names(state: Mapping[str, Tensor], blocks: Sequence[str]) -> dict[str, Tensor]:
    """EfficientNet-Lite of the reference code (`_blocks.N._expand_conv`) under timm's names (`blocks.S.J.conv_pw`)."""
    expanded = {name.split(".")[1] for name in state if "._expand_conv." in name}
    renamed = {}
    for name, value in state.items():
        first, *rest = name.split(".")
        if first == "_blocks" and len(rest) > 2 and rest[0].isdigit() and int(rest[0]) < len(blocks):
            table = _INVERTED if rest[0] in expanded else _SEPARABLE
            layer = table.get(rest[1], rest[1])
            renamed[".".join([blocks[int(rest[0])], layer, *rest[2:]])] = value
        else:
            renamed[".".join([_STEM.get(first, first), *rest])] = value
    return renamed


def _blocks(encoder: Any) -> list[str]:
    network = encoder
    if isinstance(encoder, str):
        import timm

        build: Callable[..., Any] = timm.create_model
        network = build(encoder, pretrained=False)
    stages = getattr(network, "blocks", ())
    return [f"blocks.{s}.{j}" for s, stage in enumerate(stages) for j in range(len(stage))]


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A prefix that every name carries falls away, again and again."""
    names = dict(state)
    while names:
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in names)), "")
        if not prefix:
            break
        names = {name[len(prefix) :]: value for name, value in names.items()}
    return names
