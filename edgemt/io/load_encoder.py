"""Read encoder weights and load them into a network."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgemt.errors import unknown_name_message
from edgemt.io.atomic import atomic_write, sha256
from edgemt.io.encoder_names import timm_names

if TYPE_CHECKING:
    from torch import Tensor
from edgemt.io.encoder_weights import CACHE, FIRST_CONV, PACKAGES, EncoderWeights, log


def load(weights: EncoderWeights) -> dict[str, Tensor]:
    """The state dict, in timm's names, contiguous. Raises ValueError for a file that is damaged or no state dict."""
    if weights.source == "package":
        return _converted(weights)
    return _read(weights.file, expected=weights.sha256)


def load_into(encoder: Any, weights: EncoderWeights, *, channels: int, first_conv: str = "auto") -> None:
    """Fills a timm encoder (features only) in place.

    The first convolution is fitted to `channels` by `adapt_first_conv`, where the file has RGB filters. Tensors of a
    classifier are left out. Raises ValueError, naming the file, where the weights are those of another architecture.
    """
    state = timm_names(load(weights), encoder)
    own = encoder.state_dict()
    stem = first_conv_name(own)
    if stem in state and state[stem].ndim == 4 and state[stem].shape[1] == 3:
        state[stem] = adapt_first_conv(state[stem], channels, mode=first_conv)
    fitting = {name for name, value in own.items() if name in state and state[name].shape == value.shape}
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in fitting and name not in counters]
    if missing:
        name = missing[0]
        there = f"has shape {tuple(state[name].shape)} there" if name in state else "is missing there"
        raise ValueError(
            f"{weights.file}: not the weights of {weights.encoder}: {len(fitting)} of {len(own)} tensors fit, "
            f"{name} {there}; name the encoder that the file was made for"
        )
    encoder.load_state_dict({name: state[name] for name in fitting}, strict=False)


def adapt_first_conv(weight: Tensor, channels: int, *, mode: str = "auto") -> Tensor:
    """The RGB filters [F, 3, h, w] of a first convolution for `channels` inputs, [F, channels, h, w].

    With w_grey = the sum over RGB: 1 channel takes w_grey, which is exact for a grey image shown as RGB. Neighbouring
    slices of a volume: "spread" gives each of them w_grey / channels, "middle" gives the middle one w_grey and the
    others 0; both equal the pretrained response where all slices are the same image. "auto" leaves three channels (RGB)
    as they are and spreads otherwise.
    """
    if mode not in FIRST_CONV:
        raise ValueError(f"first_conv: {unknown_name_message('mode', mode, FIRST_CONV)}")
    if mode == "auto" and weight.shape[1] == channels:
        return weight
    grey = weight.sum(1, keepdim=True)
    if mode == "middle":
        out = grey.new_zeros(grey.shape[0], channels, *grey.shape[2:])
        out[:, channels // 2] = grey[:, 0]
        return out
    return grey.repeat(1, channels, 1, 1) / channels


def first_conv_name(state: Mapping[str, Tensor]) -> str:
    """The first weight with four axes: the convolution that reads the image."""
    return next((name for name, value in state.items() if value.ndim == 4), "")


def tensor_digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and values, in the order of the names: independent of a file's layout."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def cache_folder() -> Path:
    """Of converted weights: $EDGEMT_CACHE, or the user's cache folder. It may not exist yet."""
    if os.environ.get(CACHE):
        return Path(os.environ[CACHE])
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(base or Path.home() / ".cache") / "edgemt"
    except RuntimeError:  # no home folder is known
        return Path(tempfile.gettempdir()) / f"edgemt-{os.getuid()}"


def _converted(weights: EncoderWeights) -> dict[str, Tensor]:
    """The package's tensors in timm's names: from the cache if its digest is right, else converted (again)."""
    package = PACKAGES[weights.encoder]
    cached = cache_folder() / "encoders" / f"{weights.encoder}-{package.sha256[:16]}.safetensors"
    if cached.is_file():
        try:
            state = _safetensors(cached)
            if tensor_digest(state) == package.tensors:
                return state
        except ValueError:
            pass
        log.warning("%s: damaged or changed; it is made again from %s", cached, package.distribution)
    state = timm_names(_read(weights.file, expected=package.sha256), weights.encoder)
    if tensor_digest(state) != package.tensors:
        raise ValueError(
            f"{weights.file}: converts to other tensors than were pinned; report this with your timm version"
        )
    try:
        from safetensors.torch import save_file

        with atomic_write(cached) as part:
            save_file(state, part)
    except (OSError, ValueError) as error:  # read-only or full: convert anew each time
        log.warning("%s: not cached (%s)", cached, " ".join(str(error).split()))
    return state


def _read(path: Path, *, expected: str) -> dict[str, Tensor]:
    """A file whose sha256 is `expected`: safetensors, or a plain state dict of torch; nothing in it is executed."""
    if path.suffix == ".safetensors" or _is_safetensors(path):
        return _safetensors(path)
    import torch

    if sha256(path) != expected:
        raise ValueError(f"{path}: changed while it was read; give the same command again")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever a damaged file leads to
        raise ValueError(f"{path}: is no plain state dict ({' '.join(str(error).split())[:160]})") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path}: is no plain state dict (names and tensors); save model.state_dict() as safetensors")
    return {str(name): value.contiguous() for name, value in state.items()}


def _is_safetensors(path: Path) -> bool:
    """By content, as the hub's cache may name a file by its hash: eight bytes of length, then JSON."""
    with open(path, "rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{"


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: damaged or no safetensors ({error}); copy or download the file again") from None
