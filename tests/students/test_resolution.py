"""Students that work at a part of the frame's sides: frame, logits and mask stay as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

import students
from deploy import export
from deploy.pruning.cost import count
from edgemt.model_card import Normalisation
from students import mask


def balanced(network: torch.nn.Module, image: torch.Tensor) -> torch.nn.Module:
    """With a bias that makes every class win somewhere: an untrained network gives one class everywhere."""
    with torch.no_grad():
        network.head.bias -= network(image).logits.mean((0, 2, 3))
    return network


@pytest.mark.parametrize(("classes", "resolution"), [(2, 0.75), (2, 0.5), (4, 0.75), (4, 0.5)])
def test_logits_have_the_size_of_the_frame_and_the_mask_is_their_argmax(classes: int, resolution: float) -> None:
    torch.manual_seed(0)
    network = students.build("mobilenetv4_tiny", channels=3, classes=classes, resolution=resolution).eval()
    frame = torch.randn(2, 3, 128, 192)
    network = balanced(network, frame)
    with torch.inference_mode():
        logits, found = network(frame).logits, network.mask(frame)
    assert logits.shape == (2, classes, 128, 192)
    assert len(found.unique()) > 1 and (found == logits.argmax(1)).float().mean() > 0.999


def test_the_encoder_works_on_fewer_pixels_with_the_same_weights() -> None:
    whole, part = (students.build("mobilenetv4_tiny", channels=3, classes=2, resolution=r).eval() for r in (1.0, 0.5))
    part.load_state_dict(whole.state_dict())
    example = torch.zeros(1, 3, 256, 256)
    assert count(part, example)[1] == pytest.approx(0.25 * count(whole, example)[1], rel=0.05)


@pytest.mark.parametrize("resolution", [0.75, pytest.param(0.5, marks=pytest.mark.slow)])
def test_the_exported_graph_gives_the_mask_of_the_network(resolution: float, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = students.build("test_efficientnet", channels=3, classes=2, resolution=resolution).eval()
    normalise = Normalisation((0.5,) * 3, (0.25,) * 3)
    frame = np.random.default_rng(0).integers(0, 255, (1, 128, 128, 3), dtype=np.uint8)
    network = balanced(network, (torch.from_numpy(frame).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
    export.export_onnx(network, tmp_path / "m.onnx", size=(128, 128), channels=3, normalise=normalise)
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: frame})
    with torch.inference_mode():
        wanted = export.DeployableModel(network, normalise=normalise, channels=3)(torch.from_numpy(frame)).numpy()
    assert found.shape == (1, 128, 128) and len(np.unique(found)) == 2 and (found == wanted).mean() > 0.999


@pytest.mark.parametrize("resolution", [0, 0.1, 1.5, "half"])
def test_a_resolution_out_of_range_is_refused(resolution: object) -> None:
    with pytest.raises(ValueError, match="resolution = .*0.25 to 1"):
        students.build("mobilenetv4_tiny", channels=3, classes=2, resolution=resolution)  # type: ignore[arg-type]


@pytest.mark.parametrize(("up", "down"), [(3, 4), (1, 2), (7, 8), (5, 8), (2, 3)])
def test_a_frame_made_smaller_by_a_convolution_has_the_values_of_bilinear_resampling(up: int, down: int) -> None:
    torch.manual_seed(2)
    frame = torch.randn(2, 3, 8 * down, 6 * down, dtype=torch.float64)
    wanted = torch.nn.functional.interpolate(frame, size=(8 * up, 6 * up), mode="bilinear", align_corners=False)
    assert (mask.downsample(frame, mask.shrink_kernel(up, down, 3)) - wanted).abs().max() < 1e-6


@pytest.mark.parametrize(("up", "down"), [(16, 3), (8, 1), (4, 1), (32, 5), (3, 2)])
@pytest.mark.parametrize("classes", [2, 4])
def test_masks_by_phases_of_a_broken_factor_are_those_of_bilinear_upsampling(up: int, down: int, classes: int) -> None:
    torch.manual_seed(3)
    logits, size = torch.randn(2, classes, 4 * down, 6 * down), (4 * up, 6 * up)
    full = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    found = mask.upsampled_argmax(logits, mask.mask_kernel(up, classes, down=down), size)
    assert found.shape == (2, *size) and (found == full.argmax(1)).float().mean() > 0.9999
