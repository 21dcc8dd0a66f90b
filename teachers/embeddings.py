"""Encoder outputs (embeddings) of a promptable network for every training image, on disk in half precision.

One file per image, named by the hash of its pixels, in a folder named by the hash of the model, so that all runs share
them. A training then runs the decoder alone, which is far cheaper than a vision transformer.

Shapes: N images, K channels, F features, O prompted objects, H W a frame.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgemt.io.atomic import NoSpaceError, atomic_write
from teachers.promptable import PromptedOutput

Progress = Callable[[int, int], None]
SPARE = 2**28  # bytes of the disk that stay free


@dataclass(frozen=True)
class EmbeddingStore:
    """A folder of embeddings of one model, at most `gigabytes` of them."""

    folder: Path
    model: str  # the model's identity
    gigabytes: float = 20.0

    def file(self, image: Tensor) -> Path:
        """Where the embedding of uint8 [K, H, W] lies, or will."""
        digest = hashlib.sha256(str(tuple(image.shape)).encode() + image.contiguous().cpu().numpy().tobytes())
        return self.folder / hashlib.sha256(self.model.encode()).hexdigest()[:16] / f"{digest.hexdigest()}.safetensors"

    @torch.no_grad()
    def fill(
        self,
        network: nn.Module,
        images: Sequence[Tensor],
        *,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
        log: Callable[[str], None] | None = None,
    ) -> list[Path]:
        """The files of all `images` (uint8 [K, H, W] each); those that stand are not made again.

        Raises ValueError where the disk or `gigabytes` is too small. Reports the expected time after the first image.
        """
        files = [self.file(image) for image in images]
        missing = {file: image for file, image in zip(files, images, strict=True) if not is_readable(file)}
        network = network.to(device).eval()
        for done, (file, image) in enumerate(missing.items(), start=1):
            began = time.monotonic()
            embedding = network.embed(image[None].to(device).float() / 255)  # type: ignore[operator]
            halves = {str(i): x[0].half().cpu().contiguous() for i, x in enumerate(embedding)}
            size = sum(x.nbytes for x in halves.values())
            if done == 1:
                self._check_space(size, standing=len(set(files)) - len(missing), missing=len(missing))
            with atomic_write(file) as part:
                save_file(halves, part)
            if done == 1 and log is not None:
                took = time.monotonic() - began
                cost = f"{len(missing) * size / 1e9:.2f} GB, about {len(missing) * took / 60:.0f} min"
                log(f"embeddings: {took:.1f} s an image on {torch.device(device).type}; {len(missing)} images, {cost}")
            if progress is not None:
                progress(done, len(missing))
        return files

    def _check_space(self, size: int, *, standing: int, missing: int) -> None:
        wanted, free = size * (standing + missing), shutil.disk_usage(_existing_parent(self.folder)).free - SPARE
        if wanted > self.gigabytes * 1e9:
            raise ValueError(
                f"{self.folder}: embeddings of {standing + missing} images take {wanted / 1e9:.1f} GB, more than the "
                f"{self.gigabytes:g} GB allowed; raise method.second.gigabytes, or use fewer images"
            )
        if size * missing > free:
            raise NoSpaceError(
                f"{self.folder}: embeddings need {size * missing / 1e9:.1f} GB, {max(free, 0) / 1e9:.1f} GB are free; "
                "free some and run the same command again"
            )


def is_readable(file: Path) -> bool:
    """Whether `read` accepts the file."""
    try:
        read(file)
    except ValueError:
        return False
    return True


def read(file: Path) -> list[Tensor]:
    """float16 [F, h, w] maps of one image. Raises ValueError, naming the file, for one that is damaged or gone."""
    try:
        with safe_open(file, framework="pt") as handle:
            return [handle.get_tensor(str(i)) for i in range(len(handle.keys()))]
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: no embedding can be read ({error}); remove it and run the command again") from None


class CachedEncoderSam(nn.Module):
    """A promptable network that decodes embeddings from disk, by case number; it does not run the encoder.

    `files[case][slice]`: a case that is no volume has one slice. Its frame is the whole image as it was embedded,
    not an augmented view: prompts and masks are in relative coordinates of that frame.
    """

    promptable = remembers = True

    def __init__(self, network: nn.Module, files: Sequence[Sequence[Path]]) -> None:
        super().__init__()
        self.network, self.files = network, files

    def forward(
        self, image: Tensor, *prompts: Tensor | None, case: Tensor | None = None, depth: Tensor | None = None
    ) -> PromptedOutput:
        """The masks for prompts on cases whose embeddings are on disk; the image's size counts, its values do not.

        `case` int64 [N] which case each row is of, `depth` [N] how far along its slices, 0 to 1.
        """
        assert case is not None and depth is not None, "the method must pass case and depth of each row"
        maps = []
        for row, share in zip(case.tolist(), depth.tolist(), strict=True):
            slices = self.files[row]
            embedding_of_case = read(slices[min(max(int(share * len(slices)), 0), len(slices) - 1)])
            maps.append([x.to(image.device).float() for x in embedding_of_case])
        embedding = [torch.stack(same) for same in zip(*maps, strict=True)]
        return self.network.decode(embedding, image.shape[2:], *prompts)  # type: ignore[operator]


def _existing_parent(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
