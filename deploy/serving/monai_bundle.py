"""A package as a MONAI bundle: configs/metadata.json, by the schema of 2024-07-25, and the ONNX graphs.

A bundle that MONAI itself runs contains PyTorch weights; this one only describes the deployed model, for tools that
read the metadata.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

from deploy.package.files import CARD, ONNX
from deploy.package.graph_outputs import output_names
from deploy.package.package import Package
from deploy.runtimes.runner import UNCERTAINTY
from edgemt.io.atomic import write_bytes, write_text
from edgemt.io.channels import card_names, card_slices, planes_of
from edgemt.io.class_regions import no_overlapping
from edgemt.model_card import ModelCard

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
_OLDEST = {
    "monai": "1.4.0",
    "torch": "2.7.0",
}  # oldest supported versions, used where the package is not installed here
_NOT_SAID = "not stated"


def write_bundle(package: Package, folder: Path, *, name: str) -> Path:
    """Write configs/metadata.json, docs/README.md and models/*.onnx; returns `folder`."""
    no_overlapping(package.card, where=package.folder, what="a MONAI bundle states one class a pixel")
    graphs = [file for file in package.card.files if file.endswith(".onnx") and "/" not in file]
    for file in graphs:
        write_bytes(folder / "models" / Path(file).name, package.read(file))
    described = bundle_metadata(package)
    write_text(folder / "docs" / "README.md", f"# {name}\n\n{described['description']}\n")
    write_text(folder / "configs" / CARD, package.card.to_json())
    write_text(folder / "configs" / "metadata.json", json.dumps(described, indent=4) + "\n")
    return folder


def channel_labels(card: ModelCard) -> list[str]:
    """What each plane of the input is."""
    if names := card_names(card):
        if (slices := card_slices(card)) > 1:
            return [f"{name} slice {k - slices // 2:+d}" for name in names for k in range(slices)]
        planes = zip(names, planes_of(names), strict=True)
        return [f"{name} {k + 1}" if count > 1 else name for name, count in planes for k in range(count)]
    known = {"RGB": ["red", "green", "blue"], "grey": ["intensity"]}
    return known.get(card.channel_order, [f"slice {k - card.channels // 2:+d}" for k in range(card.channels)])


def bundle_metadata(package: Package) -> dict[str, Any]:
    """The metadata that the schema requires, from the card; authors and copyright are not on the card."""
    card = package.card
    classes = {str(k): name for k, name in enumerate(card.classes)}
    shape = {"type": "image", "spatial_shape": list(card.size), "dtype": "uint8", "is_patch_data": False}
    colours = channel_labels(card)
    uncertainty = {
        **shape,
        "format": "magnitude",
        "num_channels": 1,
        "value_range": [0, 255],  # 255 times the root of the probability that the class is wrong
        "channel_def": {"0": "uncertainty"},
    }
    second = UNCERTAINTY in output_names(package.read(ONNX["fp32"]), source=ONNX["fp32"])
    dice = {file: metrics.dice for file, metrics in card.measured.items() if metrics.dice is not None}
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported {card.created}"},
        "monai_version": _version("monai"),
        "pytorch_version": _version("torch"),
        "numpy_version": metadata.version("numpy"),
        "required_packages_version": {"onnxruntime": "1.20.0"},
        "task": f"segmentation of {', '.join(card.classes[1:])}",
        "description": (
            f"{card.name or 'A student'}: {card.params} parameters, {card.macs} multiply-accumulates a frame. Takes "
            f"one raw uint8 frame [1, {card.size[0]}, {card.size[1]}, {card.channels}], channels last, gives one uint8 "
            "mask [1, H, W] of class indices; normalisation and argmax are inside the graph."
        ),
        "authors": _NOT_SAID,
        "copyright": _NOT_SAID,
        "eval_metrics": {f"mean_dice of {file}": value for file, value in dice.items()},
        "intended_use": "research; not cleared for clinical use",
        "network_data_format": {
            "inputs": {
                "frame": {
                    **shape,
                    "format": "magnitude",
                    "modality": "n/a",
                    "num_channels": card.channels,
                    "value_range": [0, 255],
                    "channel_def": {str(k): colour for k, colour in enumerate(colours[: card.channels])},
                }
            },
            "outputs": {
                "mask": {
                    **shape,
                    "format": "segmentation",
                    "num_channels": 1,
                    "value_range": [0, len(card.classes) - 1],
                    "channel_def": classes,
                },
                **({UNCERTAINTY: uncertainty} if second else {}),
            },
        },
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package).split("+")[0]
    except metadata.PackageNotFoundError:
        return _OLDEST[package]
