"""Programs for ExecuTorch: written, run, bound to one version. Without ExecuTorch the refusals alone are tested."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from deploy.export import DeployableModel  # noqa: E402
from deploy.export_executorch import Masks, export_executorch  # noqa: E402
from deploy.package.package import Package  # noqa: E402
from deploy.runtimes import executorch_backend as backend  # noqa: E402
from deploy.runtimes.load import runner  # noqa: E402
from deploy.runtimes.registry import RUNTIMES, available  # noqa: E402
from edgemt.contract import Output  # noqa: E402
from edgemt.model_card import Normalisation  # noqa: E402

SIZE = (32, 48)
NORMALISE = {
    "fixed": Normalisation(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
    "per image": Normalisation(per_image=True),
}


class Blobs(nn.Module):
    """Three classes, all of which occur, and a way to the mask that programs must not take."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.head = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> Output:
        y = self.head(torch.relu(self.conv(x)))
        return Output(nn.functional.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False))

    def mask(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("is for the other runtimes")


def frames(count: int = 4) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (count, 8, 12, 3), dtype=np.uint8)
    return small.repeat(4, axis=1).repeat(4, axis=2)


def exported(path: Path, kind: str = "fixed", *, quantized: bool = True, float_layers: int = 0) -> Masks:
    calibration = (frame[None] for frame in frames(16)) if quantized else None
    options = {"normalise": NORMALISE[kind], "calibration": calibration, "float_layers": float_layers}
    return export_executorch(Blobs().eval(), path, size=SIZE, channels=3, **options)  # type: ignore[arg-type]


def test_a_program_runs_on_its_own_version_alone() -> None:
    backend.check_version("1.5.1", "1.5.1")
    with pytest.raises(ValueError, match=r"executorch 1\.5\.1.*here is 1\.6\.0: pip install executorch==1\.5\.1"):
        backend.check_version("1.5.1", "1.6.0")
    with pytest.raises(ValueError, match="no program of EdgeMT"):
        backend.check_version("", "1.5.1")


def test_without_executorch_one_line_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(ValueError, match=r"not installed here .*pip install 'edgemt\[executorch\]'"):
        exported(tmp_path / "a.pte")
    (tmp_path / "b.pte").write_bytes(b"program")
    with pytest.raises(ValueError, match=r"not installed here .*pip install 'edgemt\[executorch\]'"):
        runner(tmp_path / "b.pte", runtime="executorch")
    assert not (tmp_path / "a.pte").exists() and not available()["executorch"][0]


def test_a_program_belongs_to_executorch_and_no_other_runtime(tmp_path: Path, ship: Package) -> None:
    (tmp_path / "b.pte").write_bytes(b"program")
    with pytest.raises(ValueError, match=r"is an ExecuTorch program, onnxruntime reads .*choose runtime executorch"):
        runner(tmp_path / "b.pte", runtime="onnxruntime")
    assert RUNTIMES["executorch"].files["int8"][0] not in ship.card.files  # made on demand alone


def test_another_device_than_the_processor_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deploy.package.model_bytes import ModelBytes
    from deploy.runtimes.runner import RuntimeOptions

    with pytest.raises(ValueError, match="executorch takes CPU"):
        backend.load(ModelBytes(tmp_path / "a.pte", b""), RuntimeOptions(threads=1, device="GPU"))


@pytest.fixture(scope="module")
def ship(tmp_path_factory: pytest.TempPathFactory) -> Package:
    from tiny_package import make_ship

    return make_ship(tmp_path_factory.mktemp("ship") / "ship")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Masks]:
    pytest.importorskip("executorch")
    path = tmp_path_factory.mktemp("program") / "model.int8.pte"
    return path, exported(path)


def test_an_int8_program_gives_the_masks_of_its_rounded_network(program: tuple[Path, Masks]) -> None:
    path, rounded = program
    made, given = runner(path, runtime="executorch", threads=1), frames()
    masks = made(given)
    assert made.precision == "int8" and made.shape == (1, *SIZE, 3) and masks.dtype == np.uint8
    assert (masks == rounded(given)).mean() > 0.995 and len(np.unique(masks)) > 1
    assert np.array_equal(made(given[:1]), masks[:1])  # the same again
    exact = DeployableModel(Blobs(), normalise=NORMALISE["fixed"], channels=3).eval()
    exact.network.mask = lambda x: exact.network(x).logits.argmax(1).to(torch.uint8)  # type: ignore[assignment]
    with torch.no_grad():
        assert (masks == exact(torch.from_numpy(given)).numpy()).mean() > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("kind", NORMALISE)
def test_a_float_program_gives_the_masks_of_torch(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    exact, given = exported(tmp_path / "a.pte", kind, quantized=False), frames()
    made = runner(tmp_path / "a.pte", runtime="executorch", threads=1)
    assert made.precision == "f32" and (made(given) == exact(given)).mean() > 0.999


def test_another_version_and_a_damaged_program_are_one_line(
    program: tuple[Path, Masks], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path, _ = program
    damaged = tmp_path / "damaged.pte"
    damaged.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"damaged\.pte") as error:
        runner(damaged, runtime="executorch")
    assert "\n" not in str(error.value)
    monkeypatch.setattr(backend, "executorch_version", lambda: "99.0")
    with pytest.raises(ValueError, match=r"model\.int8\.pte.*here is 99\.0"):
        runner(path, runtime="executorch")
    assert capfd.readouterr().err == ""
