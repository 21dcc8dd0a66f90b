"""Checkpoints and weights as safetensors: tensors beside a JSON header, nothing that could execute."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgemt.files import whole


def save(
    file: Path,
    *,
    players: Mapping[str, nn.Module] | Any,
    optimisers: Mapping[str, Any],
    state: Mapping[str, Any],
) -> None:
    """Every player, every optimiser and the JSON `state`, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    for name, player in players.items():
        tensors |= {f"player/{name}/{key}": value for key, value in player.state_dict().items()}
    for name, optimiser in optimisers.items():
        for slot, values in optimiser.state_dict()["state"].items():
            for key, value in values.items():
                if value is not None:
                    tensors[f"optimiser/{name}/{slot}/{key}"] = torch.as_tensor(value)
    _write(file, tensors, {"edgemt": json.dumps(state)})


def read_state(file: Path) -> dict[str, Any]:
    """The JSON state of a checkpoint. Raises ValueError, naming the file, when it is damaged."""
    with _opened(file) as handle:
        try:
            return json.loads((handle.metadata() or {})["edgemt"])
        except (KeyError, ValueError):
            raise ValueError(f"{file}: not a checkpoint of EdgeMT; delete it to start the stage again") from None


def load(file: Path, *, players: Mapping[str, nn.Module] | Any, optimisers: Mapping[str, Any]) -> None:
    """Put the tensors back in place. Raises ValueError when they do not fit."""
    tensors = _read(file)
    try:
        for name, player in players.items():
            player.load_state_dict(_under(tensors, f"player/{name}/"))
        for name, optimiser in optimisers.items():
            slots: dict[int, dict[str, Tensor]] = {}
            for path, value in _under(tensors, f"optimiser/{name}/").items():
                slot, key = path.split("/", 1)
                slots.setdefault(int(slot), {})[key] = value
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": slots, "param_groups": groups})
    except (RuntimeError, KeyError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{file}: does not fit these networks ({first}); delete it to start the stage again") from None


def save_weights(file: Path, network: nn.Module) -> None:
    _write(file, dict(network.state_dict()), {})


def load_weights(file: Path, network: nn.Module) -> nn.Module:
    """Raises ValueError, naming the file, when it is damaged or belongs to another network."""
    try:
        network.load_state_dict(_read(file))
    except RuntimeError as error:
        raise ValueError(f"{file}: does not fit this network ({str(error).splitlines()[0]})") from None
    return network


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _write(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    own = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    with whole(file) as part:
        save_file(own, part, metadata=metadata)


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: damaged or cut short ({error}); delete it to start the stage again") from None


def _read(file: Path) -> dict[str, Tensor]:
    with _opened(file) as handle:
        return {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
