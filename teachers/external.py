"""Teachers from segmentation_models_pytorch and MONAI, behind this project's contract.

Shapes: N batch, K image channels, C classes, *space 2 or 3 axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from edgemt.contract import Output
from edgemt.errors import unknown_name_message
from edgemt.io import encoder_weights, load_encoder
from edgemt.io.encoder_weights import PRETRAINED, Hub
from edgemt.io.network_options import TIMM, checked, of_constructor, plain_name
from teachers.external_networks import MONAI, MONAI3D, MonaiSpec
from teachers.layers import crop_to, pad_to_multiple

LITE = {f"efficientnet_lite{n}": f"tu-tf_efficientnet_lite{n}" for n in range(3)}  # the names that students have


class ExternalNetwork(nn.Module):
    """A network of another library: image [N, K, *space] -> Output, any size.

    The image is continued over its far edges to a multiple of `multiple`, and the logits are cut back.
    """

    def __init__(self, network: nn.Module, *, multiple: int = 32) -> None:
        super().__init__()
        self.network = network
        self.multiple = multiple

    def forward(self, x: Tensor) -> Output:
        y = self.network(pad_to_multiple(x, multiple=self.multiple))
        logits: Tensor = y[-1] if isinstance(y, list | tuple) else y
        return Output(logits=crop_to(logits, x.shape[2:]))


class ExternalEncoderNetwork(ExternalNetwork):
    """A network of segmentation_models_pytorch: encoder, decoder and head, and so it has feature maps.

    `maps`, an attribute to set: "encoder" puts the encoder's maps of stride 2 and more into `Output.maps`, finest
    first, "decoder" the one map that the head reads; both are cut back as the logits are.
    """

    maps: Literal["", "encoder", "decoder"] = ""

    def forward(self, x: Tensor) -> Output:
        whole = pad_to_multiple(x, multiple=self.multiple)
        network: Any = self.network
        features = network.encoder(whole)
        decoded = network.decoder(features)
        chosen = {"encoder": list(features[1:]), "decoder": [decoded]}.get(self.maps, [])  # the first is the image
        return Output(
            logits=crop_to(network.segmentation_head(decoded), x.shape[2:]),
            maps=tuple(_crop_map(m, x, whole) for m in chosen if m.shape[1]),
        )


def _crop_map(feature: Tensor, x: Tensor, whole: Tensor) -> Tensor:
    """The cells of `feature`, a map of `whole`, that lie at least partly over `x`."""
    sides = zip(feature.shape[2:], x.shape[2:], whole.shape[2:], strict=True)
    return crop_to(feature, [-(-cells * side // total) for cells, side, total in sides])


def from_smp(
    architecture: str,
    *,
    channels: int,
    classes: int,
    heads: Sequence[str] = (),
    encoder: str = "resnet34",
    pretrained: str = "never",
    weights_file: str = "",
    **options: Any,
) -> nn.Module:
    """An architecture of segmentation_models_pytorch on any of its encoders; `tu-NAME` is timm's NAME.

    pretrained and weights_file: where the encoder's first weights come from (`edgemt.io.encoder_weights.find`).
    """
    import segmentation_models_pytorch as smp
    from segmentation_models_pytorch.encoders import encoders

    title = f"teacher smp/{architecture}"
    encoder = LITE.get(encoder, encoder)
    if pretrained not in PRETRAINED:
        raise ValueError(f"{title}: {unknown_name_message('pretrained', pretrained, PRETRAINED)}")
    if not encoder.startswith("tu-") and encoder not in encoders:
        raise ValueError(f"{title}: {unknown_name_message('encoder', encoder, [*encoders, *LITE])}")
    plain_name(encoder, network=f"smp/{architecture}")
    options = checked(options, {*of_constructor(getattr(smp, architecture)), *TIMM}, network=f"smp/{architecture}")
    name, hub = published(encoder)
    weights = encoder_weights.find(name, file=weights_file, pretrained=pretrained, hub=hub, what=title)
    common: dict[str, Any] = {"encoder_name": encoder, "encoder_weights": None, "classes": classes, **options}
    build = getattr(smp, architecture)
    if weights is None:
        return ExternalEncoderNetwork(build(in_channels=channels, **common))
    if encoder.startswith("tu-"):
        network = build(in_channels=channels, **common)
        load_encoder.load_into(network.encoder.model, weights, channels=channels)
        return ExternalEncoderNetwork(network)
    network = build(in_channels=3, **common)
    try:
        network.encoder.load_state_dict(load_encoder.load(weights))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{weights.file}: not the weights of {encoder} ({reason}); name the encoder it was made for"
        ) from None
    network.encoder.set_in_channels(channels, pretrained=True)
    return ExternalEncoderNetwork(network)


def published(encoder: str) -> tuple[str, Hub | None]:
    """(name of the encoder, its repository): of `tu-NAME` timm's own, of others the one that smp names."""
    from segmentation_models_pytorch.encoders import encoders

    encoder = LITE.get(encoder, encoder)
    if encoder.startswith("tu-"):
        return encoder.removeprefix("tu-"), None
    source = encoders[encoder]["pretrained_settings"].get("imagenet", {}) if encoder in encoders else {}
    return encoder, Hub(source.get("repo_id"), source.get("revision"))


def from_monai(
    network: str,
    *,
    dims: int,
    channels: int,
    classes: int,
    heads: Sequence[str] = (),
    widths: Sequence[int] = (),
    filters: int = 0,
    norm: str = "",
    **options: Any,
) -> nn.Module:
    """A network of MONAI in `dims` axes, 2 or 3. Further `options` go to its constructor.

    `widths` of its stages, `filters` of its first and `norm` are set under the names that it has for them;
    ValueError where it has none.
    """
    from monai.networks import nets
    from monai.utils import OptionalImportError

    title, offer = (f"monai/{network}", MONAI[network]) if dims == 2 else (f"monai3d/{network}", MONAI3D[network])
    options = checked(options, of_constructor(getattr(nets, network)), network=title)
    given: dict[str, Any] = {"spatial_dims": dims, **offer.options, **options}
    grouped = ("group", {"num_groups": 8}) if norm == "group" else norm
    for field, name, value in (
        ("widths", offer.widths, tuple(widths)),
        ("filters", offer.filters, filters),
        ("norm", offer.norm, grouped),
    ):
        if value and not name:
            raise ValueError(f"teacher {title}: {field} cannot be set; see MONAI for its own options")
        if value:
            given[name] = value
    if offer.widths and offer.strides:
        given |= {name: value for name, value in _strides(offer, given[offer.widths]).items() if name not in options}
    try:
        built = getattr(nets, network)(in_channels=channels, out_channels=classes, **given)
    except OptionalImportError as error:
        raise ValueError(f"teacher {title}: {str(error).splitlines()[0]}; install what is missing") from error
    return ExternalNetwork(built, multiple=offer.multiple or 2 ** (len(given[offer.widths]) - 1))


def _strides(offer: MonaiSpec, widths: Sequence[int]) -> dict[str, Any]:
    """Halving at every level but the first, in the words of the constructor."""
    halving = (2,) * (len(widths) - 1)
    if offer.strides == "between":
        return {"strides": halving}
    return {"kernel_size": (3,) * len(widths), "strides": (1, *halving), "upsample_kernel_size": halving}
