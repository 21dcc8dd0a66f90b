"""Checkpoints and weights as safetensors: tensors beside a JSON header, nothing that could execute.

The header holds a sha256 over the JSON state and every tensor (name, type, shape, bytes in the order of the names). It
is compared whenever a file is read: one flipped bit is an error, not other weights. A checkpoint leaves the one before
it as `checkpoint.previous.safetensors`, which is taken up when the newer file is removed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgemt.io.atomic import atomic_write

CHECKPOINT = "checkpoint.safetensors"
_STATE, _SHA256 = "edgemt", "sha256"


def previous(file: Path) -> Path:
    """Where the checkpoint before `file` lies: `checkpoint.previous.safetensors`."""
    return file.with_name(f"{file.stem}.previous{file.suffix}")


def save(
    file: Path,
    *,
    players: Mapping[str, nn.Module] | Any,
    optimisers: Mapping[str, Any],
    state: Mapping[str, Any],
) -> None:
    """Every player, every optimiser and the JSON `state`, whole or not at all; the file before becomes `previous`."""
    tensors: dict[str, Tensor] = {}
    for name, player in players.items():
        tensors |= {f"player/{name}/{key}": value for key, value in player.state_dict().items()}
    for name, optimiser in optimisers.items():
        for slot, values in optimiser.state_dict()["state"].items():
            for key, value in values.items():
                if value is not None:
                    tensors[f"optimiser/{name}/{slot}/{key}"] = torch.as_tensor(value)
    _write(file, tensors, {_STATE: json.dumps(state)}, keep_previous=True)


def read_state(file: Path) -> dict[str, Any]:
    """The JSON state of a checkpoint. Raises ValueError, naming the file, when it is damaged."""
    with _opened(file) as handle:
        try:
            return json.loads((handle.metadata() or {})[_STATE])
        except (KeyError, ValueError):
            raise ValueError(f"{file}: not a checkpoint of EdgeMT; delete it to start the stage again") from None


def load(file: Path, *, players: Mapping[str, nn.Module] | Any, optimisers: Mapping[str, Any]) -> None:
    """Put the tensors back in place. Raises ValueError when they are damaged or do not fit."""
    tensors = _read(file, checked=True)
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


def _write(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str], *, keep_previous: bool = False) -> None:
    own = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    with atomic_write(file) as part:
        save_file(own, part, metadata={**metadata, _SHA256: _digest(own, metadata.get(_STATE, ""))})
        if keep_previous and file.exists():
            _link(file, previous(file))


def _link(file: Path, other: Path) -> None:
    """`other` becomes a second name of `file`, and `file` stays: at every moment one whole checkpoint is there."""
    spare = other.with_name(f".{other.name}.{os.getpid()}.part")
    spare.unlink(missing_ok=True)
    try:
        os.link(file, spare)
    except OSError:  # a file system without hard links
        return
    os.replace(spare, other)


def _digest(tensors: Mapping[str, Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise _damaged(file, f"damaged or cut short ({error})") from None


def _damaged(file: Path, what: str) -> ValueError:
    before = previous(file)
    if before.exists():
        return ValueError(f"{file}: {what}; delete it to go on from the checkpoint before it, {before.name}")
    return ValueError(f"{file}: {what}; delete it to start the stage again")


def _read(file: Path, *, checked: bool = False) -> dict[str, Tensor]:
    """Every tensor, compared with the sha256 of the header; `checked` refuses a file without one."""
    try:
        with _opened(file) as handle:
            header = handle.metadata() or {}
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError) as error:
        raise _damaged(file, f"damaged or cut short ({error})") from None
    if _SHA256 not in header and not checked:
        return tensors  # of an earlier version; the card lists the hash of a finished stage's file
    if header.get(_SHA256) != _digest(tensors, header.get(_STATE, "")):
        raise _damaged(file, "damaged since it was written (sha256 differs)")
    return tensors
