"""A window that slides over a volume says what the network says."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgemt.contract import Output  # noqa: E402
from edgemt.data.volume_dataset import mean_std  # noqa: E402
from edgemt.inference.sliding_window import count_windows, probabilities  # noqa: E402
from edgemt.model_card import Normalisation  # noqa: E402

PLAIN = Normalisation((0.5,), (0.25,))


class Pointwise(nn.Module):
    """Class logits of each voxel by itself, and a count of the windows it was shown."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, classes, 1)
        self.windows = 0
        nn.init.normal_(self.conv.weight, std=2.0, generator=torch.Generator().manual_seed(0))

    def forward(self, x: torch.Tensor) -> Output:
        self.windows += len(x)
        return Output(self.conv(x))


def _image(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, (1, *shape), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def _slide(network: nn.Module, image: torch.Tensor, **changes: object) -> torch.Tensor:
    options = dict(patch=(8, 8, 4), stride=(4, 4, 2), normalise=PLAIN, device="cpu", classes=3)
    return probabilities(network, image, **{**options, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("blend", ["constant", "gaussian"])
@pytest.mark.parametrize("shape", [(20, 17, 9), (8, 8, 4), (5, 30, 3), (3, 3, 2)])
def test_a_pointwise_network_gives_the_same_in_windows_as_at_once(shape: tuple[int, int, int], blend: str) -> None:
    network, image = Pointwise(), _image(*shape)
    with torch.no_grad():
        dense = network((image[None].float() / 255 - 0.5) / 0.25).logits.softmax(1)[0]
    found = _slide(network, image, blend=blend)
    assert found.shape == (3, *shape) and torch.allclose(found, dense, atol=1e-5)


@pytest.mark.parametrize("blend", ["constant", "gaussian"])
def test_a_constant_answer_stays_constant_and_nothing_leaks_from_one_volume_to_the_next(blend: str) -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.log(torch.tensor([0.2, 0.7, 0.1])).view(1, 3, 1, 1, 1).expand(len(x), 3, *x.shape[2:])

    for shape in ((21, 13, 7), (9, 30, 5)):
        found = _slide(Constant(), _image(*shape), blend=blend)
        assert torch.allclose(found.mean(dim=(1, 2, 3)), torch.tensor([0.2, 0.7, 0.1]), atol=1e-5)
        assert found.flatten(1).std(dim=1).max() < 1e-6


def test_probabilities_are_averaged_not_logits() -> None:
    class Position(nn.Module):
        """Sure of itself in the first half of a window, of the contrary in the second."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sign = torch.ones(len(x), 1, *x.shape[2:])
            sign[:, :, x.shape[2] // 2 :] = -3
            return torch.cat([sign, -sign], dim=1)

    found = _slide(Position(), _image(12, 8, 4), stride=(4, 8, 4), classes=2)
    first, second = torch.tensor([1.0, -1.0]).softmax(0)[0], torch.tensor([-3.0, 3.0]).softmax(0)[0]
    assert torch.allclose(found[0, 4:8], ((first + second) / 2).expand(4, 8, 4), atol=1e-6)


@pytest.mark.parametrize("patch", [(8, 8, 4), (7, 6, 5), (10, 10, 10)])
@pytest.mark.parametrize("stride", [(1, 2, 3), (3, 3, 2), (7, 6, 4)])
def test_the_network_runs_as_often_as_is_counted(patch: tuple[int, ...], stride: tuple[int, ...]) -> None:
    for shape in ((13, 9, 6), (6, 6, 4), (10, 10, 5)):
        network = Pointwise()
        _slide(network, _image(*shape), patch=patch, stride=stride)
        assert network.windows == count_windows(shape, patch=patch, stride=stride)


def test_half_overlap_is_several_times_cheaper_than_the_stride_of_the_papers() -> None:
    shapes = [(x, y, 88) for x in (168, 200, 232) for y in (132, 143, 154)]  # as large as left-atrium crops are
    dense, half = (
        np.mean([count_windows(shape, patch=(112, 112, 80), stride=stride) for shape in shapes])
        for stride in ((18, 18, 4), (56, 56, 40))
    )
    assert count_windows((200, 143, 88), patch=(112, 112, 80), stride=(18, 18, 4)) == 6 * 3 * 3
    assert 4 < dense / half < 6


def test_a_stride_is_never_rounded_down() -> None:
    """MONAI computes it from an overlap in floating point."""
    monai = pytest.importorskip("monai.inferers.utils")
    from edgemt.inference.sliding_window import _overlap

    for side in range(2, 130):
        for step in range(1, side + 1):
            interval = monai._get_scan_interval((side * 3,), (side,), 1, _overlap((side,), (step,)))
            assert interval == (step,)


def test_padding_is_what_training_pads_with() -> None:
    class Seen(Pointwise):
        def forward(self, x: torch.Tensor) -> Output:
            self.least = x.min().item()
            return super().forward(x)

    network = Seen()
    _slide(network, torch.full((1, 4, 4, 4), 200, dtype=torch.uint8))
    assert network.least == pytest.approx((0 - 0.5) / 0.25)


def test_a_volume_is_normalised_as_a_whole_whatever_window_is_seen() -> None:
    image = _image(20, 17, 9)
    image[:, :8] //= 4
    own = Normalisation(per_image=True)
    ((mean, std),) = mean_std(image, own)
    network = Pointwise()
    with torch.no_grad():
        dense = network((image[None].float() / 255 - mean) / std).logits.softmax(1)[0]
    assert torch.allclose(_slide(network, image, normalise=own), dense, atol=1e-5)


def test_the_network_is_evaluated_and_then_left_as_it_was() -> None:
    class Mode(Pointwise):
        def forward(self, x: torch.Tensor) -> Output:
            assert not self.training
            return super().forward(x)

    network = Mode().train()
    _slide(network, _image(8, 8, 4))
    assert network.training


def test_a_gap_between_windows_or_another_number_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves gaps"):
        _slide(Pointwise(), _image(20, 20, 8), stride=(9, 4, 4))
    with pytest.raises(ValueError, match="answers with 3 channels, 2 are expected"):
        _slide(Pointwise(), _image(8, 8, 4), classes=2)


class TwoChannels(nn.Module):
    """Class logits of each voxel from both channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 3, 1)
        nn.init.normal_(self.conv.weight, std=2.0, generator=torch.Generator().manual_seed(0))

    def forward(self, x: torch.Tensor) -> Output:
        self.least = x.amin((0, 2, 3, 4)).tolist()
        return Output(self.conv(x))


@pytest.mark.parametrize("shape", [(20, 17, 9), (5, 30, 3), (3, 3, 2)])
def test_each_channel_is_normalised_and_padded_by_itself_and_a_missing_one_is_zero(shape: tuple[int, ...]) -> None:
    network, image = TwoChannels(), torch.cat([_image(*shape), _image(*shape).flip(1) // 2])
    normalise = Normalisation((0.5, 0.2), (0.25, 0.1))
    mean, std = (torch.tensor(values).view(2, 1, 1, 1) for values in (normalise.mean, normalise.std))
    whole = (image.float() / 255 - mean) / std
    for missing in (None, torch.tensor([False, True])):
        seen = whole if missing is None else whole * (~missing).view(2, 1, 1, 1)
        with torch.no_grad():
            dense = network(seen[None]).logits.softmax(1)[0]
        found = _slide(network, image, normalise=normalise, missing=missing)
        assert found.shape == (3, *shape) and torch.allclose(found, dense, atol=1e-5)
    small = torch.full((2, 4, 4, 4), 200, dtype=torch.uint8)
    _slide(network, small, normalise=normalise)
    assert network.least == pytest.approx([-2.0, -2.0])
    swapped = _slide(network, image.flip(0), normalise=Normalisation((0.2, 0.5), (0.1, 0.25)))
    assert not torch.allclose(swapped, _slide(network, image, normalise=normalise), atol=1e-2)
