"""Where a method follows a release, the numbers that the release has."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgemt.contract import Output, Step
from edgemt.methods import METHODS
from edgemt.methods.small_stage import Stage, batch_of
from edgemt.roles import Players


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Constant(nn.Module):
    """The same logits for every voxel."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: Tensor) -> Output:
        view = self.logits.view(1, -1, *[1] * (x.ndim - 2))
        return Output(view.expand(len(x), -1, *x.shape[2:]))


# --- entropy, and noise on what a teacher sees ---


@pytest.mark.parametrize("classes", [2, 4])
def test_entropy_is_a_share_of_its_maximum(classes: int) -> None:
    method = METHODS["entropy"]
    batch = batch_of(classes=classes)
    step = Step(1, 1, chance())
    terms = method.losses(Players({"student": Constant([0.0] * classes)}), batch, step)  # type: ignore[attr-defined]
    assert float(terms["entropy"]) == pytest.approx(0.1, abs=1e-5), "weight 0.1 of an entropy of 1, ramped up"


@pytest.mark.parametrize("name", ["mean_teacher", "ua_mt"])
@pytest.mark.parametrize(("dims", "std", "clip"), [(2, 0.1 / 0.18, 0.2 / 0.18), (3, 0.1, 0.2)])
def test_the_teachers_noise_has_the_strength_of_the_release(name: str, dims: int, std: float, clip: float) -> None:
    """SSL4MIS adds N(0, 0.1) to slices in [0, 1], whose deviation is about 0.18, and to volumes of deviation 1."""
    noise = METHODS[name].target.noise  # type: ignore[attr-defined]
    image = torch.randn(4, 1, *((64, 64) if dims == 2 else (16, 16, 16)), generator=chance())
    added = noise(image, chance(1)) - image
    clipped = torch.randn(100_000, generator=chance(2)).clamp(-2, 2).std()
    assert float(added.std()) == pytest.approx(std * float(clipped), rel=0.05)
    assert float(added.abs().max()) == pytest.approx(clip, rel=0.05)


# --- probed and pushed images leave batch-norm statistics alone ---


@pytest.mark.parametrize(("name", "forwards"), [("vat", 1), ("ss_net", 1), ("cmmt", 2)])
def test_adversarial_images_move_no_running_statistics(name: str, forwards: int) -> None:
    """`forwards` are those of images as they are, or mixed; the probe and the push are two more."""
    stage = Stage(METHODS[name], total=1, index=1)
    stage.index = 0
    batch = batch_of()
    student = stage.nets["student"]
    norm = next(module for module in student.modules() if isinstance(module, nn.BatchNorm2d))
    before = norm.running_mean.clone()  # type: ignore[union-attr]
    seen: list[Tensor] = []
    norm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach().mean((0, 2, 3))))
    next(iter(stage.turns(batch)))
    assert len(seen) == forwards + 2
    assert int(norm.num_batches_tracked) == forwards  # type: ignore[arg-type]
    want = before
    for mean in (seen[0], *seen[3:]):  # the first, then the probe and the push, then mixtures
        want = 0.9 * want + 0.1 * mean
    torch.testing.assert_close(norm.running_mean, want)
    assert norm.track_running_stats
