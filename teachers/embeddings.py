"""Embeddings of every training image by the encoder of a promptable network, stored in half precision.

One file for each image, named by the hash of its pixels, in a folder named by the hash of the model: made once, reused
by every run, resumed after an interruption. A run then needs the decoder only, which is far cheaper than a vision
transformer.

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
from teachers.promptable import Answer

Progress = Callable[[int, int], None]
SPARE = 2**28  # bytes of the disk that stay free


@dataclass(frozen=True)
class Store:
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
        say: Callable[[str], None] | None = None,
    ) -> list[Path]:
        """The files of all `images` (uint8 [K, H, W] each); those that stand are not made again.

        Raises ValueError before it fills a disk, or more of it than `gigabytes`. Logs the time for one image after
        the first, as a SAM on a CPU needs seconds.
        """
        files = [self.file(image) for image in images]
        missing = {file: image for file, image in zip(files, images, strict=True) if not readable(file)}
        network = network.to(device).eval()
        for done, (file, image) in enumerate(missing.items(), start=1):
            began = time.monotonic()
            embedding = network.embed(image[None].to(device).float() / 255)  # type: ignore[operator]
            halves = {str(i): x[0].half().cpu().contiguous() for i, x in enumerate(embedding)}
            size = sum(x.nbytes for x in halves.values())
            if done == 1:
                self._room(size, standing=len(set(files)) - len(missing), missing=len(missing))
            with atomic_write(file) as part:
                save_file(halves, part)
            if done == 1 and say is not None:
                took = time.monotonic() - began
                cost = f"{len(missing) * size / 1e9:.2f} GB, about {len(missing) * took / 60:.0f} min"
                say(f"embeddings: {took:.1f} s an image on {torch.device(device).type}; {len(missing)} images, {cost}")
            if progress is not None:
                progress(done, len(missing))
        return files

    def _room(self, size: int, *, standing: int, missing: int) -> None:
        wanted, free = size * (standing + missing), shutil.disk_usage(_existing(self.folder)).free - SPARE
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


def readable(file: Path) -> bool:
    try:
        read(file)
    except ValueError:
        return False
    return True


def read(file: Path) -> list[Tensor]:
    """float16 [F, h, w] maps of one image. Raises ValueError, naming the file, for one that is damaged or gone."""
    try:
        with safe_open(file, framework="pt") as file_tensors:
            return [file_tensors.get_tensor(str(i)) for i in range(len(file_tensors.keys()))]
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: no embedding can be read ({error}); remove it and run the command again") from None


class Remembered(nn.Module):
    """A promptable network that decodes embeddings from disk: it takes the index of an image and never encodes one.

    `files[case][slice]`: a case that is no volume has one slice. Its frame is the whole image as it was embedded,
    not an augmented view: prompts and masks are in fractions of that frame.
    """

    promptable = remembers = True

    def __init__(self, network: nn.Module, files: Sequence[Sequence[Path]]) -> None:
        super().__init__()
        self.network, self.files = network, files

    def forward(
        self, image: Tensor, *prompts: Tensor | None, case: Tensor | None = None, depth: Tensor | None = None
    ) -> Answer:
        """`case` int64 [N]: the case of each row; `depth` [N]: the position along its slices, 0 to 1. Of `image` only
        the size is used."""
        assert case is not None and depth is not None, "the method must pass the case of each row"
        maps = []
        for row, share in zip(case.tolist(), depth.tolist(), strict=True):
            slices = self.files[row]
            maps_of_row = read(slices[min(max(int(share * len(slices)), 0), len(slices) - 1)])
            maps.append([x.to(image.device).float() for x in maps_of_row])
        embedding = [torch.stack(same) for same in zip(*maps, strict=True)]
        return self.network.decode(embedding, image.shape[2:], *prompts)  # type: ignore[operator]


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
