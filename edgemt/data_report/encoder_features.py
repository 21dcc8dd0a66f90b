"""Features of images by a pretrained encoder, cached in a file so that a second call continues.

Shapes: n images, d features, H W the size that the encoder reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from edgemt.data_report.listing import Item
from edgemt.data_report.scan import read_flat_or_deep
from edgemt.io.atomic import atomic_write
from edgemt.io.bit_depth import Depth
from edgemt.io.images import read_image

ENCODER = "tf_efficientnet_lite0"
_SIZE = 224
_SLICES = 8  # of a volume, evenly spaced; their mean is the volume's
_EVERY = 128  # images after which the cache is written

Extract = Callable[[np.ndarray], np.ndarray]
"""uint8 [N, H, W, 3] -> float [N, d]."""


def encoder(name: str = ENCODER) -> tuple[Extract, str]:
    """(features of images by the pretrained encoder, identity of its weights). Raises ValueError without weights."""
    import timm
    import torch

    from edgemt.io import encoder_weights, load_encoder

    weights = encoder_weights.find(name)
    assert weights is not None
    network = timm.create_model(name, pretrained=False, features_only=True)
    load_encoder.load_into(network, weights, channels=3)
    network.eval()
    mean = torch.tensor(weights.mean or (0.5, 0.5, 0.5)).view(1, 3, 1, 1)
    std = torch.tensor(weights.std or (0.5, 0.5, 0.5)).view(1, 3, 1, 1)

    @torch.inference_mode()
    def extract(frames: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
        return np.asarray(network((x - mean) / std)[-1].mean((2, 3)).numpy())

    return extract, f"{name} {weights.identity}"


def pictures(item: Item, depth: Depth) -> np.ndarray:
    """uint8 [N, H, W, 3] of an image, or of evenly spaced slices of a volume."""
    if item.is_frame:
        views = [depth(read_image(item.image))]
    else:
        array = depth(read_flat_or_deep(item))
        rows = np.linspace(0, array.shape[-1] - 1, min(_SLICES, array.shape[-1])).astype(int)
        views = [array] if array.ndim == 2 else [np.ascontiguousarray(array[..., k]) for k in rows]
    images = [Image.fromarray(view).convert("RGB").resize((_SIZE, _SIZE), Image.Resampling.BILINEAR) for view in views]
    return np.stack([np.asarray(image) for image in images])


def features_of(
    items: Sequence[Item],
    depth: Depth,
    extract: Extract,
    *,
    identity: str,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """float32 [n, d], each of length 1. What `cache` holds of the same files and weights is not computed again."""
    known = _read(cache)
    keys = [_key(item, depth, identity) for item in items]
    new = 0
    for number, (item, key) in enumerate(zip(items, keys, strict=True), 1):
        if key not in known:
            found = extract(pictures(item, depth)).mean(0).astype(np.float32)
            known[key] = found / max(float(np.linalg.norm(found)), 1e-9)
            new += 1
            if new % _EVERY == 0:
                _write(cache, known)
        if progress is not None:
            progress(number, len(items))
    if new:
        _write(cache, known)
    return np.stack([known[key] for key in keys])


def _key(item: Item, depth: Depth, identity: str) -> str:
    stat = Path(item.image).stat()
    return json.dumps(
        [str(Path(item.image).resolve()), stat.st_size, stat.st_mtime_ns, str(depth), item.axes, identity]
    )


def _read(cache: Path) -> dict[str, np.ndarray]:
    """Key -> features; empty for a file that is missing or damaged."""
    try:
        with np.load(cache, allow_pickle=False) as stored:
            return dict(zip(stored["keys"].tolist(), stored["features"], strict=True))
    except (OSError, ValueError, KeyError, EOFError):
        return {}


def _write(cache: Path, known: dict[str, np.ndarray]) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(cache) as part, part.open("wb") as file:
        np.savez(file, keys=np.array(list(known)), features=np.stack(list(known.values())))
