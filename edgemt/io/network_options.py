"""Which options of a card or a recipe may reach a library that builds networks: an allow-list.

The builders of other libraries also take paths, addresses and callables (`checkpoint_path`, `pretrained_cfg`,
`pretrained_cfg_overlay`, `encoder_weights`), with which a card could have files opened, fetched and unpickled. Weights
come from the artefact's own safetensors file, or from the encoder's published ones (`edgemt.io.hub`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from edgemt.errors import unknown_name_message

TIMM = (
    *("act_layer", "attn_drop_rate", "block_args", "block_size", "cardinality", "conv_mlp", "depth", "depths", "dims"),
    *("drop_block_rate", "drop_path_rate", "drop_rate", "embed_dim", "embed_dims", "fix_stem", "fixed_input_size"),
    *("global_pool", "img_size", "init_values", "kernel_sizes", "layers", "mlp_ratio", "mlp_ratios", "norm_layer"),
    *("num_heads", "out_indices", "output_stride", "pad_type", "patch_size", "proj_drop_rate", "qkv_bias"),
    *("round_chs_fn", "se_layer", "stem_size", "stem_type", "strict_img_size", "window_size"),
)
_OURS = ("channels", "classes", "in_channels", "out_channels", "encoder_name", "encoder_weights", "spatial_dims")
_WEIGHTS = ("pretrained", "weights", "checkpoint_path", "ckpt", "url", "path", "file", "dir", "cache", "progress")


def checked(options: Mapping[str, Any], allowed: Collection[str], *, network: str) -> dict[str, Any]:
    """The options, all of which are in `allowed` and hold plain values. Raises ValueError, naming the option."""
    for name, value in options.items():
        if name not in allowed:
            raise ValueError(f"network {network}: {unknown_name_message('option', name, sorted(allowed))}")
        if not _plain(value):
            raise ValueError(f"network {network}: option {name} = {value!r} must be made of numbers, text and lists")
    return dict(options)


def of_constructor(build: Callable[..., Any]) -> tuple[str, ...]:
    """The options that a constructor names itself, but for those that load weights and those that we set."""
    names = [name for name, what in inspect.signature(build).parameters.items() if what.kind != what.VAR_KEYWORD]
    loads = [name for name in names if any(part in name.split("_") or part == name for part in _WEIGHTS)]
    return tuple(name for name in names if name not in (*_OURS, *loads, "self"))


def plain_name(encoder: str, *, network: str) -> str:
    """An encoder's name without a source. Raises ValueError for one that names a folder or another hub's repository."""
    if not encoder or any(letter in encoder for letter in ":/\\@"):
        raise ValueError(f"network {network}: encoder {encoder!r} is no name of a table, but a place; give the name")
    return encoder


def _plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_plain(v) for v in value)
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _plain(v) for k, v in value.items())
    return value is None or isinstance(value, (str, int, float, bool))
