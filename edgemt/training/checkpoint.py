"""Checkpoints and weights as safetensors files: tensors and a JSON header, nothing that is executed.

The header has a sha256 over the JSON state and every tensor (name, type, shape and bytes, in the order of the names),
which is compared whenever a file is read: a single changed bit is an error. A new checkpoint renames the former one to
`checkpoint.previous.safetensors`, which is used where the newer file was removed.
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


def previous_checkpoint(file: Path) -> Path:
    """Path of the former checkpoint: `checkpoint.previous.safetensors` in the folder of `file`."""
    return file.with_name(f"{file.stem}.previous{file.suffix}")


def save(
    file: Path,
    *,
    players: Mapping[str, nn.Module] | Any,
    optimisers: Mapping[str, Any],
    state: Mapping[str, Any],
) -> None:
    """Write all networks, all optimisers and the JSON `state` in one atomic step.

    A file that is there already becomes `previous_checkpoint(file)`.
    """
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
    with _open(file) as handle:
        try:
            return json.loads((handle.metadata() or {})[_STATE])
        except (KeyError, ValueError):
            raise ValueError(f"{file}: not a checkpoint of EdgeMT; delete it to start the stage again") from None


def load(file: Path, *, players: Mapping[str, nn.Module] | Any, optimisers: Mapping[str, Any]) -> None:
    """Load a checkpoint into networks and optimisers. Raises ValueError where it is damaged or does not fit them."""
    tensors = _read(file, checked=True)
    try:
        for name, player in players.items():
            player.load_state_dict(_strip_prefix(tensors, f"player/{name}/"))
        for name, optimiser in optimisers.items():
            slots: dict[int, dict[str, Tensor]] = {}
            for path, value in _strip_prefix(tensors, f"optimiser/{name}/").items():
                slot, key = path.split("/", 1)
                slots.setdefault(int(slot), {})[key] = value
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": slots, "param_groups": groups})
    except (RuntimeError, KeyError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{file}: does not fit these networks ({first}); delete it to start the stage again") from None


def save_weights(file: Path, network: nn.Module) -> None:
    """Write the state dict of a network."""
    _write(file, dict(network.state_dict()), {})


def load_weights(file: Path, network: nn.Module) -> nn.Module:
    """Load a state dict into `network` and return it. Raises ValueError where the file is damaged or does not fit."""
    try:
        network.load_state_dict(_read(file))
    except RuntimeError as error:
        raise ValueError(f"{file}: does not fit this network ({str(error).splitlines()[0]})") from None
    return network


def _strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _write(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str], *, keep_previous: bool = False) -> None:
    own = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    with atomic_write(file) as part:
        save_file(own, part, metadata={**metadata, _SHA256: _digest(own, metadata.get(_STATE, ""))})
        if keep_previous and file.exists():
            _link(file, previous_checkpoint(file))


def _link(file: Path, other: Path) -> None:
    """Make `other` a hard link to `file`, so that a complete checkpoint exists at every moment."""
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


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise _damaged(file, f"damaged or cut short ({error})") from None


def _damaged(file: Path, what: str) -> ValueError:
    before = previous_checkpoint(file)
    if before.exists():
        return ValueError(f"{file}: {what}; delete it to go on from the checkpoint before it, {before.name}")
    return ValueError(f"{file}: {what}; delete it to start the stage again")


def _read(file: Path, *, checked: bool = False) -> dict[str, Tensor]:
    """All tensors of a file, verified by the sha256 of its header. `checked`: an error for a header without sha256."""
    try:
        with _open(file) as handle:
            header = handle.metadata() or {}
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError) as error:
        raise _damaged(file, f"damaged or cut short ({error})") from None
    if _SHA256 not in header and not checked:
        return tensors  # of an earlier version; the card lists the hash of a finished stage's file
    if header.get(_SHA256) != _digest(tensors, header.get(_STATE, "")):
        raise _damaged(file, "damaged since it was written (sha256 differs)")
    return tensors


def find_checkpoint(file: Path, key: str) -> str:
    """The path of `file`, or of the previous checkpoint where `file` is missing, if it has `key`; otherwise ""."""
    found = next((path for path in (file, previous_checkpoint(file)) if path.exists()), None)
    return str(found) if found is not None and read_state(found).get("key") == key else ""
