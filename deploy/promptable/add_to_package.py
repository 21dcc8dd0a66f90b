"""A ship with a prompt input: the graphs of a promptable network beside its own, checked before they go along."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deploy.package.golden import golden
from deploy.package.package import Ship, card_hash, open_ship, seal
from deploy.promptable.export import Embed, export_prompt
from deploy.promptable.runner import Question, load_prompt
from edgemt.io.images import fit_frame
from edgemt.model_card import ModelCard

PARITY = 0.999  # share of pixels that each runtime must give as torch does
ASKED = (  # what parity is tried with: each kind of prompt alone and together
    Question(box=(0.2, 0.2, 0.8, 0.8)),
    Question(points=((0.5, 0.5, True),)),
    Question(box=(0.1, 0.2, 0.7, 0.9), points=((0.4, 0.5, True), (0.8, 0.2, False))),
)


def add_prompt(folder: str | Path, network: nn.Module, card: ModelCard) -> Ship:
    """Give the ship in `folder` the prompt input `network`, whose card is `card`. The folder is whole at any moment.

    A signature that the ship had is gone: its card is another one now. Raises ValueError, and leaves the ship as it
    was, for a network of other classes and for one that a runtime does not run as torch does.
    """
    folder = Path(folder)
    ship = open_ship(folder)
    working, old = (folder.with_name(f".{folder.name}.{word}") for word in ("prompt", "before-prompt"))
    shutil.rmtree(working, ignore_errors=True)
    try:
        shutil.copytree(folder, working)
        put_prompt(working, network, card, of=ship.card, frames=[pair.frame[0] for pair in golden(ship)])
        seal(working, replace(ship.card, parents=(*ship.card.parents, card_hash(card)), created=""))
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
        os.replace(working, folder)
    finally:
        shutil.rmtree(working, ignore_errors=True)
        if not folder.exists() and old.exists():
            os.replace(old, folder)
    shutil.rmtree(old, ignore_errors=True)
    return open_ship(folder)


def put_prompt(folder: Path, network: nn.Module, card: ModelCard, *, of: ModelCard, frames: list[np.ndarray]) -> None:
    """Write `prompt/` into a ship that is not sealed yet, `of` its card, and try it on `frames`, uint8 [h, w, K].

    Raises ValueError for classes that differ, slices with neighbours, and a runtime that answers otherwise than torch.
    """
    if card.classes != of.classes:
        raise ValueError(
            f"{folder}: the promptable network knows {card.classes}, the ship {of.classes}; take its own run"
        )
    if "slices" in (card.channel_order, of.channel_order) or card.patch is not None:
        raise ValueError(f"{folder}: learnt from slices with neighbours or from patches; prompts want single frames")
    embed, decode = export_prompt(network, folder, size=card.size, channels=card.channels, normalise=card.normalise)
    noise = np.random.default_rng(0).integers(0, 256, (*card.size, 3), dtype=np.uint8)
    shown = [noise, *(frame[..., 0] if frame.shape[2] == 1 else frame for frame in frames)]
    for runtime in ("onnxruntime", "openvino"):
        made = load_prompt(embed, decode, runtime=runtime)
        for picture in shown:
            frame = fit_frame(picture, size=card.size, channels=card.channels)
            expected = _asked_of_torch(network, frame, card)
            kept = made.embed(picture)
            got = np.stack([made.answer(kept, question).logits for question in ASKED])
            # a logit of next to nothing may fall on either side
            same = float((((got > 0) == (expected > 0)) | (np.abs(got - expected) < 1e-3)).mean())
            if same < PARITY:
                raise ValueError(
                    f"{embed.parent}: {runtime} and torch agree on {same:.2%} of the pixels of an answer, "
                    f"wanted {PARITY:.1%}; ship without a prompt input"
                )


@torch.inference_mode()
def _asked_of_torch(network: nn.Module, frame: np.ndarray, card: ModelCard) -> np.ndarray:
    """The network itself, asked ASKED: logits [3, H, W]."""
    front = Embed(network.eval(), normalise=card.normalise, channels=card.channels)
    kept = front(torch.from_numpy(frame.copy())[None])
    said = []
    for question in ASKED:
        box = None if question.box is None else torch.tensor(question.box).view(1, 1, 4)
        points = torch.tensor([p[:2] for p in question.points]).view(1, 1, -1, 2) if question.points else None
        signs = torch.tensor([int(p[2]) for p in question.points]).view(1, 1, -1) if question.points else None
        said.append(network.decode(kept, card.size, box, points, signs).logits[0, 0])  # type: ignore[operator]
    return torch.stack(said).numpy()
