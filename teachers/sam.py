"""SAM and SAM 2 of `transformers` as a promptable network: from a local folder or the hub, safetensors only.

MedSAM and other weights in that format load in the same way. Code from a model folder is never run, nor is a pickle
opened. SAM runs in the training of a teacher alone; a package does not contain it. Coordinates are fractions of the
frame, which is resized to the square input of SAM.

Shapes: N images, K channels, O prompted objects, P points of each, H W a frame.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgemt.io.atomic import sha256
from edgemt.io.hub import published_weights
from teachers.layers import resize
from teachers.promptable import PromptedOutput

KINDS = {"sam": "SamModel", "sam2": "Sam2Model", "sam2_video": "Sam2Model"}  # model_type -> class in transformers
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # where a folder has no preprocessor_config.json
NEEDED = 'install it with pip install "edgemt[sam]"'


class Sam(nn.Module):
    """A SAM of `transformers`: `embed` an image, `decode` questions about it, or both by calling it."""

    promptable = True
    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, *, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> None:
        super().__init__()
        self.model = model
        config: Any = model.config
        self.side = int(_size(config.vision_config))
        self.mask_side = 4 * int(config.prompt_encoder_config.image_size) // int(_patch(config))
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @torch.no_grad()
    def embed(self, image: Tensor) -> tuple[Tensor, ...]:
        """Images [N, K, H, W] of any scale -> the maps that the decoder reads, each [N, F, h, w].

        An image is stretched to 0..1 between its own least and greatest value (as MedSAM does it), one channel becomes
        three, and of neighbouring slices the middle one is looked at.
        """
        low, high = (f(image, (1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
        x = (image - low) / (high - low).clamp_min(1e-6)
        x = x if x.shape[1] == 3 else x[:, x.shape[1] // 2, None].expand(-1, 3, -1, -1)
        x = (resize(x.to(self.mean.dtype), (self.side, self.side)) - self.mean) / self.std
        found = self.model.get_image_embeddings(x)  # type: ignore[operator]
        return tuple(found) if isinstance(found, (list, tuple)) else (found,)

    def forward(self, image: Tensor, *prompts: Tensor | None) -> PromptedOutput:
        return self.decode(self.embed(image), image.shape[2:], *prompts)

    @torch.no_grad()
    def decode(
        self,
        embedding: Sequence[Tensor],
        size: Sequence[int],
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        signs: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> PromptedOutput:
        """Masks of `size`, one per object. Raises ValueError without any prompt."""
        given = next((x for x in (boxes, points, masks) if x is not None), None)
        if given is None:
            raise ValueError("sam: no prompt is given; give boxes, points or masks")
        count, objects = given.shape[:2]
        maps = [x.float().repeat_interleave(objects, 0) for x in embedding]
        inputs: dict[str, Any] = {"image_embeddings": maps if len(maps) > 1 else maps[0]}
        if boxes is not None:
            inputs["input_boxes"] = boxes.float().reshape(-1, 1, 4) * self.side
        if points is not None and signs is not None:
            inputs["input_points"] = points.float().flatten(0, 1).unsqueeze(1) * self.side
            inputs["input_labels"] = signs.flatten(0, 1).unsqueeze(1)
        elif boxes is None:  # a mask alone still needs a token: the point that is none
            inputs["input_points"] = torch.zeros(count * objects, 1, 1, 2, device=maps[0].device)
            inputs["input_labels"] = torch.full((count * objects, 1, 1), -1, device=maps[0].device)
        if masks is not None:
            inputs["input_masks"] = resize(masks.float().flatten(0, 1).unsqueeze(1), (self.mask_side, self.mask_side))
        with torch.autocast(maps[0].device.type, enabled=False):  # a coordinate in half precision is off by pixels
            output = self.model(**inputs, multimask_output=False)
        logits = resize(output.pred_masks.float().flatten(0, 1), size).view(count, objects, *size)
        return PromptedOutput(logits, output.iou_scores.float().reshape(count, objects).clamp(0, 1))

    def drop_encoder(self) -> Sam:
        """Without what only `embed` needs: for a run whose embeddings lie on disk. In place."""
        self.model.vision_encoder = nn.Identity()
        return self


def load_sam(name: str | Path) -> Sam:
    """A SAM from a local folder, or from the hub by its name ("facebook/sam-vit-base", "wanglab/medsam-vit-base").

    Raises ValueError in one line without `transformers`, for a folder that holds no SAM in safetensors, and for a name
    that neither the cache nor the hub has.
    """
    try:
        import transformers
    except ImportError:
        raise ValueError(f"method.second.model: {name} needs transformers; {NEEDED}") from None
    folder = sam_folder(name)
    kind = _json(folder / "config.json").get("model_type")
    if kind not in KINDS:
        raise ValueError(f"{folder}: model_type {kind!r} is no SAM that is read here; one of {', '.join(KINDS)}")
    try:
        model, found = getattr(transformers, KINDS[kind]).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{folder}: no SAM in safetensors could be read from it ({reason})") from None
    if found["missing_keys"]:  # transformers would leave them at random
        raise ValueError(f"{folder}: lacks {len(found['missing_keys'])} weights of a {kind}; save the whole model anew")
    seen = _json(folder / "preprocessor_config.json", needed=False)
    plain = seen.get("do_normalize") is False
    mean, std = ((0.0,) * 3, (1.0,) * 3) if plain else (seen.get("image_mean", MEAN), seen.get("image_std", STD))
    return Sam(model.float().eval(), mean=mean, std=std)


def sam_folder(name: str | Path) -> Path:
    """Where the files of a SAM lie: `name` itself, or the hub's local cache, filled once.

    Raises ValueError where there is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        weights = published_weights(str(name))
        import huggingface_hub

        for file in ("config.json", "preprocessor_config.json"):
            huggingface_hub.hf_hub_download(str(name), file)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"method.second.model: {name} is no folder, nor to be had from the hub ({error}); name a folder"
        ) from None
    return Path(weights).parent


def identity(name: str | Path) -> str:
    """A hash of the weights, whatever their folder is called."""
    folder = sam_folder(name)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder}: holds no *.safetensors; save the model anew with save_pretrained")
    return "-".join(sha256(file) for file in files)


def _json(file: Path, *, needed: bool = True) -> dict[str, Any]:
    if not needed and not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read ({error}); a SAM folder is what save_pretrained leaves") from None


def _size(vision: Any) -> int:
    size = getattr(vision, "image_size", None) or vision.backbone_config.image_size
    return size[0] if isinstance(size, (list, tuple)) else size


def _patch(config: Any) -> int:
    return getattr(config.prompt_encoder_config, "patch_size", None) or config.vision_config.patch_size
