"""Add a prompt input to a package: the two graphs of a promptable network, compared with torch before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deploy.package.golden import golden_pairs
from deploy.package.package import Package, card_hash, changed_package, finalize, open_package
from deploy.promptable.export import Embed, export_prompt
from deploy.promptable.runner import Prompt, load_prompt
from deploy.runtimes.registry import CHECKED
from edgemt.io.channels import no_channels
from edgemt.io.class_regions import no_overlapping
from edgemt.io.images import fit_frame
from edgemt.model_card import ModelCard

PARITY = 0.999  # fraction of pixels on which each runtime must agree with torch
TEST_PROMPTS = (  # prompts of the parity check: each kind of prompt alone, and together
    Prompt(box=(0.2, 0.2, 0.8, 0.8)),
    Prompt(points=((0.5, 0.5, True),)),
    Prompt(box=(0.1, 0.2, 0.7, 0.9), points=((0.4, 0.5, True), (0.8, 0.2, False))),
)


def add_prompt(folder: str | Path, network: nn.Module, card: ModelCard) -> Package:
    """Add the promptable `network`, whose card is `card`, to the package in `folder`, which is replaced atomically.

    A signature is removed, since the card changes. Raises ValueError, with the package unchanged, for a network of
    other classes and for one that a runtime does not compute like torch.
    """
    with changed_package(folder, what="prompt") as (package, working):
        put_prompt(working, network, card, of=package.card, frames=[pair.frame[0] for pair in golden_pairs(package)])
        finalize(working, replace(package.card, parents=(*package.card.parents, card_hash(card)), created=""))
    return open_package(folder)


def put_prompt(folder: Path, network: nn.Module, card: ModelCard, *, of: ModelCard, frames: list[np.ndarray]) -> None:
    """Write `prompt/` into a package before `finalize`; `of` is its card. It is tested on `frames`, uint8 [h, w, K].

    Raises ValueError for other classes, for slices with neighbours, and where a runtime differs from torch.
    """
    if card.classes != of.classes:
        raise ValueError(
            f"{folder}: the promptable network has {card.classes}, the ship {of.classes}; take its own run"
        )
    if "slices" in (card.channel_order, of.channel_order) or card.patch is not None:
        raise ValueError(f"{folder}: trained on slices with neighbours or on patches; prompts want single frames")
    no_overlapping(of, where=folder, what="prompts correct one class a pixel")
    no_channels(of, where=folder, what="prompts want one picture")
    embed, decode = export_prompt(network, folder, size=card.size, channels=card.channels, normalise=card.normalise)
    noise = np.random.default_rng(0).integers(0, 256, (*card.size, 3), dtype=np.uint8)
    shown = [noise, *(frame[..., 0] if frame.shape[2] == 1 else frame for frame in frames)]
    for runtime in CHECKED:
        made = load_prompt(embed, decode, runtime=runtime)
        for picture in shown:
            frame = fit_frame(picture, size=card.size, channels=card.channels)
            expected = _asked_of_torch(network, frame, card)
            embedding = made.embed(picture)
            got = np.stack([made.segment(embedding, prompt).logits for prompt in TEST_PROMPTS])
            # a logit near 0 may have either sign
            same = float((((got > 0) == (expected > 0)) | (np.abs(got - expected) < 1e-3)).mean())
            if same < PARITY:
                raise ValueError(
                    f"{embed.parent}: {runtime} and torch agree on {same:.2%} of the pixels of a mask, "
                    f"wanted {PARITY:.1%}; ship without a prompt input"
                )


@torch.inference_mode()
def _asked_of_torch(network: nn.Module, frame: np.ndarray, card: ModelCard) -> np.ndarray:
    """Logits [3, H, W] of the network itself for `TEST_PROMPTS`."""
    front = Embed(network.eval(), normalise=card.normalise, channels=card.channels)
    embedding = front(torch.from_numpy(frame.copy())[None])
    logits = []
    for prompt in TEST_PROMPTS:
        box = None if prompt.box is None else torch.tensor(prompt.box).view(1, 1, 4)
        points = torch.tensor([p[:2] for p in prompt.points]).view(1, 1, -1, 2) if prompt.points else None
        signs = torch.tensor([int(p[2]) for p in prompt.points]).view(1, 1, -1) if prompt.points else None
        logits.append(network.decode(embedding, card.size, box, points, signs).logits[0, 0])  # type: ignore[operator]
    return torch.stack(logits).numpy()
