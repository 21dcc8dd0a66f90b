"""Accuracy and uncertainty of the float network in a stage of a run, `edgemt eval RUN/slim`: in torch, no graph.

Shapes: N frames, H W their size, K channels, C classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from deploy.package.package import open_package
from edgemt.artefacts.stage_folder import WEIGHTS
from edgemt.inference.by_group import read_groups
from edgemt.inference.evaluate import frame_masks
from edgemt.inference.evaluate_package import card_uncertainty, find_cases, grouped, measured, read_cases, without
from edgemt.inference.evaluate_uncertainty import entropy_record, uncertainty_record
from edgemt.io.channels import card_names


def evaluate_network(
    folder: Path,
    *,
    data_root: Path | None = None,
    val: str = "",
    through_plane: int = 1,
    without_channel: str = "",
    groups: Path | None = None,
) -> dict[str, Any]:
    """The record of `evaluate_ship` for a 2-D network, with `softmax_entropy` as an uncertainty that costs no training.

    Raises ValueError in one line for what is wrong with folder or data, and for a 3-D network.
    """
    import torch

    from deploy.export import DeployableModel, has_uncertainty
    from edgemt.artefacts.network_folder import load_network
    from edgemt.learning.pseudo_labels import probabilities_of

    columns = read_groups(groups) if groups is not None else None
    stage = open_package(folder)
    card = stage.card
    if card.patch is not None:
        raise ValueError(f"{folder}: holds a 3-D network, which is measured in its run (card.json); give a 2-D stage")
    network = load_network(Path(folder))
    data, cases = find_cases(stage, data_root, val)
    eval_set = read_cases(card, data, without(cases, card_names(card), without_channel))
    second = has_uncertainty(network)
    options: dict[str, Any] = {"normalise": card.normalise, "channels": card.channels}
    whole = DeployableModel(network, **options, uncertainty="head" if second else None).eval()

    @torch.inference_mode()
    def masks(frames: np.ndarray) -> np.ndarray:
        return (whole(torch.from_numpy(frames))[0] if second else whole(torch.from_numpy(frames))).numpy()

    @torch.inference_mode()
    def both(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mask, uncertainty = whole(torch.from_numpy(frames))
        return mask.numpy(), uncertainty.numpy()

    @torch.inference_mode()
    def softmax(frames: np.ndarray) -> np.ndarray:
        return probabilities_of(network, whole.normalised(torch.from_numpy(frames))).numpy()

    record = measured(stage, frame_masks(masks, eval_set), eval_set, WEIGHTS, through_plane=through_plane)
    truths = eval_set.frame_truths()
    if second:
        found = uncertainty_record(both, eval_set.frames, truths)
        record |= {"uncertainty": found, "card_uncertainty": card_uncertainty(stage, WEIGHTS)}
    record |= grouped(record, cases, columns)
    record["softmax_entropy"] = entropy_record(softmax, eval_set.frames, truths, overlapping=card.overlapping)
    return {
        **record,
        "runtime": "torch",
        "file": WEIGHTS,
        "precision": "f32",
        "threads": torch.get_num_threads(),
        "root": str(data.root) if data.root else None,
    }
