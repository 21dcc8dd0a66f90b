"""Export of a promptable network as two graphs: a frame is embedded once, and prompts are decoded from the embedding.

    prompt/embed.onnx    frame uint8 [1, H, W, K] -> fine [1, F0, H/2, W/2], deep [1, F, H/8, W/8]
    prompt/decode.onnx   fine, deep, box [1, 4], points [1, P, 2], signs int64 [1, P], first [1, H, W], put [2]
                         -> logits [1, H, W], quality [1]

Graphs have fixed sizes, prompts have not: the graph has inputs for all kinds of prompt, and absent ones are masked
where they would have an effect, in the attention keys and in the drawn maps. The result equals that of the network with
the same prompts. Coordinates are fractions of the frame, x before y.

Shapes: H W the frame, K channels, P points at most, T tokens, F features.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deploy.decomposed_trace import traced
from deploy.explicit_attributes import write_out_attributes
from deploy.export import DeployableModel, silence, strip_metadata, without_stack_traces
from deploy.promptable.runner import DECODE, EMBED, NO_POINT, POINTS
from edgemt.io.atomic import atomic_write
from edgemt.model_card import Normalisation

_OUTPUT_TOKENS, _CORNERS = 2, 2  # tokens before the points: output tokens, and corners of the box


class Embed(nn.Module):
    """frame uint8 [1, H, W, K] -> its embedding (fine, deep), for any number of prompts."""

    def __init__(self, network: nn.Module, *, normalise: Normalisation, channels: int) -> None:
        super().__init__()
        self.front = DeployableModel(network, normalise=normalise, channels=channels)

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.front.network.embed(self.front.normalised(frame)))  # type: ignore[operator]


class Decode(nn.Module):
    """`decode` of the network for one object, with inputs for all kinds of prompt.

    `put`: 1 where the box, and where the first mask is present; a sign of NO_POINT marks an absent point.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._absent = self._there = torch.empty(0)
        for part in network.modules():
            if isinstance(part, nn.MultiheadAttention):
                part.register_forward_pre_hook(self._without_tokens, with_kwargs=True)
        network.drawn.register_forward_pre_hook(self._without_mask)  # type: ignore[union-attr, operator]

    def forward(
        self, fine: Tensor, deep: Tensor, box: Tensor, points: Tensor, signs: Tensor, first: Tensor, put: Tensor
    ) -> tuple[Tensor, Tensor]:
        boxed, begun = put[:1] > 0, put[1:]
        answered = torch.zeros(1, _OUTPUT_TOKENS, dtype=torch.bool)
        self._absent = torch.cat([answered, ~boxed.expand(1, _CORNERS), signs == NO_POINT], 1)
        self._there = torch.cat([torch.ones(3), begun, begun]).view(1, 5, 1, 1)
        nowhere = torch.tensor([[2.0, 2.0, -1.0, -1.0]])  # an empty box
        box = torch.where(boxed, box, nowhere)
        prompts = (x.unsqueeze(1) for x in (box, points, signs, first))
        logits, quality = self.network.decode((fine, deep), first.shape[1:], *prompts)  # type: ignore[operator]
        return logits[:, 0], quality[:, 0]

    def _without_tokens(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Mask absent tokens where tokens are keys: keys and values are one tensor there; image keys have positions."""
        if args[1] is not args[2]:
            return args, kwargs
        return args, {**kwargs, "key_padding_mask": self._absent}

    def _without_mask(self, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0] * self._there,)


def export_prompt(
    network: nn.Module,
    folder: str | Path,
    *,
    size: tuple[int, int],
    channels: int,
    normalise: Normalisation,
    opset: int = 20,
) -> tuple[Path, Path]:
    """Write the two graphs of a network with `embed` and `decode` into a package folder, before `finalize`.

    The network is not changed. Raises ValueError where it cannot be exported, or is not promptable.
    """
    if not getattr(network, "promptable", False) or not hasattr(network, "drawn"):
        raise ValueError(
            f"{folder}: {type(network).__name__} cannot be shipped as a prompt input; give a small promptable"
        )
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    frame = torch.zeros((1, *size, channels), dtype=torch.uint8)
    embed = Embed(network, normalise=normalise, channels=channels).eval()
    with torch.no_grad():
        fine, deep = embed(frame)
    embed_path = _written(embed, (frame,), Path(folder) / EMBED, ("frame",), ("fine", "deep"), opset)
    inputs = {
        "fine": fine,
        "deep": deep,
        "box": torch.tensor([[0.25, 0.25, 0.75, 0.75]]),
        "points": torch.full((1, POINTS, 2), 0.5),
        "signs": torch.ones((1, POINTS), dtype=torch.int64),
        "first": torch.zeros((1, *size)),
        "put": torch.ones(2),
    }
    names = ("logits", "quality")
    return embed_path, _written(
        Decode(network).eval(), (*inputs.values(),), Path(folder) / DECODE, (*inputs,), names, opset
    )


def _written(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    input_names: tuple[str, ...],
    output_names: tuple[str, ...],
    opset: int,
) -> Path:
    with silence(), without_stack_traces(), torch.no_grad():
        try:
            program = torch.onnx.export(
                traced(module, *example), example, input_names=list(input_names), output_names=list(output_names),
                opset_version=opset, dynamo=True, external_data=False, verbose=False,
            )  # fmt: skip
        except Exception as error:  # the exporter raises many types
            raise ValueError(f"{path}: cannot be exported to ONNX ({str(error).strip().splitlines()[0]})") from error
    assert program is not None
    strip_metadata(program.model_proto)
    write_out_attributes(program.model_proto)
    with atomic_write(path) as part:
        part.write_bytes(program.model_proto.SerializeToString(deterministic=True))
    return path
